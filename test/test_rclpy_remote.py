"""A tracker commanded by topics and by its page, on rclpy."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import struct
from typing import Any

import pytest
from nodes import box_of, frame_stamp, free_port
from processes import Command
from recordings import HEIGHT, WIDTH, red_box
from waiting import repeat_until, wait_for

pytest.importorskip("rclpy", reason="needs rclpy, which is not installed")

from diagnostic_msgs.msg import DiagnosticArray, KeyValue
from ros_launches import ROS2, Launch
from ros_peers import (  # noqa: F401
    RELIABLE,
    Peer,
    Tracker,
    draw,
    image,
    init_box,
    peer,
    red,
    ros,
    tracker,
)
from std_msgs.msg import String
from vision_msgs.msg import Detection2D, Detection2DArray, ObjectHypothesisWithPose

from mixformerv2_ros.msg import Track
from mixformerv2_ros.ros.messages import stamp_ns
from mixformerv2_ros.ros.rclpy.remote_node import RemoteNode
from mixformerv2_ros.ros.remote.tracker_view import RemoteTopics
from mixformerv2_ros.tracking.boxes import Box

MAV_CMD_CAMERA_TRACK_RECTANGLE = 2005
THRESHOLD = "uncertain.score_threshold"


def shown(peer: Peer) -> dict[str, str]:
    """The last diagnostics of the tracker by name."""
    arrays = peer.heard["/diagnostics"]
    return {pair.key: pair.value for pair in arrays[-1].status[0].values} if arrays else {}


def test_targets_are_stopped_and_parameters_changed_by_topic(peer: Peer, tracker: Tracker) -> None:
    camera = peer.camera()
    peer.listen("/diagnostics", DiagnosticArray)
    stop = peer.node.create_publisher(String, "/stop_target", RELIABLE)
    change = peer.node.create_publisher(KeyValue, "/set_parameter", RELIABLE)
    for publisher in (stop, change):
        wait_for(publisher.get_subscription_count, f"a subscription to {publisher.topic_name}")
    for name in ("one", "two"):
        draw(peer, init_box(red_box(0), target_id=name))
    peer.show(camera, 0)
    stop.publish(String(data="one"))
    peer.wait_for_line("stopped: one")
    peer.show(camera, 1)
    assert {t.target_id for t in peer.heard["/track"][-1:]} == {"two"}
    change.publish(KeyValue(key=THRESHOLD, value="0.95"))
    peer.wait_for_line(f"parameter {THRESHOLD} is 0.95")
    assert peer.parameters("/tracker", THRESHOLD) == [0.95]
    wait_for(lambda: shown(peer).get(f"parameter {THRESHOLD}") == "0.95", "the new value")
    for key, value, words in (
        (THRESHOLD, "2", "must be 0 to 1, got 2"),
        ("model", "/elsewhere", "cannot be changed at runtime"),
        ("fps", "1", "unknown parameter fps"),
    ):
        change.publish(KeyValue(key=key, value=value))
        peer.wait_for_line(f"parameter not changed: {key if key == 'model' else ''}")
        peer.wait_for_line(words)
    stop.publish(String())
    peer.wait_for_line("stopped: two")
    peer.show(camera, 2)
    assert peer.heard["/track"][-1].state == Track.IDLE


def test_a_target_starts_on_a_detection(peer: Peer, red: None) -> None:
    made = Tracker(detector__start="largest", detector__class_id="cup", detector__start_frames=1)
    try:
        camera = peer.camera()
        detector = peer.node.create_publisher(Detection2DArray, "/detector", RELIABLE)
        wait_for(detector.get_subscription_count, "a subscription to the detections")
        peer.show(camera, 0)
        message = Detection2DArray(header=image(0).header)
        for class_id, box in (("dog", (0, 0, 90, 90)), ("cup", red_box(0))):
            x, y, w, h = map(float, box)
            found = Detection2D(header=message.header, results=[ObjectHypothesisWithPose()])
            found.results[0].hypothesis.class_id = class_id
            found.results[0].hypothesis.score = 0.9
            found.bbox.center.position.x, found.bbox.center.position.y = x + w / 2, y + h / 2
            found.bbox.size_x, found.bbox.size_y = w, h
            message.detections.append(found)
        peer.deliver(detector, message, "/tracker")
        peer.show(camera, 1, 2)
        assert peer.heard["/track"][-1].state == Track.TRACKING
        assert box_of(peer.heard["/track"][-1]) == pytest.approx(red_box(2), abs=1)
    finally:
        made.close()


def test_a_view_sees_and_commands_the_tracker(peer: Peer, tracker: Tracker) -> None:
    camera = peer.camera()
    with RemoteNode("viewer", "/", [], RemoteTopics(image="image")) as view:
        view.want_images(True)
        wait_for(lambda: camera.get_subscription_count() == 2, "the viewer's subscription")
        box = Box(*map(float, red_box(0)))
        wait_for(
            lambda: "nobody subscribes" not in view.start(box, "seen", 0, "cam"),
            "the tracker's subscription",
        )
        peer.show(camera, 0, 1)
        wait_for(lambda: [t.target_id for t in view.tracks()] == ["seen"], "the target")
        wait_for(lambda: (m := view.image()) and stamp_ns(m) == frame_stamp(1), "the image")
        wait_for(view.diagnostics, "diagnostics")
        assert view.image_size() == (160, 120)
        view.set_parameter(THRESHOLD, 0.9)
        wait_for(lambda: view.diagnostics().get(f"parameter {THRESHOLD}") == "0.9", "the change")
        view.stop("seen")
        peer.wait_for_line("stopped: seen")
        view.want_images(False)
        wait_for(lambda: camera.get_subscription_count() == 1, "the end of the subscription")
        assert view.failure is None


def test_a_ground_station_starts_a_target(peer: Peer, tracker: Tracker) -> None:
    """`mixformerv2 mavlink` on rclpy; pymavlink is the ground station."""
    os.environ["MAVLINK20"] = "1"
    mavutil = pytest.importorskip("pymavlink.mavutil", reason="needs pymavlink")
    camera = peer.camera()
    port = free_port()
    with Command("mavlink", "--connection", f"udpin:127.0.0.1:{port}") as command:
        command.wait_for_line("camera 1/100 on")
        station = mavutil.mavlink_connection(f"udpout:127.0.0.1:{port}", dialect="common")
        m = station.mav
        heard: list[Any] = []

        def listen() -> None:
            while message := station.recv_match():
                heard.append(message)

        def greet() -> None:
            m.heartbeat_send(6, 8, 0, 0, 0)
            listen()

        repeat_until(
            greet, lambda: "HEARTBEAT" in [each.get_type() for each in heard], "a heartbeat"
        )
        indices = itertools.count()
        x, y, w, h = red_box(0)
        corners = (x / WIDTH, y / HEIGHT, (x + w) / WIDTH, (y + h) / HEIGHT)

        def show() -> None:
            """The next image of a target that stands still."""
            message = image(0)
            message.header.stamp = image(next(indices)).header.stamp
            camera.publish(message)

        def ask() -> None:
            """Images go on; the rectangle is denied until one has been seen."""
            show()
            m.command_long_send(1, 100, MAV_CMD_CAMERA_TRACK_RECTANGLE, 0, *corners, 0, 0, 0)

        def tracked() -> bool:
            return any(track.state == Track.TRACKING for track in peer.heard["/track"])

        repeat_until(ask, tracked, "a track", period=0.5)
        repeat_until(
            lambda: (show(), listen()),
            lambda: any(getattr(each, "tracking_status", 0) == 1 for each in heard), "the status",
        )  # fmt: skip
        station.close()
        assert command.end() == 0


@pytest.mark.skipif(ROS2 is None, reason="needs the ros2 command")
def test_the_page_of_the_launch_file(peer: Peer) -> None:
    pytest.importorskip("tornado", reason="needs tornado, which is not installed")
    with Launch("tracker", namespace="drone", image="/eye", web=True, web_port=0) as launch:
        wait_for(lambda: page_address(launch) or launch.process.poll() is not None, "the page")
        address = page_address(launch)
        assert address, launch.output
        camera = peer.camera("/eye")
        peer.listen("/drone/track", Track)
        wait_for(lambda: "active: subscribed to /eye" in launch.output, "the tracker")
        asyncio.run(asyncio.wait_for(draw_on_the_page(address, camera, peer), 90))
    assert "Traceback" not in launch.output
    assert launch.process.returncode == 0, launch.output


def page_address(launch: Launch) -> str:
    found = re.search(r"page: http://(\S+?)/?(\s|$)", launch.output)
    return found[1] if found else ""


async def draw_on_the_page(address: str, camera: Any, peer: Peer) -> None:
    """Draw a box on the picture of an image, and stop the target."""
    from tornado.websocket import websocket_connect

    page = await websocket_connect(f"ws://{address}/socket?token=")

    async def until(wanted: Any, index: int = 0) -> Any:
        """The first message wanted; images go on meanwhile."""
        while True:
            camera.publish(image(index))
            message = await page.read_message()
            assert message is not None, "disconnected"
            if isinstance(message, bytes):
                (length,) = struct.unpack(">I", message[:4])
                found = json.loads(message[4 : 4 + length])
                await page.write_message(json.dumps({"kind": "shown"}))
            else:
                found = json.loads(message)
            if wanted(found):
                return found
            index += 1

    picture = await until(lambda m: "stamp" in m)
    assert (picture["width"], picture["height"]) == (160, 120)
    start = {"kind": "box", "box": list(red_box(0)), "stamp": "0", "frame_id": "cam"}
    await page.write_message(json.dumps({**start, "target_id": "drawn"}))
    names = lambda m: [t["id"] for t in m.get("targets", [])]  # noqa: E731
    await until(lambda m: m.get("kind") == "state" and names(m) == ["drawn"], 1)
    assert {t.target_id for t in peer.heard["/drone/track"]} >= {"drawn"}
    await page.write_message(json.dumps({"kind": "stop", "target_id": "drawn"}))
    await until(lambda m: m.get("kind") == "state" and names(m) == [], 100)
    page.close()
