"""The page of `mixformerv2 benchmark --report`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bokeh.models import DataRange1d, FactorRange
from bokeh.plotting import figure

from mixformerv2_ros.files import write_file
from mixformerv2_ros.lab.reports.charts import Series, line_chart, new_chart, series_color
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
