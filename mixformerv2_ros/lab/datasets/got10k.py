"""GOT-10k: `NAME/*.jpg`, `groundtruth.txt`, `absence.label`, `cover.label`."""

from __future__ import annotations

import re
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
from mixformerv2_ros.lab.datasets.sequence_files import Annotation, Reader, folders_with
from mixformerv2_ros.lab.datasets.sequences import (
    AnnotatedSequence,
    check_count,
    checked_sequence,
    parse_lines,
    read_boxes,
    read_digits,
    read_flags,
    read_lines,
    read_names,
)
from mixformerv2_ros.text import printable

SPLITS = ("train", "vottrain", "votval")
WHOLE = 9335
"""Sequences of the complete training part."""
PUBLISHED = {"vottrain": 7086, "votval": 1249}
"""Sequences of the splits that MixFormerV2 was trained and validated with."""

EXCLUDED = "got10k_vot_exclude.txt"
INDICES = {"vottrain": "got10k_train_split.txt", "votval": "got10k_val_split.txt"}
"""The lists from which the two splits are derived, under their usual names."""


def read_got10k(
    root: Path, split: str, cache: Path | None, exclude: Collection[str]
) -> VideoDataset:
    """Open GOT-10k's training part.

    Args:
        root: The folder `train`, with `list.txt`, or the one above it.
        split: `train` for all sequences of `list.txt`, `vottrain` or `votval`, see `vot_names`.
        cache: Folder of all index files.
        exclude: Names of sequences to leave out.

    A target is visible if it is not flagged absent, its cover exceeds 0, and its box has positive
    sides.

    Raises:
        ParameterError: the split is unknown.
        SourceError: a list is missing or malformed, or a sequence is missing.
    """
    if split not in SPLITS:
        raise ParameterError(f"split of got10k must be one of {', '.join(SPLITS)}, got {split!r}")
    if (root / "train" / "list.txt").is_file():
        root = root / "train"
    names = read_names(root / "list.txt")
    if split != "train":
        names = vot_names(root, split, names)
    names = [name for name in names if name not in exclude]
    there = {each.name for each in root.iterdir()}
    missing = [name for name in names if name not in there]
    if missing:
        raise SourceError(
            f"{root / missing[0]}: expected a sequence of GOT-10k (listed in {root / 'list.txt'}), "
            f"found none"
        )
    entries = [_entry(root / name) for name in names]
    return VideoDataset(f"got10k {split}", entries, cache_folder(cache, "got10k", root))


def vot_names(root: Path, split: str, names: list[str]) -> list[str]:
    """The sequences of `vottrain` or `votval`: part of a random split, without VOT's exclusions.

    They follow from three lists beside `list.txt`: the positions in `list.txt` (from 0) of
    7,934 sequences in `got10k_train_split.txt` or 1,401 in `got10k_val_split.txt`, and the names
    in `got10k_vot_exclude.txt` that VOT's rules exclude.

    The published lists of 7,086 and 1,249 follow from these by leaving out the positions that equal
    the *number in the name* of an excluded sequence, though names count from 1 and positions from
    0. So neighbours of the excluded sequences are left out. This is kept, to train on the same
    sequences as the published models; for a submission to VOT, set `exclude` to
    `got10k_vot_exclude.txt` as well.

    Raises:
        SourceError: a list is missing or malformed, or the result does not have the published size.
    """
    path = root / EXCLUDED

    def read_number(line: int, name: str) -> int:
        number = name.strip().rpartition("_")[2]
        if not number.isdecimal():
            raise SourceError(
                f"{path}, line {line}: expected a name such as GOT-10k_Train_000004, "
                f"got {printable(name)!r}"
            )
        return int(number)

    def read_position(line: int, text: str) -> int:
        if not text.strip().isdecimal() or int(text) >= len(names):
            raise SourceError(
                f"{path}, line {line}: expected a position in list.txt, 0 to {len(names) - 1}, "
                f"got {printable(text)!r}"
            )
        return int(text)

    excluded = set(parse_lines(read_number, read_lines(path)))
    path = root / INDICES[split]
    positions = parse_lines(read_position, read_lines(path))
    chosen = [names[position] for position in positions if position not in excluded]
    if len(names) == WHOLE and len(chosen) != PUBLISHED[split]:
        raise SourceError(
            f"{path}: expected {split} to have {PUBLISHED[split]} sequences after {EXCLUDED}, "
            f"got {len(chosen)}"
        )
    return chosen


def _entry(folder: Path) -> VideoEntry:
    labels = ("groundtruth.txt", "absence.label", "cover.label")
    sources = (*(folder / label for label in labels), folder)
    return VideoEntry(folder.name, folder, sources, partial(_read, folder))


def _read(folder: Path) -> Rows:
    found = got10k_annotation(folder)
    check_count(found.frames, found.boxes, folder / "groundtruth.txt")
    return video_rows(folder, found.frames, found.boxes, found.hidden)


def find_got10k(root: Path) -> dict[str, Reader]:
    """Readers of all sequences, by name."""
    folders = folders_with(root, "*/groundtruth.txt")
    return {folder.name: partial(_read_sequence, folder) for folder in folders}


def _read_sequence(folder: Path) -> AnnotatedSequence:
    found = got10k_annotation(folder)
    size, attributes = _read_meta(folder / "meta_info.ini")
    truth = folder / "groundtruth.txt"
    return checked_sequence(
        folder.name, found.frames, found.shown(), truth, attributes, size, may_withhold=True
    )


def got10k_annotation(folder: Path) -> Annotation:
    """Read a sequence; targets are hidden if `absence` is 1 or `cover` is 0, if these files exist.

    Raises:
        SourceError: something is missing or malformed; names the file, and the line of a box.
    """
    boxes = read_boxes(folder / "groundtruth.txt")
    hidden = np.zeros(len(boxes), dtype=bool)
    if (folder / "absence.label").exists():
        hidden |= read_flags(folder / "absence.label", len(boxes))
    if (folder / "cover.label").exists():
        # The visible part of the target, in eighths.
        hidden |= read_digits(folder / "cover.label", len(boxes), 8) == 0
    return Annotation(list_images(folder), boxes, hidden)


def _read_meta(path: Path) -> tuple[tuple[int, int] | None, tuple[str, ...]]:
    """Image size, major class and kind of motion, if the file has them."""
    if not path.exists():
        return None, ()
    values = dict(line.split(": ", 1) for line in read_lines(path) if ": " in line)
    names = ("major_class", "motion_class")
    attributes = tuple(
        f"{name.split('_')[0]}: {values[name].strip()}" for name in names if values.get(name)
    )
    if "resolution" not in values:
        return None, attributes
    size = re.fullmatch(r"\(?\s*(\d+)\s*,\s*(\d+)\s*\)?", values["resolution"].strip())
    if size is None:
        came = printable(values["resolution"])
        raise SourceError(f"{path}: expected resolution: (WIDTH, HEIGHT), got {came!r}")
    return (int(size[1]), int(size[2])), attributes
