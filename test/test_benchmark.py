"""The benchmark measures every part of a frame, for every engine at hand."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from mixformerv2_ros.cli import main
from mixformerv2_ros.cli.engine_benchmark import (
    PARTS,
    Measurement,
    Variant,
    devices_at_hand,
    variants_at_hand,
)
from mixformerv2_ros.machine import processor_joules
from mixformerv2_ros.model.bundle import SHIPPED_BUNDLES, open_bundle
from mixformerv2_ros.model.flops import frame_macs


def test_percentiles_and_speed_of_known_timings():
    rows = np.tile(np.arange(1, 101)[:, None] * np.array([1.0, 2.0, 3.0, 10.0, 12.0]), (1, 1))
    summary = Measurement(Variant("onnxruntime", True), rows, 123.4).summary()
    assert summary["variant"] == "onnxruntime cached"
    assert summary["milliseconds"]["crop"]["p50"] == pytest.approx(101)
    assert summary["milliseconds"]["frame"]["p99"] == pytest.approx(990.1)
    assert summary["frames_per_second"] == pytest.approx(1000 / 505, abs=0.01)


def test_the_command_prints_and_writes_every_variant(tmp_path, capsys):
    path = tmp_path / "benchmark.json"
    words = ["--rounds", "1", "--frames", "2", "--size", "320x240", "--json", str(path)]
    assert main(["benchmark", *words]) == 0
    shown = capsys.readouterr().out
    result = json.loads(path.read_text())
    expected = [variant.label for variant in variants_at_hand(open_bundle())]
    assert [entry["variant"] for entry in result["variants"]] == expected
    assert "onnxruntime cached" in expected
    for entry in result["variants"]:
        assert entry["variant"] in shown
        ms = entry["milliseconds"]
        assert set(ms) == set(PARTS)
        assert all(ms[part]["p50"] > 0 for part in PARTS)
        assert ms["frame"]["p50"] >= ms["engine"]["p50"]
        assert entry["peak_megabytes"] > 20
    assert result["machine"]["processor"] in shown


@pytest.mark.parametrize(
    "words",
    [
        *(["--rounds", "0"], ["--frames", "0"], ["--size", "9x9"], ["--size", "big"], ["nowhere"]),
        # Before anything is measured.
        *(["--json", "/no/such/folder/x.json"], ["--report", "/no/such/folder/x.html"]),
    ],
)
def test_wrong_words_are_refused(words, capsys):
    assert main(["benchmark", *words]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_targets_templates_peers_and_another_bundle_in_one_run(tmp_path, capsys):
    pytest.importorskip("bokeh")
    data, page = tmp_path / "benchmark.json", tmp_path / "benchmark.html"
    words = ["--rounds", "2", "--frames", "2", "--size", "320x240", "--threads", "1"]
    words += ["--engine", "onnxruntime", "--precision", "fp32", "--trackers", "MIL"]
    words += ["--targets", "2", "--online-size", "3"]
    assert main(["benchmark", *words, "--json", str(data), "--report", str(page)]) == 0
    result = json.loads(data.read_text())
    labels = [entry["variant"] for entry in result["variants"]]
    assert labels == ["onnxruntime cached", "onnxruntime joint", "MIL"]
    assert (result["targets"], result["online_size"], result["threads"]) == (2, 3, 1)
    assert result["limits"]["giga_multiply_adds_per_second"]["fp32"] > 0
    assert result["limits"]["multiply_adds_per_frame"] == 2 * frame_macs(open_bundle().spec, 3)
    cached = result["variants"][0]
    assert 0 < cached["percent_of_limit"] < 200
    assert cached["milliseconds"]["cpu"]["p50"] > 0
    text = page.read_text()
    assert all(label in text for label in labels)
    assert "limit" in capsys.readouterr().out


def test_numbers_of_targets_beside_the_joint_forward(tmp_path, capsys):
    pytest.importorskip("torch")
    data = tmp_path / "benchmark.json"
    words = ["--rounds", "1", "--frames", "2", "--size", "320x240", "--threads", "1"]
    words += ["--engine", "torch", "--precision", "fp32", "--targets", "1,3"]
    assert main(["benchmark", *words, "--json", str(data)]) == 0
    result = json.loads(data.read_text())
    (other,) = result["other_targets"]
    assert (result["targets"], other["targets"]) == (1, 3)
    for run in (result, other):
        cached, joint = run["variants"]
        assert (cached["variant"], joint["variant"]) == ("torch cached", "torch joint")
        ms = [one["milliseconds"]["engine"]["p50"] for one in run["variants"]]
        assert cached["over_joint"] == pytest.approx(ms[0] / ms[1], abs=1e-3)
        assert joint["over_joint"] == 1
        mean, most = cached["edges_differ"]
        assert 0 <= mean <= most < 1e-4
    shown = capsys.readouterr().out
    assert "beside torch joint" in shown
    assert "engine ms, over 1" in shown


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--engine", "tensorrt"], "--engine must be of onnxruntime, openvino, torch"),
        (["--precision", "int8"], "precision int8 is not available"),
        (["--trackers", "GOTURN"], "tracker must be one of"),
        (["--trackers", ""], "tracker must be one of"),
        (["--device", "gpu:9"], "no engine that is installed here runs on gpu:9; there is cpu"),
        (["--compare", "tiny"], "--compare requires a copy of"),
        (["--node", "dds", "--targets", "2", "--report", "x.html"], "--node excludes --targets"),
        (["--preset", "T", "--node", "dds"], "--node excludes --preset"),
        (["data", "--engine", "torch"], "data excludes --engine"),
        (["--compare", "nowhere"], "nowhere"),
        (["--targets", "0"], "--targets"),
        (["--targets", "1,many"], "--targets"),
    ],
)
def test_what_is_not_there_is_one_line(words, expected, capsys):
    assert main(["benchmark", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line


def test_intels_devices_are_openvinos_alone_with_their_own_precisions(monkeypatch):
    pytest.importorskip("openvino")

    class Core:
        available_devices = ("CPU", "GPU.0", "GPU.1")

        def get_property(self, device, _):
            return {"CPU": ["FP32", "INT8"]}.get(device, ["FP32", "FP16", "INT8", "BIN"])

    monkeypatch.setattr("mixformerv2_ros.engines.openvino_engine.openvino_core", Core)
    bundle = open_bundle()
    for device in ("gpu", "gpu:1"):
        found = {(one.engine, one.precision) for one in variants_at_hand(bundle, device)}
        assert found == {("openvino", "fp32"), ("openvino", "fp16")}
    assert variants_at_hand(bundle, "npu") == []
    assert devices_at_hand()[:3] == ["cpu", "gpu:0", "gpu:1"]


def test_several_copies_in_int8_have_names(tmp_path, capsys):
    """A copy of the graphs in fp32 stands in for one in int8: only its record is read here."""
    for name in ("first", "second"):
        path = shutil.copytree(SHIPPED_BUNDLES["tiny"], tmp_path / name)
        record = json.loads((path / "model.json").read_text("utf-8"))
        record["quantization"] = {"precision": "int8"}
        (path / "model.json").write_text(json.dumps(record), "utf-8")
    data = tmp_path / "benchmark.json"
    words = ["--rounds", "1", "--frames", "1", "--size", "320x240", "--engine", "onnxruntime"]
    words += ["--compare", str(tmp_path / "first"), "--compare", str(tmp_path / "second")]
    words += ["--precision", "int8", "--json", str(data)]
    assert main(["benchmark", "tiny", *words]) == 0
    labels = [one["variant"] for one in json.loads(data.read_text())["variants"]]
    assert labels == [
        f"onnxruntime int8 {way} {name}" for name in ("first", "second")
        for way in ("cached", "joint")
    ]  # fmt: skip
    assert "onnxruntime int8 cached first" in capsys.readouterr().out


def test_exits_are_a_curve_beside_full_depth(tmp_path, capsys):
    pytest.importorskip("bokeh")
    data, page = tmp_path / "benchmark.json", tmp_path / "benchmark.html"
    words = ["--rounds", "1", "--frames", "2", "--size", "320x240", "--threads", "1", "--exits"]
    words += ["--engine", "onnxruntime", "--precision", "fp32"]
    assert main(["benchmark", *words, "--json", str(data), "--report", str(page)]) == 0
    result, spec = json.loads(data.read_text()), open_bundle().spec
    (curve,) = result["exits"]
    times = {one["answer_at"]: one["milliseconds"]["engine"]["p50"] for one in result["variants"]
             if one["variant"] != "onnxruntime joint"}  # fmt: skip
    assert curve["name"] == "onnxruntime"
    assert curve["full_ms"] == times[0]
    assert [point["at"] for point in curve["points"]] == list(spec.depths)
    for point in curve["points"]:
        assert point["ms"] == times[point["at"]]
        assert point["of_full"] == pytest.approx(point["ms"] / times[0], abs=1e-4)
    shown, text = capsys.readouterr().out, page.read_text()
    assert f"{spec.exits[0]} blocks ({spec.exits[0] / spec.depth:.2f})" in shown
    assert f"{spec.depth}, through all exits" in text
    assert f"<td>{curve['full_ms']:.2f}</td>" in text


def test_a_preset_is_measured_with_formula_weights(tmp_path, capsys):
    pytest.importorskip("torch")
    data = tmp_path / "benchmark.json"
    words = ["--rounds", "1", "--frames", "1", "--size", "320x240", "--threads", "1", "--exits"]
    words += ["--engine", "torch", "--precision", "fp32", "--json", str(data)]
    assert main(["benchmark", "--preset", "T", *words]) == 0
    result = json.loads(data.read_text())
    assert (result["model"]["name"], result["model"]["preset"]) == ("T with formula weights", "T")
    assert [point["at"] for point in result["exits"][0]["points"]] == [2, 4]
    # Weights that are no numbers could run faster or slower.
    assert all(0 <= x < 1 for one in result["variants"] for x in one["edges_differ"])
    assert main(["benchmark", "tiny", "--preset", "T"]) == 2
    assert "--preset excludes BUNDLE" in capsys.readouterr().err


def test_energy_is_a_number_where_it_is_told():
    joules = processor_joules()
    assert joules is None or joules > 0


@pytest.mark.parametrize("encoding", ["bgr8", "jpeg"])
def test_a_node_from_message_to_message(encoding, tmp_path, capsys):
    pytest.importorskip("cyclonedds", reason="needs cyclonedds, which is not installed")
    path = tmp_path / "node.json"
    words = ["--rounds", "1", "--frames", "5", "--size", "320x240", "--encoding", encoding]
    assert main(["benchmark", "--node", "dds", *words, "--json", str(path)]) == 0
    shown = capsys.readouterr().out
    result = json.loads(path.read_text())
    assert result["node"] == f"dds {encoding} 320x240"
    assert result["node"] in shown
    assert result["engine_ms"] > 0
    assert 0 < result["without_engine_ms"]["p50"] <= result["without_engine_ms"]["p95"]
    assert result["idle_ms_per_s"] > 0


def test_a_node_that_does_not_start_is_one_line(capsys):
    pytest.importorskip("cyclonedds", reason="needs cyclonedds, which is not installed")
    assert main(["benchmark", "nowhere", "--node", "dds"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "the node does not track: " in line
    assert "nowhere" in line
