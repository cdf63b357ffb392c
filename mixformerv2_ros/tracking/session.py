"""Targets and their states over a stream of frames."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from mixformerv2_ros.model.crop_buffers import crop_buffer
from mixformerv2_ros.model.engine import Engine, Prediction
from mixformerv2_ros.tracking.boxes import Box, check_box
from mixformerv2_ros.tracking.crop import CropWindow, crop_and_resize, crop_window
from mixformerv2_ros.tracking.crossing import Partings, on_one_object, separated
from mixformerv2_ros.tracking.depth import DepthFigures, DepthRule, Patience
from mixformerv2_ros.tracking.frame import NS, Frame
from mixformerv2_ros.tracking.reacquisition import Find, Reacquisition, Sighting, find
from mixformerv2_ros.tracking.settings import TrackerSettings
from mixformerv2_ros.tracking.tracker import Observation, TargetTracker, search_shape

REDUCTION_RESERVE = 1.15
"""A target may shrink by this factor until the next image and still be cut from a reduced copy."""


class State(IntEnum):
    """How a target fares; values are those of `mixformerv2_ros/msg/Track`."""

    IDLE = 0
    TRACKING = 1
    UNCERTAIN = 2
    LOST = 3


@dataclass(frozen=True)
class Track:
    """One target in one frame.

    Attributes:
        target_id: Name of the target, the same in every frame.
        stamp_ns: Time of the image.
        frame_id: Camera frame of the image.
        box: Pixels of that image, top-left corner and size.
        confidence: In [0, 1].
        edge_std: Standard deviations of left, top, right and bottom edge in pixels.
        state: How the target fares.
        template_age_ns: Image time since the templates changed last.
        template_updated: The templates changed after this frame.
        depth: Number of blocks of the network that were run for it; 0 where it was not asked.
    """

    target_id: str
    stamp_ns: int
    frame_id: str
    box: Box
    confidence: float
    edge_std: tuple[float, float, float, float]
    state: State
    template_age_ns: int
    template_updated: bool
    depth: int


class StateMachine:
    """TRACKING, UNCERTAIN and LOST from confidences, with hysteresis in image time."""

    def __init__(self) -> None:
        self.state = State.TRACKING
        self._below_uncertain_since: int | None = None
        self._below_lost_since: int | None = None

    def update(self, confidence: float, stamp_ns: int, settings: TrackerSettings) -> State:
        """Take over one frame's confidence.

        LOST is left only by a confidence that would count as TRACKING: between the two thresholds
        a lost target stays lost.
        """
        self._below_uncertain_since = _since(
            self._below_uncertain_since, confidence < settings.uncertain_threshold, stamp_ns
        )
        self._below_lost_since = _since(
            self._below_lost_since, confidence < settings.lost_threshold, stamp_ns
        )
        if _lasted(self._below_lost_since, stamp_ns, settings.lost_duration):
            self.state = State.LOST
        elif self._below_uncertain_since is None:
            self.state = State.TRACKING
        elif self.state is State.TRACKING and _lasted(
            self._below_uncertain_since, stamp_ns, settings.uncertain_duration
        ):
            self.state = State.UNCERTAIN
        return self.state


def _since(since: int | None, below: bool, stamp_ns: int) -> int | None:
    if not below:
        return None
    return stamp_ns if since is None else since


def _lasted(since: int | None, stamp_ns: int, seconds: float) -> bool:
    return since is not None and stamp_ns - since >= seconds * NS


class _Target:
    """One target: its tracker, its state, where it was seen last, and the search for it."""

    def __init__(self, tracker: TargetTracker, time_ns: int) -> None:
        self.tracker = tracker
        self.begin(time_ns)

    def begin(self, time_ns: int) -> None:
        """Be TRACKING from now on."""
        self.machine = StateMachine()
        self.sighting = Sighting(self.tracker.box, time_ns)
        self.search: Reacquisition | None = None
        self.patience = Patience()

    def is_doubtful(self, settings: TrackerSettings) -> bool:
        """Whether the next frame deserves the full depth.

        It does after a frame in which the target was not seen surely or its templates changed, and
        in the first one.
        """
        seen = self.tracker.observation
        return (
            seen is None
            or seen.template_updated
            or self.machine.state is not State.TRACKING
            or seen.confidence < settings.uncertain_threshold
        )


class Session:
    """Follows any number of targets through one stream of frames with one engine.

    Templates are not updated while a target is not TRACKING: an update from a doubtful box
    cannot be undone. With both thresholds 0 a target is always TRACKING, and the
    protocol is exactly the reference's. A LOST target is looked for all over the image
    (`reacquisition.py`), and of two targets that end up on one object, one is looked for beside it
    (`crossing.py`).

    Attributes:
        settings: May be replaced between frames; holds for all targets.
        reacquired: Of the last update, the targets that were found again elsewhere, and the seconds
            since they had been seen.
    """

    def __init__(
        self,
        engine: Engine,
        settings: TrackerSettings,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Have no targets.

        Args:
            engine: Searches for all of them.
            settings: Hold for all of them.
            clock: Seconds, for `exit_deadline_ms`.
        """
        self.engine = engine
        self._clock = clock
        self._depth = DepthRule(engine.spec, clock)
        self.settings = settings
        self.reacquired: dict[str, float] = {}
        self._targets: dict[str, _Target] = {}
        self._turn = 0
        self._pair_turn = 0
        self._partings = Partings()
        self._crops = crop_buffer(engine, 0)

    @property
    def depth_figures(self) -> DepthFigures:
        """How deep the network looked lately; see `DepthRule`."""
        return self._depth.figures()

    @property
    def dynamic_depth(self) -> int:
        """Number of the model's blocks where an exit may answer before the last; else 0."""
        spec = self.engine.spec
        return spec.depth if spec.exits and self.settings.asks_exits else 0

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the targets, in the order of their start."""
        return tuple(self._targets)

    def tracker(self, target_id: str) -> TargetTracker:
        """The tracker of a target.

        Raises:
            KeyError: there is no such target.
        """
        return self._targets[target_id].tracker

    def start(
        self, frame: Frame, box: Box, target_id: str = "target", time_ns: int | None = None
    ) -> Track:
        """Start (or restart) a target on a box in a frame.

        Args:
            frame: The image.
            box: The box in pixels of that image.
            target_id: Name of the target.
            time_ns: Time of the image for all durations; its stamp where None.

        Raises:
            BoxError, ImageError: nothing can be tracked from this box; other targets go on.
        """
        time_ns = frame.stamp_ns if time_ns is None else time_ns
        tracker = TargetTracker(self.engine, self.settings, frame.pixels, box, time_ns)
        self._targets.pop(target_id, None)
        self._targets[target_id] = _Target(tracker, time_ns)
        started = [each.tracker for each in self._targets.values()]
        tracking = [each.machine.state is State.TRACKING for each in self._targets.values()]
        self._partings.update(started, [each.box for each in started], tracking, time_ns)
        return Track(
            target_id=target_id,
            stamp_ns=frame.stamp_ns,
            frame_id=frame.frame_id,
            box=tracker.box,
            confidence=1.0,
            edge_std=(0.0, 0.0, 0.0, 0.0),
            state=State.TRACKING,
            template_age_ns=0,
            template_updated=True,
            depth=0,
        )

    def adopt(self, other: Session) -> None:
        """Take over the targets of another session with the same engine, as far as they came."""
        for name, target in other._targets.items():
            self._targets.pop(name, None)
            self._targets[name] = target

    def stop(self, target_id: str | None = None) -> None:
        """Forget one target, or all of them; an unknown name is no error."""
        if target_id is None:
            self._targets.clear()
        else:
            self._targets.pop(target_id, None)

    def reduction(self, limit: int) -> int:
        """Largest power of two by which the next image may be reduced for all targets.

        With a reserve for targets that become smaller in it.

        Args:
            limit: Largest one wanted, a power of two; the result while there are no targets.
        """
        targets = self._targets.values()
        enough = min((t.tracker.reduction(self.settings) for t in targets), default=math.inf)
        while limit > 1 and limit * REDUCTION_RESERVE > enough:
            limit //= 2
        return limit

    def update(self, frame: Frame, time_ns: int | None = None) -> list[Track]:
        """Find every target in the next frame; one engine call serves all of them.

        Args:
            frame: The image.
            time_ns: Time of the image for all durations; its stamp where None.
        """
        self.reacquired = {}
        if not self._targets:
            return []
        begun = self._clock()
        time_ns = frame.stamp_ns if time_ns is None else time_ns
        crops = self._buffer(len(self._targets))
        trackers = [target.tracker for target in self._targets.values()]
        for tracker, crop in zip(trackers, crops, strict=True):
            tracker.settings = self.settings
            tracker.crop_search(frame.pixels, crop)
        deep = [target.is_doubtful(self.settings) for target in self._targets.values()]
        patience = [target.patience for target in self._targets.values()]
        stop = self._depth.begin(self.settings, deep, begun, patience)
        prediction = self.engine.search(crops, [tracker.memory for tracker in trackers], stop)
        self._depth.end(prediction)
        pair = self._pair_on_one_object(frame, time_ns, prediction) if len(trackers) > 1 else None
        if pair is not None:
            prediction = separated(
                self.engine, frame.pixels, crops, prediction, pair, trackers,
                self.settings.separate_score_threshold,
            )  # fmt: skip
        seen: dict[str, tuple[Observation, State]] = {}
        for index, (name, target) in enumerate(self._targets.items()):
            tracker, score = target.tracker, float(prediction.scores[index])
            state = target.machine.update(score, time_ns, self.settings)
            observation = tracker.apply(
                frame.pixels, prediction, index, time_ns, update_templates=state is State.TRACKING
            )
            seen[name] = observation, state
            if state is not State.LOST:
                target.search = None
                if state is State.TRACKING and score >= self.settings.uncertain_threshold:
                    target.sighting = Sighting(tracker.box, time_ns)
        tracks = {
            name: _track(name, frame, *seen[name], time_ns - target.tracker.updated_ns)
            for name, target in self._targets.items()
        }
        tracks |= self._look_for_lost(frame, time_ns, seen)
        return list(tracks.values())

    def score_boxes(self, frame: Frame, target_id: str, boxes: Sequence[Box]) -> list[Find]:
        """Score candidate boxes against the templates of a target, in one call of the engine.

        Each is searched as if the target had been there in the image before. Neither the target nor
        its templates change; `move` takes a find over.

        Args:
            frame: The image.
            target_id: Name of the target.
            boxes: Candidates in pixels of that image, such as detections.

        Returns:
            Per candidate the box that the network finds there, which may be another than the
            candidate, and its confidence; 0 where another target is tracked that was apart from it.

        Raises:
            KeyError: there is no such target.
            BoxError, ImageError: no target could be tracked from one of the boxes
                (`boxes.check_box`).
            EngineError: the engine failed.
        """
        for box in boxes:
            check_box(box, frame.pixels.width, frame.pixels.height)
        factor = self.settings.search_factor
        return self._search(frame, target_id, [crop_window(box, factor) for box in boxes])

    def move(self, frame: Frame, target_id: str, find: Find, time_ns: int | None = None) -> Track:
        """Follow a target at a find in a frame from now on; it is TRACKING again.

        Args:
            frame: The image; `update` has seen it, or would have been next.
            target_id: Name of the target.
            find: Where it is, see `score_boxes`.
            time_ns: Time of the image for all durations; its stamp where None.

        Raises:
            KeyError: there is no such target.
        """
        time_ns = frame.stamp_ns if time_ns is None else time_ns
        target = self._targets[target_id]
        observation = target.tracker.move(find)
        target.begin(time_ns)
        age = time_ns - target.tracker.updated_ns
        return _track(target_id, frame, observation, State.TRACKING, age)

    def _pair_on_one_object(
        self, frame: Frame, time_ns: int, prediction: Prediction
    ) -> tuple[int, int] | None:
        """Two targets that are on one object now and were apart lately; several pairs in turn."""
        trackers = [target.tracker for target in self._targets.values()]
        boxes = [t.box_of(prediction, i, frame.pixels) for i, t in enumerate(trackers)]
        seen = [bool(score >= self.settings.uncertain_threshold) for score in prediction.scores]
        pairs = self._partings.update(trackers, boxes, seen, time_ns)
        if not pairs or self.settings.separate_score_threshold >= 1:
            return None
        self._pair_turn = (self._pair_turn + 1) % len(pairs)
        return pairs[self._pair_turn]

    def _look_for_lost(
        self, frame: Frame, time_ns: int, seen: Mapping[str, tuple[Observation, State]]
    ) -> dict[str, Track]:
        """Look for lost targets elsewhere in the image; tracks of those that are found.

        Each on trial takes a crop, and one of them, in turn, the rest.
        """
        if not (self.settings.reacquire_frames and self.settings.reacquire_crops):
            return {}
        searches: list[tuple[str, Reacquisition]] = []
        for name, (_, state) in seen.items():
            if state is State.LOST:
                target = self._targets[name]
                target.search = target.search or Reacquisition(target.sighting)
                searches.append((name, target.search))
        if not searches:
            return {}
        self._turn = (self._turn + 1) % len(searches)
        left = self.settings.reacquire_crops
        spare = max(0, left - sum(search.on_trial for _, search in searches))
        tracks = {}
        for place, (name, search) in enumerate(searches):
            limit = min(left, int(search.on_trial) + (spare if place == self._turn else 0))
            left -= limit
            if limit == 0:
                continue
            windows = search.windows(frame, time_ns, self.settings, limit)
            found = search.take(self._search(frame, name, windows), self.settings)
            if found is not None:
                self.reacquired[name] = (time_ns - self._targets[name].sighting.time_ns) / NS
                tracks[name] = self.move(frame, name, found, time_ns)
        return tracks

    def _search(self, frame: Frame, name: str, windows: Sequence[CropWindow]) -> list[Find]:
        """Search crops anywhere in an image for one target, in one call of the engine."""
        tracker = self._targets[name].tracker
        if not windows:
            return []
        crops = np.empty((len(windows), *search_shape(self.engine)), dtype=np.uint8)
        for window, crop in zip(windows, crops, strict=True):
            crop_and_resize(frame.pixels, window, crop)
        prediction = self.engine.search(crops, [tracker.memory] * len(windows))
        finds = [find(frame, window, prediction, i) for i, window in enumerate(windows)]
        taken = [
            other.tracker.box
            for other in self._targets.values()
            if other.machine.state is State.TRACKING
            and self._partings.last(tracker, other.tracker) is not None
        ]
        return [
            replace(one, score=0.0) if any(on_one_object(one.box, box) for box in taken) else one
            for one in finds
        ]

    def _buffer(self, count: int) -> npt.NDArray[np.uint8]:
        if len(self._crops) != count:
            self._crops = crop_buffer(self.engine, count)
        return self._crops


def _track(name: str, frame: Frame, seen: Observation, state: State, template_age_ns: int) -> Track:
    return Track(
        target_id=name,
        stamp_ns=frame.stamp_ns,
        frame_id=frame.frame_id,
        box=seen.box,
        confidence=seen.confidence,
        edge_std=seen.edge_std,
        state=state,
        template_age_ns=max(0, template_age_ns),
        template_updated=seen.template_updated,
        depth=seen.depth,
    )


def idle_track(frame: Frame) -> Track:
    """What is reported for an image while nothing is tracked."""
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
        depth=0,
    )
