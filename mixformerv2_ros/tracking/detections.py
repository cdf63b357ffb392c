"""What a stream does with the detections of an object detector.

Start
    While nothing is tracked, a detection is chosen by a rule. Once the choice has been the same in
    some sets in a row, a target starts on it, on the image that it was found in.
Re-acquire
    Detections are candidates for a LOST target: crops around them are searched in one batch with
    its templates. The best must be sure enough, and surer than others by a margin, for some images
    in a row.
Correct
    A target whose box has agreed with a detection before, and has overlapped the only one near it
    too little for some sets in a row, goes on from the detection.

No threads, no clock: the same images and detections give the same tracks.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from mixformerv2_ros.tracking.boxes import Box, iou
from mixformerv2_ros.tracking.frame import NS
from mixformerv2_ros.tracking.reacquisition import SAME_PLACE, Find
from mixformerv2_ros.tracking.session import State, Track
from mixformerv2_ros.tracking.settings import TrackerSettings

OFF, NEAREST, LARGEST, BEST = "off", "nearest", "largest", "best"
START_RULES = (OFF, NEAREST, LARGEST, BEST)
"""Which detection a target starts on: none, the nearest to the image's centre, the largest, the one
with the highest score."""

SAME_IOU = 0.3
"""Least overlap of one object's boxes in two sets in a row."""

MARGIN = 0.2
"""What a find at a detection must have more than any at another place, in confidence."""

NEAR_IOU = 0.05
"""Least overlap of a detection with the box of a target that it may be of."""

SIZES = (0.5, 2.0)
"""Side (sqrt of its area) of a detection over that of the last one that agreed with a target."""

MAX_APART_NS = NS // 10
"""Greatest difference between the stamps of detections and of the tracks they are compared with."""

HISTORY = 150
"""Images whose tracks are kept to compare detections with, which come late."""


@dataclass(frozen=True)
class Detection:
    """One detection.

    Attributes:
        box: In pixels of the image.
        class_id: Class of the object.
        score: In [0, 1].
        id: Name of the object, where the detector gives one; else empty.
    """

    box: Box
    class_id: str
    score: float
    id: str


@dataclass(frozen=True)
class DetectionSet:
    """All detections of one image.

    Attributes:
        stamp_ns: Stamp of the image.
        frame_id: Coordinate frame of the image; empty if it was not given.
        detections: The detections.
    """

    stamp_ns: int
    frame_id: str
    detections: tuple[Detection, ...]


@dataclass(frozen=True)
class DetectionSettings:
    """What is done with detections.

    Attributes:
        start: One of `START_RULES`.
        class_id, id: Only detections of this class and name count; empty means any. The name is
            looked at to start only.
        min_score: Only detections of at least this score count.
        start_frames: Sets in a row in which the choice must be the same object.
        reacquire: Whether lost targets are looked for at detections.
        reacquire_threshold: Confidence that a find at a detection must have. Less than anywhere in
            the image (`TrackerSettings.reacquire_score_threshold`): a detector agrees with it.
        correct_frames: Sets in a row of disagreement after which a box is corrected; 0 = never. As
            many must have agreed before.
        correct_iou: Overlap with a detection from which on a box agrees with it.
    """

    start: str = OFF
    class_id: str = ""
    id: str = ""
    min_score: float = 0.5
    start_frames: int = 3
    reacquire: bool = False
    reacquire_threshold: float = 0.4
    correct_frames: int = 0
    correct_iou: float = 0.5

    @property
    def is_on(self) -> bool:
        """Whether detections are used for anything."""
        return self.start != OFF or self.reacquire or self.correct_frames > 0


@dataclass(frozen=True)
class Correction:
    """A target goes on from another box.

    Attributes:
        target_id: Name of the target.
        box: In pixels of the newest image.
    """

    target_id: str
    box: Box


@dataclass
class _Agreement:
    """How a target and the detections have agreed."""

    agreed: int = 0
    size: float = 0.0
    disagreed: int = 0
    last: Box | None = None


@dataclass
class _Trial:
    """A find at a detection that may be a lost target."""

    box: Box
    held: int


class DetectionRules:
    """Chooses detections to start on, boxes to correct, and finds of lost targets.

    Not thread-safe.
    """

    def __init__(self) -> None:
        self._choice: Box | None = None
        self._chosen = 0
        self._history: deque[tuple[int, tuple[Track, ...]]] = deque(maxlen=HISTORY)
        self._agreements: dict[str, _Agreement] = {}
        self._sure: dict[str, tuple[Box, int]] = {}
        self._trials: dict[str, _Trial] = {}

    def add_tracks(self, stamp_ns: int, tracks: tuple[Track, ...]) -> None:
        """Keep the tracks of an image, to compare later detections with."""
        if self._history and stamp_ns <= self._history[-1][0]:
            self._history.clear()
        self._history.append((stamp_ns, tracks))
        names = {track.target_id for track in tracks}
        for track in tracks:
            if track.state is State.TRACKING:
                self._sure[track.target_id] = track.box, stamp_ns
            if track.state is not State.LOST:
                self._trials.pop(track.target_id, None)
        for table in (self._agreements, self._sure, self._trials):
            for name in table.keys() - names:
                del table[name]

    def candidates(self, found: DetectionSet, settings: DetectionSettings) -> tuple[Detection, ...]:
        """The detections that count."""
        return tuple(
            one
            for one in found.detections
            if one.score >= settings.min_score and settings.class_id in ("", one.class_id)
        )

    def choose(
        self, found: DetectionSet, settings: DetectionSettings, size: tuple[int, int]
    ) -> Detection | None:
        """The detection to start a target on, once the choice has held.

        Args:
            found: The next set of detections; to be called while nothing is tracked.
            settings: The settings.
            size: Width and height of the image.
        """
        allowed = [one for one in self.candidates(found, settings) if settings.id in ("", one.id)]
        # A detector's order is arbitrary: the choice among equals must not depend on it.
        best = max(
            allowed, key=lambda one: (_rank(one, settings.start, size), one.box), default=None
        )
        # Hysteresis: what was chosen before stays the choice while it is there.
        held = self._choice and _nearest(self._choice, allowed)
        if held is not None and self._choice and iou(held.box, self._choice) >= SAME_IOU:
            best = held
            self._chosen += 1
        else:
            self._chosen = 1
        self._choice = None if best is None else best.box
        if best is None or self._chosen < settings.start_frames:
            return None
        self.forget_choice()
        return best

    def forget_choice(self) -> None:
        """Begin to choose anew."""
        self._choice, self._chosen = None, 0

    def plausible(
        self, target_id: str, boxes: Sequence[Box], stamp_ns: int, tracker: TrackerSettings
    ) -> list[Box]:
        """Boxes that a lost target may have come to, by its size and speed; nearest first."""
        if target_id not in self._sure:
            return []
        last, seen_ns = self._sure[target_id]
        size = math.sqrt(last.area)
        reach = size * tracker.reacquire_max_speed * (1 + max(0, stamp_ns - seen_ns) / NS)
        return sorted(
            (
                box
                for box in boxes
                if SIZES[0] <= math.sqrt(box.area) / size <= SIZES[1]
                and math.dist(box.center, last.center) <= reach
            ),
            key=lambda box: (math.dist(box.center, last.center), box),
        )

    def found(
        self,
        target_id: str,
        finds: Sequence[Find],
        boxes: Sequence[Box],
        settings: DetectionSettings,
    ) -> Find | None:
        """What a lost target is, once the same find has been the best often enough.

        Args:
            target_id: Name of the target.
            finds: What was found at the detections of one image (`Session.score_boxes`).
            boxes: These detections, one of which the find must overlap.
            settings: The settings; `start_frames` in a row are required.
        """
        best = max(finds, key=lambda one: one.score, default=None)
        before = self._trials.pop(target_id, None)
        if best is None or best.score < settings.reacquire_threshold:
            return None
        if max(iou(best.box, box) for box in boxes) < SAME_IOU:
            return None
        side = math.sqrt(best.box.area)
        rivals = [
            one.score for one in finds
            if math.dist(one.box.center, best.box.center) > SAME_PLACE * side
        ]  # fmt: skip
        if best.score - max(rivals, default=0.0) < MARGIN:
            return None
        is_same = before is not None and math.dist(before.box.center, best.box.center) <= side
        held = before.held + 1 if before is not None and is_same else 1
        if held >= settings.start_frames:
            return best
        self._trials[target_id] = _Trial(best.box, held)
        return None

    def seconds_since(self, target_id: str, stamp_ns: int) -> float:
        """Seconds since a target was TRACKING; 0 where it never was."""
        return max(0, stamp_ns - self._sure.get(target_id, (None, stamp_ns))[1]) / NS

    def corrections(self, found: DetectionSet, settings: DetectionSettings) -> list[Correction]:
        """The targets whose box is to be corrected after this set of detections."""
        step = min(self._history, key=lambda s: abs(s[0] - found.stamp_ns), default=None)
        if step is None or abs(step[0] - found.stamp_ns) > MAX_APART_NS:
            return []
        seen = [t for t in step[1] if t.state in (State.TRACKING, State.UNCERTAIN)]
        now = {track.target_id: track for track in self._history[-1][1]}
        allowed = self.candidates(found, settings)
        corrections = []
        for track in seen:
            others = [other.box for other in seen if other is not track]
            box = self._compare(track, others, allowed, settings)
            current = now.get(track.target_id)
            if box is not None and current is not None:
                # The target has moved on since the image of the detections.
                dx = current.box.center[0] - track.box.center[0]
                dy = current.box.center[1] - track.box.center[1]
                moved = Box(box.x + dx, box.y + dy, box.w, box.h)
                corrections.append(Correction(track.target_id, moved))
        return corrections

    def _compare(
        self,
        track: Track,
        others: Sequence[Box],
        allowed: Sequence[Detection],
        settings: DetectionSettings,
    ) -> Box | None:
        """Compare a target with the detections; the box to go on from, if it is to be corrected."""
        memory = self._agreements.setdefault(track.target_id, _Agreement())
        near = [
            one
            for one in allowed
            if iou(one.box, track.box) >= NEAR_IOU
            and all(iou(one.box, other) < settings.correct_iou for other in others)
        ]
        best = max(near, key=lambda one: iou(one.box, track.box), default=None)
        if best is not None and iou(best.box, track.box) >= settings.correct_iou:
            memory.agreed += 1
            memory.size = math.sqrt(best.box.area)
            memory.disagreed, memory.last = 0, None
            return None
        is_plausible = (
            best is not None
            and len(near) == 1  # of two, it may be the other one that passes by
            and memory.agreed >= settings.correct_frames
            and SIZES[0] <= math.sqrt(best.box.area) / memory.size <= SIZES[1]
            and (memory.last is None or iou(memory.last, best.box) >= SAME_IOU)
        )
        if best is None or not is_plausible:
            memory.disagreed, memory.last = 0, None
            return None
        memory.disagreed, memory.last = memory.disagreed + 1, best.box
        if memory.disagreed < settings.correct_frames:
            return None
        memory.disagreed, memory.last = 0, None
        return best.box


def _rank(one: Detection, rule: str, size: tuple[int, int]) -> float:
    if rule == NEAREST:
        return -math.dist(one.box.center, (size[0] / 2, size[1] / 2))
    return one.box.area if rule == LARGEST else one.score


def _nearest(box: Box, among: Sequence[Detection]) -> Detection | None:
    return max(among, key=lambda one: (iou(one.box, box), one.box), default=None)
