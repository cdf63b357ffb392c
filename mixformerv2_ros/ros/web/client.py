"""What the server keeps of one page: its pace, and its patience with it."""

from __future__ import annotations

import time
from collections.abc import Callable

LEVELS = ((320, 50), (480, 55), (640, 65), (960, 75), (1280, 80))
"""Longest side in pixels and JPEG quality of a picture, from the smallest to the largest."""

SLOW_S = 0.2
"""From sending a picture to its drawing: above this the next one is a level smaller."""
FAST_S = 0.06
"""Below this, `CALM` times in a row, the next one is a level larger."""
CALM = 15

COMMANDS_PER_S = 20.0
"""Commands of a page that are followed; twice as many at once."""
MAX_REFUSED = 100
"""Messages that are malformed or too many, after which a page is disconnected."""


class Pace:
    """Size and rate of the pictures of one page: one is under way at most."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin in the middle.

        Args:
            clock: Time in seconds.
        """
        self.level = len(LEVELS) // 2
        self._clock = clock
        self._sent: float | None = None
        self._calm = 0

    @property
    def ready(self) -> bool:
        """Whether the page has drawn all that it was sent."""
        return self._sent is None

    def sent(self) -> None:
        """A picture is under way."""
        self._sent = self._clock()

    def shown(self) -> None:
        """It has been drawn; without one nothing happens."""
        if self._sent is None:
            return
        took, self._sent = self._clock() - self._sent, None
        self._calm = self._calm + 1 if took < FAST_S else 0
        if took > SLOW_S:
            self.level = max(0, self.level - 1)
        elif self._calm >= CALM:
            self.level, self._calm = min(len(LEVELS) - 1, self.level + 1), 0


class Budget:
    """Commands that a page may still send."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin full.

        Args:
            clock: Time in seconds.
        """
        self.refused = 0
        self._clock = clock
        self._left = 2 * COMMANDS_PER_S
        self._at = clock()

    @property
    def exhausted(self) -> bool:
        """Whether the page is to be disconnected."""
        return self.refused >= MAX_REFUSED

    def spend(self) -> bool:
        """Take one command off; False if none is left."""
        now = self._clock()
        self._left = min(2 * COMMANDS_PER_S, self._left + (now - self._at) * COMMANDS_PER_S)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
