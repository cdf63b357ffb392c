"""OTB: `NAME/img/`, `NAME/groundtruth_rect.txt`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from mixformerv2_ros.io.images import list_images
from mixformerv2_ros.lab.datasets.sequence_files import (
    Reader,
    folders_with,
    image_number,
    read_attributes,
)
from mixformerv2_ros.lab.datasets.sequences import AnnotatedSequence, checked_sequence, read_boxes

RANGES = {
    "david": (300, 770),
    "diving": (1, 215),
    "football1": (1, 74),
    "freeman3": (1, 460),
    "freeman4": (1, 283),
}
"""First and last image number of OTB's sequences whose annotation covers a part of the images."""

ATTRIBUTES = ("IV", "OPR", "SV", "OCC", "DEF", "MB", "FM", "IPR", "OV", "BC", "LR")
"""Columns of the OTB toolkit's `anno/att/NAME.txt`."""


def find_otb(root: Path) -> dict[str, Reader]:
    """Readers of all sequences, by name; several targets of one folder are `NAME-1`, `NAME-2`."""
    readers: dict[str, Reader] = {}
    for folder in folders_with(root, "*/groundtruth_rect*.txt", "*/img"):
        # Human4 comes with an empty file for a first target that does not exist.
        truths = [f for f in sorted(folder.glob("groundtruth_rect*.txt")) if f.stat().st_size > 2]
        if len(truths) < 2:
            truth = truths[0] if truths else folder / "groundtruth_rect.txt"
            readers[folder.name] = partial(_read_sequence, root, folder, truth, folder.name)
            continue
        for number, truth in enumerate(truths, start=1):
            name = f"{folder.name}-{number}"
            readers[name] = partial(_read_sequence, root, folder, truth, name)
    return readers


def _read_sequence(root: Path, folder: Path, truth: Path, name: str) -> AnnotatedSequence:
    boxes, frames = read_boxes(truth), list_images(folder / "img")
    if folder.name.lower() in RANGES and len(frames) != len(boxes):
        first, last = RANGES[folder.name.lower()]
        frames = [frame for frame in frames if first <= image_number(frame) <= last]
    attributes = read_attributes(root, ("anno/att", "att"), name, ATTRIBUTES)
    return checked_sequence(name, frames, boxes, truth, attributes)
