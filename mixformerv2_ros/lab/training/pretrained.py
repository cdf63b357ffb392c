"""Pretrained weights: masked autoencoders, and MixFormerV2 checkpoints of any stage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from mixformerv2_ros.errors import CheckpointError
from mixformerv2_ros.lab.training.mixvit import MixViT
from mixformerv2_ros.lab.training.pruning import POSITION_TABLES
from mixformerv2_ros.model.architecture import compare_shapes, tell_faults
from mixformerv2_ros.model.checkpoints import load_checkpoint
from mixformerv2_ros.network.model import MixFormerV2
from mixformerv2_ros.text import printable

_TOKENS = ("reg_tokens", "pos_embed_reg")
_MAE_PARTS = ("patch_embed.", "blocks.")


def load_mae(path: str | Path) -> dict[str, Tensor]:
    """Read the encoder of a masked autoencoder (`mae_pretrain_vit_base.pth`).

    Its class token, position embeddings, mask token, final norm and decoder are ignored (SPEC 4.4).

    Args:
        path: A file that `load_checkpoint` reads; nothing in it is executed.

    Returns:
        Patch embedding and blocks under the names of this project's networks; see `init_from_mae`.

    Raises:
        CheckpointError: the file cannot be read or holds no vision transformer.
    """
    weights = load_checkpoint(path).weights
    parts = {
        f"backbone.{name}": torch.from_numpy(value)
        for name, value in weights.items()
        if name.startswith(_MAE_PARTS)
    }
    for needed in _MAE_PARTS:
        if not any(name.startswith(f"backbone.{needed}") for name in parts):
            raise CheckpointError(
                f"{printable(Path(path).name)}: expected the weights of a masked autoencoder, "
                f"found no {needed}*"
            )
    return parts


def init_from_mae(model: MixFormerV2 | MixViT, state: Mapping[str, Tensor]) -> None:
    """Load the weights that `load_mae` returned; tokens, position embeddings and heads keep theirs.

    Raises:
        CheckpointError: they are not of the network's width, depth or MLP ratio, or incomplete.
    """
    own = {
        name: tuple(value.shape)
        for name, value in model.state_dict().items()
        if name.startswith("backbone.") and not name.endswith((*POSITION_TABLES, *_TOKENS))
    }
    faults = compare_shapes({name: tuple(value.shape) for name, value in state.items()}, own)
    if faults:
        spec = model.spec
        raise CheckpointError(
            f"initial weights must fit a backbone of width {spec.width}, depth {spec.depth} and "
            f"MLP ratio {spec.mlp_ratio:g}: {tell_faults(faults)}"
        )
    model.load_state_dict(dict(state), strict=False)


def load_network(path: str | Path) -> MixFormerV2:
    """Build a MixFormerV2 from a checkpoint file of any stage, in training mode.

    The architecture is inferred from names and shapes. Checkpoints of the distillation stages have
    no score head; the network then has a freshly initialised one.

    Args:
        path: A file that `load_checkpoint` reads; nothing in it is executed.

    Raises:
        CheckpointError: the file cannot be read, is not a MixFormerV2, or tensors are missing,
            unexpected, or of the wrong shape.
    """
    checkpoint = load_checkpoint(path)
    try:
        spec = checkpoint.infer_spec(needs_score_head=False)
    except CheckpointError as error:
        raise CheckpointError(f"{printable(Path(path).name)}: {error}") from error
    model = MixFormerV2(spec)
    weights = {name: torch.from_numpy(value) for name, value in checkpoint.weights.items()}
    # Only the score head can be missing.
    model.load_state_dict(weights, strict=False)
    return model
