"""Exits: places between the blocks where the network may answer.

After DyTrack (Zhu et al., TNNLS 2025): terminating branches on intermediate blocks, each with a box
head and a decision head, a three-layer MLP that estimates the IoU of the branch's own box, and
features of one branch that the next one reuses. Our design where the paper is not known to us: the
decision head reads the mean of the four prediction tokens; a branch adds a linear map of the
tokens that its predecessor read to the tokens it reads (zero at first, so that a branch begins
without it); every branch has a score head, because the tracker needs a confidence at any depth.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from mixformerv2_ros.model.spec import ModelSpec
from mixformerv2_ros.network.heads import BoxHead, ScoreHead


class DecisionHead(nn.Module):
    """Estimates the IoU of the box that an exit predicts, as a logit."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        width = spec.width
        self.layers = nn.Sequential(
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, 1),
        )

    def forward(self, prediction_tokens: Tensor) -> Tensor:
        """(B, 4, width) -> (B,) logits; their sigmoid is the IoU."""
        return self.layers(prediction_tokens.mean(dim=1)).flatten()


@dataclass(frozen=True)
class ExitOutput:
    """What one exit says of a batch of B.

    Attributes:
        edge_logits: (B, 4, bins), order left, top, right, bottom.
        score_logits: (B,).
        quality_logits: (B,); their sigmoid is the estimated IoU of the box.
        prediction_tokens: (B, 4, width), what the heads read; the next exit recycles it.
    """

    edge_logits: Tensor
    score_logits: Tensor
    quality_logits: Tensor
    prediction_tokens: Tensor


class Exit(nn.Module):
    """The heads after one of the blocks.

    Args:
        spec: The architecture.
        recycles: Whether there is an exit before this one.
    """

    def __init__(self, spec: ModelSpec, recycles: bool) -> None:
        super().__init__()
        self.recycling = nn.Linear(spec.width, spec.width) if recycles else None
        if self.recycling is not None:
            nn.init.zeros_(self.recycling.weight)
            nn.init.zeros_(self.recycling.bias)
        self.box_head = BoxHead(spec)
        self.score_head = ScoreHead(spec)
        self.decision_head = DecisionHead(spec)

    def tokens(self, prediction_tokens: Tensor, recycled: Tensor | None) -> Tensor:
        """What the heads read, (B, 4, width); see `forward`."""
        if self.recycling is None:
            return prediction_tokens
        assert recycled is not None
        return prediction_tokens + self.recycling(recycled)

    def forward(self, prediction_tokens: Tensor, recycled: Tensor | None) -> ExitOutput:
        """Answer from prediction tokens (B, 4, width) after this exit's block.

        Args:
            prediction_tokens: The tokens.
            recycled: `ExitOutput.prediction_tokens` of the exit before; None for the first.
        """
        tokens = self.tokens(prediction_tokens, recycled)
        return ExitOutput(
            edge_logits=self.box_head(tokens),
            score_logits=self.score_head(tokens),
            # The decision is taught, the tokens are not taught by it.
            quality_logits=self.decision_head(tokens.detach()),
            prediction_tokens=tokens,
        )
