"""The benchmark measures every part of a frame, for every engine at hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mixformerv2_ros.cli import main
from mixformerv2_ros.cli.engine_benchmark import PARTS, Measurement, Variant, variants_at_hand
from mixformerv2_ros.model.bundle import open_bundle


def test_percentiles_and_speed_of_known_timings():
    rows = np.tile(np.arange(1, 101)[:, None] * np.array([1.0, 2.0, 3.0, 10.0]), (1, 1))
    summary = Measurement(Variant("onnxruntime", True), rows, 123.4).summary()
    assert summary["variant"] == "onnxruntime cached"
    assert summary["milliseconds"]["crop"]["p50"] == pytest.approx(101)
    assert summary["milliseconds"]["frame"]["p99"] == pytest.approx(990.1)
    assert summary["frames_per_second"] == pytest.approx(1000 / 505, abs=0.01)


def test_the_command_prints_and_writes_every_variant(tmp_path, capsys):
    path = tmp_path / "benchmark.json"
    words = ["--rounds", "2", "--frames", "2", "--size", "320x240", "--json", str(path)]
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
    [["--rounds", "0"], ["--frames", "0"], ["--size", "9x9"], ["--size", "big"], ["nowhere"]],
)
def test_wrong_words_are_refused(words, capsys):
    assert main(["benchmark", *words]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
