"""Charts as inline SVG, styled by the page that they stand in (see `visualization/page.css`).

Every function returns one `<svg>` element as text. Colours are classes: `s0` .. `s7` for series,
and names such as `hit` or `absent` for meanings, so that light, dark and printed pages each choose
their own. Labels are escaped here; callers pass plain text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]

PALETTE = 8
"""Number of series colours; the ninth series has the first colour again, in dots."""

LEFT, RIGHT, TOP, BOTTOM = 42, 12, 10, 40


@dataclass(frozen=True)
class Axis:
    """One axis of a chart.

    Attributes:
        label: What it shows, with the unit.
        low: Value at its start.
        high: Value at its end.
        ticks: Values that are marked, with their texts.
        log: Whether distances show ratios.
    """

    label: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    log: bool = False

    def place(self, values: npt.ArrayLike) -> Values:
        """Position of each value as a share of the axis' length; not clipped."""
        array = np.asarray(values, dtype=np.float64)
        if self.log:
            span = math.log(self.high / self.low)
            return np.asarray(np.log(np.maximum(array, self.low * 1e-3) / self.low) / span)
        return np.asarray((array - self.low) / (self.high - self.low))


def linear_axis(label: str, low: float, high: float, count: int = 5) -> Axis:
    """Axis from `low` to `high` with about `count` ticks at round values (1, 2 or 5 times 10^n)."""
    step = round_step((high - low) / count)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    digits = max(0, -math.floor(math.log10(step)))
    ticks = tuple((i * step, f"{i * step:.{digits}f}") for i in range(first, last + 1))
    return Axis(label, low, high, ticks)


def log_axis(label: str, low: float, high: float) -> Axis:
    """Logarithmic axis that spans `low` .. `high`, ticks at 1, 2 and 5 times powers of ten."""
    ticks = []
    for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1):
        for digit in (1, 2, 5):
            value = digit * 10.0**power
            if low <= value <= high:
                ticks.append((value, f"{value:g}"))
    return Axis(label, low, high, tuple(ticks), log=True)


def round_step(rough: float) -> float:
    """Smallest of 1, 2 and 5 times a power of ten that is not below `rough`."""
    power = 10.0 ** math.floor(math.log10(rough))
    for digit in (1.0, 2.0, 5.0):
        if rough <= digit * power * (1 + 1e-9):
            return digit * power
    return 10.0 * power


@dataclass(frozen=True, eq=False)
class Line:
    """One curve.

    Attributes:
        label: Name of the series.
        x: (N,) positions.
        y: (N,) heights; NaN interrupts the curve.
        series: Number of the series, which chooses colour and dashes.
        strong: Whether it is the one that the chart is about.
        low: (N,) lower edge of a band around it, with `high`.
        high: (N,) upper edge.
        dots: Whether points are marked.
    """

    label: str
    x: Values
    y: Values
    series: int = 0
    strong: bool = False
    low: Values | None = None
    high: Values | None = None
    dots: bool = False


@dataclass(frozen=True, eq=False)
class Bars:
    """One layer of a stacked histogram.

    Attributes:
        label: What the layer counts.
        counts: (N,) heights, one per bin.
        style: Class that gives its colour, such as `hit`.
    """

    label: str
    counts: Values
    style: str


@dataclass(frozen=True)
class Guide:
    """A reference line: at `x`, at `y`, or the diagonal where neither is given."""

    text: str = ""
    x: float | None = None
    y: float | None = None


def series_class(series: int) -> str:
    """Classes that give a series its colour and dashes."""
    dashes = "dotted" if series >= PALETTE else "dashed" if series % 2 else "solid"
    return f"s{series % PALETTE} {dashes}"


def line_chart(
    name: str,
    lines: Sequence[Line],
    x: Axis,
    y: Axis,
    guides: Sequence[Guide] = (),
    size: tuple[int, int] = (420, 290),
) -> str:
    """Curves over two axes. Strong lines are drawn last.

    Curves that share their `x` can be read off at the pointer where the page's script runs.

    Args:
        name: What the chart shows, for readers that cannot see it.
        lines: The curves.
        x: Horizontal axis.
        y: Vertical axis.
        guides: Reference lines.
        size: Width and height in user units, about pixels.
    """
    frame = _Frame(x, y, *size)
    parts = [frame.grid(), *(frame.guide(guide) for guide in guides)]
    for line in sorted(lines, key=lambda each: each.strong):
        parts.append(frame.line(line))
    shared = bool(lines) and all(np.array_equal(lines[0].x, each.x) for each in lines)
    xs = f' data-x="{_numbers(lines[0].x)}"' if shared else ""
    return frame.svg(name, "".join(parts), f"{xs} {frame.scale()}")


def histogram(
    name: str,
    edges: Values,
    layers: Sequence[Bars],
    x: Axis,
    y: Axis,
    guides: Sequence[Guide] = (),
    size: tuple[int, int] = (420, 290),
) -> str:
    """Stacked bars between `edges` (N + 1), the first layer at the bottom.

    The other arguments are those of `line_chart`.
    """
    frame = _Frame(x, y, *size)
    parts = [frame.grid(), *(frame.guide(guide) for guide in guides)]
    base = np.zeros(len(edges) - 1)
    for layer in layers:
        top = base + layer.counts
        for index in np.flatnonzero(layer.counts > 0):
            said = (
                f"{edges[index]:.3g} to {edges[index + 1]:.3g}: "
                f"{layer.counts[index]:g} {layer.label}"
            )
            parts.append(
                frame.bar(
                    edges[index], edges[index + 1], base[index], top[index], layer.style, said
                )
            )
        base = top
    return frame.svg(name, "".join(parts))


@dataclass(frozen=True, eq=False)
class Row:
    """One row of `histogram_rows`.

    Attributes:
        label: Name at its left.
        note: Text at its right.
        counts: (N,) heights; each row is scaled by its own largest.
        mark: Value that a tick marks, such as the median.
        series: As in `Line`.
    """

    label: str
    note: str
    counts: Values
    mark: float
    series: int


def histogram_rows(name: str, edges: Values, rows: Sequence[Row], x: Axis, width: int = 900) -> str:
    """Small histograms below each other over one horizontal axis, each with a marked value."""
    step, deep = 46, 30
    y = Axis("", 0.0, 1.0, ())
    frame = _Frame(x, y, width, TOP + step * len(rows) + BOTTOM, left=12)
    parts = [frame.grid()]
    places = frame.across(edges)
    for number, row in enumerate(rows):
        floor = TOP + step * (number + 1) - 2
        heights = row.counts / max(float(row.counts.max(initial=0.0)), 1.0) * deep
        path = [f"M{places[0]:.1f} {floor}"]
        for index, height in enumerate(heights):
            path.append(f"V{floor - height:.1f}H{places[index + 1]:.1f}")
        mark = float(frame.across(np.array([row.mark]))[0])
        tick = (
            f'<path class="mark" d="M{mark:.1f} {floor}v{-deep}"/>' if math.isfinite(mark) else ""
        )
        parts.append(
            f'<g class="row {series_class(row.series)}" data-series="{row.series}">'
            f"<title>{escape(row.label)}: {escape(row.note)}</title>"
            f'<path class="fill" d="{"".join(path)}V{floor}Z"/>{tick}'
            f'<path class="rule" d="M{frame.left} {floor}H{frame.right}"/>'
            f'<text class="name" x="{frame.left + 4}" y="{floor - 32}">{escape(row.label)}</text>'
            f'<text class="note" x="{frame.right}" y="{floor - 32}">{escape(row.note)}</text></g>'
        )
    return frame.svg(name, "".join(parts))


@dataclass(frozen=True, eq=False)
class Trace:
    """One curve of a `timeline`: (N,) values in [0, 1], one per frame, and the class it has."""

    values: Values
    style: str


def timeline(
    name: str,
    traces: Sequence[Trace],
    spans: Sequence[tuple[int, int, str]] = (),
    marks: Sequence[int] = (),
    height: int = 60,
    columns: int = 400,
) -> str:
    """Curves over the frames of a clip without any text, which stretches to the width it is given.

    Args:
        name: What it shows, for readers that cannot see it.
        traces: The curves, all of one length.
        spans: Ranges of frames [start, stop) to shade, each with its class.
        marks: Frames to mark by a vertical line.
        height: Height in pixels.
        columns: Where there are more frames than this, each column shows the least value of its
            frames, so that no failure is averaged away.
    """
    frames = len(traces[0].values) if traces else 0
    parts = []
    for start, stop, style in spans:
        parts.append(
            f'<rect class="{style}" x="{start}" y="0" width="{stop - start}" height="100"/>'
        )
    for trace in traces:
        at, values = _least(trace.values, columns)
        heights = 100 - 96 * np.clip(values, 0, 1) - 2
        if "area" in trace.style:
            for first, last in _runs(~np.isnan(values)):
                shape = _path(at[first:last], heights[first:last])
                end = at[last - 1]
                parts.append(
                    f'<path class="{trace.style}" d="{shape}H{end + 1:g}V100H{at[first]:g}Z"/>'
                )
        else:
            parts.append(f'<path class="{trace.style}" d="{_path(at + 0.5, heights)}"/>')
    for mark in marks:
        parts.append(f'<path class="at" d="M{mark + 0.5:g} 0V100"/>')
    return (
        f'<svg class="timeline" role="img" aria-label="{escape(name)}" height="{height}" '
        f'viewBox="0 0 {max(frames, 1)} 100" preserveAspectRatio="none">{"".join(parts)}</svg>'
    )


class _Frame:
    """The plotting area of a chart: places values, draws what all charts share."""

    def __init__(self, x: Axis, y: Axis, width: int, height: int, left: int = LEFT) -> None:
        self.x, self.y, self.width, self.height = x, y, width, height
        self.left, self.right = left, width - RIGHT
        self.top, self.bottom = TOP, height - BOTTOM

    def across(self, values: npt.ArrayLike) -> Values:
        return np.asarray(self.left + self.x.place(values) * (self.right - self.left))

    def down(self, values: npt.ArrayLike) -> Values:
        return np.asarray(self.bottom - self.y.place(values) * (self.bottom - self.top))

    def scale(self) -> str:
        return (
            f'data-left="{self.left}" data-right="{self.right}" data-low="{self.x.low:g}" '
            f'data-high="{self.x.high:g}" data-what="{escape(self.x.label)}"'
        )

    def svg(self, name: str, inside: str, data: str = "") -> str:
        return (
            f'<svg class="chart" role="img" aria-label="{escape(name)}" '
            f'viewBox="0 0 {self.width} {self.height}" {data}>{inside}</svg>'
        )

    def grid(self) -> str:
        parts = []
        for value, text in self.x.ticks:
            at = float(self.across(value))
            parts.append(f'<path class="grid" d="M{at:.1f} {self.top}V{self.bottom}"/>')
            parts.append(f'<text class="tick x" x="{at:.1f}" y="{self.bottom + 15}">{text}</text>')
        for value, text in self.y.ticks:
            at = float(self.down(value))
            parts.append(f'<path class="grid" d="M{self.left} {at:.1f}H{self.right}"/>')
            parts.append(f'<text class="tick y" x="{self.left - 6}" y="{at + 4:.1f}">{text}</text>')
        middle = (self.left + self.right) / 2
        parts.append(
            f'<text class="label" x="{middle:.1f}" y="{self.height - 6}">'
            f"{escape(self.x.label)}</text>"
        )
        if self.y.label:
            up = (self.top + self.bottom) / 2
            parts.append(
                f'<text class="label" transform="translate(11 {up:.1f}) rotate(-90)">'
                f"{escape(self.y.label)}</text>"
            )
        return "".join(parts)

    def guide(self, guide: Guide) -> str:
        if guide.x is not None:
            at = float(self.across(guide.x))
            said = escape(guide.text)
            text = f'<text class="guide" x="{at + 4:.1f}" y="{self.top + 11}">{said}</text>'
            return f'<path class="guide" d="M{at:.1f} {self.top}V{self.bottom}"/>{text}'
        if guide.y is not None:
            at = float(self.down(guide.y))
            said = escape(guide.text)
            text = f'<text class="guide" x="{self.left + 4}" y="{at - 4:.1f}">{said}</text>'
            return f'<path class="guide" d="M{self.left} {at:.1f}H{self.right}"/>{text}'
        return f'<path class="guide" d="M{self.left} {self.bottom}L{self.right} {self.top}"/>'

    def line(self, line: Line) -> str:
        xs = self.across(line.x)
        parts = []
        if line.low is not None and line.high is not None:
            for first, last in _runs(~np.isnan(line.low) & ~np.isnan(line.high)):
                upper = _path(xs[first:last], self.down(line.high[first:last]))
                lower = _path(xs[first:last][::-1], self.down(line.low[first:last][::-1]))
                parts.append(f'<path class="band" d="{upper}L{lower[1:]}Z"/>')
        ys = self.down(line.y)
        parts.append(f'<path class="curve" d="{_path(xs, ys)}"/>')
        if line.dots:
            for at, height in zip(xs, ys, strict=True):
                if math.isfinite(height):
                    parts.append(f'<circle class="dot" cx="{at:.1f}" cy="{height:.1f}" r="3"/>')
        strong = " strong" if line.strong else ""
        return (
            f'<g class="line {series_class(line.series)}{strong}" data-series="{line.series}" '
            f'data-label="{escape(line.label)}" data-y="{_numbers(line.y)}">{"".join(parts)}</g>'
        )

    def bar(
        self, start: float, stop: float, base: float, top: float, style: str, title: str
    ) -> str:
        x1, x2 = self.across([start, stop])
        y1, y2 = self.down([base, top])
        return (
            f'<rect class="bar {style}" x="{x1 + 0.75:.1f}" y="{y2:.1f}" '
            f'width="{max(x2 - x1 - 1.5, 0.5):.1f}" height="{y1 - y2:.2f}">'
            f"<title>{escape(title)}</title></rect>"
        )


def _path(xs: Values, ys: Values) -> str:
    """Path data through the points; a NaN lifts the pen."""
    parts, pen = [], "M"
    for x, y in zip(xs, ys, strict=True):
        if math.isfinite(y):
            parts.append(f"{pen}{x:.1f} {y:.1f}")
            pen = "L"
        else:
            pen = "M"
    return "".join(parts)


def _runs(flags: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Ranges [start, stop) in which all flags are set."""
    changes = np.diff(np.concatenate([[0], flags.astype(np.int8), [0]]))
    starts, stops = np.flatnonzero(changes > 0), np.flatnonzero(changes < 0)
    return [(int(a), int(b)) for a, b in zip(starts, stops, strict=True)]


def _least(values: Values, columns: int) -> tuple[Values, Values]:
    """Position and least value of each of at most `columns` groups of neighbours."""
    size = max(1, math.ceil(len(values) / columns))
    starts = np.arange(0, len(values), size)
    lowest = np.minimum.reduceat(np.where(np.isnan(values), np.inf, values), starts)
    return starts.astype(np.float64), np.where(np.isinf(lowest), np.nan, lowest)


def _numbers(values: Values) -> str:
    return ",".join(f"{value:.4g}" if math.isfinite(value) else "" for value in values)
