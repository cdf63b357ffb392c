"""One engine for several threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from mixformerv2_ros.model.engine import Engine, Memory, Prediction, Stop
from mixformerv2_ros.model.engine_wrapper import EngineWrapper


class SharedEngine(EngineWrapper):
    """Runs the calls of several threads in turn, in the order in which they came.

    A thread that calls again waits behind all that wait already: however fast one of them calls,
    every other one is served after one call of each at most. A call that fails fails alone; for
    that reason, calls of different threads are not combined to one batch.
    """

    def __init__(self, engine: Engine) -> None:
        """Share `engine`, which nobody else must call from now on."""
        super().__init__(engine)
        self._changed = threading.Condition()
        self._next_ticket = 0
        self._served = 0

    @property
    def waiting(self) -> int:
        """Calls that wait for their turn or are served."""
        with self._changed:
            return self._next_ticket - self._served

    def crop_buffer(self, count: int) -> npt.NDArray[np.uint8]:
        """Memory for `count` crops, of the engine."""
        with self._turn():
            return super().crop_buffer(count)

    def encode_templates(self, templates: npt.NDArray[np.uint8]) -> Memory:
        """See `Engine.encode_templates`."""
        with self._turn():
            return super().encode_templates(templates)

    def search(
        self,
        crops: npt.NDArray[np.uint8],
        memories: Sequence[Memory],
        stop: Stop | None = None,
    ) -> Prediction:
        """See `Engine.search`."""
        with self._turn():
            return super().search(crops, memories, stop)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        with self._changed:
            ticket = self._next_ticket
            self._next_ticket += 1
            self._changed.wait_for(lambda: self._served == ticket)
        try:
            yield
        finally:
            with self._changed:
                self._served += 1
                self._changed.notify_all()
