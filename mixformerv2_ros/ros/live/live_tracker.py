"""The tracker behind a live camera: the newest image wins, callbacks never wait.

Middleware threads hand in messages. One worker thread decodes, tracks and publishes. Between the
two stands a mailbox with one place, so that a slow model drops old images and never queues them.
The images of the last seconds are kept beside it: a box drawn on a past one starts there, and the
target is searched for in the images since, silently, up to the newest.

What happens when the stream of images breaks:

- Image time steps back (a recording that loops): all targets are forgotten, the state is IDLE.
- The size of the images changes: the same, because boxes are pixels of the size before.
- The encoding changes: nothing, every encoding is converted to the same colours.
- The camera stops: the diagnostics say so. When it returns, its first image is searched for the
  targets where they were last; confidence and image time decide about their states.
- An image cannot be decoded: it is counted, nothing is published for it, and targets stay.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from mixformerv2_ros.errors import BoxError, EngineError, ImageError
from mixformerv2_ros.overlay import draw_tracks
from mixformerv2_ros.ros.live.goal_observer import End, GoalObserver
from mixformerv2_ros.ros.live.log_throttle import LogThrottle
from mixformerv2_ros.ros.live.middleware import Middleware
from mixformerv2_ros.ros.live.model import Model
from mixformerv2_ros.ros.live.statistics import (
    Counts,
    Timing,
    TrackerStatistics,
    incremented,
    status,
)
from mixformerv2_ros.ros.message_buffer import Arrival, RecentImages, spread
from mixformerv2_ros.ros.messages import (
    NS,
    InitRequest,
    Level,
    detections_message,
    diagnostics_message,
    image_frame,
    image_message,
    init_request,
    stamp_ns,
    track_message,
)
from mixformerv2_ros.ros.parameters import NODE_PARAMETERS, Value, check_changes, check_values
from mixformerv2_ros.ros.topics import DEBUG_IMAGE, DETECTIONS, DIAGNOSTICS, TRACK
from mixformerv2_ros.text import printable
from mixformerv2_ros.tracking.boxes import Box, check_box
from mixformerv2_ros.tracking.frame import Frame
from mixformerv2_ros.tracking.session import Session, State, Track
from mixformerv2_ros.tracking.settings import TrackerSettings

MAX_ID = 256
"""Longest name of a target; it is repeated in every track."""

MAX_WAITING = 4
"""Boxes that may wait for their image, per target that may be followed."""


_STOPPED = "somebody stopped the target"
_REPLACED = "another box came for the target"
_CLOSED = "the node tracks no longer"


@dataclass(frozen=True)
class _Request(InitRequest):
    """A box, and who wants to know what becomes of it."""

    observer: GoalObserver | None = None


@dataclass
class _Orders:
    """What the worker has been asked to do since it last looked."""

    arrival: Arrival | None = None
    requests: dict[str, _Request] = field(default_factory=dict)
    stops: list[str | None] = field(default_factory=list)
    releases: list[tuple[str, GoalObserver]] = field(default_factory=list)
    settings: TrackerSettings | None = None

    def __bool__(self) -> bool:
        return bool(self.arrival or self.requests or self.stops or self.releases or self.settings)


class LiveTracker:
    """A tracker node without its middleware.

    Attributes:
        failure: The defect that ended the worker; None while it is well.
    """

    def __init__(
        self,
        model: Model,
        values: Mapping[str, Any],
        middleware: Middleware,
        name: str,
        open_image: Callable[[Any], Frame] = image_frame,
    ) -> None:
        """Make a tracker; `start` sets it to work.

        Args:
            model: The model to track with.
            values: Parameters of the node by name; defaults hold for those that are missing.
            middleware: Where messages come from and go to.
            name: Full name of the node, for diagnostics.
            open_image: Decodes an image message; raises ImageError.

        Raises:
            ParameterError: see `parameters.check_values`.
        """
        self.failure: BaseException | None = None
        self._model = model
        self._middleware = middleware
        self._name = name
        self._open_image = open_image
        self._values = check_values(values, NODE_PARAMETERS)
        self._thread = threading.Thread(target=self._run, name="tracker")

        # Shared with the middleware's threads, under the lock.
        self._changed = threading.Condition()
        self._closing = False
        self._busy = False
        self._orders = _Orders()
        self._recent = self._new_buffer()
        self._counts = Counts()
        self._judged = Counts()
        self._arrivals = 0
        self._epoch = 0
        self._last: Arrival | None = None
        self._silent = False
        self._started_ns = 0

        # The worker's own.
        self._session = Session(model.engine, model.settings(self._values))
        self._waiting: dict[str, _Request] = {}
        self._observers: dict[str, GoalObserver] = {}
        self._throttle = LogThrottle(middleware.log)
        self._timing = Timing()
        self._tracks: tuple[Track, ...] = ()
        self._seen_epoch = 0
        self._seen_number = 0
        self._size = (0, 0)
        self._encoding = ""

    @property
    def values(self) -> dict[str, Value]:
        """The parameters in force, by name."""
        return dict(self._values)

    @property
    def idle(self) -> bool:
        """Whether everything that came in so far has been dealt with."""
        with self._changed:
            return not (self._orders or self._busy)

    def start(self) -> None:
        """Start the worker thread."""
        self._thread.start()

    def close(self) -> None:
        """Stop the worker thread after the image that it is busy with."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()
        self._release(_CLOSED)

    def receive_image(self, message: Any) -> None:
        """Take a `sensor_msgs/Image` or `CompressedImage`; it is looked at later."""
        stamp, now = stamp_ns(message), self._middleware.now_ns()
        with self._changed:
            if self._last is not None and stamp < self._last.stamp_ns:
                self._epoch += 1
                self._recent.clear()
            self._arrivals += 1
            arrival = Arrival(self._arrivals, self._epoch, message, stamp, now)
            replaced = self._orders.arrival is not None
            self._counts = incremented(self._counts, received=1, dropped=int(replaced))
            self._recent.add(arrival)
            self._orders.arrival = self._last = arrival
            self._changed.notify()

    def receive_init(self, message: Any) -> None:
        """Take an `InitBox`, `vision_msgs/Detection2D` or `sensor_msgs/RegionOfInterest`."""
        self.start_goal(message, None)

    def start_goal(self, message: Any, observer: GoalObserver | None) -> str:
        """Take a box as `receive_init` does, for somebody who is told what becomes of it.

        Returns:
            The name of the target.
        """
        asked = init_request(message)
        request = _Request(asked.box, asked.target_id, asked.stamp_ns, observer)
        limit = MAX_WAITING * int(self._values["max_targets"])
        with self._changed:
            waiting = {*self._orders.requests, *self._waiting}
            if request.target_id not in waiting and len(waiting) >= limit:
                self._refuse(request, f"{limit} boxes wait for an image already")
                return request.target_id
            superseded = self._orders.requests.get(request.target_id)
            self._orders.requests[request.target_id] = request
            self._changed.notify()
        if superseded is not None:
            _end(superseded.observer, End.REPLACED, _REPLACED)
        return request.target_id

    def stop(self, target_id: str | None = None) -> str:
        """Forget one target or all, and the boxes that wait for their image; says what it did."""
        known = {track.target_id for track in self._tracks}
        with self._changed:
            known.update(self._orders.requests, self._waiting)
            requests = self._orders.requests
            named = list(requests) if target_id is None else [target_id]
            revoked = [requests.pop(name) for name in named if name in requests]
            self._orders.stops.append(target_id)
            self._changed.notify()
        for request in revoked:
            _end(request.observer, End.STOPPED, _STOPPED)
        if target_id is not None and target_id not in known:
            return f"no target {printable(target_id)} is tracked"
        names = sorted(known) if target_id is None else [target_id]
        return f"stopped {', '.join(map(printable, names))}" if names else "no target is tracked"

    def release(self, target_id: str, observer: GoalObserver) -> None:
        """Forget a target, or a box that waits, if it is still this observer's; silently."""
        with self._changed:
            request = self._orders.requests.get(target_id)
            if request is not None and request.observer is observer:
                del self._orders.requests[target_id]
            self._orders.releases.append((target_id, observer))
            self._changed.notify()

    def reset(self) -> None:
        """Forget targets, waiting boxes, kept images and counts, as if freshly started."""
        self.stop()
        with self._changed:
            self._recent.clear()
            self._counts = self._judged = Counts()
            self._timing = Timing()
            self._throttle.reset()

    def set_values(self, changes: Mapping[str, Any]) -> None:
        """Change parameters, all of them or none, before the next image.

        Raises:
            ParameterError: a parameter is unknown or fixed, a value is out of range, or values
                contradict each other.
        """
        with self._changed:
            values = check_changes(self._values, changes, NODE_PARAMETERS, running=True)
            self._orders.settings = self._model.settings(values)
            self._values = values
            self._changed.notify()

    def statistics(self) -> TrackerStatistics:
        """How the tracker fares now."""
        now = self._middleware.now_ns()
        with self._changed:
            last = self._last
            return TrackerStatistics(
                counts=self._counts,
                rate=self._timing.rate(now),
                latency_ms=self._timing.latency_ms(),
                age_ms=self._timing.age_ms(),
                since_image_s=None if last is None else max(0, now - last.arrived_ns) / NS,
                image=f"{self._size[0]}x{self._size[1]} {self._encoding}" if self._encoding else "",
                tracks=self._tracks,
                buffered=len(self._recent),
                buffered_bytes=self._recent.bytes,
            )

    def publish_diagnostics(self) -> None:
        """Publish the statistics; to be called every `diagnostics.period` from any one thread."""
        statistics = self.statistics()
        timeout = float(self._values["image_timeout"])
        with self._changed:
            before, self._judged = self._judged, statistics.counts
            stopped = (statistics.since_image_s or 0) > timeout and not self._silent
            self._silent = self._silent or stopped
        if stopped:
            self._log(Level.WARN, f"no image for {statistics.since_image_s:.1f} s")
        now = self._middleware.now_ns()
        # Simulated time is zero until somebody publishes it.
        self._started_ns = self._started_ns or now
        silence = statistics.since_image_s
        if silence is None:
            silence = max(0, now - self._started_ns) / NS
        if silence > timeout:
            for observer in self._all_observers():
                observer.on_stalled(silence)
        report = status(statistics, before, self._model.info, self._name, timeout)
        message = diagnostics_message(self._middleware.types, report, now)
        self._middleware.publish(DIAGNOSTICS, message)

    def _run(self) -> None:
        try:
            while True:
                with self._changed:
                    self._busy = False
                    self._changed.wait_for(lambda: self._orders or self._closing)
                    if self._closing:
                        return
                    orders, self._orders = self._orders, _Orders()
                    self._busy = True
                self._obey(orders)
        except BaseException as error:  # reported by whoever owns this tracker
            self.failure = error
            reason = f"tracker failed: {type(error).__name__}: {error}"
            self._log(Level.ERROR, reason)
            self._release(reason)

    def _obey(self, orders: _Orders) -> None:
        if orders.settings is not None:
            self._session.settings = orders.settings
        for target_id in orders.stops:
            self._forget(target_id)
        for name, observer in orders.releases:
            waiting = self._waiting.get(name)
            if waiting is not None and waiting.observer is observer:
                del self._waiting[name]
            if self._observers.get(name) is observer:
                del self._observers[name]
                self._drop(name)
        for name, request in orders.requests.items():
            if superseded := self._waiting.get(name):
                _end(superseded.observer, End.REPLACED, _REPLACED)
            self._waiting[name] = request
        arrival = orders.arrival
        frame = self._open(arrival)
        while past := self._past_starts(arrival, frame):
            for request, start in past:
                self._catch_up(request, start, arrival)
            arrival, frame = self._newest(arrival, frame)
        if arrival is not None and frame is not None:
            self._process(arrival, frame)

    def _open(self, arrival: Arrival | None) -> Frame | None:
        """Decode an arrival and notice what has changed since the last one."""
        if arrival is None:
            return None
        if self._silent:
            self._silent = False
            self._log(Level.OK, "images again")
        if arrival.epoch != self._seen_epoch:
            self._seen_epoch = arrival.epoch
            self._forget_all("image time stepped back", "time")
        self._seen_number = arrival.number
        try:
            frame = self._open_image(arrival.message)
        except ImageError as error:
            self._throttle.once(Level.WARN, f"image cannot be used: {error}")
            self._count(bad=1)
            with self._changed:
                self._recent.discard(arrival)
            return None
        self._compare(arrival, frame)
        return frame

    def _compare(self, arrival: Arrival, frame: Frame) -> None:
        size, encoding = (frame.pixels.width, frame.pixels.height), frame.pixels.encoding
        if self._encoding and size != self._size:
            old, new = (f"{width}x{height}" for width, height in (self._size, size))
            with self._changed:
                self._recent.drop_before(arrival.number)
            self._forget_all(f"image size changed from {old} to {new}", "size")
        elif self._encoding and encoding != self._encoding:
            text = f"image encoding changed from {self._encoding} to {encoding}"
            self._throttle.once(Level.OK, text)
        self._size, self._encoding = size, encoding

    def _past_starts(
        self, arrival: Arrival | None, frame: Frame | None
    ) -> list[tuple[_Request, Arrival]]:
        """Take out the waiting boxes that were drawn on images before `arrival`.

        Boxes for images that are too old are refused, but only when an image has come: after a
        step back in time the box may come before its image.
        """
        current = self._seen_number + 1 if arrival is None else arrival.number
        past = []
        for request in list(self._waiting.values()):
            if request.stamp_ns is None:
                continue
            with self._changed:
                start = self._recent.find(request.stamp_ns)
                oldest = self._recent.oldest
            if start is not None and start.number < current:
                past.append((request, start))
                del self._waiting[request.target_id]
            elif start is None and arrival is not None and frame is not None:
                ahead = request.stamp_ns - arrival.stamp_ns
                if 0 < ahead <= float(self._values["buffer.duration"]) * NS:
                    continue
                reach = arrival.stamp_ns - (oldest or arrival).stamp_ns
                self._refuse(
                    request,
                    f"its image is {abs(ahead) / NS:.3f} s "
                    + ("ahead of" if ahead > 0 else "older than")
                    + f" the newest, and images of the last {reach / NS:.3f} s are kept",
                )
        return past

    def _catch_up(self, request: _Request, start: Arrival, arrival: Arrival | None) -> None:
        """Start a target on a past image and search for it in those since, silently.

        Images that come meanwhile are caught up with too, fewer in every round, so that a model
        slower than the camera comes to an end as well.
        """
        session = Session(self._model.engine, self._session.settings)
        try:
            frame = self._open_image(start.message)
            self._admit(request, frame)
            session.start(frame, request.box, request.target_id)
            limit, done = int(self._values["buffer.catch_up"]), start.number
            while backlog := self._backlog(done, arrival):
                for between in spread(backlog, limit):
                    if self._called_off(request):
                        return
                    # A bad image among them is skipped, as it is when it is the newest.
                    with suppress(ImageError):
                        session.update(self._open_image(between.message))
                done = backlog[-1].number
                if limit == 1:
                    break
                limit //= 2
        except (BoxError, ImageError) as error:
            self._refuse(request, str(error))
            return
        except EngineError as error:
            self._fail(error, request)
            return
        self._session.adopt(session)
        self._observe(request)
        ago = (self._last or start).stamp_ns - start.stamp_ns
        name = printable(request.target_id)
        self._log(Level.OK, f"tracking {name} from the image {ago / NS:.3f} s ago")

    def _called_off(self, request: _Request) -> bool:
        """Whether nobody waits for a target any more that is still being caught up with."""
        with self._changed:
            stopped = {None, request.target_id} & {*self._orders.stops}
        if stopped:
            _end(request.observer, End.STOPPED, _STOPPED)
        elif self._closing:
            _end(request.observer, End.CLOSED, _CLOSED)
        return bool(stopped) or self._closing

    def _backlog(self, done: int, arrival: Arrival | None) -> list[Arrival]:
        """Kept images after number `done` and before the one that is tracked in next."""
        with self._changed:
            following = self._orders.arrival or arrival
            before = self._arrivals + 1 if following is None else following.number
            return self._recent.between(done, before)

    def _newest(
        self, arrival: Arrival | None, frame: Frame | None
    ) -> tuple[Arrival | None, Frame | None]:
        """Exchange an arrival for the one that came since, if any."""
        with self._changed:
            newer, self._orders.arrival = self._orders.arrival, None
            if newer is not None and frame is not None:
                self._counts = incremented(self._counts, dropped=1)
        return (arrival, frame) if newer is None else (newer, self._open(newer))

    def _process(self, arrival: Arrival, frame: Frame) -> None:
        """Find the targets in an image, start those whose boxes are drawn on it, publish."""
        starts: dict[str, _Request] = {}
        for request in list(self._waiting.values()):
            if request.stamp_ns is None or self._is_of(request.stamp_ns, arrival):
                del self._waiting[request.target_id]
                try:
                    self._admit(request, frame, len(starts))
                except (BoxError, ImageError) as error:
                    self._refuse(request, str(error))
                else:
                    starts[request.target_id] = request
        tracks: dict[str, Track] = {}
        try:
            if not starts.keys() >= set(self._session.targets):
                tracks = {track.target_id: track for track in self._session.update(frame)}
            for name, request in starts.items():
                try:
                    tracks[name] = self._session.start(frame, request.box, name)
                except (BoxError, ImageError) as error:
                    self._refuse(request, str(error))
                else:
                    self._observe(request)
                    self._log(Level.OK, f"tracking {printable(name)}")
        except EngineError as error:
            self._fail(error, *(r for name, r in starts.items() if name not in tracks))
            return
        self._tracks = tuple(tracks.values())
        self._publish(arrival, frame)

    def _is_of(self, stamp: int, arrival: Arrival) -> bool:
        with self._changed:
            return self._recent.find(stamp) is arrival

    def _admit(self, request: _Request, frame: Frame, others: int = 0) -> None:
        """Refuse a box that no target can be started from.

        Raises:
            BoxError, ImageError: says why.
        """
        check_box(request.box, frame.pixels.width, frame.pixels.height)
        if len(request.target_id) > MAX_ID:
            raise BoxError(f"target id must be at most {MAX_ID} characters")
        targets, limit = self._session.targets, int(self._values["max_targets"])
        if request.target_id not in targets and len(targets) + others >= limit:
            raise BoxError(f"at most {limit} targets are tracked (max_targets)")

    def _publish(self, arrival: Arrival, frame: Frame) -> None:
        middleware, types = self._middleware, self._middleware.types
        tracks = self._tracks or (_idle(frame),)
        now = middleware.now_ns()
        latency = max(0, now - arrival.arrived_ns) if arrival.arrived_ns else 0
        for track in tracks:
            message = track_message(types, track, latency)
            middleware.publish(TRACK, message)
            if observer := self._observers.get(track.target_id):
                observer.on_track(track, message)
        middleware.publish(
            DETECTIONS, detections_message(types, tracks, frame.stamp_ns, frame.frame_id)
        )
        with self._changed:
            self._counts = incremented(self._counts, processed=1)
            self._timing.add(now, latency, max(0, now - frame.stamp_ns))
        if middleware.has_subscribers(DEBUG_IMAGE):
            image = np.asarray(cv2.cvtColor(frame.pixels.rgb(), cv2.COLOR_RGB2BGR), np.uint8)
            draw_tracks(image, self._tracks)
            middleware.publish(
                DEBUG_IMAGE, image_message(types, image, "bgr8", frame.stamp_ns, frame.frame_id)
            )

    def _observe(self, request: _Request) -> None:
        """From now on, the target belongs to whoever asked for it last."""
        _end(self._observers.pop(request.target_id, None), End.REPLACED, _REPLACED)
        if request.observer is not None:
            self._observers[request.target_id] = request.observer

    def _all_observers(self) -> list[GoalObserver]:
        with self._changed:
            asked = [*self._orders.requests.values(), *list(self._waiting.values())]
        return [*list(self._observers.values()), *(r.observer for r in asked if r.observer)]

    def _release(self, reason: str) -> None:
        """Let go of all observers, when the worker has ended."""
        for observer in self._all_observers():
            observer.on_end(End.CLOSED, reason)
        self._observers.clear()

    def _drop(self, target_id: str | None) -> None:
        self._session.stop(target_id)
        self._tracks = tuple(t for t in self._tracks if target_id not in (None, t.target_id))

    def _forget(self, target_id: str | None) -> None:
        self._drop(target_id)
        known = {*self._waiting, *self._observers}
        for name in known if target_id is None else [target_id]:
            _end(self._observers.pop(name, None), End.STOPPED, _STOPPED)
            if request := self._waiting.pop(name, None):
                _end(request.observer, End.STOPPED, _STOPPED)

    def _forget_all(self, reason: str, kind: str) -> None:
        """Forget the targets, but not the boxes that wait: their image may be about to come."""
        names = ", ".join(map(printable, self._session.targets))
        self._session.stop()
        self._tracks = ()
        for observer in self._observers.values():
            observer.on_end(End.FORGOTTEN, reason)
        self._observers.clear()
        self._throttle.throttle(
            Level.WARN, kind, f"{reason}: " + (f"forgot {names}" if names else "no target was lost")
        )

    def _refuse(self, request: _Request, reason: str) -> None:
        self._waiting.pop(request.target_id, None)
        self._count(refused=1)
        self._log(Level.WARN, f"box of {printable(request.target_id)} refused: {reason}")
        _end(request.observer, End.REFUSED, reason)

    def _fail(self, error: EngineError, *requests: _Request) -> None:
        self._count(failed=1)
        self._throttle.once(Level.ERROR, str(error))
        for request in requests:
            _end(request.observer, End.REFUSED, str(error))

    def _count(self, **by: int) -> None:
        with self._changed:
            self._counts = incremented(self._counts, **by)

    def _log(self, level: Level, text: str) -> None:
        self._middleware.log(level, text)

    def _new_buffer(self) -> RecentImages:
        return RecentImages(
            int(self._values["buffer.frames"]),
            round(float(self._values["buffer.duration"]) * NS),
            int(self._values["buffer.megabytes"]) * 1_000_000,
        )


def _end(observer: GoalObserver | None, end: End, reason: str) -> None:
    if observer is not None:
        observer.on_end(end, reason)


def _idle(frame: Frame) -> Track:
    """What is published for an image while nothing is tracked."""
    return Track(
        target_id="",
        stamp_ns=frame.stamp_ns,
        frame_id=frame.frame_id,
        box=Box(0.0, 0.0, 0.0, 0.0),
        confidence=0.0,
        edge_std=(0.0, 0.0, 0.0, 0.0),
        state=State.IDLE,
        template_age_ns=0,
        template_updated=False,
    )
