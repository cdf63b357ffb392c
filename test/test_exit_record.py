"""Thresholds per exit: what is recorded, what is chosen on the record, what is kept."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from test_evaluation import write_plain

from mixformerv2_ros.cli import main
from mixformerv2_ros.engines.loader import load_engine
from mixformerv2_ros.errors import BundleError
from mixformerv2_ros.lab.datasets.evaluation_sets import load_sequences
from mixformerv2_ros.lab.depth_curve import best_exits, measure_exits, measure_point
from mixformerv2_ros.lab.exit_record import CANDIDATES, ExitRecord, candidates, record_exits
from mixformerv2_ros.model.bundle import DEFAULT_BUNDLE, open_bundle, record_depth
from mixformerv2_ros.model.depth_calibration import (
    DepthCalibration,
    DepthPoint,
    ExitsPoint,
    read_depth_calibration,
)
from mixformerv2_ros.ros.parameters import tracker_settings

SPEC = open_bundle("default").spec
FRAMES = 6


def toy_record(frames: int = 2000) -> ExitRecord:
    """The second exit knows how good it is; the first one is as sure where it is wrong."""
    rng = np.random.default_rng(0)
    good = rng.random((frames, 2))
    quality = np.stack([rng.random(frames), good[:, 1]], axis=1)
    success = np.stack([good[:, 0], good[:, 1], np.ones(frames)], axis=1)
    quality[::10] = np.nan
    return ExitRecord(np.array([2, 3, 5]), quality, success, np.arange(frames) // 100)


def test_a_record_predicts_depth_and_loss():
    record = ExitRecord(
        depths=np.array([2, 3, 5]),
        quality=np.array([[0.9, 0.9], [0.4, 0.8], [0.4, 0.4], [np.nan, np.nan]]),
        success=np.array([[0.5, 0.6, 0.7], [0.1, 0.6, 0.8], [0.1, 0.2, 0.9], [0, 0, 0.5]]),
        sequence=np.array([0, 0, 1, 1]),
    )
    assert record.predict((1.0, 1.0)) == pytest.approx((1.0, 0.0))
    depth, lost = record.predict((0.7, 0.7))
    assert depth == pytest.approx((2 + 3 + 5 + 5) / 20)
    assert lost == pytest.approx(((0.2 + 0.2) / 2 + 0) / 2)
    # The first exit closed; then the second.
    assert record.predict((1.0, 0.7))[0] == pytest.approx((3 + 3 + 5 + 5) / 20)
    assert record.predict((0.7, 1.0))[0] == pytest.approx((2 + 5 + 5 + 5) / 20)
    unknown = replace(record, success=record.success * np.array([[1], [1], [np.nan], [np.nan]]))
    assert unknown.predict((0.7, 0.7))[1] == pytest.approx(0.2)


def curve_of(record: ExitRecord, factor: float = 1.0) -> list[DepthPoint]:
    """What is measured of one threshold where tracks lose `factor` times what is predicted."""
    points = []
    for threshold in (0.3, 0.5, 0.7, 0.9, 1.0):
        depth, lost = record.predict((threshold, threshold))
        points.append(DepthPoint(threshold, depth, 0.9 - factor * lost))
    return points


@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_candidates_of_a_loss_ask_more_of_the_exit_that_is_not_to_be_trusted(factor):
    record = toy_record()
    found = candidates(record, curve_of(record, factor), loss=0.1)
    assert 1 <= len(found) <= CANDIDATES
    assert all(first > second for first, second in found)
    for one in found:
        depth, lost = record.predict(one)
        assert factor * lost <= 0.1 + 1e-6
        assert depth < 1
    # One threshold for both cannot do the same.
    depths = [p.depth for p in curve_of(record, factor) if 0.9 - p.success_auc <= 0.1]
    assert record.predict(found[0])[0] < min(depths)


def test_candidates_of_a_budget_keep_to_it():
    record = toy_record()
    found = candidates(record, curve_of(record), budget=0.85)
    assert found
    for one in found:
        assert record.predict(one)[0] <= 0.85 + 1e-6
    assert candidates(record, curve_of(record), budget=0.1) == []
    nothing = replace(record, quality=record.quality * np.nan)
    assert candidates(nothing, curve_of(record), budget=0.5) == []


def test_full_depth_is_no_candidate():
    """It loses nothing, but no exit answers."""
    record = toy_record()
    bad = replace(record, success=np.array([[0.0, 0.0, 1.0]] * len(record.success)))
    assert candidates(bad, curve_of(bad), loss=0.0) == []


def test_only_what_does_better_than_one_threshold_is_kept():
    single = DepthPoint(0.8, 0.8, 0.65)
    points = [
        ExitsPoint((0.7, 0.9), 0.75, 0.652),
        ExitsPoint((0.6, 0.9), 0.70, 0.640),
        ExitsPoint((0.9, 0.9), 0.90, 0.660),
    ]
    assert best_exits(points, single, 0.66, loss=0.01) == points[0]
    assert best_exits(points, single, 0.66, loss=0.03) == points[1]
    assert best_exits(points, replace(single, depth=0.7), 0.66, loss=0.01) is None
    assert best_exits(points, None, 0.66, loss=0.001) == points[2]
    assert best_exits(points, single, 0.66, budget=0.8) == points[0]
    assert best_exits(points, replace(single, success_auc=0.652), 0.66, budget=0.8) is None
    assert best_exits(points, single, 0.66, budget=0.6) is None


@pytest.fixture
def bundle(tmp_path):
    shutil.copytree(DEFAULT_BUNDLE, tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.fixture
def root(tmp_path):
    for name in ("one", "two"):
        write_plain(tmp_path / "on", name, FRAMES)
    return tmp_path / "on"


def test_a_record_is_of_full_depth_and_of_every_exit(root):
    engine, settings = load_engine(open_bundle("default")), tracker_settings({}, open_bundle())
    sequences, _ = load_sequences(root)
    record, full, problems = record_exits(engine, settings, sequences)
    assert problems == []
    assert full == measure_point(engine, settings, 1.0, sequences)
    assert record.quality.shape == (2 * (FRAMES - 1), len(SPEC.exits))
    assert record.success.shape == (2 * (FRAMES - 1), len(SPEC.depths))
    assert record.sequence.tolist() == [0] * (FRAMES - 1) + [1] * (FRAMES - 1)
    # The first frame after the box is searched in full depth, whatever the exits say.
    assert np.isnan(record.quality[0]).all()
    asked = ~np.isnan(record.quality[:, 0])
    assert asked.any()
    # Success at the exits is of their boxes in the image, not somewhere else.
    assert (record.success[asked] > 0.3).all()
    # In the first frames in which one answers, the record and the tracks are the same.
    exits = measure_exits(engine, settings, (1.0,) * len(SPEC.exits), sequences)
    assert (exits.depth, exits.success_auc) == (1.0, full.success_auc)


def test_thresholds_per_exit_are_used_shown_and_overridden(bundle, capsys):
    opened = open_bundle(bundle)
    curve = (DepthPoint(0.8, 0.7, 0.64), DepthPoint(1.0, 1.0, 0.66))
    exits = ExitsPoint((0.55, 1.0), 0.68, 0.651)
    record_depth(opened, DepthCalibration(0.8, curve, {"sequences": 3}, exits))
    calibrated = open_bundle(bundle)
    assert calibrated.depth_calibration.exits == exits
    settings = tracker_settings({}, calibrated)
    assert [settings.threshold_of(number) for number in range(2)] == [0.55, 1.0]
    assert settings.asks_exits
    one = tracker_settings({"exit.threshold": 0.7}, calibrated)
    assert [one.threshold_of(number) for number in range(2)] == [0.7, 0.7]
    assert not tracker_settings({"exit.threshold": 1.0}, calibrated).asks_exits
    assert tracker_settings({"exit.budget": 0.7}, calibrated).exit_thresholds == ()
    assert main(["info", str(bundle)]) == 0
    shown = capsys.readouterr().out
    assert "thresholds 0.55 after block 2, 1 after block 3: depth 0.68, success AUC 0.651" in shown
    assert main(["info", str(bundle), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)["exit_calibration"]
    assert facts["exits"]["thresholds"] == [0.55, 1.0]
    plain = replace(calibrated.depth_calibration, exits=None)
    record_depth(opened, plain)
    assert main(["info", str(bundle)]) == 0
    assert "threshold 0.8: depth 0.70, success AUC 0.640 (full depth 0.660)" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize("thresholds", [[], [0.5], [0.5, 2.0], [0.5, None], "0.5", [0.5, 0.6, 0.7]])
def test_damaged_thresholds_per_exit_are_refused(thresholds):
    curve = (DepthPoint(1.0, 1.0, 0.6),)
    facts = DepthCalibration(0.7, curve, {}, ExitsPoint((0.5, 0.6), 0.8, 0.6)).facts()
    assert read_depth_calibration(json.loads(json.dumps(facts)), 2).thresholds == (0.5, 0.6)
    facts["exits"]["thresholds"] = thresholds
    with pytest.raises(BundleError, match=r"threshold"):
        read_depth_calibration(facts, 2)


def test_calibrate_names_what_it_could_not_use(bundle, root, capsys):
    write_plain(root, "three", FRAMES)
    images = sorted((root / "one" / "img").iterdir())
    images[2].write_bytes(images[2].read_bytes()[:100])
    (root / "two" / "groundtruth_rect.txt").write_text("a,b\n")
    words = ["calibrate", str(bundle), "--on", str(root), "--thresholds", "0.5"]
    assert main([*words, "--max-loss", "100"]) == 0
    left_out, skipped = capsys.readouterr().err.splitlines()
    assert "left out: " in left_out
    assert "two" in left_out
    assert f"one: 1 of {FRAMES} frames skipped that cannot be decoded" in skipped
    assert open_bundle(bundle).depth_calibration.source["sequences"] == 2


def test_calibrate_measures_candidates_and_keeps_what_is_best(bundle, root, capsys):
    words = ["calibrate", str(bundle), "--on", str(root), "--thresholds", "0.5,0.99"]
    assert main([*words, "--max-loss", "100"]) == 0
    output = capsys.readouterr().out
    calibration = open_bundle(bundle).depth_calibration
    measured = [line.split("  ") for line in output.splitlines() if ", " in line.split("  ")[0]]
    assert measured
    if calibration.exits is None:
        assert "no measured thresholds per exit do better" in output
    else:
        single = next(p for p in calibration.curve if p.threshold == calibration.threshold)
        assert calibration.exits.depth < single.depth
