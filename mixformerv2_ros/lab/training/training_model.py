"""What is trained: a network with what only training needs, and the batches it is fed."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mixformerv2_ros.lab.training.mixvit import MixViT, TeacherSpec, corner_marginals
from mixformerv2_ros.model.spec import ModelSpec
from mixformerv2_ros.network.backbone import PREDICTION_TOKENS
from mixformerv2_ros.network.model import MixFormerV2, normalize


@dataclass(frozen=True)
class Batch:
    """One batch: templates (B, 2, T, T, 3) and search (B, S, S, 3) uint8, edges, presence."""

    templates: Tensor
    search: Tensor
    edges: Tensor
    present: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        parts = (self.templates, self.search, self.edges, self.present)
        return Batch(*(part.to(device, non_blocking=True) for part in parts))


@dataclass(frozen=True)
class ModelOutput:
    """What a trainee says about a batch of B, in float32.

    Attributes:
        boxes: (B, 4) centre x, centre y, width, height over the side of the search crop.
        edge_logits: (B, 4, bins), order left, top, right, bottom.
        score_logits: (B,); None from a teacher.
        foreground: Logits (B, search tokens); None from a teacher.
        features: What each block returned; empty unless asked for.
    """

    boxes: Tensor
    edge_logits: Tensor
    score_logits: Tensor | None = None
    foreground: Tensor | None = None
    features: tuple[Tensor, ...] = ()


def mixed_precision(
    device: torch.device, dtype: torch.dtype | None
) -> contextlib.AbstractContextManager[object]:
    """Compute in `dtype` where that is safe; None leaves everything in float32."""
    if dtype is None:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype)


class TrainingModel(nn.Module):
    """MixFormerV2 with a foreground classifier on its search tokens."""

    def __init__(self, spec: ModelSpec, drop_path: float) -> None:
        super().__init__()
        self.network = MixFormerV2(spec, drop_path)
        self.foreground = nn.Linear(spec.width, 1)
        self.dtype: torch.dtype | None = None

    def forward(self, batch: Batch, features: bool = False) -> ModelOutput:
        """Look at a batch; `features` asks for what every block returns."""
        outputs: list[Tensor] | None = [] if features else None
        with mixed_precision(batch.search.device, self.dtype):
            tokens = self.network.backbone(
                normalize(batch.templates), normalize(batch.search), features=outputs
            )
        # Heads in float32: a box is a mean over bins, of which half precision keeps too little.
        tokens = tokens.float()
        search_tokens = tokens[:, :-PREDICTION_TOKENS]
        output = self.network.heads(tokens[:, -PREDICTION_TOKENS:], search_tokens)
        return ModelOutput(
            boxes=output.boxes,
            edge_logits=output.edge_logits,
            score_logits=output.score_logits,
            foreground=self.foreground(search_tokens).squeeze(-1),
            features=tuple(feature.float() for feature in outputs or ()),
        )


class TeacherTrainingModel(nn.Module):
    """MixViT, for the stage that makes a teacher."""

    def __init__(self, spec: TeacherSpec, drop_path: float) -> None:
        super().__init__()
        self.network = MixViT(spec, drop_path)
        self.dtype: torch.dtype | None = None

    def forward(self, batch: Batch, features: bool = False) -> ModelOutput:
        """Look at a batch; `features` asks for what every block returns."""
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
    spec: ModelSpec | TeacherSpec, drop_path: float, seed: int, identity_start: float
) -> TrainingModel | TeacherTrainingModel:
    """Draw a network from a seed."""
    torch.manual_seed(seed)
    model = (
        TeacherTrainingModel(spec, drop_path)
        if isinstance(spec, TeacherSpec)
        else TrainingModel(spec, drop_path)
    )
    model.network.backbone.reset_parameters()
    if identity_start > 0:
        init_mimetic(model.network, identity_start)
    return model


def init_mimetic(network: MixFormerV2 | MixViT, strength: float) -> None:
    """Let attention begin by comparing like with like.

    Queries and keys of a head start from the same random projection, so that a token attends to
    tokens that look like it: what template matching needs (compare mimetic initialisation, Trockman
    and Kolter, 2023).
    """
    width = network.spec.width
    for block in network.backbone.blocks:
        with torch.no_grad():
            weight = block.attn.qkv.weight
            shared = torch.randn(width, width) * strength / math.sqrt(width)
            noise = torch.randn(2, width, width) * 0.3 * strength / math.sqrt(width)
            weight[:width] = shared + noise[0]
            weight[width : 2 * width] = shared + noise[1]
