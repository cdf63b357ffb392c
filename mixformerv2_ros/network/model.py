"""MixFormerV2: the whole network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from mixformerv2_ros.model.spec import ModelSpec
from mixformerv2_ros.network.backbone import PREDICTION_TOKENS, Backbone
from mixformerv2_ros.network.exits import Exit, ExitOutput
from mixformerv2_ros.network.heads import BoxHead, ScoreHead, edges_to_boxes, expected_edges

PIXEL_MEAN = (0.485, 0.456, 0.406)
PIXEL_STD = (0.229, 0.224, 0.225)


def normalize(crops: Tensor) -> Tensor:
    """uint8 RGB crops (..., H, W, 3) -> float32 (..., 3, H, W), in the released order."""
    # Channels go first as bytes: ONNX Runtime is slow at numbers that change with the last axis.
    planes = crops.movedim(-1, -3).to(torch.float32)
    mean, std = (
        torch.tensor(values, device=crops.device)[:, None, None]
        for values in (PIXEL_MEAN, PIXEL_STD)
    )
    return (planes / 255.0 - mean) / std


@dataclass(frozen=True)
class Output:
    """What one pass of the network returns for a batch of B.

    Attributes:
        edge_logits: (B, 4, bins), order left, top, right, bottom.
        boxes: (B, 4) centre x, centre y, width, height over the side of the search crop.
        score_logits: (B,).
        search_tokens: (B, search tokens, width) after the last block; None from `search`, which
            does not compute them.
        prediction_tokens: (B, 4, width) after the last block; order left, right, top, bottom.
        features: What each block returned, all tokens of templates, search region and prediction,
            (B, tokens, width) each; empty unless asked for.
    """

    edge_logits: Tensor
    boxes: Tensor
    score_logits: Tensor
    search_tokens: Tensor | None
    prediction_tokens: Tensor
    features: tuple[Tensor, ...] = ()


class MixFormerV2(nn.Module):
    """Backbone and heads; keys of its `state_dict` are those of the released checkpoints."""

    def __init__(self, spec: ModelSpec, drop_path: float = 0.0) -> None:
        super().__init__()
        self.spec = spec
        self.backbone = Backbone(spec, drop_path)
        self.box_head = BoxHead(spec)
        self.score_head = ScoreHead(spec)
        if spec.exits:
            self.exits = nn.ModuleDict(
                {str(depth): Exit(spec, number > 0) for number, depth in enumerate(spec.exits)}
            )

    @classmethod
    def from_weights(
        cls, spec: ModelSpec, weights: Mapping[str, npt.NDArray[np.float32]]
    ) -> MixFormerV2:
        """Build the network in eval mode from numpy weights; every key must match, both ways."""
        model = cls(spec)
        model.load_state_dict({key: torch.from_numpy(value) for key, value in weights.items()})
        return model.eval().requires_grad_(False)

    def heads(self, prediction: Tensor, search_tokens: Tensor | None = None) -> Output:
        """Final prediction tokens (B, 4, width) -> output."""
        edge_logits = self.box_head(prediction)
        return Output(
            edge_logits=edge_logits,
            boxes=edges_to_boxes(expected_edges(edge_logits)),
            score_logits=self.score_head(prediction),
            search_tokens=search_tokens,
            prediction_tokens=prediction,
        )

    def exit(self, depth: int) -> Exit:
        """The exit after `depth` blocks."""
        return cast(Exit, self.exits[str(depth)])

    def all_exits(self, features: Sequence[Tensor]) -> tuple[ExitOutput, ...]:
        """What every exit says, from what each block returned, (B, tokens, width)."""
        outputs: list[ExitOutput] = []
        for depth in self.spec.exits:
            recycled = outputs[-1].prediction_tokens if outputs else None
            prediction = features[depth - 1][:, -PREDICTION_TOKENS:].float()
            outputs.append(self.exit(depth)(prediction, recycled))
        return tuple(outputs)

    def encode_templates(self, templates: Tensor) -> tuple[Tensor, Tensor]:
        """See `Backbone.encode_templates`."""
        return self.backbone.encode_templates(templates)

    def search(
        self,
        search: Tensor,
        keys: Tensor,
        values: Tensor,
        attention: list[Tensor] | None = None,
    ) -> Output:
        """One frame (B, 3, S, S), normalised, against encoded templates.

        `attention` is filled as described in `backbone`.
        """
        return self.heads(self.backbone.search(search, keys, values, attention))

    def forward(
        self,
        templates: Tensor,
        search: Tensor,
        attention: list[Tensor] | None = None,
        features: bool = False,
    ) -> Output:
        """Joint pass: templates (B, K, 3, T, T) and search (B, 3, S, S), both normalised.

        `attention` is filled as described in `backbone`. `features` requests what every block
        returns; the boxes then differ in the last bits, because the last block is run as a whole.
        """
        outputs: list[Tensor] | None = [] if features else None
        tokens = self.backbone(templates, search, attention, outputs)
        output = self.heads(tokens[:, -PREDICTION_TOKENS:], tokens[:, :-PREDICTION_TOKENS])
        return replace(output, features=tuple(outputs)) if outputs is not None else output
