"""Limits log lines that every image could cause."""

from __future__ import annotations

import time
from collections.abc import Callable

from mixformerv2_ros.ros.messages import Level

MAX_TEXTS = 100
"""Number of different texts that `once` remembers; further texts are not logged."""

THROTTLE_S = 5.0
"""Minimum time between two lines of one kind."""


class LogThrottle:
    """Logs a line once, or at most every `THROTTLE_S`. Not thread-safe."""

    def __init__(
        self, log: Callable[[Level, str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Log nothing yet.

        Args:
            log: Writes one line.
            clock: Time in seconds.
        """
        self._log = log
        self._clock = clock
        self._logged: set[str] = set()
        self._last: dict[str, float] = {}

    def once(self, level: Level, text: str) -> None:
        """Log a line unless it has been logged before."""
        if text in self._logged or len(self._logged) > MAX_TEXTS:
            return
        self._logged.add(text)
        if len(self._logged) > MAX_TEXTS:
            text = f"{text} (further warnings are counted in /diagnostics only)"
        self._log(level, text)

    def throttle(self, level: Level, kind: str, text: str) -> None:
        """Log a line unless one of its kind was logged in the last `THROTTLE_S`."""
        now = self._clock()
        if now - self._last.get(kind, -THROTTLE_S) >= THROTTLE_S:
            self._last[kind] = now
            self._log(level, text)

    def reset(self) -> None:
        """Forget what was logged."""
        self._logged.clear()
        self._last.clear()
