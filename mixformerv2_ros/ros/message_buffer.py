"""The images of the last seconds, so that a target can start on one of them."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

from mixformerv2_ros.ros.messages import INIT_TOLERANCE_NS


@dataclass(frozen=True, eq=False)
class Arrival:
    """An image message that came in.

    Attributes:
        number: Count of the arrivals, from 1.
        epoch: Count of the times that image time stepped back before it.
        message: The message, not decoded.
        stamp_ns: Stamp of its header in nanoseconds.
        arrived_ns: When it came, by the node's clock.
    """

    number: int
    epoch: int
    message: Any
    stamp_ns: int
    arrived_ns: int

    @property
    def size(self) -> int:
        """Bytes of the image."""
        return len(self.message.data)


class RecentImages:
    """A ring buffer of arrivals with rising stamps, bounded three ways. Not thread-safe.

    The newest arrival is kept however large it is.
    """

    def __init__(self, max_count: int, max_ns: int, max_bytes: int) -> None:
        self._max_count = max_count
        self._max_ns = max_ns
        self._max_bytes = max_bytes
        self._arrivals: deque[Arrival] = deque()
        self.bytes = 0

    def __len__(self) -> int:
        """Number of images kept."""
        return len(self._arrivals)

    @property
    def oldest(self) -> Arrival | None:
        """The arrival that came first of those kept."""
        return self._arrivals[0] if self._arrivals else None

    @property
    def newest(self) -> Arrival | None:
        """The arrival that came last."""
        return self._arrivals[-1] if self._arrivals else None

    def add(self, arrival: Arrival) -> None:
        """Keep an arrival and let go of what is beyond the bounds."""
        self._arrivals.append(arrival)
        self.bytes += arrival.size
        while len(self._arrivals) > 1 and (
            len(self._arrivals) > self._max_count
            or self.bytes > self._max_bytes
            or arrival.stamp_ns - self._arrivals[0].stamp_ns > self._max_ns
        ):
            self._drop_oldest()

    def find(self, stamp_ns: int) -> Arrival | None:
        """The image of that stamp, or, if it did not arrive, the one after it.

        The one after it serves up to `INIT_TOLERANCE_NS` later, and only between kept images: what
        came before the oldest may have been of another size or another loop.
        """
        if self.oldest is None or stamp_ns < self.oldest.stamp_ns:
            return None
        for arrival in self._arrivals:
            if arrival.stamp_ns >= stamp_ns:
                return arrival if arrival.stamp_ns - stamp_ns <= INIT_TOLERANCE_NS else None
        return None

    def nearest(self, stamp_ns: int) -> Arrival | None:
        """The image whose stamp is nearest, however far that is; of two the newer one."""
        newest_first = reversed(self._arrivals)
        return min(newest_first, key=lambda a: abs(a.stamp_ns - stamp_ns), default=None)

    @property
    def spacing_ns(self) -> int:
        """Time between the last two images; 0 where there is one at most."""
        if len(self._arrivals) < 2:
            return 0
        return self._arrivals[-1].stamp_ns - self._arrivals[-2].stamp_ns

    def between(self, after: int, before: int) -> list[Arrival]:
        """Arrivals with numbers above `after` and below `before`, in order."""
        return [arrival for arrival in self._arrivals if after < arrival.number < before]

    def discard(self, arrival: Arrival) -> None:
        """Let go of one arrival; it may have gone already."""
        if arrival in self._arrivals:
            self._arrivals.remove(arrival)
            self.bytes -= arrival.size

    def drop_before(self, number: int) -> None:
        """Let go of the arrivals with lower numbers."""
        while self._arrivals and self._arrivals[0].number < number:
            self._drop_oldest()

    def clear(self) -> None:
        """Let go of all."""
        self._arrivals.clear()
        self.bytes = 0

    def _drop_oldest(self) -> None:
        self.bytes -= self._arrivals.popleft().size


def spread(arrivals: list[Arrival], count: int) -> list[Arrival]:
    """At most `count` arrivals, evenly spaced, the last one always among them."""
    total = len(arrivals)
    if total <= count:
        return arrivals
    return [arrivals[(i + 1) * total // count - 1] for i in range(count)]
