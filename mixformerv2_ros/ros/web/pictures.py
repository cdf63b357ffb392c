"""Images as the page shows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from mixformerv2_ros.ros.messages import image_frame


@dataclass(frozen=True)
class Picture:
    """A JPEG file of an image.

    Attributes:
        jpeg: The file.
        width, height: Size of the original image in pixels.
    """

    jpeg: bytes
    width: int
    height: int


def encode_picture(message: Any, side: int, quality: int) -> Picture:
    """Make a JPEG of an image message.

    Args:
        message: A `sensor_msgs/Image` or `CompressedImage`.
        side: Longest side of the picture in pixels; smaller images stay as they are.
        quality: Of the JPEG, 0 to 100.

    Raises:
        ImageError: the image cannot be decoded.
    """
    pixels = image_frame(message).pixels
    # People see what the tracker sees: 16-bit images are as bright as their used bits.
    image = pixels.with_bits(pixels.measured_bits()).rgb()
    scale = side / max(image.shape[:2])
    if scale < 1:
        size = max(1, round(pixels.width * scale)), max(1, round(pixels.height * scale))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    return Picture(data.tobytes(), pixels.width, pixels.height)
