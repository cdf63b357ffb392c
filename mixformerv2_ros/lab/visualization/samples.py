"""What training sees: templates, search region, box, foreground patches and label of samples."""

from __future__ import annotations

from collections.abc import Iterable
from math import isqrt

import cv2
import numpy as np
import numpy.typing as npt
import torch

from mixformerv2_ros.lab.training.losses import patch_coverage
from mixformerv2_ros.lab.training.sample import Sample
from mixformerv2_ros.lab.visualization.sheet import (
    ACCENT,
    BOX,
    INK,
    LINE,
    Picture,
    above,
    beside,
    blank,
    draw_edges,
    enlarge,
    fit_text,
    write_text,
)
from mixformerv2_ros.model.spec import ModelSpec

SEARCH = 256
"""Side of a search region in the sheet, in pixels; templates have half of it."""
GAP = 14


def foreground(sample: Sample, spec: ModelSpec) -> npt.NDArray[np.float32]:
    """Share of every search patch that the box covers, (G, G): what the classifier is taught."""
    side = isqrt(spec.search_tokens)
    edges = torch.from_numpy(sample.edges)[None]
    covered: npt.NDArray[np.float32] = patch_coverage(edges, side).reshape(side, side).numpy()
    return covered


def sample_tile(number: int, sample: Sample, spec: ModelSpec) -> Picture:
    """Draw one sample: initial template over online template, then the search region."""
    search = enlarge(sample.search, SEARCH)
    covered = foreground(sample, spec)
    weight = cv2.resize(covered, (SEARCH, SEARCH), interpolation=cv2.INTER_NEAREST)[..., None]
    tint = search * (1 - 0.45 * weight) + np.array(BOX) * 0.45 * weight
    search = np.rint(tint).astype(np.uint8)
    if sample.present:
        draw_edges(search, sample.edges)
    templates = above([enlarge(crop, SEARCH // 2) for crop in sample.templates])
    body = beside([templates, search], 2)
    caption = blank(LINE, body.shape[1])
    write_text(caption, f"sample {number}", 0, LINE - 6)
    label, color = ("present", INK) if sample.present else ("absent", ACCENT)
    if sample.present:
        label += f", {covered.sum():.1f} of {covered.size} patches"
    write_text(caption, label, body.shape[1], LINE - 6, color, bold=True, align="right")
    return above([caption, body])


def samples_sheet(
    samples: Iterable[tuple[int, Sample]], spec: ModelSpec, columns: int, title: str
) -> Picture:
    """Draw samples in rows of `columns`; at least one is needed.

    Raises:
        ParameterError: the sheet would be too large to be shown.
    """
    tiles = [sample_tile(number, sample, spec) for number, sample in samples]
    rows = [beside(tiles[i : i + columns], GAP) for i in range(0, len(tiles), columns)]
    heading = blank(2 * LINE + 12, max(rows[0].shape[1], 700))
    write_text(heading, fit_text(title, heading.shape[1], 0.6), 0, 20, scale=0.6, bold=True)
    write_text(
        heading,
        "left: initial and online template; right: search region with the target's box, "
        "tinted by the share of each patch that it covers",
        0,
        44,
    )
    return above([heading, *rows], GAP)
