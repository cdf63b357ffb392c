"""Limits log lines that every image or init box could cause."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from mixformerv2_ros.ros.messages import Level

MAX_TEXTS = 20
"""Number of different texts of a kind that `once` logs; further ones are not logged."""

THROTTLE_S = 5.0
"""Minimum time between two lines of one kind."""

BURST = 20
"""Number of lines of one kind that `burst` logs in `THROTTLE_S`."""


class LogThrottle:
    """Logs a line once, or at most every `THROTTLE_S`; from any thread."""

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
        self._lock = threading.Lock()
        self._logged: dict[str, set[str]] = {}
        self._last: dict[str, float] = {}
        self._bursts: dict[str, deque[float]] = {}

    def once(self, level: Level, text: str, kind: str = "") -> None:
        """Log a line unless it has been logged before; of one kind `MAX_TEXTS` lines at most."""
        with self._lock:
            logged = self._logged.setdefault(kind, set())
            if text in logged or len(logged) >= MAX_TEXTS:
                return
            logged.add(text)
            is_last = len(logged) >= MAX_TEXTS
        if is_last:
            text = f"{text} (further lines like this are counted in /diagnostics only)"
        self._log(level, text)

    def throttle(self, level: Level, kind: str, text: str) -> None:
        """Log a line unless one of its kind was logged in the last `THROTTLE_S`."""
        now = self._clock()
        with self._lock:
            if now - self._last.get(kind, -THROTTLE_S) < THROTTLE_S:
                return
            self._last[kind] = now
        self._log(level, text)

    def burst(self, level: Level, kind: str, text: str) -> None:
        """Log a line unless `BURST` of its kind were logged in the last `THROTTLE_S`.

        The last one of those says that more are not logged.
        """
        now = self._clock()
        with self._lock:
            times = self._bursts.setdefault(kind, deque(maxlen=BURST))
            while times and now - times[0] >= THROTTLE_S:
                times.popleft()
            if len(times) >= BURST:
                return
            times.append(now)
            is_last = len(times) == BURST
        if is_last:
            text = f"{text} (further {kind} are not logged for now)"
        self._log(level, text)

    def reset(self) -> None:
        """Forget what was logged."""
        with self._lock:
            self._logged.clear()
            self._last.clear()
            self._bursts.clear()
