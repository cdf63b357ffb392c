"""Position of a target with its covariance, and orientation.

A position is a function of the box's edges and of one distance. Its covariance comes from their
standard deviations by first-order propagation: with the Jacobian J of that function and independent
inputs, cov(position) = J diag(std^2) J^T. J is taken by central differences, so one formula serves
every lens model and every kind of distance:

- distance `z` along the optical axis (depth image): position = z ray(centre) / ray_z;
- distance `r` from the camera (point cloud): position = r ray(centre);
- known width `w`, for a target that faces the camera: position = w / (2 tan(a / 2)) ray(centre),
  where `a` is the angle between the rays to the middle of the left and of the right edge.

The measured distance is taken as independent of the edges, although its pixels were chosen by them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from mixformerv2_ros.errors import PoseError
from mixformerv2_ros.ros.pose.camera import Camera, Vector
from mixformerv2_ros.tracking.boxes import Box

MIN_EDGE_STD = 1 / math.sqrt(12)
"""Minimum standard deviation of an edge in pixels: that of rounding to a whole pixel."""

ANY_ANGLE_VARIANCE = math.pi**2 / 3
"""Variance of an unknown angle: uniform over the circle."""

_STEP_PX = 0.5
_STEP_SHARE = 0.01

PositionOf = Callable[[Box, float], Vector]
"""Position (3,) in metres from a box and a distance or width in metres."""


@dataclass(frozen=True, eq=False)
class PoseEstimate:
    """Pose of a target.

    Attributes:
        stamp_ns: Time of the image.
        frame_id: Frame of the position; the optical frame of the camera unless transformed.
        position: (3,) float64 in metres.
        orientation: (4,) float64 unit quaternion x, y, z, w. A box does not determine it: the x
            axis continues the line of sight, from the camera through the target, and z points
            upwards as far as that allows.
        covariance: (6, 6) float64: position, and rotation about the axes of the frame, which is
            unknown (variance pi^2 / 3).
        source: Source of the distance: `depth`, `cloud` or `width`.
        target_id: Name of the target.
    """

    stamp_ns: int
    frame_id: str
    position: Vector
    orientation: Vector
    covariance: Vector
    source: str
    target_id: str


def at_depth(camera: Camera) -> PositionOf:
    """Positions at a distance along the optical axis."""

    def position(box: Box, depth: float) -> Vector:
        ray = camera.bearing(*box.center).ray
        if ray[2] <= 0:
            raise PoseError(
                "target is 90 degrees or more off the optical axis: no distance from depth images"
            )
        return np.asarray(depth * ray / ray[2])

    return position


def at_range(camera: Camera) -> PositionOf:
    """Positions at a distance from the camera."""
    return lambda box, distance: np.asarray(distance * camera.bearing(*box.center).ray)


def at_width(camera: Camera) -> PositionOf:
    """Positions of a target of known width that fills its box from left to right."""

    def position(box: Box, width: float) -> Vector:
        (x, y), half = box.center, box.w / 2
        ray, left, right = camera.rays(np.array([[x, y], [x - half, y], [x + half, y]]))
        if not box.w > 0:
            raise PoseError(f"box width must be above 0, got {box.w:g}")
        angle = 2 * math.atan2(float(np.linalg.norm(right - left)), np.linalg.norm(right + left))
        if not angle > 0:
            raise PoseError(f"box width {box.w:g} is too small for a distance")
        return np.asarray(width / (2 * math.tan(angle / 2)) * ray)

    return position


def position_covariance(
    position: PositionOf,
    box: Box,
    edge_std: tuple[float, float, float, float],
    distance: float,
    distance_std: float,
) -> Vector:
    """Covariance of a position by first-order propagation; see the module docstring.

    Args:
        position: Position as a function of box and distance.
        box: The box.
        edge_std: Standard deviations of left, top, right and bottom edge in pixels.
        distance: The distance or width in metres.
        distance_std: Its standard deviation in metres.

    Returns:
        (3, 3) float64 in square metres.

    Raises:
        PoseError: a standard deviation is not finite, or a pixel next to the box has no ray.
    """
    x, y, w, h = box
    inputs = np.array([x, y, x + w, y + h, distance])
    steps = np.array([_STEP_PX] * 4 + [_STEP_SHARE * distance])
    stds = np.array([*(max(std, MIN_EDGE_STD) for std in edge_std), distance_std])
    if not np.isfinite(stds).all():
        raise PoseError("standard deviations of the edges must be finite numbers")

    def at(values: Vector) -> Vector:
        left, top, right, bottom, far = map(float, values)
        return position(Box(left, top, right - left, bottom - top), far)

    columns = [
        (at(inputs + step * axis) - at(inputs - step * axis)) / (2 * step) * std
        for step, axis, std in zip(steps, np.eye(5), stds, strict=True)
    ]
    scaled = np.stack(columns, axis=1)
    return np.asarray(scaled @ scaled.T)


def pose_covariance(position: Vector) -> Vector:
    """(6, 6) covariance of a pose from the (3, 3) one of its position."""
    covariance = np.zeros((6, 6))
    covariance[:3, :3] = position
    covariance[3:, 3:] = np.eye(3) * ANY_ANGLE_VARIANCE
    return covariance


def look_at(direction: Vector, up: Vector) -> Vector:
    """Quaternion whose x axis points along a direction and whose z axis is upwards.

    Args:
        direction: (3,) direction, of any length but 0.
        up: (3,) unit vector; for a direction parallel to it, the rotation is arbitrary.

    Returns:
        (4,) float64 x, y, z, w.
    """
    forward = direction / np.linalg.norm(direction)
    left = np.cross(up, forward)
    if np.linalg.norm(left) < 1e-9:
        left = np.cross(np.roll(up, 1), forward)
    left = left / np.linalg.norm(left)
    return quaternion(np.column_stack([forward, left, np.cross(forward, left)]))


def quaternion(rotation: Vector) -> Vector:
    """Unit quaternion (4,) x, y, z, w with w >= 0 of a (3, 3) rotation matrix."""
    turn = np.asarray(cv2.Rodrigues(rotation)[0], np.float64).reshape(3)
    angle = float(np.linalg.norm(turn))
    axis = turn / angle if angle else turn
    return np.append(math.sin(angle / 2) * axis, math.cos(angle / 2))
