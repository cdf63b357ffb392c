"""Annotated images and clips, decoded into memory: the input of the synthetic dataset."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from mixformerv2_ros.errors import SourceError
from mixformerv2_ros.io.images import read_image
from mixformerv2_ros.lab.datasets.sequences import plain_sequence, read_lines

Image = npt.NDArray[np.uint8]
Boxes = npt.NDArray[np.float64]

VALIDATION_STEP = 20
"""Every twentieth still is used for validation."""


@dataclass(frozen=True)
class Still:
    """One annotated image.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        boxes: (N, 4) x, y, w, h in pixels.
        labels: N category names.
        masks: N masks of the objects, (h, w) uint8 with 255 for the object, each stretched over its
            box; None without a mask.
    """

    image: Image
    boxes: Boxes
    labels: tuple[str, ...]
    masks: tuple[Image | None, ...]


@dataclass(frozen=True)
class DecodedClip:
    """One annotated video, frames without the target left out.

    Attributes:
        name: Name of the sequence.
        images: Frames, each (H, W, 3) uint8 RGB.
        boxes: (N, 4) x, y, w, h in pixels.
    """

    name: str
    images: tuple[Image, ...]
    boxes: Boxes


def read_stills(folder: Path) -> list[Still]:
    """Read `images/` and `boxes.csv` (image,x,y,w,h,label; pixels, top-left) below `folder`.

    `masks/STEM_N.png`, if it exists, is the mask of box N (from 0) of the image `STEM`.

    Raises:
        SourceError: the list or an image is missing, or a line is malformed.
        ImageError: an image cannot be decoded.
    """
    return [
        Still(
            image=read_image(folder / "images" / name).rgb(),
            boxes=np.array([box for box, _ in entries], dtype=np.float64),
            labels=tuple(label for _, label in entries),
            masks=tuple(_read_mask(folder, name, i) for i in range(len(entries))),
        )
        for name, entries in read_box_list(folder / "boxes.csv").items()
    ]


def read_box_list(listing: Path) -> dict[str, list[tuple[list[float], str]]]:
    """Read a CSV with columns image,x,y,w,h,label: boxes and labels by image, in file order.

    Raises:
        SourceError: the list is missing or a line is malformed.
    """
    if not listing.is_file():
        raise SourceError(f"{listing}: expected a list of boxes (image,x,y,w,h,label)")
    found: dict[str, list[tuple[list[float], str]]] = {}
    lines = csv.DictReader(read_lines(listing))
    for number, row in enumerate(lines, start=2):
        try:
            box = [float(row[side]) for side in ("x", "y", "w", "h")]
            entry = (box, row["label"])
            if not all(map(math.isfinite, box)):
                raise ValueError(box)
            found.setdefault(row["image"], []).append(entry)
        except (KeyError, TypeError, ValueError):
            raise SourceError(
                f"{listing}:{number}: expected image,x,y,w,h,label, got {list(row.values())}"
            ) from None
    return found


def _read_mask(folder: Path, name: str, number: int) -> Image | None:
    path = folder / "masks" / f"{Path(name).stem}_{number}.png"
    if not path.is_file():
        return None
    return np.asarray(cv2.cvtColor(read_image(path).rgb(), cv2.COLOR_RGB2GRAY), np.uint8)


def read_clips(folder: Path, exclude: Sequence[str]) -> list[DecodedClip]:
    """Read all sequences below `folder` except those named in `exclude`.

    Raises:
        SourceError: a file is missing or malformed.
        ImageError: a frame cannot be decoded.
    """
    clips = []
    for path in sorted(folder.iterdir()):
        if not path.is_dir() or path.name in exclude:
            continue
        sequence = plain_sequence(path)
        visible = np.isfinite(sequence.boxes).all(axis=1) & (sequence.boxes[:, 2:] > 0).all(axis=1)
        clips.append(
            DecodedClip(
                name=path.name,
                images=tuple(read_image(f).rgb() for f in np.array(sequence.frames)[visible]),
                boxes=sequence.boxes[visible],
            )
        )
    return clips
