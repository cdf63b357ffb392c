"""What the exits of a bundle cost and keep: mean depth and success AUC by threshold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from mixformerv2_ros.errors import ParameterError
from mixformerv2_ros.lab.datasets.sequences import AnnotatedSequence
from mixformerv2_ros.lab.evaluation.run import run_sequence
from mixformerv2_ros.lab.evaluation.summary import summarise
from mixformerv2_ros.lab.evaluation.trackers import MixFormerTracker
from mixformerv2_ros.model.depth_calibration import (
    DepthPoint,
    ExitsPoint,
    rounded_up,
)
from mixformerv2_ros.model.engine import Engine
from mixformerv2_ros.tracking.settings import TrackerSettings

THRESHOLDS = (0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)
"""Thresholds that are measured beside full depth, unless others are asked for."""

REFINEMENTS = 3
"""Largest number of thresholds between those that are measured for a budget."""


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


def threshold_for_loss(curve: Sequence[DepthPoint], loss: float) -> float | None:
    """The threshold of a curve with the least depth that loses no more than allowed.

    Args:
        curve: Points with ascending thresholds; the last is full depth.
        loss: Success AUC that may be lost.

    Returns:
        The threshold; None where every one below full depth loses more.
    """
    kept = [one for one in curve[:-1] if curve[-1].success_auc - one.success_auc <= loss]
    return min(kept, key=lambda one: one.depth).threshold if kept else None


def threshold_for_budget(
    curve: list[DepthPoint], budget: float, measure: Callable[[float], DepthPoint]
) -> float | None:
    """The highest threshold found whose measured depth keeps to a budget.

    Between it and the next point of the curve a few more are measured, each in the middle: depth
    jumps with the threshold.

    Args:
        curve: Points with ascending thresholds; gets those that are measured.
        budget: Mean depth over the full one.
        measure: Measures a threshold.

    Returns:
        The threshold; None where every one goes deeper.
    """
    kept = [one.threshold for one in curve if one.depth <= budget]
    if not kept:
        return None
    best = max(kept)
    for _ in range(REFINEMENTS):
        higher = [one.threshold for one in curve if one.threshold > best]
        if not higher:
            break
        point = measure(round((best + higher[0]) / 2, 4))
        curve.append(point)
        curve.sort(key=lambda one: one.threshold)
        if point.depth <= budget:
            best = point.threshold
    return best


def unmet_goal(
    points: Iterable[DepthPoint | ExitsPoint],
    full_auc: float,
    *,
    budget: float | None = None,
    loss: float | None = None,
) -> ParameterError:
    """The error of a goal that nothing measured meets; names the nearest that can be met.

    Args:
        points: What was measured, without full depth.
        full_auc: Success AUC of full depth.
        budget: The goal: mean depth over the full one.
        loss: Or the success AUC that may be lost.
    """
    if budget is not None:
        least = rounded_up(min(one.depth for one in points))
        return ParameterError(
            f"--budget must be at least {least:.2f} with this bundle and these sequences, got "
            f"{budget:g}"
        )
    assert loss is not None
    least = rounded_up(100 * (full_auc - max(one.success_auc for one in points)))
    return ParameterError(
        f"--max-loss must be at least {least:.2f} points with this bundle and these sequences, got "
        f"{100 * loss:g}"
    )


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
