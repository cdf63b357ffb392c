"""Drawing a box on a topic, over DDS, in a window of a virtual display."""

from __future__ import annotations

import threading

import numpy as np
import pytest

pytest.importorskip("cyclonedds", reason="needs cyclonedds, which is not installed")

from domains import own_domain
from peers import Peer
from ranging import track as a_track
from recordings import IMAGE_TOPIC
from screen import DRAWING, DRAWN, Screen, Session, where
from waiting import wait_for

from mixformerv2_ros.interfaces import typestore
from mixformerv2_ros.ros.box_selection.images import ShownImage
from mixformerv2_ros.ros.cyclonedds.box_selection_node import DdsBoxSelectionNode
from mixformerv2_ros.ros.cyclonedds.names import NodeNames
from mixformerv2_ros.ros.cyclonedds.node import Node
from mixformerv2_ros.ros.cyclonedds.qos_profiles import reliable, sensor_data
from mixformerv2_ros.ros.messages import image_message, stamp_ns, track_message
from mixformerv2_ros.ros.topics import INITS
from mixformerv2_ros.tracking.boxes import Box

INIT_BOX = "/init_box"


def numbered(index: int) -> np.ndarray:
    """An image that carries its number as ten black or white fields; RGB."""
    image = np.full((480, 640, 3), 90, np.uint8)
    for bit in range(10):
        image[20:60, 20 + 60 * bit : 70 + 60 * bit] = 255 if index >> bit & 1 else 0
    return image


def number_on(picture: np.ndarray) -> int:
    """The number of the image that is on the screen, which shows it pixel by pixel."""
    return sum(int(picture[40, 45 + 60 * bit, 0] > 128) << bit for bit in range(10))


@pytest.mark.parametrize("quality", ["reliable", "sensor_data"])
def test_a_box_on_a_topic_carries_the_stamp_of_the_image_on_the_screen(
    screen: Screen, quality: str
) -> None:
    """At 30 images a second the newest is shown, and the one that was drawn on stands still."""
    types = typestore().types
    qos = reliable(5) if quality == "reliable" else sensor_data(5)
    with own_domain(), Peer() as peer:
        camera = peer.node.create_publisher(IMAGE_TOPIC, "sensor_msgs/msg/Image", qos)
        peer.listen(INIT_BOX, INITS["init_box"])
        with Session(screen, IMAGE_TOPIC, "--dds", "--once", "--target-id", "x") as session:
            stop = threading.Event()
            count = 0

            def film() -> None:
                nonlocal count
                while not stop.wait(1 / 30):
                    count += 1
                    message = image_message(types, numbered(count), "rgb8", count * 1000, "cam")
                    camera.publish(message)

            thread = threading.Thread(target=film)
            thread.start()
            try:
                session.see(lambda image: number_on(image) > 5, "moving images", still=False)
                screen.drag(100, 200, 300, 400, drop=False)
                pressed = count
                session.see(lambda image: where(image, DRAWING)[2] > 0, "the box being drawn")
                frozen = number_on(session.screen.picture())
                assert 5 < frozen <= pressed
                screen.do("mouseup", 1)
                wait_for(lambda: count > pressed + 20, "more images", 10)
                image = session.see(lambda image: where(image, DRAWN)[2] > 0, "the box")
                assert number_on(image) == frozen
                session.key("Return")
                wait_for(lambda: peer.heard[INIT_BOX], "the box", 10)
                code, output, errors = session.ended()
            finally:
                stop.set()
                thread.join()
        (box,) = peer.heard[INIT_BOX]
    assert code == 0, errors
    assert stamp_ns(box) == frozen * 1000
    assert (box.header.frame_id, box.target_id) == ("cam", "x")
    assert (box.x, box.y, box.w, box.h) == pytest.approx((100, 200, 200, 200), abs=1)
    assert output == "box 100,200,200,200 published on /init_box\n"


def bright_pixels(image: np.ndarray) -> int:
    """Pixels of the line that says what is the matter."""
    return int((np.abs(image.astype(int) - (255, 210, 63)) < 20).all(axis=2).sum())


def test_a_topic_may_come_late_and_its_absence_is_shown(screen: Screen) -> None:
    words = ["image", "--dds", "-r", "init_box:=/eye/box"]
    with own_domain(), Peer() as peer, Session(screen, *words) as session:
        session.see(lambda image: bright_pixels(image) > 50, "a line about the topic")
        camera = peer.node.create_publisher("/image", "sensor_msgs/msg/Image", reliable())
        wait_for(lambda: camera.subscription_count, "a subscription", 20)
        camera.publish(image_message(typestore().types, numbered(77), "rgb8", 5, "cam"))
        session.see(lambda image: number_on(image) == 77, "the image")
        screen.drag(50, 100, 150, 200)
        session.see(lambda image: where(image, DRAWN)[2] > 0, "the box")
        session.key("Return")
        session.see(lambda image: where(image, DRAWN)[2] == 0, "the box gone")
        session.process.terminate()
        code, output, _ = session.ended()
    assert code == 130
    assert "/eye/box has no subscribers; is the tracker running?" in output


def test_a_topic_of_something_else_ends_the_command(screen: Screen) -> None:
    with own_domain(), Peer() as peer:
        peer.node.create_publisher("/talk", "std_msgs/msg/String", reliable())
        with Session(screen, "/talk", "--dds") as session:
            code, _, errors = session.ended()
    assert code == 2
    assert errors.startswith("mixformerv2 select: topic /talk must be of type sensor_msgs/msg/Im")


def test_the_tracker_answers_on_its_topic() -> None:
    types = typestore().types
    with own_domain(), Peer() as peer:
        tracks = peer.node.create_publisher("/track", "mixformerv2_ros/msg/Track", reliable())
        peer.listen(INIT_BOX, INITS["init_box"])
        drawing = DdsBoxSelectionNode(
            Node(NodeNames("selector"), lambda level, text: None), "/image"
        )
        with drawing as images:
            camera = peer.node.create_publisher("/image", "sensor_msgs/msg/Image", reliable())
            wait_for(
                lambda: camera.subscription_count and tracks.subscription_count, "subscriptions"
            )
            camera.publish(image_message(types, numbered(1), "rgb8", 9, "cam"))
            taken: list[ShownImage | None] = []
            wait_for(lambda: taken.append(images.take()) or taken[-1], "the image")
            assert taken[-1] is not None
            images.publish_box(Box(10, 20, 30, 40), "x", taken[-1])
            wait_for(lambda: peer.heard[INIT_BOX], "the box")
            tracks.publish(track_message(types, a_track(target_id="x")))
            wait_for(lambda: images.status() == "x: TRACKING 0.90", "the answer")
    assert stamp_ns(peer.heard[INIT_BOX][0]) == 9
