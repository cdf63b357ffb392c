"""Targets and their states over a stream of frames."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from mixformerv2_ros.model.engine import Engine
from mixformerv2_ros.tracking.boxes import Box
from mixformerv2_ros.tracking.frame import NS, Frame
from mixformerv2_ros.tracking.settings import TrackerSettings
from mixformerv2_ros.tracking.tracker import Observation, TargetTracker, search_shape


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


class Session:
    """Follows any number of targets through one stream of frames with one engine.

    Templates are not updated while a target is not TRACKING: an update from a doubtful box
    cannot be undone. With both thresholds 0 a target is always TRACKING, and the
    protocol is exactly the reference's.

    Attributes:
        settings: May be replaced between frames; holds for all targets.
    """

    def __init__(self, engine: Engine, settings: TrackerSettings) -> None:
        self.engine = engine
        self.settings = settings
        self._targets: dict[str, tuple[TargetTracker, StateMachine]] = {}
        self._crops = np.empty((0, *search_shape(engine)), dtype=np.uint8)

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the targets, in the order of their start."""
        return tuple(self._targets)

    def tracker(self, target_id: str) -> TargetTracker:
        """The tracker of a target.

        Raises:
            KeyError: there is no such target.
        """
        return self._targets[target_id][0]

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
        self._targets[target_id] = (tracker, StateMachine())
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

    def update(self, frame: Frame, time_ns: int | None = None) -> list[Track]:
        """Find every target in the next frame; one engine call serves all of them.

        Args:
            frame: The image.
            time_ns: Time of the image for all durations; its stamp where None.
        """
        if not self._targets:
            return []
        time_ns = frame.stamp_ns if time_ns is None else time_ns
        crops = self._buffer(len(self._targets))
        trackers = [tracker for tracker, _ in self._targets.values()]
        for tracker, crop in zip(trackers, crops, strict=True):
            tracker.settings = self.settings
            tracker.crop_search(frame.pixels, crop)
        prediction = self.engine.search(crops, [tracker.memory for tracker in trackers])
        tracks = []
        for index, (name, (tracker, machine)) in enumerate(self._targets.items()):
            state = machine.update(float(prediction.scores[index]), time_ns, self.settings)
            seen = tracker.apply(
                frame.pixels, prediction, index, time_ns, update_templates=state is State.TRACKING
            )
            tracks.append(_track(name, frame, seen, state, time_ns - tracker.updated_ns))
        return tracks

    def _buffer(self, count: int) -> npt.NDArray[np.uint8]:
        if len(self._crops) != count:
            self._crops = np.empty((count, *search_shape(self.engine)), dtype=np.uint8)
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
    )
