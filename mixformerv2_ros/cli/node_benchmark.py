"""What a frame costs in the tracker node beside the engine, from message to message.

A node is started as a process of its own, on one core, and is sent one image after the other over
DDS on this machine's loopback interface, in a domain that no other is likely to use. Its image
buffer is small, so that it is full, as after some seconds of any camera: memory is used again.
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mixformerv2_ros.cli.engine_benchmark import camera_image
from mixformerv2_ros.cli.ros_graph import cyclone
from mixformerv2_ros.errors import MiddlewareError
from mixformerv2_ros.interfaces import typestore
from mixformerv2_ros.ros.messages import (
    Level,
    compressed_image_message,
    image_message,
    init_box_message,
    stamp_ns,
)
from mixformerv2_ros.ros.topics import DIAGNOSTICS, IMAGES, INIT_BOX, INITS, OUTPUTS, TRACK
from mixformerv2_ros.tracking.boxes import Box
from mixformerv2_ros.tracking.session import State

NODES = {
    "dds": ("-m", "mixformerv2_ros.cli", "node"),
    "rclpy": ("-c", "import sys; from mixformerv2_ros.ros.rclpy.tracker_node import main; "
              "sys.exit(main(sys.argv))"),
}  # fmt: skip
"""Arguments of Python that run a tracker node."""

RECEIVER = "receiver"
"""Name of the thread that takes messages in a node on rclpy; elsewhere the main thread does."""

ENCODINGS = ("bgr8", "mono8", "jpeg")

PERIOD_S = 0.05
"""Shortest time between two images."""
IDLE_S = 3.0
"""Time without images in which the node's timers and the like are measured."""
START_S = 60.0
"""Longest time until the node tracks."""
ANSWER_S = 5.0
"""Longest time until an image's track."""

_ALONE = {"ROS_LOCALHOST_ONLY": "1", "CYCLONEDDS_URI": "", "ROS_STATIC_PEERS": ""}


@dataclass(frozen=True)
class NodeCosts:
    """Milliseconds of frames in a tracker node.

    Attributes:
        label: Node and image.
        engine: Median of the time in the engine.
        other: Median and 95th percentile of the time from the image's arrival in the node to the
            publication of its detections, without the engine.
        receive: Time per frame of the threads that take messages from the middleware, above what
            they need without images.
        transport: Time of the middleware's own threads per frame.
        idle: Time per second of the threads that receive while no images come: timers, diagnostics,
            the wait for services.
        round_trip: Median and 95th percentile of the time from the call that publishes the image
            to the arrival of the track in this process, without the engine's median: with both
            transports.
    """

    label: str
    engine: float
    other: tuple[float, float]
    receive: float
    transport: float
    idle: float
    round_trip: tuple[float, float]

    @property
    def total(self) -> float:
        """Median from message in to message out: receiving and what comes after the arrival."""
        return self.receive + self.other[0]


def measure_node(
    kind: str, encoding: str, size: tuple[int, int], frames: int, options: Sequence[str] = ()
) -> NodeCosts:
    """Run a node and send it images.

    Args:
        kind: One of `NODES`.
        encoding: One of `ENCODINGS`.
        size: Width and height of the images.
        frames: Images to measure; more are sent before.
        options: Further parameters of the node, each `NAME:=VALUE`.

    Raises:
        MiddlewareError: Cyclone DDS is not installed, or the node does not track.
    """
    with cyclone():
        from mixformerv2_ros.ros.cyclonedds.names import NodeNames
        from mixformerv2_ros.ros.cyclonedds.node import Node

    transport = "compressed" if encoding == "jpeg" else "raw"
    parameters = [
        "num_threads:=1", f"image_transport:={transport}", "reacquire.frames:=0",
        "buffer.frames:=5", *options,
    ]  # fmt: skip
    with (
        _environment(),
        _process(kind, parameters) as node,
        Node(NodeNames("benchmark"), _ignore) as ours,
    ):
        sender = _Sender(ours, transport, encoding, size, node)
        return sender.measure(f"{kind} {encoding} {size[0]}x{size[1]}", frames)


class _Sender:
    """A camera that waits for the track of every image."""

    def __init__(
        self, node: Any, transport: str, encoding: str, size: tuple[int, int], process: _Process
    ) -> None:
        from mixformerv2_ros.ros.cyclonedds.qos_profiles import reliable

        self._node = node
        self._process = process
        self._types = typestore().types
        topic, msgtype = IMAGES[transport]
        self._camera = node.create_publisher(f"/{topic}", msgtype, reliable())
        self._boxes = node.create_publisher(f"/{INIT_BOX}", INITS[INIT_BOX], reliable())
        node.create_subscription(f"/{TRACK}", OUTPUTS[TRACK], self._on_track, reliable())
        node.create_subscription(DIAGNOSTICS, OUTPUTS[DIAGNOSTICS], self._on_status, reliable(1))
        self._make = _images(self._types, encoding, size)
        width, height = size
        self._box = Box(0.45 * width, 0.4 * height, 0.14 * height, 0.28 * height)
        self._tracked = self._answered_ns = 0
        self._state = State.IDLE
        self._status: dict[str, str] = {}

    def measure(self, label: str, frames: int) -> NodeCosts:
        """Send images until the node tracks, then measure."""
        from mixformerv2_ros.ros.cyclonedds.types import to_cdr

        end = time.monotonic() + START_S
        msgtype = self._camera.msgtype
        while self._state is State.IDLE:
            if time.monotonic() > end or not self._process.runs:
                raise MiddlewareError(f"the node does not track: {self._process.last_line()}")
            stamp = time.time_ns()
            self._boxes.publish(init_box_message(self._types, self._box, "", 0, ""))
            self._camera.publish_cdr(to_cdr(self._make(stamp), msgtype))
            self._node.spin(lambda: self._state is not State.IDLE, time.monotonic() + 0.5)
        idle = self._idle()
        trips: list[int] = []
        warm_up = max(10, frames // 10)
        before: dict[str, float] = {}
        begun = time.monotonic()
        for index in range(warm_up + frames):
            if index == warm_up:
                before, begun = self._process.cpu_seconds(), time.monotonic()
            began = time.monotonic()
            stamp = time.time_ns()
            cdr = to_cdr(self._make(stamp), msgtype)
            sent = time.perf_counter_ns()
            self._camera.publish_cdr(cdr)
            self._node.spin(lambda stamp=stamp: self._tracked >= stamp, began + ANSWER_S)
            if self._tracked < stamp:
                raise MiddlewareError(f"no track within {ANSWER_S:g} s of an image")
            trips.append(self._answered_ns - sent)
            self._node.spin(lambda: False, began + PERIOD_S)
        after, seconds = self._process.cpu_seconds(), time.monotonic() - begun
        cpu = {part: 1000 * (after[part] - before[part]) / frames for part in after}
        cpu["receive"] = max(0.0, cpu["receive"] - idle * seconds / frames)
        cpu["idle"] = idle
        self._status.clear()
        self._node.spin(lambda: bool(self._status), time.monotonic() + ANSWER_S)
        return self._costs(label, np.array(trips[warm_up:]) / 1e6, cpu)

    def _idle(self) -> float:
        """Milliseconds per second of the threads that receive, without images."""
        before, begun = self._process.cpu_seconds()["receive"], time.monotonic()
        self._node.spin(lambda: False, begun + IDLE_S)
        spent = self._process.cpu_seconds()["receive"] - before
        return 1000 * spent / (time.monotonic() - begun)

    def _costs(self, label: str, trips: np.ndarray, cpu: dict[str, float]) -> NodeCosts:
        named = {
            part: [float(self._status[f"latency {part} {q} (ms)"]) for q in ("p50", "p95")]
            for part in ("in engine", "without engine")
        }
        engine = named["in engine"][0]
        median, high = np.percentile(trips, (50, 95)) - engine
        return NodeCosts(
            label,
            engine,
            (named["without engine"][0], named["without engine"][1]),
            cpu["receive"],
            cpu["transport"],
            cpu["idle"],
            (float(median), float(high)),
        )

    def _on_track(self, message: Any) -> None:
        self._answered_ns = time.perf_counter_ns()
        self._tracked = stamp_ns(message)
        self._state = State(message.state)

    def _on_status(self, message: Any) -> None:
        for status in message.status:
            self._status = {each.key: each.value for each in status.values}


class _Process:
    """The node's process, on one core, and its last words."""

    def __init__(self, kind: str, parameters: Sequence[str], log: Path) -> None:
        words = [word for pair in parameters for word in ("-p", pair)]
        if kind == "rclpy":
            words = ["--ros-args", *words]
        self._log = log
        core = max(os.sched_getaffinity(0))
        with log.open("wb") as stream:
            self.process = subprocess.Popen(
                [sys.executable, *NODES[kind], *words],
                stdout=stream,
                stderr=stream,
                preexec_fn=lambda: os.sched_setaffinity(0, {core}),
            )

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def cpu_seconds(self) -> dict[str, float]:
        """Time so far of the threads that receive, and of the middleware's own.

        The tracker's is left out: the node knows itself how long that takes.
        """
        own = str(self.process.pid)
        seconds = {"receive": 0.0, "transport": 0.0}
        for task in Path(f"/proc/{own}/task").iterdir():
            with contextlib.suppress(FileNotFoundError):  # a thread that has ended
                name = (task / "comm").read_text("utf-8").strip()
                used = int((task / "schedstat").read_text("ascii").split()[0]) / 1e9
                if task.name == own or name == RECEIVER:
                    seconds["receive"] += used
                elif not name.startswith(("python", "tracker")):
                    seconds["transport"] += used
        return seconds

    def last_line(self) -> str:
        """The last line of its log."""
        lines = self._log.read_text("utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else "no output"


@contextlib.contextmanager
def _process(kind: str, parameters: Sequence[str]) -> Iterator[_Process]:
    with tempfile.TemporaryDirectory() as folder:
        node = _Process(kind, parameters, Path(folder) / "log")
        try:
            yield node
        finally:
            node.process.terminate()
            try:
                node.process.wait(10)
            except subprocess.TimeoutExpired:
                node.process.kill()
                node.process.wait()


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    """Discover nothing but the node."""
    changes = {**_ALONE, "ROS_DOMAIN_ID": str(random.SystemRandom().randrange(20, 100))}
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def _images(types: Any, encoding: str, size: tuple[int, int]) -> Callable[[int], Any]:
    """Makes the message of a stamp; all show the same."""
    data = camera_image(*size)
    if encoding == "jpeg":
        return lambda stamp: compressed_image_message(types, data, "jpeg", stamp, "camera")
    flag = cv2.IMREAD_COLOR if encoding == "bgr8" else cv2.IMREAD_GRAYSCALE
    image = np.asarray(cv2.imdecode(data, flag), np.uint8)
    return lambda stamp: image_message(types, image, encoding, stamp, "camera")


def _ignore(level: Level, text: str) -> None:
    """The log of our own node is of no interest."""


def node_table(costs: Sequence[NodeCosts]) -> str:
    """The costs as text."""
    head = f"{'ms per frame':26}{'engine':>8}{'receive':>9}{'node p50':>10}{'p95':>8}{'sum p50':>9}"
    head += f"{'transport':>11}{'idle ms/s':>11}{'round trip p50':>16}{'p95':>8}"
    lines = [
        f"{one.label:26}{one.engine:8.2f}{one.receive:9.2f}{one.other[0]:10.2f}{one.other[1]:8.2f}"
        f"{one.total:9.2f}{one.transport:11.2f}{one.idle:11.2f}"
        f"{one.round_trip[0]:16.2f}{one.round_trip[1]:8.2f}"
        for one in costs
    ]
    return "\n".join([head, *lines])


def as_json(one: NodeCosts) -> dict[str, Any]:
    """One row for the JSON file."""
    return {
        "node": one.label,
        "engine_ms": one.engine,
        "receive_ms": round(one.receive, 3),
        "idle_ms_per_s": round(one.idle, 3),
        "transport_ms": round(one.transport, 3),
        "without_engine_ms": {"p50": one.other[0], "p95": one.other[1]},
        "round_trip_without_engine_ms": {
            "p50": round(one.round_trip[0], 3),
            "p95": round(one.round_trip[1], 3),
        },
    }
