"""Comparison of tracks with the reference tracks of an earlier run, for regression tests."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixformerv2_ros.errors import ParameterError, SourceError
from mixformerv2_ros.text import printable
from mixformerv2_ros.tracking.boxes import Box, iou
from mixformerv2_ros.tracking.session import State, Track

MAX_BYTES = 2**30
"""Maximum size of a file of reference tracks."""


@dataclass(frozen=True)
class ReferenceTrack:
    """The box of a target in a frame, and whether the target is lost."""

    box: Box
    lost: bool


class Comparison:
    """Compares tracks with reference tracks frame by frame, up to the first difference.

    Attributes:
        difference: The first difference, as one line; None while there is none.
        min_seen: Minimum IoU so far, 1 before the first frame.
    """

    def __init__(self, path: Path, min_iou: float) -> None:
        """Read the reference.

        Args:
            path: JSON written by `track --json` or `replay --json`.
            min_iou: Minimum IoU of a box with its reference.

        Raises:
            SourceError: the file is missing or not such a file.
            ParameterError: `min_iou` is not within 0 to 1.
        """
        if not 0 <= min_iou <= 1:
            raise ParameterError(f"min_iou must be 0 to 1, got {min_iou:g}")
        self.min_iou = min_iou
        self.difference: str | None = None
        self.min_seen = 1.0
        self._reference = read_reference(path)
        self._seen: set[tuple[int, str]] = set()

    def check(self, frame: int, tracks: Sequence[Track]) -> None:
        """Compare the tracks of one frame."""
        for track in tracks:
            key = (frame, track.target_id)
            self._seen.add(key)
            where = f"frame {frame}, target {printable(track.target_id)}"
            reference = self._reference.get(key)
            if reference is None:
                self._differ(f"{where}: expected no track, got one")
                continue
            overlap = iou(track.box, reference.box)
            self.min_seen = min(self.min_seen, overlap)
            if overlap < self.min_iou:
                self._differ(
                    f"{where}: IoU with the reference box {_text(reference.box)} must be at least "
                    f"{self.min_iou:g}, got {overlap:.3f} for {_text(track.box)}"
                )
            elif (track.state is State.LOST) != reference.lost:
                state = "LOST" if reference.lost else "not LOST"
                self._differ(f"{where}: state must be {state}, got {track.state.name}")

    def finish(self) -> None:
        """Report reference tracks that were not matched by any track."""
        missing = min(self._reference.keys() - self._seen, default=None)
        if missing is not None:
            frame, target = missing
            self._differ(f"frame {frame}, target {printable(target)}: expected a track, got none")

    def _differ(self, text: str) -> None:
        if self.difference is None:
            self.difference = text


def read_reference(path: Path) -> dict[tuple[int, str], ReferenceTrack]:
    """Read a JSON file of tracks, by frame and target.

    Raises:
        SourceError: the file is missing, too large, or not such a file; the entry is named.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise SourceError(f"{path} must be at most {MAX_BYTES} bytes")
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise SourceError(f"{path} must be a JSON file written by --json") from None
    rows = content.get("tracks") if isinstance(content, dict) else None
    if not isinstance(rows, list) or not rows:
        raise SourceError(f"{path} must be a JSON file written by --json, with a list of tracks")
    return dict(_entry(path, number, row) for number, row in enumerate(rows))


def _entry(path: Path, number: int, row: Any) -> tuple[tuple[int, str], ReferenceTrack]:
    try:
        box = Box(*(float(row[side]) for side in ("x", "y", "w", "h")))
        frame, target, state = int(row["frame"]), str(row["target_id"]), str(row["state"])
        if not all(map(math.isfinite, box)) or state not in State.__members__:
            raise ValueError
    except (KeyError, TypeError, ValueError, OverflowError):
        raise SourceError(
            f"{path}: track {number} must have frame, target_id, box, state"
        ) from None
    return (frame, target), ReferenceTrack(box, state == State.LOST.name)


def _text(box: Box) -> str:
    return ",".join(f"{value:.1f}" for value in box)
