"""Topics of the nodes: names, which can be remapped, and message types."""

from __future__ import annotations

IMAGE = "image"
COMPRESSED_IMAGE = "image/compressed"

RAW, COMPRESSED = "raw", "compressed"

IMAGES = {
    RAW: (IMAGE, "sensor_msgs/msg/Image"),
    COMPRESSED: (COMPRESSED_IMAGE, "sensor_msgs/msg/CompressedImage"),
}
"""Topic and type of the images by the parameter `image_transport`."""

IMAGE_TYPES = tuple(msgtype for _, msgtype in IMAGES.values())

INIT_BOX = "init_box"
INIT_DETECTION = "init_detection"
INIT_ROI = "init_roi"

INITS = {
    INIT_BOX: "mixformerv2_ros/msg/InitBox",
    INIT_DETECTION: "vision_msgs/msg/Detection2D",
    INIT_ROI: "sensor_msgs/msg/RegionOfInterest",
}
"""Topics of init boxes and their types."""

INIT_POINT = ("init_point", "geometry_msgs/msg/PointStamped")
"""Topic and type of clicks, x and y in pixels, each of which starts a target around it."""

DETECTOR = ("detector", "vision_msgs/msg/Detection2DArray")
"""Topic and type of the detections of an object detector."""

STOP_TARGET = "stop_target"
SET_PARAMETER = "set_parameter"

COMMANDS = {
    STOP_TARGET: "std_msgs/msg/String",
    SET_PARAMETER: "diagnostic_msgs/msg/KeyValue",
}
"""Topics on which a tracker is told what services do elsewhere, which DDS alone does not have.

- `stop_target`: the name of the target to stop; empty: all.
- `set_parameter`: name and value of a parameter that can be changed at runtime, as text.
"""

TRACK = "track"
DETECTIONS = "detections"
TRACK_PREDICTED = "track_predicted"
DEBUG_IMAGE = "debug_image"
DEBUG_IMAGE_COMPRESSED = "debug_image/compressed"
DIAGNOSTICS = "/diagnostics"

OUTPUTS = {
    TRACK: "mixformerv2_ros/msg/Track",
    DETECTIONS: "vision_msgs/msg/Detection2DArray",
    TRACK_PREDICTED: "mixformerv2_ros/msg/Track",
    DEBUG_IMAGE: "sensor_msgs/msg/Image",
    DEBUG_IMAGE_COMPRESSED: "sensor_msgs/msg/CompressedImage",
    DIAGNOSTICS: "diagnostic_msgs/msg/DiagnosticArray",
}
"""Topics that the tracker node publishes and their types."""

OVERLAYS = (DEBUG_IMAGE, DEBUG_IMAGE_COMPRESSED)
"""Outputs that are published only while they have subscribers."""

TRACK_TARGET = "track_target"
"""Action of the tracker node on rclpy."""

_OF_AN_ACTION = ("send_goal", "cancel_goal", "get_result", "feedback", "status")
"""What an action consists of: no remapping rule of ROS 2 is for an action as a whole."""


def prefix_rules(prefix: str) -> list[tuple[str, str]]:
    """Remapping rules that prefix the topics of both nodes, except those of sensors.

    `/diagnostics` and `/tf` are everybody's and stay.

    Args:
        prefix: Such as `front_` or `front/`; empty for none.

    Returns:
        Old and new name of every rule.
    """
    if not prefix:
        return []
    outputs = [*OUTPUTS, *POSE_OUTPUTS]
    inputs = [*INITS, INIT_POINT[0], DETECTOR[0], *COMMANDS]
    topics = [*inputs, *(name for name in outputs if name[0] != "/")]
    actions = [f"{TRACK_TARGET}/_action/{part}" for part in _OF_AN_ACTION]
    return [(name, prefix + name) for name in (*topics, *actions)]


CAMERA_INFO = ("camera_info", "sensor_msgs/msg/CameraInfo")
DEPTH_IMAGE = ("depth", "sensor_msgs/msg/Image")
POINTS = ("points", "sensor_msgs/msg/PointCloud2")

TARGET_POSE = "target_pose"
TARGET_POSE_WITH_COVARIANCE = "target_pose_with_covariance"
GOAL_UPDATE = "goal_update"
BEARING = "bearing"
BEARING_ANGLES = "bearing_angles"
TF = "/tf"

POSE_OUTPUTS = {
    TARGET_POSE: "geometry_msgs/msg/PoseStamped",
    TARGET_POSE_WITH_COVARIANCE: "geometry_msgs/msg/PoseWithCovarianceStamped",
    GOAL_UPDATE: "geometry_msgs/msg/PoseStamped",
    BEARING: "geometry_msgs/msg/Vector3Stamped",
    BEARING_ANGLES: "geometry_msgs/msg/Vector3Stamped",
    TF: "tf2_msgs/msg/TFMessage",
}
"""Topics that the target pose node publishes and their types, all reliable.

- `target_pose`: for Nav2's FollowObject and for servoing, in `target_frame` or the camera's frame.
- `target_pose_with_covariance`: the same with its covariance.
- `goal_update`: for the GoalUpdater of Nav2's behaviour trees; on the ground of `target_frame`.
- `bearing`: unit ray in the optical frame (x right, y down, z forward).
- `bearing_angles`: x azimuth to the right, y elevation upwards, in radians; z is 0.
- `/tf`: the frame `tf_frame`, where one is set.

Nothing is published while the target is lost.
"""
