"""Distance of a target from a registered depth image.

A depth image holds distances along the optical axis (REP-118): `16UC1` in millimetres with 0 for
invalid, `32FC1` in metres with NaN for invalid. Registered means that it covers the same view as
the tracked image; its resolution may differ.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mixformerv2_ros.errors import PoseError
from mixformerv2_ros.ros.pose.samples import Measured, robust_median, sample_slices
from mixformerv2_ros.text import printable
from mixformerv2_ros.tracking.boxes import Box

_FORMATS = {"16UC1": ("u2", 0.001), "mono16": ("u2", 0.001), "32FC1": ("f4", 1.0)}
"""Pixel type and unit in metres by encoding."""

ENCODINGS = tuple(_FORMATS)


def depth_view(message: Any) -> npt.NDArray[Any]:
    """The pixels of a depth image: a (height, width) view of its buffer, nothing is copied.

    Raises:
        PoseError: the message does not hold a depth image.
    """
    encoding, width, height = message.encoding, int(message.width), int(message.height)
    if encoding not in _FORMATS:
        raise PoseError(
            f"depth image must be encoded as one of {', '.join(ENCODINGS)}, "
            f"got {printable(encoding)!r}"
        )
    kind = np.dtype((">" if message.is_bigendian else "<") + _FORMATS[encoding][0])
    step = int(message.step)
    buffer = np.frombuffer(message.data, np.uint8)
    if min(width, height) < 1 or step < width * kind.itemsize or buffer.size < height * step:
        raise PoseError(
            f"{encoding} depth image of {width}x{height} with step {step} does not fit its "
            f"{buffer.size} bytes"
        )
    return np.ndarray((height, width), kind, buffer, strides=(step, kind.itemsize))


def measure_depth(message: Any, box: Box, min_share: float) -> Measured:
    """Robust distance along the optical axis over a box.

    Args:
        message: The depth image.
        box: Region to sample, in pixels of the depth image.
        min_share: Minimum fraction of valid pixels.

    Returns:
        The distance in metres.

    Raises:
        PoseError: the message does not hold a depth image, or too few pixels are valid.
    """
    depths = depth_view(message)
    rows, columns = sample_slices(box, depths.shape[1], depths.shape[0])
    unit = _FORMATS[message.encoding][1]
    values = depths[rows, columns].astype(np.float64) * unit
    valid = values[np.isfinite(values) & (values > 0)]
    return robust_median(valid, values.size, min_share)
