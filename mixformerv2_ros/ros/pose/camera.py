"""Rays of a calibrated camera, from `sensor_msgs/CameraInfo`.

Pixels are those of the package: the pixel in the top-left corner covers [0, 1) x [0, 1). OpenCV and
the matrices of `CameraInfo` count from the centre of that pixel instead, so half a pixel lies
between the two. Rays are in the optical frame (REP-103): x right, y down, z forward.

`CameraInfo` describes the full sensor. An image of a region of interest is moved by its offset, a
binned image is scaled, and both are undone before the matrix is applied.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mixformerv2_ros.errors import PoseError
from mixformerv2_ros.text import printable

Vector = npt.NDArray[np.float64]

_PLUMB_BOB = ("plumb_bob", "rational_polynomial")
_FISHEYE = ("equidistant", "fisheye")
MODELS = (*_PLUMB_BOB, *_FISHEYE)
"""Known distortion models; a calibration without coefficients may name any."""

_FOCAL_PX = (1e-3, 1e7)
"""Range of plausible focal lengths in pixels."""

MAX_PX = 1e7
"""Maximum coordinate of pixels and of the principal point."""

_STEPS = 30
_TOLERANCE_PX = 0.01
"""Maximum distance between a pixel and the projection of its ray."""


@dataclass(frozen=True)
class Bearing:
    """The direction from a camera to a point in its image.

    Attributes:
        ray: (3,) float64 of length 1 in the optical frame: x right, y down, z forward.
        azimuth: Angle in the horizontal plane of the camera in radians, positive to the right.
        elevation: Angle to that plane in radians, positive upwards.
    """

    ray: Vector
    azimuth: float
    elevation: float


@dataclass(frozen=True, eq=False)
class Camera:
    """A calibrated camera.

    Attributes:
        width, height: Size of its images in pixels; 0 if unknown.
        frame_id: Optical frame of the camera.
        matrix: (3, 3) float64, focal lengths and principal point of the full sensor.
        distortion: (n,) float64 coefficients of the lens; empty for a rectified image.
        fisheye: Whether they are those of the equidistant model.
        offset: Column and row of the image's corner on the full sensor.
        binning: Columns and rows of the sensor per column and row of the image.
    """

    width: int
    height: int
    frame_id: str
    matrix: Vector
    distortion: Vector
    fisheye: bool = False
    offset: tuple[int, int] = (0, 0)
    binning: tuple[int, int] = (1, 1)

    @classmethod
    def from_message(cls, message: Any, rectified: bool = False) -> Camera:
        """Read a `sensor_msgs/CameraInfo`.

        Args:
            message: The message.
            rectified: Whether the images are rectified: use P without distortion, instead of K, D.

        Raises:
            PoseError: the camera is not calibrated, its matrix is implausible, or the distortion
                model is unknown.
        """
        name = "P" if rectified else "K"
        values = np.asarray(message.p if rectified else message.k, np.float64)
        shape = (3, 4) if rectified else (3, 3)
        if values.size != shape[0] * shape[1]:
            raise PoseError(
                f"camera matrix {name} must have {shape[0] * shape[1]} values, got {values.size}"
            )
        matrix = values.reshape(shape)[:, :3]
        # OpenCV uses these four numbers only, neither skew nor the last row.
        fx, fy, cx, cy = map(float, (matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]))
        if not (fx > 0 and fy > 0):
            raise PoseError(
                f"camera is not calibrated: matrix {name} must have positive focal lengths, got "
                f"fx {fx:g}, fy {fy:g}"
            )
        low, high = _FOCAL_PX
        if not all(low <= f <= high for f in (fx, fy)):
            raise PoseError(
                f"camera matrix {name} must have focal lengths of {low:g} to {high:g} pixels, "
                f"got fx {fx:g}, fy {fy:g}"
            )
        if not all(abs(c) <= MAX_PX for c in (cx, cy)):
            raise PoseError(
                f"camera matrix {name} must have its principal point within {MAX_PX:g} "
                f"pixels of the corner, got cx {cx:g}, cy {cy:g}"
            )
        distortion, fisheye = (np.zeros(0), False) if rectified else _lens(message)
        binning = max(1, int(message.binning_x)), max(1, int(message.binning_y))
        roi = message.roi
        return cls(
            width=(int(roi.width) or int(message.width)) // binning[0],
            height=(int(roi.height) or int(message.height)) // binning[1],
            frame_id=message.header.frame_id,
            matrix=np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]),
            distortion=distortion,
            fisheye=fisheye,
            offset=(int(roi.x_offset), int(roi.y_offset)),
            binning=binning,
        )

    def bearing(self, u: float, v: float) -> Bearing:
        """Direction to a point of the image.

        Args:
            u: Column in pixels, 0 at the left border.
            v: Row in pixels, 0 at the top border.

        Raises:
            PoseError: the distortion model has no ray for that point.
        """
        ray = self.rays(np.array([[u, v]]))[0]
        x, y, z = map(float, ray)
        return Bearing(ray, float(np.arctan2(x, z)), float(np.arctan2(-y, np.hypot(x, z))))

    def rays(self, points: Vector) -> Vector:
        """Unit rays of points of the image.

        Args:
            points: (n, 2) float64 columns and rows in pixels.

        Returns:
            (n, 3) float64.

        Raises:
            PoseError: one of them is not finite or too large, or the distortion model has no ray
                for it.
        """
        if not (np.abs(points) <= MAX_PX).all():
            got = ", ".join(f"({u:g}, {v:g})" for u, v in points)
            raise PoseError(f"pixel coordinates must be finite and at most {MAX_PX:g}, got {got}")
        on_sensor = points * self.binning + self.offset - 0.5
        # Coefficients may be of any size: where a step overflows, there is no ray.
        with np.errstate(over="ignore", invalid="ignore"):
            if self.fisheye:
                return self._fisheye_rays(points, on_sensor)
            directions = np.ones((len(points), 3))
            directions[:, :2] = self._undistort(points, on_sensor)
        return np.asarray(directions / np.linalg.norm(directions, axis=1, keepdims=True))

    def _undistort(self, points: Vector, on_sensor: Vector) -> Vector:
        """Columns and rows at distance 1, by Newton's method from OpenCV's approximation.

        `undistortPoints` alone makes a fixed number of steps, which strong lenses need more of.
        """
        start = cv2.undistortPoints(on_sensor.reshape(-1, 1, 2), self.matrix, self.distortion)
        plane = np.asarray(start, np.float64).reshape(-1, 2)
        if not self.distortion.size:
            return plane
        zero = np.zeros(3)
        for _ in range(_STEPS):
            ones = np.column_stack([plane, np.ones(len(plane))])
            there, jacobian = cv2.projectPoints(
                ones.reshape(-1, 1, 3), zero, zero, self.matrix, self.distortion
            )
            error = on_sensor - np.asarray(there, np.float64).reshape(-1, 2)
            if not np.isfinite(error).all():
                break
            # Columns 3 and 4 are derivatives by a shift along x and y: at distance 1, by x and y.
            slope = np.asarray(jacobian, np.float64).reshape(-1, 2, jacobian.shape[1])[:, :, 3:5]
            # Beyond its widest angle a lens model folds the image back, once or twice.
            if not ((np.linalg.det(slope) > 0) & (np.trace(slope, axis1=1, axis2=2) > 0)).all():
                break
            if np.abs(error).max() < _TOLERANCE_PX:
                return plane
            plane = plane + np.linalg.solve(slope, error[:, :, None])[:, :, 0]
        raise _no_ray(points)

    def _fisheye_rays(self, points: Vector, on_sensor: Vector) -> Vector:
        """Rays of the equidistant model, by Newton's method.

        OpenCV gives a tangent, which has no value at 90 degrees and more, and clamps before that.
        The distorted angle is t (1 + k1 t^2 + k2 t^4 + k3 t^6 + k4 t^8) of the angle t.
        """
        plane = (on_sensor - self.matrix[:2, 2]) / (self.matrix[0, 0], self.matrix[1, 1])
        distorted = np.linalg.norm(plane, axis=1)
        k = self.distortion
        value = np.polynomial.Polynomial([0, 1, 0, k[0], 0, k[1], 0, k[2], 0, k[3]])
        slope = value.deriv()
        angle = np.minimum(distorted, np.pi)
        for _ in range(_STEPS):
            rise = slope(angle)
            if not ((rise > 0) & (angle >= 0) & (angle <= np.pi)).all():
                break
            error = distorted - value(angle)
            if np.abs(error).max() * self.matrix[0, 0] < _TOLERANCE_PX:
                # One ray through the principal point has no side to lean to.
                side = plane / np.maximum(distorted, 1e-12)[:, None]
                return np.column_stack([np.sin(angle)[:, None] * side, np.cos(angle)])
            angle = angle + error / rise
        raise _no_ray(points)


def _lens(message: Any) -> tuple[Vector, bool]:
    """Coefficients of a lens, and whether they are those of a fisheye."""
    model = message.distortion_model
    values = np.asarray(message.d, np.float64).reshape(-1)
    if not np.isfinite(values).all():
        raise PoseError("distortion coefficients must be finite numbers")
    if model in _FISHEYE:
        if values.size not in (0, 4):
            raise PoseError(f"{model} requires 4 distortion coefficients, got {values.size}")
        return (values if values.size else np.zeros(4)), True
    if not values.any():
        return np.zeros(0), False
    if model not in _PLUMB_BOB:
        raise PoseError(
            f"distortion model must be one of {', '.join(MODELS)}, got {printable(model)!r}"
        )
    if values.size not in (4, 5, 8, 12, 14):
        raise PoseError(f"{model} requires 4, 5, 8, 12 or 14 coefficients, got {values.size}")
    return values, False


def _no_ray(points: Vector) -> PoseError:
    return PoseError(
        f"no ray for pixels {_named(points)}: outside the valid range of the distortion model"
    )


def _named(points: Vector) -> str:
    return ", ".join(f"({u:.1f}, {v:.1f})" for u, v in points)
