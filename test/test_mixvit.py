"""The teacher MixViT: against the golden vectors, and its checkpoints."""

from __future__ import annotations

from dataclasses import replace

import golden
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from small_training import MIXVIT_B, MIXVIT_L  # noqa: E402

from mixformerv2_ros.errors import CheckpointError  # noqa: E402
from mixformerv2_ros.lab.training.mixvit import (  # noqa: E402
    HEADS,
    MixViT,
    TeacherSpec,
    corner_marginals,
    load_teacher,
)
from mixformerv2_ros.model.presets import T  # noqa: E402
from mixformerv2_ros.network.model import MixFormerV2, normalize  # noqa: E402

TINY = TeacherSpec(
    width=128, depth=2, heads=2, mlp_ratio=2.0, head="corner_up", head_channels=16,
    template_size=32, search_size=48,
)  # fmt: skip
EXTRAS = {
    "backbone.cls_token": torch.zeros(1, 1, 128),
    "backbone.pos_embed": torch.zeros(1, 197, 128),
    "backbone.norm.weight": torch.ones(128),
    "backbone.head.weight": torch.zeros(1000, 128),
    "score_branch.score_token": torch.zeros(1, 1, 128),
}


@pytest.fixture(scope="module", params=HEADS)
def vectors(request, shared_vectors):
    """The vectors of one head, without the prefix of their names, and the teacher that they fit."""
    with np.load(shared_vectors / "teacher_mixvit_b.npz", allow_pickle=False) as file:
        prefix = f"{request.param}_"
        # The keys of the pyramid head also begin with those of the plain one.
        names = [
            name for name in file.files
            if name.startswith(prefix) and (prefix != "corner_" or "_up_" not in name)
        ]  # fmt: skip
        content = {name.removeprefix(prefix): file[name] for name in names}
    return replace(MIXVIT_B, head=request.param), content


def formula_teacher(spec: TeacherSpec) -> MixViT:
    model = MixViT(spec)
    state = {
        key: torch.from_numpy(golden.weight(key, tuple(value.shape), "B"))
        for key, value in model.state_dict().items()
    }
    model.load_state_dict(state)
    return model.eval().requires_grad_(False)


def inputs(spec: TeacherSpec, i: int = golden.IMAGE_SEED):
    templates = [golden.image(spec.template_size, spec.template_size, a) for a in (i, i + 1)]
    search = golden.image(spec.search_size, spec.search_size, i + 2)
    return (
        normalize(torch.from_numpy(np.stack(templates)))[None],
        normalize(torch.from_numpy(search))[None],
    )


def test_names_and_shapes_are_the_released_ones(vectors):
    spec, expected = vectors
    with torch.device("meta"):
        state = MixViT(spec).state_dict()
    assert len(state) == int(expected["n_state_keys"])
    # Of the blocks, the vectors list the first.
    own = {
        f"{name} {tuple(value.shape)}"
        for name, value in state.items()
        if not name.startswith("backbone.blocks.") or name.startswith("backbone.blocks.0.")
    }
    assert own == {str(key) for key in expected["keys"]}


def test_boxes_and_maps_reproduce_the_reference(vectors):
    spec, expected = vectors
    output = formula_teacher(spec)(*inputs(spec))
    np.testing.assert_allclose(output.boxes, expected["pred_boxes"][:, 0], atol=2e-6)
    assert output.top_left.shape == output.bottom_right.shape == (1, spec.grid, spec.grid)
    for corner, probabilities in (("tl", output.top_left), ("br", output.bottom_right)):
        for axis, index in (("x", 2), ("y", 1)):
            np.testing.assert_allclose(
                probabilities.sum(index)[0], expected[f"{corner}_sum_over_{axis}"], atol=1e-6
            )
    left, top, right, bottom = corner_marginals(output.top_left, output.bottom_right)[0]
    for marginal, name in (
        (left, "tl_sum_over_y"), (top, "tl_sum_over_x"),
        (right, "br_sum_over_y"), (bottom, "br_sum_over_x"),
    ):  # fmt: skip
        np.testing.assert_allclose(marginal, expected[name], atol=1e-6)


def test_grids_are_the_bins_of_the_students():
    assert (MIXVIT_B.grid, replace(MIXVIT_B, head="corner").grid, MIXVIT_L.grid) == (72, 18, 96)
    with torch.device("meta"):
        large = MixViT(MIXVIT_L)
    blocks = sum(p.numel() for p in large.backbone.blocks.parameters())
    assert blocks == 302_309_376  # The blocks of ViT-Large.


@pytest.mark.parametrize("head", HEADS)
def test_features_are_what_the_blocks_return(head):
    torch.manual_seed(0)
    spec = replace(TINY, head=head)
    model = MixViT(spec).eval()
    model.backbone.reset_parameters()
    seen = []
    for block in model.backbone.blocks:
        joint = block.joint
        block.joint = lambda *a, joint=joint: seen.append(joint(*a)) or seen[-1]
    templates, search = torch.randn(3, 2, 3, 32, 32), torch.randn(3, 3, 48, 48)
    with torch.no_grad():
        output, plain = model(templates, search, features=True), model(templates, search)
    assert plain.features == ()
    assert [f.shape for f in output.features] == [(3, 2 * 4 + 9, 128)] * 2
    assert all(torch.equal(a, b) for a, b in zip(output.features, seen, strict=False))
    torch.testing.assert_close(output.boxes, plain.boxes)
    torch.testing.assert_close(output.top_left.sum((1, 2)), torch.ones(3))


def save(state, path):
    torch.save(state, path)
    return path


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("container", ["net", ""])
def test_a_released_file_loads_and_extras_are_ignored(head, container, tmp_path):
    model = formula_teacher(replace(TINY, head=head))
    state = {**model.state_dict(), **EXTRAS}
    content = {container: state, "epoch": 500} if container else state
    loaded = load_teacher(save(content, tmp_path / "teacher.pth.tar"))
    assert loaded.spec == model.spec
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    crops = inputs(TINY)
    assert torch.equal(loaded(*crops).top_left, model(*crops).top_left)


def test_heads_come_from_the_caller_the_file_or_the_width(tmp_path):
    model = formula_teacher(replace(TINY, heads=4))
    path = save({"net": model.state_dict(), "spec": {"heads": 4}}, tmp_path / "noted.pth")
    assert load_teacher(path).spec.heads == 4
    assert load_teacher(path, heads=8).spec.heads == 8
    with pytest.raises(CheckpointError, match="divide the width 128, got 3"):
        load_teacher(path, heads=3)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda s: s.pop("box_head.conv1_tl.0.weight"), "lacks box_head.conv1_tl.0.weight"),
        (lambda s: s.pop("box_head.conv3_br.1.running_var"), "missing box_head.conv3_br.1.running"),
        (lambda s: s.pop("box_head.adjust4_tl.1.0.bias"), "missing box_head.adjust4_tl.1.0.bias"),
        (lambda s: s.pop("backbone.blocks.0.mlp.fc1.weight"), "lacks backbone.blocks.0.mlp.fc1"),
        (lambda s: s.pop("backbone.blocks.1.norm2.bias"), "missing backbone.blocks.1.norm2.bias"),
        (lambda s: s.update({"backbone.blocks.1.norm2.bias": torch.ones(9)}), r"wrong shape .*\(9"),
        (lambda s: s.update({"box_head.conv1_tl.0.weight": torch.ones(())}), "at least 8 output"),
        (lambda s: s.update({"backbone.pos_embed_t": torch.ones(1, 5, 128)}), "square of patches"),
        (lambda s: s.update({"backbone.pos_embed_s": torch.ones(1, 9, 64)}), "have width 128"),
        (lambda s: s.update({"backbone.norm.weight": torch.tensor([float("nan")])}), "NaN"),
    ],
)  # fmt: skip
def test_files_that_do_not_fit_are_refused_in_one_line(damage, message, tmp_path):
    state = dict(MixViT(TINY).state_dict())
    damage(state)
    with pytest.raises(CheckpointError, match=rf"^x\.pth: .*{message}") as caught:
        load_teacher(save({"net": state}, tmp_path / "x.pth"))
    assert "\n" not in str(caught.value)


def test_a_student_is_no_teacher(tmp_path):
    with pytest.raises(CheckpointError, match="must be MixViT weights"):
        load_teacher(save(MixFormerV2(T).state_dict(), tmp_path / "student.pth"))
