"""The architecture of a model."""

from __future__ import annotations

from dataclasses import dataclass

POOLINGS = ("tokens", "mean")
"""Values of `ModelSpec.score_pooling`, the released one first."""


@dataclass(frozen=True)
class ModelSpec:
    """The architecture of one model; everything that shapes depend on.

    Attributes:
        preset: Name of the preset: `S`, `B`, `T`, or `custom`.
        width: Channels per token.
        depth: Number of transformer blocks.
        heads: Attention heads per block.
        mlp_ratio: Hidden width of a block's MLP over `width`.
        bins: Bins of each edge distribution.
        template_size: Side of a template crop in pixels.
        search_size: Side of a search crop in pixels.
        score_pooling: `tokens` averages the score over the four prediction tokens (released
            code), `mean` scores the averaged token (the paper's formula).
        exits: Numbers of blocks after which the model may answer without running the rest,
            ascending and below `depth`; empty in released models. At the full depth the model
            answers as one without exits.
    """

    preset: str
    width: int
    depth: int
    heads: int
    mlp_ratio: float
    bins: int
    template_size: int
    search_size: int
    score_pooling: str = "tokens"
    exits: tuple[int, ...] = ()

    PATCH = 16
    """Side of a patch in pixels, the same in every preset."""

    @property
    def depths(self) -> tuple[int, ...]:
        """Numbers of blocks after which the model can answer: the exits, then all blocks."""
        return (*self.exits, self.depth)

    @property
    def template_tokens(self) -> int:
        """Tokens of one template."""
        return (self.template_size // self.PATCH) ** 2

    @property
    def search_tokens(self) -> int:
        """Tokens of the search region."""
        return (self.search_size // self.PATCH) ** 2
