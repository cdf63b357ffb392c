"""What goes into a stream and what comes out of it: images, init boxes; steps and events."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto

from mixformerv2_ros.errors import BoxError, EngineError, ImageError
from mixformerv2_ros.text import MAX_ERROR, printable
from mixformerv2_ros.tracking.boxes import Box
from mixformerv2_ros.tracking.frame import Frame
from mixformerv2_ros.tracking.image_buffer import BufferedImage
from mixformerv2_ros.tracking.session import Track

DEFAULT_TARGET = "target"
"""Name of a target that was started without one."""


@dataclass(frozen=True, eq=False)
class InitRequest:
    """An init box: a target to be tracked.

    Compared by identity: the request that a target was started by is what it can be stopped by.

    Attributes:
        box: The box in pixels of its image, not checked.
        target_id: Name of the target.
        stamp_ns: Stamp of the image that the box was drawn on; None means the next image.
    """

    box: Box
    target_id: str = DEFAULT_TARGET
    stamp_ns: int | None = None


@dataclass(eq=False)
class StreamImage(BufferedImage):
    """An image on its way into a stream.

    Attributes:
        decode: Gives the frame; raises ImageError.
        decode_reduced: The same at 1/n of its size, n 2, 4 or 8, or in full where that is not
            faster (see `compressed.decode_compressed`); None for images that are not compressed.
        name: What the image is called in events, such as `image 12`.
    """

    decode: Callable[[], Frame] = field(kw_only=True)
    decode_reduced: Callable[[int], Frame] | None = field(default=None, kw_only=True)
    name: str = field(default="image", kw_only=True)
    time_ns: int | None = field(default=None, init=False)
    """Stream time of the image, once it has been accepted."""


class EventKind(Enum):
    """What an event is about."""

    STARTED = auto()
    """A target is tracked from now on."""
    REJECTED = auto()
    """No target can be started from an init box."""
    REACQUIRED = auto()
    """A lost target was found again elsewhere in the image."""
    CORRECTED = auto()
    """A target goes on from the box of a detection."""
    DETECTIONS_UNUSED = auto()
    """Detections cannot be used: another frame_id, no stamp, no boxes."""
    REPLACED = auto()
    """Another init box took the target over."""
    STOPPED = auto()
    """A target, or an init box that waited, was stopped."""
    FORGOTTEN = auto()
    """A target that had started was reset with the stream."""
    RESET = auto()
    """The targets were reset because the images' time or size changed."""
    UNDECODABLE = auto()
    """An image cannot be decoded and was skipped."""
    LATE = auto()
    """An image is older than one before it and was dropped."""
    STRAY = auto()
    """An image of another time or size than its neighbours was dropped."""
    NO_TIME = auto()
    """Stamps are zero or stand still; durations are taken from arrival times."""
    ENCODING = auto()
    """The encoding of the images changed, which changes nothing else."""
    BITS = auto()
    """The used bits of 16-bit images were measured."""
    ENGINE_FAILED = auto()
    """The engine failed on an image, for which there is no step."""


@dataclass(frozen=True)
class Event:
    """Something that happened in a stream.

    Attributes:
        kind: What.
        text: One printable line, without the name of an image.
        request: The init box that it is about; None where it is about images.
        image: The image that it is about; None where it is about an init box.
        error: What the engine or the decoder raised; None elsewhere.
        reason: Why an init box was refused, without its name; the targets that a reset ended;
            empty elsewhere.
    """

    kind: EventKind
    text: str
    request: InitRequest | None = None
    image: StreamImage | None = None
    error: EngineError | ImageError | None = None
    reason: str = ""


@dataclass(frozen=True)
class Step:
    """One image that was searched for the targets.

    Attributes:
        image: The image.
        frame: The image, decoded.
        tracks: One track per target; empty while nothing is tracked.
    """

    image: StreamImage
    frame: Frame
    tracks: tuple[Track, ...]


Output = Step | Event


def raise_failure(event: Event) -> None:
    """Raise what ends an offline run, where a node would go on.

    Raises:
        BoxError: no target can be started from an init box.
        EngineError: the engine failed.
    """
    if event.kind is EventKind.REJECTED:
        name = DEFAULT_TARGET if event.request is None else event.request.target_id
        named = "" if name == DEFAULT_TARGET else f"target {printable(name)}: "
        raise BoxError(named + event.reason)
    if isinstance(event.error, EngineError):
        raise event.error


def rejected(request: InitRequest, reason: str) -> Event:
    """The event of an init box that no target is started from."""
    name = printable(request.target_id)
    text = f"init box of {name} rejected: {reason}"
    return Event(EventKind.REJECTED, text, request, reason=reason)


def replaced(request: InitRequest) -> Event:
    """The event of a target, or an init box, that another one took the place of."""
    return Event(EventKind.REPLACED, "target replaced by another init box", request)


def stopped(request: InitRequest) -> Event:
    """The event of a target, or an init box, that was stopped by command."""
    return Event(EventKind.STOPPED, "target stopped", request)


def undecodable(image: StreamImage, error: ImageError) -> Event:
    """The event of an image that cannot be decoded."""
    return Event(EventKind.UNDECODABLE, printable(error, MAX_ERROR), image=image, error=error)
