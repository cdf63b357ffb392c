"""Pose of a target from its tracks: matches depth images or clouds to tracks.

A target has a pose while it is TRACKING (optionally also while UNCERTAIN), and none otherwise:
consumers take missing poses for loss, and would take a repeated one for a target that stands still.

A track is matched to the depth image or cloud with the nearest stamp, within a tolerance. It is
held back until no nearer one can arrive: until there is one with its stamp or a later one, or the
spacing of the last two shows that the next one will be further away; at most until the next track.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mixformerv2_ros.errors import PoseError
from mixformerv2_ros.ros.messages import stamp_ns
from mixformerv2_ros.ros.pose.camera import MAX_PX, Bearing, Camera, Vector
from mixformerv2_ros.ros.pose.cloud import cloud_view, measure_cloud
from mixformerv2_ros.ros.pose.depth import depth_view, measure_depth
from mixformerv2_ros.ros.pose.estimate import (
    PoseEstimate,
    PositionOf,
    at_depth,
    at_range,
    at_width,
    look_at,
    pose_covariance,
    position_covariance,
)
from mixformerv2_ros.ros.pose.samples import inner_box
from mixformerv2_ros.tracking.boxes import Box
from mixformerv2_ros.tracking.frame import NS
from mixformerv2_ros.tracking.image_buffer import BufferedImage, ImageBuffer
from mixformerv2_ros.tracking.session import State, Track

DEPTH, CLOUD, WIDTH, BEARING = "depth", "cloud", "width", "bearing"

HANDOVER_NS = NS
"""Without `target_id`, a target without a track for this long is replaced by another one."""

MAX_RANGES = 1000
"""Maximum number of buffered depth images or clouds, besides their age and bytes."""

SAME_ASPECT = 0.02
"""Maximum relative difference between the scales of columns and rows of a depth image."""

MIN_DISTANCE_M = 1e-6
"""Minimum distance of a target from the camera."""

GATE_STD = 3.0
"""Standard deviations of two distances by which they may differ beyond what the speed permits."""

UP_OPTICAL: Vector = np.array([0.0, -1.0, 0.0])
UP_FIXED: Vector = np.array([0.0, 0.0, 1.0])

Transform = Callable[[str, str, int], Vector | None]
"""(4, 4) matrix from a source frame to a target frame at a time; None where it is not known.

Arguments: target frame, source frame, nanoseconds.
"""


@dataclass(frozen=True)
class PoseSettings:
    """Settings of `TargetPose`; see `parameters.POSE_PARAMETERS`."""

    source: str = DEPTH
    rectified: bool = False
    target_id: str = ""
    publish_uncertain: bool = False
    target_width: float = 0.0
    target_width_deviation: float = 0.0
    region: float = 0.5
    min_share: float = 0.3
    deviation: float = 0.01
    max_speed: float = 20.0
    tolerance_ns: int = NS // 20
    buffer_ns: int = 2 * NS
    buffer_bytes: int = 128_000_000


class TargetPose:
    """Estimates the pose of one target. Not thread-safe.

    Attributes:
        settings: May be replaced between messages, but for `source`, `rectified` and the buffer.
        target_id: Id of the target; empty before its first track.
    """

    def __init__(self, settings: PoseSettings, transform: Transform) -> None:
        """Wait for messages.

        Args:
            settings: The settings.
            transform: Looks up transforms, for clouds in another frame than the camera's.
        """
        self.settings = settings
        self.target_id = ""
        self._transform = transform
        self._camera: Camera | None = None
        self._calibration: tuple[Any, ...] = ()
        self._ranges: ImageBuffer[_RangeImage] = ImageBuffer(
            MAX_RANGES, settings.buffer_ns, settings.buffer_bytes
        )
        self._seen_ns = 0
        self._waiting: Track | None = None
        self._due: deque[Track] = deque()
        self._accepted: _Distance | None = None

    @property
    def camera(self) -> Camera:
        """The camera.

        Raises:
            PoseError: no valid camera_info has been received.
        """
        if self._camera is None:
            raise PoseError("no valid camera_info received")
        return self._camera

    def set_camera(self, message: Any) -> None:
        """Take a `sensor_msgs/CameraInfo`; repeated ones are ignored.

        Raises:
            PoseError: it is not usable; there is no camera then.
        """
        calibration = _content(message)
        if calibration != self._calibration:
            self._calibration, self._camera = calibration, None
            self._camera = Camera.from_message(message, self.settings.rectified)

    def add_range(self, message: Any) -> None:
        """Take a depth image or a cloud, depending on `source`.

        A step back in time clears the buffer.

        Raises:
            PoseError: it is not usable.
        """
        (depth_view if self.settings.source == DEPTH else cloud_view)(message)
        stamp = stamp_ns(message)
        if stamp < 0:
            raise PoseError(f"stamp must not be negative, got {stamp / NS:g} s")
        newest = self._ranges.newest
        if newest is not None and stamp < newest.stamp_ns:
            self._ranges.clear()
        self._ranges.add(_RangeImage(stamp, stamp, len(message.data), message=message))

    def add_track(self, track: Track) -> Bearing | None:
        """Take a track.

        Returns:
            The direction to the target; None for other targets and states without a pose.

        Raises:
            PoseError: there is no valid camera_info, the box is not finite, or the distortion
                model has no ray for the target.
        """
        if not self._is_of_target(track):
            return None
        if self._waiting is not None:
            self._due.append(self._waiting)
            self._waiting = None
        doubtful = track.state is State.UNCERTAIN and self.settings.publish_uncertain
        if track.state is not State.TRACKING and not doubtful:
            return None
        camera = self.camera
        _check_box(track.box)
        bearing = camera.bearing(*track.box.center)
        if self.settings.source != BEARING:
            self._waiting = replace(track, frame_id=track.frame_id or camera.frame_id)
        return bearing

    def next_pose(self) -> PoseEstimate | None:
        """The next pose, or None; call it after every message until it returns None.

        Raises:
            PoseError: the next track has no position; call again.
        """
        if self._waiting is not None and self._is_settled(self._waiting):
            self._due.append(self._waiting)
            self._waiting = None
        if not self._due:
            return None
        # Distances may be of any size; overflows are rejected as not finite.
        with np.errstate(over="ignore", invalid="ignore"):
            return self._plausible(self._locate(self._due.popleft()))

    def _is_of_target(self, track: Track) -> bool:
        if track.state is State.IDLE:
            return False
        wanted = self.settings.target_id
        since = track.stamp_ns - self._seen_ns
        if wanted:
            self.target_id = wanted
        elif not self.target_id or not 0 <= since <= HANDOVER_NS:
            self.target_id = track.target_id
        if track.target_id != self.target_id:
            return False
        self._seen_ns = track.stamp_ns
        return True

    def _is_settled(self, track: Track) -> bool:
        """Whether no depth image or cloud can arrive that is nearer to the track."""
        if self.settings.source == WIDTH:
            return True
        newest = self._ranges.newest
        return newest is not None and track.stamp_ns - newest.stamp_ns <= (
            self._ranges.spacing_ns // 2
        )

    def _locate(self, track: Track) -> PoseEstimate:
        settings, camera = self.settings, self.camera
        if settings.source == WIDTH:
            _check_whole(track.box, camera)
            width = settings.target_width
            place, std = at_width(camera), settings.target_width_deviation
            return _estimate(place(track.box, width), track, WIDTH, place, width, std)
        message = self._nearest(track).message
        scale = _scale(message, camera)
        region = inner_box(track.box, settings.region, scale)
        if settings.source == DEPTH:
            depth = measure_depth(message, region, settings.min_share)
            place, std = at_depth(camera), max(depth.std, settings.deviation)
            return _estimate(place(track.box, depth.value), track, DEPTH, place, depth.value, std)
        point = measure_cloud(message, region, settings.min_share)
        position = self._in_camera(point.position, message, track.frame_id)
        distance, std = float(np.linalg.norm(position)), max(point.range.std, settings.deviation)
        return _estimate(position, track, CLOUD, at_range(camera), distance, std)

    def _plausible(self, estimate: PoseEstimate) -> PoseEstimate:
        """Return an estimate whose distance the target can have reached since the last one.

        Only the distance is compared: a camera that turns moves the target sideways at any speed.
        The longer ago the last one was, the more is permitted, so a target that really is elsewhere
        has a pose again after a moment.

        Raises:
            PoseError: the target would be faster than `max_speed`.
        """
        now, last, limit = _Distance.of(estimate), self._accepted, self.settings.max_speed
        if limit and last is not None and last.target_id == now.target_id:
            seconds = (now.stamp_ns - last.stamp_ns) / NS
            permitted = limit * seconds + GATE_STD * math.hypot(now.std, last.std)
            change = abs(now.metres - last.metres)
            if seconds >= 0 and change > permitted:
                raise PoseError(
                    f"distance changed by {change:.2f} m in {seconds:.3f} s, which is more than "
                    f"range.max_speed permits ({permitted:.2f} m)"
                )
        self._accepted = now
        return estimate

    def _nearest(self, track: Track) -> _RangeImage:
        found = self._ranges.nearest(track.stamp_ns)
        what = "depth image" if self.settings.source == DEPTH else "point cloud"
        if found is None:
            raise PoseError(f"no {what} received")
        apart = abs(found.stamp_ns - track.stamp_ns)
        if apart > self.settings.tolerance_ns:
            raise PoseError(
                f"time difference to the nearest {what} must be at most "
                f"{self.settings.tolerance_ns / NS:g} s, got {apart / NS:.3f} s"
            )
        return found

    def _in_camera(self, position: Vector, message: Any, frame_id: str) -> Vector:
        source = message.header.frame_id
        if source == frame_id:
            return position
        matrix = self._transform(frame_id, source, stamp_ns(message))
        if matrix is None:
            raise PoseError(f"no transform from the point cloud's frame {source!r} to {frame_id!r}")
        return np.asarray(matrix[:3, :3] @ position + matrix[:3, 3])


@dataclass(frozen=True)
class _Distance:
    """A distance that was measured: metres, standard deviation, and whose and when it was."""

    stamp_ns: int
    target_id: str
    metres: float
    std: float

    @classmethod
    def of(cls, estimate: PoseEstimate) -> _Distance:
        metres = float(np.linalg.norm(estimate.position))
        ray = estimate.position / metres
        variance = float(ray @ estimate.covariance[:3, :3] @ ray)
        return cls(estimate.stamp_ns, estimate.target_id, metres, math.sqrt(max(0.0, variance)))


@dataclass(eq=False)
class _RangeImage(BufferedImage):
    """A depth image or a point cloud."""

    message: Any = field(kw_only=True)


def transformed(estimate: PoseEstimate, matrix: Vector, frame_id: str) -> PoseEstimate:
    """The pose in a fixed frame with z up.

    Args:
        estimate: The pose in the optical frame of the camera.
        matrix: (4, 4) float64 from that frame to the fixed one.
        frame_id: Name of the fixed frame.

    Raises:
        PoseError: the matrix is not finite.
    """
    if not np.isfinite(matrix).all():
        raise PoseError(f"transform from {estimate.frame_id!r} to {frame_id!r} must be finite")
    rotation = matrix[:3, :3]
    both = np.zeros((6, 6))
    both[:3, :3] = both[3:, 3:] = rotation
    return replace(
        estimate,
        frame_id=frame_id,
        position=rotation @ estimate.position + matrix[:3, 3],
        orientation=look_at(rotation @ estimate.position, UP_FIXED),
        covariance=both @ estimate.covariance @ both.T,
    )


def ground_goal(estimate: PoseEstimate) -> tuple[Vector, Vector]:
    """Position and quaternion of a navigation goal: the target on the plane z = 0.

    The goal's heading is the camera's line of sight to the target.

    Args:
        estimate: The pose in a fixed frame.
    """
    x, y, z, w = estimate.orientation
    ahead = np.array([1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 0.0])
    flat = np.linalg.norm(ahead) > 1e-6
    position = np.array([estimate.position[0], estimate.position[1], 0.0])
    return position, look_at(ahead if flat else np.array([1.0, 0.0, 0.0]), UP_FIXED)


def _estimate(
    position: Vector, track: Track, source: str, place: PositionOf, distance: float, std: float
) -> PoseEstimate:
    away = float(np.linalg.norm(position))
    if not MIN_DISTANCE_M <= away < math.inf:
        raise PoseError(
            f"distance must be finite and at least {MIN_DISTANCE_M:g} m, got {away:g} m"
        )
    spread = position_covariance(place, track.box, track.edge_std, distance, std)
    if not np.isfinite(spread).all():
        raise PoseError(f"covariance of a position at {away:g} m is not finite")
    return PoseEstimate(
        stamp_ns=track.stamp_ns,
        frame_id=track.frame_id,
        position=position,
        orientation=look_at(position, UP_OPTICAL),
        covariance=pose_covariance(spread),
        source=source,
        target_id=track.target_id,
    )


def _scale(message: Any, camera: Camera) -> tuple[float, float]:
    """Columns and rows of a depth image or cloud per column and row of the image."""
    if not (camera.width and camera.height):
        return 1.0, 1.0
    x, y = int(message.width) / camera.width, int(message.height) / camera.height
    if abs(x / y - 1) > SAME_ASPECT:
        raise PoseError(
            f"depth must be registered to the {camera.width}x{camera.height} image, got another "
            f"aspect ratio: {message.width}x{message.height}"
        )
    return x, y


def _check_box(box: Box) -> None:
    if not all(abs(value) <= MAX_PX for value in box):
        got = ",".join(f"{value:g}" for value in box)
        raise PoseError(f"box must be finite and at most {MAX_PX:g} pixels, got {got}")


def _check_whole(box: Box, camera: Camera) -> None:
    """Reject a box that is cut off at the image border: its width is not the target's."""
    if box.x <= 0 or (camera.width and box.x + box.w >= camera.width):
        raise PoseError(
            "target is cut off at the image border: source width requires its full width"
        )


def _content(message: Any) -> tuple[Any, ...]:
    """A calibration without its stamp, for comparison."""
    roi = message.roi
    return (
        message.header.frame_id,
        message.width,
        message.height,
        message.distortion_model,
        *(np.asarray(values, np.float64).tobytes() for values in (message.d, message.k, message.p)),
        message.binning_x,
        message.binning_y,
        *(roi.x_offset, roi.y_offset, roi.width, roi.height),
    )
