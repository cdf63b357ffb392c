"""Several cameras in one process on rclpy: nodes in namespaces, one engine, a launch file."""

from __future__ import annotations

from typing import Any

import pytest
from nodes import frame_stamp
from recordings import red_box
from waiting import repeat_until, wait_for

pytest.importorskip("rclpy", reason="needs rclpy, which is not installed")

from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from processes import Command
from ros_launches import ROS2, Launch
from ros_peers import RELIABLE, Peer, image, peer, ros  # noqa: F401
from sensor_msgs.msg import Image

from mixformerv2_ros.msg import InitBox, Track
from mixformerv2_ros.ros.messages import stamp_ns
from mixformerv2_ros.tracking.session import State

CODE = "import sys; from mixformerv2_ros.ros.rclpy.tracker_node import main; sys.exit(main())"
TOPICS = {"front": "/front/image", "rear": "/rear_camera/image_raw"}
WORDS = ("--camera", "front", "--camera", "rear=/rear_camera/image_raw")


class Cameras:
    """Two cameras that show the moving target."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        node = peer.node
        self.images = {
            name: node.create_publisher(Image, topic, RELIABLE) for name, topic in TOPICS.items()
        }
        self.boxes = {
            name: node.create_publisher(InitBox, f"/{name}/init_box", RELIABLE) for name in TOPICS
        }
        for name in TOPICS:
            peer.listen(f"/{name}/track", Track)
        peer.listen("/diagnostics", DiagnosticArray)

    def wait(self) -> None:
        for name in TOPICS:
            for publisher in (self.images[name], self.boxes[name]):
                wait_for(lambda p=publisher: p.get_subscription_count() > 0, f"{name} to subscribe")

    def tracks(self, name: str) -> list[Any]:
        return self.peer.heard[f"/{name}/track"]

    def show(self, name: str, index: int) -> Any:
        """Show an image until its track comes; returns the track."""

        def found() -> list[Any]:
            return [t for t in self.tracks(name) if stamp_ns(t) == frame_stamp(index)]

        # The first image may go before both sides know of each other.
        repeat_until(
            lambda: self.images[name].publish(image(index)), found, f"{index} of {name}", period=2
        )
        return found()[0]

    def start(self, name: str) -> None:
        """Track from image 0 on."""
        x, y, w, h = map(float, red_box(0))
        self.show(name, 0)
        self.boxes[name].publish(InitBox(x=x, y=y, w=w, h=h))


def test_cameras_of_one_process(peer: Peer) -> None:
    cameras = Cameras(peer)
    words = (*WORDS, "--ros-args", "-p", "num_threads:=1", "-p", "diagnostics.period:=0.2")
    with Command(*words, program=("-c", CODE)) as process:
        cameras.wait()
        for name in TOPICS:
            cameras.start(name)
        for name in TOPICS:
            repeat_until(
                lambda name=name: cameras.images[name].publish(image(1)),
                lambda name=name: cameras.tracks(name)[-1].state == State.TRACKING,
                f"a target of {name}",
            )
        nodes = peer.node.get_node_names_and_namespaces()
        assert {("tracker", "/front"), ("tracker", "/rear")} <= set(nodes)

        def statuses() -> set[str]:
            return {s.name for m in peer.heard["/diagnostics"] for s in m.status}

        wait_for(
            lambda: statuses() >= {"front/tracker: tracker", "rear/tracker: tracker"},
            "diagnostics of both",
        )
        # What becomes of one node is no matter of the other.
        request = ChangeState.Request()
        request.transition.id = Transition.TRANSITION_DEACTIVATE
        assert peer.call(ChangeState, "/rear/tracker/change_state", request).success
        cameras.show("front", 2)
        assert cameras.tracks("front")[-1].state == State.TRACKING
        assert process.end() == 0


def test_wrong_cameras_are_one_line() -> None:
    with Command("--camera", "front=", program=("-c", CODE)) as process:
        assert process.process.wait(60) == 2
    assert process.lines[-1] == (
        "tracker_node: camera must be NAMESPACE or NAMESPACE=TOPIC, got 'front='"
    )


def test_a_wrong_parameter_ends_the_process() -> None:
    words = (*WORDS, "--ros-args", "-p", "max_targets:=0")
    with Command(*words, program=("-c", CODE)) as process:
        assert process.process.wait(60) == 2
    assert any("max_targets must be 1 to 64, got 0" in line for line in process.lines)


@pytest.mark.skipif(ROS2 is None, reason="needs the ros2 command")
def test_cameras_of_a_launch_file(peer: Peer) -> None:
    cameras = Cameras(peer)
    with Launch("tracker", cameras="front,rear=/rear_camera/image_raw", log_level="warn"):
        cameras.wait()
        for name in TOPICS:
            assert cameras.show(name, 0).state == State.IDLE
    with Launch("tracker", cameras="front", image="/camera/image_raw") as launch:
        assert launch.process.wait(60) == 1
    assert "cameras and image exclude each other" in launch.output
