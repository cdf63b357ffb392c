"""Where the four prediction tokens look: attention over templates and search region.

Each row of a sheet is a layer (and a head, or the mean of the heads), each column a prediction
token, as in figures 1 and 2 of the paper's supplement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from mixformerv2_ros.engines.segments import whole_memory
from mixformerv2_ros.engines.torch_engine import Memory, TorchEngine
from mixformerv2_ros.lab.visualization.observe import Moment
from mixformerv2_ros.lab.visualization.sheet import (
    EDGE_COLORS,
    FAINT,
    INK,
    SMALL,
    Image,
    add_axes,
    add_text,
    crop_extents,
    crops_width,
    draw_box,
    new_sheet,
    show,
    show_crops,
)
from mixformerv2_ros.model.engine import EDGES, Prediction
from mixformerv2_ros.model.spec import ModelSpec
from mixformerv2_ros.network.backbone import PREDICTION_TOKENS

TOKENS = ("left", "right", "top", "bottom")
"""Order of the prediction tokens inside the network."""

_TOKEN_OF_EDGE = [TOKENS.index(edge) for edge in EDGES]

COLOR_MAP = "inferno"
"""Perceptually uniform: equal steps of a value look like equal steps."""

SEARCH_SIDE = 200
"""Side of a search region in a sheet, in pixels; templates have half of it."""
LABELS, MARGIN, PAD, TOP = 176, 16, 8, 48
"""Column of labels, margins, space between cells, and height of the title, in pixels."""

Attention = npt.NDArray[np.float32]


class AttentionEngine(TorchEngine):
    """The torch engine, which can also return the attention of the prediction tokens."""

    @torch.inference_mode()
    def attend(self, crops: npt.NDArray[np.uint8], memory: Memory) -> tuple[Prediction, Attention]:
        """Find one target in (1, S, S, 3) uint8 RGB.

        Returns:
            The prediction, and the attention of the prediction tokens, (depth, heads, 4, tokens)
            float32: tokens in the order of `EDGES`; per token a probability distribution over
            `[templates | search | prediction tokens in the network's order]`.
        """
        rows: list[torch.Tensor] = []
        output = self._search(crops, *whole_memory(memory), rows)
        attention = torch.stack(rows)[:, 0].float().cpu().numpy()
        return self._predict(output), attention[:, :, _TOKEN_OF_EDGE]


@dataclass(frozen=True)
class Maps:
    """The attention of one query, laid out over the crops.

    Attributes:
        templates: (1 + n, G, G), per template its patches.
        search: (G, G).
        tokens: (4,), attention to the prediction tokens.
    """

    templates: npt.NDArray[np.float32]
    search: npt.NDArray[np.float32]
    tokens: npt.NDArray[np.float32]

    @property
    def top(self) -> float:
        """The largest attention to a patch."""
        return float(max(self.templates.max(), self.search.max()))


@dataclass(frozen=True)
class AttentionRow:
    """What a row of an attention sheet shows.

    Attributes:
        layer: Which block, from 0.
        head: Which head, from 0; None for the mean of the heads.
    """

    layer: int
    head: int | None

    @property
    def name(self) -> str:
        """Layer and head as text."""
        head = "mean of heads" if self.head is None else f"head {self.head + 1}"
        return f"layer {self.layer + 1}, {head}"


def split_maps(attention: Attention, spec: ModelSpec) -> Maps:
    """Lay one distribution over tokens (tokens,) out over the crops it belongs to."""
    end = len(attention) - PREDICTION_TOKENS
    start = end - spec.search_tokens
    side, grid = isqrt(spec.template_tokens), isqrt(spec.search_tokens)
    return Maps(
        templates=attention[:start].reshape(-1, side, side),
        search=attention[start:end].reshape(grid, grid),
        tokens=attention[end:],
    )


def row_attention(attention: Attention, row: AttentionRow) -> Attention:
    """Attention (4, tokens) of one row of a sheet."""
    layer = attention[row.layer]
    chosen: Attention = layer.mean(axis=0) if row.head is None else layer[row.head]
    return chosen


def attention_sheet(
    moment: Moment, rows: Sequence[AttentionRow], spec: ModelSpec, title: str
) -> Figure:
    """Draw one frame's attention: a row per entry of `rows`, a column per prediction token.

    Raises:
        ParameterError: the sheet would be too large to be shown.
    """
    if moment.attention is None:
        raise ValueError("expected a frame with attention, got one without")
    cell = crops_width(len(memory_templates(moment)), SEARCH_SIDE)
    step = SEARCH_SIDE + PAD
    width = 2 * MARGIN + LABELS + len(EDGES) * (cell + PAD)
    below = TOP + step + 24
    figure = new_sheet(width, below + len(rows) * step + 44, title)
    left = MARGIN + LABELS
    _draw_crops(moment, add_axes(figure, left, TOP, cell, SEARCH_SIDE))
    names = [f"online {number + 1}" for number in range(len(moment.before.online))]
    add_text(
        figure,
        MARGIN,
        TOP,
        "\n".join(
            ["input", "", "initial template", *names[:5], "", "search region", "with predicted box"]
        ),
    )
    add_text(
        figure,
        left + cell + 2 * PAD,
        TOP,
        "\n".join(
            [
                *describe(moment),
                "",
                "Attention of the four prediction tokens over the patches of all crops.",
                "Bars: share of the attention by kind of token.",
            ]
        ),
        linespacing=1.5,
    )
    for column, edge in enumerate(EDGES):
        x = left + column * (cell + PAD)
        add_text(figure, x, below - 20, f"{edge} token", weight="bold", color=EDGE_COLORS[edge])
    for number, row in enumerate(rows):
        y = below + number * step
        queries = row_attention(moment.attention, row)
        add_text(figure, MARGIN, y, row.name.replace(", ", "\n"), linespacing=1.4)
        shares = add_axes(figure, MARGIN + 50, y + 44, LABELS - 90, 84)
        _draw_shares(split_maps(queries.mean(axis=0), spec), shares)
        for column, query in enumerate(queries):
            axes = add_axes(figure, left + column * (cell + PAD), y, cell, SEARCH_SIDE)
            draw_maps(moment, split_maps(query, spec), axes)
    draw_color_scale(figure, left, below + len(rows) * step, "largest value of the cell (max)")
    return figure


def draw_maps(moment: Moment, maps: Maps, axes: Axes) -> None:
    """Draw templates and search region in grey, and their attention under one scale of colours."""
    crops = [_grey(crop) for crop in (*memory_templates(moment), moment.crop)]
    show_crops(axes, crops, cmap="gray", vmin=0, vmax=360)
    top = maps.top or 1.0
    grids = [*maps.templates, maps.search]
    for grid, extent in zip(grids, crop_extents(len(maps.templates)), strict=True):
        # The crop stays visible where little happens and gives way where much does.
        opacity = 0.25 + 0.5 * np.clip(grid / top, 0, 1)
        show(
            axes, grid, extent, cmap=COLOR_MAP, vmin=0, vmax=top, alpha=opacity,
            interpolation="bilinear",
        )  # fmt: skip
    axes.text(
        0.98, 0.97, f"max {_percent(maps.top)}", size=SMALL, color="white", ha="right", va="bottom",
        path_effects=[withStroke(linewidth=2.5, foreground="black")],
    )  # fmt: skip


def draw_color_scale(figure: Figure, x: float, y: float, top: str) -> None:
    """Draw the scale of attention below a place in pixels."""
    axes = add_axes(figure, x, y, 160, 12)
    figure.colorbar(ScalarMappable(cmap=COLOR_MAP), cax=axes, orientation="horizontal", ticks=[])
    add_text(figure, x - 14, y, "0", size=SMALL)
    add_text(figure, x + 168, y, top, size=SMALL)


def memory_templates(moment: Moment) -> list[Image]:
    """Templates that the network used, the initial one first."""
    return [moment.before.initial, *moment.before.online]


def describe(moment: Moment) -> list[str]:
    """Facts about a frame, a line each."""
    x, y, w, h = moment.seen.box
    count = len(moment.before.online)
    return [
        f"frame {moment.index}, {moment.state.name}, confidence {moment.seen.confidence:.3f}",
        f"box {x:.1f}, {y:.1f}, {w:.1f} x {h:.1f} px",
        f"search region {moment.side} px, {count} online template{'s' * (count != 1)}",
    ]


def _draw_crops(moment: Moment, axes: Axes) -> None:
    show_crops(axes, [*memory_templates(moment), moment.crop])
    draw_box(axes, moment.edges)


def _draw_shares(maps: Maps, axes: Axes) -> None:
    """Draw how attention is shared out among the kinds of tokens."""
    shares = {
        "initial": float(maps.templates[0].sum()),
        "online": float(maps.templates[1:].sum()),
        "search": float(maps.search.sum()),
        "tokens": float(maps.tokens.sum()),
    }
    bars = axes.barh(list(shares), list(shares.values()), color=FAINT, height=0.62)
    axes.bar_label(bars, [f"{share:.0%}" for share in shares.values()], size=SMALL, padding=3)
    axes.set_yticks(range(len(shares)), list(shares), size=SMALL, color=INK)
    axes.set_xlim(0, 1)
    axes.invert_yaxis()
    axes.tick_params(length=0)
    axes.spines[["top", "right", "bottom"]].set_visible(False)


def _grey(crop: Image) -> npt.NDArray[np.float64]:
    return np.asarray(crop @ np.array([0.299, 0.587, 0.114]))


def _percent(value: float) -> str:
    return f"{value:.1%}" if value < 0.995 else "100%"
