"""Dynamic depth where users meet it: live parameters, diagnostics, recordings and tables."""

from __future__ import annotations

import csv
import json

import pytest
from nodes import Node, frame_stamp, image, init_box
from recordings import BOX_TEXT, red_box, storage_file, write_bag, write_images

from mixformerv2_ros.cli import main
from mixformerv2_ros.engines.loader import load_engine
from mixformerv2_ros.errors import ParameterError
from mixformerv2_ros.io.bag_reader import BagReader
from mixformerv2_ros.model.bundle import open_bundle
from mixformerv2_ros.ros.messages import Level
from mixformerv2_ros.ros.topics import DIAGNOSTICS
from mixformerv2_ros.tracking.depth import SETTLED

SPEC = open_bundle().spec
ANY_IOU = 1e-6
"""A threshold that every estimate passes; 0 means as calibrated."""


@pytest.fixture
def node():
    """A node with the default model that has a target and has searched one image for it."""
    with Node(load_engine(open_bundle(), "onnxruntime")) as one:
        one.tracker.receive_init(init_box(red_box(0), frame_stamp(0), "dog"))
        one.feed(image(0), still(1))
        yield one


def still(index):
    """The first image again, with another stamp: the target stays sure."""
    return image(index, picture_of=0)


def report(node):
    """Level and text of the diagnostics as they are now, and their values."""
    node.tracker.publish_diagnostics()
    status = node.desk.published[DIAGNOSTICS][-1].status[0]
    return status.level, status.message, {item.key: item.value for item in status.values}


def test_thresholds_and_deadlines_are_set_while_a_target_is_tracked(node):
    key = "network depth (mean blocks)"
    assert key not in report(node)[2]
    node.tracker.set_values({"exit.threshold": ANY_IOU, "uncertain.score_threshold": 0.0,
                             "lost.score_threshold": 0.0})  # fmt: skip
    node.feed(*map(still, range(2, 8)))
    assert {track.depth for track in node.desk.tracks[-5:]} == {SPEC.exits[0]}
    level, _, values = report(node)
    assert (level, float(values[key])) == (Level.OK, SPEC.exits[0])
    assert values["parameter exit.threshold"] == str(ANY_IOU)
    assert "answered before the deadline" not in values
    node.tracker.set_values({"exit.threshold": 1.0, "exit.deadline_ms": 0.001})
    node.feed(*map(still, range(8, 10 + 2 * SETTLED)))
    # Nothing answers in a microsecond: the first exit does, and the least deadline is named.
    assert node.desk.tracks[-1].depth == SPEC.exits[0]
    level, text, values = report(node)
    assert (level, values["answered before the deadline"]) == (Level.WARN, "0 %")
    words = text.split()
    assert (words[0], words[-1]) == ("exit.deadline_ms", "0.001")
    node.tracker.set_values({"exit.deadline_ms": 60_000})
    node.feed(*map(still, range(40, 50)))
    assert node.desk.tracks[-1].depth == SPEC.depth
    level, _, values = report(node)
    assert (level, values["answered before the deadline"]) == (Level.OK, "100 %")
    node.tracker.set_values({"exit.deadline_ms": 0.0})
    node.feed(still(50))
    assert key not in report(node)[2]


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("exit.threshold", float("nan"), "exit.threshold must be 0 to 1, got nan"),
        ("exit.threshold", 1.01, "exit.threshold must be 0 to 1, got 1.01"),
        ("exit.threshold", -0.5, "exit.threshold must be 0 to 1, got -0.5"),
        ("exit.budget", float("inf"), "exit.budget must be 0 to 1, got inf"),
        ("exit.deadline_ms", -1, "exit.deadline_ms must be 0 to 60000, got -1"),
        ("exit.deadline_ms", 10**400, "exit.deadline_ms must be 0 to 60000, got inf"),
        ("exit.threshold", -(10**400), "exit.threshold must be 0 to 1, got -inf"),
    ],
    ids=lambda one: str(one)[:40],
)
def test_a_value_out_of_range_is_refused_and_the_node_goes_on(node, name, value, expected):
    with pytest.raises(ParameterError) as caught:
        node.tracker.set_values({name: value})
    assert str(caught.value) == expected
    node.feed(still(2))
    assert node.desk.tracks[-1].depth == SPEC.depth


def test_replays_are_alike_and_carry_the_depth_used(tmp_path, capsys):
    bag = write_bag(tmp_path / "bag", 12)
    found = []
    for name in ("a", "b"):
        out = tmp_path / name / "out"
        out.parent.mkdir()
        words = ["replay", str(bag), "-o", str(out), "--box", BOX_TEXT, "--engine", "onnxruntime"]
        tables = ["--csv", str(out.parent / "t.csv"), "--json", str(out.parent / "t.json")]
        given = ["--exit-threshold", str(ANY_IOU), "--uncertain-score-threshold", "0"]
        assert main([*words, *tables, *given, "--lost-score-threshold", "0"]) == 0
        files = (storage_file(out), out.parent / "t.csv", out.parent / "t.json")
        found.append([file.read_bytes() for file in files])
    assert found[0] == found[1]
    with BagReader(tmp_path / "a" / "out") as reader:
        tracks = [reader.deserialize(one) for one in reader.messages(["/track"])]
    depths = [track.depth for track in tracks]
    assert depths == [0, SPEC.depth, *[SPEC.exits[0]] * 10]
    with (tmp_path / "a" / "t.csv").open() as file:
        assert [int(row["depth"]) for row in csv.DictReader(file)] == depths
    rows = json.loads((tmp_path / "a" / "t.json").read_text())["tracks"]
    assert [row["depth"] for row in rows] == depths
    assert capsys.readouterr().err == ""


def test_a_deadline_that_no_exit_can_keep_is_named(tmp_path, capsys):
    write_images(tmp_path / "img", 2 * SETTLED)
    words = ["track", str(tmp_path / "img"), "--box", BOX_TEXT, "--engine", "onnxruntime"]
    assert main([*words, "--exit-deadline-ms", "0.001"]) == 0
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("mixformerv2 track: exit.deadline_ms must be at least ")
    assert line.endswith("got 0.001")
