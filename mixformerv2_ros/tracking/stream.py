"""The frame loop: images, init boxes and stops in; tracks and events out.

Every rule of a stream stands here, and the live nodes, `replay`, `track`, `evaluate`, `trax` and
`visualize` only move images in and tracks out. No threads, no clock, no ROS.

Broken images
    An image that cannot be decoded is reported and skipped. It touches no target, and its stamp is
    never looked at.
Order
    An image that is up to `StreamRules.late_tolerance_ns` older than the newest is late: it is
    dropped. A larger step back is held until the next image decides: if that one goes on where the
    step led to (a recording that loops), all targets are reset; else the held image was a stray and
    is dropped. A step forward of more than an hour is held in the same way, and resets nothing.
Size
    An image of another size is held likewise: two in a row reset the targets, one is dropped.
Time
    Durations are differences of stamps. Where the stamps are zero or stand still, they are
    differences of arrival (or record) times, and an event says so once.
Init boxes
    A box with a stamp starts on the image of that stamp: on one that is still to come, or on a
    buffered one, from which the target catches up. A box without a stamp starts on the next image.
    A box that arrived after the last image before a reset belongs to the images after it.
Catching up
    A target that starts on a past image is searched for in the buffered images since, silently and
    in slices: at most `StreamRules.catch_up_searches` before every new image, so that the other
    targets go on being reported, and one per call of `advance` while no image is at hand.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto

from mixformerv2_ros.errors import BoxError, EngineError, ImageError
from mixformerv2_ros.model.engine import Engine
from mixformerv2_ros.text import printable
from mixformerv2_ros.tracking.boxes import Box, check_box
from mixformerv2_ros.tracking.frame import Frame
from mixformerv2_ros.tracking.image_buffer import BufferedImage, ImageBuffer, subsample
from mixformerv2_ros.tracking.session import Session, Track
from mixformerv2_ros.tracking.settings import TrackerSettings

NS = 1_000_000_000

DEFAULT_TARGET = "target"
"""Name of a target that was started without one."""

MAX_ID_LENGTH = 256
"""Longest target id; it is repeated in every track."""

PENDING_PER_TARGET = 4
"""Init boxes that may wait for their image, per target that may be tracked."""

FORWARD_STEP_NS = 3600 * NS
"""A step forward that the next image must confirm: a clock that was set, or a broken stamp."""

STILL_IMAGES = 2
"""Images in a row with the stamp of the one before after which stamps count as standing still."""


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
        name: What the image is called in events, such as `image 12`.
    """

    decode: Callable[[], Frame] = field(kw_only=True)
    name: str = field(default="image", kw_only=True)
    time_ns: int | None = field(default=None, init=False)
    """Stream time of the image, once it has been accepted."""


@dataclass(frozen=True)
class StreamRules:
    """What can be tuned of a stream.

    Attributes:
        late_tolerance_ns: An image at most so much older than the newest is dropped as late; a
            larger step back that the next image confirms resets the targets.
        buffer_images, buffer_age_ns, buffer_bytes: Bounds of the image buffer.
        catch_up_images: Buffered images that are searched, at most, when a target that starts on a
            past image begins to catch up; images that arrive meanwhile come on top.
        catch_up_searches: Searches per new image that catching up may take.
        max_targets: Targets tracked at the same time; None for any number.
    """

    late_tolerance_ns: int = NS // 2
    buffer_images: int = 150
    buffer_age_ns: int = 5 * NS
    buffer_bytes: int = 256_000_000
    catch_up_images: int = 30
    catch_up_searches: int = 4
    max_targets: int | None = None


class EventKind(Enum):
    """What an event is about."""

    STARTED = auto()
    """A target is tracked from now on."""
    REFUSED = auto()
    """No target can be started from an init box."""
    REPLACED = auto()
    """Another init box took the target over."""
    STOPPED = auto()
    """A target, or an init box that waited, was stopped."""
    FORGOTTEN = auto()
    """A target was reset with the stream."""
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
        reason: Why an init box was refused, without its name; empty elsewhere.
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


class Stream:
    """Follows targets through one stream of images. Not thread-safe."""

    def __init__(
        self, engine: Engine, settings: TrackerSettings, rules: StreamRules | None = None
    ) -> None:
        """Begin without images and targets."""
        self.rules = rules or StreamRules()
        self.session = Session(engine, settings)
        self._buffer: ImageBuffer[StreamImage] = ImageBuffer(
            self.rules.buffer_images, self.rules.buffer_age_ns, self.rules.buffer_bytes
        )
        self._pending: dict[str, _Pending] = {}
        self._active: dict[str, _Pending] = {}
        self._catching_up: dict[str, _CatchUp] = {}
        self._count = 0
        self._last: _Accepted | None = None
        self._held: _Held | None = None
        self._clock = _Clock()
        self._encoding = ""

    @property
    def settings(self) -> TrackerSettings:
        """Settings of the tracker; they may be replaced between two images."""
        return self.session.settings

    @settings.setter
    def settings(self, settings: TrackerSettings) -> None:
        self.session.settings = settings
        for catch_up in self._catching_up.values():
            catch_up.session.settings = settings

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the targets that are tracked."""
        return self.session.targets

    @property
    def pending(self) -> tuple[InitRequest, ...]:
        """Init boxes that wait for their image, and those whose target is catching up."""
        waiting = [pending.request for pending in self._pending.values()]
        return (*waiting, *(c.pending.request for c in self._catching_up.values()))

    @property
    def requests(self) -> tuple[InitRequest, ...]:
        """All init boxes that are pending or tracked."""
        return (*self.pending, *(active.request for active in self._active.values()))

    @property
    def stamps_usable(self) -> bool:
        """Whether durations are differences of stamps; False where the stamps do not move."""
        return self._clock.usable

    @property
    def catching_up(self) -> bool:
        """Whether `advance` has something to do."""
        return bool(self._catching_up) and self._held is None

    @property
    def buffered(self) -> tuple[int, int]:
        """Number and bytes of the buffered images."""
        return len(self._buffer), self._buffer.nbytes

    def restarted(self) -> Stream:
        """A new stream with the same engine, settings and rules."""
        return Stream(self.session.engine, self.settings, self.rules)

    def add_box(self, request: InitRequest) -> list[Output]:
        """Take an init box; it takes the place of one of the same name that still waits."""
        name = request.target_id
        if len(name) > MAX_ID_LENGTH:
            return [refused(request, f"target id must be at most {MAX_ID_LENGTH} characters")]
        limit = self.rules.max_targets
        if limit is not None and name not in self._pending:
            limit *= PENDING_PER_TARGET
            if len(self._pending) >= limit:
                return [refused(request, f"too many pending init boxes (limit {limit})")]
        outputs: list[Output] = []
        if superseded := self._pending.pop(name, None):
            outputs.append(replaced(superseded.request))
        self._pending[name] = _Pending(request, self._count)
        if self._last is not None:
            outputs += self._start_past(self._last.image.number + 1, None)
        return outputs

    def stop(
        self, target_id: str | None = None, request: InitRequest | None = None
    ) -> list[Output]:
        """Stop a target, or all: what is tracked, catches up or waits for its image.

        Args:
            target_id: Name of the target; None for all.
            request: Stop the target only if it was started by this request, or waits for it.
        """
        outputs: list[Output] = []
        for table in (self._pending, self._active, self._catching_up):
            for name in list(table) if target_id is None else [target_id]:
                entry = table.get(name)
                found = entry.pending if isinstance(entry, _CatchUp) else entry
                if found is None or (request is not None and found.request is not request):
                    continue
                del table[name]
                if table is self._active:
                    self.session.stop(name)
                outputs.append(stopped(found.request))
        return outputs

    def skip(self, image: StreamImage) -> None:
        """Buffer an image that is not to be searched itself, because a newer one is at hand."""
        self._number(image)
        self._buffer.add(image)

    def process(self, image: StreamImage) -> list[Output]:
        """Search the next image for the targets.

        Returns:
            Events and steps in their order. An image that is held gives no step; its step comes
            before that of the image that confirmed it.
        """
        self._number(image)
        try:
            frame = image.decode()
        except ImageError as error:
            return [undecodable(image, error)]
        outputs, accepted = self._accept(_Accepted(image, frame))
        for one in accepted:
            outputs += self._track(one)
        return outputs

    def advance(self) -> list[Output]:
        """Search one buffered image for a target that catches up, while no new one is at hand."""
        if not self.catching_up or self._last is None:
            return []
        return self._catch_up(self._last.image.number + 1, searches=1)

    def finish(self) -> list[Output]:
        """End the stream: an image that is still held was confirmed by none, and is dropped."""
        held, self._held = self._held, None
        return [] if held is None else [_stray(held)]

    # Order, size, time -----------------------------------------------------------------------

    def _number(self, image: StreamImage) -> None:
        self._count += 1
        image.number = self._count

    def _accept(self, new: _Accepted) -> tuple[list[Output], list[_Accepted]]:
        """Decide which images are to be tracked in now that `new` has come."""
        held, self._held = self._held, None
        if self._last is None:
            self._buffer.add(new.image)
            return [], [new]
        change = self._change(self._last, new)
        outputs: list[Output] = []
        if held is not None:
            after_held = self._change(held.accepted, new)
            if self._goes_on(held, new, change, after_held):
                outputs += self._confirm(held)
                if after_held is not None:
                    return [*outputs, _late(new.image, after_held)], [held.accepted]
                self._buffer.add(new.image)
                return outputs, [held.accepted, new]
            outputs.append(_stray(held))
        if change is None:
            self._buffer.add(new.image)
            return outputs, [new]
        if change.kind is _Kind.LATE:
            return [*outputs, _late(new.image, change)], []
        self._held = _Held(new, change)
        return outputs, []

    def _goes_on(
        self, held: _Held, new: _Accepted, change: _Change | None, after_held: _Change | None
    ) -> bool:
        """Whether `new` follows the held image, and not the one before that."""
        if change is None or (after_held is not None and after_held.kind is not _Kind.LATE):
            return False
        if change.kind is not _Kind.LATE or self._last is None:
            return True
        # Late after the one, well after the other: as in a loop that is not much longer than the
        # tolerance. Stamps and arrivals are as far apart where images follow each other.
        return _discord(held.accepted.image, new.image) < _discord(self._last.image, new.image)

    def _change(self, before: _Accepted, after: _Accepted) -> _Change | None:
        """What keeps `after` from being the next image after `before`; None if nothing does."""
        if before.size != after.size:
            sizes = [f"{width}x{height}" for width, height in (before.size, after.size)]
            return _Change(_Kind.SIZE, f"image size changed from {sizes[0]} to {sizes[1]}")
        step = after.frame.stamp_ns - before.frame.stamp_ns
        if -self.rules.late_tolerance_ns <= step < 0:
            return _Change(_Kind.LATE, f"image {-step / NS:.3f} s older than the newest dropped")
        if step < 0:
            return _Change(_Kind.BACK, f"image time stepped back by {-step / NS:.3f} s")
        if step > FORWARD_STEP_NS:
            return _Change(_Kind.FORWARD, f"image time stepped forward by {step / NS:.3f} s")
        return None

    def _confirm(self, held: _Held) -> list[Output]:
        """Go on with a held image as the first of its kind."""
        first = held.accepted
        if held.change.kind is _Kind.FORWARD:
            self._buffer.add(first.image)
            return []
        # Images that were skipped unseen since the last accepted one may be of either side.
        last = 0 if self._last is None else self._last.image.number
        skipped = self._buffer.between(last, first.image.number)
        if held.change.kind is _Kind.BACK:
            kept = [image for image in skipped if image.stamp_ns <= first.frame.stamp_ns]
        else:
            kept = []
        self._buffer.clear([*kept, first.image])
        newest_before = max([last, *(i.number for i in skipped if i not in kept)])
        outputs = self._reset(held.change.text, newest_before)
        self._last = None
        self._clock = _Clock()
        return outputs

    def _reset(self, reason: str, newest_before: int) -> list[Output]:
        """Reset the targets; init boxes that arrived after image `newest_before` go on waiting."""
        names = ", ".join(map(printable, self.targets)) or "none"
        events: list[Output] = [Event(EventKind.RESET, f"{reason}; targets reset: {names}")]
        self.session.stop()
        ended = [*self._active.values(), *(c.pending for c in self._catching_up.values())]
        self._active.clear()
        self._catching_up.clear()
        for pending in ended:
            name = pending.request.target_id
            if pending.newest >= newest_before and name not in self._pending:
                self._pending[name] = pending
            else:
                events.append(Event(EventKind.FORGOTTEN, reason, pending.request))
        return events

    # One image -------------------------------------------------------------------------------

    def _track(self, accepted: _Accepted) -> list[Output]:
        """Catch up, search an accepted image, and start the targets whose box is drawn on it."""
        image, frame = accepted.image, accepted.frame
        outputs: list[Output] = []
        usable = self._clock.usable
        image.time_ns = self._clock.advance(frame.stamp_ns, image.arrival_ns)
        if usable and not self._clock.usable:
            what = "are zero" if frame.stamp_ns == 0 else "stand still"
            text = f"image stamps {what}; durations are taken from arrival times"
            outputs.append(Event(EventKind.NO_TIME, text, image=image))
        encoding = frame.pixels.encoding
        if self._encoding and encoding != self._encoding:
            text = f"image encoding changed from {self._encoding} to {encoding}"
            outputs.append(Event(EventKind.ENCODING, text, image=image))
        self._encoding = encoding
        self._last = accepted
        outputs += self._start_past(image.number, image)
        outputs += self._catch_up(image.number, self.rules.catch_up_searches)
        starts, refusals = self._due(image, frame)
        outputs += refusals
        tracks: dict[str, Track] = {}
        try:
            if not starts.keys() >= set(self.targets):
                found = self.session.update(frame, image.time_ns)
                tracks = {track.target_id: track for track in found}
            for name, pending in list(starts.items()):
                box = pending.request.box
                tracks[name] = self.session.start(frame, box, name, image.time_ns)
                outputs += self._started(pending, f"tracking {printable(name)}")
                del starts[name]
        except EngineError as error:
            outputs += [refused(pending.request, str(error)) for pending in starts.values()]
            text = str(error)
            return [*outputs, Event(EventKind.ENGINE_FAILED, text, image=image, error=error)]
        return [*outputs, Step(image, frame, tuple(tracks.values()))]

    def _due(self, image: StreamImage, frame: Frame) -> tuple[dict[str, _Pending], list[Output]]:
        """Take out the init boxes that start on `image`."""
        starts: dict[str, _Pending] = {}
        refusals: list[Output] = []
        for name, pending in list(self._pending.items()):
            stamp = pending.request.stamp_ns
            if stamp is None or self._buffer.find(stamp) is image:
                del self._pending[name]
                try:
                    self._admit(pending.request, frame, starts)
                except (BoxError, ImageError) as error:
                    refusals.append(refused(pending.request, str(error)))
                else:
                    starts[name] = pending
        return starts, refusals

    def _admit(self, request: InitRequest, frame: Frame, starts: dict[str, _Pending]) -> None:
        """Refuse a box that no target can be started from.

        Raises:
            BoxError, ImageError: why.
        """
        check_box(request.box, frame.pixels.width, frame.pixels.height)
        limit = self.rules.max_targets
        others = {*self.targets, *self._catching_up, *starts} - {request.target_id}
        if limit is not None and len(others) >= limit:
            raise BoxError(f"at most {limit} targets are tracked (max_targets)")

    def _started(self, pending: _Pending, text: str) -> list[Output]:
        """From now on the target belongs to whoever asked for it last."""
        name = pending.request.target_id
        outputs: list[Output] = []
        if former := self._active.get(name):
            outputs.append(replaced(former.request))
        if overtaken := self._catching_up.pop(name, None):
            outputs.append(replaced(overtaken.pending.request))
        self._active[name] = pending
        return [*outputs, Event(EventKind.STARTED, text, pending.request)]

    # Past images -----------------------------------------------------------------------------

    def _start_past(self, before: int, newest: StreamImage | None) -> list[Output]:
        """Let init boxes that were drawn on images numbered below `before` catch up.

        Boxes whose image is not buffered are refused, but only when an image has come (`newest`):
        after a step back in time a box may come before its image.
        """
        if self._held is not None:
            return []
        outputs: list[Output] = []
        for name, pending in list(self._pending.items()):
            stamp = pending.request.stamp_ns
            if stamp is None:
                continue
            start = self._buffer.find(stamp)
            if start is not None and start.number < before:
                del self._pending[name]
                outputs += self._begin_catch_up(pending, start)
            elif start is None and newest is not None:
                ahead = stamp - newest.stamp_ns
                if not 0 < ahead <= self.rules.buffer_age_ns:
                    del self._pending[name]
                    outputs.append(refused(pending.request, self._missing(ahead, newest)))
        return outputs

    def _missing(self, ahead: int, newest: StreamImage) -> str:
        if ahead > 0:
            return f"its image is {ahead / NS:.3f} s ahead of the newest"
        oldest = self._buffer.oldest or newest
        span = (newest.stamp_ns - oldest.stamp_ns) / NS
        return (
            f"its image is {-ahead / NS:.3f} s older than the newest, "
            f"and the buffer holds the last {span:.3f} s"
        )

    def _begin_catch_up(self, pending: _Pending, start: StreamImage) -> list[Output]:
        request = pending.request
        outputs: list[Output] = []
        if former := self._catching_up.pop(request.target_id, None):
            outputs.append(replaced(former.pending.request))
        session = Session(self.session.engine, self.session.settings)
        time_ns = self._time_of(start)
        try:
            frame = start.decode()
            self._admit(request, frame, {})
            session.start(frame, request.box, request.target_id, time_ns)
        except (BoxError, ImageError) as error:
            return [*outputs, refused(request, str(error))]
        except EngineError as error:
            failed = Event(EventKind.ENGINE_FAILED, str(error), image=start, error=error)
            return [*outputs, refused(request, str(error)), failed]
        self._catching_up[request.target_id] = _CatchUp(
            pending, session, start, _Accepted(start, frame).size, time_ns,
            self.rules.catch_up_images,
        )  # fmt: skip
        return outputs

    def _catch_up(self, before: int, searches: int) -> list[Output]:
        """Spend searches on targets that catch up; those that arrive are tracked from now on.

        Args:
            before: Number of the image that is searched for all targets next.
            searches: How many buffered images may be searched.
        """
        outputs: list[Output] = []
        while self._catching_up:
            name, one = next(iter(self._catching_up.items()))
            if one.has_arrived(self._buffer, before):
                del self._catching_up[name]
                outputs += self._adopt(one)
                continue
            if searches == 0:
                break
            searches -= 1
            image = one.todo.popleft()
            try:
                self._search_past(one, image)
            except EngineError as error:
                del self._catching_up[name]
                outputs.append(refused(one.pending.request, str(error)))
                failed = Event(EventKind.ENGINE_FAILED, str(error), image=image, error=error)
                outputs.append(failed)
        return outputs

    def _search_past(self, one: _CatchUp, image: StreamImage) -> None:
        """Search a buffered image; one that the stream would not have taken is passed over."""
        time_ns = self._time_of(image)
        try:
            frame = image.decode()
        except ImageError:
            return  # counted when it was the newest; one that was skipped unseen counts as dropped
        if time_ns >= one.time_ns and _Accepted(image, frame).size == one.size:
            one.session.update(frame, time_ns)
            one.time_ns = time_ns

    def _adopt(self, one: _CatchUp) -> list[Output]:
        self.session.adopt(one.session)
        newest = one.start if self._last is None else self._last.image
        ago = (self._time_of(newest) - self._time_of(one.start)) / NS
        name = printable(one.pending.request.target_id)
        return self._started(one.pending, f"tracking {name} from the image {ago:.3f} s ago")

    def _time_of(self, image: StreamImage) -> int:
        """Stream time of a buffered image, accepted or not."""
        if image.time_ns is not None:
            return image.time_ns
        return self._clock.peek(image.stamp_ns, image.arrival_ns)


def track_one(
    stream: Stream, images: Iterable[StreamImage], request: InitRequest
) -> Iterator[Output]:
    """Follow one target through images from the first of them to the last.

    Raises:
        BoxError, EngineError: see `raise_failure`.
    """
    outputs = stream.add_box(request)
    for image in images:
        for output in (*outputs, *stream.process(image)):
            if isinstance(output, Event):
                raise_failure(output)
            yield output
        outputs = []
    yield from stream.finish()


def raise_failure(event: Event) -> None:
    """Raise what ends an offline run, where a node would go on.

    Raises:
        BoxError: no target can be started from an init box.
        EngineError: the engine failed.
    """
    if event.kind is EventKind.REFUSED:
        name = DEFAULT_TARGET if event.request is None else event.request.target_id
        named = "" if name == DEFAULT_TARGET else f"target {printable(name)}: "
        raise BoxError(named + event.reason)
    if isinstance(event.error, EngineError):
        raise event.error


@dataclass(frozen=True, eq=False)
class _Pending:
    """An init box, and the number of the newest image when it arrived."""

    request: InitRequest
    newest: int


@dataclass(frozen=True, eq=False)
class _Accepted:
    """An image with its frame."""

    image: StreamImage
    frame: Frame

    @property
    def size(self) -> tuple[int, int]:
        return self.frame.pixels.width, self.frame.pixels.height


class _Kind(Enum):
    LATE = auto()
    BACK = auto()
    FORWARD = auto()
    SIZE = auto()


@dataclass(frozen=True)
class _Change:
    kind: _Kind
    text: str


@dataclass(frozen=True, eq=False)
class _Held:
    """An image that the next one decides about."""

    accepted: _Accepted
    change: _Change


class _CatchUp:
    """A target on its way from a past image to the newest.

    In every round the images that have come meanwhile are searched, fewer in each, so that a model
    slower than the camera comes to an end as well.
    """

    def __init__(
        self,
        pending: _Pending,
        session: Session,
        start: StreamImage,
        size: tuple[int, int],
        time_ns: int,
        limit: int,
    ) -> None:
        self.pending = pending
        self.session = session
        self.start = start
        self.size = size
        self.time_ns = time_ns
        self._limit = limit
        self.todo: deque[StreamImage] = deque()
        self._done = start.number

    def has_arrived(self, buffer: ImageBuffer[StreamImage], before: int) -> bool:
        """Whether no image numbered below `before` is left to search; else `todo` has the next."""
        if not self.todo and self._limit and (backlog := buffer.between(self._done, before)):
            self.todo.extend(subsample(backlog, self._limit))
            self._done = backlog[-1].number
            self._limit //= 2
        return not self.todo


class _Clock:
    """Stream time: nanoseconds that never step back.

    It runs with the stamps while they move, and with the arrivals while they do not.

    Attributes:
        usable: Whether the stamps move.
    """

    def __init__(self) -> None:
        self.usable = True
        self._stamp = 0
        self._arrival = 0
        self._time: int | None = None
        self._still = 0

    def advance(self, stamp_ns: int, arrival_ns: int) -> int:
        """Time of the next accepted image."""
        if self._time is None:
            self._time = stamp_ns
        else:
            self._still = self._still + 1 if stamp_ns == self._stamp else 0
            # One zero may be the start of a video, one repetition a message that was sent twice.
            self.usable = self._still < (STILL_IMAGES if stamp_ns else 1)
            self._time += max(0, self._step(stamp_ns, arrival_ns))
        self._stamp, self._arrival = stamp_ns, arrival_ns
        return self._time

    def peek(self, stamp_ns: int, arrival_ns: int) -> int:
        """Time of an image before or after the last accepted one."""
        return (self._time or 0) + self._step(stamp_ns, arrival_ns)

    def _step(self, stamp_ns: int, arrival_ns: int) -> int:
        return stamp_ns - self._stamp if self.usable else arrival_ns - self._arrival


def _discord(before: BufferedImage, after: BufferedImage) -> int:
    """Difference between the steps of stamp and of arrival time, in nanoseconds."""
    return abs((after.stamp_ns - before.stamp_ns) - (after.arrival_ns - before.arrival_ns))


def refused(request: InitRequest, reason: str) -> Event:
    """The event of an init box that no target is started from."""
    name = printable(request.target_id)
    text = f"init box of {name} refused: {reason}"
    return Event(EventKind.REFUSED, text, request, reason=reason)


def replaced(request: InitRequest) -> Event:
    """The event of a target, or an init box, that another one took the place of."""
    return Event(EventKind.REPLACED, "target replaced by another init box", request)


def stopped(request: InitRequest) -> Event:
    """The event of a target, or an init box, that was stopped by command."""
    return Event(EventKind.STOPPED, "target stopped", request)


def undecodable(image: StreamImage, error: ImageError) -> Event:
    """The event of an image that cannot be decoded."""
    return Event(EventKind.UNDECODABLE, str(error), image=image, error=error)


def _late(image: StreamImage, change: _Change) -> Event:
    return Event(EventKind.LATE, change.text, image=image)


def _stray(held: _Held) -> Event:
    text = f"single image dropped: {held.change.text}"
    return Event(EventKind.STRAY, text, image=held.accepted.image)
