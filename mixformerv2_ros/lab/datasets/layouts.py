"""Where the public data sets keep their sequences on disk, as published.

`LAYOUTS` holds one entry per value of `evaluate --dataset`. Each finds the sequences below a root
folder by name and reads one of them when asked, so that a broken sequence is named and leaves the
rest usable.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mixformerv2_ros.errors import ParameterError, SourceError
from mixformerv2_ros.io.images import list_images
from mixformerv2_ros.lab.datasets.sequences import (
    AnnotatedSequence,
    checked_sequence,
    plain_sequence,
    read_boxes,
    read_flags,
    read_lines,
    read_names,
    split_fields,
)
from mixformerv2_ros.text import natural_order, printable

Reader = Callable[[], AnnotatedSequence]
"""Reads one sequence; raises SourceError that names the file, and the line where there is one."""

OTB_RANGES = {
    "david": (300, 770),
    "diving": (1, 215),
    "football1": (1, 74),
    "freeman3": (1, 460),
    "freeman4": (1, 283),
}
"""First and last image number of OTB's sequences whose annotation covers a part of the images."""

OTB_ATTRIBUTES = ("IV", "OPR", "SV", "OCC", "DEF", "MB", "FM", "IPR", "OV", "BC", "LR")
"""Columns of the OTB toolkit's `anno/att/NAME.txt`."""

LASOT_ATTRIBUTES = (
    *("IV", "POC", "DEF", "MB", "CM", "ROT", "BC"),
    *("VC", "SV", "FOC", "FM", "OV", "LR", "ARC"),
)
"""Columns of the LaSOT toolkit's `annos/att/NAME.txt`."""

UAV123_ATTRIBUTES = (
    *("SV", "ARC", "LR", "FM", "FOC", "POC"),
    *("OV", "BC", "IV", "VC", "CM", "SOB"),
)
"""Columns of `anno/UAV123/att/NAME.txt`."""

UAV123_STARTS = {
    "bird1": (1, 775, 1573),
    "car1": (1, 751, 1627),
    "car6": (1, 487, 1807, 2953, 3925),
    "car8": (1, 1357),
    "car16": (1, 415),
    "group1": (1, 1333, 2515, 3925),
    "group2": (1, 907, 1771),
    "group3": (1, 1567, 2827, 4369),
    "person2": (1, 1189),
    "person4": (1, 1501),
    "person5": (1, 877),
    "person7": (1, 1249),
    "person8": (1, 1075),
    "person12": (1, 601),
    "person14": (1, 847, 1813),
    "person17": (1, 1501),
    "person19": (1, 1243, 2791),
    "truck4": (1, 577),
    "uav1": (1, 1555, 2473),
}
"""Folder -> first image number of each of its sub-sequences `FOLDER_1`, `FOLDER_2` .. (UAV123's
`configSeqs.m`); each lasts as long as its annotation has lines."""

_UAV123_PARTS = {
    f"{folder}_{number}": (folder, start)
    for folder, starts in UAV123_STARTS.items()
    for number, start in enumerate(starts, start=1)
}


@dataclass(frozen=True)
class Layout:
    """One data set's layout.

    Attributes:
        pattern: Where the annotation of sequence NAME stands below the root, for messages.
        find: Finds what is there: name -> reader.
        lists: Where a file that lists the sequences that count may stand below the root; without
            one all of them count.
    """

    pattern: str
    find: Callable[[Path], dict[str, Reader]]
    lists: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Annotation:
    """A sequence as its files say it, unchecked: training also uses boxes of hidden targets.

    Attributes:
        frames: Image files in order of time.
        boxes: (N, 4) float64 x, y, w, h in pixels, one row per line of the file.
        hidden: (N,) bool, frames in which the target counts as absent.
    """

    frames: list[Path]
    boxes: npt.NDArray[np.float64]
    hidden: npt.NDArray[np.bool_]

    def shown(self) -> npt.NDArray[np.float64]:
        """The boxes with NaN where the target is hidden."""
        return np.where(self.hidden[:, None], np.nan, self.boxes)


def find_sequences(root: Path, dataset: str = "plain") -> dict[str, Reader]:
    """Readers of all sequences below `root`, by name, in natural order.

    Raises:
        ParameterError: the layout is unknown.
        SourceError: `root` is no folder.
    """
    if dataset not in LAYOUTS:
        raise ParameterError(f"dataset must be one of {', '.join(LAYOUTS)}, got {dataset!r}")
    if not root.is_dir():
        raise SourceError(f"{root}: expected a folder of sequences, found none")
    found = LAYOUTS[dataset].find(root)
    return {name: found[name] for name in sorted(found, key=natural_order)}


def load_sequences(
    root: Path, dataset: str = "plain", names: Iterable[str] | None = None
) -> tuple[list[AnnotatedSequence], list[str]]:
    """Read the sequences below `root`.

    Args:
        root: Folder that holds the data set.
        dataset: Name of the layout, a key of `LAYOUTS`.
        names: Sequences to read, in this order. By default those in the layout's list file where
            `root` has one, else all.

    Returns:
        The sequences that could be read, and one line for each that could not.

    Raises:
        ParameterError: the layout is unknown.
        SourceError: not a single sequence could be read.
    """
    readers = find_sequences(root, dataset)
    layout = LAYOUTS[dataset]
    lists = [root / path for path in layout.lists if (root / path).is_file()]
    if names is None and lists:
        # A listed folder with several targets stands for all of them.
        names = [
            name for each in read_names(lists[0]) for name in _targets(readers, each) or [each]
        ]
    sequences, problems = [], []
    for name in readers if names is None else dict.fromkeys(names):
        if name not in readers:
            expected = layout.pattern.replace("NAME", printable(name))
            problems.append(f"{root}: expected sequence {expected}, found none")
            continue
        try:
            sequences.append(readers[name]())
        except SourceError as error:
            problems.append(str(error))
    if not sequences:
        detail = f"; first problem: {problems[0]}" if problems else ""
        raise SourceError(
            f"{root}: no sequence in the {dataset} layout ({layout.pattern}) could be read{detail}"
        )
    return sequences, problems


def _targets(readers: dict[str, Reader], folder: str) -> list[str]:
    if folder in readers:
        return [folder]
    return [name for name in readers if name.rpartition(".")[0] == folder]


# One pair of functions per data set: find, read.


def _find_plain(root: Path) -> dict[str, Reader]:
    # Either of the two marks a sequence, so that the other is missed by name when it is missing.
    folders = _folders(root, "*/groundtruth_rect.txt", "*/img")
    return {folder.name: partial(plain_sequence, folder) for folder in folders}


def _find_otb(root: Path) -> dict[str, Reader]:
    readers: dict[str, Reader] = {}
    for folder in _folders(root, "*/groundtruth_rect*.txt", "*/img"):
        # Human4 comes with an empty file for a first target that does not exist.
        truths = [f for f in sorted(folder.glob("groundtruth_rect*.txt")) if f.stat().st_size > 2]
        if len(truths) < 2:
            truth = truths[0] if truths else folder / "groundtruth_rect.txt"
            readers[folder.name] = partial(_read_otb, root, folder, truth, folder.name)
            continue
        for number, truth in enumerate(truths, start=1):
            name = f"{folder.name}-{number}"
            readers[name] = partial(_read_otb, root, folder, truth, name)
    return readers


def _read_otb(root: Path, folder: Path, truth: Path, name: str) -> AnnotatedSequence:
    boxes, frames = read_boxes(truth), list_images(folder / "img")
    if folder.name.lower() in OTB_RANGES and len(frames) != len(boxes):
        first, last = OTB_RANGES[folder.name.lower()]
        frames = [frame for frame in frames if first <= _number(frame) <= last]
    attributes = _attributes(root, ("anno/att", "att"), name, OTB_ATTRIBUTES)
    return checked_sequence(name, frames, boxes, truth, attributes)


def _find_lasot(root: Path) -> dict[str, Reader]:
    return {name: partial(_read_lasot, root, at) for name, at in lasot_folders(root).items()}


def lasot_folders(root: Path) -> dict[str, Path]:
    """Folders of LaSOT's sequences below `root`, by name."""
    marks = ("*/groundtruth.txt", "*/img", "*/*/groundtruth.txt", "*/*/img")
    return {folder.name: folder for folder in _folders(root, *marks)}


def _read_lasot(root: Path, folder: Path) -> AnnotatedSequence:
    found = lasot_annotation(folder)
    attributes = _attributes(root, ("annos/att", "att"), folder.name, LASOT_ATTRIBUTES)
    truth = folder / "groundtruth.txt"
    return checked_sequence(folder.name, found.frames, found.shown(), truth, attributes)


def lasot_annotation(folder: Path) -> Annotation:
    """Read a sequence of LaSOT; hidden are full occlusion and out of view.

    Raises:
        SourceError: something is missing or malformed; names the file, and the line of a box.
    """
    boxes, frames = read_boxes(folder / "groundtruth.txt"), list_images(folder / "img")
    hidden = np.zeros(len(boxes), dtype=bool)
    for name in ("full_occlusion.txt", "out_of_view.txt"):
        hidden |= read_flags(folder / name, len(boxes))
    if folder.name == "monkey-17":
        frames = frames[: len(boxes)]  # has more images than lines; the toolkit drops the rest
    return Annotation(frames, boxes, hidden)


def _find_got10k(root: Path) -> dict[str, Reader]:
    folders = _folders(root, "*/groundtruth.txt")
    return {folder.name: partial(_read_got10k, folder) for folder in folders}


def _read_got10k(folder: Path) -> AnnotatedSequence:
    found = got10k_annotation(folder)
    size, attributes = _got10k_meta(folder / "meta_info.ini")
    truth = folder / "groundtruth.txt"
    return checked_sequence(
        folder.name, found.frames, found.shown(), truth, attributes, size, may_withhold=True
    )


def got10k_annotation(folder: Path) -> Annotation:
    """Read a sequence of GOT-10k; hidden are `absence` 1 and `cover` 0, where those files are.

    Raises:
        SourceError: something is missing or malformed; names the file, and the line of a box.
    """
    boxes = read_boxes(folder / "groundtruth.txt")
    hidden = np.zeros(len(boxes), dtype=bool)
    if (folder / "absence.label").exists():
        hidden |= read_flags(folder / "absence.label", len(boxes))
    if (folder / "cover.label").exists():
        hidden |= _covers(folder / "cover.label", len(boxes)) == 0
    return Annotation(list_images(folder), boxes, hidden)


def _got10k_meta(path: Path) -> tuple[tuple[int, int] | None, tuple[str, ...]]:
    """Image size, major class and kind of motion, as far as the file says them."""
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


def _covers(path: Path, count: int) -> npt.NDArray[np.int64]:
    """Read GOT-10k's visible share of the target, eighths from 0 to 8, one per frame."""
    fields = [field for line in read_lines(path) for field in split_fields(line)]
    wrong = [field for field in fields if field not in set("012345678")]
    if wrong or len(fields) != count:
        came = repr(printable(wrong[0])) if wrong else f"{len(fields)} values"
        raise SourceError(f"{path}: expected {count} values 0 to 8, got {came}")
    return np.array(fields, dtype=np.int64)


def _find_trackingnet(root: Path) -> dict[str, Reader]:
    base = root / "TEST" if (root / "TEST").is_dir() else root
    names = {path.stem for path in base.glob("anno/*.txt")}
    names |= {path.name for path in base.glob("frames/*") if path.is_dir()}
    return {name: partial(_read_trackingnet, base, name) for name in names}


def _read_trackingnet(base: Path, name: str) -> AnnotatedSequence:
    truth = base / "anno" / f"{name}.txt"
    frames = list_images(base / "frames" / name)
    return checked_sequence(name, frames, read_boxes(truth), truth, may_withhold=True)


def _find_uav(part: str, root: Path) -> dict[str, Reader]:
    names = [path.stem for path in (root / "anno" / part).glob("*.txt")]
    return {name: partial(_read_uav, root, part, name) for name in names}


def _read_uav(root: Path, part: str, name: str) -> AnnotatedSequence:
    truth = root / "anno" / part / f"{name}.txt"
    boxes = read_boxes(truth)
    folder, start = _UAV123_PARTS.get(name, (name, 1))
    images = root / "data_seq" / "UAV123" / folder
    there = {_number(image): image for image in list_images(images)}
    numbers = range(start, start + len(boxes))
    missing = [each for each in numbers if each not in there]
    if missing:
        raise SourceError(
            f"{images / f'{missing[0]:06d}.jpg'}: expected an image, found none "
            f"({truth} has {len(boxes)} lines, for images {start} to {numbers[-1]})"
        )
    attributes = _attributes(root, (f"anno/{part}/att",), name, UAV123_ATTRIBUTES)
    return checked_sequence(name, [there[each] for each in numbers], boxes, truth, attributes)


def _find_tnl2k(root: Path) -> dict[str, Reader]:
    folders = _folders(root, "*/groundtruth.txt", "*/imgs")
    return {folder.name: partial(_read_tnl2k, folder) for folder in folders}


def _read_tnl2k(folder: Path) -> AnnotatedSequence:
    truth = folder / "groundtruth.txt"
    boxes = read_boxes(truth)
    boxes[1:][(boxes[1:, 2:] <= 0).any(axis=1)] = np.nan
    return checked_sequence(folder.name, list_images(folder / "imgs"), boxes, truth)


def _find_nfs(rate: int, root: Path) -> dict[str, Reader]:
    folders = {path.parent for path in root.glob(f"*/{rate}") if path.is_dir()}
    return {folder.name: partial(_read_nfs, folder, rate) for folder in folders}


def _read_nfs(folder: Path, rate: int) -> AnnotatedSequence:
    """Read lines `id left top right bottom frame lost occluded generated "class"`."""
    truth = folder / str(rate) / f"{folder.name}.txt"
    rows = []
    for number, line in enumerate(read_lines(truth), start=1):
        corners = _numbers(split_fields(line)[1:5])
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


def _find_vot(root: Path) -> dict[str, Reader]:
    base = root / "sequences" if (root / "sequences").is_dir() else root
    readers: dict[str, Reader] = {}
    for folder in _folders(base, "*/groundtruth*.txt", "*/color", "*/sequence"):
        several = sorted(
            folder.glob("groundtruth_*.txt"), key=lambda path: natural_order(path.name)
        )
        for truth in several or [folder / "groundtruth.txt"]:
            target = truth.stem.partition("_")[2]
            name = f"{folder.name}.{target}" if len(several) > 1 else folder.name
            readers[name] = partial(_read_vot, folder, truth, name)
    return readers


def _read_vot(folder: Path, truth: Path, name: str) -> AnnotatedSequence:
    frames = list_images(_vot_images(folder))
    rows = [_vot_region(truth, number, line) for number, line in enumerate(read_lines(truth), 1)]
    boxes = np.array(rows, dtype=np.float64).reshape(-1, 4)
    if len(boxes) < len(frames):
        # The toolkit takes frames after the last line as frames without a known region.
        missing = np.full((len(frames) - len(boxes), 4), np.nan)
        boxes = np.vstack([boxes, missing])
    tags = sorted([*folder.glob("*.tag"), *folder.glob("*.label")])
    attributes = tuple(path.stem for path in tags if "1" in map(str.strip, read_lines(path)))
    return checked_sequence(name, frames, boxes, truth, attributes)


def _vot_images(folder: Path) -> Path:
    if (folder / "sequence").is_file():
        for line in read_lines(folder / "sequence"):
            key, _, value = line.partition("=")
            if key.strip() == "channels.color":
                pattern = Path(value.strip())
                return folder / (pattern.parent if pattern.suffix else pattern)
    return folder / "color" if (folder / "color").is_dir() else folder


def _vot_region(path: Path, number: int, line: str) -> tuple[float, float, float, float]:
    """Upright box of one region: rectangle, polygon, mask, or a code for "none"."""
    text = line.strip()
    values = _numbers(split_fields(text.removeprefix("m")))
    mask = text.startswith("m")
    if mask and len(values) > 4 and all(v >= 0 and v == int(v) for v in values[2:]):
        box = _mask_box([int(value) for value in values])
        if box is not None:
            return box
    elif not mask and len(values) == 1:
        return (math.nan,) * 4
    elif not mask and len(values) >= 4 and len(values) % 2 == 0:
        if any(map(math.isnan, values)):
            return (math.nan,) * 4
        if not any(map(math.isinf, values)):
            return polygon_box(values) if len(values) > 4 else tuple(values)  # type: ignore
    raise SourceError(
        f"{path}, line {number}: expected x,y,w,h, a polygon x1,y1,x2,y2,.., a mask m.. or a code, "
        f"got {printable(text)!r}"
    )


def polygon_box(values: Iterable[float]) -> tuple[float, float, float, float]:
    """Smallest upright box x, y, w, h around the points x1, y1, x2, y2 .."""
    points = np.array(list(values), dtype=np.float64).reshape(-1, 2)
    (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
    return float(left), float(top), float(right - left), float(bottom - top)


def _mask_box(values: list[int]) -> tuple[float, float, float, float] | None:
    """Box around the set pixels of a VOT mask: x, y, w, h of its window, then run lengths.

    Runs go along the rows of the window, clear and set pixels in turn. None if they overrun it; a
    mask without a set pixel is an absent target.
    """
    x, y, width, height, *runs = values
    ends = np.cumsum(runs)
    if ends[-1] > width * height:
        return None
    # Without drawing the mask: a damaged line may claim a window of any size.
    starts, stops = ends[0::2][: len(ends) // 2], ends[1::2]
    starts, stops = starts[stops > starts], stops[stops > starts]
    if not starts.size:
        return (math.nan,) * 4
    top, bottom = int(starts[0]) // width, int(stops[-1] - 1) // width
    wraps = starts // width != (stops - 1) // width
    left = int(np.where(wraps, 0, starts % width).min())
    right = int(np.where(wraps, width - 1, (stops - 1) % width).max())
    return float(x + left), float(y + top), float(right - left + 1), float(bottom - top + 1)


LAYOUTS: dict[str, Layout] = {
    "plain": Layout("NAME/groundtruth_rect.txt", _find_plain),
    "otb": Layout("NAME/groundtruth_rect.txt", _find_otb),
    "lasot": Layout("CLASS/NAME/groundtruth.txt", _find_lasot, ("testing_set.txt",)),
    "got10k": Layout("NAME/groundtruth.txt", _find_got10k, ("list.txt",)),
    "trackingnet": Layout("TEST/anno/NAME.txt", _find_trackingnet),
    "uav123": Layout("anno/UAV123/NAME.txt", partial(_find_uav, "UAV123")),
    "uav20l": Layout("anno/UAV20L/NAME.txt", partial(_find_uav, "UAV20L")),
    "tnl2k": Layout("NAME/groundtruth.txt", _find_tnl2k),
    "nfs": Layout("NAME/30/NAME.txt", partial(_find_nfs, 30)),
    "nfs240": Layout("NAME/240/NAME.txt", partial(_find_nfs, 240)),
    "vot": Layout("NAME/groundtruth.txt", _find_vot, ("list.txt", "sequences/list.txt")),
}
"""Value of `evaluate --dataset` -> layout."""


def _folders(root: Path, *globs: str) -> list[Path]:
    return sorted({found.parent for glob in globs for found in root.glob(glob)})


def _attributes(
    root: Path, folders: tuple[str, ...], name: str, columns: tuple[str, ...]
) -> tuple[str, ...]:
    """Attributes whose flag is set in `FOLDER/NAME.txt`; none where there is no such file."""
    for folder in folders:
        path = root / folder / f"{name}.txt"
        if path.is_file():
            flags = read_flags(path, len(columns))
            return tuple(column for column, flag in zip(columns, flags, strict=True) if flag)
    return ()


def _numbers(fields: list[str]) -> list[float]:
    """The fields as numbers; empty if one is none."""
    try:
        return [float(field) for field in fields]
    except ValueError:
        return []


def _number(image: Path) -> int:
    """The number in an image's name; -1 if there is none."""
    return int(image.stem) if image.stem.isdigit() else -1
