"""Replays compared with reference tracks: the command, and the pytest plugin."""

from __future__ import annotations

import json
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from recordings import red_box, write_bag

from mixformerv2_ros.cli import main
from mixformerv2_ros.errors import ParameterError, SourceError
from mixformerv2_ros.io.reference_tracks import Comparison
from mixformerv2_ros.tracking.boxes import Box
from mixformerv2_ros.tracking.session import State, Track

pytest_plugins = ["pytester"]


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bag(tmp_path_factory.mktemp("bags") / "bag", 12)


@pytest.fixture(scope="module")
def box() -> str:
    return ",".join(map(str, red_box(0)))


@pytest.fixture(scope="module")
def stored(bag: Path, box: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stored") / "tracks.json"
    out = path.parent / "out"
    assert main(["replay", str(bag), "--box", box, "-o", str(out), "--json", str(path)]) == 0
    return path


def replay(bag: Path, box: str, out: Path, *words: str) -> int:
    return main(["replay", str(bag), "--box", box, "-o", str(out), *words])


def test_the_same_replay_matches_its_reference(bag, box, stored, tmp_path, capsys):
    assert replay(bag, box, tmp_path / "out", "--reference", str(stored), "--min-iou", "0.99") == 0
    assert "minimum IoU 1.000" in capsys.readouterr().out


def changed(stored: Path, path: Path, edit) -> Path:
    content = json.loads(stored.read_text())
    edit(content["tracks"])
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (
            lambda rows: rows[5].update(x=500.0),
            "frame 5, target target: IoU with the reference box",
        ),
        (lambda rows: rows[7].update(state="LOST"), "frame 7, target target: state must be LOST"),
        (lambda rows: rows.pop(3), "frame 3, target target: expected no track, got one"),
        (
            lambda rows: rows.append({**rows[-1], "frame": 99}),
            "frame 99, target target: expected a track, got none",
        ),
    ],
)
def test_the_first_difference_is_named(edit, words, bag, box, stored, tmp_path, capsys):
    path = changed(stored, tmp_path / "other.json", edit)
    assert replay(bag, box, tmp_path / "out", "--reference", str(path)) == 1
    said = capsys.readouterr().err
    assert words in said
    assert len(said.splitlines()) == 1
    # The recording is written all the same, to be looked at.
    assert (tmp_path / "out" / "metadata.yaml").is_file()


@pytest.mark.parametrize(
    "content", ["", "{}", '{"tracks": []}', '{"tracks": [{"frame": 1}]}', "[" * 100_000, "null"]
)
def test_files_that_hold_no_tracks_are_refused_before_anything_is_written(
    content, bag, box, tmp_path, capsys
):
    path = tmp_path / "bad.json"
    path.write_text(content)
    assert replay(bag, box, tmp_path / "out", "--reference", str(path)) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_bounds_are_checked(stored, tmp_path):
    with pytest.raises(ParameterError, match="min_iou must be 0 to 1"):
        Comparison(stored, 1.5)
    with pytest.raises(SourceError, match="cannot be read"):
        Comparison(tmp_path / "none.json", 0.5)


def test_the_minimum_iou_is_known(stored):
    comparison = Comparison(stored, 0.1)
    row = json.loads(stored.read_text())["tracks"][0]
    half = Box(row["x"], row["y"], row["w"] / 2, row["h"])
    comparison.check(0, [Track("target", 0, "", half, 1.0, (0, 0, 0, 0), State.TRACKING, 0, False)])
    assert comparison.difference is None
    assert comparison.min_seen == pytest.approx(0.5)


def test_three_lines_make_a_regression_test(pytester, bag, box, monkeypatch):
    pytester.makepyfile(
        f"""
        def test_follows_the_target(bag_replay):
            replay = bag_replay({str(bag)!r}, box=({box}), template_update_interval=5)
            replay.assert_tracks("tracks.json", min_iou=0.9)
        """
    )
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[1]))
    # pip installs the plugin for good; a checkout that is only on the path has to name it.
    installed = {entry.name for entry in entry_points(group="pytest11")}
    options = () if "mixformerv2_ros" in installed else ("-p", "mixformerv2_ros.pytest_plugin")
    first = pytester.runpytest_subprocess(*options)
    first.assert_outcomes(failed=1)
    first.stdout.fnmatch_lines(["*tracks.json cannot be read*"])
    pytester.runpytest_subprocess(*options, "--update-tracks").assert_outcomes(passed=1)
    pytester.runpytest_subprocess(*options).assert_outcomes(passed=1)
    path = pytester.path / "tracks.json"
    changed(path, path, lambda rows: rows[4].update(y=-300.0))
    last = pytester.runpytest_subprocess(*options)
    last.assert_outcomes(failed=1)
    last.stdout.fnmatch_lines(["*frame 4, target target: IoU with the reference box*"])
