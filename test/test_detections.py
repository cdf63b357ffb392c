"""Detections of an object detector: targets start on them, are found and corrected by them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from domains import own_domain
from nodes import TYPES, Node, frame_stamp, image, init_detection
from recordings import RedEngine, published_settings, red_box
from waiting import wait_for

from mixformerv2_ros.model.engine import Memory, Prediction
from mixformerv2_ros.ros.messages import header_message, read_detections
from mixformerv2_ros.ros.topics import DETECTOR, OUTPUTS, TRACK
from mixformerv2_ros.tracking.boxes import Box, iou
from mixformerv2_ros.tracking.detections import (
    Detection,
    DetectionRules,
    DetectionSet,
    DetectionSettings,
)
from mixformerv2_ros.tracking.events import EventKind, InitRequest, Output, Step, StreamImage
from mixformerv2_ros.tracking.frame import Frame
from mixformerv2_ros.tracking.pixels import Pixels
from mixformerv2_ros.tracking.session import State, Track
from mixformerv2_ros.tracking.stream import Stream

HERE, THERE, BLUE = Box(60, 90, 40, 30), Box(430, 200, 40, 30), Box(560, 60, 40, 30)
SIZE = 640, 360


def one(box: Box, class_id: str = "person", score: float = 0.9, id: str = "") -> Detection:
    return Detection(box, class_id, score, id)


def found(*detections: Detection | Box, index: int = 0, frame_id: str = "cam") -> DetectionSet:
    made = tuple(each if isinstance(each, Detection) else one(each) for each in detections)
    return DetectionSet(frame_stamp(index), frame_id, made)


# The choice


CROWD = (
    one(Box(300, 160, 40, 40), score=0.6),
    one(Box(10, 10, 100, 100), "car", 0.7, "7"),
    one(Box(500, 100, 50, 90), score=0.95),
    one(Box(310, 170, 30, 30), "dog", 0.2),
)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"start": "nearest"}, 0),
        ({"start": "largest"}, 1),
        ({"start": "best"}, 2),
        ({"start": "largest", "class_id": "person"}, 2),
        ({"start": "nearest", "class_id": "car"}, 1),
        ({"start": "best", "id": "7"}, 1),
        ({"start": "best", "class_id": "dog", "min_score": 0.1}, 3),
        ({"start": "best", "class_id": "dog"}, None),
        ({"start": "best", "id": "8"}, None),
    ],
    ids=str,
)
def test_the_rule_chooses(settings: dict[str, Any], expected: int | None) -> None:
    for order in (1, -1):
        rules = DetectionRules()
        chosen = rules.choose(
            found(*CROWD[::order]), DetectionSettings(start_frames=1, **settings), SIZE
        )
        assert chosen == (None if expected is None else CROWD[expected])


def test_the_choice_must_hold() -> None:
    settings = DetectionSettings(start="largest", start_frames=3)

    def choose(*sets: Sequence[Box]) -> list[Detection | None]:
        rules = DetectionRules()
        return [rules.choose(found(*boxes), settings, SIZE) for boxes in sets]

    a, moved, larger = Box(100, 100, 40, 40), Box(105, 100, 40, 40), Box(300, 100, 41, 41)
    assert choose([a], [moved], [a]) == [None, None, one(a)]
    # A larger one does not take over what was chosen before and is still there.
    assert choose([a], [moved, larger], [larger, a]) == [None, None, one(a)]
    assert choose([a], [], [a], [a]) == [None] * 4
    assert choose([a], [larger], [a], [larger], [a]) == [None] * 5


# In a stream


class Drifting(RedEngine):
    """Sees the upper third of what is red while it drifts, until templates are encoded anew."""

    drifts = False

    def encode_templates(self, templates: np.ndarray) -> Memory:
        self.drifts = False
        return super().encode_templates(templates)

    def search(
        self, crops: np.ndarray, memories: Sequence[Memory], stop: object = None
    ) -> Prediction:
        seen = super().search(crops, memories)
        # Where nothing is red, the box stays.
        seen.boxes[seen.scores < 0.5, 2:] = 0.257, 0.192
        if self.drifts:
            seen.boxes[:, 1] -= seen.boxes[:, 3] / 3
            seen.boxes[:, 3] /= 3
        return seen


class Run:
    """A stream of 640x360 images with a red target, if any, and a blue thing."""

    def __init__(self, settings: DetectionSettings, **tracker: Any) -> None:
        self.engine = Drifting()
        values = {"lost_duration": 0.1, "reacquire_frames": 0, "update_interval": 1000, **tracker}
        self.stream = Stream(self.engine, published_settings(**values))
        self.stream.detection_settings = settings
        self.index = -1

    def feed(self, red: Box | None) -> tuple[list[Output], tuple[Track, ...]]:
        self.index += 1
        pixels = np.full((SIZE[1], SIZE[0], 3), 90, np.uint8)
        for box, color in ((red, (230, 20, 20)), (BLUE, (20, 20, 230))):
            if box is not None:
                x, y, w, h = map(int, box)
                pixels[y : y + h, x : x + w] = color
        frame = Frame(Pixels.from_array(pixels), frame_stamp(self.index), "cam")
        arrival = frame.stamp_ns + 1000
        outputs = self.stream.process(
            StreamImage(frame.stamp_ns, arrival, pixels.nbytes, decode=lambda: frame)
        )
        return outputs, next(each.tracks for each in outputs if isinstance(each, Step))

    def detect(self, *detections: Detection | Box, late: int = 0, **changes: Any) -> list[Output]:
        return self.stream.add_detections(found(*detections, index=self.index - late, **changes))


def kinds(outputs: Sequence[Output]) -> list[EventKind]:
    return [each.kind for each in outputs if not isinstance(each, Step)]


def test_a_target_starts_on_the_image_of_its_detection() -> None:
    run = Run(DetectionSettings(start="nearest", start_frames=2))
    started: list[EventKind] = []
    for i in range(8):
        box = Box(HERE.x + 5 * i, HERE.y, HERE.w, HERE.h)
        outputs, tracks = run.feed(box)
        started += kinds(outputs)
        if i >= 1:  # a detector that is one image late
            before = Box(box.x - 5, box.y, box.w, box.h)
            started += kinds(run.detect(before, late=1))
    assert started == [EventKind.STARTED]
    assert [(track.target_id, track.state) for track in tracks] == [("target", State.TRACKING)]
    assert iou(tracks[0].box, box) > 0.9


def test_detections_are_off_by_default() -> None:
    run = Run(DetectionSettings())
    for _ in range(5):
        outputs, tracks = run.feed(HERE)
        assert not kinds(outputs)
        assert not run.detect(HERE)
    assert not tracks


def lose(run: Run) -> None:
    run.stream.add_box(InitRequest(HERE, "dog"))
    run.feed(HERE)
    run.feed(HERE)
    for _ in range(6):
        _, (track,) = run.feed(None)
        run.detect()
    assert track.state is State.LOST


def test_a_lost_target_is_found_among_detections_by_its_looks() -> None:
    run = Run(DetectionSettings(reacquire=True, start_frames=2))
    lose(run)
    events: list[EventKind] = []
    for _ in range(6):
        outputs, (track,) = run.feed(THERE)
        events += kinds(outputs)
        run.detect(BLUE, THERE)
    assert events == [EventKind.REACQUIRED]
    assert track.target_id == "dog"
    assert iou(track.box, THERE) > 0.9


def test_the_search_of_tiles_goes_on_beside_detections() -> None:
    """A detector that never shows the target must not keep the tracker from finding it."""
    run = Run(DetectionSettings(reacquire=True), reacquire_frames=3)
    lose(run)
    for _ in range(80):
        _, (track,) = run.feed(THERE)
        if track.state is State.TRACKING:
            break
        run.detect(BLUE)
    assert iou(track.box, THERE) > 0.9


@pytest.mark.parametrize(
    "detections",
    [[BLUE], [], [one(THERE, score=0.3)], [one(THERE, "car")], [Box(430, 200, 300, 150)]],
    ids=["another thing", "none", "low score", "another class", "too large"],
)
def test_a_lost_target_stays_lost(detections: list[Any]) -> None:
    run = Run(DetectionSettings(reacquire=True, start_frames=1, class_id="person"))
    lose(run)
    for _ in range(10):
        _, (track,) = run.feed(THERE)
        run.detect(*detections)
    assert track.state is State.LOST


def test_two_that_look_the_same_are_not_told_apart() -> None:
    run = Run(DetectionSettings(reacquire=True, start_frames=1))
    lose(run)
    twin = Box(THERE.x - 250, THERE.y + 100, THERE.w, THERE.h)
    for _ in range(10):
        run.index += 1
        pixels = np.full((SIZE[1], SIZE[0], 3), 90, np.uint8)
        for x, y, w, h in (map(int, THERE), map(int, twin)):
            pixels[y : y + h, x : x + w] = (230, 20, 20)
        frame = Frame(Pixels.from_array(pixels), frame_stamp(run.index), "cam")
        shown = StreamImage(frame.stamp_ns, frame.stamp_ns, 0, decode=lambda frame=frame: frame)
        outputs = run.stream.process(shown)
        run.detect(THERE, twin)
    (step,) = (each for each in outputs if isinstance(each, Step))
    assert step.tracks[0].state is State.LOST


def drift(run: Run, *detections: Box, frames: int = 20) -> tuple[list[EventKind], Track]:
    """Agree for ten images, then drift."""
    run.stream.add_box(InitRequest(HERE, "dog"))
    events: list[EventKind] = []
    for i in range(frames):
        if i == 10:
            run.engine.drifts = True
        outputs, (track,) = run.feed(HERE)
        events += kinds(outputs)
        events += kinds(run.detect(*(detections or [HERE]) if i >= 10 else [HERE]))
    return events, track


def test_a_box_that_drifts_is_corrected() -> None:
    run = Run(DetectionSettings(correct_frames=5))
    events, track = drift(run)
    assert events == [EventKind.STARTED, EventKind.CORRECTED]
    assert iou(track.box, HERE) > 0.9
    assert track.state is State.TRACKING


@pytest.mark.parametrize(
    ("settings", "detections", "frames"),
    [
        ({"correct_frames": 0}, [HERE], 20),
        ({"correct_frames": 5}, [HERE], 14),
        ({"correct_frames": 15}, [HERE], 40),
        ({"correct_frames": 5}, [HERE, Box(HERE.x + 15, *HERE[1:])], 20),
        ({"correct_frames": 5}, [Box(HERE.x - 60, HERE.y - 80, 160, 120)], 20),
        ({"correct_frames": 5}, [BLUE], 20),
    ],
    ids=["off", "not for long", "never agreed for long", "two", "another size", "elsewhere"],
)
def test_a_box_is_not_corrected(settings: Any, detections: list[Box], frames: int) -> None:
    events, track = drift(Run(DetectionSettings(**settings)), *detections, frames=frames)
    assert events == [EventKind.STARTED]
    assert iou(track.box, HERE) < 0.5


def test_detections_that_cannot_be_compared_are_reported() -> None:
    run = Run(DetectionSettings(start="best", start_frames=1))
    run.feed(HERE)
    (event,) = run.detect(HERE, frame_id="other\n")
    assert not isinstance(event, Step)
    assert (event.kind, event.text) == (
        EventKind.DETECTIONS_UNUSED,
        "detections of frame_id other\\n are not used: that of the images is cam",
    )
    unstamped = DetectionSet(0, "cam", (one(HERE),))
    (event,) = run.stream.add_detections(unstamped)
    assert not isinstance(event, Step)
    assert event.text == "detections without a stamp are not used"
    assert not run.stream.requests


# The nodes


def message(*boxes: Any, index: int = 0, frame_id: str = "cam", stamp: int | None = None) -> Any:
    """A `Detection2DArray`, every box of class person."""
    hypothesis = TYPES["vision_msgs/msg/ObjectHypothesis"]
    pose = TYPES["geometry_msgs/msg/PoseWithCovariance"](
        pose=TYPES["geometry_msgs/msg/Pose"](
            position=TYPES["geometry_msgs/msg/Point"](x=0.0, y=0.0, z=0.0),
            orientation=TYPES["geometry_msgs/msg/Quaternion"](x=0.0, y=0.0, z=0.0, w=1.0),
        ),
        covariance=np.zeros(36),
    )
    detections = [init_detection(box) for box in boxes]
    for each in detections:
        each.results = [
            TYPES["vision_msgs/msg/ObjectHypothesisWithPose"](
                hypothesis=hypothesis(class_id=name, score=score), pose=pose
            )
            for name, score in (("dog", 0.1), ("person", 0.8))
        ]
    header = header_message(TYPES, frame_stamp(index) if stamp is None else stamp, frame_id)
    return TYPES[DETECTOR[1]](header=header, detections=detections)


def test_messages_are_read() -> None:
    read, unusable = read_detections(message(HERE, BLUE, index=3))
    assert read == found(one(HERE, score=0.8), one(BLUE, score=0.8), index=3)
    assert unusable == 0
    nan = float("nan")
    garbage = [(0, 0, 0, 10), (nan, 0, 5, 5), (0, 0, -3, 5), (1e30, 0, 5, 5), HERE]
    array = message(*garbage)
    array.detections[-1].results[1].hypothesis.score = nan
    array.detections[-1].results[0].hypothesis.score = nan
    assert read_detections(array) == (found(), 5)
    read, unusable = read_detections(message(*[HERE] * 400))
    assert (len(read.detections), unusable) == (256, 144)
    assert read_detections(message(stamp=5))[0] == DetectionSet(5, "cam", ())


def test_the_node_counts_and_names_what_it_cannot_use() -> None:
    values = {"detector__start": "largest", "detector__start_frames": 2, "image_timeout": 3.0}
    with Node(**values) as node:
        desk, tracker = node.desk, node.tracker

        def feed(index: int) -> None:
            desk.time_ns = frame_stamp(index)
            node.feed(image(index))

        feed(0)
        nan = float("nan")
        for _ in range(3):
            tracker.receive_detections(message(red_box(0), frame_id="elsewhere"))
            tracker.receive_detections(message(red_box(0), stamp=0))
            tracker.receive_detections(message((nan, nan, 1, 1)))
            node.settle()
        assert sorted(desk.texts) == [
            "detections of frame_id elsewhere are not used: that of the images is cam",
            "detections without a box, or with a score that is no number, are not used",
            "detections without a stamp are not used",
        ]
        assert (node.counts.detections, node.counts.detections_unused) == (9, 9)
        for index in (1, 2):
            feed(index)
            tracker.receive_detections(message(red_box(index), index=index))
            node.settle()
        feed(3)
        assert tracker.targets == {"target"}
        assert desk.published[TRACK][-1].state == State.TRACKING
        # The detector dies: one line, and nothing else changes.
        tracker.publish_diagnostics()
        for index in range(4, 84):
            feed(index)
            tracker.publish_diagnostics()
        assert tracker.targets == {"target"}
        assert [line for line in desk.texts if "detector" in line] == [
            "no detections on /detector for more than 3 s; tracking goes on"
        ]
        tracker.receive_detections(message(red_box(83), index=83))
        tracker.publish_diagnostics()
        assert desk.texts[-1] == "detections on /detector resumed"


def test_nothing_is_counted_until_detections_are_used() -> None:
    with Node() as node:
        node.feed(image(0))
        node.tracker.receive_detections(message(red_box(0), stamp=0))
        node.settle()
        assert node.counts.detections == 0
        assert not node.desk.lines
        node.tracker.set_values({"detector.start": "best", "detector.start_frames": 1})
        node.tracker.receive_detections(message(red_box(0)))
        node.feed(image(1))
        assert node.tracker.targets == {"target"}
        assert any("tracking target" in line for line in node.desk.texts)


def test_a_detector_on_dds_starts_a_target() -> None:
    pytest.importorskip("cyclonedds", reason="needs cyclonedds, which is not installed")
    from dds_nodes import Local
    from peers import Peer

    from mixformerv2_ros.ros.cyclonedds.qos_profiles import reliable

    values = {"detector__start": "nearest", "detector__start_frames": 2}
    with own_domain(), Peer() as peer, Local(**values) as local:
        camera = peer.node.create_publisher("/image", "sensor_msgs/msg/Image", reliable())
        detector = peer.node.create_publisher(f"/{DETECTOR[0]}", DETECTOR[1], reliable())
        for topic in ("track", "detections"):
            peer.listen(f"/{topic}", OUTPUTS[topic])
            wait_for(lambda topic=topic: local.tracking.has_subscribers(topic), "the listener")
        peer.wait_reliable("/image")
        wait_for(lambda: detector.subscription_count, "a subscription to the detector")
        tracker = local.tracking.tracker

        def detect(array: Any) -> None:
            before = tracker.statistics().counts.detections
            detector.publish(array)
            wait_for(lambda: tracker.statistics().counts.detections > before, "the detections")
            wait_for(lambda: tracker.idle, "the tracker")

        peer.publish_acknowledged(camera, image(0), "/detections")
        detect(message(red_box(0), frame_id="elsewhere"))
        detect(message((float("nan"), 0, 0, 0), stamp=0))
        for index in (1, 2):
            peer.publish_acknowledged(camera, image(index), "/detections")
            detect(message(red_box(index), index=index))
        wait_for(lambda: tracker.targets == {"target"}, "the target")
        peer.publish_acknowledged(camera, image(3), "/detections")
        wait_for(lambda: peer.heard["/track"][-1].state == State.TRACKING, "the track")
        assert sum("elsewhere" in line for line in local.lines) == 1
        assert tracker.statistics().counts.detections_unused == 3


def test_the_same_detections_give_the_same_tracks() -> None:
    def tracks() -> list[Track]:
        run = Run(DetectionSettings("nearest", reacquire=True, correct_frames=4, start_frames=2))
        seen: list[Track] = []
        for i in range(60):
            run.engine.drifts |= i == 15
            box = None if 25 <= i < 35 else (HERE if i < 25 else THERE)
            _, found_here = run.feed(box)
            seen += found_here
            run.detect(*([box] if box else []), BLUE)
        return seen

    first = tracks()
    assert first == tracks()
    assert iou(first[-1].box, THERE) > 0.9
