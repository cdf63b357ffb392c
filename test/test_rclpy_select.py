"""Drawing a box on a topic of a real ROS 2, by rclpy, in a window of a virtual display."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs rclpy (ROS 2), which is not installed")
pytest.importorskip("mixformerv2_ros.msg", reason="needs our interfaces built by colcon")

import rclpy
from domains import own_domain
from ranging import track as a_track
from ros_peers import start_spinning
from rosidl_runtime_py.utilities import get_message
from screen import DRAWN, Screen, Session, where
from waiting import wait_for

from mixformerv2_ros.ros.messages import image_message, stamp_ns, track_message
from mixformerv2_ros.ros.rclpy.message_types import message_types
from mixformerv2_ros.ros.topics import INIT_BOX, INITS, TRACK

TOPIC = "/camera/image_raw"


@pytest.mark.parametrize("quality", ["reliable", "sensor data"])
def test_a_box_is_published_and_the_tracker_answers(screen: Screen, quality: str) -> None:
    with own_domain():
        context = rclpy.Context()
        rclpy.init(context=context)
        node = rclpy.create_node("camera", context=context)
        depth = 5 if quality == "reliable" else rclpy.qos.qos_profile_sensor_data
        camera = node.create_publisher(get_message("sensor_msgs/msg/Image"), TOPIC, depth)
        tracks = node.create_publisher(get_message("mixformerv2_ros/msg/Track"), TRACK, 10)
        boxes: list[Any] = []
        node.create_subscription(get_message(INITS[INIT_BOX]), INIT_BOX, boxes.append, 10)
        count = 0

        def film() -> None:
            nonlocal count
            count += 1
            image = np.full((480, 640, 3), (20, 20, 230), np.uint8)
            camera.publish(image_message(message_types, image, "rgb8", count * 1000, "cam"))
            if boxes:
                tracks.publish(track_message(message_types, a_track(target_id="x")))

        node.create_timer(0.05, film)
        thread = start_spinning(node)
        try:
            with Session(screen, TOPIC, "--target-id", "x") as session:
                session.see(lambda image: (image[300, 300] == (20, 20, 230)).all(), "the image")
                screen.drag(100, 200, 300, 400)
                before = session.see(lambda image: where(image, DRAWN)[2] > 0, "the box")
                session.key("Return")
                wait_for(lambda: boxes, "the box", 20)
                session.see(lambda image: (image[480:] != before[480:]).any(), "the answer")
                session.key("q")
                code, output, errors = session.ended()
        finally:
            thread.close()
            node.destroy_node()
            rclpy.shutdown(context=context)
    assert (code, output) == (0, "box 100,200,200,200 published on /init_box\n"), errors
    assert 0 < stamp_ns(boxes[0]) <= count * 1000
    assert (boxes[0].header.frame_id, boxes[0].target_id) == ("cam", "x")
    assert (boxes[0].x, boxes[0].y, boxes[0].w, boxes[0].h) == (100, 200, 200, 200)
