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
    is dropped. A step forward by a second more than the time between the arrivals is held in the
    same way, but resets nothing; nor do late images that follow each other (a clock that was set
    back a little), of which the third is taken.
Size
    An image of another size is held likewise: two in a row reset the targets, one is dropped.
Time
    Durations are differences of stamps. Where the stamps are zero or stand still, they are
    differences of arrival (or record) times, and an event reports it once.
Reduced JPEGs
    Where `StreamRules.jpeg_reduction` permits it, a JPEG is decoded at the smallest size that has
    as many pixels as the crops of all targets; crops that need more pixels decode it in full.
Used bits
    Of 16-bit images the used bits are measured (`Pixels.measured_bits`), unless they are given, and
    held: more are used as soon as an image needs them, fewer never. An event reports it.
Init boxes
    A box with a stamp starts on the image of that stamp: on one that is still to come, or on a
    buffered one, from which the target catches up. A box without a stamp starts on the next image.
    A box that arrived after the last image before a reset belongs to the images after it.
    Every box starts or is refused: also where its image never comes (it was lost at the end of a
    recording that loops, say), after `StreamRules.buffer_age_ns` and `SLACK_NS` of arrivals, and
    where a reset comes while its target still catches up.
Lost targets
    A target that is LOST is looked for all over the image (`reacquisition.py`). An event reports
    that it was found.
Detections
    Those of an object detector may start targets, find lost ones and correct boxes, if they are
    given and `detection_settings` say so (`detections.py`).
Catching up
    A target that starts on a past image is searched for in the buffered images since, silently and
    in slices: at most `StreamRules.catch_up_searches` before every new image, so that the other
    targets go on being reported, and one per call of `advance` while no image is at hand.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from mixformerv2_ros.errors import BoxError, EngineError, ImageError
from mixformerv2_ros.model.engine import Engine
from mixformerv2_ros.text import printable
from mixformerv2_ros.tracking.boxes import check_box
from mixformerv2_ros.tracking.catch_up import CatchUp, PendingInit
from mixformerv2_ros.tracking.detection_guide import DetectionGuide
from mixformerv2_ros.tracking.detections import DetectionSet, DetectionSettings
from mixformerv2_ros.tracking.events import (
    Event,
    EventKind,
    InitRequest,
    Output,
    Step,
    StreamImage,
    raise_failure,
    rejected,
    replaced,
    stopped,
    undecodable,
)
from mixformerv2_ros.tracking.frame import NS, Frame
from mixformerv2_ros.tracking.image_buffer import ImageBuffer
from mixformerv2_ros.tracking.image_order import (
    Change,
    ChangeKind,
    DecodedImage,
    ImageOrder,
)
from mixformerv2_ros.tracking.session import Session, Track
from mixformerv2_ros.tracking.settings import TrackerSettings
from mixformerv2_ros.tracking.stream_clock import StreamClock

MAX_ID_LENGTH = 256
"""Longest target id; it is repeated in every track."""

PENDING_PER_TARGET = 4
"""Init boxes that may wait for their image, per target that may be tracked."""

SLACK_NS = NS
"""An init box may be ahead of its image by the age of the buffer; it waits for so much longer."""


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
        image_bits: Used bits of 16-bit images, 8 to 16; None for as many as are measured.
        jpeg_reduction: Largest factor, 1, 2, 4 or 8, by which JPEGs are decoded at reduced size
            where all targets are large enough for it; 1 for never.
    """

    late_tolerance_ns: int = NS // 2
    buffer_images: int = 150
    buffer_age_ns: int = 5 * NS
    buffer_bytes: int = 256_000_000
    catch_up_images: int = 30
    catch_up_searches: int = 4
    max_targets: int | None = None
    image_bits: int | None = None
    jpeg_reduction: int = 1


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
        self._pending: dict[str, PendingInit] = {}
        self._active: dict[str, PendingInit] = {}
        self._catching_up: dict[str, CatchUp] = {}
        self._count = 0
        self._order = ImageOrder(self.rules.late_tolerance_ns)
        self._last: DecodedImage | None = None
        self._clock = StreamClock()
        self._reported_no_time = False
        self._encoding = ""
        self._bits = self.rules.image_bits or 8
        self._reported_bits = 8
        self._guide = DetectionGuide()
        # Time of the arrivals, which runs on where they step back.
        self._elapsed_ns = 0
        self._arrival_ns: int | None = None
        self._accepted_ns = 0

    @property
    def settings(self) -> TrackerSettings:
        """Settings of the tracker; they may be replaced between two images."""
        return self.session.settings

    @settings.setter
    def settings(self, settings: TrackerSettings) -> None:
        self.session.settings = settings
        for catch_up in self._catching_up.values():
            catch_up.session.settings = _of_catch_up(settings)

    @property
    def detection_settings(self) -> DetectionSettings:
        """What is done with detections; may be replaced between two images."""
        return self._guide.settings

    @detection_settings.setter
    def detection_settings(self, settings: DetectionSettings) -> None:
        self._guide.settings = settings

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
        return bool(self._catching_up) and not self._order.undecided

    @property
    def buffered(self) -> tuple[int, int]:
        """Number and bytes of the buffered images."""
        return len(self._buffer), self._buffer.nbytes

    def restarted(self) -> Stream:
        """A new stream with the same engine, settings and rules."""
        stream = Stream(self.session.engine, self.settings, self.rules)
        stream.detection_settings = self.detection_settings
        return stream

    def add_box(self, request: InitRequest) -> list[Output]:
        """Take an init box; it takes the place of one of the same name that still waits."""
        name = request.target_id
        if len(name) > MAX_ID_LENGTH:
            return [rejected(request, f"target id must be at most {MAX_ID_LENGTH} characters")]
        limit = self.rules.max_targets
        if limit is not None and name not in self._pending:
            limit *= PENDING_PER_TARGET
            if len(self._pending) >= limit:
                return [rejected(request, f"too many pending init boxes (limit {limit})")]
        outputs: list[Output] = []
        if superseded := self._pending.pop(name, None):
            outputs.append(replaced(superseded.request))
        self._pending[name] = PendingInit(request, self._count)
        if self._last is not None:
            outputs += self._start_past(self._last.image.number + 1, None)
        return outputs

    def add_detections(self, found: DetectionSet) -> list[Output]:
        """Take the detections of an image; what they are used for is in `detection_settings`.

        They may come later than the image, and of images that were skipped.
        """
        guide, last = self._guide, self._last
        if last is None or not guide.settings.is_on:
            return []
        if (event := guide.unusable(found, last.frame)) is not None:
            return [event]
        guide.add_candidates(found)
        outputs: list[Output] = []
        is_idle = not (self._pending or self._active or self._catching_up)
        if (request := guide.start(found, last.frame, is_idle)) is not None:
            outputs += self.add_box(request)
        try:
            for name, event in guide.correct(
                found, last.frame, self.session, self._time_of(last.image)
            ):
                outputs.append(replace(event, request=self._active[name].request))
        except EngineError as error:
            failed = Event(EventKind.ENGINE_FAILED, str(error), image=last.image, error=error)
            outputs.append(failed)
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
                found = entry.pending if isinstance(entry, CatchUp) else entry
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
        return [*self._process(image), *self._expire(image_came=True)]

    def _process(self, image: StreamImage) -> list[Output]:
        try:
            frame = self._decode(image, self._reduction(), measure=self.rules.image_bits is None)
        except ImageError as error:
            return [undecodable(image, error)]
        decision = self._order.take(DecodedImage(image, frame))
        outputs: list[Output] = list(decision.events)
        if decision.confirmed is not None:
            outputs += self._confirm(decision.confirmed, decision.accepted[0])
        jumped = decision.confirmed is not None and decision.confirmed.kind is ChangeKind.JUMP
        for accepted in decision.accepted:
            if accepted.image not in self._buffer:
                self._buffer.add(accepted.image)
            outputs += self._track(accepted, jumped)
            jumped = False
        return outputs

    def advance(self) -> list[Output]:
        """Search one buffered image for a target that catches up, while no new one is at hand."""
        if not self.catching_up or self._last is None:
            return []
        return self._catch_up(self._last.image.number + 1, searches=1)

    def expire(self, now_ns: int) -> list[Output]:
        """Refuse init boxes that have waited for too long, to be called while no image comes.

        A box without a stamp goes on waiting for the next image, however late that is.

        Args:
            now_ns: Time of the clock of the arrivals.
        """
        self._pass_time(now_ns)
        return self._expire(image_came=False)

    def finish(self) -> list[Output]:
        """End the stream: an image that is still held was confirmed by none, and is dropped."""
        return list(self._order.finish())

    # Order, size, time -----------------------------------------------------------------------

    def _number(self, image: StreamImage) -> None:
        self._count += 1
        image.number = self._count
        self._pass_time(image.arrival_ns)

    def _reduction(self) -> int:
        """By how much the next image may be reduced: a target may start on it at any place."""
        limit = self.rules.jpeg_reduction
        return 1 if self._pending else self.session.reduction(limit)

    def _decode(self, image: StreamImage, reduction: int = 1, measure: bool = False) -> Frame:
        """Decode an image; its 16-bit data has the used bits of the stream.

        Raises:
            ImageError: see `StreamImage.decode`.
        """
        if reduction == 1 or image.decode_reduced is None:
            frame = image.decode()
        else:
            frame = image.decode_reduced(reduction)
        if measure and self._bits < 16:
            self._bits = max(self._bits, frame.pixels.measured_bits())
        pixels = frame.pixels.with_bits(self._bits)
        return frame if pixels is frame.pixels else replace(frame, pixels=pixels)

    def _confirm(self, change: Change, first: DecodedImage) -> list[Output]:
        """Begin anew with an image that was held, unless only the clock was set."""
        if change.kind is ChangeKind.JUMP:
            return []
        # Images that were skipped unseen since the last accepted one may be of either side.
        last = 0 if self._last is None else self._last.image.number
        skipped = self._buffer.between(last, first.image.number)
        kept = [
            image
            for image in skipped
            if change.kind is ChangeKind.BACK and image.stamp_ns <= first.frame.stamp_ns
        ]
        later = self._buffer.between(first.image.number, self._count)
        self._buffer.clear([*kept, first.image, *later])
        newest_before = max([last, *(i.number for i in skipped if i not in kept)])
        self._last = None
        self._clock = StreamClock()
        return self._reset(change.text, newest_before)

    def _reset(self, reason: str, newest_before: int) -> list[Output]:
        """Reset the targets; init boxes that arrived after image `newest_before` go on waiting."""
        names = ", ".join(map(printable, self.targets))
        text = f"{reason}; targets reset: {names or 'none'}"
        events: list[Output] = [Event(EventKind.RESET, text, reason=names)]
        self.session.stop()
        self._guide.reset()
        started = list(self._active.values())
        ended = [*started, *(c.pending for c in self._catching_up.values())]
        self._active.clear()
        self._catching_up.clear()
        for pending in ended:
            name = pending.request.target_id
            if pending.newest >= newest_before and name not in self._pending:
                pending.since_ns = None
                self._pending[name] = pending
            elif pending in started:
                events.append(Event(EventKind.FORGOTTEN, reason, pending.request))
            else:
                why = f"{reason} before the target had caught up from a past image"
                events.append(rejected(pending.request, why))
        return events

    def _pass_time(self, arrival_ns: int) -> None:
        if self._arrival_ns is not None:
            self._elapsed_ns += max(0, arrival_ns - self._arrival_ns)
        self._arrival_ns = arrival_ns

    def _expire(self, image_came: bool) -> list[Output]:
        """Refuse the init boxes whose time is up."""
        now, limit = self._elapsed_ns, self.rules.buffer_age_ns + SLACK_NS
        outputs: list[Output] = []
        for name, pending in list(self._pending.items()):
            stamped = pending.request.stamp_ns is not None
            if not (stamped or image_came):
                continue
            if pending.since_ns is None:
                pending.since_ns = now
            elif now - pending.since_ns > limit:
                del self._pending[name]
                what = "its image has not come" if stamped else "no image that it could start on"
                reason = f"{what} in {(now - pending.since_ns) / NS:.1f} s"
                outputs.append(rejected(pending.request, reason))
        if self._order.undecided and now - self._accepted_ns > limit:
            reason = f"no image has followed another for {(now - self._accepted_ns) / NS:.1f} s"
            for one in self._catching_up.values():
                outputs.append(rejected(one.pending.request, reason))
            self._catching_up.clear()
        return outputs

    # One image -------------------------------------------------------------------------------

    def _track(self, accepted: DecodedImage, jumped: bool) -> list[Output]:
        """Catch up, search an accepted image, and start the targets whose box is drawn on it."""
        image, frame = accepted.image, accepted.frame
        outputs: list[Output] = []
        image.time_ns = self._clock.advance(frame.stamp_ns, image.arrival_ns, jumped)
        if not (self._clock.usable or self._reported_no_time):
            self._reported_no_time = True
            what = "are zero" if frame.stamp_ns == 0 else "stand still"
            text = f"image stamps {what}; durations are taken from arrival times"
            outputs.append(Event(EventKind.NO_TIME, text, image=image))
        encoding = frame.pixels.encoding
        if self._encoding and encoding != self._encoding:
            text = f"image encoding changed from {self._encoding} to {encoding}"
            outputs.append(Event(EventKind.ENCODING, text, image=image))
        self._encoding = encoding
        bits = frame.pixels.bits
        if self.rules.image_bits is None and bits > self._reported_bits:
            self._reported_bits = bits
            text = f"{encoding} images use {bits} of 16 bits, as measured; to set it: image_bits"
            outputs.append(Event(EventKind.BITS, text, image=image))
        self._last = accepted
        self._accepted_ns = self._elapsed_ns
        outputs += self._start_past(image.number, image)
        outputs += self._catch_up(image.number, self.rules.catch_up_searches)
        starts, rejections = self._due(image, frame)
        outputs += rejections
        tracks: dict[str, Track] = {}
        try:
            if not starts.keys() >= set(self.targets):
                tracks = self._update(frame, image.time_ns)
                outputs += self._reacquired(image)
                if look := self._guide.look(frame, self.session, tracks, image.time_ns):
                    track, event = look
                    tracks[track.target_id] = track
                    request = self._active[track.target_id].request
                    outputs.append(replace(event, request=request, image=image))
            for name, pending in list(starts.items()):
                box = pending.request.box
                try:
                    tracks[name] = self.session.start(frame, box, name, image.time_ns)
                except (BoxError, ImageError) as error:  # its crop lies outside the image
                    outputs.append(rejected(pending.request, str(error)))
                else:
                    outputs += self._started(pending, f"tracking {printable(name)}")
                del starts[name]
        except ImageError as error:  # of a reduced copy's image in full
            outputs += [rejected(pending.request, str(error)) for pending in starts.values()]
            return [*outputs, undecodable(image, error)]
        except EngineError as error:
            outputs += [rejected(pending.request, str(error)) for pending in starts.values()]
            text = str(error)
            return [*outputs, Event(EventKind.ENGINE_FAILED, text, image=image, error=error)]
        self._guide.add_tracks(frame, tracks)
        return [*outputs, Step(image, frame, tuple(tracks.values()))]

    def _update(self, frame: Frame, time_ns: int) -> dict[str, Track]:
        """Search an image for the targets; lost ones elsewhere in it, unless detections are."""
        settings = self.session.settings
        if self._guide.will_look:
            self.session.settings = replace(settings, reacquire_crops=0)
        try:
            found = self.session.update(frame, time_ns)
        finally:
            self.session.settings = settings
        return {track.target_id: track for track in found}

    def _reacquired(self, image: StreamImage) -> list[Output]:
        return [
            Event(
                EventKind.REACQUIRED,
                f"found {printable(name)} again, {seconds:.3f} s after it was seen last",
                self._active[name].request,
                image,
            )
            for name, seconds in self.session.reacquired.items()
        ]

    def _due(self, image: StreamImage, frame: Frame) -> tuple[dict[str, PendingInit], list[Output]]:
        """Take out the init boxes that start on `image`."""
        starts: dict[str, PendingInit] = {}
        rejections: list[Output] = []
        for name, pending in list(self._pending.items()):
            stamp = pending.request.stamp_ns
            if stamp is None or self._buffer.find(stamp) is image:
                del self._pending[name]
                try:
                    self._admit(pending.request, frame, starts)
                except (BoxError, ImageError) as error:
                    rejections.append(rejected(pending.request, str(error)))
                else:
                    starts[name] = pending
        return starts, rejections

    def _admit(self, request: InitRequest, frame: Frame, starts: dict[str, PendingInit]) -> None:
        """Refuse a box that no target can be started from.

        Raises:
            BoxError, ImageError: why.
        """
        check_box(request.box, frame.pixels.width, frame.pixels.height)
        limit = self.rules.max_targets
        others = {*self.targets, *self._catching_up, *starts} - {request.target_id}
        if limit is not None and len(others) >= limit:
            raise BoxError(f"too many targets (max_targets {limit})")

    def _started(self, pending: PendingInit, text: str) -> list[Output]:
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
        if self._order.undecided:
            return []
        outputs: list[Output] = []
        for name, pending in list(self._pending.items()):
            stamp = pending.request.stamp_ns
            if stamp is None:
                continue
            start = self._decodable(stamp)
            if start is not None and start.number < before:
                del self._pending[name]
                outputs += self._begin_catch_up(pending, start, before)
            elif start is None and newest is not None:
                ahead = stamp - newest.stamp_ns
                if not 0 < ahead <= self.rules.buffer_age_ns:
                    del self._pending[name]
                    outputs.append(rejected(pending.request, self._missing(ahead, newest)))
        return outputs

    def _decodable(self, stamp_ns: int) -> StreamImage | None:
        """The buffered image of a stamp. One that was skipped unseen may turn out to be broken."""
        while (found := self._buffer.find(stamp_ns)) is not None:
            if found.time_ns is not None:
                return found
            try:
                found.decode()
            except ImageError:
                self._buffer.discard(found)
            else:
                return found
        return None

    def _missing(self, ahead: int, newest: StreamImage) -> str:
        if ahead > 0:
            return f"its image is {ahead / NS:.3f} s ahead of the newest"
        oldest = self._buffer.oldest or newest
        span = (newest.stamp_ns - oldest.stamp_ns) / NS
        return (
            f"its image is {-ahead / NS:.3f} s older than the newest, "
            f"and the buffer holds the last {span:.3f} s"
        )

    def _begin_catch_up(
        self, pending: PendingInit, start: StreamImage, before: int
    ) -> list[Output]:
        request = pending.request
        outputs: list[Output] = []
        if former := self._catching_up.pop(request.target_id, None):
            outputs.append(replaced(former.pending.request))
        session = Session(self.session.engine, _of_catch_up(self.settings))
        time_ns = self._time_of(start)
        try:
            frame = self._decode(start)
            self._admit(request, frame, {})
            session.start(frame, request.box, request.target_id, time_ns)
        except (BoxError, ImageError) as error:
            return [*outputs, rejected(request, str(error))]
        except EngineError as error:
            failed = Event(EventKind.ENGINE_FAILED, str(error), image=start, error=error)
            return [*outputs, rejected(request, str(error)), failed]
        one = CatchUp(
            pending, session, start, DecodedImage(start, frame).size, time_ns,
            self.rules.catch_up_images,
        )  # fmt: skip
        one.has_arrived(self._buffer, before)
        self._catching_up[request.target_id] = one
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
            # The next search is another target's.
            self._catching_up[name] = self._catching_up.pop(name)
            try:
                self._search_past(one, image)
            except EngineError as error:
                del self._catching_up[name]
                outputs.append(rejected(one.pending.request, str(error)))
                failed = Event(EventKind.ENGINE_FAILED, str(error), image=image, error=error)
                outputs.append(failed)
        return outputs

    def _search_past(self, one: CatchUp, image: StreamImage) -> None:
        """Search a buffered image; one that the stream would not have taken is passed over."""
        time_ns = self._time_of(image)
        try:
            frame = self._decode(image)
        except ImageError:
            return  # counted when it was the newest; one that was skipped unseen counts as dropped
        if time_ns >= one.time_ns and DecodedImage(image, frame).size == one.size:
            one.session.update(frame, time_ns)
            one.time_ns = time_ns

    def _adopt(self, one: CatchUp) -> list[Output]:
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


def _of_catch_up(settings: TrackerSettings) -> TrackerSettings:
    """A target on its way to the newest image is not looked for elsewhere, which takes time."""
    return replace(settings, reacquire_frames=0)


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
