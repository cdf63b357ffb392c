"""Heads on the four prediction tokens: one distribution per box edge, and a score."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mixformerv2_ros.model.spec import ModelSpec


class BoxHead(nn.Module):
    """An MLP shared by the four tokens; its softmax is the distribution of that token's edge."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        width, bins = spec.width, spec.bins
        self.layers = nn.Sequential(
            nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width), nn.ReLU()),
            nn.Sequential(nn.Linear(width, bins), nn.LayerNorm(bins)),
        )

    def forward(self, prediction_tokens: Tensor) -> Tensor:
        """(B, 4, width) -> logits (B, 4, bins) in the order of `EDGES`."""
        # The network's tokens come left, right, top, bottom; everything outside it uses `EDGES`:
        # left, top, right, bottom. Without an index, which a GPU would have to be sent.
        return self.layers(prediction_tokens).unflatten(1, (2, 2)).transpose(1, 2).flatten(1, 2)


class ScoreHead(nn.Module):
    """Confidence that the predicted box holds the target, as a logit."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        width = spec.width
        self.pooling = spec.score_pooling
        self.layers = nn.Sequential(
            nn.Sequential(nn.Linear(width, width), nn.ReLU()), nn.Linear(width, 1)
        )

    def forward(self, prediction_tokens: Tensor) -> Tensor:
        """(B, 4, width) -> (B,) logits.

        The released code scores each token and averages the logits (`tokens`); the paper's
        supplement scores the averaged token (`mean`). The ReLU makes them differ.
        """
        if self.pooling == "mean":
            return self.layers(prediction_tokens.mean(dim=1)).flatten()
        return self.layers(prediction_tokens).mean(dim=1).flatten()


def expected_edges(edge_logits: Tensor) -> Tensor:
    """Mean of each edge distribution: logits (B, 4, bins) -> (B, 4) in [0, 1).

    Bin i stands for coordinate i / bins, so the largest value is (bins - 1) / bins.
    """
    bins = edge_logits.shape[-1]
    positions = torch.arange(bins, dtype=edge_logits.dtype, device=edge_logits.device) / bins
    return (edge_logits.softmax(dim=-1) * positions).sum(dim=-1)


def edges_to_boxes(edges: Tensor) -> Tensor:
    """(B, 4) left, top, right, bottom -> (B, 4) centre x, centre y, width, height."""
    left, top, right, bottom = edges.unbind(dim=-1)
    return torch.stack([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top], dim=-1)
