"""Detections of an object detector on their way into a stream; the rules are in `detections.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mixformerv2_ros.errors import BoxError, ImageError
from mixformerv2_ros.text import printable
from mixformerv2_ros.tracking.boxes import Box, check_box, clip_box
from mixformerv2_ros.tracking.detections import (
    OFF,
    DetectionRules,
    DetectionSet,
    DetectionSettings,
)
from mixformerv2_ros.tracking.events import Event, EventKind, InitRequest
from mixformerv2_ros.tracking.frame import Frame
from mixformerv2_ros.tracking.session import Session, State, Track


class DetectionGuide:
    """Applies detections to the targets of a session. Not thread-safe.

    Attributes:
        settings: May be replaced between two images.
    """

    def __init__(self) -> None:
        self.settings = DetectionSettings()
        self._rules = DetectionRules()
        self._candidates: tuple[Box, ...] = ()
        self._lost: list[str] = []
        self._turn = 0
        self._looked = False

    def reset(self) -> None:
        """Forget the targets and what was seen of them."""
        self._rules = DetectionRules()
        self._candidates, self._lost = (), []

    def unusable(self, found: DetectionSet, frame: Frame) -> Event | None:
        """Why detections cannot be compared with images like `frame`; None if they can."""
        if found.stamp_ns <= 0:
            return unused("detections without a stamp are not used")
        if found.frame_id and frame.frame_id and found.frame_id != frame.frame_id:
            return unused(
                f"detections of frame_id {printable(found.frame_id)} are not used: that of the "
                f"images is {printable(frame.frame_id)}"
            )
        return None

    def start(self, found: DetectionSet, frame: Frame, is_idle: bool) -> InitRequest | None:
        """The target to start, once the rule has chosen it.

        Args:
            found: The next set of detections.
            frame: The newest image.
            is_idle: Whether nothing is tracked, or waits for its image.
        """
        if self.settings.start == OFF or not is_idle:
            self._rules.forget_choice()
            return None
        size = frame.pixels.width, frame.pixels.height
        chosen = self._rules.choose(found, self.settings, size)
        return None if chosen is None else InitRequest(chosen.box, stamp_ns=found.stamp_ns)

    def add_candidates(self, found: DetectionSet) -> None:
        """Keep detections for the targets that are lost in the next image."""
        if self.settings.reacquire:
            allowed = self._rules.candidates(found, self.settings)
            self._candidates = tuple(one.box for one in allowed)

    def correct(
        self, found: DetectionSet, frame: Frame, session: Session, time_ns: int
    ) -> list[tuple[str, Event]]:
        """Let targets that have drifted go on from their detections; names and what to report.

        Args:
            found: The next set of detections.
            frame: The newest image, which has been searched for the targets.
            session: The targets.
            time_ns: Time of the image.

        Raises:
            EngineError: the engine failed.
        """
        if not self.settings.correct_frames:
            return []
        events = []
        for each in self._rules.corrections(found, self.settings):
            name, box = each.target_id, each.box
            if name not in session.targets or not _is_inside(box, frame):
                continue
            (seen,) = session.score_boxes(frame, name, [box])
            if seen.score < session.settings.uncertain_threshold:
                continue  # it does not look like the target
            session.tracker(name).forget_online()
            clipped = clip_box(box, frame.pixels.width, frame.pixels.height)
            session.move(frame, name, replace(seen, box=clipped), time_ns)
            text = f"box of {printable(name)} corrected by a detection"
            events.append((name, Event(EventKind.CORRECTED, text)))
        return events

    @property
    def will_look(self) -> bool:
        """Whether the next `look` scores candidates; the search of tiles pauses for that image."""
        return bool(self._candidates and self._lost) and not self._looked

    def look(
        self, frame: Frame, session: Session, tracks: Mapping[str, Track], time_ns: int
    ) -> tuple[Track, Event] | None:
        """Look for one of the lost targets at the detections, every other image.

        Args:
            frame: The image, which has been searched for the targets.
            session: The targets.
            tracks: Their tracks in this image, by name.
            time_ns: Time of the image.

        Returns:
            The track of a target that was found, and what to report.

        Raises:
            EngineError: the engine failed.
        """
        self._looked = self.will_look
        if not self._looked:
            return None
        lost = [name for name in self._lost if name in tracks and name in session.targets]
        lost = [name for name in lost if tracks[name].state is State.LOST]
        boxes, self._candidates = self._candidates, ()
        limit = session.settings.reacquire_crops
        if not lost or not limit:
            return None
        self._turn += 1
        name, rules = lost[self._turn % len(lost)], self._rules
        boxes = tuple(box for box in boxes if _is_inside(box, frame))
        near = rules.plausible(name, boxes, frame.stamp_ns, session.settings)[:limit]
        finds = session.score_boxes(frame, name, near)
        best = rules.found(name, finds, near, self.settings)
        if best is None:
            return None
        seconds = rules.seconds_since(name, frame.stamp_ns)
        found = f"found {printable(name)} again at a detection"
        text = f"{found}, {seconds:.3f} s after it was seen last"
        return session.move(frame, name, best, time_ns), Event(EventKind.REACQUIRED, text)

    def add_tracks(self, frame: Frame, tracks: Mapping[str, Track]) -> None:
        """Keep the tracks of an image."""
        if self.settings.is_on:
            self._rules.add_tracks(frame.stamp_ns, tuple(tracks.values()))
            self._lost = [t.target_id for t in tracks.values() if t.state is State.LOST]


def unused(text: str) -> Event:
    """The event of detections that cannot be used."""
    return Event(EventKind.DETECTIONS_UNUSED, text)


def _is_inside(box: Box, frame: Frame) -> bool:
    try:
        check_box(box, frame.pixels.width, frame.pixels.height)
    except (BoxError, ImageError):
        return False
    return True
