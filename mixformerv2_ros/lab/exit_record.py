"""What every exit would have answered, recorded once, and thresholds per exit chosen on the record.

The record is of tracks in full depth: what follows from an exit's box, another crop in the next
frame, is not in it. So predictions are corrected by what the same record predicts of thresholds
that have been measured, and a choice counts only after it has been measured as well.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mixformerv2_ros.lab.datasets.sequences import AnnotatedSequence
from mixformerv2_ros.lab.evaluation.metrics import SUCCESS_THRESHOLDS, Floats, overlaps
from mixformerv2_ros.lab.evaluation.run import run_sequence, skipped_frames
from mixformerv2_ros.lab.evaluation.summary import summarise
from mixformerv2_ros.lab.evaluation.trackers import Estimate, Image, MixFormerTracker, stop_at
from mixformerv2_ros.model.depth_calibration import DepthPoint
from mixformerv2_ros.model.engine import Engine, Memory, Prediction, Stop
from mixformerv2_ros.model.engine_wrapper import EngineWrapper
from mixformerv2_ros.tracking.boxes import Box
from mixformerv2_ros.tracking.crop import crop_window
from mixformerv2_ros.tracking.settings import TrackerSettings

COMBINATIONS = 20_000
"""Largest number of combinations of thresholds that are compared on a record."""

VALUES = 40
"""Largest number of thresholds per exit that are compared."""

CANDIDATES = 3
"""Number of combinations that are measured."""

CAUTION = 0.2
"""Each further candidate is chosen for a goal that is stricter by this share."""


@dataclass(frozen=True)
class ExitRecord:
    """Frames of sequences that were tracked in full depth.

    Attributes:
        depths: Numbers of blocks of exits and full depth, (exits + 1,), ascending.
        quality: (frames, exits), the IoU that each exit estimated; NaN where the frame had to be
            searched in full depth.
        success: (frames, exits + 1), the success AUC of the box of each exit and of the full depth;
            NaN where there is no ground truth.
        sequence: (frames,), which sequence a frame is of, counted from 0.
    """

    depths: npt.NDArray[np.intp]
    quality: Floats
    success: Floats
    sequence: npt.NDArray[np.intp]

    def predict(self, thresholds: Sequence[float]) -> tuple[float, float]:
        """What thresholds, one per exit, would come to on the same crops.

        Returns:
            Mean depth over the full one, and the success AUC that is lost to full depth.
        """
        last = self.quality.shape[1]
        chosen = np.full(len(self.quality), last)
        for number in reversed(range(last)):
            if thresholds[number] < 1:
                chosen[self.quality[:, number] >= thresholds[number]] = number
        depth = float(self.depths[chosen].mean() / self.depths[-1])
        lost = self.success[:, last] - self.success[np.arange(len(chosen)), chosen]
        known = ~np.isnan(lost)
        counts = np.bincount(self.sequence[known])
        sums = np.bincount(self.sequence[known], lost[known])
        return depth, float(np.mean(sums[counts > 0] / counts[counts > 0]))


class _Recorder(EngineWrapper):
    """Answers in full depth, and keeps what the exits say where they may be asked."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.seen: tuple[Prediction, ...] = ()

    def forget(self) -> None:
        """Begin a frame."""
        self.seen = ()

    def search(
        self,
        crops: npt.NDArray[np.uint8],
        memories: Sequence[Memory],
        stop: Stop | None = None,
    ) -> Prediction:
        """See `Engine.search`; asks `stop` once, whether the first exit might answer."""
        exits = self.spec.exits
        if stop is not None and stop(exits[0], np.ones(1, np.float32), np.arange(1))[0]:
            self.seen = tuple(
                self.engine.search(crops, memories, stop_at(depth)) for depth in exits
            )
        return self.engine.search(crops, memories)


class _RecordingTracker(MixFormerTracker):
    """Tracks in full depth; notes estimates and boxes of the exits, frame by frame."""

    def __init__(self, engine: _Recorder, settings: TrackerSettings) -> None:
        super().__init__(engine, settings)
        self._engine, self._factor = engine, settings.search_factor
        self._last = Box(0.0, 0.0, 0.0, 0.0)
        self.quality: list[Floats] = []
        self.boxes: list[Floats] = []

    def start(self, image: Image, box: Box) -> None:
        super().start(image, box)
        self._last = Box(*box)

    def update(self, image: Image) -> Estimate:
        self._engine.forget()
        estimate = super().update(image)
        count = len(self._engine.spec.exits)
        quality, boxes = np.full(count, np.nan), np.full((count + 1, 4), np.nan)
        boxes[count] = estimate.box
        side = crop_window(self._last, self._factor).side
        for number, found in enumerate(self._engine.seen):
            assert found.quality is not None
            quality[number] = found.quality[0]
            cx, cy, w, h = (float(value) * side for value in found.boxes[0])
            x, y = self._last.center
            boxes[number] = (x + cx - (side + w) / 2, y + cy - (side + h) / 2, w, h)
        self.quality.append(quality)
        self.boxes.append(boxes)
        self._last = Box(*estimate.box)
        return estimate


def record_exits(
    engine: Engine,
    settings: TrackerSettings,
    sequences: Sequence[AnnotatedSequence],
    done: Callable[[], object] = lambda: None,
) -> tuple[ExitRecord, DepthPoint, list[str]]:
    """Track every sequence once in full depth and ask all exits beside.

    Args:
        engine: An engine of a model with exits.
        settings: All settings but those of exits.
        sequences: Sequences with ground truth.
        done: Called after each.

    Returns:
        The record, what full depth came to, and a line per sequence with frames that cannot be
        decoded.

    Raises:
        SourceError, ImageError, BoxError, EngineError: see `run_sequence`.
    """
    # A deadline that is never missed: the exits are asked in every frame in which they may answer.
    settings = replace(settings, exit_threshold=0.0, exit_thresholds=(), exit_deadline_ms=6e7)
    results, quality, success, place = [], [], [], []
    for number, sequence in enumerate(sequences):
        tracker = _RecordingTracker(_Recorder(engine), settings)
        results.append((sequence, run_sequence(tracker, sequence)))
        done()
        skipped = np.isnan(results[-1][1].seconds[1:])
        truth = sequence.boxes[1:][~skipped]
        for one in tracker.quality:
            quality.append(one)
        boxes = np.array(tracker.boxes).reshape(-1, len(engine.spec.depths), 4)
        # An exit that was not asked has no box.
        asked = np.nan_to_num(boxes)
        overlap = np.stack([overlaps(asked[:, k], truth) for k in range(asked.shape[1])], axis=1)
        above = (overlap[..., None] > SUCCESS_THRESHOLDS).mean(axis=-1)
        success.append(np.where(np.isnan(overlap), np.nan, above))
        place.append(np.full(len(boxes), number))
    record = ExitRecord(
        np.array(engine.spec.depths),
        np.array(quality).reshape(-1, len(engine.spec.exits)),
        np.concatenate(success),
        np.concatenate(place),
    )
    problems = [text for one in results if (text := skipped_frames(*one))]
    return record, DepthPoint(1.0, 1.0, summarise(results).overall.success_auc), problems


def candidates(
    record: ExitRecord,
    curve: Sequence[DepthPoint],
    *,
    budget: float | None = None,
    loss: float | None = None,
) -> list[tuple[float, ...]]:
    """Thresholds per exit that are worth being measured for a goal, at most `CANDIDATES`.

    Args:
        record: A record.
        curve: Measured points with one threshold for all exits; the last is full depth.
        budget: The goal: mean depth over the full one that is kept to, with the least loss.
        loss: Or the success AUC that may be lost, with the least depth.
    """
    combinations = _combinations(record)
    if not combinations:
        return []
    depth, lost = np.array([record.predict(one) for one in combinations]).T
    known = np.array([record.predict([one.threshold] * record.quality.shape[1]) for one in curve])
    depth = _corrected(depth, known[:, 0], [one.depth for one in curve])
    lost = _corrected(lost, known[:, 1], [curve[-1].success_auc - one.success_auc for one in curve])
    found: list[tuple[float, ...]] = []
    for number in range(CANDIDATES):
        share = 1 - number * CAUTION
        if budget is not None:
            # Stricter by a share of what the budget spares.
            able, order = depth <= budget - (1 - share) * (1 - budget) / 2, (depth, lost)
        else:
            assert loss is not None
            able, order = lost <= loss * share, (lost, depth)
        if not able.any():
            break
        best = np.flatnonzero(able)[np.lexsort([one[able] for one in order])[0]]
        if combinations[best] not in found:
            found.append(combinations[best])
    return found


def _combinations(record: ExitRecord) -> list[tuple[float, ...]]:
    """Combinations of quantiles of each exit's estimates, and of not asking it."""
    exits = record.quality.shape[1]
    count = min(VALUES, max(2, math.floor(COMBINATIONS ** (1 / exits))))
    asked = record.quality[~np.isnan(record.quality[:, 0])]
    if not len(asked):
        return []
    shares = np.linspace(0, 1, count - 1, endpoint=False)
    values = [
        sorted({*(round(float(one), 4) for one in np.quantile(column, shares)), 1.0})
        for column in asked.T
    ]
    # Not all of them 1, which is full depth.
    return [one for one in itertools.product(*values) if min(one) < 1]


def _corrected(predicted: Floats, known: Floats, measured: Sequence[float]) -> Floats:
    """Predictions, moved as those of measured thresholds have to be, never falling with them."""
    order = np.argsort(known, kind="stable")
    return np.interp(predicted, known[order], np.maximum.accumulate(np.asarray(measured)[order]))
