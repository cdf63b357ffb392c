"""Square crops around a box, bit for bit as the reference crops them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from mixformerv2_ros.errors import BoxError
from mixformerv2_ros.tracking.boxes import Box
from mixformerv2_ros.tracking.pixels import Pixels, ReducedPixels

NEUTRAL = np.array([123.675, 116.28, 103.53], dtype=np.float32)
"""The RGB colour that normalisation maps to zero."""


class CropWindow(NamedTuple):
    """A square of whole pixels in an image: top-left corner and side; may hang over the border."""

    x: int
    y: int
    side: int


class Picture(Protocol):
    """What a crop is taken from: `Pixels`, or a training picture."""

    @property
    def width(self) -> int:
        """Width in pixels."""

    @property
    def height(self) -> int:
        """Height in pixels."""

    def rgb(self, x1: int, y1: int, x2: int, y2: int) -> npt.NDArray[np.uint8]:
        """Columns x1 to x2 and rows y1 to y2 (exclusive) as (H, W, 3) RGB; may be a view."""


def crop_window(box: Box, factor: float) -> CropWindow:
    """The window of side `ceil(sqrt(w * h) * factor)` around the middle of `box`.

    Raises:
        BoxError: the box is too small for a window of one pixel.
    """
    side = math.ceil(math.sqrt(box.w * box.h) * factor)
    if side < 1:
        raise BoxError(f"box must cover at least a part of a pixel, got {box.w:g}x{box.h:g}")
    # Python rounds ties to even, and so does the reference.
    x = round(box.x + 0.5 * box.w - side * 0.5)
    y = round(box.y + 0.5 * box.h - side * 0.5)
    return CropWindow(x, y, side)


def crop_and_resize(
    image: Picture,
    window: CropWindow,
    out: npt.NDArray[np.uint8],
    canvas: npt.NDArray[np.uint8] | None = None,
) -> None:
    """Fill `out` (S, S, 3) uint8 with the RGB content of `window`, resized.

    What lies outside of the image is black. A window that reaches the right or lower border loses
    its last column or row to black as well: the reference pads one pixel too much, and trained
    weights have seen it.

    From `ReducedPixels` the reduced copy is resized where it has as many pixels as `out`; such a
    crop is smoother: it is not made of single pixels of the image.

    Args:
        image: What to crop from.
        window: Where.
        out: Where to.
        canvas: (N, N, 3) uint8 zeros, zeros again afterwards. It takes the place of a new border
            for windows up to N, which saves clearing one that is larger than the image.

    Raises:
        BoxError: the window does not overlap the image.
    """
    x1, y1 = max(window.x, 0), max(window.y, 0)
    x2 = min(window.x + window.side, image.width - 1)
    y2 = min(window.y + window.side, image.height - 1)
    if x1 >= x2 or y1 >= y2:
        raise BoxError(
            f"crop of {window.side} px at {window.x},{window.y} must overlap the "
            f"{image.width}x{image.height} image"
        )
    if isinstance(image, ReducedPixels) and window.side >= image.reduction * len(out):
        _crop_reduced(image, window, out)
        return
    if isinstance(image, Pixels):
        patch, code = image.stored(x1, y1, x2, y2)
    else:
        patch, code = image.rgb(x1, y1, x2, y2), None
    size = out.shape[:2]
    # Channels are resized alike: what has three is resized in place, then put in order.
    target = out if patch.shape[2:] == out.shape[2:] else None
    if (x2 - x1, y2 - y1) == (window.side, window.side):
        resized = cv2.resize(patch, size, dst=target, interpolation=cv2.INTER_LINEAR)
    elif canvas is not None and window.side <= len(canvas) and patch.shape[2:] == out.shape[2:]:
        place = canvas[y1 - window.y : y2 - window.y, x1 - window.x : x2 - window.x]
        place[:] = patch
        square = canvas[: window.side, : window.side]
        resized = cv2.resize(square, size, dst=target, interpolation=cv2.INTER_LINEAR)
        place[:] = 0
    else:
        padded = cv2.copyMakeBorder(
            patch,
            top=y1 - window.y,
            bottom=window.y + window.side - y2,
            left=x1 - window.x,
            right=window.x + window.side - x2,
            borderType=cv2.BORDER_CONSTANT,
        )
        resized = cv2.resize(padded, size, dst=target, interpolation=cv2.INTER_LINEAR)
    if code is not None:
        cv2.cvtColor(resized, code, dst=out)


def _crop_reduced(image: ReducedPixels, window: CropWindow, out: npt.NDArray[np.uint8]) -> None:
    """`crop_and_resize` from the reduced copy, whose pixels stand for squares of the image."""
    small, reduction, size = image.reduced, image.reduction, len(out)
    step = window.side / size
    corners, inside = [], []
    for start, limit, length in (
        (window.x, small.width, image.width),
        (window.y, small.height, image.height),
    ):
        first = max(start // reduction - 1, 0)
        last = min((start + window.side) // reduction + 2, limit)
        # Pixel i of the crop is in the middle of its part of the window, which is at ...
        offset = (start + 0.5 * step) / reduction - 0.5 - first
        corners.append((first, last, offset))
        # ... start + (i + 0.5) * step - 0.5 in the image, black beyond its last pixel but one.
        begin = math.ceil(-start / step - 0.5)
        end = math.floor((length - 1 - start) / step - 0.5) + 1
        inside.append(slice(min(max(begin, 0), size), min(max(end, 0), size)))
    (x1, x2, dx), (y1, y2, dy) = corners
    scale = step / reduction
    patch, code = small.stored(x1, y1, x2, y2)
    warped = cv2.warpAffine(
        patch,
        np.array([[scale, 0, dx], [0, scale, dy]]),
        (size, size),
        dst=out if patch.shape[2:] == out.shape[2:] else None,
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    if code is not None:
        cv2.cvtColor(warped, code, dst=out)
    columns, rows = inside
    out[: rows.start] = 0
    out[rows.stop :] = 0
    out[:, : columns.start] = 0
    out[:, columns.stop :] = 0


def cover(crop: npt.NDArray[np.uint8], window: CropWindow, box: Box) -> None:
    """Paint a box over with the neutral colour.

    Args:
        crop: (S, S, 3) uint8 RGB, what `window` shows; changed in place.
        window: Where the crop is in the image.
        box: In pixels of the image; what is outside of the crop is left out.
    """
    scale = len(crop) / window.side
    x1, x2 = (_inside((x - window.x) * scale, len(crop)) for x in (box.x, box.x + box.w))
    y1, y2 = (_inside((y - window.y) * scale, len(crop)) for y in (box.y, box.y + box.h))
    crop[y1:y2, x1:x2] = np.round(NEUTRAL)


def _inside(value: float, side: int) -> int:
    return min(max(round(value), 0), side)


def attenuate_background(
    crop: npt.NDArray[np.uint8],
    corners: Sequence[float] | npt.NDArray[np.float64],
    contrast: float,
) -> npt.NDArray[np.uint8]:
    """Reduce the contrast of a template around the target's box towards a neutral grey.

    A template crop is a square around the target: it shows where the target is and how large, but
    not which shape its box has; of a person, the same crop may stand for the whole or for the head.
    The reduced contrast outside the box does. Ours, not in the paper; networks must have been
    trained with it.

    Args:
        crop: (T, T, 3) uint8 RGB.
        corners: x1, y1, x2, y2 of the target in the crop, in its pixels.
        contrast: Remaining contrast outside the box; 1 returns the crop itself.

    Returns:
        A new crop, or `crop` if nothing changes.
    """
    if contrast >= 1:
        return crop
    side = crop.shape[0]
    x1, y1, x2, y2 = (_inside(float(corner), side) for corner in corners)
    ramp = np.arange(256, dtype=np.float32)[:, None]
    table = np.round(NEUTRAL + contrast * (ramp - NEUTRAL)).astype(np.uint8)
    attenuated = np.asarray(cv2.LUT(crop, table[None]), dtype=np.uint8)
    attenuated[y1:y2, x1:x2] = crop[y1:y2, x1:x2]
    return attenuated
