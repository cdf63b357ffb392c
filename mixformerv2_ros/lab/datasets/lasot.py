"""LaSOT: `CLASS/NAME/` with `img/`, `groundtruth.txt`, `full_occlusion.txt`, `out_of_view.txt`."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from pathlib import Path

import numpy as np

from mixformerv2_ros.errors import ParameterError, SourceError
from mixformerv2_ros.io.images import list_images
from mixformerv2_ros.lab.datasets.index import (
    Rows,
    VideoDataset,
    VideoEntry,
    cache_folder,
    video_rows,
)
from mixformerv2_ros.lab.datasets.sequence_files import (
    Annotation,
    Reader,
    folders_with,
    read_attributes,
)
from mixformerv2_ros.lab.datasets.sequences import (
    AnnotatedSequence,
    check_count,
    checked_sequence,
    read_boxes,
    read_flags,
    read_names,
)
from mixformerv2_ros.text import natural_order, printable

ATTRIBUTES = (
    *("IV", "POC", "DEF", "MB", "CM", "ROT", "BC"),
    *("VC", "SV", "FOC", "FM", "OV", "LR", "ARC"),
)
"""Columns of the LaSOT toolkit's `annos/att/NAME.txt`."""

SPLITS = ("train",)


def read_lasot(
    root: Path, split: str, cache: Path | None, exclude: Collection[str]
) -> VideoDataset:
    """Open LaSOT's training part: 1,120 of its 1,400 sequences.

    They are listed in `training_set.txt` in `root`, or are those that are not in `testing_set.txt`.
    A target is visible if it is neither fully occluded nor out of view and its box has positive
    sides.

    Args:
        root: Folder of the class folders.
        split: `train`.
        cache: Folder of all index files.
        exclude: Names of sequences to leave out.

    Raises:
        ParameterError: the split is unknown.
        SourceError: both lists or a listed sequence are missing.
    """
    if split not in SPLITS:
        raise ParameterError(f"split of lasot must be train, got {split!r}")
    training, testing = root / "training_set.txt", root / "testing_set.txt"
    if training.is_file():
        names = read_names(training)
        folders = {name: _folder(root, name) for name in names if name not in exclude}
        missing = [name for name, folder in folders.items() if not folder.is_dir()]
        if missing:
            raise SourceError(
                f"{folders[missing[0]]}: expected a sequence of LaSOT (listed in {training}), "
                f"found none"
            )
    elif testing.is_file():
        held = {*read_names(testing), *exclude}
        found = lasot_folders(root)
        folders = {n: found[n] for n in sorted(found, key=natural_order) if n not in held}
    else:
        raise SourceError(f"{training}: expected this list or {testing.name}, found neither")
    entries = [
        VideoEntry(
            name=name,
            folder=folder,
            sources=(
                folder / "groundtruth.txt",
                folder / "full_occlusion.txt",
                folder / "out_of_view.txt",
                folder / "img",
            ),
            read=partial(_read, folder),
        )
        for name, folder in folders.items()
    ]
    return VideoDataset(f"lasot {split}", entries, cache_folder(cache, "lasot", root))


def _folder(root: Path, name: str) -> Path:
    """Folder of a sequence, in that of its class or, in some copies, directly in `root`."""
    beside = root / name
    return beside if beside.is_dir() else root / printable(name.rpartition("-")[0]) / name


def _read(folder: Path) -> Rows:
    found = lasot_annotation(folder)
    check_count(found.frames, found.boxes, folder / "groundtruth.txt")
    return video_rows(folder, found.frames, found.boxes, found.hidden)


def find_lasot(root: Path) -> dict[str, Reader]:
    """Readers of all sequences, by name."""
    return {name: partial(_read_sequence, root, at) for name, at in lasot_folders(root).items()}


def lasot_folders(root: Path) -> dict[str, Path]:
    """Folders of LaSOT's sequences below `root`, by name."""
    marks = ("*/groundtruth.txt", "*/img", "*/*/groundtruth.txt", "*/*/img")
    return {folder.name: folder for folder in folders_with(root, *marks)}


def _read_sequence(root: Path, folder: Path) -> AnnotatedSequence:
    found = lasot_annotation(folder)
    attributes = read_attributes(root, ("annos/att", "att"), folder.name, ATTRIBUTES)
    truth = folder / "groundtruth.txt"
    return checked_sequence(folder.name, found.frames, found.shown(), truth, attributes)


def lasot_annotation(folder: Path) -> Annotation:
    """Read a sequence; targets are hidden if they are fully occluded or out of view.

    Raises:
        SourceError: something is missing or malformed; names the file, and the line of a box.
    """
    boxes, frames = read_boxes(folder / "groundtruth.txt"), list_images(folder / "img")
    hidden = np.zeros(len(boxes), dtype=bool)
    for name in ("full_occlusion.txt", "out_of_view.txt"):
        hidden |= read_flags(folder / name, len(boxes))
    if folder.name == "monkey-17":
        frames = frames[: len(boxes)]  # has more images than lines; the toolkit ignores the rest
    return Annotation(frames, boxes, hidden)
