"""Several cameras in one process: one engine, and no fault of one is another's."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from nodes import BUNDLE, content, frame_stamp, image, init_box
from recordings import RedEngine, red_box
from waiting import wait_for

from mixformerv2_ros.cli import main
from mixformerv2_ros.engines.shared import SharedEngine
from mixformerv2_ros.errors import BundleError, EngineError, ParameterError
from mixformerv2_ros.ros.live.cameras import (
    Camera,
    CameraThread,
    parse_cameras,
    run_threads,
)
from mixformerv2_ros.ros.live.model import Model, SharedModels
from mixformerv2_ros.ros.messages import Level
from mixformerv2_ros.ros.parameters import NODE_PARAMETERS, check_values
from mixformerv2_ros.tracking.session import State

TRACK = "mixformerv2_ros/msg/Track"
IMAGE = "sensor_msgs/msg/Image"
CROPS = np.zeros((1, 128, 128, 3), np.uint8)

# The engine ---------------------------------------------------------------------------------------


class Gated(RedEngine):
    """An engine whose every call waits until it is let through."""

    def __init__(self) -> None:
        self.gate = threading.Semaphore(0)
        self.order: list[str] = []

    def search(self, crops: Any, memories: Any, stop: Any = None) -> Any:
        self.order.append(memories[0])
        assert self.gate.acquire(timeout=60)
        if memories[0] == "bad":
            raise EngineError("out of memory")
        return super().search(crops, memories, stop)


def in_thread(work: Any) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_a_busy_thread_does_not_starve_another() -> None:
    gated = Gated()
    shared = SharedEngine(gated)
    busy = in_thread(lambda: [shared.search(CROPS, ["busy"]) for _ in range(3)])
    wait_for(lambda: gated.order == ["busy"], "the first call")
    other = in_thread(lambda: shared.search(CROPS, ["other"]))
    wait_for(lambda: shared.waiting == 2, "the other call")
    gated.gate.release(4)
    busy.join()
    other.join()
    assert gated.order == ["busy", "other", "busy", "busy"]
    assert shared.waiting == 0


def test_a_call_that_fails_fails_alone() -> None:
    gated = Gated()
    shared = SharedEngine(gated)
    failures: list[str] = []

    def fail() -> None:
        with pytest.raises(EngineError) as raised:
            shared.search(CROPS, ["bad"])
        failures.append(str(raised.value))

    first = in_thread(fail)
    wait_for(lambda: gated.order == ["bad"], "the first call")
    answers: list[Any] = []
    second = in_thread(lambda: answers.append(shared.search(CROPS, ["good"])))
    wait_for(lambda: shared.waiting == 2, "the second call")
    gated.gate.release(2)
    first.join()
    second.join()
    assert failures == ["out of memory"]
    assert len(answers[0].boxes) == 1
    assert (shared.name, shared.spec) == (gated.name, gated.spec)


def test_equal_parameters_share_one_engine() -> None:
    models = SharedModels()
    values = check_values({"num_threads": 1}, NODE_PARAMETERS)
    first, second = models.load(values), models.load({**values, "lost.duration": 3.0})
    assert second.engine is first.engine
    # A second online template is run once before it is needed, in the same engine.
    more = models.load({**values, "template_update.online_size": 2})
    assert more.engine is first.engine
    other = models.load({**values, "num_threads": 2})
    assert other.engine is not first.engine
    with pytest.raises(BundleError):
        models.load({**values, "model": "/nowhere"})


# The threads --------------------------------------------------------------------------------------


class Process:
    """Cameras that run until `end`."""

    def __init__(self) -> None:
        self.lines: list[tuple[Level, str]] = []
        self.stopped = threading.Event()
        self.failures: list[BaseException] = []

    def camera(self, run: Any, name: str = "camera") -> CameraThread:
        def log(level: Level, text: str) -> None:
            self.lines.append((level, text))

        return CameraThread(name, run, log, self.stopped.is_set)

    def run(self, *threads: CameraThread) -> threading.Thread:
        def work() -> None:
            try:
                run_threads(threads, self.stopped.is_set)
            except ValueError as error:
                self.failures.append(error)

        return in_thread(work)


def until_closing(thread: CameraThread) -> None:
    thread.set_ready()
    wait_for(thread.is_closing, "the end")


def test_a_camera_that_fails_is_made_anew_and_the_others_go_on() -> None:
    process = Process()
    runs: list[str] = []

    def failing(thread: CameraThread) -> None:
        runs.append("failing")
        thread.set_ready()
        if len(runs) < 3:
            raise ValueError("a fault\nof two lines")
        wait_for(thread.is_closing, "the end")

    def steady(thread: CameraThread) -> None:
        runs.append("steady")
        until_closing(thread)

    running = process.run(process.camera(steady), process.camera(failing))
    wait_for(lambda: runs.count("failing") == 2, "the second run")
    assert runs.count("steady") == 1
    process.stopped.set()
    running.join()
    (line,) = process.lines
    assert line[0] is Level.ERROR
    assert line[1].startswith("node failed: ValueError: a fault")
    assert line[1].endswith("made anew in 2 s")
    assert "\n" not in line[1]
    assert process.failures == []


def test_a_camera_that_cannot_start_ends_the_process() -> None:
    process = Process()
    ended: list[str] = []

    def steady(thread: CameraThread) -> None:
        until_closing(thread)
        ended.append("steady")

    def never(thread: CameraThread) -> None:
        raise ValueError("no such bundle")

    process.run(process.camera(steady), process.camera(never)).join()
    assert [str(error) for error in process.failures] == ["no such bundle"]
    assert ended == ["steady"]


def test_cameras_by_their_names() -> None:
    assert parse_cameras(["front", "/drone/rear/=/rear/image_raw"]) == [
        Camera("front"),
        Camera("drone/rear", "/rear/image_raw"),
    ]
    for wrong in ("", "/", "=/image", "front="):
        with pytest.raises(ParameterError, match=r"^camera must be NAMESPACE or"):
            parse_cameras([wrong])
    with pytest.raises(ParameterError, match=r"^two cameras have the namespace 'front'"):
        parse_cameras(["front", "rear", "front=/other"])


# On DDS -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dds() -> Iterator[Any]:
    pytest.importorskip("cyclonedds", reason="needs cyclonedds, which is not installed")
    from domains import own_domain

    with own_domain() as number:
        yield number


@pytest.fixture
def peer(dds: Any) -> Iterator[Any]:
    from peers import Peer

    with Peer() as node:
        yield node


class Eyes:
    """Cameras that show the moving target, and what is heard of their trackers."""

    def __init__(self, peer: Any, topics: dict[str, str]) -> None:
        from mixformerv2_ros.ros.cyclonedds import qos_profiles as profiles

        self.peer = peer
        self.topics = topics
        node = peer.node
        self.cameras = {
            name: node.create_publisher(topic, IMAGE, profiles.reliable())
            for name, topic in topics.items()
        }
        self.starters = {
            name: node.create_publisher(
                f"/{name}/init_box", "mixformerv2_ros/msg/InitBox", profiles.reliable()
            )
            for name in topics
        }
        for name in topics:
            peer.listen(f"/{name}/track", TRACK)
            peer.listen(f"/{name}/detections", "vision_msgs/msg/Detection2DArray")
        peer.listen("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray")

    def wait_subscribed(self) -> None:
        for name, topic in self.topics.items():
            self.peer.wait_reliable(topic)
            starter = self.starters[name]
            wait_for(lambda starter=starter: starter.subscription_count, f"init_box of {name}")

    def show(self, name: str, index: int) -> None:
        self.peer.publish_acknowledged(self.cameras[name], image(index), f"/{name}/detections")

    def heard(self, name: str) -> list[Any]:
        return self.peer.heard[f"/{name}/track"]

    def states(self, name: str) -> list[State]:
        return [State(message.state) for message in self.heard(name)]


def test_a_process_tracks_in_every_camera_what_it_tracks_in_one(peer: Any) -> None:
    from processes import Command

    eyes = Eyes(peer, {"front": "/front/image", "rear": "/rear_camera/image_raw"})
    words = ("--camera", "front", "--camera", "rear=/rear_camera/image_raw")
    with Command("node", *words, "-p", "num_threads:=1") as node:
        eyes.wait_subscribed()
        for name in ("front", "rear"):
            eyes.starters[name].publish(init_box(tuple(red_box(0)), frame_stamp(0)))
        for index in range(6):
            eyes.show("front", index)
            eyes.show("rear", index)
        # What one camera sends is no matter of the other.
        eyes.cameras["rear"].publish(replace(image(6), encoding="nonsense"))
        eyes.show("front", 6)
        wait_for(
            lambda: any("rear" in line and "encoding" in line for line in node.lines), "the log"
        )
        eyes.show("rear", 7)

        def statuses() -> set[str]:
            return {s.name for m in peer.heard["/diagnostics"] for s in m.status}

        wait_for(
            lambda: statuses() == {"front/tracker: tracker", "rear/tracker: tracker"},
            "diagnostics of both",
        )
        assert node.end() == 0
    front, rear = ([content(m) for m in eyes.heard(name)] for name in ("front", "rear"))
    assert front[:6] == rear[:6]
    assert len(front) == len(rear) == 7
    assert not [line for line in node.lines if "front" in line and "encoding" in line]


class FailingEngine(RedEngine):
    """A bug of the engine: it ends the worker that shows it a green image."""

    def search(self, crops: np.ndarray, memories: Any, stop: Any = None) -> Any:
        if (crops[..., 1] > 200).any():
            raise ZeroDivisionError("a bug")
        return super().search(crops, memories, stop)


def test_a_fault_of_one_camera_does_not_touch_another(peer: Any) -> None:
    """Both run in this process, with one engine."""
    from mixformerv2_ros.ros.cyclonedds.camera_node import CameraNode
    from mixformerv2_ros.ros.cyclonedds.names import NodeNames

    process, model = Process(), Model(BUNDLE, SharedEngine(FailingEngine()))

    def camera(name: str) -> CameraThread:
        def log(level: Level, text: str) -> None:
            process.lines.append((level, f"{name}: {text}"))

        names = NodeNames("tracker", f"/{name}")
        node = CameraNode(names, log, {}, sim_time=False, load=lambda _: model)
        return CameraThread(name, node.run, log, process.stopped.is_set)

    eyes = Eyes(peer, {"front": "/front/image", "rear": "/rear/image"})
    running = process.run(camera("front"), camera("rear"))
    try:
        eyes.wait_subscribed()
        for name in ("front", "rear"):
            eyes.starters[name].publish(init_box(tuple(red_box(0)), frame_stamp(0)))
            for index in range(2):
                eyes.show(name, index)
        data = image(2).data.copy()
        data[1::3] = 255
        eyes.cameras["rear"].publish(replace(image(2), data=data))
        wait_for(
            lambda: any("node failed: ZeroDivisionError" in text for _, text in process.lines),
            "the fault",
        )
        for index in range(2, 5):
            eyes.show("front", index)
        # The node of the other camera comes again, without targets.
        wait_for(
            lambda: [t.startswith("rear: ready") for _, t in process.lines].count(True) == 2,
            "the second start",
        )
        peer.wait_reliable("/rear/image")
        wait_for(lambda: eyes.cameras["rear"].subscription_count, "the subscription")
        wait_for(lambda: eyes.starters["rear"].subscription_count, "the subscription")
        before = len(eyes.heard("rear"))
        while len(eyes.heard("rear")) == before:
            eyes.cameras["rear"].publish(image(9))
            peer_waits(lambda: len(eyes.heard("rear")) > before)
        assert eyes.states("rear")[-1] is State.IDLE
        eyes.show("front", 5)
        assert eyes.states("front") == [State.TRACKING] * 6
    finally:
        process.stopped.set()
        running.join()
    assert not [text for _, text in process.lines if text.startswith("front: node failed")]


def peer_waits(condition: Any) -> None:
    """A while for an answer that may not come: both sides may not know of each other yet."""
    ended = threading.Event()
    for _ in range(50):
        if condition() or ended.wait(0.01):
            return


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--camera", "a b"), "namespace must consist of"),
        (("--camera", "front", "-r", "image:=/x"), "images of cameras are named with --camera"),
        (("--camera", "front", "--rerun", "out.rrd"), "--rerun shows the only camera"),
        (("--camera", "front", "-p", "model:=/nowhere"), "/nowhere"),
    ],
)
def test_wrong_words_are_one_line(
    dds: Any, words: tuple[str, ...], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["node", *words]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert expected in line
