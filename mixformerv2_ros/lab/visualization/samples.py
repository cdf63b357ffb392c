"""What training sees: templates, search region, box, foreground patches and label of samples."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, isqrt

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from mixformerv2_ros.lab.training.losses import patch_coverage
from mixformerv2_ros.lab.training.sample import Sample
from mixformerv2_ros.lab.visualization.sheet import (
    ACCENT,
    BOX,
    INK,
    TEXT,
    add_axes,
    add_text,
    crops_width,
    draw_box,
    new_sheet,
    show,
    show_crops,
)
from mixformerv2_ros.model.spec import ModelSpec

SEARCH_SIDE = 256
"""Side of a search region in the sheet, in pixels; templates have half of it."""
MARGIN, GAP, CAPTION, TOP = 16, 16, 20, 68
"""Margins, space between samples, height of a caption and of the heading, in pixels."""

_TINT = LinearSegmentedColormap.from_list("tint", [BOX, BOX])


def foreground(sample: Sample, spec: ModelSpec) -> npt.NDArray[np.float32]:
    """Share of every search patch that the box covers, (G, G): the classifier's target."""
    side = isqrt(spec.search_tokens)
    edges = torch.from_numpy(sample.edges)[None]
    covered: npt.NDArray[np.float32] = patch_coverage(edges, side).reshape(side, side).numpy()
    return covered


def samples_sheet(
    samples: Sequence[tuple[int, Sample]], spec: ModelSpec, columns: int, title: str
) -> Figure:
    """Draw samples, each with its number, in rows of `columns`; at least one is needed.

    Raises:
        ParameterError: the sheet would be too large to be shown.
    """
    width = crops_width(len(samples[0][1].templates), SEARCH_SIDE)
    step, rows = SEARCH_SIDE + CAPTION + GAP, ceil(len(samples) / columns)
    across = 2 * MARGIN + min(columns, len(samples)) * (width + GAP) - GAP
    figure = new_sheet(max(across, 760), TOP + rows * step, title)
    add_text(
        figure,
        MARGIN,
        42,
        "left: initial and online template; right: search region with the target's box, tinted by "
        "the share of each patch that it covers",
    )
    for index, (number, sample) in enumerate(samples):
        row, column = divmod(index, columns)
        x, y = MARGIN + column * (width + GAP), TOP + row * step + CAPTION
        axes = add_axes(figure, x, y, width, SEARCH_SIDE)
        _draw_sample(axes, number, sample, foreground(sample, spec))
    return figure


def _draw_sample(axes: Axes, number: int, sample: Sample, covered: npt.NDArray[np.float32]) -> None:
    show_crops(axes, [*sample.templates, sample.search])
    show(axes, np.zeros_like(covered), (0, 1, 1, 0), cmap=_TINT, alpha=0.45 * covered)
    label, color = "absent", ACCENT
    if sample.present:
        draw_box(axes, sample.edges)
        label, color = f"present, {covered.sum():.1f} of {covered.size} patches", INK
    axes.set_title(f"sample {number}", loc="left", size=TEXT, color=INK, pad=4)
    axes.set_title(label, loc="right", size=TEXT, color=color, weight="bold", pad=4)
