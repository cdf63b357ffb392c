"""How deep the network looks at each target of each frame.

A model with exits may answer after some of its blocks. DyTrack (Zhu et al., TNNLS 2025) takes the
first exit whose estimate of the IoU of its own box passes a threshold; ours are what follows: a
target that was doubtful in the last frame, or whose templates have just changed, is looked at in
full depth, a deadline takes the exit after which the next one would come too late, and exits that
have not answered for a while are asked less often (`Patience`).
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mixformerv2_ros.model.engine import Prediction, Stop
from mixformerv2_ros.model.spec import ModelSpec
from mixformerv2_ros.tracking.settings import TrackerSettings

ON_TIME = 0.95
"""Probability with which the next segment must be done before a deadline to be begun."""

MEASURED = 64
"""Number of times per segment that its duration is estimated from."""

SETTLED = 8
"""Number of times that a segment must have been measured before a deadline can pass it over."""

PASSED = 40
"""Number of frames in which a deadline passes a segment over before it is tried again.

Without a trial, times of a busy moment would keep the segment out for good. At most one frame in
`PASSED` + 1 is late for it, which is within `ON_TIME`.
"""

WINDOW = 150
"""Number of frames that `DepthFigures` are about."""


LONGEST_REST = 15
"""Largest number of frames in a row in which a target's exits are not asked for lack of answers."""


class Patience:
    """How long the exits have not answered for one target.

    To ask them and go on costs more than not to ask. From the second time in a row on that none has
    answered, they rest: for 1 frame, 3, 7, then `LONGEST_REST`. A target whose frames are all too
    difficult for them so pays for one frame in 16; one that exits answer now and then for none
    more. Depends on answers alone, so that a replay rests in the same frames.
    """

    def __init__(self) -> None:
        """Have asked nothing yet."""
        self._refusals = 0
        self._rest = 0

    def rests(self) -> bool:
        """Whether the exits need not be asked in this frame; counts it."""
        if self._rest == 0:
            return False
        self._rest -= 1
        return True

    def asked(self, answered: bool) -> None:
        """Take over whether an exit answered in a frame in which they were asked."""
        self._refusals = 0 if answered else self._refusals + 1
        self._rest = min(2 ** max(0, self._refusals - 1) - 1, LONGEST_REST)


@dataclass(frozen=True)
class DepthFigures:
    """How deep the network looked in the last frames with the same threshold and deadline.

    Attributes:
        depth: Mean number of blocks per target and frame; 0 where there were none.
        on_time: Share of frames that were answered before the deadline; None without one.
        least_ms: Milliseconds within which the first exit answers with probability `ON_TIME`; None
            before it has been measured.
    """

    depth: float = 0.0
    on_time: float | None = None
    least_ms: float | None = None

    def shortfall(self, deadline_ms: float) -> str:
        """One line on a deadline that is shorter than the first exit; empty where it is not."""
        if not 0 < deadline_ms < (self.least_ms or 0.0):
            return ""
        least = math.ceil(10 * (self.least_ms or 0.0)) / 10
        return (
            f"exit.deadline_ms must be at least {least:.1f} here, where the first exit takes so "
            f"long, got {deadline_ms:g}"
        )


class DepthRule:
    """Decides the depth of every search of one session; measures the segments for a deadline.

    Per frame `begin`, the engine's search with what it returns, `end`.
    """

    def __init__(self, spec: ModelSpec, clock: Callable[[], float] = time.perf_counter) -> None:
        """Know no duration yet.

        Args:
            spec: Architecture of the model.
            clock: Seconds; any origin.
        """
        self._depths = spec.depths
        self._clock = clock
        self._durations: dict[tuple[int, int], deque[float]] = {}
        self._passed: dict[tuple[int, int], int] = {}
        self._seen: deque[tuple[float, bool | None]] = deque(maxlen=WINDOW)
        self._firsts: deque[float] = deque(maxlen=MEASURED)
        self._settings: TrackerSettings | None = None
        self._deep: npt.NDArray[np.bool_] = np.empty(0, bool)
        self._patience: Sequence[Patience] = ()
        self._by_segments = False
        self._begin = self._last = 0.0

    def begin(
        self,
        settings: TrackerSettings,
        deep: Sequence[bool],
        begun: float | None = None,
        patience: Sequence[Patience] = (),
    ) -> Stop | None:
        """Begin a frame.

        Args:
            settings: Threshold and deadline.
            deep: Per target, whether it must be looked at in full depth.
            begun: When the work on this frame began, by the clock; now where None.
            patience: Of each target; none where exits are asked every time.

        Returns:
            What the engine asks after each exit; None where all is searched in full depth at once.
        """
        asked = settings if settings.asks_exits and len(self._depths) > 1 else None
        if _asks(asked) != _asks(self._settings):
            # Figures of another threshold or deadline are none of this one.
            self._seen.clear()
        self._settings = asked
        if self._settings is None:
            return None
        self._deep = np.array(deep, bool)
        self._last = self._clock()
        self._begin = self._last if begun is None else begun
        self._patience = patience
        # Asked for nothing but full depth, an engine runs one graph, faster than all segments.
        # Where one target needs the segments, the others of its batch pay for them in any case.
        idle = self._deep.copy()
        if patience:
            idle |= [one.rests() for one in patience]
        self._by_segments = settings.exit_deadline_ms > 0 or not idle.all()
        return self._stop if self._by_segments else None

    def end(self, prediction: Prediction) -> None:
        """Take over what the search came to."""
        if self._settings is None:
            return
        now = self._clock()
        late: bool | None = None
        if self._settings.exit_deadline_ms > 0:
            late = (now - self._begin) * 1000 > self._settings.exit_deadline_ms
        deepest = int(prediction.depths.max())
        if self._by_segments and deepest == self._depths[-1]:
            count = int((prediction.depths == deepest).sum())
            self._measure(len(self._depths) - 1, count, now)
        if self._by_segments and self._settings.has_threshold:
            for one, deep, depth in zip(
                self._patience, self._deep, prediction.depths, strict=bool(self._patience)
            ):
                if not deep:
                    one.asked(bool(depth < self._depths[-1]))
        self._seen.append((float(prediction.depths.mean()), None if late is None else not late))

    def figures(self) -> DepthFigures:
        """How deep the network looked lately."""
        # Copied at once: another thread may ask while frames come in.
        seen, firsts = list(self._seen), list(self._firsts)
        on_time = [one for _, one in seen if one is not None]
        settled = len(firsts) >= SETTLED
        return DepthFigures(
            depth=float(np.mean([depth for depth, _ in seen])) if seen else 0.0,
            on_time=float(np.mean(on_time)) if on_time else None,
            least_ms=float(np.quantile(firsts, ON_TIME)) * 1000 if settled else None,
        )

    def _stop(
        self, depth: int, quality: npt.NDArray[np.float32], rows: npt.NDArray[np.intp]
    ) -> npt.NDArray[np.bool_]:
        assert self._settings is not None
        segment = self._depths.index(depth)
        now = self._clock()
        self._measure(segment, len(rows), now)
        if segment == 0:
            self._firsts.append(now - self._begin)
        threshold = self._settings.threshold_of(segment)
        good = (quality >= threshold) & (threshold < 1) & ~self._deep[rows]
        deadline = self._settings.exit_deadline_ms / 1000
        if deadline > 0:
            left = int((~good).sum())
            next_one = self._estimate(segment + 1, left)
            late = next_one is not None and now - self._begin + next_one > deadline
            if late and self._pass_over(segment + 1, left):
                return np.ones(len(rows), bool)
        return good

    def _pass_over(self, segment: int, count: int) -> bool:
        """Whether a segment that would be late is left out, and not tried once more.

        Its oldest times are forgotten meanwhile, so that a few trials suffice to find it faster.
        """
        times = self._durations[segment, count]
        if len(times) > SETTLED:
            times.popleft()
        passed = self._passed.get((segment, count), 0)
        self._passed[segment, count] = (passed + 1) % (PASSED + 1)
        return passed < PASSED

    def _measure(self, segment: int, count: int, now: float) -> None:
        times = self._durations.setdefault((segment, count), deque(maxlen=MEASURED))
        times.append(now - self._last)
        self._last = now

    def _estimate(self, segment: int, count: int) -> float | None:
        """Seconds that a segment stays under with probability `ON_TIME`; None: not known yet."""
        times = self._durations.get((segment, count))
        if times is None or len(times) < SETTLED:
            return None
        return float(np.quantile(times, ON_TIME))


def _asks(settings: TrackerSettings | None) -> tuple[object, ...]:
    """What settings ask of the exits."""
    if settings is None:
        return ()
    return settings.exit_threshold, settings.exit_thresholds, settings.exit_deadline_ms
