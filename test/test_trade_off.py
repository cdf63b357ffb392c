"""Thresholds of exits beside static cuts at them: what is run, what comes out, how it is shown."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from test_evaluation import write_plain
from test_evaluation_report import table

from mixformerv2_ros.cli import main
from mixformerv2_ros.engines.loader import load_engine
from mixformerv2_ros.errors import SourceError
from mixformerv2_ros.lab.datasets.evaluation_sets import load_sequences
from mixformerv2_ros.lab.datasets.sequences import AnnotatedSequence
from mixformerv2_ros.lab.depth_curve import measure_point
from mixformerv2_ros.lab.evaluation.results import Result, read_result, write_result
from mixformerv2_ros.lab.evaluation.summary import summarise
from mixformerv2_ros.lab.evaluation.trade_off import trade_off_table, trade_offs
from mixformerv2_ros.model.bundle import open_bundle
from mixformerv2_ros.ros.parameters import tracker_settings

SPEC = open_bundle("default").spec
NAMES = ("one", "two")
FRAMES = 8


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sequences")
    for name in NAMES:
        write_plain(folder, name, FRAMES)
    return folder


@pytest.fixture(scope="module")
def out(root, tmp_path_factory) -> Path:
    """Results of two thresholds and all cuts, and of the tracker as it is, with a page."""
    pytest.importorskip("bokeh")
    out = tmp_path_factory.mktemp("out")
    words = ["evaluate", "--root", str(root), "-o", str(out), "--report", str(out / "page.html")]
    assert main([*words, "--exit-thresholds", "0,0.999"]) == 0
    assert main(["evaluate", "--root", str(root), "-o", str(out)]) == 0
    return out


def depths(folder: Path, name: str) -> list[int]:
    with (folder / f"{name}_frames.csv").open() as file:
        return [int(row["depth"]) for row in csv.DictReader(file)]


def test_every_threshold_and_every_cut_is_run(out):
    labels = {path.name for path in out.iterdir() if path.is_dir()}
    cuts = {f"mixformer-cut-{depth}" for depth in SPEC.depths}
    assert labels == {"mixformer", "mixformer-threshold-0", "mixformer-threshold-0.999", *cuts}


@pytest.mark.parametrize("cut", SPEC.depths)
def test_a_cut_answers_always_there(out, cut):
    for name in NAMES:
        assert depths(out / f"mixformer-cut-{cut}", name) == [0, *[cut] * (FRAMES - 1)]


def test_a_threshold_goes_deep_at_first(out):
    first, *others = depths(out / "mixformer-threshold-0", "one")[1:]
    assert first == SPEC.depth
    assert SPEC.exits[0] in others
    assert set(depths(out / "mixformer-threshold-0.999", "one")[1:]) == {SPEC.depth}


def test_full_depth_is_the_tracker_without_exits(out):
    for name in NAMES:
        full = (out / f"mixformer-cut-{SPEC.depth}" / f"{name}.txt").read_text()
        assert full == (out / "mixformer" / f"{name}.txt").read_text()
        assert full != (out / f"mixformer-cut-{SPEC.exits[0]}" / f"{name}.txt").read_text()


def test_the_curve_is_that_of_calibrate(out, root):
    (model,) = json.loads((out / "trade_off.json").read_text())
    assert model["model"] == open_bundle("default").name
    assert [one["name"] for one in model["dynamic"]] == ["threshold 0", "threshold 0.999"]
    assert [one["depth"] for one in model["static"]] == [n / SPEC.depth for n in SPEC.depths]
    sequences, _ = load_sequences(root)
    settings = tracker_settings({}, open_bundle("default"))
    point = measure_point(load_engine(open_bundle("default")), settings, 0.0, sequences)
    first = model["dynamic"][0]
    assert point.depth == pytest.approx(first["depth"])
    assert point.success_auc == pytest.approx(first["auc"]["mean"])
    assert SPEC.exits[0] / SPEC.depth < point.depth < 1


def test_the_page_and_a_comparison_show_the_same(out, root, capsys):
    rows = {row[0]: row[1:] for row in table((out / "page.html").read_text(), "exits-table")}
    (model,) = json.loads((out / "trade_off.json").read_text())
    for one in (*model["dynamic"], *model["static"]):
        auc = one["auc"]
        assert rows[one["name"]][0] == f"{one['depth']:.3f}"
        assert rows[one["name"]][3:6] == [f"{auc[k]:.3f}" for k in ("mean", "low", "high")]
    assert main(["evaluate", "--root", str(root), "--compare", str(out)]) == 0
    shown = capsys.readouterr().out
    assert f"exits of {model['model']}" in shown
    for name, cells in rows.items():
        assert f"{name} " in shown
        assert cells[3] in shown


def fake_run(seconds: float, shift: float, depth: int) -> Result:
    boxes = np.tile([10.0 + shift, 10, 20, 20], (5, 1))
    ones = np.ones(5)
    found = np.array([0, *[depth] * 4])
    return Result(boxes, ones * seconds, ones, ones == 0, found)


def test_figures_of_known_results():
    one = AnnotatedSequence("one", [Path("x")] * 5, np.tile([10.0, 10, 20, 20], (5, 1)))
    summaries, configs = {}, {}
    for label, run, exits in (
        ("a", fake_run(0.006, 2, 3), {"threshold": 0.7}),
        ("b", fake_run(0.004, 4, 2), {"cut": 2}),
        ("c", fake_run(0.008, 0, 5), {"cut": 5}),
        ("d", fake_run(0.002, 0, 0), None),
    ):
        summaries[label] = summarise([(one, run)])
        configs[label] = {"exits": {**exits, "depth": 5}} if exits else {}
    (found,) = trade_offs(summaries, configs)
    (dynamic,), (cut, full) = found.dynamic, found.static
    assert (dynamic.name, cut.name, full.name) == ("threshold 0.7", "cut 2", "full depth")
    assert [p.depth for p in found.curve] == pytest.approx([0.6, 1])
    assert (dynamic.ms, dynamic.of_full) == pytest.approx((6, 0.75))
    assert dynamic.static_auc == pytest.approx((cut.auc.mean + full.auc.mean) / 2)
    assert dynamic.gain.mean == pytest.approx(dynamic.auc.mean - full.auc.mean)
    assert math.isnan(summaries["d"].depth)
    assert "threshold 0.7" in trade_off_table(found)
    assert trade_offs({"d": summaries["d"]}, configs) == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--exit-thresholds", "0.5,1"], "--exit-thresholds must be numbers from 0 to below 1"),
        (["--exit-thresholds", "high"], "got 'high'"),
        (["--exit-thresholds", "0.5", "--model", "tiny"], "mixformerv2_ros-t-3 has not"),
        (["--exit-thresholds", "0.5", "--trackers", "MIL"], "requires the tracker mixformer"),
        (["--exit-thresholds", "0.5", "--exit-threshold", "0.7"], "and --exit-threshold exclude"),
        (["--exit-thresholds", "0.5", "--compare", "x"], "and --compare exclude each other"),
        # Longer than the name of a file may be.
        (["--sequences", ",".join(["Nobody"] * 50)], "--sequences must be a file of names"),
    ],
)
def test_bad_input_is_one_line(words, expected, root, tmp_path, capsys):
    assert main(["evaluate", "--root", str(root), "-o", str(tmp_path / "out"), *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line
    assert not (tmp_path / "out").exists()


def test_depths_are_stored_and_bad_ones_named(tmp_path):
    run = fake_run(0.01, 0, 3)
    write_result(tmp_path, "walk", run)
    np.testing.assert_array_equal(read_result(tmp_path, "walk", 5).depths, run.depths)
    path = tmp_path / "walk_frames.csv"
    good = path.read_text()
    for bad in ("nan", "-1", "1e9", ""):
        path.write_text(good[: good.rindex(",") + 1] + bad + "\n")
        with pytest.raises(SourceError, match=r"line 6: expected the numbers seconds,.*,depth"):
            read_result(tmp_path, "walk", 5)
