"""Following one target from outside: who is told of its tracks, and why it ended."""

from __future__ import annotations

import threading
from collections.abc import Callable
from enum import IntEnum
from typing import Any, Protocol

from mixformerv2_ros.ros.messages import NS
from mixformerv2_ros.tracking.session import State, Track


class End(IntEnum):
    """Why a target is followed no longer; values as in `action/TrackTarget.action`."""

    DURATION = 0
    CANCELED = 1
    LOST = 2
    STOPPED = 3
    REPLACED = 4
    REFUSED = 5
    FORGOTTEN = 6
    CLOSED = 7


class Watcher(Protocol):
    """Somebody who asked for a target. The methods must return at once, from whatever thread."""

    def seen(self, track: Track, message: Any) -> None:
        """The target's track in the newest image, and the message of it."""

    def silent(self, seconds: float) -> None:
        """No image has come for so long."""

    def ended(self, end: End, reason: str) -> None:
        """The target is followed no longer; nothing comes after this."""


class Pursuit:
    """A watcher that gives up on a target: the logic of the action, without its middleware.

    Times are those of the images, so that a slow recording is followed as long as a fast one.

    Attributes:
        last: Message of the last track; None before the first.
    """

    def __init__(
        self,
        lost_ns: int,
        duration_ns: int,
        on_track: Callable[[Any], None],
        on_end: Callable[[End, str], None],
    ) -> None:
        """Wait for the first track.

        Args:
            lost_ns: How long the target may stay LOST, or images may stay away.
            duration_ns: How long to follow; 0 is without end.
            on_track: Gets the message of every track.
            on_end: Gets the end, once, and why; nothing is called after it.
        """
        self.last: Any = None
        self._lost_ns = lost_ns
        self._duration_ns = duration_ns
        self._on_track = on_track
        self._on_end = on_end
        self._began: int | None = None
        self._lost_since: int | None = None
        self._lock = threading.Lock()
        self._over = False

    def seen(self, track: Track, message: Any) -> None:
        """Take a track; it may be the one that ends the pursuit."""
        if self._over:
            return
        self.last = message
        self._on_track(message)
        now = track.stamp_ns
        if self._began is None:
            self._began = now
        if track.state is not State.LOST:
            self._lost_since = None
        elif self._lost_since is None:
            self._lost_since = now
        if self._lost_since is not None and now - self._lost_since >= self._lost_ns:
            self.ended(End.LOST, f"lost for {(now - self._lost_since) / NS:.1f} s")
        elif self._duration_ns and now - self._began >= self._duration_ns:
            self.ended(End.DURATION, f"followed for {(now - self._began) / NS:.1f} s")

    def silent(self, seconds: float) -> None:
        """Give up when images stay away for longer than the target may be lost."""
        if seconds * NS > self._lost_ns:
            self.ended(End.LOST, f"no image for {seconds:.1f} s")

    def ended(self, end: End, reason: str) -> None:
        """End the pursuit, unless it has ended before."""
        with self._lock:
            if self._over:
                return
            self._over = True
        self._on_end(end, reason)
