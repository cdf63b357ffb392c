"""VOT: `NAME/color/`, `NAME/groundtruth.txt` with rectangles, polygons or masks."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np

from mixformerv2_ros.errors import SourceError
from mixformerv2_ros.io.images import list_images
from mixformerv2_ros.lab.datasets.sequence_files import Reader, folders_with, to_numbers
from mixformerv2_ros.lab.datasets.sequences import (
    AnnotatedSequence,
    checked_sequence,
    parse_lines,
    read_lines,
    split_fields,
)
from mixformerv2_ros.text import natural_order, printable


def find_vot(root: Path) -> dict[str, Reader]:
    """Readers of all sequences, by name; several targets of one folder are `NAME.TARGET`."""
    base = root / "sequences" if (root / "sequences").is_dir() else root
    readers: dict[str, Reader] = {}
    for folder in folders_with(base, "*/groundtruth*.txt", "*/color", "*/sequence"):
        several = sorted(
            folder.glob("groundtruth_*.txt"), key=lambda path: natural_order(path.name)
        )
        for truth in several or [folder / "groundtruth.txt"]:
            target = truth.stem.partition("_")[2]
            name = f"{folder.name}.{target}" if len(several) > 1 else folder.name
            readers[name] = partial(_read_sequence, folder, truth, name)
    return readers


def _read_sequence(folder: Path, truth: Path, name: str) -> AnnotatedSequence:
    frames = list_images(_image_folder(folder))
    rows = parse_lines(partial(parse_region, truth), read_lines(truth))
    boxes = np.array(rows, dtype=np.float64).reshape(-1, 4)
    if len(boxes) < len(frames):
        # The toolkit takes frames after the last line as frames without a known region.
        missing = np.full((len(frames) - len(boxes), 4), np.nan)
        boxes = np.vstack([boxes, missing])
    tags = sorted([*folder.glob("*.tag"), *folder.glob("*.label")])
    attributes = tuple(path.stem for path in tags if "1" in map(str.strip, read_lines(path)))
    return checked_sequence(name, frames, boxes, truth, attributes)


def _image_folder(folder: Path) -> Path:
    if (folder / "sequence").is_file():
        for line in read_lines(folder / "sequence"):
            key, _, value = line.partition("=")
            if key.strip() == "channels.color":
                pattern = Path(value.strip())
                return folder / (pattern.parent if pattern.suffix else pattern)
    return folder / "color" if (folder / "color").is_dir() else folder


def parse_region(path: Path, number: int, line: str) -> tuple[float, float, float, float]:
    """Upright box of one region: rectangle, polygon, mask, or a code for "none"."""
    text = line.strip()
    values = to_numbers(split_fields(text.removeprefix("m")))
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
