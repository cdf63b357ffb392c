"""Log lines that a camera could cause thirty times a second, written once."""

from __future__ import annotations

import time
from collections.abc import Callable

from mixformerv2_ros.ros.messages import Level

MAX_TEXTS = 100
"""Different texts that are remembered; what comes after them is not written any more."""

PAUSE_S = 5.0
"""Shortest time between two lines of one kind."""


class Notices:
    """Writes to a log, but not the same again. Not thread-safe."""

    def __init__(
        self, log: Callable[[Level, str], None], wall: Callable[[], float] = time.monotonic
    ) -> None:
        self._log = log
        self._wall = wall
        self._said: set[str] = set()
        self._last: dict[str, float] = {}

    def once(self, level: Level, text: str) -> None:
        """Write a line unless it was written before."""
        if text in self._said or len(self._said) > MAX_TEXTS:
            return
        self._said.add(text)
        if len(self._said) > MAX_TEXTS:
            text = f"{text} (further lines like this are counted in the diagnostics only)"
        self._log(level, text)

    def paced(self, level: Level, kind: str, text: str) -> None:
        """Write a line unless one of its kind was written in the last `PAUSE_S`."""
        now = self._wall()
        if now - self._last.get(kind, -PAUSE_S) >= PAUSE_S:
            self._last[kind] = now
            self._log(level, text)

    def forget(self) -> None:
        """Let every line be written anew."""
        self._said.clear()
        self._last.clear()
