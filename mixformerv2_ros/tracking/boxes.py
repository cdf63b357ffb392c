"""Boxes in image pixels.

One convention everywhere in the package: `x, y` is the top-left corner, `w, h` the size, all in
pixels of the image that the box came with, as floats; the pixel in the top-left corner of the image
covers [0, 1) x [0, 1).
"""

from __future__ import annotations

import math
from typing import NamedTuple

from mixformerv2_ros.errors import BoxError, ImageError

MARGIN = 10.0
"""Smallest side of a tracked box and smallest overlap with the image, in pixels (reference: 10)."""

MAX_AREA = 4.0
"""Largest area of a box over that of its image; crops would else take any amount of memory."""


class Box(NamedTuple):
    """An axis-aligned box: top-left corner and size, in pixels."""

    x: float
    y: float
    w: float
    h: float

    @property
    def center(self) -> tuple[float, float]:
        """Centre (x, y) in pixels."""
        return self.x + 0.5 * self.w, self.y + 0.5 * self.h

    @property
    def area(self) -> float:
        """Area in square pixels."""
        return self.w * self.h

    @property
    def xyxy(self) -> tuple[float, float, float, float]:
        """Corners x1, y1, x2, y2 in pixels: left, top, right, bottom."""
        return self.x, self.y, self.x + self.w, self.y + self.h

    @classmethod
    def from_xyxy(cls, x1: float, y1: float, x2: float, y2: float) -> Box:
        """Make a box of its corners in pixels."""
        return cls(x1, y1, x2 - x1, y2 - y1)

    @classmethod
    def parse(cls, text: str) -> Box:
        """Read a box from `x,y,w,h` as typed on a command line.

        Raises:
            BoxError: unless the text is four comma-separated numbers.
        """
        try:
            x, y, w, h = (float(part) for part in text.split(","))
        except ValueError:
            raise BoxError(f"box must be four numbers x,y,w,h, got {text!r}") from None
        return cls(x, y, w, h)


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes; 0 where either is empty."""
    width = min(a.x + a.w, b.x + b.w) - max(a.x, b.x)
    height = min(a.y + a.h, b.y + b.h) - max(a.y, b.y)
    if not (width > 0 and height > 0):
        return 0.0
    intersection = width * height
    return intersection / (a.area + b.area - intersection)


def check_form(box: Box) -> Box:
    """Return `box` if it is one, whatever the image.

    Raises:
        BoxError: the box is not finite, or has no area.
    """
    described = f"{box.x:g},{box.y:g},{box.w:g},{box.h:g}"
    if not all(math.isfinite(value) for value in box):
        raise BoxError(f"box must be four finite numbers x,y,w,h, got {described}")
    if box.w <= 0 or box.h <= 0:
        raise BoxError(f"box width and height must be positive, got {described}")
    return box


def check_box(box: Box, image_width: int, image_height: int) -> Box:
    """Return `box` if a target can be tracked from it in an image of the given size.

    A box may hang over the border of the image but must overlap it.

    Raises:
        ImageError: the image is smaller than 10 px on a side.
        BoxError: the box is not finite, has no area, or lies outside the image.
    """
    if min(image_width, image_height) < MARGIN:
        raise ImageError(
            f"image must be at least {MARGIN:.0f} px on each side, got {image_width}x{image_height}"
        )
    check_form(box)
    described = f"{box.x:g},{box.y:g},{box.w:g},{box.h:g}"
    if box.x >= image_width or box.y >= image_height or box.x + box.w <= 0 or box.y + box.h <= 0:
        raise BoxError(f"box must overlap the {image_width}x{image_height} image, got {described}")
    sides = box.w / image_width, box.h / image_height
    # A side can be huge while the area is small.
    if max(*sides, sides[0] * sides[1]) > MAX_AREA:
        raise BoxError(
            f"box must be at most {MAX_AREA:.0f} times the {image_width}x{image_height} image, "
            f"got {described}"
        )
    return box


def clip_box(box: Box, image_width: int, image_height: int, margin: float = MARGIN) -> Box:
    """Clip a predicted box so that at least `margin` pixels of it stay in the image.

    Sides never fall below `margin`; a box wholly outside becomes a strip at that border. The order
    of the comparisons is the reference's, so that NaN gives (0, 0, margin, margin) like there
    (a NaN box must not survive into the next frame's crop).
    """
    x1 = min(max(0.0, box.x), image_width - margin)
    x2 = min(max(margin, box.x + box.w), float(image_width))
    y1 = min(max(0.0, box.y), image_height - margin)
    y2 = min(max(margin, box.y + box.h), float(image_height))
    return Box(x1, y1, max(margin, x2 - x1), max(margin, y2 - y1))
