"""Images that are missing between those that arrived, by the gaps in their stamps.

Not every middleware reports what it has lost: Cyclone DDS drops an image of which a fragment is
missing without a word.
"""

from __future__ import annotations

from collections import deque

from mixformerv2_ros.tracking.frame import NS

INTERVALS = 60
"""Number of the last intervals that the camera's period is estimated from."""

MIN_INTERVALS = 10
"""Number of intervals before which nothing is counted."""

PAUSE_NS = 2 * NS
"""A longer gap is a pause of the camera."""


class StampGaps:
    """Estimates the number of missing images. Not thread-safe.

    The camera's period is the shortest but a fifth of the last intervals, so that it is found even
    where every second image is missing.
    """

    def __init__(self) -> None:
        self._last: int | None = None
        self._intervals: deque[int] = deque(maxlen=INTERVALS)

    def add(self, stamp_ns: int) -> int:
        """Take the stamp of an image that arrived; returns how many are missing before it."""
        last, self._last = self._last, stamp_ns
        if last is None:
            return 0
        interval = stamp_ns - last
        if not 0 < interval <= PAUSE_NS:
            return 0
        self._intervals.append(interval)
        if len(self._intervals) < MIN_INTERVALS:
            return 0
        period = sorted(self._intervals)[len(self._intervals) // 5]
        return max(0, round(interval / period) - 1)
