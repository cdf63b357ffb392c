"""Recorded images through a stream: every frame, in order, the same result every time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial

from mixformerv2_ros.errors import BoxError, ImageError, SourceError
from mixformerv2_ros.interfaces import typestore
from mixformerv2_ros.io.bag_reader import BagMessage, BagReader, DamagedBagError, Topic
from mixformerv2_ros.io.bag_writer import BagWriter
from mixformerv2_ros.ros.messages import (
    detections_message,
    image_frame,
    init_request,
    stamp_ns,
    track_message,
)
from mixformerv2_ros.ros.topics import (
    DETECTIONS,
    IMAGE_TYPES,
    INIT_BOX,
    INITS,
    OUTPUTS,
    TRACK,
    TRACK_PREDICTED,
)
from mixformerv2_ros.text import printable
from mixformerv2_ros.tracking.boxes import Box, check_form
from mixformerv2_ros.tracking.events import (
    DEFAULT_TARGET,
    InitRequest,
    Output,
    Step,
    StreamImage,
    raise_failure,
)
from mixformerv2_ros.tracking.frame import Frame
from mixformerv2_ros.tracking.image_buffer import INIT_TOLERANCE_NS
from mixformerv2_ros.tracking.prediction import PredictionSettings, TrackPredictor
from mixformerv2_ros.tracking.stream import Stream

TRACK_TOPIC = f"/{TRACK}"
DETECTIONS_TOPIC = f"/{DETECTIONS}"
TRACK_PREDICTED_TOPIC = f"/{TRACK_PREDICTED}"


@dataclass(eq=False)
class RecordedImage(StreamImage):
    """An image message of a recording; it arrived when it was recorded.

    Attributes:
        index: Number of the image on its topic, from 0.
        message: The message as it was recorded.
    """

    index: int = field(kw_only=True)
    message: BagMessage = field(kw_only=True)


@dataclass(frozen=True)
class Start:
    """A target to start, at the first image that fits every condition given.

    Attributes:
        box: The box in that image.
        target_id: Name of the target.
        index: Number of the image.
        stamp_ns: Stamp of the image; a later one serves up to `INIT_TOLERANCE_NS` after it.
        record_ns: Earliest record time of the image.
        sent_ns: When the box itself was recorded; None for one that was not.
    """

    box: Box
    target_id: str = DEFAULT_TARGET
    index: int | None = None
    stamp_ns: int | None = None
    record_ns: int | None = None
    sent_ns: int | None = None

    def fits(self, image: RecordedImage) -> bool:
        """Whether the target starts in `image`, if it has not started before."""
        if self.index is not None and image.index < self.index:
            return False
        if self.record_ns is not None and image.arrival_ns < self.record_ns:
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


def choose_starts(
    reader: BagReader,
    topic: Topic,
    box: Box | None,
    start_frame: int | None = None,
    start_time: float | None = None,
    init_topics: Sequence[str] = (),
) -> list[Start]:
    """The targets to start: one box, or the init boxes of the recording.

    Args:
        reader: The recording.
        topic: Its images.
        box: The box; None takes the recorded ones.
        start_frame: Number of the image of the box; None means the first.
        start_time: The box is on the first image recorded this many seconds after the first one.
        init_topics: Further topics of recorded init boxes.

    Raises:
        SourceError: the recording has no images, or `init_topics` are not in it.
    """
    if box is None:
        return recorded_starts(reader, init_topics)
    if start_time is None:
        return [Start(box, index=start_frame or 0)]
    first = next(reader.messages([topic.name]), None)
    if first is None:
        raise SourceError(f"recording {reader.path} has no images on {topic.name}")
    return [Start(box, record_ns=first.record_ns + round(start_time * 1e9))]


def choose_image_topic(reader: BagReader, name: str | None) -> Topic:
    """The image topic of that name, or the only one there is.

    Raises:
        SourceError: there is no such topic, or none was named where there are several.
    """
    found = [topic for topic in reader.of_types(*IMAGE_TYPES) if topic.count != 0]
    names = ", ".join(printable(topic.name) for topic in found)
    if not found:
        raise SourceError(
            f"recording {reader.path} must have images ({' or '.join(IMAGE_TYPES)}), got topics "
            f"{', '.join(map(printable, sorted(reader.topics))) or 'none'}"
        )
    if name is not None:
        for topic in found:
            if topic.name.lstrip("/") == name.lstrip("/"):
                return topic
        raise SourceError(
            f"recording {reader.path} has no images on {printable(name)}; image topics: {names}"
        )
    if len(found) > 1:
        raise SourceError(
            f"recording {reader.path} has several image topics, give --image-topic: {names}"
        )
    return found[0]


def images(reader: BagReader, topic: Topic) -> Iterator[RecordedImage]:
    """The images of a topic in the order of their recording.

    A message that is not of its type is an image that cannot be decoded.

    Raises:
        DamagedBagError: after the last image that can be read.
    """
    for index, message in enumerate(reader.messages([topic.name])):
        name = f"image {index} of the recording"
        try:
            content = reader.deserialize(message)
        except DamagedBagError as error:
            yield RecordedImage(
                message.record_ns,
                message.record_ns,
                0,
                decode=partial(_not_an_image, str(error)),
                name=name,
                index=index,
                message=message,
            )
            continue
        yield RecordedImage(
            stamp_ns(content),
            message.record_ns,
            len(content.data),
            decode=partial(image_frame, content),
            decode_reduced=partial(image_frame, content) if hasattr(content, "format") else None,
            name=name,
            index=index,
            message=message,
        )


def _not_an_image(reason: str) -> Frame:
    raise ImageError(reason)


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
                f"{printable(name)}; topics with boxes: {known or 'none'}"
            )
        names.add(topic.name)
    starts = []
    try:
        for message in reader.messages(names) if names else ():
            content = reader.deserialize(message)
            try:
                request = init_request(content)
            except (AttributeError, TypeError) as error:
                raise SourceError(
                    f"recording {reader.path} defines {printable(message.topic.msgtype)} in a way "
                    f"that is not known: {printable(error)}"
                ) from error
            # Without a stamp the box belongs to the image that comes next.
            record_ns = message.record_ns if request.stamp_ns is None else None
            starts.append(
                Start(
                    request.box,
                    request.target_id,
                    stamp_ns=request.stamp_ns,
                    record_ns=record_ns,
                    sent_ns=message.record_ns,
                )
            )
    except DamagedBagError:
        # The images end at the same damage, and the replay reports it then.
        if not starts:
            raise
    return starts


def assign_images(reader: BagReader, topic: Topic, starts: Sequence[Start]) -> list[Start]:
    """Find the images that recorded boxes with a stamp belong to.

    A recording of a loop holds every stamp once per pass: of the images that fit a box's stamp best
    it belongs to the one that was recorded nearest to it. The recording is read once more for that,
    if it holds such boxes; no image is decoded.

    Returns:
        The starts; those whose image was found have its index in place of the stamp.
    """
    moving = [s for s in starts if s.stamp_ns is not None and s.sent_ns is not None]
    if not moving:
        return list(starts)
    nearest: dict[int, tuple[int, int, int]] = {}
    with suppress(DamagedBagError):  # the replay ends at the same damage, and reports it
        for image in images(reader, topic):
            for number, start in enumerate(moving):
                if start.fits(image):
                    late = image.stamp_ns - (start.stamp_ns or 0)
                    found = (late, abs(image.arrival_ns - (start.sent_ns or 0)), image.index)
                    nearest[number] = min(found, nearest.get(number, found))
    assigned = [start for start in starts if start not in moving]
    for number, start in enumerate(moving):
        if number in nearest:
            start = replace(start, index=nearest[number][2], stamp_ns=None)
        assigned.append(start)
    return assigned


def replay(
    recorded: Iterable[RecordedImage], stream: Stream, starts: Sequence[Start]
) -> Iterator[Output]:
    """Follow targets through the images, from the first one that a target starts in.

    Images before that are not decoded. Boxes that fit no image are refused before the first image
    is read, all others on their own image.

    Yields:
        What the stream makes of the images. Every `Step.image` is a `RecordedImage`.

    Raises:
        BoxError: no target can be tracked from a box.
        EngineError: the engine failed.
        SourceError: the images ended before every target could start.
    """
    for start in starts:
        try:
            check_form(start.box)
        except BoxError as error:
            raise BoxError(f"target {printable(start.target_id)}: {error}") from error
    waiting = list(starts)
    begun = False
    for image in recorded:
        due = [start for start in waiting if start.fits(image)]
        begun = begun or bool(due)
        if not begun:
            continue
        waiting = [start for start in waiting if start not in due]
        outputs: list[Output] = []
        for start in due:
            outputs += stream.add_box(InitRequest(start.box, start.target_id))
        outputs += stream.process(image)
        for output in outputs:
            if not isinstance(output, Step):
                raise_failure(output)
        yield from outputs
    yield from stream.finish()
    if waiting:
        raise SourceError(f"{waiting[0]}, which is not in the recording")
    if stream.pending:
        name = printable(stream.pending[0].target_id)
        raise SourceError(f"the recording ends before an image that target {name} can start in")


class RecordedPrediction:
    """Tracks extrapolated from the stamp of an image to the time at which it was recorded."""

    def __init__(self, stream: Stream) -> None:
        """Predict the tracks of a stream."""
        self._stream = stream
        self._predictor = TrackPredictor()
        self._settings = PredictionSettings()

    def write(self, writer: BagWriter, step: Step) -> None:
        """Write the predictions of an image; none where its stamp is no time, or out of reach."""
        if not self._stream.stamps_usable:
            return
        self._predictor.update(step.tracks, self._settings)
        now = step.image.arrival_ns
        for track in step.tracks:
            if (predicted := self._predictor.predicted(track, now, self._settings)) is not None:
                message = track_message(typestore().types, predicted)
                writer.write(TRACK_PREDICTED_TOPIC, OUTPUTS[TRACK_PREDICTED], message, now)


def write_step(writer: BagWriter, step: Step, copy_image: bool = False) -> None:
    """Write an image's tracks and detections, and the image itself if asked for.

    Messages carry the stamp and frame_id of the image and are recorded when it was recorded.

    Args:
        writer: The recording to write.
        step: A step of `replay`.
        copy_image: Whether to write the image, too.
    """
    types, image = typestore().types, step.image
    if copy_image and isinstance(image, RecordedImage):
        writer.copy(image.message)
    for track in step.tracks:
        message = track_message(types, track)
        writer.write(TRACK_TOPIC, "mixformerv2_ros/msg/Track", message, image.arrival_ns)
    frame = step.frame
    detections = detections_message(types, step.tracks, frame.stamp_ns, frame.frame_id)
    writer.write(DETECTIONS_TOPIC, "vision_msgs/msg/Detection2DArray", detections, image.arrival_ns)
