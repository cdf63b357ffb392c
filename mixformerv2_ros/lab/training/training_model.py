"""Networks as they are trained, with auxiliary heads; their batches and outputs."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mixformerv2_ros.lab.training.mixvit import MixViT, TeacherSpec, corner_marginals
from mixformerv2_ros.model.spec import ModelSpec
from mixformerv2_ros.network.backbone import PREDICTION_TOKENS
from mixformerv2_ros.network.exits import ExitOutput
from mixformerv2_ros.network.model import MixFormerV2, normalize


@dataclass(frozen=True)
class Batch:
    """Templates (B, 2, T, T, 3) and search (B, S, S, 3) uint8, edges, presence."""

    templates: Tensor
    search: Tensor
    edges: Tensor
    present: Tensor

    def to(self, device: torch.device) -> Batch:
        """Copy to a device."""
        parts = (self.templates, self.search, self.edges, self.present)
        return Batch(*(part.to(device, non_blocking=True) for part in parts))

    def pin_memory(self) -> Batch:
        """Copy to page-locked memory; called by torch's data loader."""
        parts = (self.templates, self.search, self.edges, self.present)
        return Batch(*(part.pin_memory() for part in parts))


@dataclass(frozen=True)
class ModelOutput:
    """Output of a training model for a batch of B, in float32.

    Attributes:
        boxes: (B, 4) centre x, centre y, width, height over the side of the search crop.
        edge_logits: (B, 4, bins), order left, top, right, bottom.
        score_logits: (B,); None from a teacher.
        foreground: Logits (B, search tokens); None from a teacher.
        features: Output of each block; empty unless requested.
        feature_map: (B, search tokens, channels), to be compared with a tracker's; None without a
            tracker, and in evaluation mode.
        exits: What every exit of the network says.
        exit_depths: Blocks before each exit.
        exit_tokens: Search tokens (B, search tokens, width) at every exit, then at full depth;
            empty without exits.
    """

    boxes: Tensor
    edge_logits: Tensor
    score_logits: Tensor | None = None
    foreground: Tensor | None = None
    features: tuple[Tensor, ...] = ()
    feature_map: Tensor | None = None
    exits: tuple[ExitOutput, ...] = ()
    exit_depths: tuple[int, ...] = ()
    exit_tokens: tuple[Tensor, ...] = ()


def mixed_precision(
    device: torch.device, dtype: torch.dtype | None
) -> contextlib.AbstractContextManager[object]:
    """Automatic mixed precision in `dtype`; None keeps float32."""
    if dtype is None:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype)


class TrainingModel(nn.Module):
    """MixFormerV2 with a foreground classifier on its search tokens.

    Args:
        spec: The architecture.
        drop_path: Stochastic depth.
        channels: Channels of a tracker teacher's map; 0 without one.
        block: Block after which the search tokens must give that map.
    """

    def __init__(
        self, spec: ModelSpec, drop_path: float, channels: int = 0, block: int = 0
    ) -> None:
        super().__init__()
        self.network = MixFormerV2(spec, drop_path)
        self.foreground = nn.Linear(spec.width, 1)
        self.feature_map = nn.Linear(spec.width, channels) if channels else None
        self._block = block
        self._search_tokens = (spec.search_size // spec.PATCH) ** 2
        self.dtype: torch.dtype | None = None

    def forward(self, batch: Batch, features: bool = False) -> ModelOutput:
        """Forward pass; `features` requests the outputs of all blocks."""
        mapped = self.feature_map is not None and self.training
        exits = self.network.spec.exits
        outputs: list[Tensor] | None = [] if features or mapped or exits else None
        with mixed_precision(batch.search.device, self.dtype):
            tokens = self.network.backbone(
                normalize(batch.templates), normalize(batch.search), features=outputs
            )
        # Heads in float32: half precision is too coarse for a mean over bins.
        tokens = tokens.float()
        search_tokens = tokens[:, :-PREDICTION_TOKENS]
        output = self.network.heads(tokens[:, -PREDICTION_TOKENS:], search_tokens)
        return ModelOutput(
            boxes=output.boxes,
            edge_logits=output.edge_logits,
            score_logits=output.score_logits,
            foreground=self.foreground(search_tokens).squeeze(-1),
            features=tuple(feature.float() for feature in outputs or ()) if features else (),
            feature_map=self._map(outputs[self._block]) if mapped and outputs else None,
            exits=self.network.all_exits(outputs) if exits and outputs else (),
            exit_depths=exits,
            exit_tokens=tuple(
                self._search(outputs[depth - 1]) for depth in self.network.spec.depths
            )
            if exits and outputs
            else (),
        )

    def _map(self, tokens: Tensor) -> Tensor:
        """What a tracker's backbone should say, from all tokens of a block (B, tokens, width)."""
        assert self.feature_map is not None
        return self.feature_map(self._search(tokens))

    def _search(self, tokens: Tensor) -> Tensor:
        """The search tokens, in float32, among all tokens of a block."""
        return tokens[:, -PREDICTION_TOKENS - self._search_tokens : -PREDICTION_TOKENS].float()


class TeacherTrainingModel(nn.Module):
    """MixViT, for the stage that trains a teacher."""

    def __init__(self, spec: TeacherSpec, drop_path: float) -> None:
        super().__init__()
        self.network = MixViT(spec, drop_path)
        self.dtype: torch.dtype | None = None

    def forward(self, batch: Batch, features: bool = False) -> ModelOutput:
        """Forward pass; `features` requests the outputs of all blocks."""
        with mixed_precision(batch.search.device, self.dtype):
            output = self.network(normalize(batch.templates), normalize(batch.search), features)
        marginals = corner_marginals(output.top_left.float(), output.bottom_right.float())
        return ModelOutput(
            boxes=output.boxes.float(),
            # Logits of which the marginals are the softmax.
            edge_logits=marginals.clamp(min=1e-12).log(),
            features=tuple(feature.float() for feature in output.features),
        )


def new_training_model(
    spec: ModelSpec | TeacherSpec,
    drop_path: float,
    seed: int,
    mimetic_init: float,
    channels: int = 0,
    block: int = 0,
) -> TrainingModel | TeacherTrainingModel:
    """Build a network with random weights; `channels` and `block` as in `TrainingModel`."""
    torch.manual_seed(seed)
    model = (
        TeacherTrainingModel(spec, drop_path)
        if isinstance(spec, TeacherSpec)
        else TrainingModel(spec, drop_path, channels, block)
    )
    model.network.backbone.reset_parameters()
    if mimetic_init > 0:
        init_mimetic(model.network, mimetic_init)
    return model


def init_mimetic(network: MixFormerV2 | MixViT, strength: float) -> None:
    """Mimetic initialisation of attention (after Trockman and Kolter, 2023).

    Queries and keys of a head start with the same random projection, so that tokens attend to
    similar tokens, as template matching requires.
    """
    width = network.spec.width
    for block in network.backbone.blocks:
        with torch.no_grad():
            weight = block.attn.qkv.weight
            shared = torch.randn(width, width) * strength / math.sqrt(width)
            noise = torch.randn(2, width, width) * 0.3 * strength / math.sqrt(width)
            weight[:width] = shared + noise[0]
            weight[width : 2 * width] = shared + noise[1]
