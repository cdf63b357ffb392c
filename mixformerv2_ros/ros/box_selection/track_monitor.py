"""Monitors the track of the target that a box was published for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from mixformerv2_ros.ros.messages import read_track
from mixformerv2_ros.text import printable
from mixformerv2_ros.tracking.events import DEFAULT_TARGET
from mixformerv2_ros.tracking.session import Track

TIMEOUT_S = 2.0
"""Time without a track after which it is reported missing."""


class TrackMonitor:
    """State of one target; messages may come in another thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Monitor no target yet.

        Args:
            clock: Time in seconds.
        """
        self._clock = clock
        self._target = ""
        self._since = 0.0
        self._track: Track | None = None
        self._malformed = ""

    def start(self, target_id: str) -> None:
        """Monitor a target from now on; an empty name is the default one."""
        self._track, self._since, self._malformed = None, self._clock(), ""
        self._target = target_id or DEFAULT_TARGET

    def receive_track(self, message: Any) -> None:
        """Take a `mixformerv2_ros/Track`."""
        if self._target and message.target_id == self._target:
            try:
                self._track, self._since = read_track(message), self._clock()
            except ValueError as error:
                self._malformed = printable(error)
            else:
                self._malformed = ""

    def status(self) -> str:
        """The target's state, or what is wrong with its last track.

        Empty before `start` and while the first track is awaited.
        """
        track = self._track
        if not self._target:
            return ""
        name = printable(self._target)
        if self._malformed:
            return f"malformed track of {name}: {self._malformed}"
        if self._clock() - self._since > TIMEOUT_S:
            return f"no track received for {name}; see the tracker's log"
        return "" if track is None else f"{name}: {track.state.name} {track.confidence:.2f}"
