"""The rules of a stream: order, size, time, broken images, init boxes, catching up."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from typing import Any

import cv2
import numpy as np
import pytest
from recordings import (
    HEIGHT,
    PERIOD_NS,
    START_NS,
    WIDTH,
    RedEngine,
    picture,
    published_settings,
    red_box,
)

from mixformerv2_ros.errors import BoxError, EngineError, ImageError
from mixformerv2_ros.model.engine import Prediction
from mixformerv2_ros.tracking.boxes import iou
from mixformerv2_ros.tracking.events import (
    Event,
    EventKind,
    InitRequest,
    Output,
    Step,
    StreamImage,
    raise_failure,
)
from mixformerv2_ros.tracking.frame import Frame
from mixformerv2_ros.tracking.pixels import Pixels, decode_image
from mixformerv2_ros.tracking.session import State, Track
from mixformerv2_ros.tracking.stream import Stream, StreamRules, track_one

SECOND = 1_000_000_000
LARGE = (2 * WIDTH, 2 * HEIGHT)


def stamp_of(index: float) -> int:
    return START_NS + round(index * PERIOD_NS)


def image(
    index: int,
    *,
    stamp: int | None = None,
    arrival: int | None = None,
    broken: bool = False,
    size: tuple[int, int] | None = None,
) -> StreamImage:
    """Frame `index` of the moving target."""
    stamp = stamp_of(index) if stamp is None else stamp
    pixels = picture(index) if size is None else cv2.resize(picture(index), size)

    def decode() -> Frame:
        if broken:
            raise ImageError("cut off")
        return Frame(Pixels.from_array(pixels), stamp, "cam")

    arrival = stamp_of(index) if arrival is None else arrival
    return StreamImage(stamp, arrival, pixels.nbytes, decode=decode, name=f"image {index}")


class Run:
    """A stream, and what came out of it so far."""

    def __init__(self, engine: Any = None, **rules: Any) -> None:
        self.stream = Stream(engine or RedEngine(), published_settings(), StreamRules(**rules))
        self.outputs: list[Output] = []

    def box(self, index: int, stamp: int | None = None, name: str = "target") -> InitRequest:
        request = InitRequest(red_box(index), name, stamp)
        self.outputs += self.stream.add_box(request)
        return request

    def feed(self, *images: StreamImage) -> Run:
        for one in images:
            self.outputs += self.stream.process(one)
        return self

    @property
    def steps(self) -> list[Step]:
        return [output for output in self.outputs if isinstance(output, Step)]

    @property
    def events(self) -> list[Event]:
        return [output for output in self.outputs if isinstance(output, Event)]

    @property
    def kinds(self) -> list[EventKind]:
        return [event.kind for event in self.events]

    @property
    def indices(self) -> list[int]:
        """Frames that were searched, in order."""
        return [int(step.image.name.split()[1]) for step in self.steps]

    def tracked(self) -> list[bool]:
        return [bool(step.tracks) for step in self.steps]


def following(track: Track, index: int) -> bool:
    return iou(track.box, red_box(index)) > 0.8


# Broken images ------------------------------------------------------------------------------------


def test_a_broken_image_touches_nothing_and_its_stamp_is_not_looked_at() -> None:
    run = Run()
    run.box(0)
    run.feed(image(0), image(1), image(2, stamp=0, broken=True), image(3), image(4))
    assert run.kinds == [EventKind.STARTED, EventKind.UNDECODABLE]
    assert run.events[1].text == "cut off"
    assert run.indices == [0, 1, 3, 4]
    assert following(run.steps[-1].tracks[0], 4)


def test_a_box_on_a_broken_image_starts_on_the_next() -> None:
    run = Run()
    run.box(2)
    run.feed(image(1, broken=True), image(2), image(3))
    assert run.tracked() == [True, True]


# Order --------------------------------------------------------------------------------------------


def test_swapped_neighbours_cost_one_image() -> None:
    run = Run()
    run.box(0)
    run.feed(*map(image, (0, 1, 3, 2, 4, 5)))
    assert run.indices == [0, 1, 3, 4, 5]
    assert run.tracked() == [True] * 5
    assert run.kinds == [EventKind.STARTED, EventKind.LATE]
    assert run.events[1].text == "image 0.050 s older than the newest dropped"


def test_one_image_from_long_ago_is_a_stray() -> None:
    run = Run()
    run.box(0)
    run.feed(image(0), image(1), image(2, stamp=stamp_of(2) - 60 * SECOND), image(3))
    assert run.indices == [0, 1, 3]
    assert run.kinds == [EventKind.STARTED, EventKind.STRAY]
    assert "image time stepped back by 59.950 s" in run.events[1].text
    assert run.tracked() == [True] * 3


def test_a_decodable_image_with_stamp_zero_is_a_stray() -> None:
    run = Run()
    run.box(0)
    run.feed(image(0), image(1), image(2, stamp=0), image(3), image(4))
    assert run.indices == [0, 1, 3, 4]
    assert run.kinds == [EventKind.STARTED, EventKind.STRAY]


def test_a_step_back_that_the_next_image_confirms_resets() -> None:
    """A recording that loops: no image of the new pass is lost."""
    run = Run()
    run.box(0)
    run.feed(*map(image, range(20)), *map(image, range(5)))
    assert run.indices == [*range(20), *range(5)]
    assert run.tracked() == [True] * 20 + [False] * 5
    assert run.kinds == [EventKind.STARTED, EventKind.RESET, EventKind.FORGOTTEN]
    assert run.events[1].text == "image time stepped back by 0.950 s; targets reset: target"


def test_the_tolerance_is_a_rule() -> None:
    run = Run(late_tolerance_ns=0)
    run.box(0)
    run.feed(*map(image, (0, 1, 3, 2, 4)))
    assert run.kinds == [EventKind.STARTED, EventKind.STRAY]
    run = Run(late_tolerance_ns=2 * SECOND)
    run.box(0)
    run.feed(*map(image, range(20)), image(0), image(1), image(20))
    assert run.kinds == [EventKind.STARTED, EventKind.LATE, EventKind.LATE]


def test_a_clock_that_was_set_back_a_little_costs_two_images() -> None:
    """And no target: the step is within the tolerance, and stays."""
    run = Run()
    run.box(0)
    back = 6 * PERIOD_NS
    run.feed(*map(image, range(8)), *(image(i, stamp=stamp_of(i) - back) for i in range(8, 16)))
    assert run.indices == [*range(8), *range(10, 16)]
    assert run.kinds == [EventKind.STARTED, EventKind.LATE, EventKind.LATE]
    assert run.tracked() == [True] * 14
    # Durations go on with the arrivals across the step.
    assert run.steps[-1].tracks[0].template_age_ns == 15 * PERIOD_NS


def test_a_loop_on_simulated_time_resets() -> None:
    """The arrivals loop with the stamps: neither explains the images better than the other."""
    run = Run()
    for _ in range(3):
        run.box(0, stamp_of(0))
        run.feed(*(image(i, arrival=stamp_of(i)) for i in range(12)))
    assert run.indices == [*range(12)] * 3
    assert run.tracked() == [True] * 36


def test_a_loop_seen_by_a_slow_model_resets_too() -> None:
    """Its second image lies within the tolerance of the newest, but the held one explains it."""
    run = Run()
    run.box(0)
    arrivals = iter(range(0, 100))
    for index in (0, 8, 16, 24, 0, 15, 24):
        run.feed(image(index, arrival=stamp_of(8 * next(arrivals))))
    assert EventKind.RESET in run.kinds
    assert run.indices == [0, 8, 16, 24, 0, 15, 24]


def test_two_publishers_that_alternate_do_not_reset() -> None:
    run = Run()
    run.box(0)
    for index in range(6):
        run.feed(image(index), image(index, stamp=stamp_of(index) - 100 * SECOND))
    run.feed(image(6))
    assert run.indices == list(range(7))
    assert run.kinds == [EventKind.STARTED, *[EventKind.STRAY] * 6]


def test_one_stamp_some_seconds_ahead_is_a_stray() -> None:
    run = Run()
    run.box(0)
    run.feed(*map(image, range(5)), image(5, stamp=stamp_of(5) + 10 * SECOND), image(6), image(7))
    assert run.indices == [0, 1, 2, 3, 4, 6, 7]
    assert run.kinds == [EventKind.STARTED, EventKind.STRAY]
    assert run.tracked() == [True] * 7


def test_a_camera_that_stood_still_steps_forward_with_the_arrivals() -> None:
    run = Run()
    run.box(0)
    run.feed(image(0), image(1), image(200), image(2, stamp=stamp_of(201), arrival=stamp_of(201)))
    assert len(run.steps) == 4
    assert run.kinds == [EventKind.STARTED]


def test_an_absurd_stamp_ahead_is_a_stray_and_a_clock_that_is_set_is_none() -> None:
    run = Run()
    run.box(0)
    year = 365 * 86400 * SECOND
    run.feed(image(0), image(1), image(2, stamp=stamp_of(2) + year), image(3))
    assert run.indices == [0, 1, 3]
    run.feed(*(image(i, stamp=stamp_of(i) + year) for i in (4, 5, 6)))
    assert run.indices == [0, 1, 3, 4, 5, 6]
    assert run.tracked() == [True] * 6
    assert run.kinds == [EventKind.STARTED, EventKind.STRAY]


def test_a_held_image_at_the_end_is_reported() -> None:
    run = Run()
    run.feed(image(40), image(0))
    assert run.indices == [40]
    assert [event.kind for event in run.stream.finish()] == [EventKind.STRAY]
    assert run.stream.finish() == []


# Size ---------------------------------------------------------------------------------------------


def test_one_image_of_another_size_is_dropped_two_reset() -> None:
    run = Run()
    run.box(0)
    run.feed(image(0), image(1, size=LARGE), image(2), image(3, size=LARGE), image(4, size=LARGE))
    assert run.indices == [0, 2, 3, 4]
    assert run.tracked() == [True, True, False, False]
    assert run.kinds == [
        EventKind.STARTED, EventKind.STRAY, EventKind.RESET, EventKind.FORGOTTEN,
    ]  # fmt: skip
    assert run.events[2].text == (
        "image size changed from 160x120 to 320x240; targets reset: target"
    )


def test_a_box_without_stamp_waits_for_the_decision() -> None:
    run = Run()
    run.feed(image(0), image(1))
    request = run.box(2)
    run.feed(image(2, size=LARGE))
    assert run.stream.pending == (request,)
    run.feed(image(3))
    assert run.steps[-1].tracks[0].box == request.box


# Time ---------------------------------------------------------------------------------------------


def test_durations_are_stamps_while_stamps_move() -> None:
    run = Run()
    run.box(0)
    run.feed(*(image(i, arrival=7) for i in range(4)))
    assert [step.tracks[0].template_age_ns for step in run.steps] == [
        i * PERIOD_NS for i in range(4)
    ]


@pytest.mark.parametrize(
    ("stamp", "words"), [(0, "image stamps are zero"), (START_NS, "image stamps stand still")]
)
def test_stamps_that_do_not_move_are_no_time(stamp: int, words: str) -> None:
    """LOST is decided by arrival times then; the tracks carry the stamps as they came."""
    run = Run()
    run.box(0)
    run.feed(*(image(i, stamp=stamp) for i in range(5)))
    grey = [image(200 + i, stamp=stamp, arrival=stamp_of(5 + i)) for i in range(40)]
    run.feed(*grey)
    noted = [event for event in run.events if event.kind is EventKind.NO_TIME]
    assert [event.text for event in noted] == [f"{words}; durations are taken from arrival times"]
    assert not run.stream.stamps_usable
    states = [step.tracks[0].state for step in run.steps]
    assert states[4] is State.TRACKING
    # 0.2 below the threshold for lost.duration, 1 s, which are 20 images.
    assert states.index(State.LOST) == pytest.approx(25, abs=1)
    assert {step.tracks[0].stamp_ns for step in run.steps} == {stamp}


def test_stamps_of_whole_seconds_count_once() -> None:
    run = Run()
    run.box(0)
    for index in range(200):
        second = START_NS + index * PERIOD_NS // SECOND * SECOND
        run.feed(image(index % 40, stamp=second, arrival=stamp_of(index)))
    noted = [event.kind for event in run.events].count(EventKind.NO_TIME)
    assert noted == 1
    last = run.steps[-1].image.time_ns
    assert last is not None
    assert last - START_NS == pytest.approx(199 * PERIOD_NS, abs=SECOND)


def test_a_clock_that_starts_late_is_no_duration() -> None:
    """Zero stamps, until somebody sets the clock: the arrivals give the step between them."""
    run = Run()
    run.box(0)
    run.feed(*(image(i, stamp=0) for i in range(10)), *map(image, range(10, 14)))
    assert run.indices == list(range(14))
    assert run.steps[-1].tracks[0].template_age_ns == 13 * PERIOD_NS
    assert EventKind.RESET not in run.kinds


def test_one_repeated_stamp_is_no_reason() -> None:
    run = Run()
    run.box(0)
    run.feed(image(0), image(1), image(2, stamp=stamp_of(1)), image(3))
    assert run.kinds == [EventKind.STARTED]
    assert run.steps[-1].tracks[0].template_age_ns == 3 * PERIOD_NS


# Init boxes ---------------------------------------------------------------------------------------


def test_a_box_waits_for_its_image() -> None:
    run = Run()
    run.feed(image(0))
    run.box(3, stamp_of(3))
    run.feed(*map(image, range(1, 6)))
    assert run.tracked() == [False] * 3 + [True] * 3


def test_a_box_on_the_newest_image_is_tracked_from_the_next() -> None:
    run = Run()
    run.feed(image(0), image(1))
    run.box(1, stamp_of(1))
    run.feed(image(2))
    assert run.tracked() == [False, False, True]
    assert following(run.steps[-1].tracks[0], 2)


@pytest.mark.parametrize(
    ("stamp", "words"),
    [
        (stamp_of(0), "its image is 2.000 s older than the newest, and the buffer holds the last"),
        (stamp_of(500), "its image is 23.000 s ahead of the newest"),
    ],
)
def test_a_box_whose_image_is_not_buffered_is_refused(stamp: int, words: str) -> None:
    run = Run(buffer_age_ns=SECOND)
    run.feed(*map(image, range(40)))
    run.box(0, stamp)
    run.feed(image(40))
    assert run.kinds == [EventKind.REJECTED]
    assert words in run.events[0].text
    with pytest.raises(BoxError, match=r"^its image is"):
        raise_failure(run.events[0])


def test_another_box_replaces_the_one_that_waits_and_the_target() -> None:
    run = Run()
    first, second = run.box(0), run.box(0)
    run.feed(image(0))
    third = run.box(1)
    run.feed(image(1))
    ended = [event.request for event in run.events if event.kind is EventKind.REPLACED]
    assert ended == [first, second]
    assert run.stream.requests == (third,)


def test_more_targets_than_permitted_are_refused() -> None:
    run = Run(max_targets=2)
    for name in "abc":
        run.box(0, name=name)
    run.feed(image(0))
    assert run.stream.targets == ("a", "b")
    assert "too many targets (max_targets 2)" in run.events[0].text
    for index in range(20):
        run.box(9, stamp_of(9), name=str(index))
    assert len(run.stream.pending) == 8
    assert "too many pending init boxes (limit 8)" in run.events[-1].text


def test_stopping_is_by_name_and_by_request() -> None:
    run = Run()
    first = run.box(0, name="a")
    other = run.box(0, name="b")
    run.feed(image(0))
    assert run.stream.stop("a", other) == []
    (event,) = run.stream.stop("a", first)
    assert (event.kind, event.request) == (EventKind.STOPPED, first)
    run.box(9, stamp_of(9), "c")
    assert len(run.stream.stop()) == 2
    assert (run.stream.targets, run.stream.requests) == ((), ())


def test_in_a_loop_the_box_belongs_to_the_new_pass() -> None:
    """The box comes before the image that it was drawn on, when the old pass is still buffered."""
    run = Run()
    passes, length = 5, 25
    for _ in range(passes):
        run.box(0, stamp_of(0))
        run.feed(*map(image, range(length)))
    run.outputs += run.stream.finish()
    assert run.indices == [*range(length)] * passes
    assert run.tracked() == [True] * (passes * length)
    assert run.kinds.count(EventKind.RESET) == passes - 1


def test_a_box_of_the_old_pass_is_forgotten_with_it() -> None:
    run = Run()
    run.box(0, stamp_of(0))
    run.feed(*map(image, range(25)), *map(image, range(3)))
    assert run.tracked()[25:] == [False] * 3


# Catching up --------------------------------------------------------------------------------------


class CountingEngine(RedEngine):
    """Knows how many crops were searched."""

    def __init__(self) -> None:
        self.searched = 0

    def search(self, crops: np.ndarray, memories: Any, stop: object = None) -> Prediction:
        self.searched += len(crops)
        return super().search(crops, memories)


def tracks_of(run: Run, name: str) -> dict[int, Track]:
    return {
        index: track
        for index, step in zip(run.indices, run.steps, strict=True)
        for track in step.tracks
        if track.target_id == name
    }


def test_catching_up_gives_the_tracks_of_a_start_in_time() -> None:
    late, early = Run(), Run()
    late.feed(*map(image, range(8)))
    late.box(2, stamp_of(2))
    late.feed(*map(image, range(8, 14)))
    early.feed(image(0), image(1))
    early.box(2, stamp_of(2))
    early.feed(*map(image, range(2, 14)))
    found, expected = tracks_of(late, "target"), tracks_of(early, "target")
    # Eight images behind, four searched per new image, one comes meanwhile.
    assert list(found) == [9, 10, 11, 12, 13]
    assert all(found[index] == expected[index] for index in found)
    (started,) = [e for e in late.events if e.kind is EventKind.STARTED]
    assert started.text == "tracking target from the image 0.350 s ago"


def test_catching_up_is_spent_in_slices_and_others_go_on() -> None:
    engine = CountingEngine()
    run = Run(engine, catch_up_searches=3)
    run.box(0, name="a")
    run.feed(*map(image, range(35)))
    run.box(5, stamp_of(5), "b")
    costs = []
    for index in range(35, 55):
        before = engine.searched
        run.feed(image(index))
        costs.append(engine.searched - before)
    assert max(costs) <= 3 + 2
    assert list(tracks_of(run, "a")) == list(range(55))
    second = tracks_of(run, "b")
    assert list(second)[-1] == 54
    assert min(second) < 50
    assert following(second[54], 54)


def test_several_late_boxes_keep_their_images_and_take_turns() -> None:
    """Those that wait for their turn lose nothing when the buffer lets go of their images."""
    run = Run(buffer_images=40, catch_up_images=100)
    run.feed(*map(image, range(40)))
    for number in range(4):
        run.box(1 + number, stamp_of(1 + number), f"t{number}")
    index = 40
    while run.stream.catching_up and index < 55:
        run.feed(image(index))
        index += 1
    while run.stream.catching_up:
        run.outputs += run.stream.advance()
    run.feed(image(index))
    assert {track.target_id for track in run.steps[-1].tracks} == {"t0", "t1", "t2", "t3"}
    for track in run.steps[-1].tracks:
        assert following(track, index)


def test_a_late_box_on_a_broken_image_that_was_skipped_starts_on_the_next() -> None:
    run = Run()
    run.feed(image(0))
    run.stream.skip(image(1))
    run.stream.skip(image(2, broken=True))
    run.feed(image(3))
    run.box(2, stamp_of(2))
    run.feed(image(4))
    assert run.kinds == [EventKind.STARTED]
    assert following(run.steps[-1].tracks[0], 4)


def test_catching_up_goes_on_while_no_image_comes() -> None:
    run = Run()
    run.feed(*map(image, range(8)))
    run.box(2, stamp_of(2))
    searches = 0
    while run.stream.catching_up:
        run.outputs += run.stream.advance()
        searches += 1
    assert searches == 5
    assert run.kinds == [EventKind.STARTED]
    run.feed(image(8))
    assert following(run.steps[-1].tracks[0], 8)


def test_skipped_images_are_searched_while_catching_up_broken_ones_are_not() -> None:
    run = Run()
    run.feed(image(0))
    for one in (image(1), image(2, stamp=5, broken=True), image(3), image(4, size=LARGE)):
        run.stream.skip(one)
    run.feed(image(5))
    run.box(1, stamp_of(1))
    run.feed(image(6))
    assert following(run.steps[-1].tracks[0], 6)


# Every box ends -----------------------------------------------------------------------------------

ENDS = {EventKind.STARTED, EventKind.REJECTED, EventKind.REPLACED}


def looped(seed: int) -> dict[InitRequest, float | None]:
    """Boxes on images of a recording that loops and loses images: the seconds that each waited.

    The worker takes the newest image and skips the others, and has time for a few other searches.
    The last images of every pass may be lost; boxes come up to 0.6 s after their image.
    """
    rng = random.Random(seed)
    length, tail = rng.choice((12, 25, 60, 90, 130)), rng.choice((0, 0, 1, 3, 8))
    loss, batch = rng.choice((0.0, 0.05, 0.3)), rng.choice((1, 3, 9, 20))
    run = Run(max_targets=4, catch_up_searches=rng.choice((1, 4)), catch_up_images=8)
    waited: dict[InitRequest, float | None] = {}
    sent: dict[InitRequest, int] = {}
    waiting: list[StreamImage] = []
    for tick in range(650):
        index = tick % length
        if rng.random() >= loss and index < length - tail:
            waiting.append(image(index, arrival=stamp_of(tick)))
        if tick < 250 and rng.random() < 0.06:
            drawn = (tick - rng.randrange(12)) % length
            request = InitRequest(red_box(drawn), str(len(sent) % 8), stamp_of(drawn))
            sent[request], waited[request] = tick, None
            run.outputs += run.stream.add_box(request)
        if waiting and tick % batch == 0:
            *skipped, newest = waiting
            waiting = []
            for one in skipped:
                run.stream.skip(one)
            run.feed(newest)
            for _ in range(3):
                run.outputs += run.stream.advance()
        for event in run.events:
            request = event.request
            if request is not None and request in sent and event.kind in ENDS:
                waited[request] = (tick - sent.pop(request)) * PERIOD_NS / SECOND
        run.outputs.clear()
    return waited


@pytest.mark.parametrize("seed", range(12))
def test_every_box_on_a_loop_starts_or_is_refused_by_name(seed: int) -> None:
    waited = looped(seed)
    assert waited
    assert all(seconds is not None and seconds < 20 for seconds in waited.values()), waited


def test_a_box_whose_image_every_pass_of_a_loop_loses_is_refused() -> None:
    """It stays ahead of the newest image, by less than the buffer's age, in every pass."""
    run = Run()
    request = run.box(24, stamp_of(24))
    for tick in range(200):
        if tick % 25 < 24:
            run.feed(image(tick % 25, arrival=stamp_of(tick)))
    (rejection,) = [event for event in run.events if event.request is request]
    assert rejection.kind is EventKind.REJECTED
    assert re.fullmatch(r"its image has not come in 6\.\d s", rejection.reason)
    assert run.stream.requests == ()


def test_a_box_is_refused_while_no_image_comes_at_all() -> None:
    run = Run()
    run.feed(*map(image, range(3)))
    stamped, unstamped = run.box(5, stamp_of(5), "a"), run.box(0, name="b")
    assert [event for i in range(7) for event in run.stream.expire(stamp_of(2) + i * SECOND)] == []
    (rejection,) = run.stream.expire(stamp_of(2) + 7 * SECOND)
    assert (rejection.kind, rejection.request) == (EventKind.REJECTED, stamped)
    assert run.stream.requests == (unstamped,)


def test_a_box_without_stamp_does_not_start_on_an_image_long_after() -> None:
    run = Run()
    request = run.box(0)
    run.feed(*(image(i, broken=True) for i in range(130)), image(130))
    assert [e.request for e in run.events if e.kind is EventKind.REJECTED] == [request]
    assert run.tracked() == [False]


def test_a_reset_refuses_what_catches_up_by_name() -> None:
    run = Run(catch_up_searches=1)
    run.feed(*map(image, range(30)))
    request = run.box(2, stamp_of(2))
    run.feed(image(30), image(0), image(1))
    (rejection,) = [e for e in run.events if e.request is request]
    assert rejection.kind is EventKind.REJECTED
    assert rejection.reason == (
        "image time stepped back by 1.500 s before the target had caught up from a past image"
    )
    assert run.stream.requests == ()


# The engine ---------------------------------------------------------------------------------------


def test_an_engine_that_fails_costs_the_image_and_targets_stay() -> None:
    class Failing(RedEngine):
        broken = False

        def search(self, crops: np.ndarray, memories: Any, stop: object = None) -> Prediction:
            if self.broken:
                raise EngineError("out of memory")
            return super().search(crops, memories)

    engine = Failing()
    run = Run(engine)
    run.box(0)
    run.feed(image(0), image(1))
    engine.broken = True
    run.feed(image(2))
    assert run.kinds[-1] is EventKind.ENGINE_FAILED
    with pytest.raises(EngineError, match="out of memory"):
        raise_failure(run.events[-1])
    engine.broken = False
    run.feed(image(3))
    assert run.indices == [0, 1, 3]
    assert following(run.steps[-1].tracks[0], 3)


# Offline ------------------------------------------------------------------------------------------


def offline(images: Iterable[StreamImage]) -> list[Output]:
    stream = Stream(RedEngine(), published_settings(), StreamRules(buffer_images=2))
    return list(track_one(stream, images, InitRequest(red_box(0))))


def test_a_target_through_images_from_the_first_to_the_last() -> None:
    outputs = offline(map(image, range(5)))
    steps = [output for output in outputs if isinstance(output, Step)]
    assert [following(step.tracks[0], i) for i, step in enumerate(steps)] == [True] * 5
    empty = InitRequest(red_box(0)._replace(w=0))
    outputs = track_one(Stream(RedEngine(), published_settings()), [image(0)], empty)
    with pytest.raises(BoxError, match=r"^box width and height must be positive"):
        next(outputs)


# Used bits ----------------------------------------------------------------------------------------


def dark(index: int, shift: int, encoding: str = "mono16") -> StreamImage:
    """Frame `index` in grey, of which `16 - shift` bits are used."""
    grey = cv2.cvtColor(picture(index), cv2.COLOR_RGB2GRAY).astype(np.uint16)
    words = (grey.astype(np.uint32) * 65535 // grey.max() >> shift).astype(np.uint16)
    pixels = decode_image(*words.shape, encoding, 0, 2 * words.shape[1], words.tobytes())

    def decode() -> Frame:
        return Frame(pixels, stamp_of(index), "cam")

    return StreamImage(
        stamp_of(index), stamp_of(index), 2 * grey.size, decode=decode, name=f"image {index}"
    )


@pytest.mark.parametrize("encoding", ["mono16", "16UC1", "bayer_rggb16"])
def test_used_bits_are_measured_held_and_reported_once(encoding: str) -> None:
    run = Run()
    run.box(0, stamp=stamp_of(0))
    run.feed(*(dark(i, 4, encoding) for i in range(4)))
    assert [step.frame.pixels.bits for step in run.steps] == [12] * 4
    assert run.steps[0].frame.pixels.rgb().max() > 200
    # A darker image uses the same bits, a brighter one more, from there on.
    run.feed(dark(4, 6, encoding), dark(5, 0, encoding), dark(6, 4, encoding))
    assert [step.frame.pixels.bits for step in run.steps[4:]] == [12, 16, 16]
    assert [e.text for e in run.events if e.kind is EventKind.BITS] == [
        f"{encoding} images use {bits} of 16 bits, as measured; to set it: image_bits"
        for bits in (12, 16)
    ]


def test_used_bits_that_are_given_are_not_measured() -> None:
    run = Run(image_bits=14).feed(dark(0, 4), dark(1, 0))
    assert [step.frame.pixels.bits for step in run.steps] == [14, 14]
    assert EventKind.BITS not in run.kinds


def test_a_target_that_catches_up_sees_the_used_bits() -> None:
    """Its template is cut out of a buffered image, which is decoded again."""
    seen: list[int] = []

    class Watching(RedEngine):
        def encode_templates(self, crops: Any) -> Any:
            seen.append(int(np.asarray(crops).max()))
            return super().encode_templates(crops)

    run = Run(Watching()).feed(*(dark(i, 4) for i in range(3)))
    run.box(0, stamp=stamp_of(0))
    assert seen
    assert min(seen) > 200
