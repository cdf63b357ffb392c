"""What the tracker says about a box that was sent to it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from mixformerv2_ros.ros.messages import DEFAULT_TARGET, read_track
from mixformerv2_ros.text import printable
from mixformerv2_ros.tracking.session import Track

PATIENCE_S = 2.0
"""A tracker that follows a target publishes a track of it more often."""


class Answers:
    """The tracks of the target that was asked for last; messages may come in another thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin without a question.

        Args:
            clock: Time in seconds.
        """
        self._clock = clock
        self._target = ""
        self._since = 0.0
        self._track: Track | None = None

    def ask(self, target_id: str) -> None:
        """Wait for tracks of a target; an empty name is the default one."""
        self._track, self._since = None, self._clock()
        self._target = target_id or DEFAULT_TARGET

    def hear(self, message: Any) -> None:
        """Take a `mixformerv2_ros/Track`."""
        if self._target and message.target_id == self._target:
            self._track, self._since = read_track(message), self._clock()

    def line(self) -> str:
        """How the target fares; empty before a box was sent and while its tracks are awaited."""
        track = self._track
        if not self._target:
            return ""
        name = printable(self._target)
        if self._clock() - self._since > PATIENCE_S:
            return f"no track of {name} comes: the tracker's log says why"
        return "" if track is None else f"{name}: {track.state.name} {track.confidence:.2f}"
