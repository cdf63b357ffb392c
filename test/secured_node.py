"""A node of the tests that plays a role under a policy; run as a process: ROLE."""

from __future__ import annotations

import itertools
import sys
import time
from typing import Any

import rclpy
from recordings import red_box
from ros_peers import image
from rosidl_runtime_py.utilities import get_message

from mixformerv2_ros.msg import InitBox, Track
from mixformerv2_ros.ros.topics import COMMANDS, SET_PARAMETER, STOP_TARGET

DENIED_TO_A_VIEWER = {
    "init_box": "mixformerv2_ros/msg/InitBox",
    **{name: COMMANDS[name] for name in (STOP_TARGET, SET_PARAMETER)},
    "image": "sensor_msgs/msg/Image",
    "track": "mixformerv2_ros/msg/Track",
}


def tell(text: str) -> None:
    print(text, flush=True)


def camera(node: Any) -> None:
    """Publish images for ever."""
    publisher = node.create_publisher(get_message("sensor_msgs/msg/Image"), "image", 5)
    for index in itertools.count():
        publisher.publish(image(index))
        rclpy.spin_once(node, timeout_sec=0.05)


def operator(node: Any) -> None:
    """Draw a box until something is tracked, then stop it."""
    states: list[int] = []
    node.create_subscription(Track, "track", lambda track: states.append(track.state), 10)
    boxes = node.create_publisher(InitBox, "init_box", 10)
    stops = node.create_publisher(get_message(COMMANDS[STOP_TARGET]), STOP_TARGET, 10)
    x, y, w, h = map(float, red_box(0))
    draw = lambda: boxes.publish(InitBox(x=x, y=y, w=w, h=h))  # noqa: E731
    stop = lambda: stops.publish(get_message(COMMANDS[STOP_TARGET])())  # noqa: E731
    for name, act, reached in (
        ("tracked", draw, lambda: states and states[-1] != Track.IDLE),
        ("stopped", stop, lambda: states and states[-1] == Track.IDLE),
    ):
        while not reached():
            act()
            end = time.monotonic() + 0.5
            while time.monotonic() < end and not reached():
                rclpy.spin_once(node, timeout_sec=0.05)
        tell(name)


def viewer(node: Any) -> None:
    """See tracks; everything that commands is refused."""
    for topic, kind in DENIED_TO_A_VIEWER.items():
        try:
            node.create_publisher(get_message(kind), topic, 10)
        except Exception as error:
            tell(f"refused {topic}: {type(error).__name__}")
    seen: list[Any] = []
    node.create_subscription(Track, "track", seen.append, 10)
    while not seen:
        rclpy.spin_once(node, timeout_sec=0.1)
    tell("seen")


def stranger(node: Any) -> None:
    """See nothing of the tracker while two seconds pass."""
    end = time.monotonic() + 2
    while time.monotonic() < end:
        rclpy.spin_once(node, timeout_sec=0.1)
    tell(f"publishers {node.count_publishers('/track')}")


def main() -> None:
    role = sys.argv[1]
    rclpy.init(args=["--ros-args", "--enclave", f"/{role}"])
    # The policy knows the operator's node by the name of our command.
    node = rclpy.create_node("web" if role == "operator" else role)
    {"camera": camera, "operator": operator, "viewer": viewer, "stranger": stranger}[role](node)


if __name__ == "__main__":
    main()
