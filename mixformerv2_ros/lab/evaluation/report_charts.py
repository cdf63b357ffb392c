"""Charts of the evaluation report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from bokeh.models import (
    BasicTickFormatter,
    ColumnDataSource,
    FixedTicker,
    LogTicker,
)
from bokeh.plotting import figure

from mixformerv2_ros.lab.evaluation.analysis import (
    FAILED_BELOW,
    CalibrationBin,
    FailureSegment,
    flagged_spans,
)
from mixformerv2_ros.lab.evaluation.metrics import Floats
from mixformerv2_ros.lab.evaluation.results import Result
from mixformerv2_ros.lab.evaluation.trade_off import TradeOff, TradeOffPoint
from mixformerv2_ros.lab.reports.charts import (
    BAD,
    FONT,
    GOOD,
    INK,
    MIDDLING,
    PALETTE,
    Series,
    add_guide,
    add_hover,
    add_legend,
    histogram,
    line_chart,
    new_chart,
    series_color,
    series_dash,
)

STRIP_COLUMNS, STRIP_HEIGHT = 150, 22
"""Largest size of an overlap strip in pixels."""


def threshold_chart(
    thresholds: Floats, x_label: str, lines: Sequence[Series], guide: float | None = None
) -> figure:
    """Share of frames over a threshold, a curve per tracker."""
    plot = new_chart(
        x_label,
        "share of frames",
        x_range=(float(thresholds[0]), float(thresholds[-1])),
        y_range=(0, 1.01),
    )
    if guide is not None:
        add_guide(plot, "x", guide, f"{guide:g} px")
    line_chart(plot, thresholds, lines)
    return plot


def trade_off_chart(trade_off: TradeOff, x: Literal["ms", "depth"], x_label: str) -> figure:
    """Success AUC of one model over its cost, by thresholds and by cuts, with 95 % intervals."""
    everything = (*trade_off.dynamic, *trade_off.static)
    known = [getattr(one, x) for one in everything if np.isfinite(getattr(one, x))]
    low, high = min(one.auc.low for one in everything), max(one.auc.high for one in everything)
    plot = new_chart(
        x_label,
        "success AUC",
        x_range=(0, 1.2 * max(known, default=1.0)),
        y_range=(max(0.0, low - 0.03), min(1.0, high + 0.03)),
    )
    entries: list[tuple[str, list[Any]]] = []
    points: list[Any] = []
    for series, (name, line) in enumerate(
        (("thresholds", trade_off.curve), ("cuts", trade_off.static))
    ):
        drawn = [one for one in line if np.isfinite(getattr(one, x))]
        # Full depth belongs to both lines and is marked as a cut.
        marked = [
            one for one in drawn if one in (trade_off.static if series else trade_off.dynamic)
        ]
        color = series_color(series)
        entries.append(
            (
                name,
                [
                    plot.line(
                        "x", "y", source=_trade_off_source(drawn, x), color=color,
                        line_dash=series_dash(series), line_width=1.7 if series else 3,
                        muted_alpha=0.12,
                    ),
                    plot.segment(
                        "x", "low", "x", "high", source=_trade_off_source(marked, x), color=color,
                        line_width=1.3, alpha=0.5, muted_alpha=0.05,
                    ),
                    plot.scatter(
                        "x", "y", source=_trade_off_source(marked, x), color=color, size=8,
                        marker="square" if series else "circle", muted_alpha=0.12,
                    ),
                    plot.text(
                        "x", "y", "note", source=_trade_off_source(marked, x), text_color=color,
                        text_font_size="11px", text_font={"value": FONT},
                        x_offset=7, y_offset=18 if series else -8,
                    ),
                ],
            )
        )  # fmt: skip
        points.append(entries[-1][1][2])
    add_hover(
        plot,
        points,
        ("exits", "@name"),
        ("depth", "@depth{0.000}"),
        ("milliseconds", "@ms{0.00}"),
        ("success AUC", "@y{0.000}"),
        ("95 %", "@low{0.000} to @high{0.000}"),
    )
    add_legend(plot, entries)
    return plot


def _trade_off_source(points: Sequence[TradeOffPoint], x: str) -> ColumnDataSource:
    return ColumnDataSource(
        {
            "x": [getattr(one, x) for one in points],
            "y": [one.auc.mean for one in points],
            "low": [one.auc.low for one in points],
            "high": [one.auc.high for one in points],
            "name": [one.name for one in points],
            "note": [one.name.removeprefix("threshold ").removesuffix(" depth") for one in points],
            "depth": [one.depth for one in points],
            "ms": [one.ms for one in points],
        }
    )


@dataclass(frozen=True)
class CalibratedTracker:
    """One tracker of `calibration_chart`.

    Attributes:
        label: Its name.
        series: Its number, which chooses the colour.
        strong: Whether it is the one that the chart is about; its quartiles are drawn too.
        bins: Overlaps by confidence.
    """

    label: str
    series: int
    strong: bool
    bins: Sequence[CalibrationBin]


def calibration_chart(trackers: Sequence[CalibratedTracker]) -> figure:
    """Median overlap by confidence, with the quartiles of the tracker in focus."""
    low = min(0.0, *(tracker.bins[0].low for tracker in trackers))
    high = max(1.0, *(tracker.bins[-1].high for tracker in trackers))
    plot = new_chart(
        "confidence",
        "overlap (IoU)",
        x_range=(low, high),
        y_range=(0, 1.01),
    )
    plot.line([0, 1], [0, 1], color=INK, line_dash="dotted")
    add_guide(plot, "y", 0.5, "hit")
    entries: list[tuple[str, list[Any]]] = []
    points: list[Any] = []
    for tracker in trackers:
        source = _calibration_source(tracker)
        color = series_color(tracker.series)
        drawn: list[Any] = [
            plot.line(
                "confidence", "median", source=source, color=color,
                line_dash=series_dash(tracker.series), line_width=3 if tracker.strong else 1.7,
                muted_alpha=0.12,
            ),
            plot.scatter(
                "confidence", "median", source=source, color=color, size=7, muted_alpha=0.12
            ),
        ]  # fmt: skip
        points.append(drawn[-1])
        if tracker.strong:
            drawn.append(
                plot.varea(
                    "confidence", "lower", "upper", source=source, color=color, alpha=0.17,
                    muted_alpha=0.03,
                )
            )  # fmt: skip
        entries.append((tracker.label, drawn))
    add_hover(
        plot,
        points,
        ("tracker", "@label"),
        ("confidence", "@low{0.00} to @high{0.00}"),
        ("frames", "@frames"),
        ("median overlap", "@median{0.00}"),
        ("quartiles", "@lower{0.00}, @upper{0.00}"),
    )
    add_legend(plot, entries)
    return plot


def _calibration_source(tracker: CalibratedTracker) -> ColumnDataSource:
    found = [each for each in tracker.bins if each.frames]
    quartiles = np.array([each.quartiles for each in found]).reshape(-1, 3)
    return ColumnDataSource(
        {
            "label": [tracker.label] * len(found),
            "confidence": [(each.low + each.high) / 2 for each in found],
            "low": [each.low for each in found],
            "high": [each.high for each in found],
            "frames": [each.frames for each in found],
            "lower": quartiles[:, 0],
            "median": quartiles[:, 1],
            "upper": quartiles[:, 2],
        }
    )


def confidence_histogram(bins: Sequence[CalibrationBin]) -> figure:
    """Number of frames by confidence: misses, hits, and those in between."""
    edges = np.array([each.low for each in bins] + [bins[-1].high])
    frames = np.array([float(each.frames) for each in bins])
    hits = np.array([float(each.hits) for each in bins])
    misses = np.array([float(each.misses) for each in bins])
    plot = new_chart(
        "confidence",
        "frames",
        x_range=(float(edges[0]), float(edges[-1])),
        y_range=(0, float(frames.max()) * 1.05),
    )
    layers = [
        ("misses", BAD, misses),
        ("in between", MIDDLING, frames - hits - misses),
        ("hits", GOOD, hits),
    ]
    histogram(plot, edges, layers)
    return plot


@dataclass(frozen=True, eq=False)
class FrameTimes:
    """One tracker of `speed_chart`.

    Attributes:
        label: Its name.
        series: Its number, which chooses the colour.
        fps: Frames per second over all sequences.
        milliseconds: (N,) time of each frame.
    """

    label: str
    series: int
    fps: float
    milliseconds: Floats


def speed_chart(timings: Sequence[FrameTimes]) -> figure:
    """Histograms of the time per frame, one below the other, each with its median marked."""
    low = min(float(np.quantile(each.milliseconds, 0.002)) for each in timings) / 1.15
    high = max(float(np.quantile(each.milliseconds, 0.998)) for each in timings) * 1.15
    high = max(high, low * 1.5)
    edges = np.geomspace(low, high, 91)
    plot = new_chart(
        "milliseconds per frame",
        "",
        height=10 + 56 * len(timings),
        x_axis_type="log",
        x_range=(low, high),
        y_range=(0.9 - len(timings), 1.0),
    )
    bars: list[Any] = []
    for row, timing in enumerate(timings):
        counts = np.histogram(np.clip(timing.milliseconds, low, high), edges)[0]
        median, late = (float(each) for each in np.quantile(timing.milliseconds, [0.5, 0.95]))
        source = ColumnDataSource(
            {
                "left": edges[:-1],
                "right": edges[1:],
                "top": 0.62 * counts / max(counts.max(), 1) - row,
                "frames": counts,
                "label": [timing.label] * len(counts),
            }
        )
        bars.append(
            plot.quad(
                left="left", right="right", bottom=-row, top="top", source=source,
                color=series_color(timing.series), line_color=None,
            )
        )  # fmt: skip
        plot.segment(median, -row, median, 0.62 - row, color=INK, line_width=2)
        note = f"median {median:.3g} ms, 95 % below {late:.3g} ms, {timing.fps:.1f} fps"
        plot.text(
            [high], [0.66 - row], [note], text_align="right", text_color=INK,
            text_font_size="12px", text_font={"value": FONT},
        )  # fmt: skip
    plot.xaxis.ticker = LogTicker(mantissas=[1, 2, 5])
    plot.xaxis.formatter = BasicTickFormatter()
    plot.yaxis.ticker = FixedTicker(ticks=[-row for row in range(len(timings))])
    plot.yaxis.major_label_overrides = {-row: each.label for row, each in enumerate(timings)}
    add_hover(
        plot,
        bars,
        ("tracker", "@label"),
        ("milliseconds", "@left{0.00} to @right{0.00}"),
        ("frames", "@frames"),
    )
    return plot


def failure_chart(segment: FailureSegment, result: Result, shown: Sequence[int]) -> figure:
    """Overlap and confidence over a sequence: failures and absence shaded, shown frames marked."""
    frames = np.arange(1.0, len(segment.overlap) + 1)
    plot = new_chart(
        "frame",
        "",
        height=80,
        x_range=(0.5, len(frames) + 0.5),
        y_range=(0, 1.05),
    )
    for flags, color in ((segment.overlap < FAILED_BELOW, BAD), (np.isnan(segment.overlap), INK)):
        spans = np.array(flagged_spans(flags)).reshape(-1, 2)
        plot.vstrip(
            x0=spans[:, 0] + 0.5, x1=spans[:, 1] + 0.5, color=color, alpha=0.28, line_color=None
        )
    plot.vspan(x=[index + 1 for index in shown], color=INK, line_width=1)
    lines = [Series("overlap (IoU)", segment.overlap, 0)]
    if np.isfinite(result.confidences).any():
        lines.append(Series("confidence", result.confidences, 1))
    line_chart(plot, frames, lines)
    return plot


def overlap_strip(overlap: Floats) -> npt.NDArray[np.uint8]:
    """Overlap over a sequence as a bar per column: red where it fails, grey where absent.

    Each column shows the least overlap of its frames, so that no failure is averaged away.

    Returns:
        (STRIP_HEIGHT, at most STRIP_COLUMNS, 4) BGRA.
    """
    parts = np.array_split(overlap, min(len(overlap), STRIP_COLUMNS))
    least = np.array([np.nan if np.isnan(part).all() else np.nanmin(part) for part in parts])
    absent, failed = np.isnan(least), least < FAILED_BELOW
    colors = np.empty((len(least), 4), np.uint8)
    colors[:] = _bgra(PALETTE[0], 150)
    colors[failed], colors[absent] = _bgra(BAD, 110), _bgra(INK, 60)
    level = np.linspace(1, 0, STRIP_HEIGHT)[:, None]
    filled = (level <= np.nan_to_num(least)) | absent | failed
    strip: npt.NDArray[np.uint8] = np.where(filled[..., None], colors, 0).astype(np.uint8)
    return strip


def _bgra(color: str, alpha: int) -> tuple[int, int, int, int]:
    red, green, blue = bytes.fromhex(color.lstrip("#"))
    return blue, green, red, alpha
