"""Which images a stream takes: late ones, strays, and steps that the next image confirms."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto

from mixformerv2_ros.tracking.events import Event, EventKind, StreamImage
from mixformerv2_ros.tracking.frame import NS, Frame
from mixformerv2_ros.tracking.image_buffer import BufferedImage

JUMP_NS = NS
"""A step forward by so much more than the time between the arrivals must be confirmed by the next
image: a clock that was set, a recording played from elsewhere, or a broken stamp."""

LATE_RUN = 3
"""Images in a row that are late, but in order among themselves, after which the clock of the stamps
counts as set back."""


@dataclass(frozen=True, eq=False)
class DecodedImage:
    """An image with its frame."""

    image: StreamImage
    frame: Frame

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.frame.pixels.width, self.frame.pixels.height


class ChangeKind(Enum):
    """Why an image is not simply the next one."""

    LATE = auto()
    """A little older than the one before."""
    BACK = auto()
    """Much older: a recording that loops, or a stray."""
    JUMP = auto()
    """Of a clock that was set: much newer, or a little older as those before; or a broken stamp."""
    SIZE = auto()
    """Of another size."""


@dataclass(frozen=True)
class Change:
    """Difference between an image and the one before.

    Attributes:
        kind: Which.
        text: One line about it.
    """

    kind: ChangeKind
    text: str


@dataclass(frozen=True)
class Decision:
    """What a new image decided.

    Attributes:
        accepted: Images to track in, in order: none, the new one, or the held one and the new one.
        events: Images that were dropped.
        confirmed: The change with which the first accepted image was held; None if it was not.
    """

    accepted: list[DecodedImage]
    events: list[Event] = field(default_factory=list)
    confirmed: Change | None = None


class ImageOrder:
    """Decides which images follow each other. The rules are those of `tracking.stream`.

    Attributes:
        last: The image that was accepted last; None before the first.
    """

    def __init__(self, late_tolerance_ns: int) -> None:
        """Begin before the first image; see `StreamRules.late_tolerance_ns`."""
        self._late_tolerance_ns = late_tolerance_ns
        self._held: tuple[DecodedImage, Change] | None = None
        self._late: list[DecodedImage] = []
        self.last: DecodedImage | None = None

    @property
    def undecided(self) -> bool:
        """Whether an image is held until the next one comes."""
        return self._held is not None

    def take(self, new: DecodedImage) -> Decision:
        """Decide about a new image, and about the one that was held for it."""
        held, self._held = self._held, None
        change = None if self.last is None else self._change(self.last, new)
        events: list[Event] = []
        if held is not None:
            after_held = self._change(held[0], new)
            if _are(ChangeKind.JUMP, change, after_held) and after_held is not None:
                # Forward again: the images are few and far between.
                self.last, self._held = held[0], (new, after_held)
                return Decision([held[0]], [], held[1])
            if self._follows(held[0], new, change, after_held):
                accepted = [held[0]] if after_held is not None else [held[0], new]
                if after_held is not None:
                    events.append(_late(new, after_held))
                self.last = accepted[-1]
                return Decision(accepted, events, held[1])
            events.append(_stray(*held))
        if change is None:
            self.last, self._late = new, []
            return Decision([new], events)
        if change.kind is ChangeKind.LATE:
            return self._take_late(new, change, events)
        self._held = (new, change)
        return Decision([], events)

    def _take_late(self, new: DecodedImage, change: Change, events: list[Event]) -> Decision:
        """Drop a late image, unless those before it show that the clock was set back a little."""
        if self._late and new.frame.stamp_ns <= self._late[-1].frame.stamp_ns:
            self._late.clear()
        self._late.append(new)
        if len(self._late) < LATE_RUN:
            return Decision([], [*events, _late(new, change)])
        self.last, self._late = new, []
        return Decision([new], events, Change(ChangeKind.JUMP, change.text))

    def finish(self) -> list[Event]:
        """Drop an image that is still held: none confirmed it."""
        held, self._held = self._held, None
        return [] if held is None else [_stray(*held)]

    def _follows(
        self,
        held: DecodedImage,
        new: DecodedImage,
        change: Change | None,
        after_held: Change | None,
    ) -> bool:
        """Whether `new` follows the held image, and not the one before that."""
        if change is None or (after_held is not None and after_held.kind is not ChangeKind.LATE):
            return False
        if change.kind is not ChangeKind.LATE or self.last is None:
            return True
        # Late after the one, well after the other: as in a loop that is not much longer than the
        # tolerance. Stamps and arrivals are as far apart where images follow each other.
        return _discord(held.image, new.image) <= _discord(self.last.image, new.image)

    def _change(self, before: DecodedImage, after: DecodedImage) -> Change | None:
        """What keeps `after` from being the next image after `before`; None if nothing does."""
        if before.size != after.size:
            sizes = [f"{width}x{height}" for width, height in (before.size, after.size)]
            return Change(ChangeKind.SIZE, f"image size changed from {sizes[0]} to {sizes[1]}")
        step = after.frame.stamp_ns - before.frame.stamp_ns
        if -self._late_tolerance_ns <= step < 0:
            text = f"image {-step / NS:.3f} s older than the newest dropped"
            return Change(ChangeKind.LATE, text)
        if step < 0:
            return Change(ChangeKind.BACK, f"image time stepped back by {-step / NS:.3f} s")
        if step - (after.image.arrival_ns - before.image.arrival_ns) > JUMP_NS:
            return Change(ChangeKind.JUMP, f"image time stepped forward by {step / NS:.3f} s")
        return None


def _are(kind: ChangeKind, *changes: Change | None) -> bool:
    return all(change is not None and change.kind is kind for change in changes)


def _discord(before: BufferedImage, after: BufferedImage) -> int:
    """Difference between the steps of stamp and of arrival time, in nanoseconds."""
    return abs((after.stamp_ns - before.stamp_ns) - (after.arrival_ns - before.arrival_ns))


def _late(dropped: DecodedImage, change: Change) -> Event:
    return Event(EventKind.LATE, change.text, image=dropped.image)


def _stray(dropped: DecodedImage, change: Change) -> Event:
    text = f"single image dropped: {change.text}"
    return Event(EventKind.STRAY, text, image=dropped.image)
