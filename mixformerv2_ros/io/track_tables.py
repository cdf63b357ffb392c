"""Tracks as tables: CSV and JSON, readable at any moment while they grow."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from mixformerv2_ros.errors import SourceError
from mixformerv2_ros.tracking.session import Track

COLUMNS = (
    "frame",
    "stamp_ns",
    "target_id",
    "x",
    "y",
    "w",
    "h",
    "confidence",
    "std_left",
    "std_top",
    "std_right",
    "std_bottom",
    "state",
    "template_updated",
    "depth",
)
"""Columns of the CSV and keys of the JSON: `frame` counts the source's frames from 0, `x y w h` is
the box in pixels (top-left corner and size), `std_*` the standard deviations of its edges in
pixels, `state` the name of the state, `template_updated` 1 where the templates changed,
`depth` the number of blocks of the network that were run."""


def track_row(frame: int, track: Track) -> dict[str, Any]:
    """One track by the names of `COLUMNS`, rounded to what is worth keeping."""
    values = (*track.box, track.confidence, *track.edge_std)
    digits = (3, 3, 3, 3, 6, 3, 3, 3, 3)
    numbers = [round(float(value), n) for value, n in zip(values, digits, strict=True)]
    head = [frame, track.stamp_ns, track.target_id]
    tail = [track.state.name, int(track.template_updated), track.depth]
    return dict(zip(COLUMNS, [*head, *numbers, *tail], strict=True))


class CsvFile:
    """A CSV of tracks, one row per track and frame."""

    def __init__(self, path: Path) -> None:
        """Create the file.

        Raises:
            SourceError: it cannot be created.
        """
        self.path = path
        try:
            self._file = path.open("w", encoding="utf-8", newline="")
        except OSError as error:
            raise SourceError(f"{path} cannot be written: {error.strerror}") from error
        self._writer = csv.DictWriter(self._file, COLUMNS, lineterminator="\n")
        self._writer.writeheader()

    def write(self, frame: int, track: Track) -> None:
        """Append one track.

        Raises:
            SourceError: the file cannot be written, such as on a full disk.
        """
        try:
            self._writer.writerow(track_row(frame, track))
            self._file.flush()
        except OSError as error:
            raise SourceError(f"{self.path} cannot be written: {error.strerror}") from error

    def close(self) -> None:
        """Close the file.

        Raises:
            SourceError: the file cannot be written, such as on a full disk.
        """
        try:
            self._file.close()
        except OSError as error:
            raise SourceError(f"{self.path} cannot be written: {error.strerror}") from error


class JsonFile:
    """A JSON document `{"source": ..., "tracks": [...], "complete": ...}`, valid after every track.

    `complete` is true once the file has been closed after the last frame of the source; a `reason`
    follows where it stays false.
    """

    _TAIL = b'\n], "complete": false}\n'

    def __init__(self, path: Path, source: str) -> None:
        """Create the file.

        Args:
            path: The file.
            source: Name of the video or recording that the tracks are of.

        Raises:
            SourceError: it cannot be created.
        """
        self.path = path
        try:
            self._file = path.open("wb")
        except OSError as error:
            raise SourceError(f"{path} cannot be written: {error.strerror}") from error
        self._separator = b"\n"
        self._end = 0
        self._append(f'{{"source": {json.dumps(source)}, "tracks": ['.encode())

    def write(self, frame: int, track: Track) -> None:
        """Append one track.

        Raises:
            SourceError: the file cannot be written, such as on a full disk.
        """
        self._append(self._separator + json.dumps(track_row(frame, track)).encode())
        self._separator = b",\n"

    def _append(self, text: bytes, tail: bytes = _TAIL) -> None:
        try:
            self._file.seek(self._end)
            self._file.write(text + tail)
            self._file.truncate()
            self._file.flush()
        except OSError as error:
            raise SourceError(f"{self.path} cannot be written: {error.strerror}") from error
        self._end += len(text)

    def close(self, partial: str = "") -> None:
        """Close the file.

        Args:
            partial: Why tracks are missing; empty if none are.

        Raises:
            SourceError: the file cannot be written, such as on a full disk.
        """
        tail = {"complete": not partial, **({"reason": partial} if partial else {})}
        try:
            self._append(b"", b"\n], " + json.dumps(tail)[1:].encode() + b"\n")
        finally:
            self._file.close()
