"""Following one target from outside: the logic of the action, without its middleware."""

from __future__ import annotations

from typing import Any

import pytest
from nodes import Node, frame_stamp, image, init_box
from recordings import RedEngine, red_box

from mixformerv2_ros.errors import EngineError
from mixformerv2_ros.ros.live.goal_observer import End, TrackGoal
from mixformerv2_ros.tracking.boxes import Box
from mixformerv2_ros.tracking.frame import NS
from mixformerv2_ros.tracking.session import State, Track
from mixformerv2_ros.tracking.stream import PENDING_PER_TARGET


class Recorded:
    """Keeps what a goal reports."""

    def __init__(self, lost: float = 1.0, duration: float = 0.0, connected: bool = True) -> None:
        self.tracks: list[Any] = []
        self.ends: list[End] = []
        self.reasons: list[str] = []
        self.goal = TrackGoal(round(lost * NS), round(duration * NS))
        if connected:
            self.connect()

    def connect(self) -> None:
        self.goal.connect(self.tracks.append, self._end)

    def _end(self, end: End, reason: str) -> None:
        self.ends.append(end)
        self.reasons.append(reason)


def track(seconds: float, state: State = State.TRACKING) -> Track:
    return Track(
        "t", round(seconds * NS), "cam", Box(0, 0, 9, 9), 0.5, (1, 1, 1, 1), state, 0, False, 4
    )


def see(recorded: Recorded, *states: tuple[float, State]) -> None:
    for seconds, state in states:
        recorded.goal.on_track(track(seconds, state), seconds, round(seconds * NS))


def test_a_goal_goes_on_while_the_target_comes_back_in_time() -> None:
    recorded = Recorded(lost=1.0)
    see(recorded, (0, State.LOST), (0.9, State.LOST), (1.0, State.TRACKING), (2.5, State.LOST))
    assert recorded.ends == []
    assert recorded.tracks == [0, 0.9, 1.0, 2.5]


def test_a_target_lost_for_too_long_ends_it_once() -> None:
    recorded = Recorded(lost=1.0)
    see(recorded, (5, State.TRACKING), (6, State.LOST), (7, State.LOST), (9, State.LOST))
    recorded.goal.on_end(End.STOPPED, "too late")
    assert recorded.ends == [End.LOST]
    assert recorded.reasons == ["lost for 1.0 s"]
    assert recorded.tracks == [5, 6, 7]
    assert recorded.goal.last == 7


def test_without_patience_the_first_lost_track_ends_it() -> None:
    recorded = Recorded(lost=0)
    see(recorded, (0, State.UNCERTAIN), (1, State.LOST))
    assert recorded.ends == [End.LOST]


def test_time_runs_from_the_first_image() -> None:
    recorded = Recorded(duration=2.0)
    see(recorded, (100, State.TRACKING), (101.9, State.TRACKING), (102, State.TRACKING))
    assert recorded.ends == [End.DURATION]
    assert recorded.reasons == ["tracked for 2.0 s"]


@pytest.mark.parametrize(("seconds", "ends"), [(0.9, []), (1.1, [End.LOST])])
def test_a_silent_camera_counts_as_lost(seconds: float, ends: list[End]) -> None:
    recorded = Recorded(lost=1.0)
    recorded.goal.on_stalled(seconds)
    assert recorded.ends == ends


def test_what_happens_before_anybody_listens_is_kept() -> None:
    """A target may be tracked, and even lost, before its client knows that it was accepted."""
    running, ended = Recorded(connected=False), Recorded(lost=1.0, connected=False)
    see(running, (0, State.TRACKING), (1, State.TRACKING))
    see(ended, (0, State.LOST), (2, State.LOST), (3, State.LOST))
    ended.goal.on_end(End.STOPPED, "too late")
    for recorded in (running, ended):
        assert (recorded.tracks, recorded.ends) == ([], [])
        recorded.connect()
    see(running, (2, State.TRACKING))
    assert (running.tracks, running.ends) == ([1, 2], [])
    assert (ended.tracks, ended.ends, ended.reasons) == ([2], [End.LOST], ["lost for 2.0 s"])


def test_the_node_tells_its_observer_every_track() -> None:
    with Node() as node:
        recorded = Recorded()
        box = init_box(red_box(0), frame_stamp(0), "it")
        assert node.tracker.start_goal(box, recorded.goal) == "it"
        node.feed(image(0), image(1))
        assert recorded.tracks == node.desk.tracks
        node.tracker.stop("it")
        node.settle()
        assert recorded.ends == [End.STOPPED]


def test_another_box_takes_the_target_over_when_it_starts() -> None:
    with Node() as node:
        first, second, third = Recorded(), Recorded(), Recorded()
        node.tracker.start_goal(init_box(red_box(0)), first.goal)
        node.feed(image(0))
        node.tracker.start_goal(init_box((0, 0, 0, 0)), second.goal)
        node.feed(image(1))
        assert (first.ends, second.ends) == ([], [End.REJECTED])
        node.tracker.start_goal(init_box(red_box(2)), third.goal)
        node.feed(image(2))
        assert (first.ends, third.ends) == ([End.REPLACED], [])


def test_a_box_that_never_started_is_replaced_too() -> None:
    with Node() as node:
        first, second, third = Recorded(), Recorded(), Recorded()
        node.feed(image(0))
        ahead = init_box(red_box(9), frame_stamp(9))
        node.tracker.start_goal(ahead, first.goal)
        node.feed(image(1))
        node.tracker.start_goal(ahead, second.goal)
        node.feed(image(2))
        assert (first.ends, second.ends) == ([End.REPLACED], [])
        node.tracker.start_goal(ahead, third.goal)
        node.tracker.stop()
        node.settle()
        assert (second.ends[0], third.ends[0]) == (End.STOPPED, End.STOPPED) or (
            second.ends[0], third.ends[0],
        ) == (End.REPLACED, End.STOPPED)  # fmt: skip


def test_an_observer_lets_go_of_what_is_its_own_only() -> None:
    with Node() as node:
        first, second, third = Recorded(), Recorded(), Recorded()
        node.tracker.start_goal(init_box(red_box(0)), first.goal)
        node.feed(image(0))
        ahead = init_box(red_box(9), frame_stamp(9))
        node.tracker.start_goal(ahead, second.goal)
        node.settle()
        node.tracker.release("target", third.goal)
        node.feed(image(1))
        assert node.desk.tracks[-1].state == State.TRACKING
        node.tracker.release("target", first.goal)
        node.feed(image(2))
        assert node.desk.tracks[-1].state == State.IDLE
        node.feed(image(9))
        assert node.desk.tracks[-1].state == State.TRACKING
        assert (first.ends, second.ends) == ([], [])
        node.tracker.start_goal(init_box(red_box(15), frame_stamp(15)), third.goal)
        node.tracker.release("target", third.goal)
        node.feed(image(15))
        assert len(second.tracks) == 2


def test_boxes_that_wait_do_not_pile_up() -> None:
    with Node(max_targets=1) as node:
        last = Recorded()
        for number in range(PENDING_PER_TARGET):
            node.tracker.receive_init(init_box(red_box(0), target_id=str(number)))
        node.tracker.start_goal(init_box(red_box(0), target_id="more"), last.goal)
        assert last.ends == [End.REJECTED]
        assert last.reasons == [f"too many pending init boxes (limit {PENDING_PER_TARGET})"]
        node.settle()


def test_catching_up_stops_when_nobody_waits() -> None:
    class Slow(RedEngine):
        def __init__(self) -> None:
            self.searches = 0

        def search(self, crops: Any, memories: Any, stop: object = None) -> Any:
            self.searches += 1
            if self.searches == 3:
                node.tracker.stop()
            return super().search(crops, memories)

    engine = Slow()
    with Node(engine) as node:
        node.feed(*(image(i) for i in range(20)))
        recorded = Recorded()
        node.tracker.start_goal(init_box(red_box(0), frame_stamp(0)), recorded.goal)
        node.settle()
        assert recorded.ends == [End.STOPPED]
        assert engine.searches == 3


def test_a_past_box_is_watched_from_the_newest_image_on() -> None:
    with Node() as node:
        node.feed(image(0), image(1), image(2))
        recorded = Recorded()
        node.tracker.start_goal(init_box(red_box(0), frame_stamp(0)), recorded.goal)
        node.settle()
        node.feed(image(3))
        assert [t.header.stamp for t in recorded.tracks] == [node.desk.tracks[-1].header.stamp]


def test_images_of_another_time_end_it() -> None:
    with Node() as node:
        recorded = Recorded()
        node.tracker.start_goal(init_box(red_box(5)), recorded.goal)
        node.feed(image(5), *map(image, range(20, 22)), image(0))
        assert recorded.ends == []
        node.feed(image(1))
        assert recorded.ends == [End.RESET]
        assert recorded.reasons == ["image time stepped back by 1.050 s"]


def test_an_engine_that_fails_at_the_start_refuses() -> None:
    class Broken(RedEngine):
        def encode_templates(self, templates: Any) -> Any:
            raise EngineError("out of smoke")

    with Node(Broken()) as node:
        now, past = Recorded(), Recorded()
        node.tracker.start_goal(init_box(red_box(0)), now.goal)
        node.feed(image(0), image(1))
        node.tracker.start_goal(init_box(red_box(0), frame_stamp(0)), past.goal)
        node.settle()
        assert (now.ends, past.ends) == ([End.REJECTED], [End.REJECTED])
        assert now.reasons == ["out of smoke"]


def test_the_end_of_the_node_ends_it() -> None:
    running, waiting = Recorded(), Recorded()
    with Node() as node:
        node.tracker.start_goal(init_box(red_box(0)), running.goal)
        node.feed(image(0))
        node.tracker.start_goal(init_box(red_box(9), frame_stamp(9), "b"), waiting.goal)
        node.settle()
    assert (running.ends, waiting.ends) == ([End.CLOSED], [End.CLOSED])


def test_a_camera_that_never_came_or_stopped_is_told() -> None:
    with Node(image_timeout=2.0) as node:
        never, stopped = Recorded(lost=3.0), Recorded(lost=3.0)
        node.desk.time_ns = 0  # simulated time that nobody has published yet
        node.tracker.start_goal(init_box(red_box(0)), never.goal)
        node.tracker.publish_diagnostics()
        node.desk.time_ns = 10**18
        node.tracker.publish_diagnostics()
        assert never.ends == []
        node.desk.time_ns += 4 * NS
        node.tracker.publish_diagnostics()
        assert never.ends == [End.LOST]
        node.tracker.start_goal(init_box(red_box(0)), stopped.goal)
        node.feed(image(0))
        node.desk.time_ns += 2 * NS
        node.tracker.publish_diagnostics()
        assert stopped.ends == []
        node.desk.time_ns += 2 * NS
        node.tracker.publish_diagnostics()
        assert stopped.ends == [End.LOST]
        assert stopped.reasons == ["no image for 4.0 s"]
