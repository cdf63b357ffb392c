"""Surgery between training stages: fading, extraction, narrower MLPs, initial weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from small_training import MIXVIT_B  # noqa: E402

from mixformerv2_ros.errors import CheckpointError, ParameterError  # noqa: E402
from mixformerv2_ros.lab.training import losses, pretrained, pruning  # noqa: E402
from mixformerv2_ros.lab.training.mixvit import MixViT  # noqa: E402
from mixformerv2_ros.model.spec import ModelSpec  # noqa: E402
from mixformerv2_ros.network.backbone import sincos_position_table  # noqa: E402
from mixformerv2_ros.network.model import MixFormerV2  # noqa: E402

DEEP = ModelSpec(
    preset="custom", width=64, depth=12, heads=4, mlp_ratio=4.0, bins=16,
    template_size=32, search_size=64,
)  # fmt: skip


PRUNED_12_TO_8, PRUNED_8_TO_4 = (0, 3, 6, 9), (0, 2, 4, 6)
"""As in `config/training/pruning_*.yaml`."""


def fresh(spec: ModelSpec = DEEP, seed: int = 0) -> MixFormerV2:
    torch.manual_seed(seed)
    model = MixFormerV2(spec)
    for name, parameter in model.named_parameters():
        if not name.endswith(("pos_embed_t", "pos_embed_s")):
            # Larger than usual, so that every layer changes the result.
            torch.nn.init.normal_(parameter, std=1.0 if parameter.ndim < 2 else 0.1)
    return model.eval()


def inputs(batch: int = 2, seed: int = 1, spec: ModelSpec = DEEP):
    generator = torch.Generator().manual_seed(seed)
    t, s = spec.template_size, spec.search_size
    return (
        torch.randn(batch, 2, 3, t, t, generator=generator),
        torch.randn(batch, 3, s, s, generator=generator),
    )


def same(a, b) -> bool:
    return torch.equal(a.edge_logits, b.edge_logits) and torch.equal(a.score_logits, b.score_logits)


def test_gamma_follows_the_released_schedule(shared_vectors):
    with np.load(shared_vectors / "training.npz", allow_pickle=False) as file:
        expected = file["remove_rate_by_epoch"]
    assert [pruning.gamma(int(epoch), 40) for epoch in expected[:, 0]] == list(expected[:, 1])


@pytest.mark.parametrize("epochs", [30, 40, 50])
def test_gamma_decays_from_one_to_zero(epochs):
    gammas = [pruning.gamma(epoch, epochs) for epoch in range(epochs + 5)]
    assert gammas[0] > 0.99
    assert all(np.diff(gammas[:epochs]) < 0)
    assert gammas[epochs - 1 :] == [0.0] * 6


@pytest.mark.parametrize(
    ("depth", "pruned", "kept"),
    [
        (12, PRUNED_12_TO_8, (1, 2, 4, 5, 7, 8, 10, 11)),
        (8, PRUNED_8_TO_4, (1, 3, 5, 7)),
    ],
)
@torch.no_grad()
def test_extraction_equals_the_pruned_network_exactly(depth, pruned, kept):
    model = fresh(replace(DEEP, depth=depth))
    whole = model(*inputs())
    pruning.set_gamma(model, pruned, 0.0)
    expected = model(*inputs())
    assert not same(expected, whole)
    assert pruning.kept_layers(depth, pruned) == kept
    smaller = pruning.extract_layers(model, kept)
    assert smaller.spec.depth == len(kept)
    assert same(smaller(*inputs()), expected)
    templates, search = inputs()
    cached = [m.search(search, *m.encode_templates(templates)) for m in (smaller, model)]
    assert same(*cached)
    pruning.set_gamma(model, pruned, 1.0)
    assert same(model(*inputs()), whole)


@torch.no_grad()
def test_gamma_scales_both_branches_of_its_block():
    model = fresh()
    block, tokens = model.backbone.blocks[3], torch.randn(2, 20, 64)
    pruning.set_gamma(model, [3], 0.3)
    q, k, v = block.attn.queries_keys_values(block.norm1(tokens))
    templates = block.attn.attend(q[:, :, :8], k[:, :, :8], v[:, :, :8])
    mixed = torch.cat([templates, block.attn.attend(q[:, :, 8:], k, v)], dim=1)
    expected = tokens + 0.3 * block.attn.proj(mixed)
    expected = expected + 0.3 * block.mlp(block.norm2(expected))
    torch.testing.assert_close(block.joint(tokens, 8), expected)
    assert {b.gamma for i, b in enumerate(model.backbone.blocks) if i != 3} == {1.0}


def test_frozen_layers_do_not_learn_and_pass_gradients_on():
    model = fresh().train()
    pruned = PRUNED_12_TO_8
    pruning.freeze_layers(model, pruned)
    pruning.set_gamma(model, pruned, 0.5)
    model(*inputs()).boxes.sum().backward()
    for index, block in enumerate(model.backbone.blocks):
        learns = [p.grad is not None and bool(p.grad.abs().sum() > 0) for p in block.parameters()]
        assert not any(learns) if index in pruned else any(learns)
    assert model.backbone.patch_embed.proj.weight.grad.abs().sum() > 0


def test_an_extracted_network_is_independent_trainable_and_has_its_own_tables():
    model = fresh()
    pruning.freeze_layers(model, PRUNED_12_TO_8)
    with torch.no_grad():
        model.backbone.pos_embed_s += 1
    smaller = pruning.extract_layers(model, (0, 5, 11))
    assert {block.gamma for block in smaller.backbone.blocks} == {1.0}
    frozen = [n for n, p in smaller.named_parameters() if not p.requires_grad]
    assert sorted(frozen) == ["backbone.pos_embed_s", "backbone.pos_embed_t"]
    np.testing.assert_array_equal(smaller.backbone.pos_embed_s, sincos_position_table(64, 4))
    for ours, theirs in ((0, 0), (1, 5), (2, 11)):
        a, b = smaller.backbone.blocks[ours], model.backbone.blocks[theirs]
        assert torch.equal(a.attn.qkv.weight, b.attn.qkv.weight)
        assert a.attn.qkv.weight.data_ptr() != b.attn.qkv.weight.data_ptr()
    assert torch.equal(smaller.box_head.layers[0][0].weight, model.box_head.layers[0][0].weight)
    assert not smaller.training
    assert pruning.extract_layers(model.train(), (0,)).training


def test_layers_of_the_supplements_comparison():
    assert pruning.skipped_layers(12, 4) == (2, 5, 8, 11)
    assert pruning.skipped_layers(8, 4) == (1, 3, 5, 7)
    # Pruning twice leaves every third layer of the twelve.
    eight = pruning.kept_layers(12, PRUNED_12_TO_8)
    four = pruning.kept_layers(8, PRUNED_8_TO_4)
    assert tuple(eight[layer] for layer in four) == pruning.skipped_layers(12, 4)


def test_feature_pairs_are_the_published_ones():
    assert pruning.feature_pairs(12, 12) == ((2, 2), (5, 5), (8, 8), (11, 11))
    assert pruning.feature_pairs(8, 12) == ((1, 2), (3, 5), (5, 8), (7, 11))
    assert pruning.feature_pairs(4, 8) == ((0, 1), (1, 3), (2, 5), (3, 7))


@torch.no_grad()
def test_features_of_student_and_teacher_fit_and_vanish_for_the_same_network():
    model = fresh()
    output = model(*inputs(), features=True)
    tokens = 2 * DEEP.template_tokens + DEEP.search_tokens + 4
    assert [f.shape for f in output.features] == [(2, tokens, 64)] * 12
    torch.testing.assert_close(output.features[-1][:, -4:], output.prediction_tokens)
    plain = model(*inputs())
    assert plain.features == ()
    torch.testing.assert_close(output.boxes, plain.boxes)
    student = pruning.extract_layers(model, range(8))(*inputs(), features=True)
    pairs = pruning.feature_pairs(8, 12)
    assert losses.feature_loss(student.features, output.features, pairs) > 0
    assert losses.feature_loss(output.features, output.features, [(2, 2), (11, 11)]) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: pruning.set_gamma(m, [12], 0.0), "from 0 to 11, got 12"),
        (lambda m: pruning.freeze_layers(m, [3, -1]), "from 0 to 11, got 3, -1"),
        (lambda m: pruning.extract_layers(m, [1, 1]), "different numbers from 0 to 11, got 1, 1"),
        (lambda m: pruning.extract_layers(m, []), "expected layers to keep, got none"),
        (lambda _: pruning.kept_layers(8, range(8)), "at least one of 8 layers"),
        (lambda _: pruning.kept_layers(8, [8]), "from 0 to 7, got 8"),
        (lambda _: pruning.skipped_layers(12, 5), "must divide 12 layers, got 5"),
        (lambda _: pruning.feature_pairs(6, 12), "must divide 6 layers, got 4"),
        (lambda m: pruning.reduce_mlp(m, 5.0, *inputs()), "at most 256 hidden units .* got 5"),
        (lambda m: pruning.reduce_mlp(m, 0.3, *inputs()), "whole number .* got 0.3"),
        (lambda m: pruning.reduce_mlp(m, 0.0, *inputs()), "whole number .* got 0"),
        (lambda m: pruning.reduce_mlp(m, 1.0, *inputs(1)), "more tokens, got 28"),
        (
            lambda m: pruning.reduce_mlp(m, 1.0, *inputs(9, spec=replace(DEEP, search_size=80))),
            "search crops of 64 px, got 32 and 80",
        ),
    ],
)
def test_impossible_operations_are_refused_in_one_line(call, message):
    with pytest.raises(ParameterError, match=message) as caught:
        call(fresh())
    assert "\n" not in str(caught.value)


# MLP ratio.

SHALLOW = replace(DEEP, depth=4)


@torch.no_grad()
def test_reduction_without_loss_is_a_copy():
    model = fresh(SHALLOW)
    copy = pruning.reduce_mlp(model, 4.0, *inputs(12))
    assert copy.spec == model.spec
    torch.testing.assert_close(copy(*inputs()).edge_logits, model(*inputs()).edge_logits)


@torch.no_grad()
def test_units_that_never_move_or_that_others_repeat_cost_nothing():
    """Half of the units are constant or copies: a network of the other half can do the same."""
    model = fresh(SHALLOW)
    for block in model.backbone.blocks:
        fc1 = block.mlp.fc1
        fc1.weight[1::4] = 0  # Constants, whose mean belongs into the bias.
        fc1.weight[3::4], fc1.bias[3::4] = fc1.weight[2::4].clone(), fc1.bias[2::4].clone()
        block.mlp.fc2.weight[:, 3::4] *= 0.1  # Of two equal units, this one matters less.
    smaller = pruning.reduce_mlp(model, 2.0, *inputs(64))
    assert smaller.spec.mlp_ratio == 2.0
    assert smaller.backbone.blocks[0].mlp.fc1.weight.shape == (128, 64)
    exact, ours = model(*inputs(4, 9)), smaller(*inputs(4, 9))
    spread = exact.edge_logits.std()
    assert (ours.edge_logits - exact.edge_logits).abs().max() < 0.02 * spread


def cut(model: MixFormerV2, keep) -> MixFormerV2:
    """The oracle: plain copies of some units, nothing corrected."""
    smaller = MixFormerV2(replace(model.spec, mlp_ratio=len(keep) / model.spec.width)).eval()
    state = model.state_dict()
    for name in state:
        if ".mlp.fc1." in name:
            state[name] = state[name][keep]
        elif name.endswith("mlp.fc2.weight"):
            state[name] = state[name][:, keep]
    smaller.load_state_dict(state)
    return smaller


@torch.no_grad()
def test_reduction_is_closer_than_cutting():
    model, (templates, search) = fresh(SHALLOW), inputs(64)
    exact = model(*inputs(8, 9)).edge_logits
    teacher = exact.softmax(-1)

    def divergence(smaller):
        return losses.edge_kl(smaller(*inputs(8, 9)).edge_logits, teacher).item()

    ours = divergence(pruning.reduce_mlp(model, 1.0, templates, search))
    generator = torch.Generator().manual_seed(0)
    random = [
        divergence(cut(model, torch.randperm(256, generator=generator)[:64])) for _ in range(5)
    ]
    assert ours < 0.7 * min(random)


def test_reduction_leaves_the_network_as_it_was():
    model = fresh(SHALLOW).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    smaller = pruning.reduce_mlp(model, 1.0, *inputs(12))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert smaller.training
    assert not any(block.mlp.act._forward_hooks for block in model.backbone.blocks)  # noqa: SLF001
    assert all(p.requires_grad for p in smaller.backbone.blocks[0].parameters())


# Initial weights.


def mae_state(width: int = 64, depth: int = 12, hidden: int = 256, seed: int = 0):
    """Names and shapes of the released masked autoencoders, encoder and decoder."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "cls_token": (1, 1, width), "pos_embed": (1, 197, width), "mask_token": (1, 1, 32),
        "patch_embed.proj.weight": (width, 3, 16, 16), "patch_embed.proj.bias": (width,),
        "norm.weight": (width,), "norm.bias": (width,),
        "decoder_pos_embed": (1, 197, 32), "decoder_embed.weight": (32, width),
        "decoder_blocks.0.attn.qkv.weight": (96, 32), "decoder_norm.weight": (32,),
    }  # fmt: skip
    for i in range(depth):
        for name, shape in (
            ("norm1", (width,)), ("attn.qkv", (3 * width, width)), ("attn.proj", (width, width)),
            ("norm2", (width,)), ("mlp.fc1", (hidden, width)), ("mlp.fc2", (width, hidden)),
        ):  # fmt: skip
            shapes |= {f"blocks.{i}.{name}.weight": shape, f"blocks.{i}.{name}.bias": shape[:1]}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@pytest.mark.parametrize("build", ["student", "teacher"])
def test_a_network_starts_from_a_masked_autoencoder(build, tmp_path):
    if build == "student":
        model = fresh()
    else:
        model = MixViT(replace(MIXVIT_B, width=64, heads=4, head_channels=16, search_size=64))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    mae = mae_state()
    torch.save({"model": mae}, tmp_path / "mae.pth")
    pretrained.init_from_mae(model, pretrained.load_mae(tmp_path / "mae.pth"))
    changed = set()
    for name, value in model.state_dict().items():
        source = mae.get(name.removeprefix("backbone."))
        if source is not None and name.startswith("backbone."):
            assert torch.equal(value, source), name
            changed.add(name)
        else:
            assert torch.equal(value, before[name]), name
    assert len(changed) == 2 + 12 * 12


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (mae_state(depth=11), "depth 12 .*missing backbone.blocks.11.norm1.weight"),
        (mae_state(depth=13), "unexpected backbone.blocks.12"),
        (mae_state(hidden=128), r"wrong shape of backbone.blocks.0.mlp.fc1.weight \(128, 64\)"),
        (mae_state(width=32), "wrong shape of backbone.patch_embed.proj.weight"),
    ],
)
def test_initial_weights_that_do_not_fit_are_refused(state, message, tmp_path):
    torch.save({"model": state}, tmp_path / "mae.pth")
    model = fresh()
    before = model.backbone.blocks[0].norm1.weight.clone()
    with pytest.raises(CheckpointError, match=message) as caught:
        pretrained.init_from_mae(model, pretrained.load_mae(tmp_path / "mae.pth"))
    assert "\n" not in str(caught.value)
    assert torch.equal(model.backbone.blocks[0].norm1.weight, before)


def test_other_files_are_no_masked_autoencoders(tmp_path):
    torch.save({"net": fresh().state_dict()}, tmp_path / "student.pth")
    with pytest.raises(CheckpointError, match=r"^student\.pth: .* found no patch_embed\.\*"):
        pretrained.load_mae(tmp_path / "student.pth")


@pytest.mark.parametrize("scored", [True, False])
def test_a_checkpoint_of_any_stage_becomes_a_network(scored, tmp_path):
    model = fresh(replace(SHALLOW, score_pooling="mean"))
    state = {k: v for k, v in model.state_dict().items() if scored or "score_head" not in k}
    noted = {"heads": 4, "score_pooling": "mean"}
    torch.save({"net": state, "spec": noted}, tmp_path / "stage.pth.tar")
    loaded = pretrained.load_network(tmp_path / "stage.pth.tar")
    assert loaded.spec == model.spec
    assert loaded.training
    with torch.no_grad():
        ours, theirs = loaded.eval()(*inputs()), model(*inputs())
    assert torch.equal(ours.edge_logits, theirs.edge_logits)
    assert torch.equal(ours.score_logits, theirs.score_logits) is scored


def test_a_stage_checkpoint_that_lacks_more_is_refused(tmp_path):
    state = {k: v for k, v in fresh(SHALLOW).state_dict().items() if "score_head" not in k}
    del state["backbone.blocks.2.norm1.bias"]
    torch.save({"net": state, "spec": {"heads": 4}}, tmp_path / "stage.pth.tar")
    with pytest.raises(CheckpointError, match=r"^stage\.pth\.tar: .*missing .*blocks\.2\.norm1"):
        pretrained.load_network(tmp_path / "stage.pth.tar")
    state["score_head.layers.1.bias"] = torch.zeros(1)
    torch.save({"net": state, "spec": {"heads": 4}}, tmp_path / "stage.pth.tar")
    with pytest.raises(CheckpointError, match=r"missing .*score_head.* and 1 more"):
        pretrained.load_network(tmp_path / "stage.pth.tar")
