"""How long an engine takes for a crop, and how many crops fit into a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from mixformerv2_ros.model.engine import Engine, Memory, Prediction, Stop
from mixformerv2_ros.model.engine_wrapper import EngineWrapper

SMOOTHING = 0.1
"""Share of the newest search in the mean."""


class TimedEngine(EngineWrapper):
    """An engine that measures its searches."""

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.perf_counter) -> None:
        """Measure `engine` by a clock in seconds."""
        super().__init__(engine)
        self._clock = clock
        self._seconds: float | None = None
        self._spent = 0.0

    def encode_templates(self, templates: npt.NDArray[np.uint8]) -> Memory:
        """See `Engine.encode_templates`."""
        begin = self._clock()
        memory = super().encode_templates(templates)
        self._spent += self._clock() - begin
        return memory

    def search(
        self,
        crops: npt.NDArray[np.uint8],
        memories: Sequence[Memory],
        stop: Stop | None = None,
    ) -> Prediction:
        """See `Engine.search`."""
        begin = self._clock()
        prediction = super().search(crops, memories, stop)
        spent = self._clock() - begin
        self._spent += spent
        seconds = spent / len(crops)
        mean = seconds if self._seconds is None else self._seconds
        self._seconds = mean + SMOOTHING * (seconds - mean)
        return prediction

    def take_spent(self) -> float:
        """Seconds in the engine since the last call."""
        spent, self._spent = self._spent, 0.0
        return spent

    def crops_in(self, seconds: float) -> int:
        """How many crops it searches in a time; 0 before the first search."""
        return 0 if not self._seconds else int(seconds / self._seconds)
