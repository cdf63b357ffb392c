"""Annotated images and clips, decoded into memory: the input of the synthetic dataset."""

from __future__ import annotations

import csv
import itertools
import logging
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from mixformerv2_ros.errors import ImageError, MixFormerError, SourceError
from mixformerv2_ros.io.images import read_image
from mixformerv2_ros.lab.datasets.sequences import (
    AnnotatedSequence,
    check_inside,
    parse_lines,
    read_lines,
)

log = logging.getLogger(__name__)

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


@dataclass(frozen=True, eq=False)
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


def read_stills(folder: Path, max_unreadable: float = 0.0) -> list[Still]:
    """Read `images/` and `boxes.csv` (image,x,y,w,h,label; pixels, top-left) below `folder`.

    `masks/STEM_N.png`, if it exists, is the mask of box N (from 0) of the image `STEM`.

    Args:
        folder: The folder.
        max_unreadable: Fraction of the images that may be unreadable; these are left out.

    Raises:
        SourceError: the list or an image is missing, or too many images are unreadable.
        AnnotationError: lines are malformed.
        ImageError: an image cannot be decoded, and none may be left out.
    """
    lists = read_box_list(folder / "boxes.csv")
    images = _read_all([folder / "images" / name for name in lists], max_unreadable)
    named = [(name, i) for name, entries in lists.items() for i in range(len(entries))]
    with ThreadPoolExecutor() as pool:
        masks = iter(list(pool.map(lambda one: _read_mask(folder, *one), named)))
    stills = []
    for image, entries in zip(images, lists.values(), strict=True):
        own = tuple(itertools.islice(masks, len(entries)))
        if image is not None:
            still = Still(
                image=image,
                boxes=np.array([box for box, _ in entries], dtype=np.float64),
                labels=tuple(label for _, label in entries),
                masks=own,
            )
            stills.append(still)
    return stills


def _read_all(paths: Sequence[Path], max_unreadable: float) -> list[Image | None]:
    """Images, (H, W, 3) uint8 RGB, decoded by as many threads as there are cores.

    An image that cannot be read is None, if a fraction `max_unreadable` may be left out.
    """
    images: list[Image | None] = []
    unreadable = 0
    with ThreadPoolExecutor() as pool:
        for found in pool.map(_readable, paths):
            if isinstance(found, MixFormerError):
                if not max_unreadable:
                    pool.shutdown(cancel_futures=True)
                    raise found
                unreadable += 1
                if unreadable > max_unreadable * len(paths):
                    pool.shutdown(cancel_futures=True)
                    of = f"{len(paths)} images"
                    raise too_many_unreadable(str(found), unreadable, of, max_unreadable)
                log.warning("left out: %s", found)
            images.append(None if isinstance(found, MixFormerError) else found)
    return images


def _readable(path: Path) -> Image | MixFormerError:
    """An image, or why it cannot be read: which error counts is known only in the images' order."""
    try:
        return read_image(path).rgb()
    except (SourceError, ImageError) as error:
        return error


def too_many_unreadable(last: str, unreadable: int, of: str, share: float) -> SourceError:
    """The error that ends a training with more unreadable images than its settings permit."""
    return SourceError(f"{last}; {unreadable} of {of} unreadable, data.max_unreadable is {share:g}")


def read_box_list(listing: Path) -> dict[str, list[tuple[list[float], str]]]:
    """Read a CSV with columns image,x,y,w,h,label: boxes and labels by image, in file order.

    Raises:
        SourceError: the list is missing.
        AnnotationError: lines are malformed.
    """
    if not listing.is_file():
        raise SourceError(f"{listing}: expected a list of boxes (image,x,y,w,h,label)")

    def parse(number: int, row: dict[str, str]) -> tuple[str, list[float], str]:
        try:
            box = [float(row[side]) for side in ("x", "y", "w", "h")]
            if not all(map(math.isfinite, box)):
                raise ValueError(box)
            return check_inside(f"{listing}:{number}", row["image"]), box, row["label"]
        except (KeyError, TypeError, ValueError):
            raise SourceError(
                f"{listing}:{number}: expected image,x,y,w,h,label, got {list(row.values())}"
            ) from None

    found: dict[str, list[tuple[list[float], str]]] = {}
    for image, box, label in parse_lines(parse, csv.DictReader(read_lines(listing)), first=2):
        found.setdefault(image, []).append((box, label))
    return found


def _read_mask(folder: Path, name: str, number: int) -> Image | None:
    path = folder / "masks" / f"{Path(name).stem}_{number}.png"
    if not path.is_file():
        return None
    return np.asarray(cv2.cvtColor(read_image(path).rgb(), cv2.COLOR_RGB2GRAY), np.uint8)


def decode_clips(
    sequences: Sequence[AnnotatedSequence], max_unreadable: float = 0.0
) -> list[DecodedClip]:
    """Decode the frames of sequences in which the target is visible.

    A frame that several sequences link to, one for each target in it, is decoded and kept once.

    Args:
        sequences: The sequences.
        max_unreadable: Fraction of these frames that may be unreadable; these are left out.

    Raises:
        SourceError: an image is missing, or too many images are unreadable.
        ImageError: a frame cannot be decoded, and none may be left out.
    """
    visible = [
        np.flatnonzero(np.isfinite(one.boxes).all(axis=1) & (one.boxes[:, 2:] > 0).all(axis=1))
        for one in sequences
    ]
    paths = [
        [one.frames[i].resolve() for i in frames]
        for one, frames in zip(sequences, visible, strict=True)
    ]
    different = list(dict.fromkeys(itertools.chain.from_iterable(paths)))
    decoded = dict(zip(different, _read_all(different, max_unreadable), strict=True))
    clips = []
    for sequence, frames, names in zip(sequences, visible, paths, strict=True):
        images = [decoded[name] for name in names]
        kept = [i for i, image in zip(frames, images, strict=True) if image is not None]
        clips.append(
            DecodedClip(
                name=sequence.name,
                images=tuple(image for image in images if image is not None),
                boxes=sequence.boxes[kept],
            )
        )
    return clips
