"""The network in segments: from the crops, or from one exit, to the next exit or the full depth.

A segment ends inside its last block: only the four prediction tokens are taken through it, all that
an exit reads. What the block makes of the search tokens is left to the segment after, which a
target that is answered here never sees. An exit therefore costs what a network cut there would
cost, but for queries that only the next segment asks with and for the decision. Of an exit's heads,
a segment runs the one that decides; the others wait until its answer is taken (`exit_answer`). The
same holds for the templates: each segment encodes keys and values of its own blocks and leaves the
rest of its last block to the next.

All segments after each other compute what `MixFormerV2.search` computes, in an order that may
differ in the last bits.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from torch import Tensor

from mixformerv2_ros.model.spec import ModelSpec
from mixformerv2_ros.network.heads import edges_to_boxes, expected_edges
from mixformerv2_ros.network.model import MixFormerV2


@dataclass(frozen=True)
class SegmentState:
    """What one segment hands to the next, for a batch of B.

    Attributes:
        tokens: (B, search tokens + 4, width), as they enter the last block of the segment.
        queries: Of these tokens in that block, (B, heads, search tokens + 4, channels).
        keys: Keys in that block, (B, heads, all tokens, channels): templates, search, prediction.
        values: Its values, in the same form.
        exit_tokens: (B, 4, width), what the heads of the exit read, in float32; its answer is made
            of them, and the next exit recycles them.
    """

    tokens: Tensor
    queries: Tensor
    keys: Tensor
    values: Tensor
    exit_tokens: Tensor

    def rows(self, places: Tensor) -> SegmentState:
        """The state of the targets in these places (n,) of the batch."""
        return SegmentState(
            *(getattr(self, part.name).index_select(0, places) for part in fields(self))
        )


@dataclass(frozen=True)
class Answer:
    """What the heads answer for a batch of B.

    Attributes:
        boxes: (B, 4), see `Prediction`.
        scores: (B,) in [0, 1].
        edges: (B, 4, bins), distributions.
    """

    boxes: Tensor
    scores: Tensor
    edges: Tensor

    @classmethod
    def of_logits(cls, edge_logits: Tensor, score_logits: Tensor) -> Answer:
        """From edge logits (B, 4, bins) and score logits (B,)."""
        return cls(
            edges_to_boxes(expected_edges(edge_logits)),
            score_logits.sigmoid(),
            edge_logits.softmax(dim=-1),
        )


@dataclass(frozen=True)
class ExitReached:
    """What a segment that ends with an exit has for a batch of B.

    Attributes:
        quality: (B,), the estimated IoU of the boxes that the exit would answer.
        state: For that answer, and for the next segment.
    """

    quality: Tensor
    state: SegmentState


def segment_blocks(spec: ModelSpec, number: int) -> tuple[int, int]:
    """Blocks that have been run before segment `number`, counted from 0, and after it."""
    return (spec.depths[number - 1] if number else 0), spec.depths[number]


def encode_segment(
    network: MixFormerV2, number: int, templates: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Encode templates for one segment.

    Args:
        network: The network.
        number: Which segment, counted from 0.
        templates: For the first one normalised templates (B, K, 3, T, T), for every other the
            tokens that the segment before returned.

    Returns:
        Tokens for the next segment, (B, K * template tokens, width); keys and values of the blocks
        of this one, each (blocks, B, heads, K * template tokens, channels).
    """
    backbone = network.backbone
    first, last = segment_blocks(network.spec, number)
    tokens = templates if number else backbone.embed_templates(templates)
    return backbone.encode_blocks(tokens, first, last)


def search_segment(
    network: MixFormerV2,
    number: int,
    crops: Tensor | SegmentState,
    keys: Tensor,
    values: Tensor,
) -> ExitReached | Answer:
    """Run one segment of a search: to its exit, or to the answer of the full depth.

    Args:
        network: The network.
        number: Which segment, counted from 0.
        crops: For the first one normalised crops (B, 3, S, S), for every other the state that the
            segment before returned.
        keys: See `encode_segment`.
        values: See `encode_segment`.
    """
    backbone = network.backbone
    first, last = segment_blocks(network.spec, number)
    recycled = None
    if isinstance(crops, SegmentState):
        state, recycled = crops, crops.exit_tokens
        tokens = backbone.blocks[first - 1].search_after_prediction(
            state.tokens, state.queries, state.keys, state.values
        )
    else:
        tokens = backbone.embed_search(crops)
    for block, k, v in zip(backbone.blocks[first : last - 1], keys, values, strict=False):
        tokens = block.search(tokens, k, v)
    block = backbone.blocks[last - 1]
    if last == network.spec.depth:
        output = network.heads(block.predict(tokens, keys[-1], values[-1]).float())
        return Answer.of_logits(output.edge_logits, output.score_logits)
    prediction, queries, all_keys, all_values = block.predict_first(tokens, keys[-1], values[-1])
    leaving = network.exit(last)
    exit_tokens = leaving.tokens(prediction.float(), recycled)
    return ExitReached(
        leaving.decision_head(exit_tokens).sigmoid(),
        SegmentState(
            tokens=tokens,
            queries=queries,
            keys=all_keys,
            values=all_values,
            exit_tokens=exit_tokens,
        ),
    )


def exit_answer(network: MixFormerV2, number: int, exit_tokens: Tensor) -> Answer:
    """What the exit at the end of segment `number` answers, from its tokens (B, 4, width)."""
    leaving = network.exit(network.spec.exits[number])
    return Answer.of_logits(leaving.box_head(exit_tokens), leaving.score_head(exit_tokens))
