"""The published state of a tracker, and the topics that command it, for any middleware."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from mixformerv2_ros.ros.messages import (
    Types,
    init_box_message,
    init_request,
    make_message,
    read_track,
    stamp_ns,
)
from mixformerv2_ros.ros.topics import (
    BEARING_ANGLES,
    COMMANDS,
    DIAGNOSTICS,
    IMAGE_TYPES,
    INIT_BOX,
    INITS,
    OUTPUTS,
    POSE_OUTPUTS,
    SET_PARAMETER,
    STOP_TARGET,
    TARGET_POSE,
    TRACK,
)
from mixformerv2_ros.text import printable, some
from mixformerv2_ros.tracking.boxes import Box
from mixformerv2_ros.tracking.session import State, Track

POLL_S = 0.2
"""Time between two looks at the topics in the graph."""

TOLD = {INIT_BOX: INITS[INIT_BOX], **COMMANDS}
"""Topics of the tracker that a view publishes on, and their types."""

DETECTION_ARRAY = "vision_msgs/msg/Detection2DArray"

MAX_TARGETS = 16
"""Targets that are remembered; the one that was heard of least recently goes first."""
MAX_CANDIDATES = 64
"""Boxes of a detector's message that are kept."""
TRACK_TIMEOUT_S = 2.0
"""Time without a track after which a target is gone."""

POSE_TIMEOUT_S = 0.5
"""Time after which a pose or a bearing is of the past."""

_KEPT_IMAGES = 4


class Remote(Protocol):
    """A node that publishes on the topics `TOLD`."""

    @property
    def types(self) -> Types:
        """The message classes."""

    def publish(self, topic: str, message: Any) -> int:
        """Publish a message; returns the number of subscriptions."""


@dataclass(frozen=True)
class Candidate:
    """A box of a detector.

    Attributes:
        box: The box in pixels.
        label: Class and score, for people.
        stamp_ns: Stamp of its image in nanoseconds.
    """

    box: Box
    label: str
    stamp_ns: int


@dataclass(frozen=True)
class RemoteTopics:
    """What a view subscribes to besides tracks and diagnostics.

    Attributes:
        image: Topic of the images; empty for none.
        detections: Topic of a detector's `vision_msgs/Detection2DArray`; empty for none.
        poses: Whether to take poses and bearings of the target pose node.
    """

    image: str = ""
    detections: str = ""
    poses: bool = False

    def subscriptions(self, view: TrackerView) -> Iterator[tuple[str, str, Callable[[Any], None]]]:
        """Topic, type and callback of every reliable subscription."""
        yield TRACK, OUTPUTS[TRACK], view.receive_track
        yield DIAGNOSTICS, OUTPUTS[DIAGNOSTICS], view.receive_diagnostics
        if self.detections:
            yield self.detections, DETECTION_ARRAY, view.receive_detections
        if self.poses:
            yield TARGET_POSE, POSE_OUTPUTS[TARGET_POSE], view.receive_pose
            yield BEARING_ANGLES, POSE_OUTPUTS[BEARING_ANGLES], view.receive_bearing


class TrackerView:
    """The state of one tracker node; messages may come in another thread.

    Attributes:
        failure: The exception that ended the node's thread; None while it runs.
        malformed: Number of messages that could not be read.
    """

    def __init__(
        self,
        remote: Remote,
        image_topic: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Know nothing yet.

        Args:
            remote: Publishes what the tracker is told.
            image_topic: Full name of the topic of the images; None for a view without them.
            clock: Time in seconds.
        """
        self.failure: BaseException | None = None
        self.malformed = 0
        self.image_topic = image_topic
        self._remote = remote
        self._clock = clock
        self._changed: Callable[[], None] = lambda: None
        self._lock = threading.Lock()
        self._images: deque[Any] = deque(maxlen=_KEPT_IMAGES)
        self._wanted = False
        self._tracks: OrderedDict[str, tuple[Track, float]] = OrderedDict()
        self._candidates: tuple[Candidate, ...] = ()
        self._diagnostics: dict[str, str] = {}
        self._summary = ""
        self._published: Mapping[str, str] = {}
        self._pose: tuple[Any, float] | None = None
        self._bearing: tuple[Any, float] | None = None

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call back after every image, from the node's thread."""
        self._changed = callback

    @property
    def images_wanted(self) -> bool:
        """Whether the node should subscribe to the images now."""
        return self._wanted

    def want_images(self, wanted: bool) -> None:
        """Ask the node to subscribe to the images, or to do without them."""
        self._wanted = wanted
        if not wanted:
            self._images.clear()

    def receive_image(self, message: Any) -> None:
        """Take a `sensor_msgs/Image` or `CompressedImage`; it is decoded when it is shown."""
        self._images.append(message)
        self._changed()

    def receive_track(self, message: Any) -> None:
        """Take a `mixformerv2_ros/Track`."""
        try:
            track = read_track(message)
        except ValueError:
            self.malformed += 1
            return
        with self._lock:
            if track.state is State.IDLE:
                self._tracks.clear()
                return
            self._tracks[track.target_id] = (track, self._clock())
            self._tracks.move_to_end(track.target_id)
            while len(self._tracks) > MAX_TARGETS:
                self._tracks.popitem(last=False)

    def receive_detections(self, message: Any) -> None:
        """Take a `vision_msgs/Detection2DArray` of a detector; without a stamp it is ignored."""
        stamp, found = stamp_ns(message), []
        for detection in message.detections[:MAX_CANDIDATES] if stamp else ():
            results = detection.results
            label = ""
            if results:
                best = max(results, key=lambda each: each.hypothesis.score).hypothesis
                label = f"{printable(best.class_id, 24)} {best.score:.2f}"
            found.append(Candidate(init_request(detection).box, label, stamp))
        self._candidates = tuple(found)

    def receive_diagnostics(self, message: Any) -> None:
        """Take a `diagnostic_msgs/DiagnosticArray`; those of other nodes are ignored."""
        for status in message.status:
            if status.name.endswith(": tracker"):
                self._summary = printable(status.message, 200)
                self._diagnostics = {
                    printable(pair.key): printable(pair.value, 200) for pair in status.values
                }

    def receive_pose(self, message: Any) -> None:
        """Take a `geometry_msgs/PoseStamped` of the target pose node."""
        self._pose = (message, self._clock())

    def receive_bearing(self, message: Any) -> None:
        """Take a `geometry_msgs/Vector3Stamped` with azimuth and elevation."""
        self._bearing = (message, self._clock())

    def set_published_topics(self, published: Mapping[str, str]) -> str | None:
        """Take the topics in the graph, types by name; returns the type of the images, if any."""
        self._published = published
        msgtype = published.get(self.image_topic) if self.image_topic is not None else None
        return msgtype if msgtype in IMAGE_TYPES else None

    def image(self) -> Any | None:
        """The newest image that tracks have come for, the newest at all while nothing is tracked.

        A tracker that lags by more than the few images kept here does not hold up the picture.
        """
        kept = list(self._images)
        if not kept:
            return None
        stamps = {track.stamp_ns for track in self.tracks()}
        for message in reversed(kept):
            if stamp_ns(message) in stamps:
                return message
        return kept[-1]

    def tracks(self) -> list[Track]:
        """The last track of every target that was heard of within `TRACK_TIMEOUT_S`."""
        now = self._clock()
        with self._lock:
            return [t for t, at in self._tracks.values() if now - at <= TRACK_TIMEOUT_S]

    def candidates(self) -> tuple[Candidate, ...]:
        """The boxes of the last message of a detector."""
        return self._candidates

    def diagnostics(self) -> dict[str, str]:
        """The last diagnostics of the tracker by name; empty before the first."""
        return dict(self._diagnostics)

    def pose(self) -> Any | None:
        """The last pose of the target, if it came within `POSE_TIMEOUT_S`."""
        return self._recent(self._pose)

    def bearing(self) -> Any | None:
        """The last bearing of the target, if it came within `POSE_TIMEOUT_S`."""
        return self._recent(self._bearing)

    def image_size(self) -> tuple[int, int] | None:
        """Width and height of the tracker's images, from its diagnostics; None before the first."""
        size, _, _ = self._diagnostics.get("image", "").partition(" ")
        width, _, height = size.partition("x")
        return (int(width), int(height)) if width.isdecimal() and height.isdecimal() else None

    def status(self) -> str:
        """What keeps images from coming, else the summary of the diagnostics; one line."""
        topic = self.image_topic
        kind = self._published.get(topic) if topic is not None else None
        if kind is not None and kind not in IMAGE_TYPES:
            expected = " or ".join(IMAGE_TYPES)
            return f"topic {topic} must be of type {expected}, got {printable(kind)}"
        if topic is not None and self._wanted and kind is None:
            others = sorted(name for name, t in self._published.items() if t in IMAGE_TYPES)
            known = f"image topics: {some(others)}" if others else "no other image topics found"
            return f"no publisher on {topic}; {known}"
        return self._summary or "no diagnostics of a tracker received"

    def start(self, box: Box, target_id: str, stamp: int, frame_id: str) -> str:
        """Start a target on the image of that stamp, 0 for the next one; a line for the user."""
        message = init_box_message(self._remote.types, box, target_id, stamp, frame_id)
        named = ",".join(f"{value:.4g}" for value in box)
        return _told(f"box {named} published", self._remote.publish(INIT_BOX, message))

    def stop(self, target_id: str) -> str:
        """Stop a target, all with an empty name; returns a line for the user."""
        message = make_message(self._remote.types, COMMANDS[STOP_TARGET], data=target_id)
        name = printable(target_id) if target_id else "all targets"
        with self._lock:
            if target_id:
                self._tracks.pop(target_id, None)
            else:
                self._tracks.clear()
        return _told(f"stop of {name} published", self._remote.publish(STOP_TARGET, message))

    def set_parameter(self, name: str, value: object) -> str:
        """Ask the tracker to change a parameter; returns a line for the user."""
        message = make_message(
            self._remote.types, COMMANDS[SET_PARAMETER], key=name, value=str(value)
        )
        return _told(f"{name} {value} published", self._remote.publish(SET_PARAMETER, message))

    def _recent(self, entry: tuple[Any, float] | None) -> Any | None:
        if entry is None or self._clock() - entry[1] > POSE_TIMEOUT_S:
            return None
        return entry[0]


def _told(line: str, subscribers: int) -> str:
    return line if subscribers else f"{line}, but nobody subscribes; is the tracker running?"
