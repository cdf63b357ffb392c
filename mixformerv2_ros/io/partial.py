"""Outputs that grow while a command runs: under a partial name until they are complete.

An earlier output of the same name stays as it is until then, and nobody takes what a command left
when it ended early for the whole: `tracks.partial.csv`, `recording.partial/`.
"""

from __future__ import annotations

import os
from pathlib import Path

from mixformerv2_ros.errors import SourceError
from mixformerv2_ros.files import replace_file, replace_folder
from mixformerv2_ros.io.paths import remove_output

PARTIAL = ".partial"


def partial_path(path: Path, is_folder: bool = False) -> Path:
    """The name of an output until it is complete; the suffix of a file stays the last one."""
    if is_folder:
        return path.with_name(path.name + PARTIAL)
    return path.with_name(f"{path.stem}{PARTIAL}{path.suffix}")


class PartialOutput:
    """A file or a recording's folder on its way to its name.

    Attributes:
        path: Where the output is to be, and where it is once it is complete.
        target: Where it is to be written.
    """

    def __init__(self, path: Path, is_folder: bool = False) -> None:
        """Remove what an earlier run left under the partial name; `check_output` allowed it."""
        self.path = path
        self._is_folder = is_folder
        # A link is followed; a pipe, a device and `/dev/stdout`, which may be a file that a shell
        # has opened, are written to directly.
        self._final = Path(os.path.realpath(path))
        is_stream = Path(os.path.abspath(path)).parts[1:2] in (("dev",), ("proc",))
        is_ordinary = path.is_file() or path.is_dir() or not path.exists()
        self._is_special = is_stream or not is_ordinary
        self._partial = path if self._is_special else partial_path(self._final, is_folder)
        if not self._is_special:
            remove_output(self._partial)
        # The files of a recording are named after its folder.
        self.target = self._partial / self._final.name if is_folder else self._partial

    def publish(self) -> Path:
        """Give the complete output, closed, its name, which is returned; what was there goes.

        Raises:
            SourceError: that is not possible.
        """
        if self._is_special:
            return self.path
        try:
            if self._is_folder:
                replace_folder(self.target, self._final)
                self._partial.rmdir()
            else:
                replace_file(self.target, self._final)
        except OSError as error:
            reason = error.strerror or error
            raise SourceError(f"output {self.path} cannot be written: {reason}") from error
        return self.path

    def keep_partial(self) -> Path:
        """Leave the output, closed, under its partial name; returns it.

        Raises:
            SourceError: a folder cannot be renamed.
        """
        if self._is_folder and self.target.is_dir():
            aside = self._partial.with_name(f".{self._partial.name}")
            try:
                self.target.rename(aside)
                self._partial.rmdir()
                aside.rename(self._partial)
            except OSError as error:
                raise SourceError(f"{self._partial} cannot be written: {error.strerror}") from error
        return self._partial

    def discard(self) -> None:
        """Remove the output, in which there is nothing."""
        if not self._is_special:
            remove_output(self._partial)
