"""Counts and logs the events of a live stream."""

from __future__ import annotations

from mixformerv2_ros.ros.live.log_throttle import LogThrottle
from mixformerv2_ros.ros.live.middleware import ImageMiddleware
from mixformerv2_ros.ros.live.step_publisher import StepPublisher
from mixformerv2_ros.ros.messages import Level
from mixformerv2_ros.text import printable
from mixformerv2_ros.tracking.events import Event, EventKind

_COUNTED = {
    EventKind.REJECTED: "rejected",
    EventKind.UNDECODABLE: "bad",
    EventKind.LATE: "late",
    EventKind.STRAY: "late",
    EventKind.ENGINE_FAILED: "failed",
    EventKind.DETECTIONS_UNUSED: "detections_unused",
}
"""Field of `Counts` that an event increments."""


class EventLog:
    """Log lines of a node about its images and init boxes, throttled: anybody may send many."""

    def __init__(self, middleware: ImageMiddleware, publisher: StepPublisher) -> None:
        """Log through `middleware`, count in the statistics of `publisher`."""
        self._middleware = middleware
        self._publisher = publisher
        self._throttle = LogThrottle(middleware.log)
        self._undecodable = ""
        self._reset_logged = False

    @property
    def undecodable(self) -> str:
        """Why the last undecodable image could not be decoded; empty while all could."""
        return self._undecodable

    def reset(self) -> None:
        """Forget what was logged."""
        self._throttle.reset()
        self._reset_logged = False

    def add(self, event: Event) -> None:
        """Count and log an event."""
        kind, text = event.kind, event.text
        if name := _COUNTED.get(kind):
            self._publisher.count(**{name: 1})
        if kind in (EventKind.STARTED, EventKind.REACQUIRED):
            self._throttle.burst(Level.OK, kind.name, text)
        elif kind is EventKind.REJECTED:
            self._throttle.burst(Level.WARN, "rejections", text)
        elif kind is EventKind.UNDECODABLE:
            self._undecodable = text
            self._throttle.once(Level.WARN, f"image cannot be decoded: {text}", kind.name)
        elif kind is EventKind.RESET and event.reason:
            self._middleware.log(Level.WARN, text + self._publishers())
        elif kind is EventKind.RESET:
            # Nothing was tracked: of a recording that loops, every pass would say so.
            if not self._reset_logged:
                self._reset_logged = True
                self._middleware.log(Level.OK, text + self._publishers())
        elif kind in (EventKind.LATE, EventKind.STRAY):
            self._throttle.throttle(Level.WARN, kind.name, text + self._publishers())
        elif kind is EventKind.CORRECTED:
            self._throttle.burst(Level.OK, kind.name, text)
        elif kind in (EventKind.NO_TIME, EventKind.DETECTIONS_UNUSED):
            self._throttle.once(Level.WARN, text, kind.name)
        elif kind in (EventKind.ENCODING, EventKind.BITS):
            self._throttle.once(Level.OK, text, kind.name)
        elif kind is EventKind.ENGINE_FAILED:
            self._throttle.once(Level.ERROR, text, kind.name)

    def _publishers(self) -> str:
        """The publishers of the images, where there are several: they explain most jumps."""
        names = [each.publisher for each in self._middleware.image_publications()]
        if len(names) < 2:
            return ""
        return f"; the image topic has {len(names)} publishers: {', '.join(map(printable, names))}"
