"""GOT-10k's training part: `NAME/*.jpg`, `groundtruth.txt`, `absence.label`, `cover.label`."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from pathlib import Path

from mixformerv2_ros.errors import ParameterError, SourceError
from mixformerv2_ros.lab.datasets.index import (
    Entry,
    Rows,
    VideoSet,
    cache_folder,
    video_rows,
)
from mixformerv2_ros.lab.datasets.layouts import got10k_annotation
from mixformerv2_ros.lab.datasets.sequences import check_count, read_lines, read_names
from mixformerv2_ros.text import printable

SPLITS = ("train", "vottrain", "votval")
WHOLE = 9335
"""Sequences of the complete training part."""
PUBLISHED = {"vottrain": 7086, "votval": 1249}
"""Sequences of the splits that MixFormerV2 was trained and validated with."""

EXCLUDED = "got10k_vot_exclude.txt"
INDICES = {"vottrain": "got10k_train_split.txt", "votval": "got10k_val_split.txt"}
"""The lists that the two splits are derived from, under the names that the field gives them."""


def read_got10k(root: Path, split: str, cache: Path | None, exclude: Collection[str]) -> VideoSet:
    """Open GOT-10k's training part.

    Args:
        root: The folder `train`, with `list.txt`.
        split: `train` for all that `list.txt` names, `vottrain` or `votval`, see `vot_names`.
        cache: Folder of all index files.
        exclude: Names of sequences to leave out.

    A target is visible where it is not flagged absent, its cover exceeds 0, and its box has
    positive sides.

    Raises:
        ParameterError: the split is unknown.
        SourceError: a list is missing or malformed, or a sequence is missing.
    """
    if split not in SPLITS:
        raise ParameterError(f"split of got10k must be one of {', '.join(SPLITS)}, got {split!r}")
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
    return VideoSet(f"got10k {split}", entries, cache_folder(cache, "got10k", root))


def vot_names(root: Path, split: str, names: list[str]) -> list[str]:
    """The sequences of `vottrain` or `votval`: a half of a random split, less what VOT excludes.

    Three lists beside `list.txt` say which: the positions (from 0, in `list.txt`) of the 7,934
    sequences of `got10k_train_split.txt` or the 1,401 of `got10k_val_split.txt`, and the names
    in `got10k_vot_exclude.txt` that VOT's rules exclude.

    The published lists of 7,086 and 1,249 follow from these by leaving out the positions that equal
    the *number in the name* of an excluded sequence, though names count from 1 and positions from
    0. So sequences beside the excluded ones are left out. That is kept, to train on what the
    published models were trained on; who submits to VOT gives `got10k_vot_exclude.txt` as
    `exclude` as well.

    Raises:
        SourceError: a list is missing or malformed, or the result does not have the published size.
    """
    excluded = set()
    path = root / EXCLUDED
    for line, name in enumerate(read_lines(path), start=1):
        number = name.strip().rpartition("_")[2]
        if not number.isdecimal():
            raise SourceError(
                f"{path}, line {line}: expected a name such as GOT-10k_Train_000004, "
                f"got {printable(name)!r}"
            )
        excluded.add(int(number))
    path = root / INDICES[split]
    chosen = []
    for line, text in enumerate(read_lines(path), start=1):
        if not text.strip().isdecimal() or int(text) >= len(names):
            raise SourceError(
                f"{path}, line {line}: expected a position in list.txt, 0 to {len(names) - 1}, "
                f"got {printable(text)!r}"
            )
        if int(text) not in excluded:
            chosen.append(names[int(text)])
    if len(names) == WHOLE and len(chosen) != PUBLISHED[split]:
        raise SourceError(
            f"{path}: expected {split} to have {PUBLISHED[split]} sequences after {EXCLUDED}, "
            f"got {len(chosen)}"
        )
    return chosen


def _entry(folder: Path) -> Entry:
    labels = ("groundtruth.txt", "absence.label", "cover.label")
    sources = (*(folder / label for label in labels), folder)
    return Entry(folder.name, folder, sources, partial(_read, folder))


def _read(folder: Path) -> Rows:
    found = got10k_annotation(folder)
    check_count(found.frames, found.boxes, folder / "groundtruth.txt")
    return video_rows(folder, found.frames, found.boxes, found.hidden)
