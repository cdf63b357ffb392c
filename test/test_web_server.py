"""The server of the page: who may connect, what it sends, what it does with garbage."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
import struct
import threading
from collections.abc import Callable, Coroutine, Iterator
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest
from nodes import TYPES, Remote
from ranging import track as a_track

pytest.importorskip("tornado", reason="needs tornado, which is not installed")

from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect

from mixformerv2_ros.errors import MiddlewareError
from mixformerv2_ros.interfaces import typestore
from mixformerv2_ros.ros.messages import (
    Level,
    Status,
    detections_message,
    diagnostics_message,
    image_message,
    stamp_ns,
    track_message,
)
from mixformerv2_ros.ros.remote.tracker_view import TrackerView
from mixformerv2_ros.ros.web import protocol
from mixformerv2_ros.ros.web.client import CALM, COMMANDS_PER_S, LEVELS, MAX_REFUSED, Budget, Pace
from mixformerv2_ros.ros.web.server import WebServer, WebSettings
from mixformerv2_ros.tracking.boxes import Box


class Served:
    """A server in a loop of its own, and a client."""

    def __init__(self, **settings: Any) -> None:
        self.remote = Remote()
        self.view = TrackerView(self.remote, "/camera")
        self.lines: list[str] = []
        self._ended = threading.Event()
        self._ready = threading.Event()
        self._settings = WebSettings(port=0, **settings)
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Served:
        self._thread.start()
        assert self._ready.wait(30)
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        self.server = WebServer(self.view, self._settings, lambda _, text: self.lines.append(text))
        self._ready.set()
        asyncio.run(self.server.run(self._ended.is_set))

    @property
    def address(self) -> str:
        return self.server.url.partition("#")[0].removeprefix("http://").rstrip("/")

    async def connect(self, token: str = "", **headers: str) -> WebSocketClientConnection:
        url = f"ws://{self.address}/socket?token={token}"
        return await websocket_connect(HTTPRequest(url, headers=headers))

    async def status(self, path: str, **headers: str) -> int:
        url = f"http://{self.address}{path}"
        answer = await AsyncHTTPClient().fetch(HTTPRequest(url, headers=headers), raise_error=False)
        return int(answer.code)


@pytest.fixture
def served() -> Iterator[Served]:
    with Served() as each:
        yield each


def do(work: Coroutine[Any, Any, Any]) -> Any:
    async def limited() -> Any:
        return await asyncio.wait_for(work, 60)

    return asyncio.run(limited())


async def next_json(page: WebSocketClientConnection, wanted: Callable[[Any], Any]) -> Any:
    while True:
        message = await page.read_message()
        assert message is not None, "disconnected"
        if isinstance(message, str) and wanted(found := json.loads(message)):
            return found


async def next_picture(page: WebSocketClientConnection) -> tuple[Any, np.ndarray]:
    while True:
        message = await page.read_message()
        assert message is not None, "disconnected"
        if isinstance(message, bytes):
            (length,) = struct.unpack(">I", message[:4])
            jpeg = np.frombuffer(message[4 + length :], np.uint8)
            image = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)
            assert image is not None
            return json.loads(message[4 : 4 + length]), image


def image(stamp: int, width: int = 1600, height: int = 400) -> Any:
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2] = (250, 10, 10)
    return image_message(typestore().types, pixels, "rgb8", stamp, "cam")


def test_a_picture_carries_stamp_size_and_targets(served: Served) -> None:
    async def look() -> None:
        page = await served.connect()
        first = await next_json(page, lambda m: m["kind"] == "hello")
        assert first["title"] == "/camera"
        assert "lost.score_threshold" in [each["name"] for each in first["sliders"]]
        assert first["colors"]["TRACKING"] == "#3cd250"
        served.view.receive_track(track_message(TYPES, a_track(target_id="x", stamp=5)))
        served.view.receive_image(image(5))
        header, shown = await next_picture(page)
        assert (header["stamp"], header["frame_id"]) == ("5", "cam")
        assert (header["width"], header["height"]) == (1600, 400)
        assert [(t["id"], t["state"]) for t in header["targets"]] == [("x", "TRACKING")]
        assert shown.shape == (160, 640, 3)
        left, right = shown[80, 100], shown[80, 600]
        assert left[2] > 220
        assert left[:2].max() < 40
        assert right.max() < 20
        page.close()

    do(look())


def test_images_are_wanted_while_a_page_is_open(served: Served) -> None:
    async def look() -> None:
        assert not served.view.images_wanted
        page = await served.connect()
        await next_json(page, lambda m: m["kind"] == "hello")
        assert served.view.images_wanted
        page.close()
        while served.view.images_wanted:
            await asyncio.sleep(0.01)

    do(look())


def test_the_image_that_tracks_have_come_for_is_shown(served: Served) -> None:
    for stamp in (1, 2, 3):
        served.view.receive_image(image(stamp))
    newest = served.view.image()
    assert newest is not None
    assert stamp_ns(newest) == 3
    served.view.receive_track(track_message(TYPES, a_track(stamp=2)))
    tracked = served.view.image()
    assert tracked is not None
    assert stamp_ns(tracked) == 2


def test_one_picture_is_under_way_at_a_time(served: Served) -> None:
    async def look() -> None:
        page = await served.connect()
        served.view.receive_image(image(1))
        header, _ = await next_picture(page)
        for stamp in range(2, 9):
            served.view.receive_image(image(stamp))
        await next_json(page, lambda m: m["kind"] == "state")
        await page.write_message('{"kind":"shown"}')
        header, _ = await next_picture(page)
        assert header["stamp"] == "8"
        page.close()

    do(look())


def test_commands_reach_the_tracker(served: Served) -> None:
    async def act() -> None:
        page = await served.connect()
        for command in (
            {"kind": "box", "box": [1, 2, 30, 40.5], "stamp": "7", "frame_id": "cam",
             "target_id": "x"},
            {"kind": "stop", "target_id": "x"},
            {"kind": "stop"},
            {"kind": "parameter", "name": "lost.score_threshold", "value": 0.25},
        ):  # fmt: skip
            await page.write_message(json.dumps(command))
        await next_json(page, lambda m: m.get("said") == "lost.score_threshold 0.25 published")
        page.close()

    do(act())
    (box, one, every, value) = served.remote.told
    assert box[0] == "init_box"
    assert (box[1].x, box[1].y, box[1].w, box[1].h) == (1, 2, 30, 40.5)
    assert (stamp_ns(box[1]), box[1].target_id) == (7, "x")
    assert (one[0], one[1].data, every[1].data) == ("stop_target", "x", "")
    assert (value[0], value[1].key, value[1].value) == (
        "set_parameter", "lost.score_threshold", "0.25",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("[" * 3000, "expected JSON"),
        ("{}", "expected kind box | stop | parameter | shown, got None"),
        ('{"kind":["box"]}', "expected kind"),
        ('{"kind":"box","box":[1,2,3],"stamp":"1"}', "expected box"),
        ('{"kind":"box","box":[1,2,NaN,4],"stamp":"1"}', "expected box"),
        ('{"kind":"box","box":[1,2,3,1e400],"stamp":"1"}', "expected box"),
        ('{"kind":"box","box":[1,2,3,true],"stamp":"1"}', "expected box"),
        ('{"kind":"box","box":[1,2,3,4],"stamp":-5}', "expected stamp"),
        ('{"kind":"box","box":[1,2,3,4],"stamp":"99999999999999999999"}', "expected stamp"),
        ('{"kind":"stop","target_id":"a\\nb"}', "expected target_id"),
        ('{"kind":"stop","target_id":"' + "a" * 65 + '"}', "expected target_id"),
        ('{"kind":"parameter","name":"model","value":1}', "expected parameter"),
        ('{"kind":"parameter","name":"lost.score_threshold","value":"x"}', "expected a number"),
        (b"\x00\x01", "expected JSON, got a binary message"),
    ],
)
def test_garbage_is_one_line(message: str | bytes, words: str) -> None:
    with pytest.raises(ValueError, match="expected") as error:
        protocol.read_command(message)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


def test_a_page_that_sends_garbage_is_named_once_and_disconnected(served: Served) -> None:
    async def act() -> None:
        good, bad = await served.connect(), await served.connect()
        for _ in range(MAX_REFUSED):
            await bad.write_message("rubbish")
        while await bad.read_message() is not None:
            pass
        assert bad.close_code == 1008
        await good.write_message('{"kind":"stop"}')
        await next_json(good, lambda m: m.get("said") == "stop of all targets published")
        good.close()

    do(act())
    assert [topic for topic, _ in served.remote.told] == ["stop_target"]
    assert len([line for line in served.lines if "rubbish" in line]) == 1
    assert len([line for line in served.lines if "disconnected" in line]) == 1


def test_a_message_that_is_too_long_ends_the_page_alone(served: Served) -> None:
    async def act() -> None:
        page = await served.connect()
        await page.write_message("x" * (protocol.MAX_MESSAGE_BYTES + 1))
        while await page.read_message() is not None:
            pass
        again = await served.connect()
        await next_json(again, lambda m: m["kind"] == "hello")
        again.close()

    do(act())


def test_floods_are_throttled() -> None:
    now = [0.0]
    budget = Budget(lambda: now[0])
    assert sum(budget.spend() for _ in range(1000)) == 2 * COMMANDS_PER_S
    now[0] += 1
    assert sum(budget.spend() for _ in range(1000)) == COMMANDS_PER_S


def test_pictures_follow_the_speed_of_the_link() -> None:
    now = [0.0]
    pace = Pace(lambda: now[0])
    middle = pace.level

    def show(seconds: float) -> None:
        pace.sent()
        now[0] += seconds
        pace.shown()

    for _ in range(10):
        show(0.5)
    assert pace.level == 0
    for _ in range(CALM * len(LEVELS)):
        show(0.01)
    assert pace.level == len(LEVELS) - 1 > middle
    pace.shown()
    assert pace.ready


def test_strangers_are_refused() -> None:
    async def act() -> None:
        for path in ("/", "/page.js", "/page.css"):
            assert await served.status(path) == 200
        assert await served.status("/../server.py") == 404
        # A name that resolves to this machine, as in DNS rebinding, and a page of another origin.
        assert await served.status("/", Host="evil.example") == 403
        for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
            with pytest.raises(HTTPClientError) as refused:
                await served.connect(**headers)
            assert refused.value.code == 403
        page = await served.connect(Origin=f"http://{served.address}")
        assert await next_json(page, lambda m: m["kind"] == "hello")
        page.close()

    with Served() as served:
        do(act())


def test_a_token_and_a_limit_of_pages() -> None:
    async def act() -> None:
        for token in ("", "wrong", "secret1", "secret123"):
            with pytest.raises(HTTPClientError) as refused:
                await served.connect(token)
            assert refused.value.code == 403
        pages = [await served.connect("secret12") for _ in range(2)]
        with pytest.raises(HTTPClientError) as refused:
            await served.connect("secret12")
        assert refused.value.code == 503
        for page in pages:
            page.close()

    with Served(host="0.0.0.0", token="secret12", max_clients=2) as served:
        assert served.server.url.endswith("/#secret12")
        do(act())


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_every_interface_has_addresses_that_other_machines_can_open(host: str) -> None:
    if ":" in host and not socket.has_dualstack_ipv6():
        pytest.skip("needs IPv6")
    with Served(host=host, token="secret12") as served:
        assert served.server.url == served.server.urls[0]
        for url in served.server.urls:
            address = urlsplit(url).hostname
            assert not ipaddress.ip_address(str(address)).is_unspecified
            connection = HTTPConnection(str(address), urlsplit(url).port, timeout=30)
            connection.request("GET", "/")
            assert connection.getresponse().status == 200
            connection.close()


def test_other_interfaces_need_a_token_and_a_port_in_use_is_one_line() -> None:
    view = TrackerView(Remote())
    with pytest.raises(MiddlewareError, match="requires a token"):
        WebServer(view, WebSettings(host="0.0.0.0", port=0), lambda level, text: None)
    with Served() as served:
        port = int(served.address.rpartition(":")[2])
        with pytest.raises(MiddlewareError, match="cannot listen on"):
            WebServer(view, WebSettings(port=port), lambda level, text: None)


def test_a_view_knows_size_parameters_and_candidates() -> None:
    view = TrackerView(Remote(), "/camera")
    assert view.image_size() is None
    status = Status(
        "eye: tracker", "cpu", Level.OK, "TRACKING",
        {"image": "640x480 bgr8", "parameter lost.score_threshold": "0.2"},
    )  # fmt: skip
    view.receive_diagnostics(diagnostics_message(TYPES, status, 1))
    assert view.image_size() == (640, 480)
    text = json.loads(protocol.state(view.status(), "", [], view.diagnostics()))
    assert text["parameters"] == {"lost.score_threshold": "0.2"}
    tracks = [a_track(target_id="person", box=Box(1, 2, 3, 4))]
    view.receive_detections(detections_message(TYPES, tracks, 9, "cam"))
    (candidate,) = view.candidates()
    assert (candidate.box, candidate.stamp_ns) == (Box(1, 2, 3, 4), 9)
    view.receive_detections(detections_message(TYPES, tracks, 0, "cam"))  # no stamp: of no image
    assert view.candidates() == ()
    view.want_images(True)
    view.set_published_topics({"/eye": "sensor_msgs/msg/Image"})
    assert view.status() == "no publisher on /camera; image topics: /eye"
    view.set_published_topics({"/camera": "std_msgs/msg/String"})
    assert view.status().startswith("topic /camera must be of type sensor_msgs/msg/Image or")
