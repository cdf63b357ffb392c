"""The target pose node without its middleware: tracks and depth in, poses out.

The work is done in the callbacks, a pose takes about a millisecond. They may be called from several
threads.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from mixformerv2_ros.errors import PoseError
from mixformerv2_ros.ros.live.log_throttle import LogThrottle
from mixformerv2_ros.ros.live.middleware import Middleware
from mixformerv2_ros.ros.live.prediction_publisher import NO_PREDICTION, too_old
from mixformerv2_ros.ros.messages import Level, read_track
from mixformerv2_ros.ros.parameters import (
    POSE_PARAMETERS,
    Value,
    check_changes,
    check_values,
    prediction_settings,
)
from mixformerv2_ros.ros.pose.camera import Bearing, Vector
from mixformerv2_ros.ros.pose.estimate import PoseEstimate
from mixformerv2_ros.ros.pose.prediction import PosePredictionSettings, PosePredictor
from mixformerv2_ros.ros.pose.target_pose import (
    CLOUD,
    DEPTH,
    PoseSettings,
    TargetPose,
    ground_goal,
    transformed,
)
from mixformerv2_ros.ros.pose_messages import (
    pose_message,
    pose_with_covariance_message,
    tf_message,
    vector_message,
)
from mixformerv2_ros.ros.topics import (
    BEARING,
    BEARING_ANGLES,
    DEPTH_IMAGE,
    GOAL_UPDATE,
    POINTS,
    TARGET_POSE,
    TARGET_POSE_WITH_COVARIANCE,
    TF,
)
from mixformerv2_ros.text import printable
from mixformerv2_ros.tracking.frame import NS
from mixformerv2_ros.tracking.prediction import PredictionSettings, TrackPredictor
from mixformerv2_ros.tracking.session import Track

RANGE_TOPICS = {DEPTH: DEPTH_IMAGE, CLOUD: POINTS}
"""Topic and type of the depth by the parameter `source`; other sources have none."""


class PoseMiddleware(Middleware, Protocol):
    """A node of some middleware with access to transforms."""

    def transform(self, target_frame: str, source_frame: str, stamp_ns: int) -> Vector | None:
        """(4, 4) matrix from a frame to another at a time; None if not available.

        May wait a moment: transforms of odometry often arrive after the image.
        """


class LiveTargetPose:
    """A target pose node without its middleware."""

    def __init__(self, values: Mapping[str, Any], middleware: PoseMiddleware) -> None:
        """Wait for messages.

        Args:
            values: Parameters of the node by name; missing ones have their defaults.
            middleware: The node.

        Raises:
            ParameterError: see `parameters.check_values`.
        """
        self._middleware = middleware
        self._values = check_values(values, POSE_PARAMETERS)
        self._lock = threading.Lock()
        self._throttle = LogThrottle(middleware.log)
        self._predictor, self._pose_predictor = TrackPredictor(), PosePredictor()
        self._pose = TargetPose(pose_settings(self._values), middleware.transform)

    @property
    def values(self) -> dict[str, Value]:
        """The current parameters by name."""
        return dict(self._values)

    def set_values(self, changes: Mapping[str, Any]) -> None:
        """Change parameters, all or none, before the next message.

        Raises:
            ParameterError: a parameter is unknown or cannot be changed at runtime, or values are
                out of range or inconsistent.
        """
        with self._lock:
            self._values = check_changes(self._values, changes, POSE_PARAMETERS, running=True)
            self._pose.settings = pose_settings(self._values)

    def receive_track(self, message: Any) -> None:
        """Take a `mixformerv2_ros/Track`."""
        with self._lock:
            try:
                track = read_track(message)
                bearing = self._pose.add_track(track)
            except ValueError as error:
                self._warn("no bearing", error)
            else:
                if bearing is not None:
                    self._predict_bearing(track, bearing)
            self._publish_poses()

    def receive_camera_info(self, message: Any) -> None:
        """Take a `sensor_msgs/CameraInfo`."""
        with self._lock:
            try:
                self._pose.set_camera(message)
            except PoseError as error:
                self._warn("camera_info rejected", error)

    def receive_range(self, message: Any) -> None:
        """Take a depth image or a point cloud, depending on the parameter `source`."""
        with self._lock:
            try:
                self._pose.add_range(message)
            except PoseError as error:
                self._warn("depth rejected", error)
            self._publish_poses()

    def _publish_poses(self) -> None:
        while True:
            try:
                estimate = self._pose.next_pose()
            except PoseError as error:
                self._warn("no position", error)
                continue
            if estimate is None:
                return
            self._publish_pose(estimate)

    def _predict_bearing(self, track: Track, bearing: Bearing) -> None:
        """Publish a bearing, extrapolated to now if that is asked for and possible."""
        if self._values["predict.enabled"]:
            settings, now = prediction_settings(self._values), self._middleware.now_ns()
            self._predictor.update([track], settings)
            predicted = self._predictor.predicted(track, now, settings)
            if predicted is None:
                self._warn_not_predicted(settings)
            else:
                try:
                    bearing = self._pose.camera.bearing(*predicted.box.center)
                except PoseError as error:  # beyond what the lens shows
                    self._warn("no bearing", error)
                    return
                track = predicted
        self._publish_bearing(track, bearing)

    def _publish_bearing(self, track: Track, bearing: Bearing) -> None:
        types, publish = self._middleware.types, self._middleware.publish
        place = track.stamp_ns, track.frame_id or self._pose.camera.frame_id
        angles = np.array([bearing.azimuth, bearing.elevation, 0.0])
        publish(BEARING, vector_message(types, bearing.ray, *place))
        publish(BEARING_ANGLES, vector_message(types, angles, *place))

    def _publish_pose(self, estimate: PoseEstimate) -> None:
        target_frame, tf_frame = str(self._values["target_frame"]), str(self._values["tf_frame"])
        if target_frame:
            camera = estimate.frame_id
            matrix = self._middleware.transform(target_frame, camera, estimate.stamp_ns)
            if matrix is None:
                text = f"no pose: no transform from {printable(camera)} to {target_frame}"
                self._throttle.throttle(Level.WARN, "transform", text)
                return
            try:
                estimate = transformed(estimate, matrix, target_frame)
            except PoseError as error:
                self._warn("no pose", error)
                return
        if self._values["predict.enabled"]:
            boxes, now = prediction_settings(self._values), self._middleware.now_ns()
            acceleration = float(self._values["predict.position_acceleration"])
            settings = PosePredictionSettings(boxes, acceleration)
            predicted = self._pose_predictor.predicted(estimate, now, settings)
            if predicted is None:
                self._warn_not_predicted(boxes)
            estimate = predicted or estimate
        types, publish = self._middleware.types, self._middleware.publish
        pose = estimate.position, estimate.orientation
        place = estimate.stamp_ns, estimate.frame_id
        publish(TARGET_POSE, pose_message(types, *pose, *place))
        publish(
            TARGET_POSE_WITH_COVARIANCE,
            pose_with_covariance_message(types, *pose, estimate.covariance, *place),
        )
        if target_frame:
            publish(GOAL_UPDATE, pose_message(types, *ground_goal(estimate), *place))
        if tf_frame:
            publish(TF, tf_message(types, *pose, *place, tf_frame))

    def _warn_not_predicted(self, settings: PredictionSettings) -> None:
        self._throttle.once(Level.WARN, f"{NO_PREDICTION}: {too_old(settings.max_time_ns)}")

    def _warn(self, what: str, error: ValueError) -> None:
        self._throttle.throttle(Level.WARN, what, f"{what}: {error}")


def pose_settings(values: Mapping[str, Value]) -> PoseSettings:
    """Settings from checked values of `POSE_PARAMETERS`."""
    named: Mapping[str, Any] = values
    return PoseSettings(
        source=named["source"],
        rectified=named["rectified"],
        target_id=named["target_id"],
        publish_uncertain=named["publish_uncertain"],
        target_width=named["target_width"],
        target_width_deviation=named["target_width_deviation"],
        region=named["range.region"],
        min_share=named["range.min_share"],
        deviation=named["range.deviation"],
        max_speed=named["range.max_speed"],
        tolerance_ns=round(named["range.tolerance"] * NS),
        buffer_ns=round(named["buffer.duration"] * NS),
        buffer_bytes=named["buffer.megabytes"] * 1_000_000,
    )
