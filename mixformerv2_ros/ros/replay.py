"""Recorded images through a session: every frame, in order, the same result every time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mixformerv2_ros.errors import BoxError, ImageError, SourceError
from mixformerv2_ros.interfaces import typestore
from mixformerv2_ros.io.bag_reader import BagMessage, BagReader, DamagedBagError, Topic
from mixformerv2_ros.io.bag_writer import BagWriter
from mixformerv2_ros.ros.messages import (
    DEFAULT_TARGET,
    INIT_TOLERANCE_NS,
    detections_message,
    image_frame,
    init_request,
    stamp_ns,
    track_message,
)
from mixformerv2_ros.ros.topics import DETECTIONS, IMAGE_TYPES, INIT_BOX, INITS, TRACK
from mixformerv2_ros.text import printable
from mixformerv2_ros.tracking.boxes import Box, check_box
from mixformerv2_ros.tracking.frame import Frame
from mixformerv2_ros.tracking.session import Session, Track

TRACK_TOPIC = f"/{TRACK}"
DETECTIONS_TOPIC = f"/{DETECTIONS}"


@dataclass(frozen=True)
class RecordedImage:
    """An image message of a recording, decoded on demand.

    Attributes:
        index: Number of the image on its topic, from 0.
        record_ns: When it was recorded, in nanoseconds.
        stamp_ns: Its header's stamp in nanoseconds.
        content: The deserialized message.
        message: The message as it was recorded.
    """

    index: int
    record_ns: int
    stamp_ns: int
    content: Any
    message: BagMessage

    def frame(self) -> Frame:
        """Decode the image.

        Raises:
            ImageError: it cannot be decoded; the message says which image it is.
        """
        try:
            return image_frame(self.content)
        except ImageError as error:
            raise ImageError(f"image {self.index} of the recording: {error}") from error


@dataclass(frozen=True)
class Start:
    """A target to start, at the first image that fits every condition given.

    Attributes:
        box: The box in that image.
        target_id: Name of the target.
        index: Number of the image.
        stamp_ns: Stamp of the image; a later one serves up to `INIT_TOLERANCE_NS` after it.
        record_ns: Earliest record time of the image.
    """

    box: Box
    target_id: str = DEFAULT_TARGET
    index: int | None = None
    stamp_ns: int | None = None
    record_ns: int | None = None

    def fits(self, image: RecordedImage) -> bool:
        """Whether the target starts in `image`, if it has not started before."""
        if self.index is not None and image.index < self.index:
            return False
        if self.record_ns is not None and image.record_ns < self.record_ns:
            return False
        return self.stamp_ns is None or 0 <= image.stamp_ns - self.stamp_ns <= INIT_TOLERANCE_NS

    def __str__(self) -> str:
        """The target, its box, and when it should have started."""
        if self.stamp_ns is not None:
            when = f"the image of {self.stamp_ns / 1e9:.3f} s"
        elif self.record_ns is not None:
            when = f"an image recorded at {self.record_ns / 1e9:.3f} s or later"
        else:
            when = f"image {self.index}"
        box = ",".join(f"{value:g}" for value in self.box)
        return f"box {box} of target {printable(self.target_id)} belongs to {when}"


@dataclass(frozen=True)
class ReplayedFrame:
    """One frame of a replay.

    Attributes:
        image: The recorded image.
        frame: The image, decoded.
        tracks: One track per target.
    """

    image: RecordedImage
    frame: Frame
    tracks: list[Track]


def choose_image_topic(reader: BagReader, name: str | None) -> Topic:
    """The image topic of that name, or the only one there is.

    Raises:
        SourceError: there is no such topic, or none was named where there are several.
    """
    found = [topic for topic in reader.of_types(*IMAGE_TYPES) if topic.count != 0]
    names = ", ".join(printable(topic.name) for topic in found)
    if not found:
        raise SourceError(
            f"recording {reader.path} must hold images ({' or '.join(IMAGE_TYPES)}), got topics "
            f"{', '.join(map(printable, sorted(reader.topics))) or 'none'}"
        )
    if name is not None:
        for topic in found:
            if topic.name.lstrip("/") == name.lstrip("/"):
                return topic
        raise SourceError(
            f"recording {reader.path} has no images on {printable(name)}, but on {names}"
        )
    if len(found) > 1:
        raise SourceError(f"recording {reader.path} has several image topics, name one: {names}")
    return found[0]


def images(reader: BagReader, topic: Topic) -> Iterator[RecordedImage]:
    """The images of a topic in the order of their recording.

    Raises:
        DamagedBagError: after the last image before the damage.
    """
    for index, message in enumerate(reader.messages([topic.name])):
        content = reader.deserialize(message)
        yield RecordedImage(index, message.record_ns, stamp_ns(content), content, message)


def recorded_starts(reader: BagReader, topics: Sequence[str]) -> list[Start]:
    """The boxes in a recording that ask for targets, in the order of their recording.

    Args:
        reader: The recording.
        topics: Topics to look at besides all those of type `mixformerv2_ros/msg/InitBox`.

    Raises:
        SourceError: a topic is missing or of another type.
    """
    names = {topic.name for topic in reader.of_types(INITS[INIT_BOX])}
    for name in topics:
        topic = reader.topics.get(name) or reader.topics.get(f"/{name}")
        if topic is None or topic.msgtype not in INITS.values():
            known = ", ".join(printable(t.name) for t in reader.of_types(*INITS.values()))
            raise SourceError(
                f"recording {reader.path} has no boxes ({', '.join(INITS.values())}) on "
                f"{printable(name)}, but on {known or 'no topic'}"
            )
        names.add(topic.name)
    starts = []
    try:
        for message in reader.messages(names) if names else ():
            request = init_request(reader.deserialize(message))
            # Without a stamp the box belongs to the image that comes next.
            record_ns = message.record_ns if request.stamp_ns is None else None
            starts.append(
                Start(
                    request.box,
                    request.target_id,
                    stamp_ns=request.stamp_ns,
                    record_ns=record_ns,
                )
            )
    except DamagedBagError:
        # The images end at the same damage, and the replay reports it then.
        if not starts:
            raise
    return starts


def replay(
    recorded: Iterable[RecordedImage], session: Session, starts: Sequence[Start]
) -> Iterator[ReplayedFrame]:
    """Follow the targets through the images, from the first one that a target starts in.

    A target that starts while others are followed is found in its frame by its box, the others by
    the tracker; a start for a target that is followed starts it anew.

    Every box is checked against the size of the first frame before that frame is returned.

    Raises:
        BoxError: no target can be tracked from a box.
        ImageError: an image cannot be decoded.
        SourceError: the images ended before every target could start.
    """
    pending = list(starts)
    checked = False
    for image in recorded:
        due = [start for start in pending if start.fits(image)]
        if not due and not session.targets:
            continue
        pending = [start for start in pending if start not in due]
        frame = image.frame()
        if not checked:
            _check_boxes(starts, frame)
            checked = True
        restarted = {start.target_id for start in due}
        tracks = {}
        if not restarted.issuperset(session.targets):
            tracks = {track.target_id: track for track in session.update(frame)}
        for start in due:
            tracks[start.target_id] = session.start(frame, start.box, start.target_id)
        yield ReplayedFrame(image, frame, list(tracks.values()))
    if pending:
        raise SourceError(f"{pending[0]}, which the recording does not hold")


def _check_boxes(starts: Sequence[Start], frame: Frame) -> None:
    for start in starts:
        try:
            check_box(start.box, frame.pixels.width, frame.pixels.height)
        except BoxError as error:
            raise BoxError(f"target {printable(start.target_id)}: {error}") from error


def write_frame(writer: BagWriter, replayed: ReplayedFrame, copy_image: bool = False) -> None:
    """Write a frame's tracks and detections, and the image itself if asked for.

    Messages carry the stamp and frame_id of the image and are recorded when it was recorded.
    """
    types = typestore().types
    record_ns = replayed.image.record_ns
    if copy_image:
        writer.copy(replayed.image.message)
    for track in replayed.tracks:
        message = track_message(types, track)
        writer.write(TRACK_TOPIC, "mixformerv2_ros/msg/Track", message, record_ns)
    frame = replayed.frame
    detections = detections_message(types, replayed.tracks, frame.stamp_ns, frame.frame_id)
    writer.write(DETECTIONS_TOPIC, "vision_msgs/msg/Detection2DArray", detections, record_ns)
