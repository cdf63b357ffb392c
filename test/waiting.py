"""Waiting for what happens in another thread or process."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds:.0f} s in vain for {what}"
        time.sleep(0.002)


def repeat_until(
    action: Callable[[], Any], condition: Callable[[], Any], what: str, period: float = 0.05
) -> None:
    """Do something every `period` seconds until it has an effect.

    For first messages, which may go before both sides know of each other.
    """
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, f"repeated for 60 s in vain: {what}"
        action()
        next_time = time.monotonic() + period
        while time.monotonic() < next_time and not condition():
            time.sleep(0.002)
