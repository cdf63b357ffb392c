"""The four edge distributions along the sides of the search region (figure 3 of the paper)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox

from mixformerv2_ros.lab.visualization.attention import (
    AttentionRow,
    describe,
    draw_color_scale,
    draw_maps,
    memory_templates,
    row_attention,
    split_maps,
)
from mixformerv2_ros.lab.visualization.observe import Moment
from mixformerv2_ros.lab.visualization.sheet import (
    EDGE_COLORS,
    FAINT,
    TEXT,
    add_axes,
    add_text,
    crops_width,
    new_sheet,
    show,
)
from mixformerv2_ros.model.engine import EDGES
from mixformerv2_ros.model.spec import ModelSpec

SIDE = 384
"""Side of the search region in the sheet, in pixels."""
DEPTH = 84
"""Height of a distribution that reaches the largest probability of the four, in pixels."""
MARGIN, GAP, NOTES = 16, 24, 280
"""Margins, space between parts, and width of the numbers, in pixels."""


@dataclass(frozen=True)
class EdgeDistribution:
    """The distribution of one edge of the box.

    Attributes:
        name: One of `EDGES`.
        probabilities: (bins,), bin i stands for coordinate i / bins of the crop's side.
        mean: Its mean over the crop's side, which is the predicted edge.
        std: Its standard deviation over the crop's side.
    """

    name: str
    probabilities: npt.NDArray[np.float32]
    mean: float
    std: float


def edge_distributions(edges: npt.NDArray[np.float32]) -> list[EdgeDistribution]:
    """Name and measure the distributions (4, bins) of one prediction."""
    positions = np.arange(edges.shape[1]) / edges.shape[1]
    found = []
    for name, probabilities in zip(EDGES, edges, strict=True):
        mean = float(probabilities @ positions)
        variance = float(probabilities @ np.square(positions)) - mean * mean
        found.append(EdgeDistribution(name, probabilities, mean, max(variance, 0.0) ** 0.5))
    return found


def distribution_sheet(moment: Moment, row: AttentionRow, spec: ModelSpec, title: str) -> Figure:
    """Draw one frame: distributions around the search region, attention, and numbers."""
    if moment.attention is None:
        raise ValueError("expected a frame with attention, got one without")
    edges = edge_distributions(moment.prediction.edges[0])
    cell = crops_width(len(memory_templates(moment)), SIDE)
    left, top = MARGIN + DEPTH + 44, 48 + DEPTH + 24
    right = left + SIDE + DEPTH + 44 + GAP
    width = right + cell + GAP + NOTES + MARGIN
    figure = new_sheet(width, top + SIDE + DEPTH + 24 + MARGIN, title)
    _draw_distributions(figure, moment, edges, left, top)
    maps = split_maps(row_attention(moment.attention, row).mean(axis=0), spec)
    add_text(
        figure, right, top - 22, f"attention, {row.name}, mean of the four tokens", weight="bold"
    )
    draw_maps(moment, maps, add_axes(figure, right, top, cell, SIDE))
    draw_color_scale(figure, right + 14, top + SIDE + 12, "max")
    _write_numbers(figure, moment, edges, right + cell + GAP, top)
    return figure


def _draw_distributions(
    figure: Figure, moment: Moment, edges: Sequence[EdgeDistribution], x: float, y: float
) -> None:
    """The search region with left's distribution above, right's below, top's left, bottom's right.

    Each lies along the axis that its edge is a coordinate of.
    """
    crop = add_axes(figure, x, y, SIDE, SIDE)
    show(crop, moment.crop, (0, 1, 1, 0), interpolation="catrom")
    peak = max(float(edge.probabilities.max()) for edge in edges)
    places = {
        "left": (x, y - DEPTH - 4, SIDE, DEPTH),
        "right": (x, y + SIDE + 4, SIDE, DEPTH),
        "top": (x - DEPTH - 4, y, DEPTH, SIDE),
        "bottom": (x + SIDE + 4, y, DEPTH, SIDE),
    }
    labels = {
        "left": (x, y - DEPTH - 24),
        "right": (x, y + SIDE + DEPTH + 8),
        "top": (x - DEPTH - 4, y - 20),
        "bottom": (x + SIDE + 4, y - 20),
    }
    for edge in edges:
        color = EDGE_COLORS[edge.name]
        axes = add_axes(figure, *places[edge.name])
        add_text(figure, *labels[edge.name], edge.name, weight="bold", color=color)
        _draw_histogram(axes, edge, peak)
        for target, shade in ((axes, 0.25), (crop, 0.38)):
            vertical = edge.name in ("left", "right")
            span = target.axvspan if vertical else target.axhspan
            span(edge.mean - edge.std, edge.mean + edge.std, color=color, alpha=shade, linewidth=0)
        line = crop.axvline if vertical else crop.axhline
        line(
            edge.mean, color=color, linewidth=1.4,
            path_effects=[withStroke(linewidth=3, foreground="black")],
        )  # fmt: skip
    crop.set_xlim(0, 1)
    crop.set_ylim(1, 0)


def _draw_histogram(axes: Axes, edge: EdgeDistribution, peak: float) -> None:
    """Bars that stand on the side of the search region."""
    bins = len(edge.probabilities)
    positions, color = np.arange(bins) / bins, EDGE_COLORS[edge.name]
    if edge.name in ("left", "right"):
        axes.bar(positions, edge.probabilities, width=1 / bins, color=color)
        axes.axvline(edge.mean, color="black", linewidth=0.8)
        axes.set_xlim(0, 1)
        axes.set_ylim((0, peak) if edge.name == "left" else (peak, 0))
    else:
        axes.barh(positions, edge.probabilities, height=1 / bins, color=color)
        axes.axhline(edge.mean, color="black", linewidth=0.8)
        axes.set_ylim(1, 0)
        axes.set_xlim((0, peak) if edge.name == "bottom" else (peak, 0))
    axes.set_facecolor("#fafafa")
    base = {"left": "bottom", "right": "top", "top": "right", "bottom": "left"}[edge.name]
    for name, spine in axes.spines.items():
        spine.set_visible(name == base)
        spine.set_color(FAINT)


def _write_numbers(
    figure: Figure, moment: Moment, edges: Sequence[EdgeDistribution], x: float, y: float
) -> None:
    add_text(figure, x, y, "\n".join(describe(moment)), linespacing=1.5)
    axes = add_axes(figure, x, y + 80, NOTES - 60, 130)
    axes.set_axis_off()
    table = axes.table(
        [
            [edge.name, f"{edge.mean * moment.side:.1f} px", f"{edge.std * moment.side:.1f} px"]
            for edge in edges
        ],
        colLabels=["edge", "mean", "std"],
        bbox=Bbox.unit(),
        cellLoc="right",
        colLoc="right",
        edges="horizontal",
    )
    table.auto_set_font_size(False)
    table.set_fontsize(TEXT)
    for (row, _), cell in table.get_celld().items():
        cell.set_edgecolor(FAINT)
        if row:
            cell.set_text_props(color=EDGE_COLORS[edges[row - 1].name])
    add_text(
        figure,
        x,
        y + 228,
        "Pixels of the image, from the top-left\ncorner of the search region. Black line:\n"
        "mean; tinted: one standard deviation.",
        linespacing=1.5,
    )
