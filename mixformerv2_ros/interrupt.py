"""Ctrl-C and SIGTERM ask for a stop in order: between two records, after a message."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 130
"""Exit code of a command that Ctrl-C ended, its files closed."""


@contextmanager
def stop_request(*signals: int) -> Iterator[Callable[[], bool]]:
    """Let signals ask for a stop, so that no record is left half written.

    Args:
        signals: The signals; none means SIGINT alone.

    Yields a function that returns whether a stop was requested. A second signal does what it did
    before, which is to interrupt at once.
    """
    requested = False
    numbers = signals or (signal.SIGINT,)
    previous = {number: signal.getsignal(number) for number in numbers}

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal requested
        requested = True
        signal.signal(number, previous[number])

    for number in numbers:
        signal.signal(number, ask)
    try:
        yield lambda: requested
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def node_stop() -> Iterator[Callable[[], bool]]:
    """What ends a node: Ctrl-C, and SIGTERM as launch systems and service managers send it.

    Yields a function that tells whether the stop was asked for. Further signals are ignored until
    the process has ended, since a launch system forwards the SIGINT that the terminal has sent
    already: one in the middle of the end would cut it off. Without a stop, signals do what they did
    before.
    """
    requested = False
    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.getsignal(number) for number in numbers}

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal requested
        requested = True

    for number in numbers:
        signal.signal(number, ask)
    try:
        yield lambda: requested
    finally:
        for number, handler in previous.items():
            signal.signal(number, signal.SIG_IGN if requested else handler)
