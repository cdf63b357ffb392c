"""How much a mean over sequences is worth: its interval, its halves, and how many are lost.

Sequences differ far more than trackers do. A mean over some dozens of them moves with the choice of
these dozens, which a bootstrap shows: sequences are drawn anew, as many as there are, with
replacement, and the mean is taken of each draw. The draws come from a fixed seed, so the same
figures have the same interval.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mixformerv2_ros.lab.evaluation.metrics import Floats, SequenceScores

LOST_BELOW = 0.3
"""Mean overlap below which a sequence counts as lost."""

DRAWS = 10_000
"""Bootstrap draws."""

CONFIDENCE = 0.95
"""Share of the draws whose means lie in the interval."""


@dataclass(frozen=True)
class Interval:
    """A mean and the interval that holds 95 % of its bootstrap draws."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Spread:
    """How one tracker's success AUC spreads over sequences.

    Attributes:
        auc: Its mean, with the interval.
        odd: Mean over every other sequence in the order of names, from the first.
        even: The same from the second.
        lost: Share of sequences with a mean overlap below 0.3.
        sequences: Their number.
    """

    auc: Interval
    odd: float
    even: float
    lost: float
    sequences: int


def bootstrap(values: Floats) -> Interval:
    """Interval of the mean of (N,) values; NaN throughout where there are none."""
    if not len(values):
        return Interval(math.nan, math.nan, math.nan)
    rng = np.random.default_rng(0)
    means = values[rng.integers(len(values), size=(DRAWS, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(values.mean()), float(low), float(high))


def spread(scores: Mapping[str, SequenceScores]) -> Spread:
    """Spread of one tracker; sequences without a frame that counts are left out."""
    counted = [scores[name] for name in sorted(scores) if scores[name].frames]
    auc = np.array([each.success_auc for each in counted], dtype=np.float64)
    overlap = np.array([each.mean_overlap for each in counted], dtype=np.float64)
    return Spread(
        auc=bootstrap(auc),
        odd=_mean(auc[::2]),
        even=_mean(auc[1::2]),
        lost=_mean((overlap < LOST_BELOW).astype(np.float64)),
        sequences=len(counted),
    )


def difference(
    scores: Mapping[str, SequenceScores], others: Mapping[str, SequenceScores]
) -> Spread:
    """By how much the success AUC of `scores` exceeds that of `others`, sequence by sequence.

    Paired: what all trackers find hard cancels out, so the interval is narrower than those of the
    two means. `lost` is the difference of the shares. Only sequences that both have count.
    """
    names = [n for n in sorted(scores) if n in others and scores[n].frames and others[n].frames]
    ours, theirs = ({name: each[name] for name in names} for each in (scores, others))
    gains = np.array([ours[n].success_auc - theirs[n].success_auc for n in names])
    return Spread(
        auc=bootstrap(gains.astype(np.float64)),
        odd=_mean(gains[::2]),
        even=_mean(gains[1::2]),
        lost=spread(ours).lost - spread(theirs).lost,
        sequences=len(names),
    )


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else math.nan
