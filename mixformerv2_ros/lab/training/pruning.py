"""Progressive depth pruning and MLP reduction (paper, section 3.3; SPEC 4.5).

Depth pruning decays the gamma of some layers from 1 to 0 while the rest of the network trains, and
then removes them. The order of calls:

    freeze_layers(model, layers)
    each epoch: set_gamma(model, layers, gamma(epoch, epochs))
    smaller = extract_layers(model, kept_layers(depth, layers))

Once gamma is 0, the smaller network returns exactly what the pruned one returned. Layers are
numbered from 0.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from mixformerv2_ros.errors import ParameterError
from mixformerv2_ros.model.architecture import preset_name
from mixformerv2_ros.network.backbone import Block
from mixformerv2_ros.network.model import MixFormerV2

POSITION_TABLES = ("pos_embed_t", "pos_embed_s")
"""Fixed position embeddings, which depend on the size of the crops."""

_RIDGE = 1e-3


def gamma(epoch: int, epochs: int) -> float:
    """Gamma of the layers to be pruned in an epoch: a cosine from 1 to 0.

    Args:
        epoch: 1 for the first one. The release counts one more, so that gamma begins at 0.9938 (of
            40 epochs) and is 0 from the last but one epoch on.
        epochs: Length of the decay; published are 40, and 30 and 50 for comparison.
    """
    return 0.5 * (1 + math.cos(math.pi * min(epoch + 1, epochs) / epochs))


def set_gamma(model: MixFormerV2, layers: Collection[int], gamma: float) -> None:
    """Set the factor of both residual branches of some layers; at 0 they are the identity.

    Raises:
        ParameterError: a layer does not exist.
    """
    for block in _blocks(model, layers):
        block.gamma = gamma


def freeze_layers(model: MixFormerV2, layers: Collection[int]) -> None:
    """Exclude some layers from training.

    Raises:
        ParameterError: a layer does not exist.
    """
    for block in _blocks(model, layers):
        block.requires_grad_(False)


def _blocks(model: MixFormerV2, layers: Collection[int]) -> list[Block]:
    _check_layers(model.spec.depth, layers)
    return [model.backbone.blocks[layer] for layer in layers]


def _check_layers(depth: int, layers: Collection[int]) -> None:
    if not all(0 <= layer < depth for layer in layers) or len(set(layers)) < len(layers):
        raise ParameterError(
            f"layers must be different numbers from 0 to {depth - 1}, "
            f"got {printable_layers(layers)}"
        )


def printable_layers(layers: Collection[int]) -> str:
    """Layers as text: `0, 3, 6, 9`."""
    return ", ".join(map(str, layers)) or "none"


def kept_layers(depth: int, pruned: Collection[int]) -> tuple[int, ...]:
    """Layers that remain of `depth` when some are pruned.

    Raises:
        ParameterError: a layer does not exist, or none would remain.
    """
    _check_layers(depth, pruned)
    kept = tuple(layer for layer in range(depth) if layer not in pruned)
    if not kept:
        raise ParameterError(f"at least one of {depth} layers must remain, got all to be pruned")
    return kept


def skipped_layers(depth: int, count: int) -> tuple[int, ...]:
    """`count` layers of `depth` at equal distances, the last one among them (`Tea-skip4`).

    Four of twelve are 2, 5, 8, 11; four of eight are 1, 3, 5, 7.

    Raises:
        ParameterError: `count` does not divide `depth`.
    """
    if count < 1 or depth % count:
        raise ParameterError(f"a count at equal distances must divide {depth} layers, got {count}")
    step = depth // count
    return tuple(range(step - 1, depth, step))


def feature_pairs(student: int, teacher: int, count: int = 4) -> tuple[tuple[int, int], ...]:
    """Pairs of layers whose features are compared, for a student and a teacher of these depths.

    Published are 12 with 12 (2, 5, 8, 11 with themselves) and 8 with 12 (1, 3, 5, 7 with 2, 5, 8,
    11). Equal distances on both sides give these, and are inferred for other depths.

    Raises:
        ParameterError: `count` does not divide a depth.
    """
    return tuple(zip(skipped_layers(student, count), skipped_layers(teacher, count), strict=True))


def extract_layers(model: MixFormerV2, keep: Sequence[int]) -> MixFormerV2:
    """Copy some layers of a network, in the order given, into a shallower one.

    Embedding, tokens and heads are copied; the fixed position embeddings are computed anew. Exits
    are left out, as they read the tokens of blocks that may be gone. The result shares no memory
    with `model`; all of its layers have gamma 1 and are trainable.

    Args:
        model: The deep network; not changed.
        keep: Its layers that become layers 0, 1, ... of the result; all different.

    Raises:
        ParameterError: a layer does not exist or occurs twice, or none is given.
    """
    _check_layers(model.spec.depth, keep)
    if not keep:
        raise ParameterError("expected layers to keep, got none")
    state = {}
    for name, value in model.state_dict().items():
        parts = name.split(".")
        if parts[0] == "exits":
            continue
        if parts[:2] == ["backbone", "blocks"]:
            if int(parts[2]) not in keep:
                continue
            parts[2] = str(keep.index(int(parts[2])))
        state[".".join(parts)] = value
    return _rebuild(model, state, depth=len(keep))


def without_exits(model: MixFormerV2) -> MixFormerV2:
    """Copy a network without its exits; see `extract_layers`."""
    return extract_layers(model, range(model.spec.depth))


def _rebuild(
    model: MixFormerV2,
    state: Mapping[str, Tensor],
    depth: int | None = None,
    mlp_ratio: float | None = None,
) -> MixFormerV2:
    """Build a network that differs from `model` in depth or MLP ratio, with the weights `state`."""
    spec = replace(
        model.spec,
        depth=model.spec.depth if depth is None else depth,
        exits=model.spec.exits if depth is None else (),
        mlp_ratio=model.spec.mlp_ratio if mlp_ratio is None else mlp_ratio,
    )
    smaller = MixFormerV2(replace(spec, preset=preset_name(spec)))
    tables = {
        name: value
        for name, value in smaller.state_dict().items()
        if name.endswith(POSITION_TABLES)
    }
    smaller.load_state_dict({**state, **tables})
    return smaller.to(model.backbone.reg_tokens.device).train(model.training)


@torch.no_grad()
def reduce_mlp(model: MixFormerV2, ratio: float, templates: Tensor, search: Tensor) -> MixFormerV2:
    """Copy a network into one with narrower MLPs that approximates it on a sample of inputs.

    The release does not say how a ratio of 4 becomes 1. Here, the importance of a hidden unit is
    its effect on the block's output over the sample: the standard deviation of its activation times
    the norm of its column in fc2. The most important units are kept, and fc2 is corrected by ridge
    regression of the lost part of the output on the kept activations, with the mean in the bias
    (compare ThiNet, Luo et al., 2017). Attention, norms, tokens and heads are copied.

    Measured on this project's preset T, ratio 2 to 1, 256 synthetic samples, without any training:
    mean KL of the edge distributions from the original's 0.72 for units drawn at random, 0.21 for
    the largest weights (norm of the row in fc1 times norm of the column in fc2), 0.21 for this
    choice without and 0.08 with the correction.

    Args:
        model: The wide network; not changed.
        ratio: Hidden width over `width` of the result.
        templates: (B, K, 3, T, T), normalised: a batch of training data.
        search: (B, 3, S, S), normalised. Both together must have more tokens than units are kept.
            More samples help: 128 instead of 32 brought the KL above from 0.08 to 0.06.

    Raises:
        ParameterError: the ratio is not positive, larger than the network's, or gives a width that
            is not a whole number; or the inputs are too few or of another size.
    """
    spec = model.spec
    units = spec.width * ratio
    if not (0 < ratio <= spec.mlp_ratio and float(units).is_integer()):
        raise ParameterError(
            f"MLP ratio must give a whole number of at most {round(spec.width * spec.mlp_ratio)} "
            f"hidden units for width {spec.width}, got {ratio:g}"
        )
    if (templates.shape[-1], search.shape[-1]) != (spec.template_size, spec.search_size):
        raise ParameterError(
            f"samples must be templates of {spec.template_size} px and search crops of "
            f"{spec.search_size} px, got {templates.shape[-1]} and {search.shape[-1]}"
        )
    tokens = search.shape[0] * (templates.shape[1] * spec.template_tokens + spec.search_tokens + 4)
    if tokens <= units:
        raise ParameterError(
            f"reducing to {units:g} hidden units needs a sample with more tokens, got {tokens}"
        )
    state = model.state_dict()
    for index, (mean, covariance) in enumerate(_activations(model, templates, search)):
        mlp = f"backbone.blocks.{index}.mlp"
        weight = state[f"{mlp}.fc2.weight"].double()
        importance = covariance.diagonal().clamp(min=0).sqrt() * weight.norm(dim=0)
        kept = torch.zeros_like(importance, dtype=torch.bool)
        kept[importance.topk(int(units)).indices] = True
        own = covariance[kept][:, kept]
        own.diagonal().add_(_RIDGE * own.diagonal().mean())
        lost = covariance[kept][:, ~kept] @ weight[:, ~kept].T
        correction = torch.linalg.solve(own, lost).T
        bias = weight[:, ~kept] @ mean[~kept] - correction @ mean[kept]
        state[f"{mlp}.fc1.weight"] = state[f"{mlp}.fc1.weight"][kept]
        state[f"{mlp}.fc1.bias"] = state[f"{mlp}.fc1.bias"][kept]
        state[f"{mlp}.fc2.weight"] = (weight[:, kept] + correction).float()
        state[f"{mlp}.fc2.bias"] = (state[f"{mlp}.fc2.bias"].double() + bias).float()
    return _rebuild(model, state, mlp_ratio=ratio)


def _activations(
    model: MixFormerV2, templates: Tensor, search: Tensor
) -> list[tuple[Tensor, Tensor]]:
    """Mean (units,) and covariance (units, units) of every block's hidden units over all tokens."""
    moments: list[tuple[Tensor, Tensor]] = []

    def record(_: nn.Module, __: object, hidden: Tensor) -> None:
        units = hidden.flatten(0, 1).double()
        mean = units.mean(dim=0)
        moments.append((mean, (units - mean).T @ (units - mean) / len(units)))

    training = model.training
    hooks = [block.mlp.act.register_forward_hook(record) for block in model.backbone.blocks]
    try:
        model.eval()(templates, search, features=True)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return moments
