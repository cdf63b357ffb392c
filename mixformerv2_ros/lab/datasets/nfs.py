"""NfS at 30 or 240 frames per second: `NAME/RATE/NAME/`, `NAME/RATE/NAME.txt`."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import numpy as np

from mixformerv2_ros.errors import SourceError
from mixformerv2_ros.io.images import list_images
from mixformerv2_ros.lab.datasets.sequence_files import Reader, to_numbers
from mixformerv2_ros.lab.datasets.sequences import (
    AnnotatedSequence,
    checked_sequence,
    read_lines,
    split_fields,
)
from mixformerv2_ros.text import printable


def find_nfs(rate: int, root: Path) -> dict[str, Reader]:
    """Readers of all sequences at one frame rate, by name."""
    folders = {path.parent for path in root.glob(f"*/{rate}") if path.is_dir()}
    return {folder.name: partial(_read_sequence, folder, rate) for folder in folders}


def _read_sequence(folder: Path, rate: int) -> AnnotatedSequence:
    """Read lines `id left top right bottom frame lost occluded generated "class"`."""
    truth = folder / str(rate) / f"{folder.name}.txt"
    rows = []
    for number, line in enumerate(read_lines(truth), start=1):
        corners = to_numbers(split_fields(line)[1:5])
        if len(corners) != 4 or not all(map(math.isfinite, corners)):
            raise SourceError(
                f"{truth}, line {number}: expected a number and the corners left top right bottom, "
                f"got {printable(line.strip())!r}"
            )
        left, top, right, bottom = corners
        rows.append((left, top, right - left, bottom - top))
    boxes = np.array(rows, dtype=np.float64).reshape(-1, 4)
    frames = list_images(folder / str(rate) / folder.name)
    # The annotations of 30 frames per second are those of 240; some end one frame early or late.
    if len(boxes) > len(frames) + 1 and abs(len(boxes[::8]) - len(frames)) <= 1:
        boxes = boxes[::8]
    if abs(len(boxes) - len(frames)) == 1:
        boxes, frames = boxes[: len(frames)], frames[: len(boxes)]
    return checked_sequence(folder.name, frames, boxes, truth)
