"""Benchmarks' own figures and settings, against their toolkits where those can be had."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from mixformerv2_ros.lab.datasets.evaluation_sets import EVALUATION_SETS, load_sequences
from mixformerv2_ros.lab.datasets.sequences import read_boxes
from mixformerv2_ros.lab.evaluation import metrics
from mixformerv2_ros.lab.evaluation.protocols import (
    got10k_figures,
    lasot_figures,
    published_settings,
)
from mixformerv2_ros.lab.evaluation.results import Result
from mixformerv2_ros.lab.evaluation.summary import summarise, toolkit_table
from mixformerv2_ros.ros.parameters import check_values

WIDTH, HEIGHT = 64, 48


@pytest.fixture
def toolkit(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The `got10k` package, which draws with matplotlib."""
    monkeypatch.setenv("MPLBACKEND", "Agg")
    return pytest.importorskip("got10k.experiments", reason="needs the got10k package")


def some_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """Boxes in and partly out of a small image, none without area."""
    corners = rng.uniform((-12, -12), (WIDTH - 4, HEIGHT - 4), (count, 2))
    return np.column_stack([corners, rng.uniform(14, 40, (count, 2))]).round(3)


def near(rng: np.random.Generator, truth: np.ndarray) -> np.ndarray:
    shaken = truth + rng.normal(0, 4, truth.shape)
    shaken[:, 2:] = np.maximum(shaken[:, 2:], 1)
    return shaken.round(3)


# GOT-10k


def test_got10k_figures_are_those_of_its_toolkit(tmp_path: Path, toolkit: Any) -> None:
    rng = np.random.default_rng(0)
    root, results = tmp_path / "GOT-10k", tmp_path / "results"
    names = [f"GOT-10k_Val_{number:06d}" for number in (1, 2, 3)]
    predicted = {}
    for name, count in zip(names, (12, 30, 5), strict=True):
        folder = root / "val" / name
        folder.mkdir(parents=True)
        truth = some_boxes(rng, count)
        cover = rng.integers(0, 9, count)
        cover[0] = 8
        for number in range(1, count + 1):
            image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
            assert cv2.imwrite(str(folder / f"{number:08d}.jpg"), image)
        np.savetxt(folder / "groundtruth.txt", truth, fmt="%.3f", delimiter=",")
        for label, values in (("cover", cover), ("absence", cover == 0), ("cut_by_image", cover)):
            np.savetxt(folder / f"{label}.label", values, fmt="%d")
        (folder / "meta_info.ini").write_text(f"[METAINFO]\nresolution: ({WIDTH}, {HEIGHT})\n")
        predicted[name] = near(rng, truth)
        predicted[name][0] = truth[0]
        out = results / "GOT-10k" / "ours" / name
        out.mkdir(parents=True)
        np.savetxt(out / f"{name}_001.txt", predicted[name], fmt="%.3f", delimiter=",")
        np.savetxt(out / f"{name}_time.txt", np.full(count, 0.01), fmt="%.8f")
    (root / "val" / "list.txt").write_text("\n".join(names))

    experiment = toolkit.ExperimentGOT10k(
        str(root), "val", result_dir=str(results), report_dir=str(tmp_path / "reports")
    )
    theirs = experiment.report(["ours"])["ours"]["overall"]

    sequences, problems = load_sequences(root / "val", "got10k")
    assert problems == []
    count = sum(map(len, sequences))
    summary = summarise(
        [(each, result_of(predicted[each.name])) for each in sequences], dataset="got10k"
    )
    assert summary.toolkit["ao"] == pytest.approx(theirs["ao"], abs=1e-12)
    assert summary.toolkit["sr50"] == pytest.approx(theirs["sr"], abs=1e-12)
    assert summary.toolkit["sr75"] == pytest.approx(theirs["succ_curve"][75], abs=1e-12)
    # The figures differ from the plain ones, or this test would show nothing.
    assert abs(summary.overall.ao - theirs["ao"]) > 0.001
    assert summary.overall.frames < count
    assert "SR75" in toolkit_table({"ours": summary})


def result_of(boxes: np.ndarray) -> Result:
    ones = np.ones(len(boxes))
    return Result(boxes, ones, ones, ones == 0)


def test_got10k_by_hand() -> None:
    truth = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [-5, 0, 20, 10], [np.nan] * 4])
    predicted = np.array([[90, 90, 1, 1], [0, 0, 10, 6], [0, 0, 20, 10], [1, 2, 3, 4]], float)
    # The first frame is left out; the third's truth is moved in from the left and so becomes equal.
    figures = got10k_figures([(predicted, truth, (100, 100))])
    assert figures == pytest.approx({"ao": (0.6 + 1) / 2, "sr50": 1.0, "sr75": 0.5})
    assert all(map(math.isnan, got10k_figures([]).values()))


# OTB, on which the library's other experiments are built


def compare_with_otb(toolkit: Any, predicted: np.ndarray, truth: np.ndarray) -> None:
    experiment = object.__new__(toolkit.ExperimentOTB)
    experiment.nbins_iou, experiment.nbins_ce = 21, 51
    overlaps, errors = experiment._calc_metrics(predicted, truth)
    success, precision = experiment._calc_curves(overlaps, errors)
    ours = metrics.overlaps(predicted, truth)
    np.testing.assert_allclose(ours, overlaps, atol=1e-12)
    np.testing.assert_allclose(metrics.center_distances(predicted, truth), errors, atol=1e-9)
    np.testing.assert_allclose(metrics.success_curve(ours), success, atol=1e-12)
    scores = metrics.score_sequence(predicted, truth)
    assert scores.success_auc == pytest.approx(success.mean(), abs=1e-12)
    assert scores.precision == pytest.approx(precision[20], abs=1e-12)
    assert scores.op50 == pytest.approx(success[10], abs=1e-12)


def test_otb_figures_are_those_of_the_got10k_library(toolkit: Any) -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        truth = some_boxes(rng, 40)
        compare_with_otb(toolkit, near(rng, truth), truth)


def test_otb_figures_agree_on_published_results(toolkit: Any, shared_data: Path) -> None:
    folder = shared_data / "results_check"
    compared = 0
    for path in sorted((folder / "gt_DTB70").glob("*.txt")):
        truth = read_boxes(path)
        for result in sorted((folder / "results_DTB70").glob(f"*/{path.name}")):
            compare_with_otb(toolkit, read_boxes(result), truth)
            compared += 1
    assert compared >= 70


# LaSOT


def test_lasot_divides_by_all_frames() -> None:
    truth = np.array([[0, 0, 100, 100]] * 3 + [[np.nan] * 4])
    predicted = np.array([[0, 0, 100, 100], [0, 0, 100, 60], [500, 0, 9, 9], [1, 2, 3, 4]], float)
    figures = lasot_figures([(predicted, truth)])
    # Overlaps 1, 0.6 and 0: above 20, 12 and none of the 21 thresholds.
    assert figures["success_auc"] == pytest.approx((20 + 12) / 21 / 4)
    assert figures["precision"] == pytest.approx(2 / 4)  # distances 0, 20 and more
    assert metrics.score_sequence(predicted, truth).precision == pytest.approx(2 / 3)
    assert figures["normalised_precision"] == pytest.approx((51 + 31) / 51 / 4)


def test_lasot_equals_the_plain_figures_where_nothing_is_absent() -> None:
    rng = np.random.default_rng(2)
    pairs = []
    for count in (3, 40):
        truth = some_boxes(rng, count)
        pairs.append((near(rng, truth), truth))
    overall = metrics.score_overall(metrics.score_sequence(*pair) for pair in pairs)
    figures = lasot_figures(pairs)
    assert figures["success_auc"] == pytest.approx(overall.success_auc)
    assert figures["normalised_precision"] == pytest.approx(overall.normalised_precision)


# Settings


@pytest.mark.parametrize(
    ("dataset", "preset", "interval", "size", "factor"),
    [
        ("lasot", "B", 200, 1, 5.0),
        ("lasot", "S", 200, 1, 4.4),
        ("trackingnet", "B", 25, 1, 5.0),
        ("trackingnet", "S", 25, 1, 4.55),
        ("got10k", "B", 10, 1, 5.0),
        ("got10k", "S", 15, 1, 4.55),
        ("vot", "B", 10, 1, 4.5),
        ("tnl2k", "B", 200, 3, 4.5),
        ("uav123", "S", 200, 3, 4.5),
        ("otb", "T", 200, 3, None),
    ],
)
def test_published_settings(
    dataset: str, preset: str, interval: int, size: int, factor: float | None
) -> None:
    values = published_settings(dataset, preset)
    assert values["template_update.interval"] == interval
    assert values["template_update.online_size"] == size
    assert values.get("search_factor") == factor


def test_published_settings_are_parameters_and_plain_has_none() -> None:
    assert published_settings("folder", "B") == {}
    for dataset in EVALUATION_SETS:
        for preset in ("S", "B", "T", "custom"):
            check_values(published_settings(dataset, preset))
