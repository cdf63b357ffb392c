"""Own data in a folder: `sequences/` and `stills/`; for training and evaluation.

A sequence is a folder with `img/` and `groundtruth_rect.txt` or `groundtruth.txt`, with several
targets `groundtruth_rect.1.txt` and so on; or with images and `groundtruth*.txt` as in VOT.
Stills are `images/` and `boxes.csv`: image,x,y,w,h,label in pixels, top-left.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from pathlib import Path

import numpy as np

from mixformerv2_ros.errors import ParameterError, SourceError
from mixformerv2_ros.io.images import list_images
from mixformerv2_ros.lab.datasets.annotated_images import VALIDATION_STEP, read_box_list
from mixformerv2_ros.lab.datasets.index import (
    Rows,
    StillDataset,
    VideoDataset,
    VideoEntry,
    cache_folder,
    cached,
    make_rows,
    video_rows,
)
from mixformerv2_ros.lab.datasets.otb import find_otb
from mixformerv2_ros.lab.datasets.sequence_files import Reader
from mixformerv2_ros.lab.datasets.sequences import (
    AnnotatedSequence,
    checked_sequence,
    read_boxes,
)
from mixformerv2_ros.lab.datasets.vot import find_vot

SPLITS = ("sequences", "stills", "stills_train", "stills_val")


def read_folder(
    root: Path, split: str, cache: Path | None, exclude: Collection[str]
) -> VideoDataset | StillDataset:
    """Open a folder of own data.

    Args:
        root: Folder with `sequences/`, `stills/` or both.
        split: `sequences`; or `stills` for all of them, `stills_val` for every 20th image of the
            list, `stills_train` for the others.
        cache: Folder of all index files.
        exclude: Names of sequences, or file names of stills, to leave out.

    Targets are visible in frames whose ground truth is a box with positive sides and not NaN.

    Raises:
        ParameterError: the split is unknown.
        SourceError: the folder is missing, or a line of the stills' list is malformed.
    """
    if split not in SPLITS:
        raise ParameterError(f"split of folder must be one of {', '.join(SPLITS)}, got {split!r}")
    if split == "sequences":
        base = root / "sequences"
        if not base.is_dir():
            raise SourceError(f"{base}: expected a folder of sequences, found none")
        entries = [
            _entry(name, folder, reader)
            for name, (folder, reader) in sorted(_find(base).items())
            if not {name, folder.name} & set(exclude)
        ]
        return VideoDataset("folder sequences", entries, cache_folder(cache, "folder", root))
    listing = root / "stills" / "boxes.csv"
    name = f"stills-{split.partition('_')[2] or 'all'}"
    rows = cached(
        cache_folder(cache, "folder", root), name, [listing], partial(_read_stills, listing, split)
    )
    if exclude:
        rows = rows[~np.isin(rows["image"], np.array([n.encode() for n in exclude]))]
    return StillDataset(f"folder {split}", listing.parent / "images", rows)


def sequence_names(root: Path) -> set[str]:
    """Names of the folders of sequences below `root`; none where it has no `sequences/`."""
    folder = root / "sequences"
    return {path.name for path in folder.iterdir() if path.is_dir()} if folder.is_dir() else set()


def find_folder(root: Path) -> dict[str, Reader]:
    """Readers of all sequences in `root/sequences`, or in `root` itself, by name."""
    base = sequences_folder(root)
    return {name: reader for name, (_, reader) in _find(base).items()}


def read_sequences(root: Path, exclude: Collection[str] = ()) -> list[AnnotatedSequence]:
    """Read all sequences of a folder of own data, in order of their names; none if it has none.

    Args:
        root: Folder with `sequences/`.
        exclude: Names of sequences to leave out.

    Raises:
        SourceError: something is missing or malformed; names the file and line.
    """
    base = root / "sequences"
    found = _find(base) if base.is_dir() else {}
    return [
        reader()
        for name, (folder, reader) in sorted(found.items())
        if not {name, folder.name} & set(exclude)
    ]


def sequences_folder(root: Path) -> Path:
    """Folder of the sequences of own data: `sequences/`, or `root` if there is none."""
    below = root / "sequences"
    return below if below.is_dir() else root


def _find(base: Path) -> dict[str, tuple[Path, Reader]]:
    """Folder and reader of every sequence in `base`, by name."""
    readers = {"otb": find_otb(base), "vot": find_vot(base)}
    found: dict[str, tuple[Path, Reader]] = {}
    for form, by_name in readers.items():
        for name, reader in by_name.items():
            folder = _folder(base, name)
            if _form(folder) == "img":
                found[name] = (folder, partial(_read_img, folder))
            elif _form(folder) == form:
                found[name] = (folder, reader)
    return found


def _form(folder: Path) -> str:
    """Which of three forms a sequence has: `otb`, `vot`, or `img/` with one `groundtruth.txt`."""
    if any(folder.glob("groundtruth_rect*.txt")):
        return "otb"
    if not (folder / "img").is_dir():
        return "vot"
    return "img" if (folder / "groundtruth.txt").is_file() else "otb"


def _entry(name: str, folder: Path, reader: Reader) -> VideoEntry:
    sources = (folder, folder / "img", folder / "color", *sorted(folder.glob("*.txt")))
    return VideoEntry(name, folder, sources, partial(_read, folder, reader))


def _folder(root: Path, name: str) -> Path:
    """The folder of a sequence; several targets in one are `FOLDER-1`, or `FOLDER.1` in VOT."""
    ends = [len(name), *(i for i in reversed(range(1, len(name))) if name[i] in "-.")]
    return next(root / name[:end] for end in ends if (root / name[:end]).is_dir())


def _read(folder: Path, reader: Reader) -> Rows:
    sequence = reader()
    return video_rows(folder, sequence.frames, sequence.boxes)


def _read_img(folder: Path) -> AnnotatedSequence:
    truth = folder / "groundtruth.txt"
    return checked_sequence(folder.name, list_images(folder / "img"), read_boxes(truth), truth)


def _read_stills(listing: Path, split: str) -> Rows:
    images, boxes = [], []
    for number, (name, entries) in enumerate(read_box_list(listing).items()):
        held = number % VALIDATION_STEP == 0
        if split == "stills" or held == (split == "stills_val"):
            for box, _ in entries:
                if box[2] > 0 and box[3] > 0:
                    images.append(name)
                    boxes.append(box)
    table = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    return make_rows(images, table, np.ones(len(table), dtype=bool))
