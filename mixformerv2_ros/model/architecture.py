"""Architectures of MixFormerV2 by the names and shapes of their weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isqrt

import numpy as np
import numpy.typing as npt

from mixformerv2_ros.errors import CheckpointError
from mixformerv2_ros.model.presets import PRESETS
from mixformerv2_ros.model.spec import ModelSpec
from mixformerv2_ros.text import some

Shapes = Mapping[str, tuple[int, ...]]

MISSING, UNEXPECTED, WRONG_SHAPE = "missing", "unexpected", "wrong shape of"

HEAD_CHANNELS = 64
"""Default number of channels per attention head, as in every vision transformer."""

_PATCH = "backbone.patch_embed.proj.weight"
_TEMPLATE_TABLE = "backbone.pos_embed_t"
_SEARCH_TABLE = "backbone.pos_embed_s"
_HIDDEN = "backbone.blocks.0.mlp.fc1.weight"
_BINS = "box_head.layers.1.0.weight"
_BACKBONE = (_PATCH, _TEMPLATE_TABLE, _SEARCH_TABLE, _HIDDEN)
_SCORE_HEAD = "score_head."
_BLOCK = re.compile(r"backbone\.blocks\.(\d{1,3})\.")
_EXIT = re.compile(r"exits\.(\d{1,3})\.")


@dataclass(frozen=True)
class BackboneShape:
    """What names and shapes show of a backbone, MixFormerV2's or MixViT's; not the heads.

    Attributes are those of `ModelSpec`.
    """

    width: int
    depth: int
    mlp_ratio: float
    template_size: int
    search_size: int


def infer_backbone(shapes: Shapes) -> BackboneShape:
    """Find the architecture of the backbone that a state_dict holds, from a few of its tensors.

    Raises:
        CheckpointError: one of these is absent or impossible.
    """
    if absent := [name for name in _BACKBONE if name not in shapes]:
        raise CheckpointError(f"lacks {some(absent)}")
    width = _axis(shapes, _PATCH, 4, 0)
    return BackboneShape(
        width=width,
        depth=1 + max(int(match[1]) for name in shapes if (match := _BLOCK.match(name))),
        mlp_ratio=_axis(shapes, _HIDDEN, 2, 0) / width,
        template_size=_side(shapes, _TEMPLATE_TABLE, width),
        search_size=_side(shapes, _SEARCH_TABLE, width),
    )


def expected_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every tensor in the state_dict of a model (SPEC of the release)."""
    width, hidden = spec.width, round(spec.width * spec.mlp_ratio)
    shapes: dict[str, tuple[int, ...]] = {
        _SEARCH_TABLE: (1, spec.search_tokens, width),
        _TEMPLATE_TABLE: (1, spec.template_tokens, width),
        "backbone.reg_tokens": (1, 4, width),
        "backbone.pos_embed_reg": (1, 4, width),
        _PATCH: (width, 3, spec.PATCH, spec.PATCH),
        "backbone.patch_embed.proj.bias": (width,),
    }
    for i in range(spec.depth):
        block = f"backbone.blocks.{i}"
        shapes |= _affine(f"{block}.norm1", width)
        shapes |= _affine(f"{block}.attn.qkv", 3 * width, width)
        shapes |= _affine(f"{block}.attn.proj", width, width)
        shapes |= _affine(f"{block}.norm2", width)
        shapes |= _affine(f"{block}.mlp.fc1", hidden, width)
        shapes |= _affine(f"{block}.mlp.fc2", width, hidden)
    shapes |= _affine("box_head.layers.0.0", width, width)
    shapes |= _affine("box_head.layers.0.1", width)
    shapes |= _affine("box_head.layers.1.0", spec.bins, width)
    shapes |= _affine("box_head.layers.1.1", spec.bins)
    shapes |= _affine("score_head.layers.0.0", width, width)
    shapes |= _affine("score_head.layers.1", 1, width)
    for number, depth in enumerate(spec.exits):
        shapes |= _exit_shapes(f"exits.{depth}", spec, recycles=number > 0)
    return shapes


def _exit_shapes(name: str, spec: ModelSpec, recycles: bool) -> dict[str, tuple[int, ...]]:
    width = spec.width
    shapes = _affine(f"{name}.recycling", width, width) if recycles else {}
    shapes |= _affine(f"{name}.box_head.layers.0.0", width, width)
    shapes |= _affine(f"{name}.box_head.layers.0.1", width)
    shapes |= _affine(f"{name}.box_head.layers.1.0", spec.bins, width)
    shapes |= _affine(f"{name}.box_head.layers.1.1", spec.bins)
    shapes |= _affine(f"{name}.score_head.layers.0.0", width, width)
    shapes |= _affine(f"{name}.score_head.layers.1", 1, width)
    for layer, rows in ((0, width), (2, width), (4, 1)):
        shapes |= _affine(f"{name}.decision_head.layers.{layer}", rows, width)
    return shapes


def _affine(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def preset_name(spec: ModelSpec) -> str:
    """Return the name of the preset that has this architecture, whatever its exits, or `custom`."""
    for name, preset in PRESETS.items():
        same = replace(spec, preset=name, score_pooling=preset.score_pooling, exits=preset.exits)
        if same == preset:
            return name
    return "custom"


def infer_spec(
    weights: Mapping[str, npt.NDArray[np.float32]],
    heads: int | None = None,
    score_pooling: str = "tokens",
    needs_score_head: bool = True,
) -> ModelSpec:
    """Find the architecture that a state_dict belongs to, and check every name and shape of it.

    Args:
        weights: The state_dict.
        heads: Attention heads, which shapes do not show; without it those of the preset of the
            same shapes, else one per 64 channels.
        score_pooling: See `ModelSpec`.
        needs_score_head: False accepts models of a distillation stage, which have none.

    Raises:
        CheckpointError: this is another architecture, lacks the score head, or tensors are missing,
            unexpected, or of the wrong shape.
    """
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    absent = [name for name in (*_BACKBONE, _BINS, "backbone.reg_tokens") if name not in shapes]
    if absent:
        raise CheckpointError(
            f"must be MixFormerV2 weights, but {_looks_like(shapes) or f'lacks {some(absent)}'}"
        )
    backbone = infer_backbone(shapes)
    spec = ModelSpec(
        preset="custom",
        width=backbone.width,
        depth=backbone.depth,
        heads=heads or 0,
        mlp_ratio=backbone.mlp_ratio,
        bins=_axis(shapes, _BINS, 2, 0),
        template_size=backbone.template_size,
        search_size=backbone.search_size,
        score_pooling=score_pooling,
        exits=tuple(sorted({int(match[1]) for name in shapes if (match := _EXIT.match(name))})),
    )
    if spec.exits and not 0 < spec.exits[0] <= spec.exits[-1] < spec.depth:
        raise CheckpointError(
            f"exits must lie after blocks 1 to {spec.depth - 1}, got {list(spec.exits)}"
        )
    spec = replace(spec, heads=_heads(spec, heads))
    spec = replace(spec, preset=preset_name(spec))
    expected = expected_shapes(spec)
    if not needs_score_head and not any(name.startswith(_SCORE_HEAD) for name in shapes):
        expected = {
            name: shape for name, shape in expected.items() if not name.startswith(_SCORE_HEAD)
        }
    _compare(shapes, expected, spec)
    return spec


def _axis(shapes: Shapes, name: str, axes: int, axis: int) -> int:
    shape = shapes[name]
    if len(shape) != axes or 0 in shape:
        raise CheckpointError(f"{name} must have {axes} axes, none empty, got shape {shape}")
    return shape[axis]


def _side(shapes: Shapes, table: str, width: int) -> int:
    """Side in pixels of the crop that a position table covers."""
    tokens = _axis(shapes, table, 3, 1)
    # Whoever builds a network computes these tables anew: no larger than they are in the file.
    if shapes[table][2] != width:
        raise CheckpointError(f"{table} must have width {width}, got shape {shapes[table]}")
    side = isqrt(tokens)
    if side * side != tokens:
        raise CheckpointError(f"{table} must cover a square of patches, got {tokens}")
    return side * ModelSpec.PATCH


def _heads(spec: ModelSpec, heads: int | None) -> int:
    if heads is None:
        for preset in PRESETS.values():
            if preset_name(replace(spec, heads=preset.heads)) == preset.preset:
                return preset.heads
        if spec.width % HEAD_CHANNELS:
            raise CheckpointError(
                f"shapes do not show the number of attention heads of width {spec.width}: "
                "it must be given"
            )
        return spec.width // HEAD_CHANNELS
    if heads < 1 or spec.width % heads:
        raise CheckpointError(f"heads must divide the width {spec.width}, got {heads}")
    return heads


def _compare(
    shapes: Shapes,
    expected: Shapes,
    spec: ModelSpec,
) -> None:
    faults = compare_shapes(shapes, expected)
    score_head = [name for name in expected if name.startswith(_SCORE_HEAD)]
    if faults == {MISSING: score_head}:
        raise CheckpointError(
            "must hold a score head (score_head.*), but is a model of a distillation stage, "
            "before the score head is trained"
        )
    if faults:
        raise CheckpointError(
            f"weights must fit MixFormerV2 ({describe(spec)}): {tell_faults(faults)}"
        )


def compare_shapes(shapes: Shapes, expected: Shapes) -> dict[str, list[str]]:
    """Compare the tensors that are there with those expected.

    Returns:
        Names by fault: `MISSING`, `UNEXPECTED`, `WRONG_SHAPE` (with both shapes); without faults
        that nothing has.
    """
    wrong = [
        f"{name} {shapes[name]} instead of {shape}"
        for name, shape in expected.items()
        if name in shapes and shapes[name] != shape
    ]
    faults = {
        MISSING: [name for name in expected if name not in shapes],
        UNEXPECTED: [name for name in shapes if name not in expected],
        WRONG_SHAPE: wrong,
    }
    return {fault: names for fault, names in faults.items() if names}


def tell_faults(faults: Mapping[str, list[str]]) -> str:
    """Say in one line what `compare_shapes` found."""
    return "; ".join(f"{fault} {some(names)}" for fault, names in faults.items())


def describe(spec: ModelSpec) -> str:
    """Say in one line what architecture this is."""
    return (
        f"preset {spec.preset}, width {spec.width}, depth {spec.depth}, {spec.heads} heads, "
        f"MLP ratio {spec.mlp_ratio:g}, {spec.bins} bins, "
        f"template {spec.template_size} px, search {spec.search_size} px"
        + (f", exits after {', '.join(map(str, spec.exits))}" if spec.exits else "")
    )


_OTHERS = (
    (
        r"box_head\.conv\d_(tl|br)\.",
        "looks like MixViT or MixFormer with a corner head (a teacher)",
    ),
    (r"box_head\.conv\d_(ctr|offset|size)\.", "looks like OSTrack or its kin (centre head)"),
    (r"backbone\.stage\d\.", "looks like the first MixFormer (CvT backbone)"),
    (r"(decoder_blocks\.|mask_token$)", "looks like a masked autoencoder (initial ViT weights)"),
    (r"(blocks\.\d+\.attn\.qkv|cls_token$)", "looks like a plain vision transformer"),
    (r"(.*\.)?layer\d\.\d+\.conv\d\.", "looks like a ResNet"),
)


def _looks_like(names: Mapping[str, object]) -> str:
    """Say what other architecture has such names; empty if most of them are MixFormerV2's."""
    for pattern, description in _OTHERS:
        if any(re.match(pattern, name) for name in names):
            return description
    if any(name.startswith(("backbone.blocks.", "box_head.layers.")) for name in names):
        return ""
    return f"holds {some(names) or 'no float tensors'}"
