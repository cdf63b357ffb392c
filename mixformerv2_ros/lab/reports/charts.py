"""Bokeh figures in the look of our pages.

Colours are legible on light and on dark paper, so that a page changes between both without drawing
its charts anew. Labels and legends are drawn or set as text by Bokeh, never as HTML.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from bokeh.models import (
    BoxZoomTool,
    ColumnDataSource,
    HoverTool,
    PanTool,
    ResetTool,
)
from bokeh.models.annotations import Label, Legend, LegendItem, Span
from bokeh.plotting import figure
from bokeh.themes import Theme

Values = npt.NDArray[np.floating[Any]]

PALETTE = (
    "#2f7fd6", "#df6427", "#10976f", "#bb5a9b", "#b98200", "#2f99c9", "#858a2c", "#7d8793",
)  # fmt: skip
"""Colours of series, by number; from the ninth series on they repeat."""

GOOD, MIDDLING, BAD = "#10976f", "#a0a8b3", "#d84a2b"
INK = "#7d8793"
"""Text and axes."""

FONT = "system-ui, sans-serif"
LEGEND_ROW = 30
"""Characters in a legend's row at most; the narrowest charts have about 350 pixels."""
THEME = Theme(
    json={
        "attrs": {
            "Plot": {
                "background_fill_color": None,
                "border_fill_color": None,
                "outline_line_color": None,
            },
            "Axis": {
                "axis_line_color": None,
                "major_tick_line_color": None,
                "minor_tick_line_color": None,
                "major_label_text_color": INK,
                "major_label_text_font": FONT,
                "axis_label_text_color": INK,
                "axis_label_text_font": FONT,
                "axis_label_text_font_style": "normal",
                "axis_label_text_font_size": "12px",
            },
            "BasicTickFormatter": {"use_scientific": False},
            "Grid": {"grid_line_color": INK, "grid_line_alpha": 0.25},
            "Legend": {
                "background_fill_color": None,
                "border_line_color": None,
                "label_text_color": INK,
                "label_text_font": FONT,
                "label_text_font_size": "12px",
                "padding": 2,
                "margin": 2,
                "location": "left",
            },
        }
    }
)


def series_color(series: int) -> str:
    """Colour of a series by its number."""
    return PALETTE[series % len(PALETTE)]


def series_dash(series: int) -> str:
    """Dashes of a series by its number, so that series differ not in colour alone."""
    if series >= len(PALETTE):
        return "dotted"
    return "dashed" if series % 2 else "solid"


def new_chart(x_label: str, y_label: str, *, height: int = 230, **options: Any) -> figure:
    """An empty figure as wide as its place in the page; drag zooms along x.

    Args:
        x_label: What the horizontal axis shows, with the unit.
        y_label: The same of the vertical axis.
        height: Height of the plotting area in pixels.
        options: More options of `bokeh.plotting.figure`, such as ranges.
    """
    zoom = BoxZoomTool(dimensions="width")
    plot = figure(
        frame_height=height,
        sizing_mode="stretch_width",
        x_axis_label=x_label,
        y_axis_label=y_label,
        tools=[zoom, PanTool(dimensions="width"), ResetTool()],
        active_drag=zoom,
        **options,
    )
    plot.toolbar.logo = None
    plot.toolbar.autohide = True
    return plot


@dataclass(frozen=True, eq=False)
class Series:
    """One curve of `line_chart`.

    Attributes:
        label: Its name.
        y: (N,) values; NaN interrupts the curve.
        series: Its number, which chooses colour and dashes.
        note: Text before the name in the legend, such as a score.
        strong: Whether it is the one that the chart is about.
    """

    label: str
    y: Values
    series: int = 0
    note: str = ""
    strong: bool = False


def line_chart(plot: figure, x: Values, lines: Sequence[Series]) -> None:
    """Draw curves that share `x`; all their values are shown at the pointer.

    Several curves get a legend below the chart: a click on an entry fades its curve.
    """
    columns = {f"y{number}": line.y.astype(np.float32) for number, line in enumerate(lines)}
    source = ColumnDataSource({"x": x.astype(np.float32), **columns})
    renderers: list[Any] = [
        plot.line(
            "x",
            f"y{number}",
            source=source,
            color=series_color(line.series),
            line_dash=series_dash(line.series),
            line_width=3 if line.strong else 1.7,
            muted_alpha=0.12,
            # The strong one lies over the others.
            level="overlay" if line.strong else "glyph",
        )
        for number, line in enumerate(lines)
    ]
    # One of the renderers is asked; its source holds the values of all.
    add_hover(
        plot,
        renderers[:1],
        (str(plot.xaxis.axis_label), "@x{0.[000]}"),
        *((line.label, f"@y{number}{{0.000}}") for number, line in enumerate(lines)),
        mode="vline",
    )
    if len(lines) > 1:
        names = [f"{line.note} {line.label}".strip() for line in lines]
        add_legend(plot, [(name, [each]) for name, each in zip(names, renderers, strict=True)])


def add_hover(
    plot: figure,
    renderers: Sequence[Any],
    *lines: tuple[str, str],
    mode: Literal["mouse", "vline"] = "mouse",
) -> None:
    """Show values at the pointer.

    Args:
        plot: The chart.
        renderers: What is pointed at.
        lines: Name and format of each value, such as `("frames", "@frames{0}")`.
        mode: Whether the pointer must be on it or only above or below.
    """
    # A line is hit at both ends of a segment; one read-out is enough.
    plot.add_tools(HoverTool(renderers=list(renderers), tooltips=list(lines), mode=mode, limit=1))


def add_legend(plot: figure, entries: Sequence[tuple[str, Sequence[Any]]]) -> None:
    """Put a legend below a chart, in a row where the names fit into one, else in a column.

    A click on an entry fades what it names.

    Args:
        plot: The chart.
        entries: Names with their renderers.
    """
    in_row = sum(len(name) for name, _ in entries) <= LEGEND_ROW
    legend = Legend(
        items=[
            LegendItem(label={"value": name}, renderers=list(renderers))
            for name, renderers in entries
        ],
        orientation="horizontal" if in_row else "vertical",
        spacing=12 if in_row else 0,
        click_policy="mute",
    )
    plot.add_layout(legend, "below")


def add_guide(plot: figure, axis: Literal["x", "y"], value: float, text: str) -> None:
    """Draw a dotted reference line at a value of an axis, with a text beside it."""
    if axis == "x":
        line = Span(location=value, dimension="height")
        assert plot.frame_height is not None  # see new_chart
        label = Label(x=value, y=plot.frame_height - 12, y_units="screen")
    else:
        line = Span(location=value, dimension="width")
        label = Label(x=0, x_units="screen", y=value)
    line.update(line_color=INK, line_dash="dotted", line_width=1)
    label.update(
        text=text, text_color=INK, text_font=FONT, text_font_size="11px", x_offset=4, y_offset=1
    )
    plot.add_layout(line)
    plot.add_layout(label)


def histogram(
    plot: figure,
    edges: Values,
    layers: Sequence[tuple[str, str, Values]],
) -> None:
    """Draw bars stacked between `edges` (N + 1), the first layer at the bottom.

    Args:
        plot: The chart.
        edges: Borders of the bins.
        layers: Per layer its name, its colour, and its counts (N,).
    """
    base = np.zeros(len(edges) - 1)
    columns: dict[str, Values] = {"left": edges[:-1], "right": edges[1:]}
    for number, (_, _, counts) in enumerate(layers):
        columns |= {f"low{number}": base, f"high{number}": base + counts, f"n{number}": counts}
        base = base + counts
    source = ColumnDataSource(columns)
    renderers: list[Any] = [
        plot.quad(
            left="left", right="right", bottom=f"low{number}", top=f"high{number}", source=source,
            color=color, line_color=None, muted_alpha=0.12,
        )
        for number, (_, color, _) in enumerate(layers)
    ]  # fmt: skip
    add_hover(
        plot,
        renderers[:1],
        (str(plot.xaxis.axis_label), "@left{0.[000]} to @right{0.[000]}"),
        *((name, f"@n{number}{{0}}") for number, (name, _, _) in enumerate(layers)),
        mode="vline",
    )
    if len(layers) > 1:
        add_legend(
            plot, [(name, [bars]) for (name, _, _), bars in zip(layers, renderers, strict=True)]
        )
