"""The tracker behind a live camera: a mailbox and a thread over `tracking.stream.Stream`.

Callbacks of the middleware put messages into the mailbox and return at once. One worker thread
decodes, tracks and publishes: the newest image wins, and those that it replaced are buffered only.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from mixformerv2_ros.machine import show_thread_name
from mixformerv2_ros.ros.live.detector_monitor import DetectorMonitor
from mixformerv2_ros.ros.live.event_log import EventLog
from mixformerv2_ros.ros.live.goal_observer import End, GoalObserver
from mixformerv2_ros.ros.live.mailbox import GoalRequest, Mail, Mailbox
from mixformerv2_ros.ros.live.middleware import ImageMiddleware
from mixformerv2_ros.ros.live.model import Model
from mixformerv2_ros.ros.live.overlay_publisher import overlay_limits
from mixformerv2_ros.ros.live.prediction_publisher import PredictionPublisher
from mixformerv2_ros.ros.live.statistics import Counts, TrackerStatistics, status
from mixformerv2_ros.ros.live.step_publisher import StepPublisher
from mixformerv2_ros.ros.live.stream_monitor import StreamMonitor
from mixformerv2_ros.ros.live.timed_engine import TimedEngine
from mixformerv2_ros.ros.messages import (
    Level,
    diagnostics_message,
    image_frame,
    init_request,
    point_request,
    read_detections,
    stamp_ns,
)
from mixformerv2_ros.ros.parameters import (
    NODE_PARAMETERS,
    Value,
    check_changes,
    check_values,
    detection_settings,
    prediction_settings,
    stream_rules,
)
from mixformerv2_ros.ros.topics import DIAGNOSTICS
from mixformerv2_ros.text import printable
from mixformerv2_ros.tracking.detection_guide import unused
from mixformerv2_ros.tracking.events import (
    Event,
    EventKind,
    InitRequest,
    Output,
    Step,
    StreamImage,
    rejected,
    replaced,
    stopped,
)
from mixformerv2_ros.tracking.frame import Frame
from mixformerv2_ros.tracking.session import Session
from mixformerv2_ros.tracking.settings import TrackerSettings
from mixformerv2_ros.tracking.stream import PENDING_PER_TARGET, Stream

_ENDS = {
    EventKind.REJECTED: End.REJECTED,
    EventKind.REPLACED: End.REPLACED,
    EventKind.STOPPED: End.STOPPED,
    EventKind.FORGOTTEN: End.RESET,
}

StepObserver = Callable[[Step, Session], None]
"""Sees every step in the worker, after its publication, with the session that made it."""


class LiveTracker:
    """A tracker node without its middleware.

    Attributes:
        failure: The exception that ended the worker; None while it runs.
    """

    def __init__(
        self,
        model: Model,
        values: Mapping[str, Any],
        middleware: ImageMiddleware,
        name: str,
        open_image: Callable[[Any], Frame] = image_frame,
        observer: StepObserver | None = None,
    ) -> None:
        """Create a tracker; `start` starts its worker.

        Args:
            model: The model to track with.
            values: Parameters of the node by name; missing ones have their defaults.
            middleware: The node.
            name: Full name of the node, for diagnostics.
            open_image: Decodes an image message; raises ImageError.
            observer: Sees every step; must return at once.

        Raises:
            ParameterError: see `parameters.check_values`.
        """
        self.failure: BaseException | None = None
        self._model = model
        self._middleware = middleware
        self._name = name
        self._open_image = open_image
        self._observer = observer
        self._values = check_values(values, NODE_PARAMETERS)
        self._rules = rules = stream_rules(self._values)
        self._mailbox = Mailbox(
            rules.buffer_images,
            rules.buffer_bytes,
            PENDING_PER_TARGET * int(self._values["max_targets"]),
        )
        self._publisher = StepPublisher(middleware, overlay_limits(self._values))
        self._predictions = PredictionPublisher(middleware, prediction_settings(self._values))
        self._detection_settings = detection_settings(self._values)
        self._detector = DetectorMonitor(middleware, float(self._values["image_timeout"]))
        self._thread = threading.Thread(target=self._run, name="tracker")
        self._setting = threading.Lock()
        # Of the timer that publishes the diagnostics.
        self._reported = Counts()
        self._monitor = StreamMonitor(middleware, float(self._values["image_timeout"]))
        self._box_received = False
        # Written by the worker alone.
        self._engine = TimedEngine(model.engine)
        self._stream = self._new_stream()
        self._event_log = EventLog(middleware, self._publisher)
        self._requests: tuple[InitRequest, ...] = ()
        self._box_waits = False
        self._observers: dict[str, GoalObserver] = {}

    @property
    def values(self) -> dict[str, Value]:
        """The current parameters by name."""
        return dict(self._values)

    @property
    def targets(self) -> set[str]:
        """Names of the targets that are tracked, catch up, or whose init box is pending."""
        return {request.target_id for request in (*self._requests, *self._mailbox.requests)}

    @property
    def idle(self) -> bool:
        """Whether everything that came in so far has been dealt with."""
        return self._mailbox.idle

    def start(self) -> None:
        """Start the worker thread."""
        self._thread.start()

    def close(self) -> None:
        """Stop the worker thread after the image that it is busy with."""
        self._mailbox.close()
        if self._thread.ident is not None:
            self._thread.join()
        self._end_all("tracking ended: node deactivated")

    def receive_image(self, message: Any) -> None:
        """Take a `sensor_msgs/Image` or `CompressedImage`."""
        now, decode = self._middleware.now_ns(), partial(self._open_image, message)
        # Only compressed images have a format; cv_bridge is for the others.
        reduced = partial(image_frame, message) if hasattr(message, "format") else None
        image = StreamImage(
            stamp_ns(message), now, len(message.data), decode=decode, decode_reduced=reduced
        )
        self._publisher.on_arrival(now, image.stamp_ns, self._mailbox.put_image(image))

    def add_lost(self, count: int) -> None:
        """Count images that the middleware lost before they arrived."""
        self._publisher.count(lost=count)

    def receive_init(self, message: Any) -> None:
        """Take an `InitBox`, `vision_msgs/Detection2D` or `sensor_msgs/RegionOfInterest`."""
        self.start_goal(message, None)

    def receive_point(self, message: Any) -> None:
        """Take a `geometry_msgs/PointStamped`: a click, around which a target starts."""
        size = self._publisher.image_size
        side = float(self._values["init_point.size"]) * min(size or (0, 0))
        request = point_request(message, side)
        if size is None:
            self._on_event(rejected(request, "no image has come that a click could be on"))
        else:
            self._start(request, None)

    def receive_detections(self, message: Any) -> None:
        """Take a `vision_msgs/Detection2DArray` of an object detector, if it is used."""
        if not self._detection_settings.is_on:
            return
        found, unusable = read_detections(message)
        self._detector.on_message(self._middleware.now_ns())
        self._publisher.count(detections=1)
        if unusable:
            self._on_event(
                unused("detections without a box, or with a score that is no number, are not used")
            )
        self._mailbox.put_detections(found)

    def start_goal(self, message: Any, observer: GoalObserver | None) -> str:
        """Take an init box as `receive_init` does, with an observer of its target.

        Returns:
            The name of the target.
        """
        return self._start(init_request(message), observer)

    def _start(self, given: InitRequest, observer: GoalObserver | None) -> str:
        self._box_received = True
        request = GoalRequest(given.box, given.target_id, given.stamp_ns, observer)
        try:
            former = self._mailbox.put_request(request)
        except OverflowError as limit:
            self._on_event(rejected(request, f"too many pending init boxes (limit {limit})"))
        else:
            if former is not None:
                self._on_event(replaced(former))
        return request.target_id

    def stop(self, target_id: str | None = None) -> str:
        """Stop one target or all, and the init boxes that wait; returns one line for the user."""
        known = self.targets
        for request in self._mailbox.stop(target_id):
            self._on_event(stopped(request))
        names = sorted(known if target_id is None else known & {target_id})
        if names:
            return f"stopped: {', '.join(map(printable, names))}"
        return "no target to stop" if target_id is None else f"no target {printable(target_id)}"

    def release(self, target_id: str, observer: GoalObserver) -> None:
        """Stop a target if it is still this observer's, without a callback."""
        self._mailbox.release(target_id, observer)

    def reset(self) -> None:
        """Return to the state after `start`: no targets, init boxes, buffered images or counts."""
        self.stop()
        self._mailbox.reset()
        self._publisher.reset()
        self._reported = Counts()
        self._box_received = False
        self._monitor.reset()

    def set_values(self, changes: Mapping[str, Any]) -> None:
        """Change parameters, all of them or none, before the next image.

        Raises:
            ParameterError: a parameter is unknown or cannot be changed at runtime, or values are
                out of range or inconsistent.
        """
        with self._setting:
            values = check_changes(self._values, changes, NODE_PARAMETERS, running=True)
            self._mailbox.set_settings(self._model.settings(values))
            self._publisher.set_overlay_limits(overlay_limits(values))
            self._predictions.settings = prediction_settings(values)
            self._detection_settings = detection_settings(values)
            self._values = values

    def statistics(self) -> TrackerStatistics:
        """Counts, rates and states as they are now."""
        return self._publisher.statistics(self._stream)

    def publish_diagnostics(self) -> None:
        """Publish the statistics; to be called every `diagnostics.period` from any one thread."""
        statistics, now = self.statistics(), self._middleware.now_ns()
        before, self._reported = self._reported, statistics.counts
        timeout = float(self._values["image_timeout"])
        reason = self._monitor.check(
            statistics, now, self._event_log.undecodable, self._box_received
        )
        seconds = self._monitor.waited_s(statistics, now)
        if seconds > timeout:
            for observer in self._all_observers():
                observer.on_stalled(seconds)
        self._detector.check(now, self._detection_settings.is_on)
        if self._box_waits:
            self._mailbox.put_time(now)
        live = {p.name: self._values[p.name] for p in NODE_PARAMETERS if p.live}
        report = status(statistics, before, self._model.info, self._name, timeout, reason, live)
        message = diagnostics_message(self._middleware.types, report, now)
        self._middleware.publish(DIAGNOSTICS, message)

    def _run(self) -> None:
        show_thread_name()
        try:
            while (mail := self._mailbox.wait(lambda: self._stream.catching_up)) is not None:
                self._handle(mail)
        except BaseException as error:  # reported by whoever owns this tracker
            self.failure = error
            reason = f"tracker failed: {type(error).__name__}: {error}"
            self._middleware.log(Level.ERROR, reason)
            self._end_all(reason)

    def _handle(self, mail: Mail) -> None:
        stream = self._stream
        for target_id in mail.stops:
            self._emit(stream.stop(target_id))
        for target_id, observer in mail.releases:
            for request in stream.requests:
                if isinstance(request, GoalRequest) and request.observer is observer:
                    stream.stop(target_id, request)
        if mail.reset:
            self._event_log.reset()
            stream = self._stream = self._new_stream()
        if mail.settings is not None:
            stream.settings = mail.settings
        stream.detection_settings = self._detection_settings
        for request in mail.requests.values():
            self._emit(stream.add_box(request))
        has_image = bool(mail.images)
        if has_image:
            newest = mail.images.pop()
            for image in mail.images:
                stream.skip(image)
            stream.settings = self._within_budget(stream.settings)
            self._engine.take_spent()  # of catching up
            self._emit(stream.process(newest))
        for found in mail.detections:
            self._emit(stream.add_detections(found))
        if not has_image:
            self._emit(stream.advance())
        if mail.now_ns:
            self._emit(stream.expire(mail.now_ns))
        tracks = self._publisher.tracks
        self._publisher.tracks = tuple(t for t in tracks if t.target_id in stream.targets)
        self._requests = stream.requests
        self._box_waits = bool(stream.pending)

    def _emit(self, outputs: Iterable[Output]) -> None:
        for output in outputs:
            if isinstance(output, Step):
                spent, depth = self._engine.take_spent(), self._stream.session.dynamic_depth
                self._publisher.publish(output, self._observers.get, spent, depth)
                self._predictions.publish(output, self._stream.stamps_usable)
                if self._observer is not None:
                    self._observer(output, self._stream.session)
            else:
                self._on_event(output)

    def _on_event(self, event: Event) -> None:
        """Count and log an event, and tell the observer of its target."""
        self._event_log.add(event)
        kind, request = event.kind, event.request
        observer = request.observer if isinstance(request, GoalRequest) else None
        # A detection may start a target without an init box.
        self._box_received |= kind is EventKind.STARTED
        if request is None or observer is None:
            return
        if kind is EventKind.STARTED:
            self._observers[request.target_id] = observer
        elif kind in _ENDS:
            if self._observers.get(request.target_id) is observer:
                del self._observers[request.target_id]
            observer.on_end(_ENDS[kind], event.reason or event.text)

    def _all_observers(self) -> list[GoalObserver]:
        requests = (*self._requests, *self._mailbox.requests)
        found = [request.observer for request in requests if isinstance(request, GoalRequest)]
        return [observer for observer in found if observer is not None]

    def _end_all(self, reason: str) -> None:
        for observer in self._all_observers():
            observer.on_end(End.CLOSED, reason)
        self._observers.clear()

    def _new_stream(self) -> Stream:
        return Stream(self._engine, self._model.settings(self._values), self._rules)

    def _within_budget(self, settings: TrackerSettings) -> TrackerSettings:
        """As many crops for lost targets as the budget of an image has time for."""
        crops = self._engine.crops_in(float(self._values["reacquire.budget_ms"]) / 1000)
        most = int(self._values["reacquire.crops"])
        return replace(settings, reacquire_crops=min(crops, most))
