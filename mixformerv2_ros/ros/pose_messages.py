"""ROS messages of the target pose node; see `messages` for `types`."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mixformerv2_ros.ros.messages import (
    Floats,
    Types,
    header_message,
    make_message,
    make_pose,
    make_tuple,
)


def pose_message(
    types: Types, position: Floats, orientation: Floats, stamp_ns: int, frame_id: str
) -> Any:
    """Make a `geometry_msgs/msg/PoseStamped` from (3,) metres and a quaternion (4,) x, y, z, w."""
    return make_message(
        types,
        "geometry_msgs/msg/PoseStamped",
        header=header_message(types, stamp_ns, frame_id),
        pose=make_pose(types, position, orientation),
    )


def pose_with_covariance_message(
    types: Types,
    position: Floats,
    orientation: Floats,
    covariance: Floats,
    stamp_ns: int,
    frame_id: str,
) -> Any:
    """Make a `geometry_msgs/msg/PoseWithCovarianceStamped`; the covariance is (6, 6)."""
    return make_message(
        types,
        "geometry_msgs/msg/PoseWithCovarianceStamped",
        header=header_message(types, stamp_ns, frame_id),
        pose=make_message(
            types,
            "geometry_msgs/msg/PoseWithCovariance",
            pose=make_pose(types, position, orientation),
            covariance=covariance.reshape(-1),
        ),
    )


def vector_message(types: Types, vector: Floats, stamp_ns: int, frame_id: str) -> Any:
    """Make a `geometry_msgs/msg/Vector3Stamped` from (3,) numbers."""
    return make_message(
        types,
        "geometry_msgs/msg/Vector3Stamped",
        header=header_message(types, stamp_ns, frame_id),
        vector=make_tuple(types, "geometry_msgs/msg/Vector3", "xyz", vector),
    )


def tf_message(
    types: Types,
    position: Floats,
    orientation: Floats,
    stamp_ns: int,
    frame_id: str,
    child_frame_id: str,
) -> Any:
    """Make a `tf2_msgs/msg/TFMessage` with the one transform that puts a child into a frame."""
    transform = make_message(
        types,
        "geometry_msgs/msg/Transform",
        translation=make_tuple(types, "geometry_msgs/msg/Vector3", "xyz", position),
        rotation=make_tuple(types, "geometry_msgs/msg/Quaternion", "xyzw", orientation),
    )
    stamped = make_message(
        types,
        "geometry_msgs/msg/TransformStamped",
        header=header_message(types, stamp_ns, frame_id),
        child_frame_id=child_frame_id,
        transform=transform,
    )
    return make_message(types, "tf2_msgs/msg/TFMessage", transforms=[stamped])


def transform_matrix(transform: Any) -> npt.NDArray[np.float64]:
    """(4, 4) matrix of a `geometry_msgs/msg/Transform`; its quaternion need not be normal."""
    q, t = transform.rotation, transform.translation
    x, y, z, w = np.array([q.x, q.y, q.z, q.w]) / np.linalg.norm([q.x, q.y, q.z, q.w])
    matrix = np.eye(4)
    matrix[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    matrix[:3, 3] = t.x, t.y, t.z
    return matrix
