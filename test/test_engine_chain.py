"""Which engine runs, and what happens when it cannot, or no longer can."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from losable import Losable
from nodes import Node, frame_stamp, image, init_box
from recordings import red_box

from mixformerv2_ros.engines.chain import Candidate, EngineChain
from mixformerv2_ros.engines.loader import load_engine
from mixformerv2_ros.engines.options import EngineOptions, UnavailableError, cache_folder
from mixformerv2_ros.errors import EngineError
from mixformerv2_ros.model.bundle import open_bundle
from mixformerv2_ros.ros.live.engine_log import engine_lines
from mixformerv2_ros.ros.messages import Level, stamp_ns


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


SIGNALS_AFTER_ENGINES = """
import faulthandler, os, signal
from mixformerv2_ros.engines.loader import load_engine
from mixformerv2_ros.model.bundle import open_bundle

faulthandler.enable()
heard = []
signal.signal(signal.SIGUSR1, lambda *_: heard.append(1))
engines = [load_engine(open_bundle(), "openvino") for _ in range(2)]
while engines:
    del engines[0]
    os.kill(os.getpid(), signal.SIGUSR1)
print(len(heard))
"""


def absent():
    raise UnavailableError("cuda:7 is not available")


def chain(*engines):
    candidates = [Candidate(one.name, lambda one=one: one, "it is there") for one in engines]
    return EngineChain([Candidate("torch on cuda:7", absent, ""), *candidates])


def inputs(spec, seed=0):
    rng = np.random.default_rng(seed)
    t, s = spec.template_size, spec.search_size
    return (
        rng.integers(0, 256, (2, t, t, 3), dtype=np.uint8),
        rng.integers(0, 256, (1, s, s, 3), dtype=np.uint8),
    )


def test_the_next_engine_answers_for_one_whose_device_is_lost():
    lines = []
    with engine_lines(lambda level, text: lines.append((level, text))):
        first, second = Losable("first"), Losable("second")
        engine = chain(first, second)
        templates, crop = inputs(engine.spec)
        memory = engine.encode_templates(templates)
        before = engine.search(crop, [memory])
        assert engine.name == "first"
        first.lost = True
        after = engine.search(crop, [memory])
    np.testing.assert_array_equal(before.boxes, after.boxes)
    assert engine.name == "second"
    assert lines == [
        (Level.WARN, "torch on cuda:7: cuda:7 is not available; goes on with first"),
        (Level.OK, "engine first: it is there"),
        (Level.WARN, "first failed: device lost; goes on with second"),
        (Level.OK, "engine second: it is there"),
    ]


def test_a_failure_of_one_call_is_no_reason_to_leave_an_engine():
    engine = chain(Losable("first"), Losable("second"))
    templates, crop = inputs(engine.spec)
    memory = engine.encode_templates(templates)
    with pytest.raises(EngineError, match="failed"):
        engine.search(crop[:, :-16], [memory])
    assert engine.name == "first"


def test_the_last_engine_says_why_it_fails():
    first, second = Losable("first"), Losable("second")
    engine = chain(first, second)
    templates, _ = inputs(engine.spec)
    first.lost = second.lost = True
    with pytest.raises(EngineError, match="second failed: device lost"):
        engine.encode_templates(templates)
    with pytest.raises(UnavailableError, match="torch on cuda:7: cuda:7 is not available"):
        chain()


def test_a_node_tracks_on_after_its_device_is_lost():
    first, second = Losable("first"), Losable("second")
    with Node(chain(first, second)) as node:
        node.tracker.receive_init(init_box(red_box(0)))
        node.feed(image(0), image(1))
        first.lost = True
        node.feed(image(2), image(3))
        assert [stamp_ns(m) for m in node.desk.tracks] == [frame_stamp(i) for i in range(4)]
        assert node.counts.failed == 0


def test_a_device_that_is_not_there_is_one_line_and_the_cpu_runs(caplog):
    with caplog.at_level(logging.INFO):
        engine = load_engine(open_bundle(), "auto", "cuda:97")
    assert engine.name == "onnxruntime/cpu"
    warnings = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    reasons = ("cuda:97 is not available", "requires openvino", "requires torch")
    assert all(any(reason in line for reason in reasons) for line in warnings)
    assert all(line.endswith("goes on with onnxruntime/cpu") for line in warnings)
    assert warnings
    (choice,) = [one.getMessage() for one in caplog.records if one.levelno == logging.INFO]
    assert choice.startswith("engine onnxruntime/cpu: ")


def test_a_graph_that_is_missing_is_one_line_and_torch_runs(tmp_path, caplog):
    """Also where only warnings are shown, as by `track`: the bundle can be repaired."""
    pytest.importorskip("torch")
    path = Path(shutil.copytree(open_bundle().path, tmp_path / "bundle"))
    (path / "search.onnx").unlink()
    with caplog.at_level(logging.INFO):
        engine = load_engine(open_bundle(str(path)), "auto", "cpu")
    (line,) = [(one.levelno, one.getMessage()) for one in caplog.records]
    assert line == (logging.WARNING, f"engine {engine.name}: {path} has no search.onnx")
    assert engine.name.startswith("torch")


def test_a_precision_that_nothing_has_is_one_line_and_fp32_runs(caplog):
    with caplog.at_level(logging.INFO):
        engine = load_engine(open_bundle(), "auto", "cuda:97", precision="fp16")
    # Some processors have fp16.
    assert engine.name in ("onnxruntime/cpu", "openvino/cpu/fp16")
    warnings = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    assert warnings
    assert all(line.endswith(f"goes on with {engine.name}") for line in warnings)
    assert not any("openvino on cuda:97" in line for line in warnings)
    if engine.name == "onnxruntime/cpu":
        (choice,) = [one.getMessage() for one in caplog.records if one.levelno == logging.INFO]
        assert f"nothing here runs {open_bundle().name} in fp16" in choice


def test_a_device_of_openvino_is_asked_of_openvino_alone(caplog):
    """Nothing else has such a device: there is one line, not one per engine."""
    with caplog.at_level(logging.INFO):
        engine = load_engine(open_bundle(), "auto", "gpu:9")
    assert engine.name == "onnxruntime/cpu"
    missing, choice = (one.getMessage() for one in caplog.records)
    assert missing.startswith("openvino on gpu:9: ")
    assert missing.endswith("; goes on with onnxruntime/cpu")
    assert choice.startswith("engine onnxruntime/cpu: fp32 runs in ONNX Runtime")


def test_int8_of_a_bundle_in_fp32_is_one_line_per_engine_and_fp32_runs(caplog):
    with caplog.at_level(logging.INFO):
        engine = load_engine(open_bundle(), precision="int8")
    assert engine.name == "onnxruntime/cpu"
    *warnings, choice = (one.getMessage() for one in caplog.records)
    assert any("`mixformerv2 quantize` makes int8 ones" in line or "requires openvino" in line
               for line in warnings)  # fmt: skip
    assert f"nothing here runs {open_bundle().name} in int8" in choice


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_another_precision_of_a_bundle_in_int8_falls_back_to_its_own(
    precision, tmp_path, monkeypatch, caplog
):
    """Where torch is missing, as on a robot."""
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(
        "mixformerv2_ros.engines.loader.find_spec",
        lambda name: None if name == "torch" else find_spec(name),
    )
    path = Path(shutil.copytree(open_bundle().path, tmp_path / "int8"))
    record = json.loads((path / "model.json").read_text("utf-8"))
    record["quantization"] = {"precision": "int8"}
    (path / "model.json").write_text(json.dumps(record), "utf-8")
    with caplog.at_level(logging.INFO):
        engine = load_engine(open_bundle(path), precision=precision)
    assert engine.name.endswith("/cpu/int8")
    assert f"nothing here runs {open_bundle().name} in {precision}" in caplog.messages[-1]


def test_a_cache_of_tensorrt_that_cannot_be_made_is_no_obstacle(tmp_path, monkeypatch, caplog):
    """The provider is missing here: ONNX Runtime is asked for it, and leaves it out."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    names = ["TensorrtExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: names)
    engine = load_engine(open_bundle(), "onnxruntime", "cuda", precision="fp16")
    assert engine.name == "onnxruntime/cuda/fp16"
    assert any(line.startswith("no cache of TensorRT engines in ") for line in caplog.messages)


@pytest.mark.parametrize("library", ["onnxruntime", "openvino"])
def test_libraries_keep_no_identifier_to_send(library, tmp_path):
    """Their telemetry writes to the user's folders as soon as they are loaded."""
    pytest.importorskip(library)
    # Neither writes where continuous integration runs.
    left_out = {"ORT_DISABLE_TELEMETRY", "CI", "TF_BUILD", "JENKINS_URL"}
    environment = {k: v for k, v in os.environ.items() if k not in left_out}
    environment |= {"HOME": str(tmp_path)}
    code = f"import mixformerv2_ros, {library}"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert list(tmp_path.iterdir()) == []


def test_a_number_of_threads_leaves_a_core():
    assert EngineOptions(num_threads=3).threads == 3
    assert EngineOptions().threads >= 1


class TestOpenVino:
    @pytest.fixture(autouse=True)
    def _openvino(self):
        pytest.importorskip("openvino")

    def test_a_compiled_cache_that_is_damaged_is_replaced(self):
        bundle = open_bundle()
        answers = []
        for content in (None, b"of another version", b""):
            engine = load_engine(bundle, "openvino")
            templates, crop = inputs(engine.spec)
            answers.append(engine.search(crop, [engine.encode_templates(templates)]).boxes)
            files = [one for one in cache_folder("openvino").rglob("*") if one.is_file()]
            assert files
            if content is not None:
                for file in files:
                    file.write_bytes(content)
        for answer in answers[1:]:
            np.testing.assert_array_equal(answer, answers[0])

    def test_a_cache_that_cannot_be_written_is_no_obstacle(self, tmp_path, monkeypatch):
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        engine, lines = load_engine(open_bundle(), "openvino"), []
        templates, crop = inputs(engine.spec)
        with engine_lines(lambda level, text: lines.append((level, text))):
            memory = engine.encode_templates(templates)
            assert engine.search(crop, [memory]).scores.shape == (1,)
        ((level, line),) = lines
        assert level == Level.WARN
        assert line.startswith(f"graphs are not kept compiled in {tmp_path / 'file'}")

    def test_signals_are_heard_when_engines_have_gone(self):
        done = subprocess.run(
            [sys.executable, "-c", SIGNALS_AFTER_ENGINES], capture_output=True, text=True
        )
        assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr

    def test_a_device_and_a_precision_that_are_not_there(self):
        for words, expected in (
            (("openvino", "cuda"), "cuda is not available: OpenVINO found cpu"),
            (("openvino", "gpu:9"), "gpu:9 is not available: OpenVINO found cpu"),
            (("openvino", "cpu", 1, "int8"), "int8 .*`mixformerv2 quantize`"),
        ):
            with pytest.raises(UnavailableError, match=expected):
                load_engine(open_bundle(), *words)

    def test_bf16_is_near_fp32_where_the_processor_has_it(self):
        bundle = open_bundle()
        try:
            engine = load_engine(bundle, "openvino", precision="bf16")
        except UnavailableError as error:
            pytest.skip(str(error))
        assert engine.name == "openvino/cpu/bf16"
        exact = load_engine(bundle, "openvino", precision="fp32")
        templates, crop = inputs(engine.spec)
        boxes = [
            one.search(crop, [one.encode_templates(templates)]).boxes for one in (engine, exact)
        ]
        assert 0 < np.abs(boxes[0] - boxes[1]).max() < 0.05
