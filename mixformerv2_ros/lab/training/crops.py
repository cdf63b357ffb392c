"""Crops and labels as in the published training (specification, section 4.2).

The order is: augmentation common to all images of a sample (greyscale, flip), of which only the
cropped part is computed; box jitter and crop; augmentation of the individual crops.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from mixformerv2_ros.errors import BoxError
from mixformerv2_ros.lab.datasets.annotated_images import Image
from mixformerv2_ros.lab.training.augment import to_grey
from mixformerv2_ros.tracking.boxes import Box
from mixformerv2_ros.tracking.crop import CropWindow, crop_and_resize, crop_window

PATCH = 16
"""Side of a token's patch in pixels."""
CANVAS = 4096
"""Side of the scratch image in which crops are padded, in pixels."""
MAX_SIDE = 20_000
"""Maximum side of a crop window in pixels; that around a damaged box could exhaust the memory."""


@dataclass(frozen=True)
class AugmentedImage:
    """An image with the augmentation that all crops of a sample share, computed on demand.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        flipped: Whether it is flipped horizontally.
        grey: Whether it is converted to greyscale.
    """

    image: Image
    flipped: bool = False
    grey: bool = False

    @property
    def width(self) -> int:
        """Width in pixels."""
        return int(self.image.shape[1])

    @property
    def height(self) -> int:
        """Height in pixels."""
        return int(self.image.shape[0])

    def rgb(self, x1: int, y1: int, x2: int, y2: int) -> Image:
        """Columns x1 to x2 and rows y1 to y2 (exclusive); must lie within the image."""
        if self.flipped:
            x1, x2 = self.width - x2, self.width - x1
        patch = self.image[y1:y2, x1:x2]
        if self.flipped:
            patch = np.asarray(cv2.flip(patch, 1), np.uint8)
        return to_grey(patch) if self.grey else patch

    def box(self, box: Box) -> Box:
        """A box of the original image, in coordinates of this one."""
        return box._replace(x=self.width - box.x - box.w) if self.flipped else box


@dataclass(frozen=True)
class Crop:
    """A crop and the target's box in it.

    Attributes:
        image: (O, O, 3) uint8 RGB.
        edges: (4,) float64 left, top, right, bottom over the crop's side; may exceed [0, 1].
    """

    image: Image
    edges: npt.NDArray[np.float64]


def jitter_box(box: Box, rng: np.random.Generator, center: float, scale: float) -> Box:
    """The box to crop around: the target's with random size and position.

    Each side is multiplied by exp(scale * N(0, 1)); each coordinate of the centre moves by U(-0.5,
    0.5) * center * sqrt(w' * h'), w' and h' being the new sides.
    """
    if not center and not scale:
        return box
    wider, higher = rng.standard_normal(2).tolist()
    right, down = rng.random(2).tolist()
    w, h = box.w * math.exp(scale * wider), box.h * math.exp(scale * higher)
    reach = center * math.sqrt(w * h)
    (x, y) = box.center
    return Box(x + (right - 0.5) * reach - 0.5 * w, y + (down - 0.5) * reach - 0.5 * h, w, h)


def crop_around(
    image: AugmentedImage, around: Box, target: Box, factor: float, size: int
) -> Crop | None:
    """Make the tracker's crop around one box, with another one as label.

    Args:
        image: The image.
        around: Box to crop around, in pixels of the image.
        target: The target's box, in pixels of the image.
        factor: Side of the crop over sqrt(w * h).
        size: Side of the result in pixels.

    Returns:
        The crop; None if it is rejected, because it is smaller than a pixel or because none of its
        patches begins within the image.
    """
    if not (around.w > 0 and around.h > 0 and around.w * around.h * factor**2 < MAX_SIDE**2):
        return None
    window = crop_window(around, factor)
    if not shows_image(window, image.width, image.height, size):
        return None
    crop = np.empty((size, size, 3), np.uint8)
    try:
        crop_and_resize(image, window, crop, _canvas())
    except BoxError:
        return None
    return Crop(crop, label_edges(target, around, window.side, size))


def label_edges(target: Box, around: Box, side: int, size: int) -> npt.NDArray[np.float64]:
    """The target's left, top, right and bottom in a crop, over the crop's side.

    The centre maps to (size - 1) / 2 + (target - around) * size / side, half a crop pixel off the
    tracker's mapping, and ignores the rounding of the window to whole pixels: the published labels.
    """
    factor = size / side
    (x, y), (cx, cy) = target.center, around.center
    x, y = 0.5 * (size - 1) + (x - cx) * factor, 0.5 * (size - 1) + (y - cy) * factor
    w, h = 0.5 * target.w * factor, 0.5 * target.h * factor
    return np.array([x - w, y - h, x + w, y + h]) / size


def shows_image(window: CropWindow, width: int, height: int, size: int) -> bool:
    """Whether the padding mask, downsampled to patches (nearest), is not all padding."""
    columns = max(-window.x, 0), min(window.side, width - 1 - window.x)
    rows = max(-window.y, 0), min(window.side, height - 1 - window.y)
    return _any_inside(*columns, window.side, size) and _any_inside(*rows, window.side, size)


def _any_inside(start: int, stop: int, side: int, size: int) -> bool:
    """Whether the first pixel of some patch depends on start..stop (exclusive) of a line alone."""
    step = side / size
    for pixel in range(0, size, PATCH):
        at = (pixel + 0.5) * step - 0.5
        first, last = max(math.floor(at), 0), min(math.ceil(at), side - 1)
        if start <= first and last < stop:
            return True
    return False


_SCRATCH = threading.local()


def _canvas() -> Image:
    """The thread's canvas for padding: most crops of large targets exceed their image."""
    if not hasattr(_SCRATCH, "canvas"):
        _SCRATCH.canvas = np.zeros((CANVAS, CANVAS, 3), np.uint8)
    canvas: Image = _SCRATCH.canvas
    return canvas


def flip(crop: Crop) -> Crop:
    """Flip a crop and its label horizontally (x becomes 1 - x)."""
    left, top, right, bottom = crop.edges
    image = np.asarray(cv2.flip(crop.image, 1), np.uint8)
    return Crop(image, np.array([1 - right, top, 1 - left, bottom]))


def brighten(image: Image, factor: float) -> Image:
    """Multiply by a factor, clamp, and round to integers.

    The published step multiplies and clamps in floating point, after division by 255; samples are
    uint8, so this one differs from it by at most half a level (0.002 of the range).
    """
    return np.asarray(cv2.convertScaleAbs(image, alpha=factor), np.uint8)
