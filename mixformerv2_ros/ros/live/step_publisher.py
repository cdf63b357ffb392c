"""Publishes what a stream found in an image, and keeps the statistics of that."""

from __future__ import annotations

import threading
from collections.abc import Callable

from mixformerv2_ros.ros.live.goal_observer import GoalObserver
from mixformerv2_ros.ros.live.middleware import Middleware
from mixformerv2_ros.ros.live.overlay_publisher import OverlayLimits, OverlayPublisher
from mixformerv2_ros.ros.live.stamp_gaps import StampGaps
from mixformerv2_ros.ros.live.statistics import Counts, Timing, TrackerStatistics, incremented
from mixformerv2_ros.ros.messages import detections_message, track_message
from mixformerv2_ros.ros.topics import DETECTIONS, TRACK
from mixformerv2_ros.tracking.events import Step
from mixformerv2_ros.tracking.frame import NS
from mixformerv2_ros.tracking.session import Track, idle_track
from mixformerv2_ros.tracking.stream import Stream


class StepPublisher:
    """Messages of a `Step`, and counts, rates and ages. `publish` is the worker's alone.

    Attributes:
        tracks: The last track of every target.
    """

    def __init__(self, middleware: Middleware, limits: OverlayLimits) -> None:
        self.tracks: tuple[Track, ...] = ()
        self._middleware = middleware
        self._lock = threading.Lock()
        self._counts = Counts()
        self._timing = Timing()
        self._gaps = StampGaps()
        self._arrival_ns: int | None = None
        self._image = ""
        self._image_size: tuple[int, int] | None = None
        self._overlay = OverlayPublisher(middleware, limits)

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Width and height of the last processed image; None before the first."""
        return self._image_size

    def set_overlay_limits(self, limits: OverlayLimits) -> None:
        """Change the limits of the compressed overlay."""
        self._overlay.limits = limits

    def reset(self) -> None:
        """Count from zero."""
        with self._lock:
            self._counts = Counts()
            self._timing = Timing()

    def count(self, **by: int) -> None:
        """Increment fields of `Counts`."""
        with self._lock:
            self._counts = incremented(self._counts, **by)

    def on_arrival(self, now_ns: int, stamp_ns: int, replaces: bool) -> None:
        """Count an image that has come, perhaps in the place of one not looked at."""
        with self._lock:
            self._arrival_ns = now_ns
            missing = self._gaps.add(stamp_ns)
            self._counts = incremented(
                self._counts, received=1, missing=missing, dropped=int(replaces)
            )

    def statistics(self, stream: Stream) -> TrackerStatistics:
        """Everything as it is now."""
        now = self._middleware.now_ns()
        buffered, nbytes = stream.buffered
        with self._lock:
            last = self._arrival_ns
            return TrackerStatistics(
                counts=self._counts,
                rate=self._timing.rate(now),
                latency_ms=self._timing.latency_ms(),
                engine_ms=self._timing.engine_ms(),
                other_ms=self._timing.other_ms(),
                age_ms=self._timing.age_ms(),
                since_image_s=None if last is None else max(0, now - last) / NS,
                image=self._image,
                stamps_usable=stream.stamps_usable,
                tracks=self.tracks,
                buffered=buffered,
                buffered_bytes=nbytes,
                depth=stream.session.depth_figures,
                deadline_ms=stream.settings.exit_deadline_ms,
            )

    def publish(
        self,
        step: Step,
        observer_of: Callable[[str], GoalObserver | None],
        engine_s: float,
        full_depth: int,
    ) -> None:
        """Publish tracks of an image, and detections and overlays where these have subscribers.

        Args:
            step: The image and its tracks.
            observer_of: Gives the observer of a target.
            engine_s: Seconds that the engine took for the image.
            full_depth: See `draw_tracks`.
        """
        middleware, types, frame = self._middleware, self._middleware.types, step.frame
        pixels = frame.pixels
        self._image = f"{pixels.width}x{pixels.height} {pixels.encoding}"
        self._image_size = pixels.width, pixels.height
        self.tracks = step.tracks
        tracks = step.tracks or (idle_track(frame),)
        now, arrival = middleware.now_ns(), step.image.arrival_ns
        latency = max(0, now - arrival) if arrival else 0
        for track in tracks:
            message = track_message(types, track, latency)
            middleware.publish(TRACK, message)
            if observer := observer_of(track.target_id):
                observer.on_track(track, message, step.image.time_ns or 0)
        if middleware.has_subscribers(DETECTIONS):
            found = detections_message(types, tracks, frame.stamp_ns, frame.frame_id)
            middleware.publish(DETECTIONS, found)
        published = middleware.now_ns()
        with self._lock:
            self._counts = incremented(self._counts, processed=1)
            # An image without a stamp is as old as its arrival.
            age = max(0, published - (frame.stamp_ns or arrival or published))
            latency = max(0, published - arrival) if arrival else 0
            self._timing.add(published, latency, age, round(engine_s * NS))
        self._overlay.publish(frame, step.tracks, full_depth)
