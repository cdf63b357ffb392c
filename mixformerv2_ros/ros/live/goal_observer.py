"""Goals of the action `track_target`, without its middleware: feedback, and when they end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from enum import IntEnum
from typing import Any, Protocol

from mixformerv2_ros.tracking.frame import NS
from mixformerv2_ros.tracking.session import State, Track


class End(IntEnum):
    """Why a goal ended; values as in `action/TrackTarget.action`."""

    DURATION = 0
    CANCELED = 1
    LOST = 2
    STOPPED = 3
    REPLACED = 4
    REJECTED = 5
    RESET = 6
    CLOSED = 7


class GoalObserver(Protocol):
    """Callbacks for whoever requested a target. They are called from any thread and must not block.

    The target belongs to the observer of its last init box.
    """

    def on_track(self, track: Track, message: Any, time_ns: int) -> None:
        """The target's track in the newest image, its message, and the stream time of the image."""

    def on_stalled(self, seconds: float) -> None:
        """The camera is stalled: no image for that many seconds."""

    def on_end(self, end: End, reason: str) -> None:
        """The target is no longer tracked; no callback follows."""


class TrackGoal:
    """A `GoalObserver` that ends when the target is lost for too long, or after a duration.

    Times are those of the images, so that a recording played slowly gives the same result.

    The target may be tracked before its client knows that the goal is accepted: what happens until
    `connect` is kept.

    Attributes:
        last: Message of the last track; None before the first.
    """

    def __init__(self, lost_timeout_ns: int, duration_ns: int) -> None:
        """Wait for the first track.

        Args:
            lost_timeout_ns: Maximum time that the target may be LOST or the camera stalled.
            duration_ns: Time to track the target for; 0 is unlimited.
        """
        self.last: Any = None
        self._lost_timeout_ns = lost_timeout_ns
        self._duration_ns = duration_ns
        self._feedback: Callable[[Any], None] | None = None
        self._done: Callable[[End, str], None] | None = None
        self._end: tuple[End, str] | None = None
        self._started_ns: int | None = None
        self._lost_since_ns: int | None = None
        self._lock = threading.Lock()

    def connect(self, feedback: Callable[[Any], None], done: Callable[[End, str], None]) -> None:
        """Pass on what happens from now on, and what is the latest of before.

        Args:
            feedback: Called with the message of every track.
            done: Called once with the end and its reason; no callback follows.
        """
        with self._lock:
            if self.last is not None:
                feedback(self.last)
            self._feedback, self._done, end = feedback, done, self._end
        if end is not None:
            done(*end)

    def on_track(self, track: Track, message: Any, time_ns: int) -> None:
        """Pass a track on as feedback; end the goal if it is time."""
        with self._lock:
            if self._end is not None:
                return
            self.last, feedback = message, self._feedback
        if feedback is not None:
            feedback(message)
        now = time_ns
        if self._started_ns is None:
            self._started_ns = now
        if track.state is not State.LOST:
            self._lost_since_ns = None
        elif self._lost_since_ns is None:
            self._lost_since_ns = now
        if self._lost_since_ns is not None and now - self._lost_since_ns >= self._lost_timeout_ns:
            self.on_end(End.LOST, f"lost for {(now - self._lost_since_ns) / NS:.1f} s")
        elif self._duration_ns and now - self._started_ns >= self._duration_ns:
            self.on_end(End.DURATION, f"tracked for {(now - self._started_ns) / NS:.1f} s")

    def on_stalled(self, seconds: float) -> None:
        """End the goal when no image has come for longer than the lost timeout."""
        if seconds * NS > self._lost_timeout_ns:
            self.on_end(End.LOST, f"no image for {seconds:.1f} s")

    def on_end(self, end: End, reason: str) -> None:
        """End the goal unless it has ended already."""
        with self._lock:
            if self._end is not None:
                return
            self._end, done = (end, reason), self._done
        if done is not None:
            done(end, reason)
