"""Dynamic depth: which exit answers, deadlines by a clock of the test's own, calibration."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from nodes import Node
from recordings import picture, red_box, write_images

from mixformerv2_ros.cli import main
from mixformerv2_ros.engines.loader import load_engine
from mixformerv2_ros.errors import BundleError, ParameterError
from mixformerv2_ros.lab.cli import calibrate
from mixformerv2_ros.lab.depth_curve import (
    REFINEMENTS,
    best_exits,
    threshold_for_budget,
    threshold_for_loss,
    unmet_goal,
)
from mixformerv2_ros.model.bundle import DEFAULT_BUNDLE, open_bundle
from mixformerv2_ros.model.depth_calibration import (
    DepthCalibration,
    DepthPoint,
    ExitsPoint,
    read_depth_calibration,
)
from mixformerv2_ros.model.engine import Prediction
from mixformerv2_ros.ros.live.model import load_model
from mixformerv2_ros.ros.parameters import NODE_PARAMETERS, check_values, tracker_settings
from mixformerv2_ros.tracking.depth import (
    LONGEST_REST,
    ON_TIME,
    PASSED,
    SETTLED,
    DepthRule,
    Patience,
)
from mixformerv2_ros.tracking.frame import Frame
from mixformerv2_ros.tracking.pixels import Pixels
from mixformerv2_ros.tracking.session import Session

SPEC = open_bundle("default").spec
FULL = SPEC.depth
SETTINGS = tracker_settings({}, open_bundle("default"))


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Search:
    """Searches as an engine does, each segment in a time of its own."""

    def __init__(self, rule: DepthRule, clock: Clock, seconds: tuple[float, ...]) -> None:
        self.rule, self.clock, self.seconds = rule, clock, seconds

    def frame(self, settings, quality, deep=(False,)) -> list[int]:
        """Depths of the targets, whose exits estimate `quality` (exits, targets)."""
        stop = self.rule.begin(settings, deep)
        depths = np.full(len(deep), FULL)
        if stop is None:
            return list(depths)
        rows = np.arange(len(deep))
        for segment, depth in enumerate(SPEC.depths):
            self.clock.now += self.seconds[segment]
            if depth == FULL:
                break
            leaves = stop(depth, np.float32(quality[segment])[rows], rows)
            depths[rows[leaves]] = depth
            rows = rows[~leaves]
            if not len(rows):
                break
        none = np.zeros(len(deep), np.float32)
        self.rule.end(Prediction(none[:, None], none, none, depths))
        return [int(depth) for depth in depths]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def search(clock) -> Search:
    return Search(DepthRule(SPEC, clock), clock, (0.004, 0.002, 0.004))


def test_the_first_exit_that_is_sure_enough_answers(search):
    settings = replace(SETTINGS, exit_threshold=0.7)
    assert search.frame(settings, [[0.7], [0.9]]) == [SPEC.exits[0]]
    assert search.frame(settings, [[0.6], [0.9]]) == [SPEC.exits[1]]
    assert search.frame(settings, [[0.6], [0.6]]) == [FULL]
    assert search.rule.figures().depth == pytest.approx((2 + 3 + 5) / 3)
    assert search.rule.figures().on_time is None


def test_targets_of_a_batch_are_decided_one_by_one(search):
    settings = replace(SETTINGS, exit_threshold=0.7)
    quality = [[0.9, 0.1, 0.1, 0.9], [0.9, 0.9, 0.1, 0.9]]
    deep = (False, False, False, True)
    assert search.frame(settings, quality, deep) == [SPEC.exits[0], SPEC.exits[1], FULL, FULL]


def test_no_exit_is_asked_at_full_depth(search):
    assert search.rule.begin(replace(SETTINGS, exit_threshold=1.0), [False]) is None
    no_exits = DepthRule(replace(SPEC, exits=()))
    assert no_exits.begin(replace(SETTINGS, exit_threshold=0.5), [False]) is None


def test_frames_that_must_be_deep_ask_no_exit_unless_there_is_a_deadline(search):
    settings = replace(SETTINGS, exit_threshold=0.7)
    assert search.rule.begin(settings, [True, True]) is None
    none = np.zeros(2, np.float32)
    search.rule.end(Prediction(none[:, None], none, none, np.full(2, FULL)))
    assert search.rule.figures().depth == FULL
    assert search.rule.begin(settings, [True, False]) is not None
    assert search.rule.begin(replace(settings, exit_deadline_ms=5.0), [True]) is not None


@pytest.mark.parametrize(("deadline_ms", "depth"), [(12.0, FULL), (9.0, 3), (5.5, 2), (1.0, 2)])
def test_a_deadline_takes_the_exit_after_which_the_next_would_be_late(search, deadline_ms, depth):
    settings = replace(SETTINGS, exit_threshold=1.0, exit_deadline_ms=deadline_ms)
    # Nothing is known of the durations at first: full depth.
    depths = [search.frame(settings, [[0.0], [0.0]])[0] for _ in range(SETTLED + 3)]
    assert depths[: SETTLED - 1] == [FULL] * (SETTLED - 1)
    assert depths[-1] == depth
    for _ in range(200):
        search.frame(settings, [[0.0], [0.0]])
    figures = search.rule.figures()
    assert figures.on_time is not None
    assert figures.on_time == 0.0 if deadline_ms == 1.0 else figures.on_time >= ON_TIME
    assert figures.least_ms == pytest.approx(4.0)


def test_a_deadline_counts_from_the_beginning_of_the_frame(search, clock):
    settings = replace(SETTINGS, exit_threshold=1.0, exit_deadline_ms=12.0)
    for _ in range(SETTLED):
        search.frame(settings, [[0.0], [0.0]])
    stop = search.rule.begin(settings, [False], clock.now - 0.005)
    clock.now += 0.004
    assert not stop(2, np.float32([0.0]), np.arange(1))[0]
    clock.now += 0.002
    assert stop(3, np.float32([0.0]), np.arange(1))[0]


def test_figures_are_those_of_the_threshold_and_the_deadline_in_force(search):
    short = replace(SETTINGS, exit_threshold=1.0, exit_deadline_ms=0.5)
    for _ in range(SETTLED + 3):
        search.frame(short, [[0.0], [0.0]])
    assert search.rule.figures().on_time == 0.0
    search.frame(replace(short, exit_deadline_ms=1000.0), [[0.0], [0.0]])
    assert (search.rule.figures().depth, search.rule.figures().on_time) == (FULL, 1.0)
    search.frame(replace(SETTINGS, exit_threshold=0.7), [[0.9], [0.9]])
    assert (search.rule.figures().depth, search.rule.figures().on_time) == (SPEC.exits[0], None)
    search.frame(replace(SETTINGS, exit_threshold=1.0), [[0.9], [0.9]])
    assert search.rule.figures().depth == 0.0


def test_segments_that_were_slow_at_first_are_tried_again(search):
    settings = replace(SETTINGS, exit_threshold=1.0, exit_deadline_ms=12.0)
    fast, search.seconds = search.seconds, (0.02, 0.02, 0.02)
    for _ in range(SETTLED):
        search.frame(settings, [[0.0], [0.0]])
    search.seconds = fast
    depths = [search.frame(settings, [[0.0], [0.0]])[0] for _ in range(30 * PASSED)]
    assert depths[0] < FULL
    assert depths[-2 * PASSED :] == [FULL] * (2 * PASSED)


def test_segments_that_have_become_slower_are_noticed(search):
    settings = replace(SETTINGS, exit_threshold=1.0, exit_deadline_ms=12.0)
    for _ in range(70):
        assert search.frame(settings, [[0.0], [0.0]]) == [FULL]
    search.seconds = (0.004, 0.002, 0.010)
    depths = [search.frame(settings, [[0.0], [0.0]])[0] for _ in range(10)]
    assert depths[-1] == 3


def asked(patience: Patience, answers: str) -> str:
    """Per frame `-` where the exits rest, else whether one answers, `y` or `n`, in turn."""
    left, shown = iter(answers), []
    while True:
        if patience.rests():
            shown.append("-")
            continue
        answer = next(left, None)
        if answer is None:
            return "".join(shown)
        shown.append(answer)
        patience.asked(answer == "y")


@pytest.mark.parametrize(
    ("answers", "shown"),
    [
        ("yyyy", "yyyy"),
        ("ynynyn", "ynynyn"),
        ("ynny", "ynn-y"),
        ("nnnny", "nn-n---n-------y"),
        ("nnnnnn", f"nn-n---n-------n{15 * '-'}n{15 * '-'}"),
        ("nnnyn", "nn-n---yn"),
    ],
)
def test_exits_that_do_not_answer_are_asked_less_often(answers, shown):
    assert asked(Patience(), answers) == shown


def test_no_segment_is_run_while_exits_rest(search):
    settings = replace(SETTINGS, exit_threshold=0.7)
    patience = [Patience()]
    asks = []
    for _ in range(40):
        stop = search.rule.begin(settings, [False], None, patience)
        asks.append(stop is not None)
        if stop is not None:
            for depth in SPEC.exits:
                assert not stop(depth, np.float32([0.1]), np.arange(1))[0]
        none = np.zeros(1, np.float32)
        search.rule.end(Prediction(none[:, None], none, none, np.full(1, FULL)))
    assert sum(asks[-2 * (LONGEST_REST + 1) :]) == 2
    # In a batch with another target, and under a deadline, all are asked.
    assert search.rule.begin(settings, [False, False], None, [*patience, Patience()]) is not None
    deadline = replace(settings, exit_deadline_ms=5.0)
    assert all(search.rule.begin(deadline, [False], None, patience) for _ in range(9))


def test_frames_that_must_be_deep_cost_no_patience(search):
    settings = replace(SETTINGS, exit_threshold=0.7)
    patience, other = Patience(), Patience()
    for _ in range(5):
        assert search.rule.begin(settings, [True, False], None, [patience, other]) is not None
        none = np.zeros(2, np.float32)
        depths = np.array([FULL, SPEC.exits[0]])
        search.rule.end(Prediction(none[:, None], none, none, depths))
    assert not patience.rests()
    assert not other.rests()


def frames(count: int) -> list[Frame]:
    return [Frame(Pixels.from_array(picture(i)), i * 33_000_000, "cam") for i in range(count)]


def test_a_session_goes_deep_where_it_is_not_sure():
    engine = load_engine(open_bundle("default"), "onnxruntime")
    session = Session(engine, replace(SETTINGS, exit_threshold=0.0, update_interval=4))
    images = frames(9)
    assert session.start(images[0], red_box(0)).depth == 0
    depths, sure = [], []
    for image in images[1:]:
        (track,) = session.update(image)
        depths.append(track.depth)
        sure.append(track.confidence >= SETTINGS.uncertain_threshold and not track.template_updated)
    # The first image, and every one after a doubtful one or an update.
    expected = [FULL, *(SPEC.exits[0] if one else FULL for one in sure[:-1])]
    assert depths == expected
    assert FULL in depths[1:] or all(sure)
    full = Session(engine, replace(SETTINGS, exit_threshold=1.0))
    full.start(images[0], red_box(0))
    assert {full.update(image)[0].depth for image in images[1:]} == {FULL}


def point(threshold: float, depth: float, auc: float) -> DepthPoint:
    return DepthPoint(threshold, depth, auc)


CURVE = (point(0.5, 0.4, 0.60), point(0.7, 0.6, 0.64), point(1.0, 1.0, 0.65))


def test_a_budget_is_looked_up_on_the_curve():
    calibration = DepthCalibration(0.7, CURVE, {"sequences": 3})
    assert calibration.threshold_for(0.6) == pytest.approx(0.7)
    assert calibration.threshold_for(0.5) == pytest.approx(0.6)
    assert calibration.threshold_for(1.0) == 1.0
    with pytest.raises(ParameterError, match=r"exit.budget must be at least 0.40 .*, got 0.3$"):
        calibration.threshold_for(0.3)
    # The least budget that is named can be kept to; depth may fall with the threshold by chance.
    curve = (point(0.5, 0.57, 0.6), point(0.7, 0.5515, 0.6), point(1.0, 1.0, 0.65))
    with pytest.raises(ParameterError, match=r"exit.budget must be at least 0.56 "):
        replace(calibration, curve=curve).threshold_for(0.55)
    assert 0.7 < replace(calibration, curve=curve).threshold_for(0.56) < 0.71
    assert read_depth_calibration(json.loads(json.dumps(calibration.facts()))) == calibration


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"curve": []}, r"exit_calibration.curve must be a list of 1 to 1000 points"),
        ({"curve": [3]}, r"exit_calibration.curve must be a list of JSON objects"),
        (
            {"curve": [{"threshold": 0.5, "depth": 2, "success_auc": 0}]},
            r"curve\.depth must be a number",
        ),
        ({"curve": [CURVE[1].__dict__, CURVE[0].__dict__]}, "ascending thresholds"),
        ({"threshold": float("nan")}, r"exit_calibration\.threshold must be a number from 0 to 1"),
        ({"source": None}, r"exit_calibration\.source must be a JSON object"),
        ({"exits": None}, r"exit_calibration\.exits must be a JSON object"),
        ({"exits": {"thresholds": [2]}}, r"exit_calibration\.exits\.thresholds must be a number"),
    ],
)
def test_a_damaged_curve_is_refused(change, reason):
    with pytest.raises(BundleError, match=reason):
        read_depth_calibration(DepthCalibration(0.7, CURVE, {}).facts() | change)


@pytest.fixture
def bundle(tmp_path) -> Path:
    shutil.copytree(DEFAULT_BUNDLE, tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.fixture
def sequences(tmp_path) -> Path:
    for name in ("one", "two"):
        folder = tmp_path / "on" / name
        folder.mkdir(parents=True)
        write_images(folder / "img", 6)
        lines = [",".join(f"{value:g}" for value in red_box(i)) for i in range(6)]
        (folder / "groundtruth_rect.txt").write_text("\n".join(lines))
    return tmp_path / "on"


def test_calibrate_writes_the_curve_that_budgets_need(bundle, sequences, capsys):
    with pytest.raises(ParameterError, match=r"exit\.budget needs a calibrated bundle"):
        tracker_settings({"exit.budget": 0.5}, open_bundle(bundle))
    words = ["calibrate", str(bundle), "--on", str(sequences), "--thresholds", "0,0.95"]
    assert main([*words, "--max-loss", "100"]) == 0
    output = capsys.readouterr().out
    assert "threshold        depth  success AUC" in output
    assert "threshold 0 written into" in output
    calibrated = open_bundle(bundle)
    least, *_, full = calibrated.depth_calibration.curve
    assert least.depth < full.depth == 1.0
    assert calibrated.depth_calibration.source["sequences"] == 2
    # As calibrated; full depth on demand; a budget in between.
    assert tracker_settings({}, calibrated).exit_threshold == 0.0
    assert tracker_settings({"exit.threshold": 1.0}, calibrated).exit_threshold == 1.0
    budget = (least.depth + 1) / 2
    assert 0 < tracker_settings({"exit.budget": budget}, calibrated).exit_threshold < 1
    with pytest.raises(ParameterError, match=r"one of exit\.threshold and exit\.budget must be 0"):
        tracker_settings({"exit.budget": 0.5, "exit.threshold": 0.5}, calibrated)


def test_goals_that_cannot_be_met_are_named(bundle, sequences, capsys):
    before = (bundle / "model.json").read_bytes()
    words = ["calibrate", str(bundle), "--on", str(sequences), "--thresholds", "0.99"]
    assert main([*words, "--budget", "0.1"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(r"calibrate: --budget must be at least \d\.\d\d with .*, got 0.1$", line)
    assert main(["calibrate", "tiny", "--on", str(sequences), "--budget", "0.5"]) == 2
    assert "calibrate needs a bundle with exits, which mixformerv2_ros-t-3 has not" in (
        capsys.readouterr().err
    )
    assert main([*words[:4], "--budget", "0.5", "--thresholds", "2"]) == 2
    assert "--thresholds must be numbers from 0 to below 1" in capsys.readouterr().err
    assert (bundle / "model.json").read_bytes() == before


def test_the_nearest_goal_that_is_named_can_be_met():
    points = [point(0.5, 0.4512, 0.62117), ExitsPoint((0.5, 1.0), 0.4301, 0.60)]
    error = str(unmet_goal(points, 0.65, budget=0.4))
    assert error.startswith("--budget must be at least 0.44 with")
    assert best_exits(points[1:], None, 0.65, budget=0.44) == points[1]
    error = str(unmet_goal(points, 0.65, loss=0.02))
    assert error.startswith("--max-loss must be at least 2.89 points with")
    curve = [points[0], point(1.0, 1.0, 0.65)]
    assert threshold_for_loss(curve, 0.02) is None
    assert threshold_for_loss(curve, 0.0289) == 0.5


def test_a_budget_is_kept_to_by_what_was_measured():
    """Depth jumps between two thresholds, where a straight line is far from it."""
    measured = []

    def measure(threshold):
        measured.append(threshold)
        return point(threshold, 0.6 if threshold < 0.87 else 1.0, 0.64)

    curve = [point(0.8, 0.58, 0.63), point(1.0, 1.0, 0.65)]
    found = threshold_for_budget(curve, 0.9, measure)
    assert 0.8 < found < 0.87
    assert next(one for one in curve if one.threshold == found).depth <= 0.9
    assert len(measured) == REFINEMENTS
    assert [one.threshold for one in curve] == sorted({0.8, *measured, 1.0})
    assert threshold_for_budget(curve, 0.5, measure) is None
    assert threshold_for_budget(curve, 1.0, measure) == 1.0
    assert len(measured) == REFINEMENTS


def test_calibrate_fails_before_it_measures(bundle, sequences, capsys, monkeypatch):
    monkeypatch.setattr(calibrate, "load_engine", None)
    words = ["calibrate", str(bundle), "--on", str(sequences), "--budget", "0.5"]
    with monkeypatch.context() as readonly:
        readonly.setattr(os, "access", lambda path, mode: False)
        assert main(words) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.endswith("bundle: model.json cannot be written: the folder is read-only")
    for folder in sequences.iterdir():
        for name in sorted((folder / "img").iterdir())[1:]:
            name.unlink()
        (folder / "groundtruth_rect.txt").write_text("1,2,30,40\n")
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("on: expected boxes after the first image, found none")


@pytest.mark.parametrize("name", ["exit.threshold", "exit.budget", "exit.deadline_ms"])
def test_a_bundle_without_exits_takes_no_budget(name):
    with pytest.raises(ParameterError, match=f"{name} needs a bundle with exits"):
        tracker_settings({name: 0.5}, open_bundle("tiny"))


@pytest.mark.parametrize(("given", "runs"), [({}, False), ({"exit.threshold": 0.7}, True)])
def test_segments_are_loaded_before_the_first_frame_where_they_are_asked_for(given, runs):
    values = check_values({"engine": "onnxruntime", **given}, NODE_PARAMETERS)
    assert all(load_model(values).engine.segment_runs) == runs


def test_a_budget_that_cannot_be_kept_is_refused_while_running():
    with Node() as node:
        with pytest.raises(ParameterError, match=r"exit\.budget needs a calibrated bundle"):
            node.tracker.set_values({"exit.budget": 0.5})
        assert node.tracker.values["exit.budget"] == 0.0
        node.tracker.set_values({"uncertain.score_threshold": 0.3})
