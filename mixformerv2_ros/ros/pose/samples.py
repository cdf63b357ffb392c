"""Which pixels of a registered image speak for a target, and what they agree on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mixformerv2_ros.errors import PoseError
from mixformerv2_ros.tracking.boxes import Box

MOST_SAMPLES = 10_000
"""Pixels looked at; of larger regions every second, third... row and column."""

MAD_TO_STD = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""


@dataclass(frozen=True)
class Measured:
    """A robust mean of measurements.

    Attributes:
        value: Their median.
        std: Their spread: the median absolute deviation, scaled to a standard deviation.
        share: Share of the pixels that gave a valid measurement, in [0, 1].
    """

    value: float
    std: float
    share: float


def inner_box(box: Box, region: float, scale: tuple[float, float] = (1.0, 1.0)) -> Box:
    """The middle of a box, where the target is rather than what is behind it.

    Args:
        box: The box in pixels of the image that is tracked in.
        region: Sides of the middle part over those of the box, in (0, 1].
        scale: Columns and rows of the measuring image per column and row of the tracked one.
    """
    x, y = box.center
    w, h = box.w * region, box.h * region
    return Box((x - w / 2) * scale[0], (y - h / 2) * scale[1], w * scale[0], h * scale[1])


def sample_slices(box: Box, width: int, height: int) -> tuple[slice, slice]:
    """Rows and columns of the pixels to look at in a box; at least one pixel.

    Raises:
        PoseError: the box lies outside of the image.
    """
    x1, y1 = max(0, round(box.x)), max(0, round(box.y))
    x2 = min(width, max(x1 + 1, round(box.x + box.w)))
    y2 = min(height, max(y1 + 1, round(box.y + box.h)))
    if x1 >= x2 or y1 >= y2:
        raise PoseError(
            f"target must lie in the {width}x{height} image that is measured in, "
            f"got {box.x:.0f},{box.y:.0f},{box.w:.0f},{box.h:.0f}"
        )
    stride = max(1, int(np.ceil(np.sqrt((x2 - x1) * (y2 - y1) / MOST_SAMPLES))))
    return slice(y1, y2, stride), slice(x1, x2, stride)


def agree(values: npt.NDArray[np.float64], count: int, min_share: float) -> Measured:
    """Median and spread of the valid measurements.

    Of an even number, the nearer of the two middle ones is the median: halfway between a target and
    its background there is nothing.

    Args:
        values: (n,) the valid measurements in metres.
        count: Number of pixels looked at.
        min_share: Smallest share of valid ones.

    Raises:
        PoseError: too few of them are valid.
    """
    share = values.size / count
    if not values.size or share < min_share:
        raise PoseError(
            f"at least {100 * min_share:.0f} % of the target's pixels must have a distance, "
            f"got {100 * share:.0f} %"
        )
    middle = (values.size - 1) // 2
    median = float(np.partition(values, middle)[middle])
    return Measured(median, MAD_TO_STD * float(np.median(np.abs(values - median))), share)
