"""Exits of the network: what they leave as it is, what they skip, and that every engine agrees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from mixformerv2_ros.engines.torch_engine import TorchEngine  # noqa: E402
from mixformerv2_ros.model.architecture import expected_shapes, infer_spec  # noqa: E402
from mixformerv2_ros.model.presets import PRESETS, T  # noqa: E402
from mixformerv2_ros.model.spec import ModelSpec  # noqa: E402
from mixformerv2_ros.network.model import MixFormerV2  # noqa: E402

SPEC = ModelSpec(
    preset="custom", width=32, depth=4, heads=4, mlp_ratio=2.0, bins=16,
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
    assert infer_spec(weights, heads=4) == SPEC


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
        model.backbone(
            normalize(torch.from_numpy(scene.templates[row][None])),
            normalize(torch.from_numpy(scene.crops[row : row + 1])),
            features=features,
        )
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
