"""Stream time: what durations are differences of."""

from __future__ import annotations

STILL_IMAGES = 2
"""Images in a row with the stamp of the one before after which stamps count as standing still."""


class StreamClock:
    """Stream time: nanoseconds that never step back.

    It runs with the stamps while they move, and with the arrivals while they do not: from the last
    stamp that moved, so that stamps of whole seconds, say, count once.

    Attributes:
        usable: Whether the stamps move.
    """

    def __init__(self) -> None:
        self.usable = True
        self._still = 0
        self._time: int | None = None
        # Stamp and arrival of the last image whose stamp moved, and its time.
        self._stamp = 0
        self._arrival = 0
        self._moved_at = 0
        self._last_arrival = 0

    def advance(self, stamp_ns: int, arrival_ns: int, jumped: bool = False) -> int:
        """Time of the next accepted image.

        Args:
            stamp_ns: Its stamp.
            arrival_ns: When it arrived.
            jumped: The clock of the stamps was set: the arrivals give this step.
        """
        if self._time is None:
            self._time = stamp_ns
            self._anchor(stamp_ns, arrival_ns)
        elif jumped:
            self._time += max(0, arrival_ns - self._last_arrival)
            self._anchor(stamp_ns, arrival_ns)
        elif stamp_ns > self._stamp:
            self._time = max(self._time, self._moved_at + stamp_ns - self._stamp)
            self._anchor(stamp_ns, arrival_ns)
        else:
            self._still += 1
            # One zero may be the start of a video, one repetition a message that was sent twice.
            self.usable = self._still < (STILL_IMAGES if stamp_ns else 1)
            if not self.usable:
                self._time = max(self._time, self._moved_at + arrival_ns - self._arrival)
        self._last_arrival = arrival_ns
        return self._time

    def peek(self, stamp_ns: int, arrival_ns: int) -> int:
        """Time of an image before or after the last accepted one."""
        step = stamp_ns - self._stamp if self.usable else arrival_ns - self._arrival
        return self._moved_at + step

    def _anchor(self, stamp_ns: int, arrival_ns: int) -> None:
        self.usable, self._still = True, 0
        self._stamp, self._arrival, self._moved_at = stamp_ns, arrival_ns, self._time or 0
