"""Logs that an object detector has stopped, or never begun."""

from __future__ import annotations

from mixformerv2_ros.ros.live.middleware import ImageMiddleware
from mixformerv2_ros.ros.messages import Level
from mixformerv2_ros.ros.topics import DETECTOR
from mixformerv2_ros.tracking.frame import NS


class DetectorMonitor:
    """Watches the time since the last detections; once per silence it logs a line."""

    def __init__(self, middleware: ImageMiddleware, timeout_s: float) -> None:
        """Begin with the next check.

        Args:
            middleware: The node.
            timeout_s: Time without a message after which the detector counts as silent.
        """
        self._middleware = middleware
        self._timeout_ns = round(timeout_s * NS)
        self._since_ns: int | None = None
        self._is_silent = False

    def on_message(self, now_ns: int) -> None:
        """Note that detections have come; from any thread."""
        self._since_ns = now_ns

    def check(self, now_ns: int, is_used: bool) -> None:
        """Log a change; to be called from one thread.

        Args:
            now_ns: Time of the node's clock.
            is_used: Whether detections are used for anything.
        """
        if not is_used:
            self._since_ns, self._is_silent = None, False
            return
        since = self._since_ns
        if since is None or now_ns < since:
            self._since_ns = now_ns
            return
        is_silent = now_ns - since > self._timeout_ns
        if is_silent != self._is_silent:
            self._is_silent = is_silent
            topic = self._middleware.full_topic(DETECTOR[0])
            if is_silent:
                seconds = self._timeout_ns / NS
                text = f"no detections on {topic} for more than {seconds:g} s; tracking goes on"
                self._middleware.log(Level.WARN, text)
            else:
                self._middleware.log(Level.OK, f"detections on {topic} resumed")
