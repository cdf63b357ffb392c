"""What the exits of a bundle cost and keep: mean depth and success AUC by threshold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from mixformerv2_ros.errors import ParameterError
from mixformerv2_ros.lab.datasets.sequences import AnnotatedSequence
from mixformerv2_ros.lab.evaluation.metrics import score_sequence
from mixformerv2_ros.lab.evaluation.run import run_sequence
from mixformerv2_ros.lab.evaluation.trackers import MixFormerTracker
from mixformerv2_ros.model.depth_calibration import DepthPoint
from mixformerv2_ros.model.engine import Engine, Memory, Prediction, Stop
from mixformerv2_ros.model.engine_wrapper import EngineWrapper
from mixformerv2_ros.tracking.settings import TrackerSettings

THRESHOLDS = (0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)
"""Thresholds that are measured beside full depth, unless others are asked for."""


class DepthMeter(EngineWrapper):
    """An engine that adds up how deep it was asked to look.

    Attributes:
        searches: Number of crops searched.
        blocks: Number of blocks run for them.
    """

    def __init__(self, engine: Engine) -> None:
        """Pass all on to `engine`."""
        super().__init__(engine)
        self.searches = self.blocks = 0

    @property
    def depth(self) -> float:
        """Mean number of blocks over that of full depth; 1 before the first search."""
        return self.blocks / (self.searches * self.spec.depth) if self.searches else 1.0

    def search(
        self,
        crops: npt.NDArray[np.uint8],
        memories: Sequence[Memory],
        stop: Stop | None = None,
    ) -> Prediction:
        """See `Engine.search`."""
        prediction = super().search(crops, memories, stop)
        self.searches += len(prediction.depths)
        self.blocks += int(prediction.depths.sum())
        return prediction


def measure_point(
    engine: Engine,
    settings: TrackerSettings,
    threshold: float,
    sequences: Sequence[AnnotatedSequence],
    done: Callable[[], object] = lambda: None,
) -> DepthPoint:
    """Track every sequence once with a threshold.

    Args:
        engine: An engine of a model with exits.
        settings: All other settings.
        threshold: See `TrackerSettings.exit_threshold`.
        sequences: Sequences with ground truth.
        done: Called after each.

    Raises:
        SourceError, ImageError, BoxError, EngineError: see `run_sequence`.
    """
    meter = DepthMeter(engine)
    settings = replace(settings, exit_threshold=threshold, exit_deadline_ms=0.0)
    figures = []
    for sequence in sequences:
        result = run_sequence(MixFormerTracker(meter, settings), sequence)
        figures.append(score_sequence(result.boxes, sequence.boxes).success_auc)
        done()
    return DepthPoint(threshold, meter.depth, float(np.mean(figures)))


def threshold_for_loss(curve: Sequence[DepthPoint], points: float) -> float:
    """The threshold of a curve with the least depth that loses no more than allowed.

    Args:
        curve: Points with ascending thresholds; the last is full depth.
        points: Allowed loss of success AUC in points (hundredths).

    Raises:
        ParameterError: every threshold below full depth loses more; names the least loss.
    """
    full = curve[-1].success_auc
    kept = [p for p in curve[:-1] if full - p.success_auc <= points / 100]
    if not kept:
        best = max(curve[:-1], key=lambda p: p.success_auc)
        raise ParameterError(
            f"--max-loss must be at least {100 * (full - best.success_auc):.2f} points with these "
            f"sequences (threshold {best.threshold:g}), got {points:g}"
        )
    return min(kept, key=lambda p: p.depth).threshold
