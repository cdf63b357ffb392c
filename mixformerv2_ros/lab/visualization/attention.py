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

from mixformerv2_ros.engines.torch_engine import TorchEngine, TorchMemory
from mixformerv2_ros.lab.visualization.observe import Moment
from mixformerv2_ros.lab.visualization.sheet import (
    EDGE_COLORS,
    FAINT,
    GRID,
    INK,
    LINE,
    Crop,
    Picture,
    above,
    beside,
    blank,
    check_size,
    color_scale,
    draw_edges,
    enlarge,
    fit_text,
    heat,
    write_text,
)
from mixformerv2_ros.model.engine import EDGES, Prediction
from mixformerv2_ros.model.spec import ModelSpec
from mixformerv2_ros.network.backbone import PREDICTION_TOKENS

TOKENS = ("left", "right", "top", "bottom")
"""Order of the prediction tokens inside the network."""

_TOKEN_OF_EDGE = [TOKENS.index(edge) for edge in EDGES]

SEARCH_SIDE = 200
"""Side of a search region in a sheet, in pixels; templates have half of it."""
LABELS = 190
"""Width of the column of labels."""
GAP = 8

Attention = npt.NDArray[np.float32]


class WatchingEngine(TorchEngine):
    """The torch engine, which also tells where the prediction tokens look."""

    @torch.inference_mode()
    def attend(
        self, crops: npt.NDArray[np.uint8], memory: TorchMemory
    ) -> tuple[Prediction, Attention]:
        """Find one target in (1, S, S, 3) uint8 RGB.

        Returns:
            The prediction, and the attention of the prediction tokens, (depth, heads, 4, tokens)
            float32: tokens in the order of `EDGES`; per token a probability distribution over
            `[templates | search | prediction tokens in the network's order]`.
        """
        rows: list[torch.Tensor] = []
        output = self.model.search(self._load(crops), *memory, rows)
        attention = torch.stack(rows)[:, 0].cpu().numpy()
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
class Row:
    """A row of an attention sheet.

    Attributes:
        layer: Which block, from 0.
        head: Which head, from 0; None for the mean of the heads.
    """

    layer: int
    head: int | None


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


def row_attention(attention: Attention, row: Row) -> Attention:
    """Attention (4, tokens) of one row of a sheet."""
    layer = attention[row.layer]
    chosen: Attention = layer.mean(axis=0) if row.head is None else layer[row.head]
    return chosen


def attention_sheet(moment: Moment, rows: Sequence[Row], spec: ModelSpec, title: str) -> Picture:
    """Draw one frame's attention: a row per entry of `rows`, a column per prediction token.

    Raises:
        ParameterError: the sheet would be too large to be shown.
    """
    if moment.attention is None:
        raise ValueError("the moment must have been watched")
    width = LABELS + len(EDGES) * (_cell_width(moment) + GAP)
    check_size(len(rows) * (SEARCH_SIDE + GAP), width)
    parts = [_header(moment, title, width), _headings(_cell_width(moment))]
    for row in rows:
        queries = row_attention(moment.attention, row)
        maps = [split_maps(query, spec) for query in queries]
        cells = [map_cell(moment, one) for one in maps]
        labels = _labels(row, split_maps(queries.mean(axis=0), spec))
        parts.append(beside([labels, *cells], GAP))
    legend = color_scale(160, "0", "largest value of the cell (max)")
    return above([*parts, legend], GAP)


def map_cell(moment: Moment, maps: Maps, side: int = SEARCH_SIDE) -> Picture:
    """Templates and, beside them, the search region under one scale of colours."""
    top = maps.top
    crops = _templates(moment)
    small = [
        heat(crop, grid, top, side // 2) for crop, grid in zip(crops, maps.templates, strict=True)
    ]
    search = heat(moment.crop, maps.search, top, side)
    write_text(
        search, f"max {_share(top)}", side - 6, side - 7, (255, 255, 255), halo=True, align="right"
    )
    return _arrange(small, search)


def crop_cell(moment: Moment, side: int = SEARCH_SIDE) -> Picture:
    """The same arrangement of the crops themselves, with the predicted box."""
    search = enlarge(moment.crop, side)
    draw_edges(search, moment.edges)
    return _arrange([enlarge(crop, side // 2) for crop in _templates(moment)], search)


def describe(moment: Moment) -> list[str]:
    """Facts about a frame, a line each."""
    x, y, w, h = moment.seen.box
    return [
        f"frame {moment.index}, {moment.state.name}, confidence {moment.seen.confidence:.3f}",
        f"box {x:.1f}, {y:.1f}, {w:.1f} x {h:.1f} px",
        f"search region {moment.side} px, {len(moment.before.online)} online template(s)",
    ]


def _templates(moment: Moment) -> list[Crop]:
    return [moment.before.initial, *moment.before.online]


def _arrange(small: list[Picture], search: Picture) -> Picture:
    """Templates from top to bottom, two to a column, then the search region."""
    columns = [above(small[i : i + 2]) for i in range(0, len(small), 2)]
    return beside([*columns, search], 2)


def _cell_width(moment: Moment) -> int:
    columns = (len(_templates(moment)) + 1) // 2
    return columns * (SEARCH_SIDE // 2 + 2) + SEARCH_SIDE


def _header(moment: Moment, title: str, width: int) -> Picture:
    labels = blank(SEARCH_SIDE, LABELS)
    names = ["initial template", *(f"online {i + 1}" for i in range(len(moment.before.online)))]
    write_text(labels, "what it saw", 0, 16, bold=True)
    for number, name in enumerate(names[:6]):
        write_text(labels, name, 0, 40 + number * LINE)
    write_text(labels, "search region, box", 0, 40 + min(len(names), 6) * LINE)
    cell = crop_cell(moment)
    text = blank(SEARCH_SIDE, width - LABELS - cell.shape[1] - 2 * GAP)
    write_text(text, fit_text(title, text.shape[1], 0.6), 4, 24, scale=0.6, bold=True)
    lines = [
        *describe(moment),
        "",
        "attention of the four prediction tokens over the patches of all crops;",
        "bars: share of the attention that goes to each kind of token",
    ]
    for number, line in enumerate(lines):
        write_text(text, line, 4, 54 + number * LINE)
    return beside([labels, cell, text], GAP)


def _headings(cell_width: int) -> Picture:
    image = blank(LINE + 2, LABELS + len(EDGES) * (cell_width + GAP))
    for number, edge in enumerate(EDGES):
        x = LABELS + GAP + number * (cell_width + GAP)
        image[LINE - 1 :, x : x + cell_width] = EDGE_COLORS[edge]
        write_text(image, f"{edge} token", x, LINE - 6, bold=True)
    return image


def _labels(row: Row, maps: Maps) -> Picture:
    """Name of a row, and how its attention is shared out among the kinds of tokens."""
    image = blank(SEARCH_SIDE, LABELS)
    head = "mean of heads" if row.head is None else f"head {row.head + 1}"
    write_text(image, f"layer {row.layer + 1}", 0, 16, bold=True)
    write_text(image, head, 0, 36)
    shares = {
        "initial": float(maps.templates[0].sum()),
        "online": float(maps.templates[1:].sum()),
        "search": float(maps.search.sum()),
        "tokens": float(maps.tokens.sum()),
    }
    left, full = 62, 80
    for number, (name, share) in enumerate(shares.items()):
        y = 62 + number * LINE
        write_text(image, name, 0, y)
        image[y - 11 : y + 2, left : left + full] = GRID
        image[y - 11 : y + 2, left : left + max(round(full * share), 1)] = FAINT
        write_text(image, f"{share:.0%}", left + full + 4, y, INK)
    return image


def _share(value: float) -> str:
    return f"{value:.1%}" if value < 0.995 else "100%"
