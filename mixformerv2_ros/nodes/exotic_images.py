"""Images that only cv_bridge unpacks: distances, temperatures, anything that is not a colour."""

from __future__ import annotations

from typing import Any

import numpy as np

from mixformerv2_ros.errors import ImageError
from mixformerv2_ros.messages import image_frame, stamp_ns
from mixformerv2_ros.text import printable
from mixformerv2_ros.tracking.frame import Frame
from mixformerv2_ros.tracking.pixels import Pixels


def open_image(message: Any) -> Frame:
    """Open an image as `messages.image_frame` does, or else by cv_bridge as a grey one.

    An image of one channel in an encoding that holds no colour, such as `32FC1`, becomes grey from
    black, its smallest finite value, to white, its largest. Such an image is copied.

    Raises:
        ImageError: the message holds no image that either of them can open.
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
    try:
        values = np.asarray(CvBridge().imgmsg_to_cv2(message), np.float64)
    except (CvBridgeError, TypeError, ValueError) as error:
        reason = printable(" ".join(str(error).split()))
        raise ImageError(f"image of {message.encoding} cannot be unpacked: {reason}") from None
    return Frame(
        Pixels.from_array(_grey(values), "mono8"), stamp_ns(message), message.header.frame_id
    )


def _grey(values: np.ndarray) -> np.ndarray:
    finite = np.isfinite(values)
    if not finite.any():
        raise ImageError("image has no finite value")
    low, high = values[finite].min(), values[finite].max()
    scaled = np.where(finite, values - low, 0.0) * (255 / max(high - low, 1e-12))
    return np.asarray(scaled.round(), np.uint8)


_UNPACKED = ("8SC1", "16SC1", "32SC1", "32FC1", "64FC1")
