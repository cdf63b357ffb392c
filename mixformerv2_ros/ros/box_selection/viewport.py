"""Conversion between pixels of an image and of the window that shows it."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from mixformerv2_ros.tracking.boxes import Box
from mixformerv2_ros.tracking.pixels import Pixels

MAX_SCALE = 8.0
"""Maximum magnification of a small image."""


@dataclass(frozen=True)
class Viewport:
    """An image in the middle of an area of a window, as large as fits.

    Attributes:
        width, height: Size of the image in its own pixels.
        left, top: Where its corner lies in the area.
        scale: Pixels of the window per pixel of the image.
    """

    width: int
    height: int
    left: float
    top: float
    scale: float

    @classmethod
    def fit(cls, width: int, height: int, area_width: int, area_height: int) -> Viewport:
        """Fit an image into an area; both of at least one pixel."""
        scale = min(area_width / width, area_height / height, MAX_SCALE)
        left, top = (area_width - width * scale) / 2, (area_height - height * scale) / 2
        return cls(width, height, left, top, scale)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the image in the window."""
        return max(1, round(self.width * self.scale)), max(1, round(self.height * self.scale))

    def to_image(self, x: float, y: float) -> tuple[float, float]:
        """Pixels of the image at a place of the area; beside the image, its border."""
        column, row = (x - self.left) / self.scale, (y - self.top) / self.scale
        return min(max(column, 0.0), float(self.width)), min(max(row, 0.0), float(self.height))

    def to_window(self, box: Box) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of a box in the area."""
        left, top = self.left + box.x * self.scale, self.top + box.y * self.scale
        return left, top, left + box.w * self.scale, top + box.h * self.scale

    def picture(self, pixels: Pixels) -> bytes:
        """The image at the size it has in the window, as a PPM file."""
        # Averages cost five times as much and look better only where pixels are left out.
        method = cv2.INTER_NEAREST
        if self.scale < 1:
            method = cv2.INTER_LINEAR if self.scale > 0.5 else cv2.INTER_AREA
        # People see what the tracker sees: 16-bit images are as bright as their used bits.
        image = pixels.with_bits(pixels.measured_bits()).rgb()
        if self.size != (self.width, self.height):
            image = np.asarray(cv2.resize(image, self.size, interpolation=method), np.uint8)
        return b"P6 %d %d 255 " % self.size + image.tobytes()
