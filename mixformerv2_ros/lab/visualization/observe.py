"""A tracking run, frame by frame, with everything that the pictures show."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mixformerv2_ros.io.video import VideoFrame
from mixformerv2_ros.model.engine import Engine, Memory, Prediction
from mixformerv2_ros.tracking.boxes import Box, check_box
from mixformerv2_ros.tracking.crop import crop_window
from mixformerv2_ros.tracking.memory import Crop, TemplateMemory
from mixformerv2_ros.tracking.pixels import Pixels
from mixformerv2_ros.tracking.session import State, StateMachine
from mixformerv2_ros.tracking.settings import TrackerSettings
from mixformerv2_ros.tracking.tracker import Observation, Tracker, search_shape


@dataclass(frozen=True)
class MemoryView:
    """The template memory at one time.

    Attributes:
        initial: The initial template, (T, T, 3) uint8 RGB like all of them.
        online: The online templates by their places.
        candidate: What the next change would store, None while no frame was good enough.
        score: The candidate's score, faded by `max_score_decay`; 0 without one.
    """

    initial: Crop
    online: tuple[Crop, ...]
    candidate: Crop | None
    score: float


@dataclass(frozen=True)
class Moment:
    """One frame of a run.

    Attributes:
        index: Number of the frame.
        image: The frame.
        crop: (S, S, 3) uint8 RGB, the search region.
        side: Side of the search region in image pixels.
        prediction: The network's answer, a batch of one.
        attention: See `attention.WatchingEngine.attend`; None where nobody asked for it.
        seen: What the tracker made of the answer.
        state: How the target fares.
        before: The template memory that the network used.
        after: The template memory that it left.
        stored_score: Score of the candidate that a change after this frame stored; None if the
            templates stayed, or if no frame was good enough and the initial template was stored.
    """

    index: int
    image: Pixels
    crop: Crop
    side: int
    prediction: Prediction
    attention: npt.NDArray[np.float32] | None
    seen: Observation
    state: State
    before: MemoryView
    after: MemoryView
    stored_score: float | None

    @property
    def edges(self) -> tuple[float, float, float, float]:
        """Predicted left, top, right and bottom over the side of the search region."""
        cx, cy, w, h = (float(value) for value in self.prediction.boxes[0])
        return cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2


Attend = Callable[[npt.NDArray[np.uint8], Memory], tuple[Prediction, npt.NDArray[np.float32]]]
"""Does what `Engine.search` does for one target, and also returns the attention."""


def observe(
    engine: Engine,
    settings: TrackerSettings,
    frames: Iterable[VideoFrame],
    box: Box,
    *,
    search_box: Box | None = None,
    attend: Attend | None = None,
    watched: Container[int] = (),
) -> Iterator[Moment]:
    """Track one target as a `Session` does, and keep what it saw.

    Args:
        engine: Runs the network.
        settings: Settings of the tracker.
        frames: The first one is what the target is started on and yields nothing.
        box: The target in the first frame.
        search_box: What to take for the last box in the second frame, around which its search
            region is cut; by default `box`.
        attend: The engine's search with attention, `WatchingEngine.attend`.
        watched: Frames to use it for.

    Raises:
        BoxError, ImageError: nothing can be tracked from a box.
    """
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        return
    pixels = first.frame.pixels
    tracker = Tracker(engine, settings, pixels, box, first.frame.stamp_ns)
    if search_box is not None:
        tracker.box = check_box(search_box, pixels.width, pixels.height)
    machine = StateMachine()
    for item in frames:
        pixels, stamp_ns = item.frame.pixels, item.frame.stamp_ns
        before = _view(tracker.templates)
        side = crop_window(tracker.box, settings.search_factor).side
        crops = np.empty((1, *search_shape(engine)), dtype=np.uint8)
        tracker.cut_search(pixels, crops[0])
        attention = None
        if attend is not None and item.index in watched:
            prediction, attention = attend(crops, tracker.memory)
        else:
            prediction = engine.search(crops, [tracker.memory])
        score = float(prediction.scores[0])
        state = machine.update(score, stamp_ns, settings)
        seen = tracker.apply(pixels, prediction, 0, stamp_ns, learn=state is State.TRACKING)
        stored_score = None
        if seen.template_updated and seen.candidate_taken:
            stored_score = score
        elif seen.template_updated and before.candidate is not None:
            stored_score = before.score * settings.max_score_decay
        yield Moment(
            index=item.index,
            image=pixels,
            crop=crops[0],
            side=side,
            prediction=prediction,
            attention=attention,
            seen=seen,
            state=state,
            before=before,
            after=_view(tracker.templates),
            stored_score=stored_score,
        )


def _view(memory: TemplateMemory) -> MemoryView:
    found = memory.best_score >= 0
    return MemoryView(
        initial=memory.initial,
        online=tuple(memory.online),
        candidate=memory.candidate if found else None,
        score=memory.best_score if found else 0.0,
    )
