"""Log lines of the engines in the log of a node."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mixformerv2_ros.engines.chain import log as engine_log
from mixformerv2_ros.ros.messages import Level


class _Forwarder(logging.Handler):
    def __init__(self, write: Callable[[Level, str], None]) -> None:
        super().__init__()
        self._write = write

    def emit(self, record: logging.LogRecord) -> None:
        warning = record.levelno >= logging.WARNING
        self._write(Level.WARN if warning else Level.OK, record.getMessage())


@contextmanager
def engine_lines(write: Callable[[Level, str], None]) -> Iterator[None]:
    """Pass lines about which engine runs and why, and which was left, to the log of a node."""
    handler = _Forwarder(write)
    level, propagate = engine_log.level, engine_log.propagate
    engine_log.addHandler(handler)
    engine_log.setLevel(logging.INFO)
    engine_log.propagate = False
    try:
        yield
    finally:
        engine_log.removeHandler(handler)
        engine_log.setLevel(level)
        engine_log.propagate = propagate
