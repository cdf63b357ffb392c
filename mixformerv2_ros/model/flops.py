"""How much a model computes: multiply-adds of linears, attention products and patch embedding.

Norms, softmax, GELU and biases are left out; they are not what takes the time.
"""

from __future__ import annotations

from dataclasses import replace

from mixformerv2_ros.model.spec import ModelSpec

_PREDICTION_TOKENS = 4


def frame_macs(spec: ModelSpec, online_templates: int = 1, skip_unused: bool = True) -> int:
    """Return the multiply-adds of one target in one frame, with cached templates.

    Args:
        spec: The architecture.
        online_templates: Number of online templates.
        skip_unused: Compute in the last block only what the prediction tokens ask for: keys and
            values of the search tokens, but none of their queries.
    """
    width = spec.width
    queries = spec.search_tokens + _PREDICTION_TOKENS
    keys = queries + (1 + online_templates) * spec.template_tokens
    box_head = _PREDICTION_TOKENS * width * (width + spec.bins)
    unused = spec.search_tokens if skip_unused else 0
    scored_tokens = 1 if spec.score_pooling == "mean" else _PREDICTION_TOKENS
    score_head = scored_tokens * width * (width + 1)
    return (
        _patch_embedding(spec, spec.search_tokens)
        + spec.depth * _block(spec, queries, keys)
        - _block(spec, unused, keys)
        + 2 * unused * width**2
        + box_head
        + score_head
    )


def exit_macs(spec: ModelSpec, online_templates: int = 1) -> dict[int, int]:
    """Return the multiply-adds of one target in one frame that is answered at each depth.

    What lies before is included: the heads of earlier exits, which answered and were not taken.

    Args:
        spec: The architecture.
        online_templates: Number of online templates.
    """
    width = spec.width
    heads = _PREDICTION_TOKENS * width * (width + spec.bins)
    heads += (1 if spec.score_pooling == "mean" else _PREDICTION_TOKENS) * width * (width + 1)
    decision = 2 * width**2 + width
    before, macs = 0, {}
    for number, depth in enumerate(spec.depths):
        macs[depth] = before + frame_macs(replace(spec, depth=depth), online_templates)
        if depth < spec.depth:
            recycling = _PREDICTION_TOKENS * width**2 if number else 0
            macs[depth] += decision + recycling
            before += heads + decision + recycling
    return macs


def template_macs(spec: ModelSpec, online_templates: int = 1, skip_unused: bool = True) -> int:
    """Return the multiply-adds of encoding the initial and the online templates.

    Args:
        spec: The architecture.
        online_templates: Number of online templates.
        skip_unused: Compute of the last block only keys and values: nothing asks for the rest.
    """
    tokens = (1 + online_templates) * spec.template_tokens
    macs = _patch_embedding(spec, tokens) + spec.depth * _block(spec, tokens, tokens)
    if skip_unused:
        macs -= _block(spec, tokens, tokens) - 2 * tokens * spec.width**2
    return macs


def _patch_embedding(spec: ModelSpec, tokens: int) -> int:
    return tokens * 3 * spec.PATCH**2 * spec.width


def _block(spec: ModelSpec, queries: int, keys: int) -> int:
    width, hidden = spec.width, round(spec.width * spec.mlp_ratio)
    projections = 4 * queries * width**2  # Queries, keys, values, output.
    attention = 2 * queries * keys * width
    return projections + attention + 2 * queries * width * hidden
