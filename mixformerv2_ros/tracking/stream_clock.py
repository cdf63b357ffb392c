"""Stream time: what durations are differences of."""

from __future__ import annotations

STILL_IMAGES = 2
"""Images in a row with the stamp of the one before after which stamps count as standing still."""


class StreamClock:
    """Stream time: nanoseconds that never step back.

    It runs with the stamps while they move, and with the arrivals while they do not.

    Attributes:
        usable: Whether the stamps move.
    """

    def __init__(self) -> None:
        self.usable = True
        self._stamp = 0
        self._arrival = 0
        self._time: int | None = None
        self._still = 0

    def advance(self, stamp_ns: int, arrival_ns: int) -> int:
        """Time of the next accepted image."""
        if self._time is None:
            self._time = stamp_ns
        else:
            self._still = self._still + 1 if stamp_ns == self._stamp else 0
            # One zero may be the start of a video, one repetition a message that was sent twice.
            self.usable = self._still < (STILL_IMAGES if stamp_ns else 1)
            self._time += max(0, self._step(stamp_ns, arrival_ns))
        self._stamp, self._arrival = stamp_ns, arrival_ns
        return self._time

    def peek(self, stamp_ns: int, arrival_ns: int) -> int:
        """Time of an image before or after the last accepted one."""
        return (self._time or 0) + self._step(stamp_ns, arrival_ns)

    def _step(self, stamp_ns: int, arrival_ns: int) -> int:
        return stamp_ns - self._stamp if self.usable else arrival_ns - self._arrival
