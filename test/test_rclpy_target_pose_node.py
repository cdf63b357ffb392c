"""The target pose node on rclpy, where ROS 2 is installed and this package is built."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from ranging import BOX, HEIGHT, WIDTH, K
from ranging import track as a_track
from waiting import repeat_until, wait_for

pytest.importorskip("rclpy", reason="needs rclpy, which is not installed")

from geometry_msgs.msg import PoseStamped, TransformStamped, Vector3Stamped
from rclpy.lifecycle import TransitionCallbackReturn
from ros_peers import BEST_EFFORT, RELIABLE, Peer, go, ros, start_spinning  # noqa: F401
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from sensor_msgs_py import point_cloud2
from std_msgs.msg import Header
from tf2_ros import StaticTransformBroadcaster, TransformBroadcaster

from mixformerv2_ros.msg import Track
from mixformerv2_ros.ros.messages import header_message, track_message
from mixformerv2_ros.ros.rclpy.message_types import message_types
from mixformerv2_ros.ros.rclpy.target_pose_node import TargetPoseNode
from mixformerv2_ros.tracking.session import State

FRAME = "camera_optical_frame"


@pytest.fixture
def peer(capfd: pytest.CaptureFixture[str]) -> Iterator[Peer]:
    made = Peer(capfd)
    for topic, kind in (
        ("/target_pose", PoseStamped), ("/goal_update", PoseStamped), ("/bearing", Vector3Stamped),
    ):  # fmt: skip
        made.listen(topic, kind)
    yield made
    made.close()


class Locator:
    """The node in this process, active, with a calibrated camera."""

    def __init__(self, peer: Peer, **values: Any) -> None:
        words = ["--ros-args"]
        for name, value in values.items():
            words += ["-p", f"{name.replace('__', '.')}:={value}"]
        self.peer = peer
        self.node = TargetPoseNode(cli_args=words)
        self.spinning = start_spinning(self.node)
        for transition in ("configure", "activate"):
            assert go(self.node, self.spinning, transition) == TransitionCallbackReturn.SUCCESS
        self.tracks = self._camera("/track", Track, RELIABLE)
        info = CameraInfo(
            header=header(0), width=WIDTH, height=HEIGHT, distortion_model="plumb_bob",
            d=[0.0] * 5, k=K.reshape(-1), r=np.eye(3).reshape(-1), p=np.eye(3, 4).reshape(-1),
        )  # fmt: skip
        cameras = self._camera("/camera_info", CameraInfo, RELIABLE)
        peer.deliver(cameras, info, self.node.get_name())

    def _camera(self, topic: str, kind: type, qos: Any) -> Any:
        return self.peer.camera(topic, kind, qos)

    def show(self, stamp: int, state: State = State.TRACKING) -> None:
        track = a_track(stamp=stamp, state=state)
        self.tracks.publish(track_message(message_types, track))

    def close(self) -> None:
        self.spinning.close()
        self.node.close()
        self.node.destroy_node()


def header(stamp: int, frame: str = FRAME) -> Header:
    return header_message(message_types, stamp, frame)


def depth(stamp: int, metres: float) -> Image:
    values = np.full((HEIGHT, WIDTH), metres, np.float32)
    return Image(
        header=header(stamp), height=HEIGHT, width=WIDTH, encoding="32FC1", step=4 * WIDTH,
        data=values.tobytes(),
    )  # fmt: skip


def expected(metres: float) -> np.ndarray:
    u, v = BOX.center
    return np.array([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], 1.0]) * metres


def position(message: PoseStamped) -> np.ndarray:
    p = message.pose.position
    return np.array([p.x, p.y, p.z])


@pytest.mark.parametrize("qos", [BEST_EFFORT, RELIABLE])
def test_depth_gives_a_pose_and_silence_follows_a_loss(peer: Peer, qos: Any) -> None:
    locator = Locator(peer)
    try:
        camera = peer.camera("/depth", Image, qos)
        camera.publish(depth(10**9, 4.0))
        locator.show(10**9)
        wait_for(lambda: peer.heard["/target_pose"], f"a pose; log {peer.lines}")
        assert position(peer.heard["/target_pose"][0]) == pytest.approx(expected(4.0), abs=0.02)
        assert peer.heard["/target_pose"][0].header == header(10**9)
        camera.publish(depth(2 * 10**9, 4.0))
        locator.show(2 * 10**9, State.LOST)
        camera.publish(depth(3 * 10**9, 5.0))
        locator.show(3 * 10**9)
        wait_for(lambda: len(peer.heard["/target_pose"]) == 2, "the second pose")
        assert [m.header.stamp.sec for m in peer.heard["/target_pose"]] == [1, 3]
        assert [m.header.stamp.sec for m in peer.heard["/bearing"]] == [1, 3]
        (info,) = peer.node.get_publishers_info_by_topic("/target_pose")
        assert info.qos_profile.reliability == RELIABLE.reliability
    finally:
        locator.close()


def test_the_log_says_why_an_input_is_silent(peer: Peer) -> None:
    wrong = peer.node.create_publisher(Header, "/depth", RELIABLE)
    locator = Locator(peer)
    try:
        peer.wait_for_line("no message received on /track: no message from /peer")
        peer.wait_for_line(
            "no message received on /depth: type mismatch on /depth: it is published as "
            "std_msgs/msg/Header, this node subscribes to sensor_msgs/msg/Image"
        )
        assert not any("received on /camera_info" in line for line in peer.lines)
    finally:
        locator.close()
        peer.node.destroy_publisher(wrong)


def test_a_cloud_of_sensor_msgs_py_gives_a_pose(peer: Peer) -> None:
    locator = Locator(peer, source="cloud")
    try:
        u, v = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
        points = np.stack(
            [(u - K[0, 2]) / K[0, 0] * 3, (v - K[1, 2]) / K[1, 1] * 3, np.full(u.shape, 3.0)], -1
        ).astype(np.float32)
        cloud = point_cloud2.create_cloud_xyz32(header(10**9), points.reshape(-1, 3))
        cloud.height, cloud.width, cloud.row_step = HEIGHT, WIDTH, WIDTH * cloud.point_step
        peer.camera("/points", PointCloud2).publish(cloud)
        locator.show(10**9)
        wait_for(lambda: peer.heard["/target_pose"], f"a pose; log {peer.lines}")
        assert position(peer.heard["/target_pose"][0]) == pytest.approx(expected(3.0), abs=0.02)
    finally:
        locator.close()


def test_a_fixed_frame_by_tf_gives_a_goal(peer: Peer) -> None:
    """The camera looks along the map's x axis, 2 m above the ground; its transform comes late."""
    locator = Locator(peer, target_frame="map", tf_frame="target")
    try:
        camera = peer.camera("/depth", Image)
        stamps = itertools.count(10**7, 10**7)

        def show() -> None:
            stamp = next(stamps)
            camera.publish(depth(stamp, 4.0))
            locator.show(stamp)

        repeat_until(show, lambda: any("no transform" in line for line in peer.lines), "a reason")
        StaticTransformBroadcaster(peer.node).sendTransform(_mount())
        odometry = TransformBroadcaster(peer.node)
        repeat_until(
            lambda: odometry.sendTransform(_odometry(10**9)),
            lambda: locator.node.transform("map", FRAME, 10**9) is not None,
            "the transform",
        )
        camera.publish(depth(2 * 10**9, 4.0))
        locator.show(2 * 10**9)
        odometry.sendTransform(_odometry(3 * 10**9))
        wait_for(lambda: peer.heard["/goal_update"], f"a goal; log {peer.lines}")
        x, y, z = expected(4.0)
        (pose,), (goal,) = peer.heard["/target_pose"], peer.heard["/goal_update"]
        assert pose.header.frame_id == goal.header.frame_id == "map"
        assert position(pose) == pytest.approx([z, -x, 2 - y], abs=0.02)
        assert position(goal) == pytest.approx([z, -x, 0], abs=0.02)
    finally:
        locator.close()


def test_tf_topics_can_be_remapped(peer: Peer) -> None:
    node = TargetPoseNode(
        cli_args=["--ros-args", "-r", "/tf:=/robot/tf", "-r", "/tf_static:=/robot/tf_static"]
    )
    spinning = start_spinning(node)
    try:
        go(node, spinning, "configure")
        for topic in ("/robot/tf", "/robot/tf_static"):
            wait_for(lambda topic=topic: peer.node.count_subscribers(topic), topic)
        assert peer.node.count_publishers("/robot/tf") == 1
        assert not peer.node.count_subscribers("/tf")
    finally:
        spinning.close()
        node.close()
        node.destroy_node()


def test_a_track_before_time_began_gives_no_pose(peer: Peer) -> None:
    locator = Locator(peer, target_frame="map")
    try:
        assert locator.node.transform("map", FRAME, -1) is None
    finally:
        locator.close()


def _mount() -> TransformStamped:
    mount = TransformStamped(header=header(0, "base"), child_frame_id=FRAME)
    mount.transform.translation.z = 2.0
    rotation = mount.transform.rotation
    rotation.x, rotation.y, rotation.z, rotation.w = -0.5, 0.5, -0.5, 0.5
    return mount


def _odometry(stamp: int) -> TransformStamped:
    return TransformStamped(header=header(stamp, "map"), child_frame_id="base")


def test_width_needs_a_width(peer: Peer) -> None:
    node = TargetPoseNode(cli_args=["--ros-args", "-p", "source:=width"])
    spinning = start_spinning(node)
    try:
        assert go(node, spinning, "configure") == TransitionCallbackReturn.FAILURE
        peer.wait_for_line("target_width")
    finally:
        spinning.close()
        node.close()
        node.destroy_node()
