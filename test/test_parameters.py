"""The parameter table."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from mixformerv2_ros.cli.parameter_options import add_parameter_arguments, values_from_arguments
from mixformerv2_ros.errors import ParameterError
from mixformerv2_ros.model.bundle import open_bundle
from mixformerv2_ros.ros.parameter_profiles import PROFILES, markdown_table
from mixformerv2_ros.ros.parameters import (
    BY_NAME,
    NODE_PARAMETERS,
    PARAMETERS,
    POSE_PARAMETERS,
    check_values,
    tracker_settings,
    unknown_parameters,
)
from mixformerv2_ros.ros.topics import OUTPUTS, POSE_OUTPUTS
from mixformerv2_ros.tracking.settings import TrackerSettings

BUNDLE = replace(
    open_bundle(), search_factor=4.25, template_factor=2.5, template_background_contrast=0.75
)


def test_every_setting_of_the_tracker_has_one_parameter():
    settings = [p.setting for p in PARAMETERS if p.setting]
    fields = {f.name for f in dataclasses.fields(TrackerSettings)}
    # What the weights were trained with is no matter of taste: only their bundle says it.
    # One threshold per exit comes from the calibration in it.
    own = {"template_background_contrast", "exit_thresholds"}
    assert sorted(settings) == sorted(fields - own)


def test_defaults_are_valid_and_those_of_the_tracker():
    values = check_values({})
    assert set(values) == set(BY_NAME)
    expected = TrackerSettings(
        search_factor=4.25, template_factor=2.5, template_background_contrast=0.75
    )
    assert tracker_settings({}, BUNDLE) == expected


def test_factors_can_be_set():
    settings = tracker_settings({"search_factor": 5, "template_factor": 1.5}, BUNDLE)
    assert (settings.search_factor, settings.template_factor) == (5.0, 1.5)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"serch_factor": 4.0}, "unknown parameter 'serch_factor'"),
        ({"template_update.interval": 0}, "template_update.interval must be 1 to 1e+06, got 0"),
        ({"template_update.interval": 2.5}, "must be int, got 2.5"),
        ({"template_update.interval": True}, "must be int, got True"),
        ({"template_update.score_threshold": 1.5}, "must be 0 to 1, got 1.5"),
        ({"template_update.score_threshold": float("nan")}, "must be 0 to 1, got nan"),
        ({"engine": "tensorflow"}, "must be auto | onnxruntime | openvino | torch"),
        ({"model": 3}, "must be str, got 3"),
        (
            {"lost.score_threshold": 0.6, "uncertain.score_threshold": 0.5},
            "lost.score_threshold must not exceed",
        ),
    ],
)
def test_wrong_values_are_named_with_their_range(values, words):
    with pytest.raises(ParameterError, match=re.escape(words)):
        check_values(values)


def parse(*words):
    parser = argparse.ArgumentParser()
    add_parameter_arguments(parser)
    return parser.parse_args(words)


def test_options_become_settings():
    args = parse("--template-update-interval", "7", "--lost-duration", "2")
    settings = tracker_settings(values_from_arguments(args), BUNDLE)
    assert (settings.update_interval, settings.lost_duration) == (7, 2.0)


@pytest.mark.parametrize("text", ["x", "1e9", "-1", "", "nan"])
def test_options_out_of_range_are_refused(text):
    with pytest.raises(ParameterError, match=r"template_update\.interval must be"):
        values_from_arguments(parse("--template-update-interval=" + text))


def test_a_number_out_of_range_is_told_the_range():
    with pytest.raises(ParameterError, match=re.escape("num_threads must be 0 to 256, got -1")):
        values_from_arguments(parse("--num-threads=-1"))


def test_every_parameter_says_what_it_is():
    for parameter in NODE_PARAMETERS:
        assert 10 < len(parameter.text) < 120
        parameter.check(parameter.default)


def test_the_documentation_shows_these_tables():
    page = (Path(__file__).resolve().parents[1] / "docs" / "parameters.md").read_text("utf-8")
    added = [p for p in NODE_PARAMETERS if p not in PARAMETERS]
    for table in (PARAMETERS, added, POSE_PARAMETERS):
        assert markdown_table(table) in page


def test_viewers_show_topics_that_there_are():
    config = Path(__file__).resolve().parents[1] / "config"
    rviz = yaml.safe_load((config / "tracker.rviz").read_text("utf-8"))
    shown = {
        display["Topic"]["Value"]
        for display in rviz["Visualization Manager"]["Displays"]
        if "Topic" in display
    }
    foxglove = json.loads((config / "tracker.foxglove.json").read_text("utf-8"))
    panels = foxglove["configById"]
    shown.add(panels["Image!tracker"]["imageMode"]["imageTopic"])
    shown.add(panels["DiagnosticSummary!tracker"]["topicToRender"])
    for panel in ("Plot!confidence", "StateTransitions!tracker"):
        (path,) = panels[panel]["paths"]
        topic, _, field = path["value"].partition(".")
        shown.add(topic)
        assert f" {field}\n" in (config.parent / "msg" / "Track.msg").read_text("utf-8")
    assert {name.lstrip("/") for name in shown} <= {
        name.lstrip("/") for name in (*OUTPUTS, *POSE_OUTPUTS)
    }
    assert str(foxglove["layout"]).count("!") == len(panels)


@pytest.mark.parametrize("name", PROFILES)
def test_parameter_files_in_config_are_those_of_the_table(name):
    """Made by `mixformerv2 node --print-params NAME`."""
    profile = PROFILES[name]
    table = profile.parameters
    text = (Path(__file__).resolve().parents[1] / "config" / f"{name}.yaml").read_text("utf-8")
    assert text == profile.text()
    assert all(f"# {p.text}" in text for p in table)
    read = yaml.safe_load(text)["/**"]["ros__parameters"]
    flat = {}
    for key, value in read.items():
        inner = value.items() if isinstance(value, dict) else [(None, value)]
        flat.update({key if sub is None else f"{key}.{sub}": v for sub, v in inner})
    assert check_values(flat, table) == check_values(profile.values, table)


def test_unknown_names_of_a_file_are_named_with_the_nearest_one():
    known = [parameter.name for parameter in NODE_PARAMETERS]
    assert unknown_parameters(known, known) == []
    assert unknown_parameters(["lost.durration", "lost.duration", "zzz\n"], known) == [
        "unknown parameter lost.durration ignored; nearest: lost.duration",
        "unknown parameter zzz\\n ignored",
    ]
    assert (
        unknown_parameters(map(str, range(100)), known)[-1] == "80 more unknown parameters ignored"
    )


def test_parameters_of_the_node_are_unknown_to_commands_that_have_no_camera():
    with pytest.raises(ParameterError, match="unknown parameter 'image_qos'"):
        check_values({"image_qos": "auto"})
    assert check_values({"image_qos": "reliable"}, NODE_PARAMETERS)["image_qos"] == "reliable"


def test_a_gpu_has_a_number():
    device = next(one for one in PARAMETERS if one.name == "device")
    for value in ("cpu", "cuda", "cuda:1", "gpu", "gpu:1", "npu"):
        assert device.check(value) == value
    for value in ("cuda:", "cuda:x", "cpu:1", "cuda:N", "npu:0"):
        with pytest.raises(ParameterError, match=r"device must be cpu \| cuda \| .*, got"):
            device.check(value)
