"""Where the target is in space: bearing and position from tracks, as a lifecycle node of ROS 2."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from rclpy.clock import ClockType
from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.time import Time
from tf2_ros import Buffer, TransformException, TransformListener

from mixformerv2_ros.ros.live.live_target_pose import (
    CAMERA_INFO,
    POSE_OUTPUTS,
    RANGES,
    TRACK,
    LiveTargetPose,
)
from mixformerv2_ros.ros.messages import transform_matrix
from mixformerv2_ros.ros.parameters import POSE_PARAMETERS, Value
from mixformerv2_ros.ros.rclpy.managed_node import ManagedNode
from mixformerv2_ros.ros.rclpy.run import run
from mixformerv2_ros.ros.rclpy.subscriptions import reliable

_WAIT = Duration(seconds=0.1)
"""How long a transform may lag behind an image; odometry often does."""


class TargetPoseNode(ManagedNode):
    """Connects a `LiveTargetPose` with ROS 2."""

    table = POSE_PARAMETERS

    def __init__(self, **options: Any) -> None:
        """Make the node, unconfigured; see `ManagedNode`."""
        super().__init__("target_pose", **options)
        self._pose: LiveTargetPose | None = None
        self._frames: Buffer | None = None

    def set_up(self, values: Mapping[str, Value]) -> None:
        """Make publishers and listen to transforms."""
        for name, msgtype in POSE_OUTPUTS.items():
            self.advertise(name, msgtype, reliable())
        self._frames, leave = _listen(self)
        self.until_cleanup(leave)

    def work(self, values: Mapping[str, Value]) -> None:
        """Subscribe and locate.

        Raises:
            ParameterError: `qos_overrides` name a reliability that there is not.
        """
        self._pose = pose = LiveTargetPose(values, self)
        self.until_deactivate(self._drop_pose)
        self.hear(*TRACK, pose.receive_track)
        quality = str(values["range_qos"])
        topic, msgtype = CAMERA_INFO
        self.sense(self.resolve_topic_name(topic), msgtype, pose.receive_camera_info, "auto")
        source = str(values["source"])
        if source in RANGES:
            topic, msgtype = RANGES[source]
            self.sense(self.resolve_topic_name(topic), msgtype, pose.receive_range, quality)
        self.get_logger().info(f"active: distances from {source}")

    def apply(self, changes: Mapping[str, Any]) -> None:
        """Put accepted changes to work before the next message."""
        if self._pose is not None and changes:
            self._pose.set_values(changes)

    def transform(
        self, target_frame: str, source_frame: str, stamp_ns: int
    ) -> npt.NDArray[np.float64] | None:
        """(4, 4) matrix from a frame to another at a time; None where tf does not know it."""
        assert self._frames is not None
        try:
            time = Time(nanoseconds=stamp_ns, clock_type=ClockType.ROS_TIME)
            newest = self._frames.get_latest_common_time(target_frame, source_frame)
            # Who is far behind will not catch up while we wait.
            near = stamp_ns - newest.nanoseconds < _WAIT.nanoseconds * 5
            found = self._frames.lookup_transform(
                target_frame, source_frame, time, _WAIT if near else Duration()
            )
        except (TransformException, ValueError):
            return None
        return transform_matrix(found.transform)

    def _drop_pose(self) -> None:
        self._pose = None


def _listen(owner: Node) -> tuple[Buffer, Callable[[], None]]:
    """A buffer of transforms that is filled from a thread of its own, and what ends that.

    The thread spins another node: transforms must arrive while a callback of this one waits. That
    node listens to the topics, and has the clock, of the owner; a clock that jumps back empties the
    buffer.
    """
    remaps = [f"{topic}:={owner.resolve_topic_name(topic)}" for topic in ("/tf", "/tf_static")]
    sim_time = owner.get_parameter("use_sim_time")
    node = Node(
        f"{owner.get_name()}_transforms",
        context=owner.context,
        namespace=owner.get_namespace(),
        cli_args=["--ros-args", *(word for rule in remaps for word in ("-r", rule))],
        use_global_arguments=False,
        start_parameter_services=False,
        parameter_overrides=[sim_time],
    )
    frames = Buffer(node=node)
    listener = TransformListener(frames, node)
    executor = SingleThreadedExecutor(context=owner.context)
    executor.add_node(node)
    thread = threading.Thread(target=executor.spin, name="transforms")
    thread.start()

    def end() -> None:
        executor.shutdown()
        thread.join()
        listener.unregister()
        node.destroy_node()

    return frames, end


def main(args: list[str] | None = None) -> int:
    """`ros2 run mixformerv2_ros target_pose_node`."""
    return run(TargetPoseNode, args)
