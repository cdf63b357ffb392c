"""The torch engine: recorded steps over fixed buffers, precisions, and what a GPU runs.

All but the recording itself runs on a CPU as well; tests of CUDA are skipped where there is none.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
from formula_bundle import make_bundle

from mixformerv2_ros.cli.entry import main
from mixformerv2_ros.engines.chain import Candidate, EngineChain
from mixformerv2_ros.engines.loader import load_engine
from mixformerv2_ros.engines.options import UnavailableError
from mixformerv2_ros.errors import EngineError
from mixformerv2_ros.model.bundle import open_bundle, read_weights, write_bundle
from mixformerv2_ros.model.crop_buffers import crop_buffer
from mixformerv2_ros.ros.live.timed_engine import TimedEngine
from mixformerv2_ros.tracking.boxes import Box
from mixformerv2_ros.tracking.frame import Frame
from mixformerv2_ros.tracking.pixels import Pixels
from mixformerv2_ros.tracking.session import Session
from mixformerv2_ros.tracking.settings import TrackerSettings

torch = pytest.importorskip("torch")

from mixformerv2_ros.engines.cuda_graphs import (  # noqa: E402
    CACHED_COUNTS,
    STEP_SIZES,
    SearchGraphs,
    Slots,
    batches,
    step_size,
)
from mixformerv2_ros.engines.torch_engine import TorchEngine  # noqa: E402
from mixformerv2_ros.engines.torch_loader import edge_distance, torch_precisions  # noqa: E402
from mixformerv2_ros.network.model import MixFormerV2  # noqa: E402

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
needs_bf16 = pytest.mark.skipif(
    "bf16" not in torch_precisions("cpu"), reason="needs a processor with bf16"
)


@pytest.fixture(scope="module")
def network():
    bundle = open_bundle("tiny")
    return MixFormerV2.from_weights(bundle.spec, read_weights(bundle))


@pytest.fixture(scope="module")
def exact(network):
    return TorchEngine(copy.deepcopy(network))


class Scene:
    """Random crops and the encoded templates of targets, by the number of their templates."""

    def __init__(self, engine, counts, seed=0):
        rng = np.random.default_rng(seed)
        spec = engine.spec
        t, s = spec.template_size, spec.search_size
        self.crops = rng.integers(0, 256, (len(counts), s, s, 3), dtype=np.uint8)
        self.templates = [rng.integers(0, 256, (n, t, t, 3), dtype=np.uint8) for n in counts]

    def search(self, engine):
        return engine.search(self.crops, self.memories(engine))

    def memories(self, engine):
        return [engine.encode_templates(one) for one in self.templates]


def assert_near(found, expected, bound):
    for name in ("boxes", "scores", "edges"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=bound)


def test_patches_are_embedded_by_a_product_as_by_the_convolution(network):
    embed = network.backbone.patch_embed
    image = torch.randn(2, 3, 48, 80, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(embed.product(image), embed(image), atol=1e-5, rtol=1e-5)


def test_a_step_holds_all_targets_of_a_batch():
    assert [step_size(n) for n in range(1, 9)] == [1, 2, 4, 4, 8, 8, 8, 8]
    assert batches([128] * 3) == [[0, 1, 2]]
    assert batches([128, 192, 128]) == [[0, 2], [1]]
    assert batches([128] * 19) == [list(range(8)), list(range(8, 16)), [16, 17, 18]]
    assert batches([]) == []


@pytest.mark.parametrize("counts", [[2], [2] * 3, [2] * 8, [2] * 9, [2, 4, 2, 3]], ids=str)
def test_steps_over_fixed_buffers_give_what_the_network_gives(network, exact, counts):
    engine = TorchEngine(copy.deepcopy(network), graphs=True)
    scene = Scene(exact, counts)
    assert_near(scene.search(engine), scene.search(exact), 1e-5)


def test_targets_come_and_go_without_a_new_recording(network, exact):
    graphs = SearchGraphs(copy.deepcopy(network))
    scene = Scene(exact, [2] * 8)
    memories = scene.memories(exact)
    with torch.inference_mode():
        graphs.prepare(memories[0][0].shape[3])
        assert graphs.recordings == len(STEP_SIZES)
        for places in ([0], [0, 1, 2], [2, 1], list(range(8)), [7], [3, 0, 5, 6, 1]):
            chosen = [memories[place] for place in places]
            found = graphs.search(scene.crops[places], chosen)
            assert_near(found, exact.search(scene.crops[places], chosen), 1e-5)
    assert graphs.recordings == len(STEP_SIZES)


def test_predictions_stay_when_the_next_search_writes_its_own(network, exact):
    engine = TorchEngine(copy.deepcopy(network), graphs=True)
    first, second = Scene(exact, [2]), Scene(exact, [2], seed=1)
    kept = first.search(engine)
    second.search(engine)
    assert_near(kept, first.search(exact), 1e-5)


def test_a_slot_is_written_only_when_its_target_changes():
    def memory(value):
        return (torch.full((3, 1, 2, 5, 4), value), torch.full((3, 1, 2, 5, 4), -value))

    slots = Slots(5, torch.zeros(3, 8, 9, 3, 2, 4), [None] * 8)
    one, other = memory(1.0), memory(2.0)
    assert slots.load([one, other]) == 2
    assert slots.load([one, other]) == 0
    assert slots.load([other]) == 1
    assert slots.load([other, other, one]) == 1
    for place, value in enumerate((2.0, 2.0, 1.0, 0.0)):
        queries, keys, values = slots.rows[:, place, :5].unbind(dim=2)
        assert (queries == 0).all()
        assert (keys == value).all()
        assert (values == -value).all()
    assert (slots.rows[:, :, 5:] == 0).all()


def test_recordings_for_rare_numbers_of_templates_are_dropped(network, exact):
    graphs = SearchGraphs(copy.deepcopy(network))
    scenes = [Scene(exact, [count], seed=count) for count in range(2, 3 + CACHED_COUNTS)]
    with torch.inference_mode():
        for _ in range(2):
            for scene in scenes:
                found = graphs.search(scene.crops, scene.memories(exact))
                assert_near(found, scene.search(exact), 1e-5)
        # One number more than are kept, in turn: each had been dropped when it came again.
        made = len(STEP_SIZES) * 2 * len(scenes)
        assert graphs.recordings == made
        graphs.search(scenes[-1].crops, scenes[-1].memories(exact))
        assert graphs.recordings == made


class OwnBuffers:
    """An engine that gives out its own memory for crops."""

    def __init__(self, engine):
        self.spec, self.name = engine.spec, engine.name
        self.encode_templates = engine.encode_templates
        self.engine, self.given, self.searched = engine, [], []

    def crop_buffer(self, count):
        self.given.append(self.engine.crop_buffer(count))
        return self.given[-1]

    def search(self, crops, memories, *stop):
        self.searched.append(crops)
        return self.engine.search(crops, memories, *stop)


def test_a_session_writes_crops_where_the_engine_reads_them(exact):
    engine = OwnBuffers(exact)
    chain = EngineChain([Candidate("own", lambda: engine, "for a test")])
    session = Session(TimedEngine(chain), TrackerSettings(4.5, 2.0, 1.0))
    frame = Frame(
        Pixels.from_array(np.random.default_rng(0).integers(0, 256, (90, 90, 3), np.uint8))
    )
    session.start(frame, Box(10, 10, 40, 40), "a")
    session.update(frame)
    session.update(frame)
    session.start(frame, Box(30, 20, 40, 40), "b")
    session.update(frame)
    one, two = engine.given[-2:]
    assert (one.shape[0], two.shape[0]) == (1, 2)
    assert [crops is one for crops in engine.searched[:2]] == [True, True]
    assert engine.searched[2] is two
    # An engine without memory of its own gets some all the same.
    onnx = load_engine(open_bundle("tiny"), "onnxruntime")
    assert crop_buffer(onnx, 3).shape == (3, *one.shape[1:])


def test_crops_that_must_not_be_written_are_searched(network, exact):
    engine = TorchEngine(copy.deepcopy(network), graphs=True)
    scene = Scene(exact, [2, 2])
    scene.crops.flags.writeable = False
    found = scene.search(engine)
    scene.crops.flags.writeable = True
    assert_near(found, scene.search(exact), 1e-5)


def test_crops_of_another_shape_are_one_line(network, exact):
    engine = TorchEngine(copy.deepcopy(network), graphs=True)
    scene = Scene(exact, [2])
    memories = scene.memories(engine)
    for crops in (scene.crops[:, :-16], scene.crops.astype(np.float32), scene.crops[:0]):
        with pytest.raises(EngineError, match=r"torch/cpu failed: crops must be uint8 \(1, "):
            engine.search(crops, memories)


@needs_bf16
def test_bf16_on_a_cpu_stays_near(exact):
    engine = load_engine(open_bundle("tiny"), "torch", precision="bf16")
    assert engine.name == "torch/cpu/bf16"
    scene = Scene(exact, [2, 2, 3])
    assert_near(scene.search(engine), scene.search(exact), 0.03)
    assert 0 < edge_distance(exact, engine) < 0.002
    assert edge_distance(exact, exact) == 0
    joint, full = (one.joint(scene.templates[0], scene.crops[0]) for one in (engine, exact))
    assert_near(joint, full, 0.03)


@needs_bf16
def test_a_precision_that_moves_the_boxes_is_refused(tmp_path):
    """Weights whose attention hangs on the last bits."""
    bundle = open_bundle("tiny")
    weights = read_weights(bundle)
    for name, value in weights.items():
        if name.endswith("attn.qkv.weight"):
            value *= 20
    wild = write_bundle(
        tmp_path / "wild", bundle.spec, weights, name="wild", licence="MIT",
        source={"file": "default", "sha256": None, "kind": "scaled"},
    )  # fmt: skip
    assert load_engine(wild, "torch").name == "torch/cpu"
    with pytest.raises(UnavailableError, match=r"edges in .* must stay within 0\.005"):
        load_engine(wild, "torch", precision="bf16")


def test_what_this_device_lacks_is_one_line(tmp_path):
    bundle = make_bundle(tmp_path / "T", "T", "fp16")
    with pytest.raises(UnavailableError, match="fp16 is not available: the torch engine runs fp32"):
        load_engine(bundle, "torch", precision="fp16")
    with pytest.raises(UnavailableError, match="cuda:97 is not available: torch found"):
        load_engine(bundle, "torch", "cuda:97", precision="fp16")


def test_the_benchmark_names_the_device_that_lacks_an_engine(capsys):
    assert main(["benchmark", "--engine", "torch", "--device", "cuda:97"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    # ONNX Runtime may have a provider of CUDA, whatever the number of devices.
    assert "no engine that is installed here" in line or "engine torch is not available" in line
    assert "cuda:97" in line


@needs_cuda
@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-4), ("fp16", 0.01), ("bf16", 0.05)])
@pytest.mark.parametrize("counts", [[2], [2] * 3, [2] * 9, [2, 4, 3]], ids=str)
def test_cuda_gives_what_the_cpu_gives(exact, precision, bound, counts):
    if precision not in torch_precisions("cuda"):
        pytest.skip(f"needs a CUDA device with {precision}")
    engine = load_engine(open_bundle("tiny"), "torch", "cuda", precision=precision)
    scene = Scene(exact, counts)
    for _ in range(3):
        assert_near(scene.search(engine), scene.search(exact), bound)


@needs_cuda
def test_cuda_reads_its_own_memory_without_a_copy(exact):
    engine = load_engine(open_bundle("tiny"), "torch", "cuda")
    scene = Scene(exact, [2, 2, 3, 2])
    expected = scene.search(exact)
    buffer = crop_buffer(engine, 4)
    assert torch.from_numpy(buffer).is_pinned()
    buffer[:] = scene.crops
    scene.crops = buffer
    assert_near(scene.search(engine), expected, 1e-4)


@needs_cuda
def test_cuda_targets_come_and_go_without_a_new_recording(network, exact):
    graphs = SearchGraphs(copy.deepcopy(network).to("cuda"))
    scene = Scene(exact, [2] * 8)
    encoded = scene.memories(exact)
    memories = [(keys.to("cuda"), values.to("cuda")) for keys, values in encoded]
    with torch.inference_mode():
        graphs.prepare(memories[0][0].shape[3])
        for places in ([0], [0, 1, 2], [2, 1], list(range(8)), [7], [3, 0, 5, 6, 1]):
            found = graphs.search(scene.crops[places], [memories[place] for place in places])
            expected = exact.search(scene.crops[places], [encoded[place] for place in places])
            assert_near(found, expected, 1e-4)
    assert graphs.recordings == len(STEP_SIZES)


@needs_cuda
def test_the_benchmark_measures_cuda(capsys):
    words = ["benchmark", "--engine", "torch", "--device", "cuda", "--precision", "fp16"]
    assert main([*words, "--targets", "1,2", "--rounds", "1", "--frames", "3"]) == 0
    shown = capsys.readouterr().out
    assert "beside torch joint" in shown
    assert "torch fp16 cached alone" in shown
