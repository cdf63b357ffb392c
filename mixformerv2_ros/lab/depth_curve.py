"""What the exits of a bundle cost and keep: mean depth and success AUC by threshold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from mixformerv2_ros.errors import ParameterError
from mixformerv2_ros.lab.datasets.sequences import AnnotatedSequence
from mixformerv2_ros.lab.evaluation.run import run_sequence
from mixformerv2_ros.lab.evaluation.summary import summarise
from mixformerv2_ros.lab.evaluation.trackers import MixFormerTracker
from mixformerv2_ros.model.depth_calibration import DepthPoint
from mixformerv2_ros.model.engine import Engine
from mixformerv2_ros.tracking.settings import TrackerSettings

THRESHOLDS = (0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)
"""Thresholds that are measured beside full depth, unless others are asked for."""


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
    settings = replace(settings, exit_threshold=threshold, exit_deadline_ms=0.0)
    results = []
    for sequence in sequences:
        results.append((sequence, run_sequence(MixFormerTracker(engine, settings), sequence)))
        done()
    # The same figures as those of `evaluate --exit-thresholds`.
    summary = summarise(results)
    return DepthPoint(threshold, summary.depth / engine.spec.depth, summary.overall.success_auc)


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
