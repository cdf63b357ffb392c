"""The network in segments: from the crops, or from one exit, to the next exit or the full depth.

A segment ends inside its last block: only the four prediction tokens are taken through it, all that
an exit reads. What the block makes of the search tokens is left to the segment after, which a
target that is answered here never sees. An exit therefore costs what a network cut there would
cost, its own heads apart. The same holds for the templates: each segment encodes keys and values
of its own blocks and leaves the rest of its last block to the next.

All segments after each other compute what `MixFormerV2.search` computes, in an order that may
differ in the last bits.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from mixformerv2_ros.model.spec import ModelSpec
from mixformerv2_ros.network.backbone import PREDICTION_TOKENS
from mixformerv2_ros.network.heads import edges_to_boxes, expected_edges
from mixformerv2_ros.network.model import MixFormerV2


@dataclass(frozen=True)
class SegmentState:
    """What one segment hands to the next, for a batch of B.

    Attributes:
        search_tokens: (B, search tokens, width), as they enter the last block of the segment.
        keys: Keys in that block, (B, heads, all tokens, channels): templates, search, prediction.
        values: Its values, in the same form.
        prediction_tokens: (B, 4, width) after that block.
        recycled: (B, 4, width), what the heads of the exit read, in float32.
    """

    search_tokens: Tensor
    keys: Tensor
    values: Tensor
    prediction_tokens: Tensor
    recycled: Tensor

    def rows(self, places: Tensor) -> SegmentState:
        """The state of the targets in these places (n,) of the batch."""
        return SegmentState(
            *(getattr(self, part.name).index_select(0, places) for part in fields(self))
        )


@dataclass(frozen=True)
class SegmentOutput:
    """What a segment answers for a batch of B.

    Attributes:
        boxes: (B, 4), see `Prediction`.
        scores: (B,) in [0, 1].
        edges: (B, 4, bins), distributions.
        quality: (B,), the estimated IoU of the boxes; None at full depth.
        state: For the next segment; None at full depth.
    """

    boxes: Tensor
    scores: Tensor
    edges: Tensor
    quality: Tensor | None
    state: SegmentState | None


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
) -> SegmentOutput:
    """Run one segment of a search.

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
        state, recycled = crops, crops.recycled
        search = backbone.blocks[first - 1].search_after_prediction(
            state.search_tokens, state.keys, state.values
        )
        tokens = torch.cat([search, state.prediction_tokens], dim=1)
    else:
        tokens = backbone.embed_search(crops)
    for block, k, v in zip(backbone.blocks[first : last - 1], keys, values, strict=False):
        tokens = block.search(tokens, k, v)
    block = backbone.blocks[last - 1]
    if last == network.spec.depth:
        output = network.heads(block.predict(tokens, keys[-1], values[-1]).float())
        return SegmentOutput(
            output.boxes,
            output.score_logits.sigmoid(),
            output.edge_logits.softmax(dim=-1),
            None,
            None,
        )
    prediction, all_keys, all_values = block.predict_first(tokens, keys[-1], values[-1])
    found = network.exit(last, prediction.float(), recycled)
    return SegmentOutput(
        edges_to_boxes(expected_edges(found.edge_logits)),
        found.score_logits.sigmoid(),
        found.edge_logits.softmax(dim=-1),
        found.quality_logits.sigmoid(),
        SegmentState(
            search_tokens=tokens[:, :-PREDICTION_TOKENS],
            keys=all_keys,
            values=all_values,
            prediction_tokens=prediction,
            recycled=found.prediction_tokens,
        ),
    )
