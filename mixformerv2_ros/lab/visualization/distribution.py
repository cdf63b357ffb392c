"""The four edge distributions along the sides of the search region (figure 3 of the paper)."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from mixformerv2_ros.lab.visualization.attention import (
    Row,
    describe,
    map_cell,
    row_attention,
    split_maps,
)
from mixformerv2_ros.lab.visualization.observe import Moment
from mixformerv2_ros.lab.visualization.sheet import (
    EDGE_COLORS,
    FAINT,
    GRID,
    LINE,
    Color,
    Picture,
    above,
    beside,
    blank,
    color_scale,
    enlarge,
    fit_text,
    paste,
    write_text,
)
from mixformerv2_ros.model.engine import EDGES
from mixformerv2_ros.model.spec import ModelSpec

SIDE = 384
"""Side of the search region in the picture, in pixels."""
DEPTH = 84
"""Height of a distribution that reaches the largest probability of the four."""
MARGIN = DEPTH + 2 * LINE
GAP = 16
TEXT = 300


@dataclass(frozen=True)
class Edge:
    """One edge's distribution.

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


def edge_distributions(edges: npt.NDArray[np.float32]) -> list[Edge]:
    """Name and measure the distributions (4, bins) of one prediction."""
    positions = np.arange(edges.shape[1]) / edges.shape[1]
    found = []
    for name, probabilities in zip(EDGES, edges, strict=True):
        mean = float(probabilities @ positions)
        variance = float(probabilities @ np.square(positions)) - mean * mean
        found.append(Edge(name, probabilities, mean, max(variance, 0.0) ** 0.5))
    return found


def distribution_sheet(moment: Moment, row: Row, spec: ModelSpec, title: str) -> Picture:
    """Draw one frame: distributions around the search region, attention, and numbers."""
    if moment.attention is None:
        raise ValueError("the moment must have been watched")
    edges = edge_distributions(moment.prediction.edges[0])
    maps = split_maps(row_attention(moment.attention, row).mean(axis=0), spec)
    head = "mean of heads" if row.head is None else f"head {row.head + 1}"
    attention = above(
        [
            _heading(f"attention, layer {row.layer + 1}, {head}, mean of the four tokens"),
            map_cell(moment, maps, SIDE),
            color_scale(160, "0", "max"),
        ],
        6,
    )
    below = blank(MARGIN - LINE - 6, 1)
    columns = [_around_crop(moment, edges), above([below, attention]), _numbers(moment, edges)]
    heading = blank(LINE + 12, 1)
    body = beside(columns, GAP)
    top = blank(heading.shape[0], body.shape[1])
    write_text(top, fit_text(title, body.shape[1], 0.6), 4, 22, scale=0.6, bold=True)
    return above([top, body])


def _heading(text: str) -> Picture:
    image = blank(LINE, SIDE + SIDE // 2)
    write_text(image, text, 0, LINE - 6, bold=True)
    return image


def _around_crop(moment: Moment, edges: list[Edge]) -> Picture:
    """The search region with left's distribution above, right's below, top's left, bottom's right.

    Each lies along the axis that its edge is a coordinate of.
    """
    crop = enlarge(moment.crop, SIDE)
    for edge in edges:
        _shade(crop, edge)
    for edge in edges:
        _line(crop, edge)
    image = blank(SIDE + 2 * MARGIN, SIDE + 2 * MARGIN)
    paste(image, crop, MARGIN, MARGIN)
    peak = max(float(edge.probabilities.max()) for edge in edges)
    left, top, right, bottom = (_curve(edge, peak) for edge in edges)
    near, far = MARGIN - DEPTH - 2, MARGIN + SIDE + 2
    paste(image, left, MARGIN, near)
    paste(image, np.asarray(cv2.flip(right, 0)), MARGIN, far)
    paste(image, np.asarray(cv2.transpose(top)), near, MARGIN)
    paste(image, np.asarray(cv2.flip(cv2.transpose(bottom), 1)), far, MARGIN)
    for edge, (x, y, align) in zip(
        edges,
        [
            (MARGIN, near - 8, "left"),
            (4, MARGIN - 8, "left"),
            (MARGIN, far + DEPTH + LINE, "left"),
            (far + DEPTH, MARGIN - 8, "right"),
        ],
        strict=True,
    ):
        write_text(image, edge.name, x, y, EDGE_COLORS[edge.name], bold=True, align=align)
    return image


def _is_column(edge: Edge) -> bool:
    return edge.name in ("left", "right")


def _shade(crop: Picture, edge: Edge) -> None:
    """Tint the strip of one standard deviation around the mean."""
    low, high = (
        round(float(np.clip(edge.mean + sign * edge.std, 0, 1)) * SIDE) for sign in (-1, 1)
    )
    strip = crop[:, low:high] if _is_column(edge) else crop[low:high]
    color = np.array(EDGE_COLORS[edge.name])
    strip[:] = np.rint(strip * 0.62 + color * 0.38).astype(np.uint8)


def _line(crop: Picture, edge: Edge) -> None:
    at = min(round(edge.mean * SIDE), SIDE - 1)
    start, end = ((at, 0), (at, SIDE - 1)) if _is_column(edge) else ((0, at), (SIDE - 1, at))
    cv2.line(crop, start, end, (0, 0, 0), 4)
    cv2.line(crop, start, end, EDGE_COLORS[edge.name], 2)


def _curve(edge: Edge, peak: float) -> Picture:
    """One distribution as bars that stand on the lower border: (DEPTH, SIDE, 3)."""
    image = blank(DEPTH, SIDE, (250, 250, 250))
    color: Color = EDGE_COLORS[edge.name]
    pale = tuple(round(255 - (255 - value) * 0.25) for value in color)
    low, high = ((edge.mean + sign * edge.std) * SIDE for sign in (-1, 1))
    image[:, max(round(low), 0) : max(round(high), 0)] = pale
    bins = len(edge.probabilities)
    for number, probability in enumerate(edge.probabilities):
        height = round(float(probability) / peak * (DEPTH - 2))
        x1, x2 = ((number + shift) / bins * SIDE for shift in (-0.5, 0.5))
        if height:
            image[DEPTH - height :, max(round(x1), 0) : round(x2)] = color
    image[-1] = FAINT
    at = min(round(edge.mean * SIDE), SIDE - 1)
    cv2.line(image, (at, 0), (at, DEPTH - 1), (0, 0, 0), 1)
    return image


def _numbers(moment: Moment, edges: list[Edge]) -> Picture:
    image = blank(SIDE + 2 * MARGIN, TEXT)
    y = MARGIN + 12
    for line in describe(moment):
        write_text(image, fit_text(line, TEXT), 0, y)
        y += LINE
    y += LINE
    write_text(image, "edge", 0, y, bold=True)
    write_text(image, "mean", 150, y, bold=True, align="right")
    write_text(image, "std", 240, y, bold=True, align="right")
    for edge in edges:
        y += LINE + 4
        image[y - 10 : y + 2, :12] = EDGE_COLORS[edge.name]
        write_text(image, edge.name, 20, y)
        write_text(image, f"{edge.mean * moment.side:.1f} px", 150, y, align="right")
        write_text(image, f"{edge.std * moment.side:.1f} px", 240, y, align="right")
    y += LINE
    image[y : y + 1, :240] = GRID
    for line in (
        "pixels of the image, from the search",
        "region's top-left corner; black line:",
        "mean, tinted: one standard deviation",
    ):
        y += LINE
        write_text(image, line, 0, y)
    return image
