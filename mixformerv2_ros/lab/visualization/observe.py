"""A tracking run, frame by frame, with everything that the images of it show."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from mixformerv2_ros.cli.stream_log import StreamLog
from mixformerv2_ros.io.video import VideoFrame
from mixformerv2_ros.model.engine import Engine, Memory, Prediction, Stop
from mixformerv2_ros.model.spec import ModelSpec
from mixformerv2_ros.tracking.boxes import Box, check_box
from mixformerv2_ros.tracking.events import InitRequest, StreamImage
from mixformerv2_ros.tracking.memory import Crop, TemplateMemory
from mixformerv2_ros.tracking.pixels import Pixels
from mixformerv2_ros.tracking.session import State
from mixformerv2_ros.tracking.settings import TrackerSettings
from mixformerv2_ros.tracking.stream import Stream, StreamRules, track_one
from mixformerv2_ros.tracking.tracker import Observation


@dataclass(frozen=True)
class MemoryView:
    """The template memory at one time.

    Attributes:
        initial: The initial template, (T, T, 3) uint8 RGB like all of them.
        online: The online templates by their places.
        candidate: What the next change would store, None while no frame was good enough.
        score: The candidate's score, decayed by `max_score_decay`; 0 without one.
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
        attention: See `attention.AttentionEngine.attend`; None where nobody asked for it.
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


class _ObservedEngine:
    """An engine that keeps what it was given and what it gave, one target at a time."""

    def __init__(self, engine: Engine, attend: Attend | None) -> None:
        self._engine = engine
        self._attend = attend
        self.with_attention = False
        self.templates: Callable[[], TemplateMemory] | None = None
        self.seen: _Search | None = None

    @property
    def spec(self) -> ModelSpec:
        return self._engine.spec

    @property
    def name(self) -> str:
        return self._engine.name

    def encode_templates(self, templates: npt.NDArray[np.uint8]) -> Memory:
        return self._engine.encode_templates(templates)

    def search(
        self,
        crops: npt.NDArray[np.uint8],
        memories: Sequence[Memory],
        stop: Stop | None = None,
    ) -> Prediction:
        attention = None
        if self._attend is not None and self.with_attention:
            prediction, attention = self._attend(crops, memories[0])
        else:
            prediction = self._engine.search(crops, memories, stop)
        assert self.templates is not None
        self.seen = _Search(crops[0].copy(), prediction, attention, _view(self.templates()))
        return prediction


@dataclass(frozen=True)
class _Search:
    crop: Crop
    prediction: Prediction
    attention: npt.NDArray[np.float32] | None
    before: MemoryView


def observe(
    engine: Engine,
    settings: TrackerSettings,
    images: Iterable[StreamImage],
    box: Box,
    log: StreamLog,
    *,
    search_box: Box | None = None,
    attend: Attend | None = None,
    watched: Container[int] = (),
) -> Iterator[Moment]:
    """Track one target through a `Stream`, and keep what the tracker saw.

    Args:
        engine: Runs the network.
        settings: Settings of the tracker.
        images: The first one is what the target is started on and yields nothing.
        box: The target in the first image.
        log: Takes the events of the stream.
        search_box: What to take for the last box in the second image, around which its search
            region is cropped; by default `box`.
        attend: The engine's search with attention, `AttentionEngine.attend`.
        watched: Numbers of the images to use it for.

    Raises:
        BoxError, EngineError: nothing can be tracked from a box, or the engine failed.
    """
    observed = _ObservedEngine(engine, attend)
    stream = Stream(observed, settings, StreamRules(buffer_images=2))
    request = InitRequest(box)

    def marked() -> Iterator[StreamImage]:
        for image in images:
            observed.with_attention = _index(image) in watched
            yield image

    for step in log.steps(track_one(stream, marked(), request)):
        if request.target_id not in stream.targets:
            return  # reset: the size of the images changed
        tracker = stream.session.tracker(request.target_id)
        observation, seen = tracker.observation, observed.seen
        if observation is None or seen is None:
            pixels = step.frame.pixels
            if search_box is not None:
                tracker.box = check_box(search_box, pixels.width, pixels.height)
            observed.templates = partial(getattr, tracker, "templates")
            continue
        before = seen.before
        stored_score = None
        if observation.template_updated and observation.candidate_taken:
            stored_score = observation.confidence
        elif observation.template_updated and before.candidate is not None:
            stored_score = before.score * settings.max_score_decay
        yield Moment(
            index=_index(step.image),
            image=step.frame.pixels,
            crop=seen.crop,
            side=tracker.search_window.side,
            prediction=seen.prediction,
            attention=seen.attention,
            seen=observation,
            state=step.tracks[0].state,
            before=before,
            after=_view(tracker.templates),
            stored_score=stored_score,
        )


def _index(image: StreamImage) -> int:
    return image.index if isinstance(image, VideoFrame) else image.number - 1


def _view(memory: TemplateMemory) -> MemoryView:
    found = memory.best_score >= 0
    return MemoryView(
        initial=memory.initial,
        online=tuple(memory.online),
        candidate=memory.candidate if found else None,
        score=memory.best_score if found else 0.0,
    )
