"""What has come for the worker of a live tracker: images, init boxes, commands."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from mixformerv2_ros.ros.live.goal_observer import GoalObserver
from mixformerv2_ros.tracking.detections import DetectionSet
from mixformerv2_ros.tracking.events import InitRequest, StreamImage
from mixformerv2_ros.tracking.settings import TrackerSettings

MAX_DETECTION_SETS = 8
"""Sets of detections that wait while the worker is busy."""


@dataclass(frozen=True, eq=False)
class GoalRequest(InitRequest):
    """An init box with the observer of its target, if there is one."""

    observer: GoalObserver | None = None


@dataclass
class Mail:
    """What came since the last look, in the order in which it is to be handled.

    Attributes:
        stops: Targets to stop; None is all of them.
        releases: Targets to stop if they are still this observer's.
        reset: Whether to forget everything else.
        settings: New settings of the tracker; None if they have not changed.
        requests: Init boxes by the name of their target.
        detections: Detections of the last images, the oldest first.
        images: Images in the order of their arrival; only the newest is to be searched.
        now_ns: A time after the arrival of the images; 0 for none.
    """

    stops: list[str | None] = field(default_factory=list)
    releases: list[tuple[str, GoalObserver]] = field(default_factory=list)
    reset: bool = False
    settings: TrackerSettings | None = None
    requests: dict[str, GoalRequest] = field(default_factory=dict)
    detections: deque[DetectionSet] = field(
        default_factory=lambda: deque(maxlen=MAX_DETECTION_SETS)
    )
    images: deque[StreamImage] = field(default_factory=deque)
    now_ns: int = 0

    def __bool__(self) -> bool:
        return bool(
            self.stops or self.releases or self.reset
            or self.settings or self.requests or self.detections or self.images or self.now_ns
        )  # fmt: skip


class Mailbox:
    """Mail from any thread to one worker. No method blocks but `wait`."""

    def __init__(self, max_images: int, max_bytes: int, max_requests: int) -> None:
        """Begin empty.

        Args:
            max_images: Images that may wait while the worker is busy; the oldest go first.
            max_bytes: Bytes that they may take.
            max_requests: Init boxes that may wait.
        """
        self._max_images = max_images
        self._max_bytes = max_bytes
        self._max_requests = max_requests
        self._changed = threading.Condition()
        self._mail = Mail()
        self._nbytes = 0
        self._closed = False
        self._busy = False

    @property
    def idle(self) -> bool:
        """Whether everything that came in has been handled."""
        with self._changed:
            return not (self._mail or self._busy)

    @property
    def requests(self) -> tuple[GoalRequest, ...]:
        """Init boxes that the worker has not taken."""
        with self._changed:
            return tuple(self._mail.requests.values())

    def put_image(self, image: StreamImage) -> bool:
        """Add an image; returns whether it replaces one that the worker has not taken."""
        with self._changed:
            images = self._mail.images
            replaces = bool(images)
            images.append(image)
            self._nbytes += image.nbytes
            while len(images) > 1 and (
                len(images) > self._max_images or self._nbytes > self._max_bytes
            ):
                self._nbytes -= images.popleft().nbytes
            self._changed.notify()
        return replaces

    def put_time(self, now_ns: int) -> None:
        """Tell the worker the time, for what waits for images that may not come."""
        with self._changed:
            self._mail.now_ns = now_ns
            self._changed.notify()

    def put_detections(self, found: DetectionSet) -> None:
        """Add the detections of an image; the oldest of too many go."""
        with self._changed:
            self._mail.detections.append(found)
            self._changed.notify()

    def put_request(self, request: GoalRequest) -> GoalRequest | None:
        """Add an init box; returns the one of the same name that it replaces.

        Raises:
            OverflowError: too many of other names wait; the box is not added.
        """
        with self._changed:
            requests = self._mail.requests
            if request.target_id not in requests and len(requests) >= self._max_requests:
                raise OverflowError(self._max_requests)
            replaced = requests.get(request.target_id)
            requests[request.target_id] = request
            self._changed.notify()
        return replaced

    def stop(self, target_id: str | None) -> list[GoalRequest]:
        """Ask for a target (None: all) to be stopped; returns the init boxes taken back."""
        with self._changed:
            requests = self._mail.requests
            names = list(requests) if target_id is None else [target_id]
            revoked = [requests.pop(name) for name in names if name in requests]
            self._mail.stops.append(target_id)
            self._changed.notify()
        return revoked

    def release(self, target_id: str, observer: GoalObserver) -> None:
        """Ask for a target to be stopped if it is still this observer's."""
        with self._changed:
            request = self._mail.requests.get(target_id)
            if request is not None and request.observer is observer:
                del self._mail.requests[target_id]
            self._mail.releases.append((target_id, observer))
            self._changed.notify()

    def reset(self) -> None:
        """Ask for a reset; images that wait are dropped."""
        with self._changed:
            self._mail.images.clear()
            self._mail.detections.clear()
            self._nbytes = 0
            self._mail.reset = True
            self._changed.notify()

    def set_settings(self, settings: TrackerSettings) -> None:
        """Ask for other settings."""
        with self._changed:
            self._mail.settings = settings
            self._changed.notify()

    def close(self) -> None:
        """Let `wait` return None from now on."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def wait(self, has_work: Callable[[], bool]) -> Mail | None:
        """Wait for mail, or for other work of the worker; None when the mailbox is closed."""
        with self._changed:
            self._busy = False
            self._changed.wait_for(lambda: self._mail or self._closed or has_work())
            if self._closed:
                return None
            mail, self._mail = self._mail, Mail()
            self._nbytes = 0
            self._busy = True
        return mail
