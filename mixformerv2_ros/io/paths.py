"""Paths of outputs: what may be overwritten."""

from __future__ import annotations

import shutil
from pathlib import Path

from mixformerv2_ros.errors import SourceError


def check_output(path: Path, force: bool, source: Path | None = None) -> None:
    """Refuse an output that exists, unless `force`, and one that would destroy its source.

    Raises:
        SourceError: the output must not or cannot be written.
    """
    if source is not None and source.exists():
        inside = source.resolve()
        if path.resolve() in (inside, *inside.parents):
            raise SourceError(f"output must not replace its source, got {path}")
    if path.exists() and not force:
        raise SourceError(f"output {path} exists, give --force to overwrite it")
    if path.is_dir() and not _is_bag(path):
        raise SourceError(f"output {path} is a folder without a recording; remove it first")


def check_output_file(path: Path, force: bool, source: Path | None = None) -> None:
    """Refuse an output file as `check_output` does, and one whose folder is not there.

    Raises:
        SourceError: the output must not or cannot be written.
    """
    if path.is_dir():
        raise SourceError(f"output {path} must be a file, got a folder")
    check_output(path, force, source)
    if not path.parent.is_dir():
        raise SourceError(f"folder of output {path} does not exist")


def remove_output(path: Path) -> None:
    """Remove an output that `check_output` allowed to be overwritten."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _is_bag(folder: Path) -> bool:
    """Whether a folder holds nothing but the files of a recording, or of one being written."""
    suffixes = {".yaml", ".mcap", ".db3", ".db3-wal", ".db3-shm", ".db3-journal", ".tmp"}
    files = list(folder.iterdir())
    # A recording is written in a folder of its final name inside the one of its partial name.
    if len(files) == 1 and folder.name == f"{files[0].name}.partial" and files[0].is_dir():
        files = list(files[0].iterdir())
    # One that was not finished lacks its metadata.
    is_marked = folder.suffix == ".partial" or (folder / "metadata.yaml").is_file()
    return is_marked and all(file.suffix in suffixes and file.is_file() for file in files)
