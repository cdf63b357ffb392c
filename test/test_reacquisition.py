"""A lost target is looked for all over the image, and taken only when it is surely the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from nodes import BUNDLE, TYPES, Node, frame_stamp, init_box
from recordings import RedEngine, published_settings

from mixformerv2_ros.errors import BoxError
from mixformerv2_ros.model.engine import Prediction
from mixformerv2_ros.ros.live.timed_engine import TimedEngine
from mixformerv2_ros.ros.messages import image_message
from mixformerv2_ros.tracking.boxes import Box, iou
from mixformerv2_ros.tracking.events import Event, EventKind, InitRequest, Step, StreamImage
from mixformerv2_ros.tracking.frame import NS, Frame
from mixformerv2_ros.tracking.pixels import Pixels
from mixformerv2_ros.tracking.session import Session, State, Track
from mixformerv2_ros.tracking.stream import Stream

WIDTH, HEIGHT = 640, 360
HERE, THERE = Box(60, 60, 40, 40), Box(500, 240, 40, 40)
LOST_AFTER = 10
SETTINGS: dict[str, Any] = {
    "search_factor": 3.6,
    "uncertain_threshold": 0.4,
    "lost_threshold": 0.2,
    "lost_duration": LOST_AFTER / 10,
    "reacquire_max_speed": 100.0,
}


class Counting(RedEngine):
    """Counts the crops of every call; where nothing is red, the box stays as it is."""

    def __init__(self, search_factor: float = SETTINGS["search_factor"]) -> None:
        self.calls: list[int] = []
        self._nothing = (0.5, 0.5, 1 / search_factor, 1 / search_factor)

    def search(self, crops: np.ndarray, memories: Sequence[Any], stop: object = None) -> Prediction:
        self.calls.append(len(crops))
        prediction = super().search(crops, memories)
        prediction.boxes[prediction.scores < 0.5] = self._nothing
        return prediction


def frame(index: int, *boxes: Box) -> Frame:
    """Image `index` at 10 Hz, red at the boxes."""
    image = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    for box in boxes:
        x, y, w, h = map(int, box)
        image[y : y + h, x : x + w] = (230, 20, 20)
    return Frame(Pixels.from_array(image, "rgb8"), index * NS // 10, "camera")


class Run:
    """A session with a target that was seen `HERE` and is lost since."""

    def __init__(self, *others: Box, **settings: Any) -> None:
        self.engine = Counting()
        self.session = Session(self.engine, published_settings(**{**SETTINGS, **settings}))
        self.session.start(frame(0, HERE, *others), HERE)
        self.index = 0
        while self.feed()[0].state is not State.LOST:
            assert self.index < 2 * LOST_AFTER

    def feed(self, *boxes: Box) -> list[Track]:
        self.index += 1
        return self.session.update(frame(self.index, *boxes))

    def images_until_found(self, *boxes: Box, limit: int = 60) -> int | None:
        for count in range(1, limit + 1):
            (track,) = self.feed(*boxes)
            if track.state is State.TRACKING:
                return count
        return None


def test_a_target_is_found_at_the_other_end_of_the_image() -> None:
    run = Run()
    assert run.images_until_found(THERE) is not None
    seconds = (run.index * NS // 10) / NS
    assert run.session.reacquired == {"target": pytest.approx(seconds, abs=0.2)}
    (track,) = run.feed(THERE)
    assert track.target_id == "target"
    assert track.state is State.TRACKING
    assert iou(track.box, THERE) > 0.9
    assert run.session.reacquired == {}


def test_it_is_not_looked_for_where_that_is_switched_off() -> None:
    run = Run(reacquire_frames=0)
    run.engine.calls.clear()
    assert run.images_until_found(THERE) is None
    assert set(run.engine.calls) == {1}


def test_it_must_be_seen_in_a_row_of_images() -> None:
    patient, quick = Run(reacquire_frames=9), Run(reacquire_frames=1)
    counts = [run.images_until_found(THERE) for run in (patient, quick)]
    assert None not in counts
    assert counts[0] > counts[1]  # type: ignore[operator]


def test_a_flash_is_no_find() -> None:
    run = Run(reacquire_frames=5, reacquire_crops=1000)
    states = [run.feed(*([THERE] if count % 4 else []))[0].state for count in range(40)]
    assert set(states) == {State.LOST}


def test_of_two_of_a_kind_none_is_taken() -> None:
    assert Run().images_until_found(THERE, Box(300, 40, 40, 40)) is None
    assert Run(reacquire_margin=0.0).images_until_found(THERE, Box(300, 40, 40, 40)) is not None


def test_a_place_that_is_too_far_away_is_not_searched_at_first() -> None:
    """At 2 sides (80 px) in the first second and every other, tiles 400 px away wait 4 seconds."""
    slow = {"reacquire_max_speed": 2.0, "reacquire_crops": 1000}
    far = Run(**slow)
    assert far.images_until_found(THERE, limit=200) is not None
    assert far.index > 40
    near = Run(**slow)
    assert near.images_until_found(Box(180, 80, 40, 40)) is not None
    assert near.index < 25


@pytest.mark.parametrize("side", [12, 120])
def test_another_size_is_another_thing(side: int) -> None:
    assert Run().images_until_found(Box(400, 200, side, side)) is None


def test_a_target_that_returns_where_it_was_is_tracked_at_once() -> None:
    run = Run()
    assert run.images_until_found(HERE) == 1
    assert run.session.reacquired == {}


@pytest.mark.parametrize("crops", [0, 1, 3, 8])
def test_all_lost_targets_together_take_so_many_crops(crops: int) -> None:
    engine = Counting()
    session = Session(engine, published_settings(**SETTINGS, reacquire_crops=crops))
    for name in "abc":
        session.start(frame(0, HERE), HERE, name)
    for index in range(1, 400):
        engine.calls.clear()
        tracks = session.update(frame(index, *([THERE] if index > 40 else [])))
        assert sum(engine.calls) <= 3 + max(crops, 0)
    if crops:
        assert {track.state for track in tracks} == {State.TRACKING}


def test_candidates_are_scored_in_one_call_and_nothing_moves() -> None:
    run = Run()
    session, engine = run.session, run.engine
    engine.calls.clear()
    before = session.tracker("target").box
    shown = frame(run.index + 1, THERE)
    near = Box(THERE.x - 15, THERE.y + 10, 50, 30)
    finds = session.score_boxes(shown, "target", [Box(300, 200, 40, 40), near, THERE])
    assert engine.calls == [3]
    assert [find.score > 0.5 for find in finds] == [False, True, True]
    assert iou(finds[1].box, THERE) > 0.9
    assert session.tracker("target").box == before
    assert session.score_boxes(shown, "target", []) == []

    track = session.move(shown, "target", finds[1])
    assert track.state is State.TRACKING
    assert (track.target_id, track.box) == ("target", finds[1].box)
    run.index += 1
    assert iou(run.feed(THERE)[0].box, THERE) > 0.9


def test_candidates_that_cannot_be_scored() -> None:
    session = Run().session
    with pytest.raises(BoxError, match="must overlap the 640x360 image"):
        session.score_boxes(frame(1), "target", [THERE, Box(700, 0, 20, 20)])
    with pytest.raises(BoxError, match="width and height must be positive"):
        session.score_boxes(frame(1), "target", [Box(0, 0, 0, 20)])
    with pytest.raises(KeyError):
        session.score_boxes(frame(1), "nobody", [THERE])
    with pytest.raises(KeyError):
        session.score_boxes(frame(1), "nobody", [])


def test_the_stream_reports_it_once() -> None:
    stream = Stream(Counting(), published_settings(**SETTINGS))
    stream.add_box(InitRequest(HERE, "dog"))
    outputs = []
    for index in range(70):
        boxes = [HERE] if index < 3 else [THERE] if index > 30 else []
        image = StreamImage(index * NS // 10, index * NS // 10, 0, decode=_given(index, boxes))
        outputs += stream.process(image)
    (event,) = (o for o in outputs if isinstance(o, Event) and o.kind is EventKind.REACQUIRED)
    assert event.text.startswith("found dog again, ")
    assert event.request is not None
    assert event.request.target_id == "dog"
    last = outputs[-1]
    assert isinstance(last, Step)
    assert last.tracks[0].state is State.TRACKING


def _given(index: int, boxes: list[Box]) -> Any:
    return lambda: frame(index, *boxes)


def test_crops_that_fit_into_a_time() -> None:
    times = iter(np.arange(0, 100, 0.01).tolist())
    engine = TimedEngine(RedEngine(), clock=lambda: next(times))
    assert engine.crops_in(1) == 0
    crops = np.zeros((2, 128, 128, 3), np.uint8)
    for _ in range(5):
        engine.search(crops, [0.0, 0.0])
    assert engine.crops_in(0.0225) == 4
    assert engine.crops_in(0) == 0


@pytest.mark.parametrize("budget", [0.0, 1000.0])
def test_a_node_keeps_to_its_budget(budget: float) -> None:
    values = {"reacquire__budget_ms": budget, "lost__duration": 0.2}
    with Node(Counting(BUNDLE.search_factor), **values) as node:
        node.tracker.receive_init(init_box(HERE))
        for index in range(60):
            boxes = [HERE] if index < 3 else [THERE] if index > 20 else []
            pixels = np.ascontiguousarray(frame(0, *boxes).pixels.rgb(0, 0, WIDTH, HEIGHT))
            node.feed(image_message(TYPES, pixels, "rgb8", frame_stamp(index), "cam"))
        states = [State(track.state) for track in node.desk.tracks]
        assert (states[-1] is State.TRACKING) is (budget > 0)
        assert any("found target again" in text for text in node.desk.texts) is (budget > 0)
