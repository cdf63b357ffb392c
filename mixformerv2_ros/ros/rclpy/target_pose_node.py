"""The target pose node as a lifecycle node of ROS 2: bearing and position from tracks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from rclpy.clock import ClockType
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.time import Time
from tf2_ros import Buffer, TransformException, TransformListener

from mixformerv2_ros.ros.live.live_target_pose import RANGE_TOPICS, LiveTargetPose
from mixformerv2_ros.ros.messages import Level
from mixformerv2_ros.ros.parameters import POSE_PARAMETERS, Value
from mixformerv2_ros.ros.pose_messages import transform_matrix
from mixformerv2_ros.ros.qos import AUTO, QosProfile, Reliability
from mixformerv2_ros.ros.rclpy.managed_node import ManagedNode
from mixformerv2_ros.ros.rclpy.qos_profiles import reliable
from mixformerv2_ros.ros.rclpy.run import run
from mixformerv2_ros.ros.rclpy.spin_thread import SpinThread
from mixformerv2_ros.ros.rclpy.subscriptions import publications
from mixformerv2_ros.ros.topic_checks import Requested, no_message_reason
from mixformerv2_ros.ros.topics import CAMERA_INFO, OUTPUTS, POSE_OUTPUTS, TRACK

_CHECK_S, _REPEAT_CHECKS = 3.0, 10
"""Time until the inputs are checked, and number of these periods between two log lines."""

_WAIT = Duration(seconds=0.1)
"""How long a transform may lag behind an image; odometry often does."""


class TargetPoseNode(ManagedNode):
    """Connects a `LiveTargetPose` with ROS 2."""

    parameter_table = POSE_PARAMETERS

    def __init__(self, **options: Any) -> None:
        """Create the node, unconfigured; see `ManagedNode`."""
        super().__init__("target_pose", **options)
        self._pose: LiveTargetPose | None = None
        self._frames: Buffer | None = None
        self._received: set[str] = set()
        self._checks = 0

    def configure(self, values: Mapping[str, Value]) -> None:
        """Create publishers and the transform buffer."""
        for name, msgtype in POSE_OUTPUTS.items():
            self.create_output(name, msgtype, reliable())
        self._frames, close = _transform_buffer(self)
        self.until_cleanup.callback(close)

    def activate(self, values: Mapping[str, Value]) -> None:
        """Subscribe and estimate poses.

        Raises:
            ParameterError: `qos_overrides` have an unknown reliability.
        """
        self._pose = pose = LiveTargetPose(values, self)
        self.until_deactivate.callback(self._drop_pose)
        self._received.clear()
        self._checks = 0
        track, reliably = str(self.resolve_topic_name(TRACK)), QosProfile(Reliability.RELIABLE)
        self.create_reliable_subscription(
            TRACK, OUTPUTS[TRACK], self._noted(track, pose.receive_track)
        )
        tracks = Requested(track, OUTPUTS[TRACK], reliably)
        source = str(values["source"])
        inputs = [(CAMERA_INFO, pose.receive_camera_info, AUTO)]
        if source in RANGE_TOPICS:
            inputs.append((RANGE_TOPICS[source], pose.receive_range, str(values["range_qos"])))
        sensors = []
        for (name, msgtype), callback, choice in inputs:
            topic = str(self.resolve_topic_name(name))
            subscription = self.create_sensor_subscription(
                topic, msgtype, self._noted(topic, callback), choice
            )
            sensors.append(subscription)
        self.create_steady_timer(
            _CHECK_S, lambda: self._check_inputs([tracks, *(each.requested for each in sensors)])
        )
        self.get_logger().info(f"active: distance from {source}")

    def apply_parameters(self, changes: Mapping[str, Any]) -> None:
        """Apply accepted changes before the next message."""
        if self._pose is not None and changes:
            self._pose.set_values(changes)

    def transform(
        self, target_frame: str, source_frame: str, stamp_ns: int
    ) -> npt.NDArray[np.float64] | None:
        """(4, 4) matrix from a frame to another at a time; None where tf2 does not have it."""
        assert self._frames is not None
        try:
            time = Time(nanoseconds=stamp_ns, clock_type=ClockType.ROS_TIME)
            newest = self._frames.get_latest_common_time(target_frame, source_frame)
            # Transforms that lag further behind will not arrive in time.
            near = stamp_ns - newest.nanoseconds < _WAIT.nanoseconds * 5
            found = self._frames.lookup_transform(
                target_frame, source_frame, time, _WAIT if near else Duration()
            )
        except (TransformException, ValueError):
            return None
        return transform_matrix(found.transform)

    def _noted(self, topic: str, callback: Callable[[Any], None]) -> Callable[[Any], None]:
        """The callback of a subscription, which notes that a message has come."""

        def receive(message: Any) -> None:
            self._received.add(topic)
            callback(message)

        return receive

    def _check_inputs(self, inputs: Iterable[Requested]) -> None:
        """Log why nothing has come on an input, a moment after activation and now and then."""
        self._checks += 1
        if self._checks % _REPEAT_CHECKS != 1:
            return
        for requested in inputs:
            if requested.topic not in self._received:
                found = publications(self, requested.topic)
                reason = no_message_reason(requested, found)
                self.log(Level.WARN, f"no message received on {requested.topic}: {reason}")

    def _drop_pose(self) -> None:
        self._pose = None


def _transform_buffer(owner: Node) -> tuple[Buffer, Callable[[], None]]:
    """A transform buffer that is filled in a thread of its own, and a function that closes it.

    The thread spins another node: transforms must arrive while a callback of this one waits. That
    node has the remappings and the clock of the owner; a clock that jumps back clears the buffer.
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
    thread = SpinThread(node, "transforms")
    thread.start()

    def close() -> None:
        thread.close()
        listener.unregister()
        node.destroy_node()

    return frames, close


def main(args: list[str] | None = None) -> int:
    """`ros2 run mixformerv2_ros target_pose_node`."""
    return run(TargetPoseNode, args)
