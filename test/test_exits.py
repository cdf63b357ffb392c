"""Exits of the network: what they leave as it is, what they skip, and that every engine agrees."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from mixformerv2_ros.cli import main  # noqa: E402
from mixformerv2_ros.cli.engine_benchmark import (  # noqa: E402
    Plan,
    Variant,
    at_exits,
    measure,
)
from mixformerv2_ros.engines.loader import load_engine  # noqa: E402
from mixformerv2_ros.engines.torch_engine import TorchEngine  # noqa: E402
from mixformerv2_ros.errors import BundleError, EngineError  # noqa: E402
from mixformerv2_ros.model.architecture import expected_shapes, infer_spec  # noqa: E402
from mixformerv2_ros.model.bundle import (  # noqa: E402
    Bundle,
    graph_names,
    open_bundle,
    record_graphs,
    write_bundle,
)
from mixformerv2_ros.model.flops import exit_macs, frame_macs  # noqa: E402
from mixformerv2_ros.model.presets import PRESETS, T  # noqa: E402
from mixformerv2_ros.model.spec import ModelSpec  # noqa: E402
from mixformerv2_ros.network.model import MixFormerV2  # noqa: E402

SPEC = ModelSpec(
    preset="custom", width=64, depth=4, heads=2, mlp_ratio=2.0, bins=16,
    template_size=32, search_size=64, exits=(1, 3),
)  # fmt: skip


def drawn_weights(spec: ModelSpec, seed: int = 0) -> dict[str, np.ndarray]:
    """Weights for which every part of the network, recycling included, matters."""
    torch.manual_seed(seed)
    model = MixFormerV2(spec)
    rng = np.random.default_rng(seed)
    return {
        name: value.numpy() + rng.normal(0, 0.05, tuple(value.shape)).astype(np.float32)
        for name, value in model.state_dict().items()
    }


def without_exits(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: value for name, value in weights.items() if not name.startswith("exits.")}


class Scene:
    """Crops of targets and their templates, by the number of templates of each."""

    def __init__(self, spec: ModelSpec, counts: Sequence[int], seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        t, s = spec.template_size, spec.search_size
        self.crops = rng.integers(0, 256, (len(counts), s, s, 3), dtype=np.uint8)
        self.templates = [rng.integers(0, 256, (n, t, t, 3), dtype=np.uint8) for n in counts]

    def memories(self, engine: Any) -> list[Any]:
        return [engine.encode_templates(one) for one in self.templates]


class StopAt:
    """Answers every target at a depth of its own; keeps what it was asked."""

    def __init__(self, *depths: int) -> None:
        self.depths = np.array(depths)
        self.asked: list[tuple[int, tuple[int, ...]]] = []
        self.quality: dict[int, np.ndarray] = {}

    def __call__(self, depth: int, quality: np.ndarray, rows: np.ndarray) -> np.ndarray:
        assert quality.shape == rows.shape
        self.asked.append((depth, tuple(rows.tolist())))
        self.quality[depth] = quality
        return self.depths[rows] <= depth


def assert_near(found: Any, expected: Any, rows: Any = slice(None), bound: float = 1e-5) -> None:
    for name in ("boxes", "scores", "edges"):
        np.testing.assert_allclose(
            getattr(found, name)[rows], getattr(expected, name)[rows], atol=bound
        )


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    return drawn_weights(SPEC)


@pytest.fixture
def torch_engine(weights: dict[str, np.ndarray]) -> TorchEngine:
    return TorchEngine(MixFormerV2.from_weights(SPEC, weights))


def test_shapes_are_those_of_the_state_dict(weights: dict[str, np.ndarray]) -> None:
    assert expected_shapes(SPEC) == {name: value.shape for name, value in weights.items()}
    assert infer_spec(weights, heads=2) == SPEC


@pytest.mark.parametrize("preset", ["S", "B", "T"])
def test_a_released_model_is_loaded_under_the_names_that_it_has(preset: str) -> None:
    """Exits add names and change none."""
    released = expected_shapes(PRESETS[preset])
    with_exits = expected_shapes(replace(PRESETS[preset], exits=(1, 3)))
    assert with_exits.items() >= released.items()
    assert all(name.startswith("exits.") for name in with_exits.keys() - released.keys())


def test_full_depth_is_the_static_model_to_the_last_bit(
    torch_engine: TorchEngine, weights: dict[str, np.ndarray]
) -> None:
    static = TorchEngine(MixFormerV2.from_weights(replace(SPEC, exits=()), without_exits(weights)))
    scene = Scene(SPEC, [2, 2, 3])
    found = torch_engine.search(scene.crops, scene.memories(torch_engine))
    expected = static.search(scene.crops, scene.memories(static))
    for name in ("boxes", "scores", "edges", "depths"):
        assert np.array_equal(getattr(found, name), getattr(expected, name))
    assert found.quality is None
    assert expected.quality is None
    assert found.depths.tolist() == [SPEC.depth] * 3


def joint_exits(weights: dict[str, np.ndarray], scene: Scene, row: int) -> Any:
    """What the exits say of one target in the joint pass, as training runs it."""
    from mixformerv2_ros.network.model import normalize

    model = MixFormerV2.from_weights(SPEC, weights)
    features: list[torch.Tensor] = []
    with torch.inference_mode():
        images = (
            normalize(torch.from_numpy(scene.templates[row][None])),
            normalize(torch.from_numpy(scene.crops[row : row + 1])),
        )
        model.backbone(*images, features=features)
        return model.all_exits(features)


def test_an_exit_answers_what_the_joint_pass_answers_there(
    torch_engine: TorchEngine, weights: dict[str, np.ndarray]
) -> None:
    scene = Scene(SPEC, [2])
    for number, depth in enumerate(SPEC.exits):
        stop = StopAt(depth)
        found = torch_engine.search(scene.crops, scene.memories(torch_engine), stop)
        expected = joint_exits(weights, scene, 0)[number]
        edges = expected.edge_logits.softmax(dim=-1).numpy()
        np.testing.assert_allclose(found.edges, edges, atol=1e-5)
        np.testing.assert_allclose(
            found.quality, expected.quality_logits.sigmoid().numpy(), atol=1e-5
        )
        np.testing.assert_allclose(stop.quality[depth], found.quality)
        np.testing.assert_allclose(found.scores, expected.score_logits.sigmoid().numpy(), atol=1e-5)
        assert found.depths.tolist() == [depth]


def test_a_batch_is_regrouped_as_targets_leave(torch_engine: TorchEngine) -> None:
    """Each row gets the answer that it gets alone, at its own depth; nothing is asked twice."""
    scene = Scene(SPEC, [2] * 4)
    memories = scene.memories(torch_engine)
    stop = StopAt(3, 1, 4, 3)
    found = torch_engine.search(scene.crops, memories, stop)
    assert found.depths.tolist() == [3, 1, 4, 3]
    assert stop.asked == [(1, (0, 1, 2, 3)), (3, (0, 2, 3))]
    assert np.isnan(found.quality).tolist() == [False, False, True, False]
    for row, depth in enumerate(stop.depths):
        alone = torch_engine.search(
            scene.crops[row : row + 1], memories[row : row + 1], StopAt(depth)
        )
        for name in ("boxes", "scores", "edges"):
            np.testing.assert_allclose(
                getattr(found, name)[row], getattr(alone, name)[0], atol=1e-5
            )


def test_different_numbers_of_templates_keep_their_rows(torch_engine: TorchEngine) -> None:
    scene = Scene(SPEC, [2, 3, 2])
    stop = StopAt(4, 1, 3)
    found = torch_engine.search(scene.crops, scene.memories(torch_engine), stop)
    assert found.depths.tolist() == [4, 1, 3]
    assert sorted({row for _, rows in stop.asked for row in rows}) == [0, 1, 2]


def test_what_lies_behind_an_exit_is_not_run(torch_engine: TorchEngine) -> None:
    """Neither for the search region nor for the templates: counted in the blocks."""
    runs = [0] * SPEC.depth
    for number, block in enumerate(torch_engine.model.backbone.blocks):
        block.norm1.register_forward_hook(
            lambda *_, number=number: runs.__setitem__(number, runs[number] + 1)
        )
    scene = Scene(SPEC, [2])
    torch_engine.search(scene.crops, scene.memories(torch_engine), StopAt(1))
    memories = scene.memories(torch_engine)
    assert memories[0].encoded_segments == 1
    runs[:] = [0] * SPEC.depth
    torch_engine.search(scene.crops, memories, StopAt(1))
    assert runs == [1, 0, 0, 0]
    torch_engine.search(scene.crops, memories, StopAt(3))
    assert runs[3] == 0
    assert min(runs[:3]) > 0
    assert memories[0].encoded_segments == 2


def test_only_the_exit_that_answers_runs_its_heads(torch_engine: TorchEngine) -> None:
    runs: list[int] = []
    for depth in SPEC.exits:
        head = torch_engine.model.exit(depth).box_head
        head.register_forward_hook(lambda *_, depth=depth: runs.append(depth))
    scene = Scene(SPEC, [2, 2])
    memories = scene.memories(torch_engine)
    for depths, expected in (((1, 3), [1, 3]), ((3, 3), [3]), ((4, 4), [])):
        runs.clear()
        torch_engine.search(scene.crops, memories, StopAt(*depths))
        assert runs == expected


def test_a_model_without_exits_ignores_stop() -> None:
    spec = replace(T, exits=())
    engine = TorchEngine(MixFormerV2.from_weights(spec, drawn_weights(spec)))
    scene = Scene(spec, [2])
    stop = StopAt(1)
    found = engine.search(scene.crops, scene.memories(engine), stop)
    assert not stop.asked
    assert found.depths.tolist() == [spec.depth]


def test_segments_at_full_depth_are_the_whole(torch_engine: TorchEngine) -> None:
    scene = Scene(SPEC, [2, 2])
    whole = torch_engine.search(scene.crops, scene.memories(torch_engine))
    parts = torch_engine.search(scene.crops, scene.memories(torch_engine), StopAt(4, 4))
    assert_near(parts, whole)


def make_bundle(folder: Path, spec: ModelSpec, weights: dict[str, np.ndarray]) -> Bundle:
    return write_bundle(
        folder,
        spec,
        weights,
        name="exits",
        source={"file": "drawn", "sha256": None, "kind": "random numbers"},
        licence="MIT",
    )


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, weights: dict[str, np.ndarray]) -> Bundle:
    pytest.importorskip("onnxscript")
    from mixformerv2_ros.lab.export import TOLERANCE, export_bundle

    made = make_bundle(tmp_path_factory.mktemp("bundles") / "exits", SPEC, weights)
    difference = export_bundle(made)
    assert max(difference.boxes, difference.scores, difference.edges) < TOLERANCE
    return made


def test_graphs_hold_no_weights_of_their_own(bundle: Bundle) -> None:
    for name in graph_names(SPEC):
        assert (bundle.path / name).stat().st_size < 100_000
    assert set(bundle.metadata["graphs"]) == set(graph_names(SPEC))


@pytest.fixture(params=["onnxruntime", "openvino"])
def graph_engine(bundle: Bundle, request: pytest.FixtureRequest) -> Any:
    if find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    return load_engine(bundle, request.param, num_threads=1, precision="fp32")


def test_segments_equal_the_whole_in_every_engine(
    graph_engine: Any, torch_engine: TorchEngine
) -> None:
    """And both the network in torch: at every exit, at full depth, and without exits."""
    scene = Scene(SPEC, [2, 2, 2])
    memories, expected = scene.memories(graph_engine), scene.memories(torch_engine)
    whole = graph_engine.search(scene.crops, memories)
    assert_near(whole, torch_engine.search(scene.crops, expected), bound=1e-4)
    assert whole.quality is None
    parts = graph_engine.search(scene.crops, memories, StopAt(4, 4, 4))
    assert_near(parts, whole, bound=1e-4)
    assert np.isnan(parts.quality).all()
    for depths in ((1, 1, 1), (3, 3, 3), (4, 1, 3), (1, 3, 4)):
        found = graph_engine.search(scene.crops, memories, StopAt(*depths))
        there = torch_engine.search(scene.crops, expected, StopAt(*depths))
        assert_near(found, there, bound=1e-4)
        assert found.depths.tolist() == list(depths)
        np.testing.assert_allclose(found.quality, there.quality, atol=1e-4)


def test_graphs_behind_an_exit_are_not_run(graph_engine: Any) -> None:
    scene = Scene(SPEC, [2])
    graph_engine.search(scene.crops, scene.memories(graph_engine), StopAt(1))
    memories = scene.memories(graph_engine)
    assert memories[0].encoded_segments == 1
    before = list(graph_engine.segment_runs)
    for depth in (1, 1, 3, 4):
        graph_engine.search(scene.crops, memories, StopAt(depth))
    runs = np.subtract(graph_engine.segment_runs, before)
    assert runs.tolist() == [4, 2, 1]
    assert memories[0].encoded_segments == 3


def test_two_targets_keep_their_answers(graph_engine: Any) -> None:
    """Of an engine whose buffers are used again, earlier answers must not change."""
    scene = Scene(SPEC, [2, 3])
    first, second = scene.memories(graph_engine)
    one = graph_engine.search(scene.crops[:1], [first], StopAt(3))
    kept = one.boxes.copy(), one.edges.copy(), one.quality.copy()
    graph_engine.search(scene.crops[1:], [second], StopAt(3))
    for before, after in zip(kept, (one.boxes, one.edges, one.quality), strict=True):
        assert np.array_equal(before, after)


def test_answers_of_batches_of_every_size_are_their_own(graph_engine: Any) -> None:
    """Engines use their buffers again: for the same size, and after another one."""
    scenes = [Scene(SPEC, [2] * count, seed) for seed, count in enumerate((1, 2, 1, 3, 2, 1))]
    alone = []
    for scene in scenes:
        for row, memory in enumerate(scene.memories(graph_engine)):
            crop = scene.crops[row : row + 1]
            alone.append(graph_engine.search(crop, [memory], StopAt((3, 4, 1)[row])))
    found = [
        graph_engine.search(scene.crops, scene.memories(graph_engine), StopAt(3, 4, 1))
        for scene in scenes
    ]
    rows = [(one, row) for one in found for row in range(len(one.boxes))]
    for (together, row), expected in zip(rows, alone, strict=True):
        for name in ("boxes", "scores", "edges"):
            np.testing.assert_allclose(
                getattr(together, name)[row], getattr(expected, name)[0], atol=1e-5
            )
        assert together.depths[row] == expected.depths[0]


def test_a_chain_passes_stop_on(bundle: Bundle) -> None:
    engine = load_engine(bundle, num_threads=1)
    scene = Scene(SPEC, [2])
    found = engine.search(scene.crops, scene.memories(engine), StopAt(3))
    assert found.depths.tolist() == [3]


def test_a_segment_that_is_missing_is_named(bundle: Bundle, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bundle.path, copy)
    (copy / "search_3.onnx").unlink()
    with pytest.raises(EngineError, match=r"must hold search_3\.onnx; write it with"):
        load_engine(open_bundle(copy), "onnxruntime")
    shutil.copyfile(copy / "search_1.onnx", copy / "search_3.onnx")
    with pytest.raises(BundleError, match=r"SHA-256 of search_3\.onnx must be"):
        load_engine(open_bundle(copy), "onnxruntime")


@pytest.mark.parametrize(
    ("exits", "message"),
    [
        ("2", "exits must be a list of whole numbers"),
        ([0], "exits must be"),
        ([2, 1], r"exits must ascend and lie below depth \(4\)"),
        ([1, 4], r"exits must ascend and lie below depth \(4\)"),
        ([1, 1], r"exits must ascend and lie below depth \(4\)"),
        ([1.5], "exits must be a whole number"),
        ([None], "exits must be"),
        ([1, 2, 3], "model.safetensors must fit model.json"),
        ([[1]], "exits must be"),
        ([*range(1, 64)] * 900, r"got \[1, 2, 3 and 56697 more\]"),
    ],
)
def test_damaged_exits_give_one_line(
    tmp_path: Path, weights: dict[str, np.ndarray], exits: Any, message: str
) -> None:
    made = make_bundle(tmp_path / "bundle", SPEC, weights)
    facts = json.loads((made.path / "model.json").read_text())
    assert facts["exits"] == list(SPEC.exits)
    (made.path / "model.json").write_text(json.dumps(facts | {"exits": exits}))
    with pytest.raises(BundleError, match=message) as found:
        open_bundle(made.path)
    assert "\n" not in str(found.value)


def test_a_bundle_without_exits_is_written_as_before(tmp_path: Path) -> None:
    spec = replace(SPEC, exits=())
    made = make_bundle(tmp_path / "bundle", spec, drawn_weights(spec))
    assert "exits" not in made.metadata
    assert open_bundle(made.path).spec.exits == ()


def test_cost_of_each_exit(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    """Of S after block 2: patches, one block, keys and values of the next, and the heads."""
    macs = exit_macs(replace(PRESETS["S"], exits=(2,)))
    width, bins = 768, 96
    heads = 4 * width * (width + bins) + 4 * width * (width + 1)
    decision = 2 * width**2 + width
    cut = frame_macs(replace(PRESETS["S"], depth=2))
    assert macs == {2: cut + decision, 4: frame_macs(PRESETS["S"]) + heads + decision}
    assert main(["info", str(bundle.path)]) == 0
    shown = capsys.readouterr().out
    assert "exits          after block 1 " in shown
    assert main(["info", "--json", str(bundle.path)]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["exits"] == [1, 3]
    assert list(facts["macs_per_exit"]) == ["1", "3", "4"]


def test_the_benchmark_measures_each_exit(bundle: Bundle) -> None:
    variants = at_exits([Variant("onnxruntime", True), Variant("torch", False)], bundle)
    assert [one.label for one in variants] == [f"onnxruntime depth {n}" for n in (1, 3, 4)]
    plan = Plan(bundle.path, num_threads=1, width=320, height=240, rounds=1, frames=2)
    ((measured,),) = measure(plan, variants[1:2])
    assert measured.summary()["milliseconds"]["engine"]["p50"] > 0
    with pytest.raises(EngineError, match="--exits requires a bundle with exits"):
        at_exits(variants, replace(bundle, spec=replace(bundle.spec, exits=())))


def as_before(bundle: Bundle) -> None:
    """Give a bundle with one exit the graphs of earlier versions: every segment answers.

    What segments hand on had other names; engines pass it on as it is.
    """
    onnx = pytest.importorskip("onnx")
    first, last = bundle.spec.depths
    orders = {
        f"search_{first}.onnx": "boxes scores edges quality next_search_tokens next_all_keys "
        "next_all_values next_prediction_tokens",
        f"search_{last}.onnx": "search_tokens all_keys all_values prediction_tokens keys values",
    }
    renamed = {"queries": "prediction_tokens", "next_queries": "next_prediction_tokens"}
    answers = ("boxes", "scores", "edges")
    heads = onnx.load(bundle.path / f"heads_{first}.onnx", load_external_data=False).graph
    for name, order in orders.items():
        model = onnx.load(bundle.path / name, load_external_data=False)
        graph = model.graph
        for node in graph.node:
            node.input[:] = [renamed.get(one, one) for one in node.input]
            node.output[:] = [renamed.get(one, one) for one in node.output]
        if name == f"search_{first}.onnx":
            inside = {"": "", "exit_tokens": "next_exit_tokens"} | {one: one for one in answers}
            for node in heads.node:
                node.name = f"heads.{node.name}"
                node.input[:] = [inside.get(one, f"heads.{one}") for one in node.input]
                node.output[:] = [inside.get(one, f"heads.{one}") for one in node.output]
            for tensor in heads.initializer:
                tensor.name = f"heads.{tensor.name}"
            graph.node.extend(heads.node)
            graph.initializer.extend(heads.initializer)
            graph.output.extend(heads.output)
        side = graph.output if name == f"search_{first}.onnx" else graph.input
        ends = {renamed.get(end.name, end.name): end for end in side}
        for new, end in ends.items():
            end.name = new
        kept = [ends[one] for one in order.split()]
        del side[:]
        side.extend(kept)
        (bundle.path / name).write_bytes(model.SerializeToString(deterministic=True))
    (bundle.path / f"heads_{first}.onnx").unlink()
    record_graphs(bundle)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_bundles_of_earlier_versions_answer_as_before(tmp_path: Path, engine: str) -> None:
    pytest.importorskip("onnxscript")
    if find_spec(engine) is None:
        pytest.skip(f"{engine} is not installed")
    from mixformerv2_ros.lab.export import export_bundle

    spec = replace(SPEC, exits=(2,))
    made = make_bundle(tmp_path / "bundle", spec, drawn_weights(spec))
    export_bundle(made)
    scene = Scene(spec, [2, 2])
    stops = [StopAt(2, 2), StopAt(2, 4), StopAt(4, 2), StopAt(4, 4)]
    new = load_engine(made, engine, num_threads=1)
    expected = [new.search(scene.crops, scene.memories(new), stop) for stop in stops]
    as_before(made)
    assert "heads_2.onnx" not in made.metadata["graphs"]
    old = load_engine(open_bundle(made.path), engine, num_threads=1)
    for stop, there in zip(stops, expected, strict=True):
        found = old.search(scene.crops, scene.memories(old), stop)
        assert_near(found, there)
        assert found.depths.tolist() == there.depths.tolist()


def test_a_memory_that_was_encoded_as_a_whole_serves_the_segments(
    graph_engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A doubtful frame takes the one graph; the next frame must not encode the templates anew."""
    scene = Scene(SPEC, [2])
    memories = scene.memories(graph_engine)
    expected = graph_engine.search(scene.crops, memories, StopAt(3))
    whole = scene.memories(graph_engine)
    graph_engine.search(scene.crops, whole)
    assert whole[0].encoded_segments == len(SPEC.depths)
    monkeypatch.setattr(whole[0], "_encode_segment", None)
    found = graph_engine.search(scene.crops, whole, StopAt(3))
    assert_near(found, expected, bound=1e-4)
    np.testing.assert_allclose(found.quality, expected.quality, atol=1e-4)
