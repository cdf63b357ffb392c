"""Metrics of single-object tracking, in numpy, each with its exact definition.

Conventions that hold throughout:

* Boxes are (N, 4) float arrays x, y, w, h in pixels, top-left corner. No +1 anywhere: a box covers
  [x, x + w) x [y, y + h), and its centre is (x + w / 2, y + h / 2).
* A frame whose ground truth is NaN shows no target: it is *excluded* from every metric except the
  long-term ones, where a box reported on it costs precision. A ground-truth box of zero area is
  not absent: it counts, with overlap 0.
* The first frame counts like any other (its box was given, so its overlap is 1), again with the
  exception of the long-term metrics.
* A share over no frames is NaN.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

SUCCESS_THRESHOLDS: Floats = np.arange(21) / 20
"""Overlap thresholds of the success curve: 0, 0.05 .. 1."""

NORMALISED_THRESHOLDS: Floats = np.arange(51) / 100
"""Thresholds of the normalised precision curve: 0, 0.01 .. 0.5."""

PRECISION_PIXELS = 20.0
"""Centre distance, in pixels, at which precision is reported."""


def overlaps(predicted: npt.ArrayLike, truth: npt.ArrayLike) -> Floats:
    """Intersection over union per frame, (N,) in [0, 1]; NaN where `truth` is absent.

    Zero where a box has no area. Values are capped at 1, which rounding can exceed by one bit.

    Args:
        predicted: (N, 4) finite boxes.
        truth: (N, 4) ground-truth boxes; a row with a NaN means that the target is absent.
    """
    boxes, targets = _paired(predicted, truth)
    corner = np.maximum(boxes[:, :2], targets[:, :2])
    opposite = np.minimum(boxes[:, :2] + boxes[:, 2:], targets[:, :2] + targets[:, 2:])
    # A negative size must not pass as a positive area when both sides are negative.
    sizes = np.maximum(opposite - corner, 0.0)
    intersection = sizes[:, 0] * sizes[:, 1]
    areas = [np.maximum(b[:, 2], 0.0) * np.maximum(b[:, 3], 0.0) for b in (boxes, targets)]
    union = areas[0] + areas[1] - intersection
    ratio = np.divide(intersection, union, out=np.zeros(len(union)), where=union > 0)
    return np.where(_absent(targets), np.nan, np.minimum(ratio, 1.0))


def center_distances(predicted: npt.ArrayLike, truth: npt.ArrayLike) -> Floats:
    """Euclidean distance of the boxes' centres per frame, (N,) in pixels; NaN where absent."""
    offset = _center_offsets(predicted, truth)
    return np.hypot(offset[:, 0], offset[:, 1])


def normalised_distances(predicted: npt.ArrayLike, truth: npt.ArrayLike) -> Floats:
    """Centre distance in units of the target's size per frame, (N,); NaN where absent.

    The offset's x is divided by the ground truth's width and its y by the height before the norm
    is taken (TrackingNet, Mueller et al. 2018). Infinite where the ground truth has no area.
    """
    offset = _center_offsets(predicted, truth)
    sizes = np.asarray(truth, dtype=np.float64)[:, 2:]
    flat = (sizes <= 0).any(axis=1)
    scaled = offset / np.where(sizes > 0, sizes, 1.0)
    return np.where(flat, np.inf, np.hypot(scaled[:, 0], scaled[:, 1]))


def success_curve(overlap: Floats) -> Floats:
    """Share of frames whose overlap is *greater than* each of the 21 thresholds, (21,).

    The comparison is strict, so the last value (overlap above 1) is always 0.
    """
    present = overlap[~np.isnan(overlap)]
    if not present.size:
        return np.full(SUCCESS_THRESHOLDS.shape, np.nan)
    # Counting by sorting is exact and needs no (N, 21) array.
    below = np.searchsorted(np.sort(present), SUCCESS_THRESHOLDS, side="right")
    return (present.size - below) / present.size


def success_auc(overlap: Floats) -> float:
    """Area under the success curve: the mean of its 21 values.

    A perfect tracker reaches 20/21 = 0.952, because no overlap is above 1.
    """
    return float(success_curve(overlap).mean())


def share_above(overlap: Floats, threshold: float) -> float:
    """Share of frames with overlap > `threshold` (strict): OP50 at 0.5, OP75 at 0.75."""
    present = overlap[~np.isnan(overlap)]
    return float(np.mean(present > threshold)) if present.size else float("nan")


def precision(distance: Floats, threshold: float = PRECISION_PIXELS) -> float:
    """Share of frames with centre distance <= `threshold` pixels."""
    present = distance[~np.isnan(distance)]
    return float(np.mean(present <= threshold)) if present.size else float("nan")


def normalised_precision(distance: Floats) -> float:
    """Area under the normalised precision curve.

    The curve is the share of frames with normalised distance <= each of the 51 thresholds
    0, 0.01 .. 0.5; the area is the mean of the 51 values (TrackingNet's and LaSOT's convention;
    some papers report the value at 0.2 instead).
    """
    present = distance[~np.isnan(distance)]
    if not present.size:
        return float("nan")
    within = np.searchsorted(np.sort(present), NORMALISED_THRESHOLDS, side="right")
    return float(np.mean(within / present.size))


@dataclass(frozen=True)
class SequenceScores:
    """Figures of one tracker on one sequence.

    Attributes:
        frames: Frames that count: all those whose ground truth is present.
        success_auc: See `success_auc`.
        precision: Share of frames with centre distance <= 20 px.
        normalised_precision: See `normalised_precision`.
        op50: Share of frames with overlap > 0.5.
        op75: Share of frames with overlap > 0.75.
        mean_overlap: Mean overlap (IoU).
    """

    frames: int
    success_auc: float
    precision: float
    normalised_precision: float
    op50: float
    op75: float
    mean_overlap: float


@dataclass(frozen=True)
class OverallScores:
    """Figures of one tracker over several sequences.

    One-pass (OTB) figures are means over *sequences*; the GOT-10k figures `ao`, `sr50`, `sr75`
    are pooled over all *frames* of all sequences, first frames included.

    Attributes:
        sequences: Number of sequences.
        frames: Number of frames with ground truth present.
        success_auc: Mean over sequences of the success AUC.
        precision: Mean over sequences of the precision at 20 px.
        normalised_precision: Mean over sequences of the normalised precision.
        op50: Mean over sequences of the share of frames with overlap > 0.5.
        op75: Mean over sequences of the share of frames with overlap > 0.75.
        seq50: Share of sequences whose mean overlap is > 0.5.
        ao: Average overlap, pooled over frames.
        sr50: Success rate: share of all frames with overlap > 0.5.
        sr75: Success rate: share of all frames with overlap > 0.75.
    """

    sequences: int
    frames: int
    success_auc: float
    precision: float
    normalised_precision: float
    op50: float
    op75: float
    seq50: float
    ao: float
    sr50: float
    sr75: float


def score_sequence(predicted: npt.ArrayLike, truth: npt.ArrayLike) -> SequenceScores:
    """Score the boxes of one sequence; arguments as for `overlaps`."""
    overlap = overlaps(predicted, truth)
    present = overlap[~np.isnan(overlap)]
    return SequenceScores(
        frames=int(present.size),
        success_auc=success_auc(overlap),
        precision=precision(center_distances(predicted, truth)),
        normalised_precision=normalised_precision(normalised_distances(predicted, truth)),
        op50=share_above(overlap, 0.5),
        op75=share_above(overlap, 0.75),
        mean_overlap=float(present.mean()) if present.size else float("nan"),
    )


def score_overall(scores: Iterable[SequenceScores]) -> OverallScores:
    """Combine sequences; those without a single frame with ground truth are left out."""
    counted = [each for each in scores if each.frames]
    frames = sum(each.frames for each in counted)

    def over_sequences(name: str) -> float:
        return _mean([getattr(each, name) for each in counted])

    def over_frames(name: str) -> float:
        total = sum(each.frames * float(getattr(each, name)) for each in counted)
        return total / frames if frames else float("nan")

    return OverallScores(
        sequences=len(counted),
        frames=frames,
        success_auc=over_sequences("success_auc"),
        precision=over_sequences("precision"),
        normalised_precision=over_sequences("normalised_precision"),
        op50=over_sequences("op50"),
        op75=over_sequences("op75"),
        seq50=_mean([float(each.mean_overlap > 0.5) for each in counted]),
        ao=over_frames("mean_overlap"),
        sr50=over_frames("op50"),
        sr75=over_frames("op75"),
    )


@dataclass(frozen=True)
class LongTermScores:
    """The point of the precision-recall curve where F is largest.

    Attributes:
        precision: Mean over sequences of the tracking precision at `threshold`.
        recall: Mean over sequences of the tracking recall at `threshold`.
        f_score: 2 * precision * recall / (precision + recall).
        threshold: The confidence at which a box counts as reported.
    """

    precision: float
    recall: float
    f_score: float
    threshold: float


def long_term(
    overlap: Sequence[Floats], confidence: Sequence[Floats], resolution: int = 100
) -> LongTermScores:
    """Long-term precision, recall and F (Lukezic et al. 2018, as in the VOT-LT challenges).

    A box counts as *reported* at threshold c if its confidence is >= c. Per sequence,
    precision(c) is the mean overlap over reported frames, where a frame without target counts
    with overlap 0 (1 where nothing is reported), and recall(c) the sum of the overlaps of
    reported frames over the number of frames with the target present. The first frame of each
    sequence is left out: its box was given. Precision and recall are averaged over sequences at
    every threshold (recall only over those in which the target is seen again), F is computed from
    the averages, and the threshold with the largest F is reported.

    Thresholds are all distinct confidences, or `resolution` of them evenly spaced by rank where
    there are more.

    Args:
        overlap: Per sequence the result of `overlaps`, (N,).
        confidence: Per sequence the confidences, (N,), finite.
        resolution: Largest number of thresholds.
    """
    pairs = [
        (np.nan_to_num(overlap[i][1:]), np.asarray(confidence[i][1:], dtype=np.float64))
        for i in range(len(overlap))
        if len(overlap[i]) > 1
    ]
    visible = [int(np.sum(~np.isnan(each[1:]))) for each in overlap if len(each) > 1]
    if not pairs or not any(visible):
        nan = float("nan")
        return LongTermScores(nan, nan, nan, nan)
    thresholds = np.unique(np.concatenate([scores for _, scores in pairs]))
    if len(thresholds) > resolution:
        ranks = np.round(np.linspace(0, len(thresholds) - 1, resolution)).astype(int)
        thresholds = thresholds[ranks]

    precisions, recalls = [], []
    for (values, scores), present in zip(pairs, visible, strict=True):
        order = np.argsort(-scores, kind="stable")
        gained = np.concatenate([[0.0], np.cumsum(values[order])])
        reported = np.searchsorted(-scores[order], -thresholds, side="right")
        gains = gained[reported]
        precisions.append(np.where(reported > 0, gains / np.maximum(reported, 1), 1.0))
        if present:
            recalls.append(gains / present)
    mean_precision = np.mean(precisions, axis=0)
    mean_recall = np.mean(recalls, axis=0)
    total = mean_precision + mean_recall
    f = np.divide(
        2 * mean_precision * mean_recall, total, out=np.zeros(len(total)), where=total > 0
    )
    best = int(np.argmax(f))
    return LongTermScores(
        precision=float(mean_precision[best]),
        recall=float(mean_recall[best]),
        f_score=float(f[best]),
        threshold=float(thresholds[best]),
    )


@dataclass(frozen=True)
class ConfidenceScores:
    """How well a tracker knows when it is right, pooled over all frames but the first ones.

    A *hit* is a frame with overlap > 0.5. A *miss* is a frame with overlap < 0.1 or without
    target (whatever box is shown there is wrong).

    Attributes:
        hits: Number of hits.
        misses: Number of misses.
        median_hit: Median confidence of hits; NaN where there are none.
        median_miss: Median confidence of misses; NaN where there are none.
        lost_frames: Frames on which the tracker said that it had lost the target.
        lost_precision: Share of those frames that are misses; NaN where it never said so.
        lost_recall: Share of the misses on which it said so; NaN where there are none.
    """

    hits: int
    misses: int
    median_hit: float
    median_miss: float
    lost_frames: int
    lost_precision: float
    lost_recall: float


def confidence_scores(
    overlap: Sequence[Floats],
    confidence: Sequence[Floats],
    lost: Sequence[npt.NDArray[np.bool_]],
) -> ConfidenceScores:
    """Judge confidences and the decision that the target is lost.

    Args:
        overlap: Per sequence the result of `overlaps`, (N,).
        confidence: Per sequence the confidences, (N,); NaN where the tracker gives none.
        lost: Per sequence (N,) bool, true where the tracker said that it had lost the target.
    """
    empty = np.zeros(0)
    values = np.concatenate([empty, *(each[1:] for each in overlap)])
    scores = np.concatenate([empty, *(np.asarray(each)[1:] for each in confidence)])
    said = np.concatenate([empty, *(np.asarray(each)[1:] for each in lost)]).astype(bool)
    hit = values > 0.5
    miss = np.isnan(values) | (values < 0.1)
    return ConfidenceScores(
        hits=int(hit.sum()),
        misses=int(miss.sum()),
        median_hit=_median(scores[hit]),
        median_miss=_median(scores[miss]),
        lost_frames=int(said.sum()),
        lost_precision=_mean(miss[said]),
        lost_recall=_mean(said[miss]),
    )


def _paired(predicted: npt.ArrayLike, truth: npt.ArrayLike) -> tuple[Floats, Floats]:
    boxes = np.asarray(predicted, dtype=np.float64)
    targets = np.asarray(truth, dtype=np.float64)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or boxes.shape != targets.shape:
        raise ValueError(
            "predicted and true boxes must both have shape (N, 4), "
            f"got {boxes.shape} and {targets.shape}"
        )
    if not np.isfinite(boxes).all():
        raise ValueError("predicted boxes must be finite")
    return boxes, targets


def _absent(truth: Floats) -> npt.NDArray[np.bool_]:
    return np.asarray(np.isnan(truth).any(axis=1))


def _center_offsets(predicted: npt.ArrayLike, truth: npt.ArrayLike) -> Floats:
    boxes, targets = _paired(predicted, truth)
    offset = (boxes[:, :2] + boxes[:, 2:] / 2) - (targets[:, :2] + targets[:, 2:] / 2)
    return np.where(_absent(targets)[:, None], np.nan, offset)


def _mean(values: npt.ArrayLike) -> float:
    array = np.asarray(values, dtype=np.float64)
    return float(array.mean()) if array.size else float("nan")


def _median(values: Floats) -> float:
    finite = values[~np.isnan(values)]
    return float(np.median(finite)) if finite.size else float("nan")
