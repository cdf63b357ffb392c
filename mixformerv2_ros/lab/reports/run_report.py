"""Report of one run: what the tracker did over a clip, as one self-contained page."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mixformerv2_ros.files import write_file
from mixformerv2_ros.lab.reports.charts import (
    Axis,
    Bars,
    Guide,
    Line,
    histogram,
    line_chart,
    linear_axis,
    round_step,
)
from mixformerv2_ros.lab.reports.page import jpeg_uri, page
from mixformerv2_ros.tracking.session import State, Track

Image = npt.NDArray[np.uint8]

STRIP = 10
"""Frames in the strip over the whole run."""
DOUBTFUL = 5
"""Frames of least confidence that are shown."""
_THUMBNAIL = 360
_STYLE = """
.strip { display: grid; gap: .6rem; grid-template-columns: repeat(auto-fill, minmax(170px, 1fr)); }
.strip img { width: 100%; display: block; border-radius: 8px; }
.strip figcaption { font-size: 12px; }
.facts { display: grid; gap: .1rem 1.4rem; grid-template-columns: max-content 1fr; margin: 1rem 0; }
.facts dt { color: var(--soft); } .facts dd { margin: 0; overflow-wrap: anywhere; }
.tiles { display: grid; gap: .8rem; grid-template-columns: repeat(auto-fit, minmax(130px, 1fr)); }
.tile { background: var(--card); border: 1px solid var(--rule); border-radius: 10px;
  padding: .7rem .9rem; }
.tile b { display: block; font-size: 1.45rem; font-variant-numeric: tabular-nums; }
pre { background: var(--card); border: 1px solid var(--rule); border-radius: 10px;
  padding: .8rem 1rem; overflow-x: auto; }
.cards.wide { grid-template-columns: repeat(auto-fit, minmax(min(100%, 520px), 1fr)); }
"""


@dataclass(frozen=True)
class RunFacts:
    """What a run was made with; for the head of the report.

    Attributes:
        source: The clip or recording.
        facts: Names and values to list, in order.
        score_threshold: Confidence above which a frame can become a template.
        links: Names and relative addresses of the run's other files.
        commands: Command lines that make this run again.
    """

    source: str
    facts: tuple[tuple[str, str], ...]
    score_threshold: float
    links: tuple[tuple[str, str], ...] = ()
    commands: tuple[str, ...] = ()


class RunReport:
    """Collects a run frame by frame and writes the page when it is closed.

    Memory: a few numbers per frame, and a fixed number of small pictures.
    """

    def __init__(self, path: Path, facts: RunFacts) -> None:
        self.path = path
        self.facts = facts
        self._rows: dict[str, list[tuple[float, ...]]] = {}
        self._seconds: list[float] = []
        self._frames = 0
        self._stride = 1
        self._strip: list[tuple[int, Image, str]] = []
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
                )
            )
        if number % self._stride == 0:
            self._strip.append((number, _thumbnail(image), _caption(number, tracks)))
            if len(self._strip) >= 2 * STRIP:
                # Every other picture goes, so that their number stays bounded on any clip.
                del self._strip[1::2]
                self._stride *= 2
        if number and tracks:
            self._keep_doubtful(number, image, tracks)

    def _keep_doubtful(self, number: int, image: Image, tracks: Sequence[Track]) -> None:
        least = min(track.confidence for track in tracks)
        near = [entry for entry in self._doubtful if abs(entry[1] - number) < 10]
        if near:
            # One picture per moment, the worst of it.
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
        parts = [self._head(), self._tiles()]
        for target, rows in self._rows.items():
            parts.append(_charts(target, np.array(rows, dtype=np.float64), self.facts))
        parts.append(self._timing())
        places = np.linspace(0, len(self._strip) - 1, min(STRIP, len(self._strip)))
        strip = [self._strip[round(place)][1:] for place in places]
        parts.append(_pictures("Over the whole run", strip))
        doubtful = sorted(self._doubtful, key=lambda entry: entry[1])
        parts.append(_pictures("Least confident moments", [entry[2:] for entry in doubtful]))
        if self.facts.commands:
            lines = escape("\n".join(self.facts.commands))
            parts.append(f"<h2>The same again</h2><pre><code>{lines}</code></pre>")
        return page(f"Tracks of {self.facts.source}", "\n".join(parts), _STYLE)

    def _head(self) -> str:
        facts = "".join(
            f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in self.facts.facts
        )
        links = " · ".join(
            f'<a href="{escape(address)}">{escape(name)}</a>' for name, address in self.facts.links
        )
        files = f"<p>{links}</p>" if links else ""
        return (
            f'<h1>Tracks of {escape(self.facts.source)}</h1><dl class="facts">{facts}</dl>{files}'
        )

    def _tiles(self) -> str:
        total = sum(self._states.values()) or 1
        tiles = [("frames", f"{self._frames}")]
        if self._seconds:
            tiles.append(("frames per second", f"{1 / np.mean(self._seconds):.1f}"))
        for state in (State.TRACKING, State.UNCERTAIN, State.LOST):
            tiles.append((state.name, f"{self._states[state] / total:.0%}"))
        updates = sum(int(row[10]) for rows in self._rows.values() for row in rows)
        tiles.append(("template updates", f"{updates}"))
        cells = "".join(
            f'<div class="tile"><b>{value}</b><span class="soft">{name}</span></div>'
            for name, value in tiles
        )
        return f'<div class="tiles">{cells}</div>'

    def _timing(self) -> str:
        if not self._seconds:
            return ""
        ms = np.array(self._seconds) * 1000
        p50, p95, p99 = np.percentile(ms, [50, 95, 99])
        high = round_step(max(float(p99) * 1.3, 1.0) / 5) * 5
        edges = np.linspace(0, high, 41)
        counts, _ = np.histogram(np.minimum(ms, high), edges)
        chart = histogram(
            "time per frame",
            edges,
            [Bars("frames", counts.astype(np.float64), "hit")],
            linear_axis("milliseconds per frame (the last bar: that and more)", 0, high),
            linear_axis("frames", 0, max(1.0, float(counts.max()) * 1.05), 4),
            [Guide(f"p50 {p50:.1f}", x=float(p50)), Guide(f"p95 {p95:.1f}", x=float(p95))],
            size=(860, 230),
        )
        return (
            "<h2>Time per frame</h2>"
            f"<p>Reading, decoding and tracking: p50 {p50:.1f} ms, p95 {p95:.1f} ms, "
            f"p99 {p99:.1f} ms.</p>"
            f'<figure class="card">{chart}</figure>'
        )


def _charts(target: str, rows: npt.NDArray[np.float64], facts: RunFacts) -> str:
    frames = rows[:, 0]
    x, y, w, h, confidence = rows[:, 1:6].T
    stds, updated, states = rows[:, 6:10], rows[:, 10] > 0, rows[:, 11]
    across = linear_axis("frame", float(frames[0]), float(max(frames[-1], frames[0] + 1)), 8)
    marks = [Guide(x=float(frame)) for frame in frames[updated]]
    size = (600, 230)
    charts = [
        (
            "Confidence",
            "Dotted vertical lines are template updates; the dotted level is what a frame must "
            "exceed to become one. " + _state_text(states),
            line_chart(
                "confidence",
                [Line("confidence", frames, confidence, 0, strong=True)],
                across,
                linear_axis("confidence", 0, 1),
                [*marks, Guide(f"update above {facts.score_threshold:g}", y=facts.score_threshold)],
                size,
            ),
            ["confidence"],
        ),
        (
            "Place",
            "Middle of the box in pixels of the image.",
            line_chart(
                "middle of the box",
                [Line("x", frames, x + w / 2, 0), Line("y", frames, y + h / 2, 1)],
                across,
                _fitted("px", x + w / 2, y + h / 2),
                size=size,
            ),
            ["x", "y"],
        ),
        (
            "Size",
            "Width and height of the box in pixels.",
            line_chart(
                "size of the box",
                [Line("width", frames, w, 0), Line("height", frames, h, 1)],
                across,
                _fitted("px", w, h),
                size=size,
            ),
            ["width", "height"],
        ),
        (
            "Uncertainty of the edges",
            "Standard deviation of each edge's distribution in pixels.",
            line_chart(
                "standard deviations of the edges",
                [
                    Line(name, frames, stds[:, index], index)
                    for index, name in enumerate(("left", "top", "right", "bottom"))
                ],
                across,
                _fitted("px", stds),
                size=size,
            ),
            ["left", "top", "right", "bottom"],
        ),
    ]
    parts = [f"<h2>Track of “{escape(target)}”</h2>", '<div class="cards wide">']
    for title, text, chart, names in charts:
        legend = "".join(
            f'<li class="s{index}"><span class="swatch"></span>{name}</li>'
            for index, name in enumerate(names)
        )
        parts.append(
            f'<figure class="card"><h3>{title}</h3><p class="soft">{text}</p>{chart}'
            f'<ul class="legend inline">{legend if len(names) > 1 else ""}</ul></figure>'
        )
    return "".join([*parts, "</div>"])


def _state_text(states: npt.NDArray[np.float64]) -> str:
    counts = Counter(State(int(state)).name for state in states)
    return ", ".join(f"{count} frames {name}" for name, count in counts.items()) + "."


def _fitted(label: str, *values: npt.NDArray[np.float64]) -> Axis:
    high = max(float(each.max(initial=0.0)) for each in values)
    top = round_step(max(high, 1.0) * 1.05 / 5) * 5
    return linear_axis(label, 0, top)


def _pictures(title: str, pictures: Sequence[tuple[Any, ...]]) -> str:
    if not pictures:
        return ""
    figures = "".join(
        f'<figure><img src="{jpeg_uri(image)}" alt="{escape(text)}">'
        f"<figcaption>{escape(text)}</figcaption></figure>"
        for image, text in pictures
    )
    return f'<h2>{title}</h2><div class="strip">{figures}</div>'


def _caption(number: int, tracks: Sequence[Track]) -> str:
    said = ", ".join(f"{track.confidence:.2f} {track.state.name}" for track in tracks)
    return f"frame {number}: {said or 'no target'}"


def _thumbnail(image: Image) -> Image:
    scale = _THUMBNAIL / max(image.shape[:2])
    if scale >= 1:
        return image.copy()
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
