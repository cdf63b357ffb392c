"""The launch files, run by `ros2 launch`, where ROS 2 is installed and this package is built."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest
from nodes import box_of, frame_stamp
from recordings import IMAGE_TOPIC, red_box, write_bag
from waiting import repeat_until, wait_for

pytest.importorskip("rclpy", reason="needs rclpy, which is not installed")

from geometry_msgs.msg import PoseStamped
from lifecycle_msgs.srv import GetState
from rcl_interfaces.srv import GetParameters
from ros_launches import ROS2, Launch
from ros_peers import Goal, Peer, image, peer, ros  # noqa: F401

from mixformerv2_ros import __version__
from mixformerv2_ros.msg import Track
from mixformerv2_ros.ros.messages import stamp_ns

pytestmark = pytest.mark.skipif(ROS2 is None, reason="needs the ros2 command")


def state(peer: Peer, node: str) -> str:
    return str(peer.call(GetState, f"{node}/get_state", GetState.Request()).current_state.label)


def test_the_tracker_takes_its_arguments(peer: Peer) -> None:
    with Launch(
        "tracker", namespace="drone", image="/eye", compressed="True", autostart="False",
        log_level="warn",
    ) as launch:  # fmt: skip
        wait_for(lambda: "tracker" in peer.node.get_node_names(), "the node")
        assert state(peer, "/drone/tracker") == "unconfigured"
        names = ["image_transport", "engine", "lost.duration"]
        answer = peer.call(
            GetParameters, "/drone/tracker/get_parameters", GetParameters.Request(names=names)
        )
        transport, engine, duration = answer.values
        assert (transport.string_value, engine.string_value) == ("compressed", "onnxruntime")
        assert duration.double_value == 1.0
    assert "Traceback" not in launch.output


def test_a_choice_that_there_is_not_is_refused() -> None:
    with Launch("tracker", engine="steam") as launch:
        assert launch.process.wait(60) == 1
    assert "steam" in launch.output


@pytest.mark.skipif(find_spec("ros2bag") is None, reason="needs ros2 bag, which is not installed")
def test_a_recording_with_its_clock(tmp_path: Path, peer: Peer) -> None:
    bag = write_bag(tmp_path / "bag", 40)
    box = ",".join(str(float(side)) for side in red_box(0))
    with Launch("replay", bag=bag, image=IMAGE_TOPIC, box=box, rate=0.5) as launch:
        assert launch.process.wait(90) == 0
    tracks = peer.heard["/track"]
    assert len(tracks) > 5, launch.output
    first = (stamp_ns(tracks[0]) - frame_stamp(0)) // (frame_stamp(1) - frame_stamp(0))
    assert box_of(tracks[0]) == pytest.approx(red_box(first), abs=6)
    assert {track.state for track in tracks} <= {Track.TRACKING, Track.UNCERTAIN}


def test_following_a_target_is_wired(peer: Peer) -> None:
    with Launch(
        "follow_target", image="/eye/image", camera_info="/eye/info", depth="/eye/depth",
        target_frame="map", goal_update="/nav/goal_update",
    ) as launch:  # fmt: skip
        wait_for(
            lambda: {"tracker", "target_pose"} <= set(peer.node.get_node_names()), "both nodes"
        )
        wait_for(lambda: state(peer, "/tracker") == state(peer, "/target_pose") == "active", "both")
        for topic in ("/eye/image", "/eye/info", "/eye/depth", "/track"):
            wait_for(lambda topic=topic: peer.node.count_subscribers(topic), topic)
        (info,) = peer.node.get_publishers_info_by_topic("/nav/goal_update")
        assert info.topic_type == "geometry_msgs/msg/PoseStamped"
        peer.listen("/target_pose", PoseStamped)
        wait_for(lambda: peer.node.count_publishers("/target_pose"), "the poses")
    assert "Traceback" not in launch.output


def test_a_prefix_for_the_topics_of_both_nodes_and_of_the_action(peer: Peer) -> None:
    with Launch(
        "follow_target", image="/eye/image", source="bearing", topic_prefix="front/",
        target_pose="/nav/pose", rectified=True,
    ) as launch:  # fmt: skip
        names = {"tracker", "target_pose"}
        wait_for(lambda: names <= set(peer.node.get_node_names()), "both nodes")
        wait_for(lambda: state(peer, "/tracker") == state(peer, "/target_pose") == "active", "both")
        goal = Goal(peer, action="/front/track_target")
        camera = peer.camera("/eye/image")
        peer.listen("/front/track", Track)
        repeat_until(lambda: camera.publish(image(0)), lambda: goal.feedback, "feedback")
        wait_for(lambda: peer.heard["/front/track"], "a track")
        published = dict(peer.node.get_topic_names_and_types())
        assert {"/front/detections", "/front/debug_image/compressed", "/front/bearing_angles",
                "/nav/pose", "/diagnostics"} <= set(published)  # fmt: skip
        assert not peer.node.count_publishers("/track")
        for node in ("tracker", "target_pose"):
            subscribed = peer.node.get_subscriber_names_and_types_by_node(node, "/")
            others = {name for name, _ in subscribed if not name.startswith("/front/")}
            assert others <= {"/eye/image", "/camera_info", "/tf", "/tf_static", "/bond"}
        assert peer.parameters("/target_pose", "rectified") == [True]
    assert "Traceback" not in launch.output


def test_a_node_that_ended_is_started_again(peer: Peer) -> None:
    with Launch("tracker", respawn=True) as launch:
        for count in (1, 2):
            wait_for(lambda c=count: launch.output.count("active: subscribed") == c, "the node")
            (pid,) = re.findall(r"process started with pid \[(\d+)\]", launch.output)[count - 1 :]
            os.kill(int(pid), signal.SIGKILL)
        wait_for(lambda: launch.output.count("active: subscribed") == 3, "the node")
    assert launch.process.returncode == 0


def test_camera_and_tracker_in_one_namespace(peer: Peer) -> None:
    """Driver and rectification are other packages; without them the wiring is the same."""
    with Launch("camera_tracker", namespace="front", driver="none", rectify=False, follow=True):
        wait_for(
            lambda: {"tracker", "target_pose"} <= set(peer.node.get_node_names()), "both nodes"
        )
        wait_for(lambda: state(peer, "/front/tracker") == "active", "the tracker")
        for topic in ("/front/image_raw", "/front/camera_info", "/front/track"):
            wait_for(lambda topic=topic: peer.node.count_subscribers(topic), topic)


def test_the_command_is_on_the_path_of_a_sourced_workspace() -> None:
    command = shutil.which("mixformerv2")
    assert command is not None
    done = subprocess.run([command, "--version"], capture_output=True, text=True, timeout=60)
    assert done.stdout == f"mixformerv2 {__version__}\n", done.stderr
