"""Position of a target from an organised `sensor_msgs/PointCloud2`.

Organised means that the points are in rows and columns like pixels; they must cover the same view
as the tracked image, at any resolution. A cloud may be in another frame than the camera's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mixformerv2_ros.errors import PoseError
from mixformerv2_ros.ros.pose.camera import Vector
from mixformerv2_ros.ros.pose.samples import Measured, robust_median, sample_slices
from mixformerv2_ros.tracking.boxes import Box

_KINDS = {7: "f4", 8: "f8"}
"""Formats of the coordinates by `PointField.datatype`: FLOAT32 and FLOAT64."""

_INLIER_STDS = 3.0
_INLIER_FLOOR_M = 0.05
"""Points within so many standard deviations, and at least this distance, are inliers."""


@dataclass(frozen=True)
class MeasuredPoint:
    """A robust estimate of a position.

    Attributes:
        position: (3,) float64 in metres, in the frame of the cloud.
        range: Distance from the cloud's origin in metres.
    """

    position: Vector
    range: Measured


def cloud_view(message: Any) -> npt.NDArray[Any]:
    """The points of an organised cloud, without a copy.

    Returns:
        (height, width) structured view of the buffer with fields `x`, `y`, `z`.

    Raises:
        PoseError: the cloud is not organised, has no coordinates, or does not fit its bytes.
    """
    width, height = int(message.width), int(message.height)
    if height < 2 or width < 2:
        raise PoseError(
            f"point cloud must be organised in rows and columns like the image, "
            f"got {width}x{height} points"
        )
    fields = {field.name: field for field in message.fields}
    order = ">" if message.is_bigendian else "<"
    point_step, row_step = int(message.point_step), int(message.row_step)
    formats, offsets = [], []
    for name in ("x", "y", "z"):
        field = fields.get(name)
        if field is None or field.datatype not in _KINDS or field.count > 1:
            raise PoseError(
                "point cloud must have the fields x, y and z of type FLOAT32 or FLOAT64"
            )
        formats.append(np.dtype(order + _KINDS[field.datatype]))
        offsets.append(int(field.offset))
    needed = max(o + f.itemsize for o, f in zip(offsets, formats, strict=True))
    buffer = np.frombuffer(message.data, np.uint8)
    if point_step < needed or row_step < width * point_step or buffer.size < height * row_step:
        raise PoseError(
            f"point cloud of {width}x{height} with point step {point_step} and row step "
            f"{row_step} does not fit its {buffer.size} bytes"
        )
    kind = np.dtype(
        {"names": ["x", "y", "z"], "formats": formats, "offsets": offsets, "itemsize": point_step}
    )
    return np.ndarray((height, width), kind, buffer, strides=(row_step, point_step))


def measure_cloud(message: Any, box: Box, min_share: float) -> MeasuredPoint:
    """Robust position over a box: the median, by coordinate, of the points at the median range.

    Args:
        message: The cloud.
        box: Region to sample, in columns and rows of the cloud.
        min_share: Minimum fraction of valid points.

    Raises:
        PoseError: the cloud is not usable, or too few points are valid.
    """
    points = cloud_view(message)
    rows, columns = sample_slices(box, points.shape[1], points.shape[0])
    region = points[rows, columns]
    xyz = np.stack([region[name].astype(np.float64).ravel() for name in "xyz"], axis=1)
    ranges = np.linalg.norm(xyz, axis=1)
    # Drivers mark a missing point as NaN, or as the origin.
    valid = np.isfinite(ranges) & (ranges > 0)
    measured = robust_median(ranges[valid], len(xyz), min_share)
    reach = max(_INLIER_STDS * measured.std, _INLIER_FLOOR_M)
    near = np.abs(ranges - measured.value, where=valid, out=np.full(len(xyz), np.inf)) <= reach
    return MeasuredPoint(np.median(xyz[near], axis=0), measured)
