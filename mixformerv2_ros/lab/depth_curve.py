"""What the exits of a bundle cost and keep: mean depth and success AUC by threshold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from mixformerv2_ros.errors import ParameterError
from mixformerv2_ros.lab.datasets.sequences import AnnotatedSequence
from mixformerv2_ros.lab.evaluation.run import run_sequence
from mixformerv2_ros.lab.evaluation.summary import summarise
from mixformerv2_ros.lab.evaluation.trackers import MixFormerTracker
from mixformerv2_ros.model.depth_calibration import DepthPoint, ExitsPoint
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
    settings = replace(settings, exit_threshold=threshold, exit_thresholds=())
    return DepthPoint(threshold, *_measure(engine, settings, sequences, done))


def measure_exits(
    engine: Engine,
    settings: TrackerSettings,
    thresholds: Sequence[float],
    sequences: Sequence[AnnotatedSequence],
    done: Callable[[], object] = lambda: None,
) -> ExitsPoint:
    """The same with a threshold for every exit, see `TrackerSettings.exit_thresholds`."""
    settings = replace(settings, exit_thresholds=tuple(thresholds))
    return ExitsPoint(tuple(thresholds), *_measure(engine, settings, sequences, done))


def _measure(
    engine: Engine,
    settings: TrackerSettings,
    sequences: Sequence[AnnotatedSequence],
    done: Callable[[], object],
) -> tuple[float, float]:
    """Mean depth over the full one, and success AUC."""
    settings = replace(settings, exit_deadline_ms=0.0)
    results = []
    for sequence in sequences:
        results.append((sequence, run_sequence(MixFormerTracker(engine, settings), sequence)))
        done()
    # The same figures as those of `evaluate --exit-thresholds`.
    summary = summarise(results)
    return summary.depth / engine.spec.depth, summary.overall.success_auc


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


def best_exits(
    points: Sequence[ExitsPoint],
    single: DepthPoint | None,
    full_auc: float,
    *,
    budget: float | None = None,
    loss: float | None = None,
) -> ExitsPoint | None:
    """The best of measured thresholds per exit, where it does better than one for all of them.

    Args:
        points: What was measured.
        single: The point of the one threshold; None: none meets the goal.
        full_auc: Success AUC of full depth.
        budget: The goal: mean depth over the full one that is kept to, with the best success AUC.
        loss: Or the success AUC that may be lost, with the least depth.
    """
    if budget is not None:
        able = [one for one in points if one.depth <= budget]
        if single is not None:
            able = [one for one in able if one.success_auc > single.success_auc]
        return max(able, key=lambda one: one.success_auc, default=None)
    assert loss is not None
    able = [one for one in points if full_auc - one.success_auc <= loss]
    if single is not None:
        able = [one for one in able if one.depth < single.depth]
    return min(able, key=lambda one: one.depth, default=None)
