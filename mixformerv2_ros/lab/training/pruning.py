"""Surgery on networks between training stages: layers faded out and taken out, MLPs made narrower.

Deep-to-shallow distillation fades a set of layers to the identity while the rest of the network
trains (paper, section 3.3; SPEC 4.5), then takes them out. The order of calls:

    freeze_layers(model, removed)
    each epoch: set_gamma(model, removed, fade(epoch))
    smaller = extract_layers(model, kept_layers(depth, removed))

After the gain has reached 0, the smaller network returns exactly what the faded one returned.
Layers are numbered from 0.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from mixformerv2_ros.errors import CheckpointError, ParameterError
from mixformerv2_ros.lab.training.mixvit import MixViT
from mixformerv2_ros.model.architecture import compare_shapes, preset_name, tell_faults
from mixformerv2_ros.model.checkpoints import Weights, load_checkpoint
from mixformerv2_ros.network.backbone import Block
from mixformerv2_ros.network.model import MixFormerV2
from mixformerv2_ros.text import printable

PRUNING_EPOCHS = 40
"""Epochs of the published fade-out; its supplement also compares 30 and 50."""

REMOVED_12_TO_8 = (0, 3, 6, 9)
"""Layers that the release takes out of 12: published."""

REMOVED_8_TO_4 = (0, 2, 4, 6)
"""Layers taken out of 8: inferred, the release is silent. What stays are layers 2, 5, 8 and 11 of
the original twelve: those that the feature loss compares, and that the supplement's `Tea-skip4`
keeps.
"""

_TABLES = ("pos_embed_t", "pos_embed_s")
_TOKENS = ("reg_tokens", "pos_embed_reg")
_MAE_PARTS = ("patch_embed.", "blocks.")

_RIDGE = 1e-3


def gamma(epoch: int, epochs: int = PRUNING_EPOCHS) -> float:
    """Gain of the layers to be removed in an epoch, on a cosine from 1 to 0.

    Args:
        epoch: 1 for the first one. The release counts one more, so that the gain starts at 0.9938
            and is 0 from the last but one of `epochs` on.
        epochs: Length of the fade-out.
    """
    return 0.5 * (1 + math.cos(math.pi * min(epoch + 1, epochs) / epochs))


def set_gamma(model: MixFormerV2, removed: Collection[int], gamma: float) -> None:
    """Set the gain of the residual branches of some layers; 1 makes them whole, 0 the identity.

    Raises:
        ParameterError: a layer does not exist.
    """
    for block in _blocks(model, removed):
        block.gamma = gamma


def freeze_layers(model: MixFormerV2, removed: Collection[int]) -> None:
    """Take some layers out of training: what fades away must not be trained to matter.

    Raises:
        ParameterError: a layer does not exist.
    """
    for block in _blocks(model, removed):
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
    """Layers as people write them: `0, 3, 6, 9`."""
    return ", ".join(map(str, layers)) or "none"


def kept_layers(depth: int, removed: Collection[int]) -> tuple[int, ...]:
    """Layers that are left of `depth` when some are removed.

    Raises:
        ParameterError: a layer to be removed does not exist, or none would be left.
    """
    _check_layers(depth, removed)
    kept = tuple(layer for layer in range(depth) if layer not in removed)
    if not kept:
        raise ParameterError(f"at least one of {depth} layers must stay, got all to be removed")
    return kept


def first_layers(depth: int, count: int) -> tuple[int, ...]:
    """The first `count` layers of `depth` (the supplement's `Tea-fir4`).

    Raises:
        ParameterError: there are not as many.
    """
    if not 1 <= count <= depth:
        raise ParameterError(f"must take from 1 to {depth} layers, got {count}")
    return tuple(range(count))


def skipped_layers(depth: int, count: int) -> tuple[int, ...]:
    """`count` layers of `depth` at equal distances, the last one among them (`Tea-skip4`).

    Four of twelve are 2, 5, 8, 11; four of eight are 1, 3, 5, 7.

    Raises:
        ParameterError: `count` does not divide `depth`.
    """
    if count < 1 or depth % count:
        raise ParameterError(f"equal distances need a divisor of {depth} layers, got {count}")
    step = depth // count
    return tuple(range(step - 1, depth, step))


def feature_pairs(student: int, teacher: int, count: int = 4) -> tuple[tuple[int, int], ...]:
    """Layers whose features are compared, of a student and a teacher of these depths.

    Published are 12 with 12 (2, 5, 8, 11 with themselves) and 8 with 12 (1, 3, 5, 7 with 2, 5, 8,
    11). Equal distances on both sides give these, and are inferred for other depths.

    Raises:
        ParameterError: `count` does not divide a depth.
    """
    return tuple(zip(skipped_layers(student, count), skipped_layers(teacher, count), strict=True))


def extract_layers(model: MixFormerV2, keep: Sequence[int], drop_path: float = 0.0) -> MixFormerV2:
    """Copy some layers of a network, in the order given, into a shallower one.

    Embedding, tokens and heads are copied; the fixed position tables are computed anew. The result
    shares no memory with `model`, all of its layers have gain 1 and are trainable.

    Args:
        model: The deep network; not changed.
        keep: Its layers that become layers 0, 1, ... of the result; all different.
        drop_path: Stochastic depth of the result.

    Raises:
        ParameterError: a layer does not exist or occurs twice, or none is given.
    """
    _check_layers(model.spec.depth, keep)
    first_layers(model.spec.depth, len(keep))
    state = {}
    for name, value in model.state_dict().items():
        parts = name.split(".")
        if parts[:2] == ["backbone", "blocks"]:
            if int(parts[2]) not in keep:
                continue
            parts[2] = str(keep.index(int(parts[2])))
        state[".".join(parts)] = value
    return _rebuild(model, state, drop_path, depth=len(keep))


def _rebuild(
    model: MixFormerV2,
    state: Mapping[str, Tensor],
    drop_path: float,
    depth: int | None = None,
    mlp_ratio: float | None = None,
) -> MixFormerV2:
    """Build a network that differs from `model` in depth or MLP ratio; tables computed anew."""
    spec = replace(
        model.spec,
        depth=model.spec.depth if depth is None else depth,
        mlp_ratio=model.spec.mlp_ratio if mlp_ratio is None else mlp_ratio,
    )
    smaller = MixFormerV2(replace(spec, preset=preset_name(spec)), drop_path)
    tables = {name: value for name, value in smaller.state_dict().items() if name.endswith(_TABLES)}
    smaller.load_state_dict({**state, **tables})
    return smaller.to(model.backbone.reg_tokens.device).train(model.training)


@torch.no_grad()
def reduce_mlp(
    model: MixFormerV2, ratio: float, templates: Tensor, search: Tensor, drop_path: float = 0.0
) -> MixFormerV2:
    """Copy a network into one whose blocks have narrower MLPs, close to it on a sample of inputs.

    The release is silent about how a ratio of 4 becomes 1. Here, a hidden unit counts as much as it
    moves the block's output over the sample: the standard deviation of its activation times the
    norm of its column in fc2. The units that count most stay; fc2 is then corrected so that they
    stand in for those that left as well as they linearly can (ridge regression of the lost part of
    the output on the activations that stay, whose mean goes to the bias; compare ThiNet, Luo et
    al., 2017). Attention, norms, tokens and heads are copied.

    Measured on this project's preset T, ratio 2 to 1, 256 synthetic samples, without any training:
    mean KL of the edge distributions from the original's 0.72 for units drawn at random, 0.21 for
    the largest weights (norm of the row in fc1 times norm of the column in fc2), 0.21 for this
    choice without and 0.08 with the correction.

    Args:
        model: The wide network; not changed.
        ratio: Hidden width over `width` of the result.
        templates: (B, K, 3, T, T), normalised: what the network will see; a batch of training.
        search: (B, 3, S, S), normalised. With the templates it must give more tokens than units
            stay; more samples help: 128 instead of 32 brought the KL above from 0.08 to 0.06.
        drop_path: Stochastic depth of the result.

    Raises:
        ParameterError: the ratio is not positive, larger than the network's, or gives a width that
            is no whole number; or the inputs are too few or of another size.
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
            f"reducing to {units:g} hidden units needs a sample of more tokens, got {tokens}"
        )
    state = model.state_dict()
    for index, (mean, covariance) in enumerate(_activations(model, templates, search)):
        mlp = f"backbone.blocks.{index}.mlp"
        weight = state[f"{mlp}.fc2.weight"].double()
        importance = covariance.diagonal().clamp(min=0).sqrt() * weight.norm(dim=0)
        stays = torch.zeros_like(importance, dtype=torch.bool)
        stays[importance.topk(int(units)).indices] = True
        own = covariance[stays][:, stays]
        own.diagonal().add_(_RIDGE * own.diagonal().mean())
        lost = covariance[stays][:, ~stays] @ weight[:, ~stays].T
        correction = torch.linalg.solve(own, lost).T
        bias = weight[:, ~stays] @ mean[~stays] - correction @ mean[stays]
        state[f"{mlp}.fc1.weight"] = state[f"{mlp}.fc1.weight"][stays]
        state[f"{mlp}.fc1.bias"] = state[f"{mlp}.fc1.bias"][stays]
        state[f"{mlp}.fc2.weight"] = (weight[:, stays] + correction).float()
        state[f"{mlp}.fc2.bias"] = (state[f"{mlp}.fc2.bias"].double() + bias).float()
    return _rebuild(model, state, drop_path, mlp_ratio=ratio)


def _activations(
    model: MixFormerV2, templates: Tensor, search: Tensor
) -> list[tuple[Tensor, Tensor]]:
    """Mean (units,) and covariance (units, units) of every block's hidden units over all tokens."""
    moments: list[tuple[Tensor, Tensor]] = []

    def note(_: nn.Module, __: object, hidden: Tensor) -> None:
        units = hidden.flatten(0, 1).double()
        mean = units.mean(dim=0)
        moments.append((mean, (units - mean).T @ (units - mean) / len(units)))

    training = model.training
    hooks = [block.mlp.act.register_forward_hook(note) for block in model.backbone.blocks]
    try:
        model.eval()(templates, search, features=True)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return moments


def load_mae(path: str | Path) -> dict[str, Tensor]:
    """Read the encoder of a masked autoencoder (`mae_pretrain_vit_base.pth`), to start a training.

    Its class token, position table, mask token, final norm and decoder are ignored (SPEC 4.4).

    Args:
        path: A file that `network.checkpoints.load_checkpoint` reads; nothing in it is executed.

    Returns:
        Patch embedding and blocks under the names of this project's networks; see `init_from_mae`.

    Raises:
        CheckpointError: the file cannot be read or holds no vision transformer.
    """
    weights: Weights = load_checkpoint(path).weights
    parts = {
        f"backbone.{name}": torch.from_numpy(value)
        for name, value in weights.items()
        if name.startswith(_MAE_PARTS)
    }
    for needed in _MAE_PARTS:
        if not any(name.startswith(f"backbone.{needed}") for name in parts):
            raise CheckpointError(
                f"{printable(Path(path).name)}: must be the weights of a masked autoencoder, "
                f"but holds no {needed}*"
            )
    return parts


def init_from_mae(model: MixFormerV2 | MixViT, state: Mapping[str, Tensor]) -> None:
    """Put the weights that `load_mae` returned into a network; tokens, tables and heads stay.

    Raises:
        CheckpointError: they are not of the network's width, depth or MLP ratio, or incomplete.
    """
    own = {
        name: tuple(value.shape)
        for name, value in model.state_dict().items()
        if name.startswith("backbone.") and not name.endswith((*_TABLES, *_TOKENS))
    }
    faults = compare_shapes({name: tuple(value.shape) for name, value in state.items()}, own)
    if faults:
        spec = model.spec
        raise CheckpointError(
            f"initial weights must fit a backbone of width {spec.width}, depth {spec.depth} and "
            f"MLP ratio {spec.mlp_ratio:g}: {tell_faults(faults)}"
        )
    model.load_state_dict(dict(state), strict=False)


def load_network(path: str | Path, heads: int | None = None, drop_path: float = 0.0) -> MixFormerV2:
    """Build a MixFormerV2 from a checkpoint file of any stage, in training mode.

    The architecture is inferred from names and shapes. Models of the distillation stages have no
    score head; they get a fresh one.

    Args:
        path: A file that `network.checkpoints.load_checkpoint` reads; nothing in it is executed.
        heads: Attention heads, if neither a preset nor the file tells.
        drop_path: Stochastic depth of the network.

    Raises:
        CheckpointError: the file cannot be read, is no MixFormerV2, or tensors are missing,
            unexpected, or of the wrong shape.
    """
    checkpoint = load_checkpoint(path)
    try:
        spec = checkpoint.infer_spec(heads, needs_score_head=False)
    except CheckpointError as error:
        raise CheckpointError(f"{printable(Path(path).name)}: {error}") from error
    model = MixFormerV2(spec, drop_path)
    weights = {name: torch.from_numpy(value) for name, value in checkpoint.weights.items()}
    # What is missing can only be the score head.
    model.load_state_dict(weights, strict=False)
    return model
