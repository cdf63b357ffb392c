"""Metrics: values worked out by hand, properties, published raw results, speed."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from mixformerv2_ros.lab.datasets.sequences import read_boxes
from mixformerv2_ros.lab.evaluation import metrics
from mixformerv2_ros.tracking.boxes import Box, iou

NAN_BOX = [np.nan] * 4


def random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    return np.column_stack([rng.uniform(-50, 50, (count, 2)), rng.uniform(-5, 80, (count, 2))])


# Four frames with IoU 1, 3/5, 1/3 and 0 against the same target; the fifth has no target.
TRUTH = np.array([[0, 0, 100, 100]] * 4 + [NAN_BOX], dtype=float)
PREDICTED = np.array(
    [[0, 0, 100, 100], [25, 0, 100, 100], [0, 50, 100, 100], [500, 500, 10, 10], [1, 2, 3, 4]],
    dtype=float,
)


def test_overlaps_by_hand() -> None:
    values = metrics.overlaps(PREDICTED, TRUTH)
    assert values[:4].tolist() == pytest.approx([1, 0.6, 1 / 3, 0])
    assert np.isnan(values[4])


def test_overlaps_agree_with_the_trackers_own_iou() -> None:
    rng = np.random.default_rng(0)
    a, b = random_boxes(rng, 500), random_boxes(rng, 500)
    expected = [
        iou(Box(*p), Box(*q)) if min(*p[2:], *q[2:]) > 0 else 0.0
        for p, q in zip(a.tolist(), b.tolist(), strict=True)
    ]
    np.testing.assert_allclose(metrics.overlaps(a, b), expected, atol=1e-12)


def test_overlaps_are_symmetric_bounded_and_invariant() -> None:
    rng = np.random.default_rng(1)
    a, b = random_boxes(rng, 500), random_boxes(rng, 500)
    values = metrics.overlaps(a, b)
    assert values.min() == 0
    assert 0.5 < values.max() <= 1
    np.testing.assert_allclose(metrics.overlaps(b, a), values)
    shift = np.array([13.0, -7.0, 0, 0])
    np.testing.assert_allclose(metrics.overlaps(3 * (a + shift), 3 * (b + shift)), values)


def test_a_box_of_the_exact_truth_never_exceeds_one() -> None:
    rng = np.random.default_rng(2)
    boxes = rng.uniform(0.1, 1000, (10_000, 4))
    values = metrics.overlaps(boxes, boxes)
    assert values.max() <= 1
    assert values.min() == pytest.approx(1)


def test_boxes_without_area_overlap_nothing_but_count() -> None:
    flat = np.array([[10, 10, 0, 0], [10, 10, -5, -5]], dtype=float)
    solid = np.array([[0, 0, 50, 50]] * 2, dtype=float)
    assert metrics.overlaps(flat, solid).tolist() == [0, 0]
    assert metrics.overlaps(solid, flat).tolist() == [0, 0]
    assert metrics.overlaps(flat, flat).tolist() == [0, 0]
    assert metrics.score_sequence(solid, flat).frames == 2
    assert np.isinf(metrics.normalised_distances(solid, flat)).all()


def test_success_curve_counts_strictly_above() -> None:
    # IoU exactly 0.5 (50x100 inside 100x100) is above 0.45 and not above 0.5.
    values = metrics.overlaps([[0, 0, 50, 100]], [[0, 0, 100, 100]])
    curve = metrics.success_curve(values)
    assert curve.tolist() == [1.0] * 10 + [0.0] * 11
    assert metrics.success_auc(values) == pytest.approx(10 / 21)
    assert metrics.share_above(values, 0.5) == 0


@pytest.mark.parametrize("step", range(1, 20))
def test_every_threshold_is_strict(step: int) -> None:
    values = metrics.overlaps([[0, 0, step, 10]], [[0, 0, 20, 10]])
    assert metrics.success_curve(values).sum() == step


def test_success_auc_by_hand() -> None:
    # Above the thresholds 0, 0.05 ..: IoU 1 -> 20 of them, 0.6 -> 12, 1/3 -> 7, 0 -> none.
    values = metrics.overlaps(PREDICTED, TRUTH)
    assert metrics.success_auc(values) == pytest.approx((20 + 12 + 7 + 0) / 4 / 21)


def test_a_perfect_tracker_reaches_20_of_21() -> None:
    boxes = np.array([[3, 4, 50, 60]] * 10, dtype=float)
    assert metrics.score_sequence(boxes, boxes).success_auc == pytest.approx(20 / 21)


def test_success_curve_equals_its_definition() -> None:
    values = np.random.default_rng(3).uniform(0, 1, 1000)
    expected = [np.mean(values > threshold) for threshold in metrics.SUCCESS_THRESHOLDS]
    np.testing.assert_allclose(metrics.success_curve(values), expected)


def test_precision_includes_20_pixels_exactly() -> None:
    truth = np.array([[0, 0, 10, 10]] * 4, dtype=float)
    predicted = np.array(
        [[20, 0, 10, 10], [12, 16, 10, 10], [20.001, 0, 10, 10], [-5, -5, 20, 20]], dtype=float
    )
    distances = metrics.center_distances(predicted, truth)
    assert distances.tolist() == pytest.approx([20, 20, 20.001, 0])
    assert metrics.precision(distances) == 0.75


def test_normalised_precision_by_hand() -> None:
    # Offsets 5 of width 20 (0.25) and 6 of height 10 (0.6, beyond the last threshold).
    truth = np.array([[0, 0, 20, 10]] * 3, dtype=float)
    predicted = np.array([[0, 0, 20, 10], [5, 0, 20, 10], [0, 6, 20, 10]], dtype=float)
    distances = metrics.normalised_distances(predicted, truth)
    assert distances.tolist() == pytest.approx([0, 0.25, 0.6])
    # Thresholds 0 .. 0.5: distance 0 is within all 51, 0.25 within the 26 from 0.25 on.
    assert metrics.normalised_precision(distances) == pytest.approx((51 + 26) / 3 / 51)


def test_absent_frames_are_excluded_whatever_is_predicted_there() -> None:
    other = PREDICTED.copy()
    other[4] = [0, 0, 1000, 1000]
    with_absent = metrics.score_sequence(PREDICTED, TRUTH)
    assert with_absent.frames == 4
    assert metrics.score_sequence(other, TRUTH) == with_absent
    assert metrics.score_sequence(PREDICTED[:4], TRUTH[:4]) == with_absent
    assert with_absent.op50 == 0.5
    assert with_absent.op75 == 0.25


def test_overall_means_over_sequences_and_pools_over_frames() -> None:
    good = metrics.score_sequence([[0, 0, 10, 10]], [[0, 0, 10, 10]])
    bad = metrics.score_sequence([[500, 0, 10, 10]] * 3, [[0, 0, 10, 10]] * 3)
    overall = metrics.score_overall([good, bad])
    assert (overall.sequences, overall.frames) == (2, 4)
    assert overall.success_auc == pytest.approx(10 / 21)
    assert (overall.op50, overall.op75, overall.precision) == (0.5, 0.5, 0.5)
    assert (overall.ao, overall.sr50, overall.sr75) == (0.25, 0.25, 0.25)
    assert overall.seq50 == 0.5


def test_sequences_without_a_target_do_not_count() -> None:
    nothing = metrics.score_sequence([[0, 0, 1, 1]], [NAN_BOX])
    some = metrics.score_sequence(PREDICTED, TRUTH)
    assert nothing.frames == 0
    assert np.isnan(nothing.success_auc)
    assert metrics.score_overall([some, nothing]) == metrics.score_overall([some])
    assert np.isnan(metrics.score_overall([]).ao)


@pytest.mark.parametrize(
    ("predicted", "truth"),
    [([[1, 2, 3]], [[1, 2, 3]]), ([[1, 2, 3, 4]], [[1, 2, 3, 4]] * 2), ([NAN_BOX], [[1, 2, 3, 4]])],
)
def test_boxes_of_another_shape_or_not_finite_are_refused(
    predicted: list[list[float]], truth: list[list[float]]
) -> None:
    with pytest.raises(ValueError, match="boxes must"):
        metrics.overlaps(predicted, truth)


def test_long_term_by_hand() -> None:
    # First frame given. Then hits of IoU 0.8 and 0.6 at confidence 0.9 and 0.5, and a box on a
    # frame without target at 0.2.
    overlap = [np.array([1.0, 0.8, 0.6, np.nan])]
    confidence = [np.array([1.0, 0.9, 0.5, 0.2])]
    scores = metrics.long_term(overlap, confidence)
    # Threshold 0.5: precision (0.8 + 0.6) / 2, recall the same; 0.2 costs precision only, and at
    # 0.9 recall falls to 0.8 / 2.
    assert scores.threshold == 0.5
    assert scores.precision == pytest.approx(0.7)
    assert scores.recall == pytest.approx(0.7)
    assert scores.f_score == pytest.approx(0.7)


def test_long_term_averages_over_sequences_before_taking_f() -> None:
    overlap = [np.array([1.0, 0.8]), np.array([1.0, 0.4, 0.0])]
    confidence = [np.array([1.0, 0.7]), np.array([1.0, 0.7, 0.7])]
    scores = metrics.long_term(overlap, confidence)
    precision, recall = (0.8 + 0.2) / 2, (0.8 + 0.2) / 2
    assert scores.precision == pytest.approx(precision)
    assert scores.recall == pytest.approx(recall)
    assert scores.f_score == pytest.approx(2 * precision * recall / (precision + recall))


def test_long_term_equals_its_definition_frame_by_frame() -> None:
    rng = np.random.default_rng(4)
    overlap = [np.where(rng.random(40) < 0.2, np.nan, rng.random(40)) for _ in range(3)]
    confidence = [rng.integers(0, 20, 40) / 20 for _ in range(3)]
    best = 0.0
    for threshold in np.unique(np.concatenate([each[1:] for each in confidence])):
        precisions, recalls = [], []
        for values, scores in zip(overlap, confidence, strict=True):
            gains = [0.0 if np.isnan(v) else v for v in values[1:]]
            reported = [g for g, c in zip(gains, scores[1:], strict=True) if c >= threshold]
            precisions.append(sum(reported) / len(reported) if reported else 1.0)
            recalls.append(sum(reported) / np.sum(~np.isnan(values[1:])))
        p, r = np.mean(precisions), np.mean(recalls)
        best = max(best, 2 * p * r / (p + r))
    assert metrics.long_term(overlap, confidence).f_score == pytest.approx(best)


def test_long_term_uses_a_limited_number_of_thresholds() -> None:
    rng = np.random.default_rng(5)
    overlap, confidence = [rng.random(5000)], [rng.random(5000)]
    exact = metrics.long_term(overlap, confidence, resolution=10_000)
    coarse = metrics.long_term(overlap, confidence)
    assert coarse.f_score == pytest.approx(exact.f_score, abs=0.01)
    assert coarse.f_score <= exact.f_score


def test_long_term_without_a_target_is_undefined() -> None:
    nothing = metrics.long_term([np.array([1.0, np.nan])], [np.array([1.0, 0.3])])
    assert np.isnan(nothing.f_score)
    assert np.isnan(metrics.long_term([], []).f_score)


def test_confidence_scores_by_hand() -> None:
    overlap = [np.array([1, 0.9, 0.7, 0.3, 0.05, 0.0, np.nan])]
    confidence = [np.array([1.0, 0.8, 0.6, 0.5, 0.4, 0.2, 0.1])]
    lost = [np.array([0, 0, 1, 0, 0, 1, 1], dtype=bool)]
    scores = metrics.confidence_scores(overlap, confidence, lost)
    assert (scores.hits, scores.misses, scores.lost_frames) == (2, 3, 3)
    assert scores.median_hit == pytest.approx(0.7)
    assert scores.median_miss == pytest.approx(0.2)
    assert scores.lost_precision == pytest.approx(2 / 3)
    assert scores.lost_recall == pytest.approx(2 / 3)


def test_confidence_scores_of_a_tracker_that_gives_none() -> None:
    overlap, unknown = [np.array([1, 0.9, 0.0])], [np.array([1.0, np.nan, np.nan])]
    scores = metrics.confidence_scores(overlap, unknown, [np.zeros(3, dtype=bool)])
    assert np.isnan([scores.median_hit, scores.median_miss, scores.lost_precision]).all()
    assert scores.lost_recall == 0


@pytest.mark.parametrize(
    ("tracker", "success", "precision"),
    [
        ("NanoTrack", 0.5322, 0.7251),
        ("NanoTrackV3", 0.6287, 0.8126),
        ("LightTrack", 0.5908, 0.7637),
    ],
)
def test_published_raw_results_on_dtb70(
    shared_data: Path, tracker: str, success: float, precision: float
) -> None:
    folder = shared_data / "results_check"
    scores = [
        metrics.score_sequence(
            read_boxes(folder / "results_DTB70" / tracker / path.name), read_boxes(path)
        )
        for path in sorted((folder / "gt_DTB70").glob("*.txt"))
    ]
    overall = metrics.score_overall(scores)
    assert overall.sequences == 70
    assert round(overall.success_auc, 4) == success
    assert round(overall.precision, 4) == precision


def test_published_raw_results_on_got10k_validation(shared_data: Path) -> None:
    folder = shared_data / "results_check"
    results = folder / "results_GOT10k_val" / "NanoTrackV3"
    overall = metrics.score_overall(
        metrics.score_sequence(read_boxes(results / path.name), read_boxes(path))
        for path in sorted((folder / "gt_GOT10k_val").glob("*.txt"))
    )
    assert overall.sequences == 180
    assert round(overall.ao, 4) == 0.7196
    assert round(overall.sr50, 4) == 0.8477


def test_a_thousand_sequences_of_a_thousand_frames_take_under_ten_seconds() -> None:
    rng = np.random.default_rng(6)
    truth = rng.uniform(10, 60, (1000, 4))
    predicted = truth + rng.normal(0, 5, (1000, 1000, 4))
    before = time.process_time()
    overall = metrics.score_overall(metrics.score_sequence(each, truth) for each in predicted)
    assert overall.frames == 1_000_000
    assert time.process_time() - before < 10
