"""All engines on one bundle: they agree, with any number of templates and targets."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from formula_bundle import make_bundle
from nodes import Node, frame_stamp, image, init_box
from recordings import red_box

from mixformerv2_ros.cli.entry import main
from mixformerv2_ros.engines.loader import load_engine
from mixformerv2_ros.engines.options import EngineOptions
from mixformerv2_ros.errors import BundleError, EngineError
from mixformerv2_ros.model.bundle import GRAPHS, WEIGHTS, open_bundle, record_graphs
from mixformerv2_ros.ros.messages import stamp_ns

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

from mixformerv2_ros.lab.export import export_bundle  # noqa: E402
from mixformerv2_ros.lab.quantization import folded_graph, linear_layers  # noqa: E402

BOUND = 1e-4


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    """Exports a preset in a precision, once: that takes seconds."""

    @functools.cache
    def made(preset, precision):
        bundle = make_bundle(tmp_path_factory.mktemp("bundles") / preset, preset, precision)
        return bundle, export_bundle(bundle)

    return made


@pytest.fixture(scope="module", params=[("T", "fp16"), ("T", "fp32"), ("S", "fp32")], ids=str)
def exported(request, export):
    return export(*request.param)


@pytest.fixture
def copied(export, tmp_path):
    """A copy of an exported bundle, to be damaged."""
    bundle, _ = export("T", "fp16")
    shutil.copytree(bundle.path, tmp_path / "T")
    return open_bundle(tmp_path / "T")


@pytest.fixture(scope="module")
def engines(exported):
    bundle, _ = exported
    names = ("onnxruntime", *(["openvino"] if find_spec("openvino") else []), "torch")
    return [load_engine(bundle, name) for name in names]


def crops(rng, *shape):
    return rng.integers(0, 256, (*shape, 3), dtype=np.uint8)


@pytest.mark.parametrize("online", [1, 2, 5])
@pytest.mark.parametrize("targets", [1, 3])
def test_engines_agree_with_torch(engines, online, targets):
    rng = np.random.default_rng(online * 10 + targets)
    spec = engines[0].spec
    t, s = spec.template_size, spec.search_size
    templates = [crops(rng, 1 + online, t, t) for _ in range(targets)]
    search = crops(rng, targets, s, s)
    *others, reference = (
        engine.search(search, [engine.encode_templates(one) for one in templates])
        for engine in engines
    )
    for prediction in (*others, reference):
        assert prediction.boxes.shape == (targets, 4)
        assert prediction.scores.shape == (targets,)
        assert prediction.edges.shape == (targets, 4, spec.bins)
        assert (prediction.scores > 0).all()
        assert (prediction.scores < 1).all()
        np.testing.assert_allclose(prediction.edges.sum(axis=-1), 1, atol=1e-5)
    for other in others:
        np.testing.assert_allclose(other.boxes, reference.boxes, atol=BOUND)
        np.testing.assert_allclose(other.scores, reference.scores, atol=BOUND)
        np.testing.assert_allclose(other.edges, reference.edges, atol=BOUND)


def test_targets_of_different_template_counts_share_a_call(engines):
    rng = np.random.default_rng(7)
    spec = engines[0].spec
    t, s = spec.template_size, spec.search_size
    search = crops(rng, 2, s, s)
    templates = [crops(rng, 2, t, t), crops(rng, 4, t, t)]
    for engine in engines:
        memories = [engine.encode_templates(one) for one in templates]
        together = engine.search(search, memories)
        for index in range(2):
            alone = engine.search(search[index : index + 1], memories[index : index + 1])
            np.testing.assert_allclose(together.boxes[index], alone.boxes[0], atol=1e-5)


def test_boxes_are_the_means_of_the_edges(engines):
    rng = np.random.default_rng(3)
    spec = engines[0].spec
    templates = crops(rng, 2, spec.template_size, spec.template_size)
    search = crops(rng, 1, spec.search_size, spec.search_size)
    for engine in engines:
        prediction = engine.search(search, [engine.encode_templates(templates)])
        left, top, right, bottom = prediction.edges[0] @ (np.arange(spec.bins) / spec.bins)
        expected = [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
        np.testing.assert_allclose(prediction.boxes[0], expected, atol=1e-5)


def test_a_failure_while_running_is_an_engine_error_in_one_line(engines):
    """Crops and templates of another size, which neither library accepts."""
    rng = np.random.default_rng(5)
    spec = engines[0].spec
    t, s = spec.template_size, spec.search_size
    search, templates = crops(rng, 1, s, s), crops(rng, 2, t, t)
    for engine in engines:
        memory = engine.encode_templates(templates)
        for fail in (
            lambda engine=engine: engine.encode_templates(templates[:, :-16]),
            lambda engine=engine, memory=memory: engine.search(search[:, :, :-16], [memory]),
            lambda engine=engine, memory=memory: engine.search(search[..., :2], [memory]),
        ):
            with pytest.raises(EngineError) as caught:
                fail()
            assert str(caught.value).startswith(f"{engine.name} failed: ")
            assert "\n" not in str(caught.value)
            assert not isinstance(caught.value.__cause__, EngineError)
            assert type(caught.value.__cause__).__module__ != "mixformerv2_ros.errors"
        assert engine.search(search, [memory]).scores.shape == (1,)


def test_the_node_goes_on_when_its_engine_fails(engines):
    """A real session that refuses two of five frames, for their shape."""

    class Wrong:
        broken = False

        def __init__(self, engine):
            self.spec, self.name = engine.spec, engine.name
            self.engine, self.encode_templates = engine, engine.encode_templates

        def search(self, crops, memories, stop=None):
            return self.engine.search(crops[:, :-16] if self.broken else crops, memories)

    for engine in engines:
        wrong = Wrong(engine)
        with Node(wrong) as node:
            node.tracker.receive_init(init_box(red_box(0)))
            node.feed(image(0), image(1))
            wrong.broken = True
            node.feed(image(2), image(3))
            wrong.broken = False
            node.feed(image(4))
            assert node.tracker.failure is None
            assert [stamp_ns(m) for m in node.desk.tracks] == [frame_stamp(i) for i in (0, 1, 4)]
            assert node.counts.failed == 2
            (line,) = [text for text in node.desk.texts if "failed" in text]
            assert line.startswith(f"{engine.name} failed: ")


def test_export_reports_a_small_difference(exported):
    _, difference = exported
    assert 0 < difference.boxes < BOUND
    assert 0 < difference.scores < BOUND


def test_graphs_hold_no_weights_and_no_paths_of_this_machine(exported):
    bundle, _ = exported
    for name in ("template_encoder.onnx", "search.onnx"):
        content = (bundle.path / name).read_bytes()
        assert len(content) < 200_000
        assert WEIGHTS.encode() in content
        assert b"/work" not in content
        assert b".py" not in content


def test_the_graph_that_is_quantized_holds_its_weights(exported, tmp_path):
    bundle, _ = exported
    inside = onnx.load(folded_graph(bundle, tmp_path), load_external_data=False).graph
    assert not any(tensor.external_data for tensor in inside.initializer)
    layers = linear_layers(bundle)
    assert {layer.node for layer in layers} <= {node.name for node in inside.node}
    # The last block computes its keys and values apart from the queries.
    assert len(layers) == 4 * bundle.spec.depth + 1
    assert layers[0].weight == "backbone.blocks.0.attn.qkv.weight"


def test_exported_run_imports_no_torch_and_stays_small(exported):
    bundle, _ = exported
    code = (
        "import sys, numpy as np\n"
        "from mixformerv2_ros.model.bundle import open_bundle\n"
        "from mixformerv2_ros.engines.loader import load_engine\n"
        "from mixformerv2_ros.tracking.boxes import Box\n"
        "from mixformerv2_ros.tracking.frame import Frame\n"
        "from mixformerv2_ros.tracking.pixels import Pixels\n"
        "from mixformerv2_ros.tracking.session import Session\n"
        "from mixformerv2_ros.tracking.settings import TrackerSettings\n"
        f"engine = load_engine(open_bundle({str(bundle.path)!r}))\n"
        "frame = Frame(Pixels.from_array(np.zeros((100, 100, 3), np.uint8)))\n"
        "session = Session(engine, TrackerSettings(4.5, 2.0, 1.0))\n"
        "session.start(frame, Box(10, 10, 40, 40))\n"
        "assert len(session.update(frame)) == 1\n"
        "assert 'torch' not in sys.modules\n"
        "from mixformerv2_ros.machine import peak_megabytes\n"
        # The promise is 400 MB for preset S in fp32.
        "assert peak_megabytes() < 400, peak_megabytes()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_changed_weights_are_refused(copied):
    content = bytearray(copied.weights_path.read_bytes())
    content[-1] ^= 1
    copied.weights_path.write_bytes(content)
    with pytest.raises(BundleError, match="SHA-256"):
        load_engine(copied)


def test_a_missing_graph_names_the_command(tmp_path):
    bundle = make_bundle(tmp_path / "T", "T", "fp16")
    with pytest.raises(EngineError, match="mixformerv2 export"):
        load_engine(bundle, "onnxruntime")
    assert load_engine(bundle).name == "torch/cpu"


def test_a_damaged_graph_is_one_line(exported, tmp_path):
    bundle = make_bundle(tmp_path / "T", "T", "fp16")
    for name in GRAPHS:
        (bundle.path / name).write_bytes(b"no graph at all")
    with pytest.raises(BundleError, match=r"must name the SHA-256 of template_encoder.onnx"):
        load_engine(bundle, "onnxruntime")
    record_graphs(bundle)
    with pytest.raises(EngineError, match="cannot load") as caught:
        load_engine(bundle, "onnxruntime")
    assert "\n" not in str(caught.value)


def test_an_exchanged_graph_is_noticed(copied, capsys):
    for name in GRAPHS:
        path = copied.path / name
        original = path.read_bytes()
        content = bytearray(original)
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        with pytest.raises(BundleError, match=f"SHA-256 of {name} must be"):
            load_engine(open_bundle(copied.path))
        assert main(["info", str(copied.path)]) == 2
        assert f"SHA-256 of {name} must be" in capsys.readouterr().err
        path.write_bytes(original)
    assert main(["info", str(copied.path)]) == 0


def test_graphs_of_strangers(copied, tmp_path):
    """Checksums may be right: ends of a graph are compared, and it reads no file elsewhere."""
    encoder, search = (copied.path / name for name in GRAPHS)
    original = encoder.read_bytes()
    encoder.write_bytes(search.read_bytes())
    record_graphs(copied)
    with pytest.raises(EngineError, match=r"template_encoder.onnx must have inputs and outputs"):
        load_engine(copied)
    model = onnx.load_from_string(original)
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    encoder.write_bytes(model.SerializeToString())
    record_graphs(copied)
    with pytest.raises(EngineError, match=r"must be uint8|cannot load"):
        load_engine(copied)
    (tmp_path / "outside.bin").write_bytes((copied.path / WEIGHTS).read_bytes())
    for place in ("../outside.bin", str(tmp_path / "outside.bin")):
        model = onnx.load_from_string(original)
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = place
        encoder.write_bytes(model.SerializeToString())
        record_graphs(copied)
        with pytest.raises(EngineError, match="cannot load it"):
            load_engine(copied)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"engine": "tensorflow"}, "engine must be one of"),
        (
            {"engine": "onnxruntime", "device": "tpu"},
            "device must be one of cpu, cuda, cuda:N, gpu",
        ),
        ({"device": "cuda:one"}, "device must be one of cpu, .*, got 'cuda:one'"),
        ({"device": "cpu:1"}, "device must be one of"),
        ({"engine": "torch", "device": "cuda:97"}, "cuda:97 is not available: torch found"),
        ({"engine": "onnxruntime", "device": "cuda:97"}, "cuda:97 is not available|cannot load"),
        ({"engine": "onnxruntime", "device": "npu"}, "npu is not available: .* it has .*CPU"),
        ({"engine": "torch", "device": "gpu:1"}, "gpu:1 is not available: .* cpu and cuda"),
        ({"precision": "fp8"}, "precision must be one of auto, fp32, fp16, bf16, int8, got 'fp8'"),
        ({"engine": "onnxruntime", "precision": "bf16"}, "bf16 is not available: .* in fp32"),
        ({"engine": "torch", "precision": "int8"}, "int8 is not available: the torch engine"),
    ],
)
def test_unknown_choices_are_refused(exported, arguments, words):
    bundle, _ = exported
    with pytest.raises(EngineError, match=words):
        load_engine(bundle, **arguments)


@pytest.mark.parametrize("command", ["benchmark", "quantize", "calibrate"])
def test_more_threads_than_any_machine_has_are_refused(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = {
        "benchmark": [],
        "quantize": ["tiny", "-o", str(tmp_path / "x"), "--precision", "int8", "--data", "x"],
        "calibrate": ["tiny", "--on", "x", "--budget", "0.5"],
    }[command]
    assert main([command, *words, "--num-threads", "100000"]) == 2
    assert "from 0 to 256, got '100000'" in capsys.readouterr().err
    with pytest.raises(EngineError, match="threads must be 0 to 256, got 100000"):
        EngineOptions(num_threads=100_000)
