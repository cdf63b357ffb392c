"""TrackingNet: `TRAIN_0` to `TRAIN_11` and `TEST`, each `anno/NAME.txt`, `frames/NAME/`."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from pathlib import Path

from mixformerv2_ros.errors import ParameterError, SourceError
from mixformerv2_ros.io.images import list_images
from mixformerv2_ros.lab.datasets.index import (
    Rows,
    VideoDataset,
    VideoEntry,
    cache_folder,
    video_rows,
)
from mixformerv2_ros.lab.datasets.sequence_files import Reader
from mixformerv2_ros.lab.datasets.sequences import (
    AnnotatedSequence,
    check_count,
    checked_sequence,
    read_boxes,
)
from mixformerv2_ros.text import natural_order, printable

PARTS = tuple(f"TRAIN_{number}" for number in range(12))


def read_trackingnet(
    root: Path, split: str, cache: Path | None, exclude: Collection[str]
) -> VideoDataset:
    """Open TrackingNet's training part. A target is visible if its box has positive sides.

    Args:
        root: Folder of `TRAIN_0` and so on.
        split: `train` for all twelve parts, or some of them, such as `TRAIN_0,TRAIN_3`.
        cache: Folder of all index files.
        exclude: Names of sequences to leave out.

    Raises:
        ParameterError: the split is unknown.
        SourceError: a part is missing.
    """
    parts = PARTS if split == "train" else tuple(part.strip() for part in split.split(","))
    wrong = [part for part in parts if part not in PARTS]
    if wrong:
        raise ParameterError(
            f"split of trackingnet must be train or some of {PARTS[0]} to {PARTS[-1]}, "
            f"got {printable(wrong[0])!r}"
        )
    entries = []
    for part in parts:
        base = root / part
        if not (base / "anno").is_dir():
            raise SourceError(f"{base / 'anno'}: expected annotations of TrackingNet, found none")
        names = [path.stem for path in (base / "anno").glob("*.txt")]
        for name in sorted(names, key=natural_order):
            if name not in exclude:
                entries.append(_entry(base, name))
    return VideoDataset(f"trackingnet {split}", entries, cache_folder(cache, "trackingnet", root))


def _entry(base: Path, name: str) -> VideoEntry:
    frames, truth = base / "frames" / name, base / "anno" / f"{name}.txt"
    return VideoEntry(name, frames, (truth, frames), partial(_read, frames, truth))


def _read(folder: Path, truth: Path) -> Rows:
    frames, boxes = list_images(folder), read_boxes(truth)
    check_count(frames, boxes, truth)
    return video_rows(folder, frames, boxes)


def find_trackingnet(root: Path) -> dict[str, Reader]:
    """Readers of all sequences of the test part, by name."""
    base = root / "TEST" if (root / "TEST").is_dir() else root
    names = {path.stem for path in base.glob("anno/*.txt")}
    names |= {path.name for path in base.glob("frames/*") if path.is_dir()}
    return {name: partial(_read_sequence, base, name) for name in names}


def _read_sequence(base: Path, name: str) -> AnnotatedSequence:
    truth = base / "anno" / f"{name}.txt"
    frames = list_images(base / "frames" / name)
    return checked_sequence(name, frames, read_boxes(truth), truth, may_withhold=True)
