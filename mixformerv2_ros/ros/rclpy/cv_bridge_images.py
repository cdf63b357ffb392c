"""Images in encodings that only cv_bridge decodes: depth, temperature, anything without colour."""

from __future__ import annotations

from typing import Any

import numpy as np

from mixformerv2_ros.errors import ImageError
from mixformerv2_ros.ros.messages import image_frame, stamp_ns
from mixformerv2_ros.text import printable
from mixformerv2_ros.tracking.frame import Frame
from mixformerv2_ros.tracking.pixels import MAX_PIXELS, Pixels


def open_image(message: Any) -> Frame:
    """Decode an image as `messages.image_frame` does, or by cv_bridge to a grey image.

    An image of one channel without colour, such as `32FC1`, is scaled to grey: black is its minimum
    finite value, white its maximum. Such an image is copied.

    Raises:
        ImageError: the message cannot be decoded by either of them.
    """
    try:
        return image_frame(message)
    except ImageError as error:
        if getattr(message, "encoding", "") not in _UNPACKED:
            raise
        refusal = error
    try:
        from cv_bridge import CvBridge, CvBridgeError
    except (ImportError, AttributeError):  # AttributeError: built for another numpy
        raise refusal from None
    _check_layout(message)
    try:
        values = np.asarray(CvBridge().imgmsg_to_cv2(message), np.float64)
    except (CvBridgeError, AttributeError, KeyError, TypeError, ValueError) as error:
        # AttributeError: its byte swap needs numpy 1. KeyError: OpenCV 5 numbers types anew.
        reason = f"{type(error).__name__}: {printable(' '.join(str(error).split()))}"
        raise _unusable(message, reason) from None
    if values.shape != (message.height, message.width):
        raise _unusable(message, f"cv_bridge returned shape {values.shape}")
    return Frame(
        Pixels.from_array(_grey(values), "mono8"), stamp_ns(message), message.header.frame_id
    )


def _check_layout(message: Any) -> None:
    """Check what cv_bridge does not: it trusts `step`, whatever the width is."""
    width, height, step = int(message.width), int(message.height), int(message.step)
    if not 0 < width * height <= MAX_PIXELS:
        raise _unusable(message, f"size must be 1 to {MAX_PIXELS:,} pixels, got {width}x{height}")
    size = _UNPACKED[message.encoding]
    if step < width * size or step % size or len(message.data) < step * height:
        raise _unusable(
            message,
            f"{width}x{height} with step {step} does not fit its {len(message.data)} bytes",
        )


def _unusable(message: Any, reason: str) -> ImageError:
    return ImageError(f"cannot decode {message.encoding} image: {reason}")


def _grey(values: np.ndarray) -> np.ndarray:
    finite = np.isfinite(values)
    if not finite.any():
        raise ImageError("image has no finite values")
    low, high = values[finite].min(), values[finite].max()
    # By halves: the difference of two float64 may be too large for a third.
    above = np.where(finite, values / 2 - low / 2, 0.0)
    scaled = above * (255 / max(high / 2 - low / 2, 5e-13))
    return np.asarray(scaled.round(), np.uint8)


_UNPACKED = {"8SC1": 1, "16SC1": 2, "32SC1": 4, "32FC1": 4, "64FC1": 8}
"""Bytes of a pixel by encoding."""
