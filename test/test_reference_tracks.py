"""Replays compared with reference tracks: the command, and the pytest plugin."""

from __future__ import annotations

import json
import re
import textwrap
from importlib.metadata import entry_points
from pathlib import Path

import cv2
import numpy as np
import pytest
from recordings import PERIOD_NS, START_NS, red_box, write_bag

from mixformerv2_ros.cli import main
from mixformerv2_ros.errors import ParameterError, SourceError
from mixformerv2_ros.interfaces import typestore
from mixformerv2_ros.io.bag_writer import BagWriter
from mixformerv2_ros.io.reference_tracks import Comparison
from mixformerv2_ros.ros.messages import compressed_image_message
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
    comparison.check(
        0, [Track("target", 0, "", half, 1.0, (0, 0, 0, 0), State.TRACKING, 0, False, 4)]
    )
    assert comparison.difference is None
    assert comparison.min_seen == pytest.approx(0.5)


# The pytest plugin, in a foreign package ----------------------------------------------------------

PAGE = Path(__file__).resolve().parents[1] / "docs" / "recordings.md"


@pytest.fixture
def package(pytester, monkeypatch):
    """A foreign package with its tests in `test/`; runs pytest from its root."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[1]))
    # pip installs the plugin for good; a checkout that is only on the path has to name it.
    installed = {entry.name for entry in entry_points(group="pytest11")}
    options = () if "mixformerv2_ros" in installed else ("-p", "mixformerv2_ros.pytest_plugin")
    folder = pytester.mkdir("test")

    def run(*words: str):
        return pytester.runpytest_subprocess(*options, "test", *words)

    run.folder = folder
    return run


def write_long_recording(path: Path) -> None:
    """What the page's example needs: 213 images with something to track in its box."""
    image = np.full((416, 720, 3), 90, np.uint8)
    image[296:400, 652:702] = (230, 20, 20)
    image[310:330, 660:690] = (20, 230, 20)
    _, data = cv2.imencode(".jpg", image[..., ::-1])
    with BagWriter(path, "mcap") as writer:
        for index in range(213):
            stamp = START_NS + index * PERIOD_NS
            message = compressed_image_message(typestore().types, data, "jpeg", stamp, "camera")
            writer.write("/image/compressed", "sensor_msgs/msg/CompressedImage", message, stamp)


def test_the_example_of_the_docs_passes_in_a_foreign_package(package):
    text = PAGE.read_text("utf-8")
    example = re.search(r"^    def test_.*\n(?:    .+\n)+", text, re.MULTILINE).group()
    (package.folder / "test_tracks.py").write_text(textwrap.dedent(example))
    write_long_recording(package.folder / "recording")
    first = package()
    first.assert_outcomes(failed=1)
    first.stdout.fnmatch_lines(["*test/good.json does not exist; write it with*--update-tracks*"])
    package("--update-tracks").assert_outcomes(passed=1)
    package().assert_outcomes(passed=1)
    path = package.folder / "good.json"
    assert [row["frame"] for row in json.loads(path.read_text())["tracks"]] == [210, 211, 212]
    changed(path, path, lambda rows: rows[1].update(y=-300.0))
    last = package()
    last.assert_outcomes(failed=1)
    last.stdout.fnmatch_lines(["*frame 211, target target: IoU with the reference box*"])


def test_start_length_and_tracks_of_a_replay(package, bag):
    (package.folder / "test_tracks.py").write_text(
        f"""
BAG = {str(bag)!r}

def test_frames(bag_replay):
    replay = bag_replay(BAG, box={tuple(red_box(4))}, start_frame=4, max_frames=3)
    assert [number for number, _ in replay.tracks] == [4, 5, 6]
    track = replay.track("target")
    assert [one.target_id for one in track] == ["target"] * 3
    assert tuple(track[0].box) == {tuple(red_box(4))}

def test_time(bag_replay):
    replay = bag_replay(BAG, box={tuple(red_box(2))}, start_time=0.1, max_frames=1)
    assert replay.tracks[0][0] == 2

def test_parameters(bag_replay):
    bag_replay(BAG, box={tuple(red_box(0))}, template_update_interval=5, max_frames=2)
"""
    )
    package().assert_outcomes(passed=3)


BAD = {
    "box=(1, 2, 3)": "box must be four numbers x, y, w, h, got [[]1, 2, 3[]]",
    "box=(1, 2, 3, 4), start_frame=1, start_time=2": "start_frame and start_time exclude *",
    "start_frame=1": "start_frame and start_time require box",
    "box=(1, 2, 3, 4), init_topic='/box'": "box and init_topic exclude each other",
    "max_frames=0, box=(1, 2, 30, 40)": "max_frames must be at least 1, got 0",
    "box=(1, 2, 30, 40), template_update_intervall=1": "*template_update_intervall*",
    "box=(1, 2, 30, 40), model='none'": "*test/none*",
    "init_topic='/none'": "*/none*",
    "": "recording * has no init boxes; give box=(x, y, w, h)",
    "box=(1000, 2, 30, 40)": "*1000*",
}


def test_bad_input_fails_in_one_line(package, bag):
    tests = [
        f"def test_{number}(bag_replay):\n    bag_replay({str(bag)!r}, {arguments})\n"
        for number, arguments in enumerate(BAD)
    ]
    tests.append("def test_bag(bag_replay):\n    bag_replay('nowhere')\n")
    tests.append(
        f"def test_id(bag_replay):\n"
        f"    bag_replay({str(bag)!r}, box={tuple(red_box(0))}, max_frames=1).track('cat')\n"
    )
    (package.folder / "test_tracks.py").write_text("\n".join(tests))
    done = package("-rf")
    done.assert_outcomes(failed=len(BAD) + 2)
    for words in BAD.values():
        done.stdout.fnmatch_lines([words])
    done.stdout.fnmatch_lines(["*test/nowhere*"])
    done.stdout.fnmatch_lines(["*no track of target 'cat', targets: target"])
    done.stdout.no_fnmatch_line("*Error*:*")
    done.stdout.no_fnmatch_line("*another exception*")
