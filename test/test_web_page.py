"""The page in a real browser, with a tracker on DDS behind it: mouse, finger, buttons, sliders."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

pytest.importorskip("cyclonedds", reason="needs cyclonedds, which is not installed")
pytest.importorskip("tornado", reason="needs tornado, which is not installed")

from browser import needs_browser
from dds_nodes import Local
from devtools import Browser
from domains import own_domain
from nodes import TYPES
from peers import Peer
from processes import Command
from waiting import wait_for

from mixformerv2_ros.ros.cyclonedds.qos_profiles import reliable
from mixformerv2_ros.ros.messages import detections_message, image_message, stamp_ns
from mixformerv2_ros.ros.topics import INITS
from mixformerv2_ros.tracking.boxes import Box
from mixformerv2_ros.tracking.session import State, Track

pytestmark = needs_browser

RED = Box(300, 200, 60, 80)
BLUE = Box(100, 300, 50, 50)
PERIOD_S = 0.05


def pixels(box: Box) -> np.ndarray:
    """A red target on grey, RGB."""
    image = np.full((480, 640, 3), 90, np.uint8)
    x, y, w, h = map(int, box)
    image[y : y + h, x : x + w] = (230, 20, 20)
    return image


class Scene:
    """A camera, a tracker that sees red, the server of the page, and a browser that shows it."""

    def __init__(self, stack: ExitStack) -> None:
        stack.enter_context(own_domain())
        self.tracker = stack.enter_context(Local(diagnostics__period=0.2))
        self.peer = stack.enter_context(Peer())
        self.peer.listen("/init_box", INITS["init_box"])
        self._camera = self.peer.node.create_publisher(
            "/image", "sensor_msgs/msg/Image", reliable(5)
        )
        self.detector = self.peer.node.create_publisher(
            "/detector", "vision_msgs/msg/Detection2DArray", reliable()
        )
        self._ended = threading.Event()
        self._stamp = 10**9
        film = threading.Thread(target=self._film)
        film.start()
        stack.callback(film.join)
        stack.callback(self._ended.set)
        words = ("web", "--dds", "--port", 0, "--detections", "/detector")
        self.command = stack.enter_context(Command(*words))
        url = self.command.wait_for_line("page: ").rpartition("page: ")[2]
        self.browser = stack.enter_context(Browser(url))
        self.browser.wait("shown !== null")

    def _film(self) -> None:
        message = image_message(TYPES, pixels(RED), "rgb8", 0, "cam")
        while not self._ended.wait(PERIOD_S):
            self._stamp += 50_000_000
            message.header.stamp.sec, message.header.stamp.nanosec = divmod(self._stamp, 10**9)
            self._camera.publish(message)

    def on_screen(self, x: float, y: float) -> tuple[float, float]:
        """Where a pixel of the image is on the screen."""
        left, top, width, height = self.browser.ask(
            "(() => { canvas.scrollIntoView(); const a = canvas.getBoundingClientRect();"
            "return [a.left, a.top, a.width, a.height]; })()"
        )
        scale = min(width / 640, height / 480)
        return (
            left + (width - 640 * scale) / 2 + x * scale,
            top + (height - 480 * scale) / 2 + y * scale,
        )

    def corners(self, box: Box) -> list[tuple[float, float]]:
        x, y, w, h = box
        places = ((x, y), (x + w / 3, y + h / 2), (x + w, y + h))
        return [self.on_screen(*place) for place in places]

    def boxes(self) -> list[Any]:
        return self.peer.heard["/init_box"]


@pytest.fixture
def scene() -> Iterator[Scene]:
    with ExitStack() as stack:
        yield Scene(stack)


def box_of(message: Any) -> tuple[float, ...]:
    return message.x, message.y, message.w, message.h


def test_a_target_is_drawn_watched_and_stopped(scene: Scene) -> None:
    """Mouse, then finger; the box carries the stamp of the picture that was drawn on."""
    browser = scene.browser
    first, *others = scene.corners(RED)
    browser.call("Input.dispatchMouseEvent", type="mousePressed", x=first[0], y=first[1],
                 button="left", buttons=1, clickCount=1)  # fmt: skip
    frozen = browser.ask("shown.stamp")
    newest = scene.tracker.tracking.tracker.statistics().counts.received
    wait_for(
        lambda: scene.tracker.tracking.tracker.statistics().counts.received > newest + 5, "images"
    )
    assert browser.ask("shown.stamp") == frozen
    for x, y in others:
        browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y, button="left",
                     buttons=1)  # fmt: skip
    browser.call("Input.dispatchMouseEvent", type="mouseReleased", x=x, y=y, button="left",
                 clickCount=1)  # fmt: skip
    wait_for(scene.boxes, "the box")
    assert box_of(scene.boxes()[0]) == pytest.approx(RED, abs=3)
    assert str(stamp_ns(scene.boxes()[0])) == frozen
    assert scene.boxes()[0].header.frame_id == "cam"
    browser.wait("document.querySelector('.target span')?.textContent === 'TRACKING 0.90'")
    browser.wait(f"shown.targets.length === 1 && shown.stamp !== '{frozen}'")
    assert browser.ask("shown.targets[0].box") == pytest.approx(list(RED), abs=3)

    browser.ask("at('name').value = 'two'")
    browser.drag_finger(*scene.corners(RED))
    wait_for(lambda: len(scene.boxes()) > 1, "the box of the finger")
    assert box_of(scene.boxes()[1]) == pytest.approx(RED, abs=3)
    assert scene.boxes()[1].target_id == "two"
    browser.click("#stop_all")
    wait_for(lambda: not scene.tracker.tracking.tracker.targets, "no target")
    browser.wait("document.querySelectorAll('.target').length === 0")


def test_a_detection_is_tapped_and_a_threshold_is_moved(scene: Scene) -> None:
    browser = scene.browser
    found = Track("person", 77, "cam", BLUE, 0.8, (1.0, 1.0, 1.0, 1.0), State.TRACKING, 0, False, 4)
    scene.detector.publish(detections_message(TYPES, [found], 77, "cam"))
    browser.wait("shown.candidates.length === 1")
    place = scene.on_screen(BLUE.x + 20, BLUE.y + 20)
    browser.drag_finger(place)
    wait_for(scene.boxes, "the box")
    assert box_of(scene.boxes()[0]) == tuple(BLUE)
    assert stamp_ns(scene.boxes()[0]) == 77
    slider = "document.querySelector('input[data-name=\"lost.score_threshold\"]')"
    browser.ask(f"{slider}.value = 0.05; {slider}.dispatchEvent(new Event('change'))")
    values = lambda: scene.tracker.tracking.tracker.values  # noqa: E731
    wait_for(lambda: values()["lost.score_threshold"] == 0.05, "the parameter")
    # Refused by the tracker: above the threshold of UNCERTAIN. The slider goes back.
    browser.ask(f"{slider}.value = 0.99; {slider}.dispatchEvent(new Event('change'))")
    wait_for(lambda: any("not changed" in line for line in scene.tracker.lines), "the refusal")
    browser.wait(f"{slider}.value === '0.05'")


def test_the_page_comes_back_when_the_server_does(scene: Scene) -> None:
    port = scene.browser.ask("location.port")
    scene.command.end()
    scene.browser.wait("at('link').className === 'off'")
    with Command("web", "--dds", "--port", port):
        scene.browser.wait("at('link').className === 'on'")
