"""Log lines of the engines in the log of a node."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mixformerv2_ros.ros.messages import Level

engine_log = logging.getLogger("mixformerv2_ros.engines")
"""The one logger of all engines. Loggers of their modules would not do: in a process that has
imported ROS's launch, new loggers keep their lines to themselves."""

_changing = threading.Lock()


class _Forwarder(logging.Handler):
    def __init__(self, write: Callable[[Level, str], None]) -> None:
        super().__init__()
        self._write = write

    def emit(self, record: logging.LogRecord) -> None:
        warning = record.levelno >= logging.WARNING
        self._write(Level.WARN if warning else Level.OK, record.getMessage())


@contextmanager
def engine_lines(write: Callable[[Level, str], None]) -> Iterator[None]:
    """Pass lines of the engines, such as which runs and why, to the log of a node."""
    handler = _Forwarder(write)
    with _changing:
        engine_log.addHandler(handler)
        engine_log.setLevel(logging.INFO)
        engine_log.propagate = False
    try:
        yield
    finally:
        with _changing:
            engine_log.removeHandler(handler)
            # Other nodes of this process may still listen.
            if not any(isinstance(one, _Forwarder) for one in engine_log.handlers):
                engine_log.setLevel(logging.NOTSET)
                engine_log.propagate = True
