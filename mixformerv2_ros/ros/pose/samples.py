"""Robust depth sampling inside the target's box."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mixformerv2_ros.errors import PoseError
from mixformerv2_ros.tracking.boxes import Box

MAX_SAMPLES = 10_000
"""Maximum number of sampled pixels; larger regions are subsampled by rows and columns."""

MAD_TO_STD = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""


@dataclass(frozen=True)
class Measured:
    """A robust estimate from samples.

    Attributes:
        value: Median.
        std: Median absolute deviation, scaled to a standard deviation.
        share: Fraction of valid samples, in [0, 1].
    """

    value: float
    std: float
    share: float


def inner_box(box: Box, region: float, scale: tuple[float, float] = (1.0, 1.0)) -> Box:
    """Central region of a box, which holds the target rather than its background.

    Args:
        box: Box in pixels of the tracked image.
        region: Size of the region as a fraction of the box, in (0, 1].
        scale: Columns and rows of the depth image per column and row of the tracked image.
    """
    x, y = box.center
    w, h = box.w * region, box.h * region
    return Box((x - w / 2) * scale[0], (y - h / 2) * scale[1], w * scale[0], h * scale[1])


def sample_slices(box: Box, width: int, height: int) -> tuple[slice, slice]:
    """Rows and columns to sample in a box; at least one pixel.

    Raises:
        PoseError: the box lies outside of the image.
    """
    x1, y1 = max(0, round(box.x)), max(0, round(box.y))
    x2 = min(width, max(x1 + 1, round(box.x + box.w)))
    y2 = min(height, max(y1 + 1, round(box.y + box.h)))
    if x1 >= x2 or y1 >= y2:
        raise PoseError(
            f"target must lie inside the {width}x{height} depth image or point cloud, "
            f"got box {box.x:.0f},{box.y:.0f},{box.w:.0f},{box.h:.0f}"
        )
    stride = max(1, int(np.ceil(np.sqrt((x2 - x1) * (y2 - y1) / MAX_SAMPLES))))
    return slice(y1, y2, stride), slice(x1, x2, stride)


def robust_median(values: npt.NDArray[np.float64], count: int, min_share: float) -> Measured:
    """Median and spread of the valid samples.

    Of an even number, the smaller of the two middle ones is the median: their mean may lie between
    target and background, where nothing is.

    Args:
        values: (n,) valid samples in metres.
        count: Number of samples, valid or not.
        min_share: Minimum fraction of valid samples.

    Raises:
        PoseError: too few of them are valid.
    """
    share = values.size / count
    if not values.size or share < min_share:
        raise PoseError(
            f"at least {100 * min_share:.0f} % of the depth pixels in the box must be valid, "
            f"got {100 * share:.0f} %"
        )
    middle = (values.size - 1) // 2
    median = float(np.partition(values, middle)[middle])
    return Measured(median, MAD_TO_STD * float(np.median(np.abs(values - median))), share)
