"""Ctrl-C in a command that writes files: stop between two records, close, then leave."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 130
"""Exit code of a command that Ctrl-C ended, its files closed."""


@contextmanager
def stop_request() -> Iterator[Callable[[], bool]]:
    """Let Ctrl-C ask for a stop between two frames, so that no record is left half written.

    Yields a function that tells whether the stop was asked for. A second Ctrl-C interrupts at
    once.
    """
    requested = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal requested
        requested = True
        signal.signal(signal.SIGINT, previous)

    previous = signal.signal(signal.SIGINT, ask)
    try:
        yield lambda: requested
    finally:
        signal.signal(signal.SIGINT, previous)
