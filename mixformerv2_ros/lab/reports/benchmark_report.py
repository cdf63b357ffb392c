"""The page of `mixformerv2 benchmark --report`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bokeh.models import ColumnDataSource, DataRange1d, FactorRange, FixedTicker
from bokeh.plotting import figure

from mixformerv2_ros.files import write_file
from mixformerv2_ros.lab.reports.charts import (
    Series,
    add_hover,
    add_legend,
    line_chart,
    new_chart,
    series_color,
    series_dash,
)
from mixformerv2_ros.lab.reports.page import render_page

AXES = {
    "threads": "threads",
    "targets": "targets",
    "online_size": "online templates",
    "image": "megapixels of the image",
}
"""Titles of the scaling curves."""


def write_report(path: Path, result: Mapping[str, Any], parts: Sequence[str]) -> None:
    """Write the page.

    Args:
        path: The HTML file.
        result: What the command writes as JSON.
        parts: Names of the parts of a frame that are measured.

    Raises:
        SourceError: the file cannot be written.
    """
    charts: dict[str, figure] = {"times": _bars(result["variants"])}
    curves = []
    for axis, points in result.get("scaling", {}).items():
        charts[axis] = _curve(AXES[axis], points)
        curves.append((axis, AXES[axis]))
    exits = result.get("exits", [])
    if exits:
        charts["exits"] = _exits(exits)
    machine = result["machine"]
    page = render_page(
        "benchmark.html.j2",
        charts=charts,
        model=f"{result['model']['name']}, preset {result['model']['preset']}",
        facts=[
            ("machine", f"{machine['processor']}, {machine['cores']} cores"),
            ("image", "x".join(map(str, result["image"]))),
            ("threads", result["threads"]),
            ("targets", result["targets"]),
            ("online templates", result["online_size"]),
            *[(name, version) for name, version in result["versions"].items() if version],
        ],
        limits=result["limits"],
        variants=result["variants"],
        parts=parts,
        curves=curves,
        exits=exits,
        depth=result["model"]["depth"],
    )
    write_file(path, page)


def _bars(variants: Sequence[Mapping[str, Any]]) -> figure:
    """Medians of the engine's time, one bar each."""
    labels = [each["variant"] for each in variants]
    plot = new_chart(
        "engine, ms per frame (median, line to p95)", "", height=24 + 26 * len(labels),
        x_range=DataRange1d(start=0), y_range=FactorRange(factors=labels[::-1]),
    )  # fmt: skip
    times = [each["milliseconds"]["engine"] for each in variants]
    plot.hbar(y=labels, right=[one["p50"] for one in times], height=0.6, color=series_color(0))
    plot.segment(
        [one["p50"] for one in times], labels, [one["p95"] for one in times], labels,
        color=series_color(1), line_width=2,
    )  # fmt: skip
    return plot


def _exits(curves: Sequence[Mapping[str, Any]]) -> figure:
    """The engine's time by the number of blocks, with that of full depth in one graph."""
    at = np.array([0, *(point["at"] for point in curves[0]["points"])], dtype=np.float64)
    plot = new_chart(
        "blocks until the answer", "engine, ms per frame", y_range=DataRange1d(start=0),
        x_range=(0, 1.05 * at[-1]),
    )  # fmt: skip
    entries = []
    for series, curve in enumerate(curves):
        color, points = series_color(series), curve["points"]
        source = ColumnDataSource(
            {
                "at": [point["at"] for point in points],
                "ms": [point["ms"] for point in points],
                "of_full": [point["of_full"] for point in points],
            }
        )
        dots = plot.scatter("at", "ms", source=source, color=color, size=8, muted_alpha=0.12)
        add_hover(
            plot, [dots], ("engine", curve["name"]), ("blocks", "@at"),
            ("milliseconds", "@ms{0.00}"), ("over full depth", "@of_full{0.00}"),
        )  # fmt: skip
        line = plot.line(
            "at", "ms", source=source, color=color, line_dash=series_dash(series), line_width=2,
            muted_alpha=0.12,
        )  # fmt: skip
        full = plot.scatter(
            [at[-1]], [curve["full_ms"]], color=color, size=11, marker="diamond_cross",
            fill_color=None, line_width=2, muted_alpha=0.12,
        )  # fmt: skip
        level = plot.line(
            [0, at[-1]], [curve["full_ms"]] * 2, color=color, line_dash="dotted", muted_alpha=0.12
        )
        entries.append((curve["name"], [line, dots, full, level]))
    add_legend(plot, entries)
    plot.xaxis.ticker = FixedTicker(ticks=[int(one) for one in at])
    return plot


def _curve(title: str, points: Sequence[Mapping[str, Any]]) -> figure:
    """The engine's time over one setting."""
    plot = new_chart(title, "engine, ms per frame", y_range=DataRange1d(start=0))
    labels = [label for label in points[0] if label != "at"]
    at = np.array([point["at"] for point in points], dtype=np.float64)
    lines = [
        Series(label, np.array([point[label][0] for point in points]), number)
        for number, label in enumerate(labels)
    ]
    line_chart(plot, at, lines)
    return plot
