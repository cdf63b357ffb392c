"""The network against the golden vectors of the reference implementation."""

from __future__ import annotations

import golden
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from mixformerv2_ros.model.presets import PRESETS  # noqa: E402
from mixformerv2_ros.network.backbone import sincos_position_table  # noqa: E402
from mixformerv2_ros.network.model import MixFormerV2, normalize  # noqa: E402


def build(preset: str) -> MixFormerV2:
    spec = PRESETS[preset]
    shapes = {k: tuple(v.shape) for k, v in MixFormerV2(spec).state_dict().items()}
    return MixFormerV2.from_weights(spec, golden.weights(shapes, preset))


def crops(size: int, *seeds: int):
    return normalize(torch.from_numpy(np.stack([golden.image(size, size, s) for s in seeds])))


@pytest.fixture(scope="module", params=["S", "B"])
def case(request, shared_vectors):
    vectors = np.load(shared_vectors / f"net_{request.param}.npz", allow_pickle=False)
    return request.param, build(request.param), vectors


def inputs(preset: str):
    spec, i = PRESETS[preset], golden.IMAGE_SEED
    template = crops(spec.template_size, i, i + 3)
    online = crops(spec.template_size, i + 1, i + 4)
    return torch.stack([template, online], dim=1), crops(spec.search_size, i + 2, i + 5)


def test_formula_weights_are_the_vectors_ones(case):
    _, model, vectors = case
    total = sum(v.double().abs().sum().item() for v in model.state_dict().values())
    assert total == pytest.approx(float(vectors["check_sd_abs_sum64"]), rel=1e-9)
    first = model.backbone.blocks[0].attn.qkv.weight.flatten()[:5].numpy()
    np.testing.assert_array_equal(first, vectors["check_qkv0_first5"].ravel()[:5])


def test_joint_forward_reproduces_the_reference(case):
    preset, model, vectors = case
    output = model(*inputs(preset))
    np.testing.assert_allclose(output.boxes, vectors["pred_boxes"][:, 0], atol=2e-5)
    np.testing.assert_allclose(output.score_logits, vectors["pred_scores"].ravel(), atol=2e-4)
    np.testing.assert_allclose(output.prediction_tokens, vectors["reg_tokens"], atol=2e-3)
    for index, edge in enumerate("ltrb"):
        np.testing.assert_allclose(
            output.edge_logits[:, index], vectors[f"logit_{edge}"], atol=2e-3
        )
        np.testing.assert_allclose(
            output.edge_logits[:, index].softmax(-1), vectors[f"prob_{edge}"], atol=1e-4
        )


def test_cached_forward_equals_joint_forward(case):
    preset, model, _ = case
    templates, search = inputs(preset)
    joint = model(templates, search)
    cached = model.search(search, *model.encode_templates(templates))
    np.testing.assert_allclose(cached.boxes, joint.boxes, atol=2e-6)
    np.testing.assert_allclose(cached.score_logits, joint.score_logits, atol=2e-5)


def test_three_online_templates_reproduce_the_reference(case):
    preset, model, vectors = case
    spec, i = PRESETS[preset], golden.IMAGE_SEED
    templates = crops(spec.template_size, i, i + 6, i + 7, i + 8)[None]
    search = crops(spec.search_size, i + 2)
    for output in (
        model.search(search, *model.encode_templates(templates)),
        model(templates, search),
    ):
        np.testing.assert_allclose(
            output.boxes.ravel(), vectors["multi3_pred_boxes"].ravel(), atol=2e-5
        )
        np.testing.assert_allclose(
            output.score_logits, vectors["multi3_pred_scores"].ravel(), atol=2e-4
        )


def test_cached_keys_and_values_have_the_reference_norms(case):
    preset, model, vectors = case
    templates, _ = inputs(preset)
    keys, values = model.encode_templates(templates[:1])
    expected = vectors["kv_mem_norm"]
    for part, tensor in ((1, keys), (2, values)):
        norms = tensor[:, 0].norm(dim=-1).mean(dim=1).numpy()
        np.testing.assert_allclose(norms, expected[:, part], rtol=1e-4)


def test_paper_score_formula_is_available(case):
    preset, model, vectors = case
    output = model(*inputs(preset))
    model.score_head.pooling = "mean"
    paper = model.score_head(output.prediction_tokens)
    model.score_head.pooling = "tokens"
    np.testing.assert_allclose(paper, vectors["score_paper_formula_logit"].ravel(), atol=2e-4)
    assert not np.allclose(paper, output.score_logits, atol=1e-2)


def test_position_tables_match(case):
    preset, _, vectors = case
    spec = PRESETS[preset]
    for name, size in (("t", spec.template_size), ("s", spec.search_size)):
        table = sincos_position_table(spec.width, size // 16)[0]
        rows = table[[0, 1, -2, -1]]
        expected = vectors[f"pos_embed_{name}_first2last2"].reshape(rows.shape)
        np.testing.assert_allclose(rows, expected, atol=1e-6)


@pytest.mark.parametrize("preset", ["S", "B", "T"])
def test_templates_never_see_the_search_region(preset):
    torch.manual_seed(0)
    spec = PRESETS[preset]
    model = MixFormerV2(spec).eval()
    model.backbone.reset_parameters()
    block = model.backbone.blocks[0]
    tokens = torch.randn(1, 2 * spec.template_tokens + 20, spec.width)
    changed = tokens.clone()
    count = 2 * spec.template_tokens
    changed[:, count:] += 1.0
    with torch.no_grad():
        before, after = block.joint(tokens, count), block.joint(changed, count)
    assert torch.equal(before[:, :count], after[:, :count])
    assert not torch.allclose(before[:, count:], after[:, count:])


@pytest.mark.parametrize(("preset", "parameters"), [("S", 16_228_897), ("B", 58_855_201)])
def test_parameter_counts_are_published_ones(preset, parameters):
    model = MixFormerV2(PRESETS[preset])
    assert sum(p.numel() for p in model.parameters()) == parameters
