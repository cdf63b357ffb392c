"""Report of one run: what the tracker did over a clip, as one self-contained page."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from bokeh.models import ColumnDataSource, FixedTicker, Range1d
from bokeh.plotting import figure

from mixformerv2_ros.files import write_file
from mixformerv2_ros.lab.reports.charts import (
    BAD,
    GOOD,
    INK,
    MIDDLING,
    Series,
    add_guide,
    add_hover,
    add_legend,
    histogram,
    line_chart,
    new_chart,
)
from mixformerv2_ros.lab.reports.page import jpeg_uri, render_page
from mixformerv2_ros.tracking.session import State, Track

Image = npt.NDArray[np.uint8]
Values = npt.NDArray[np.float64]

OVERVIEW = 10
"""Frames in the strip over the whole run."""
DOUBTFUL = 5
"""Frames of least confidence that are shown."""
DOUBTFUL_DISTANCE = 10
"""Frames between two of them at least."""
_THUMBNAIL = 360


@dataclass(frozen=True)
class RunFacts:
    """What a run was made with; for the head of the report.

    Attributes:
        source: The clip or recording.
        facts: Names and values to list, in order.
        score_threshold: Confidence above which a frame can become a template.
        links: Names and relative paths of the run's other files.
        commands: Command lines that make this run again.
    """

    source: str
    facts: tuple[tuple[str, str], ...]
    score_threshold: float
    links: tuple[tuple[str, str], ...] = ()
    commands: tuple[str, ...] = ()


class RunReport:
    """Collects a run frame by frame and writes the page when it is closed.

    Memory: a few numbers per frame, and a fixed number of small images.
    """

    def __init__(self, path: Path, facts: RunFacts) -> None:
        self.path = path
        self.facts = facts
        self._rows: dict[str, list[tuple[float, ...]]] = {}
        self._seconds: list[float] = []
        self._frames = 0
        self._stride = 1
        self._overview: list[tuple[Image, str]] = []
        self._doubtful: list[tuple[float, int, Image, str]] = []
        self._states: Counter[State] = Counter()

    def write(self, image: Image, tracks: Sequence[Track], seconds: float) -> None:
        """Take over one frame.

        Args:
            image: (H, W, 3) uint8 BGR, with the tracks drawn in.
            tracks: Tracks of this frame.
            seconds: Time that the frame took.
        """
        number = self._frames
        self._frames += 1
        # The first frame, on which the box was drawn, loads and warms up the engine.
        if number:
            self._seconds.append(seconds)
        for track in tracks:
            self._states[track.state] += 1
            self._rows.setdefault(track.target_id, []).append(
                (
                    number,
                    *track.box,
                    track.confidence,
                    *track.edge_std,
                    track.template_updated and number > 0,
                    track.state,
                    track.depth,
                )
            )
        if number % self._stride == 0:
            self._overview.append((_thumbnail(image), _caption(number, tracks)))
            if len(self._overview) >= 2 * OVERVIEW:
                # Every other image goes, so that their number stays bounded on any clip.
                del self._overview[1::2]
                self._stride *= 2
        if number and tracks:
            self._keep_doubtful(number, image, tracks)

    def _keep_doubtful(self, number: int, image: Image, tracks: Sequence[Track]) -> None:
        least = min(track.confidence for track in tracks)
        near = [entry for entry in self._doubtful if abs(entry[1] - number) < DOUBTFUL_DISTANCE]
        if near:
            # One image per dip of the confidence, its lowest.
            if -near[0][0] <= least:
                return
            self._doubtful.remove(near[0])
            heapq.heapify(self._doubtful)
        elif len(self._doubtful) == DOUBTFUL and least >= -self._doubtful[0][0]:
            return
        heapq.heappush(
            self._doubtful, (-least, number, _thumbnail(image), _caption(number, tracks))
        )
        if len(self._doubtful) > DOUBTFUL:
            heapq.heappop(self._doubtful)

    def close(self) -> None:
        """Write the page.

        Raises:
            SourceError: the file cannot be written.
        """
        write_file(self.path, self.html())

    def html(self) -> str:
        """The page as text."""
        charts: dict[str, figure] = {}
        targets = []
        for number, (name, rows) in enumerate(self._rows.items()):
            table = np.array(rows, dtype=np.float64)
            drawn = _target_charts(table, self.facts.score_threshold)
            if self._is_dynamic(name):
                drawn["depth"] = _depth_chart(table, drawn["confidence"].x_range)
            charts |= {f"{kind}{number}": chart for kind, chart in drawn.items()}
            targets.append(
                {
                    "name": name,
                    "states": _state_counts(table[:, 11]),
                    "depths": _depth_counts(table[:, 12]),
                    "charts": {kind: f"{kind}{number}" for kind in drawn},
                }
            )
        timing = None
        if self._seconds:
            milliseconds = np.array(self._seconds) * 1000
            p50, p95, p99 = (float(each) for each in np.percentile(milliseconds, [50, 95, 99]))
            timing = {"p50": p50, "p95": p95, "p99": p99}
            charts["timing"] = _timing_chart(milliseconds, p50, p95, p99)
        places = np.linspace(0, len(self._overview) - 1, min(OVERVIEW, len(self._overview)))
        overview = [self._overview[round(place)] for place in places]
        doubtful = [entry[2:] for entry in sorted(self._doubtful, key=lambda entry: entry[1])]
        return render_page(
            "run.html.j2",
            charts,
            facts=self.facts,
            tiles=self._tiles(),
            targets=targets,
            timing=timing,
            overview=[(jpeg_uri(image), caption) for image, caption in overview],
            doubtful=[(jpeg_uri(image), caption) for image, caption in doubtful],
        )

    def _is_dynamic(self, name: str) -> bool:
        """Whether frames of a target were answered after different numbers of blocks."""
        return len({row[12] for row in self._rows[name] if row[12]}) > 1

    def _tiles(self) -> list[tuple[str, str]]:
        total = sum(self._states.values()) or 1
        tiles = [("frames", f"{self._frames}")]
        if self._seconds:
            tiles.append(("frames per second", f"{1 / np.mean(self._seconds):.1f}"))
        for state in (State.TRACKING, State.UNCERTAIN, State.LOST):
            tiles.append((state.name, f"{self._states[state] / total:.0%}"))
        updates = sum(int(row[10]) for rows in self._rows.values() for row in rows)
        tiles.append(("template updates", f"{updates}"))
        depths = [row[12] for name in self._rows for row in self._rows[name] if row[12]]
        if any(map(self._is_dynamic, self._rows)):
            tiles.append(("blocks per frame", f"{np.mean(depths):.2f}"))
        return tiles


def _target_charts(rows: Values, score_threshold: float) -> dict[str, figure]:
    """Charts of one target by kind; zooming into one zooms into all.

    Args:
        rows: (N, 13): frame, x, y, w, h, confidence, four standard deviations, whether the
            templates were updated, state, depth.
        score_threshold: See `RunFacts`.
    """
    frames = rows[:, 0]
    x, y, w, h, confidence = rows[:, 1:6].T
    across = Range1d(start=frames[0], end=max(frames[-1], frames[0] + 1))

    def chart(y_label: str, high: float, lines: Sequence[Series]) -> figure:
        plot = new_chart("frame", y_label, x_range=across, y_range=(0, high))
        line_chart(plot, frames, lines)
        return plot

    def pixels(**values: Values) -> figure:
        high = max(float(each.max()) for each in values.values())
        lines = [Series(name, each, index) for index, (name, each) in enumerate(values.items())]
        return chart("pixels", max(high, 1.0) * 1.05, lines)

    rating = chart("confidence", 1.02, [Series("confidence", confidence, strong=True)])
    add_guide(rating, "y", score_threshold, f"update above {score_threshold:g}")
    rating.vspan(x=frames[rows[:, 10] > 0], line_color=INK, line_dash="dotted", line_width=1)
    left, top, right, bottom = rows[:, 6:10].T
    return {
        "confidence": rating,
        "position": pixels(x=x + w / 2, y=y + h / 2),
        "size": pixels(width=w, height=h),
        "uncertainty": pixels(left=left, top=top, right=right, bottom=bottom),
    }


def _depth_chart(rows: Values, across: Any) -> figure:
    """Blocks run for each frame as bars; the deepest ones stand out.

    Args:
        rows: See `_target_charts`.
        across: Range of the frames.
    """
    frames, depths = rows[:, 0], rows[:, 12]
    found = np.unique(depths[depths > 0])
    plot = new_chart(
        "frame", "blocks", height=120, x_range=across, y_range=(0, float(found[-1]) * 1.05)
    )
    deep = depths == found[-1]
    entries = []
    for name, flags, color in (("earlier exit", ~deep, MIDDLING), ("deepest", deep, BAD)):
        source = ColumnDataSource({"frame": frames[flags], "blocks": depths[flags]})
        bars = plot.vbar("frame", 1.0, "blocks", source=source, color=color, line_color=None)
        entries.append((name, [bars]))
        add_hover(plot, [bars], ("frame", "@frame"), ("blocks", "@blocks"), mode="vline")
    add_legend(plot, entries)
    plot.yaxis.ticker = FixedTicker(ticks=found.tolist())
    return plot


def _timing_chart(milliseconds: Values, p50: float, p95: float, p99: float) -> figure:
    high = max(p99 * 1.3, 1.0)
    edges = np.linspace(0, high, 41)
    counts, _ = np.histogram(np.minimum(milliseconds, high), edges)
    plot = new_chart(
        "milliseconds per frame (last bar: longer ones too)",
        "frames",
        height=200,
        x_range=(0, high),
        y_range=(0, float(counts.max()) * 1.15),
    )
    histogram(plot, edges, [("frames", GOOD, counts)])
    add_guide(plot, "x", p50, f"p50 {p50:.1f}")
    add_guide(plot, "x", p95, f"p95 {p95:.1f}")
    return plot


def _state_counts(states: Values) -> str:
    counts = Counter(State(int(state)).name for state in states)
    return ", ".join(f"{count} frames {name}" for name, count in counts.items())


def _depth_counts(depths: Values) -> str:
    counts = Counter(int(depth) for depth in depths if depth)
    return ", ".join(
        f"{count} frames after {depth} blocks" for depth, count in sorted(counts.items())
    )


def _caption(number: int, tracks: Sequence[Track]) -> str:
    states = ", ".join(f"{track.confidence:.2f} {track.state.name}" for track in tracks)
    return f"frame {number}: {states or 'no target'}"


def _thumbnail(image: Image) -> Image:
    scale = _THUMBNAIL / max(image.shape[:2])
    if scale >= 1:
        return image.copy()
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
