"""The template memory over time: which templates it holds, and the confidence meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from mixformerv2_ros.lab.visualization.observe import MemoryView, Moment
from mixformerv2_ros.lab.visualization.sheet import (
    ACCENT,
    BOX,
    FAINT,
    INITIAL,
    INK,
    SMALL,
    TITLE,
    Image,
    add_axes,
    add_text,
    draw_box,
    new_sheet,
    show_template,
)
from mixformerv2_ros.tracking.session import State
from mixformerv2_ros.tracking.settings import TrackerSettings

TEMPLATE, THUMB = 112, 54
"""Sides of a template and of a candidate's thumbnail, in pixels."""
COLUMNS = 9
"""Versions of the memory in one row of a sheet."""
SHOWN_CANDIDATES = 4
WIDTH, PLOT, DEPTH_PLOT = 1280, 170, 64
"""Width of a sheet, heights of its plot and of that of the depth, in pixels."""
MARGIN, AXIS, GAP, TOP = 16, 44, 12, 60
"""Margins, labels of the plot's axis, space between parts, height of the title, in pixels."""

EXIT, DEEP = "#b4b4b4", "#0072b2"
"""Colours of frames that an exit answered, and of those of full depth."""

STATE_COLORS = {State.UNCERTAIN: "#ffe1be", State.LOST: "#facdcd"}


@dataclass(frozen=True)
class Candidate:
    """A frame that became the candidate."""

    index: int
    score: float
    crop: Image


@dataclass(frozen=True)
class Version:
    """The memory between two changes.

    Attributes:
        start: Frame after which it came to be.
        online: Online templates by place.
        changed: Places whose template is another than before.
        stored: Score of the stored candidate; None where the initial template was stored, or at
            the start.
        candidates: Frames that became the candidate meanwhile, in order.
    """

    start: int
    online: tuple[Image, ...]
    changed: frozenset[int]
    stored: float | None
    candidates: tuple[Candidate, ...] = ()


@dataclass(frozen=True)
class Point:
    """A frame on the time line; depth: number of blocks run for it."""

    index: int
    confidence: float
    state: State
    depth: int


class History:
    """Collects a run; `sheet` draws it."""

    def __init__(self, start: int) -> None:
        """Begin with the frame that the target was started on."""
        self.start = start
        self.initial: Image | None = None
        self.points: list[Point] = []
        self.versions: list[Version] = []

    def add(self, moment: Moment) -> None:
        """Append a frame."""
        if self.initial is None:
            self.initial = moment.before.initial
            self.versions.append(Version(self.start, moment.before.online, frozenset(), None))
        self.points.append(point_of(moment))
        if moment.seen.candidate_taken:
            changed = _changed(moment.before, moment.after)
            crop = moment.after.candidate
            if crop is None:  # stored at once
                crop = moment.after.online[min(changed)]
            candidate = Candidate(moment.index, moment.seen.confidence, crop)
            last = self.versions[-1]
            self.versions[-1] = replace(last, candidates=(*last.candidates, candidate))
        if moment.seen.template_updated:
            self.versions.append(
                Version(
                    moment.index,
                    moment.after.online,
                    _changed(moment.before, moment.after),
                    moment.stored_score,
                )
            )

    def sheet(self, settings: TrackerSettings, title: str, depths: Sequence[int] = ()) -> Figure:
        """Draw all that was added: the confidence over time, and every version of the memory.

        Args:
            settings: For the threshold of template updates.
            title: Of the sheet.
            depths: Numbers of blocks after which frames could be answered; a plot of the depth is
                drawn where there are several.

        Raises:
            ParameterError: the sheet would be too large to be shown.
        """
        if self.initial is None:
            raise ValueError("expected a history with a frame, got an empty one")
        rows = [self.versions[i : i + COLUMNS] for i in range(0, len(self.versions), COLUMNS)]
        heights = [_version_height(row) for row in rows]
        plots = _plots_height(depths)
        y = TOP + plots + 76
        figure = new_sheet(WIDTH, y + sum(heights) + GAP * len(rows), title)
        axes = add_axes(figure, MARGIN + AXIS, TOP, WIDTH - 2 * MARGIN - AXIS, PLOT)
        draw_confidence(
            axes,
            self.points,
            settings,
            changes=[version.start for version in self.versions[1:]],
            taken=[each.index for version in self.versions for each in version.candidates],
        )
        if plots > PLOT:
            below = _axes_of_depth(figure, axes, TOP, WIDTH)
            draw_depth(below, self.points, depths)
        _draw_legend(axes, plots)
        for number, (row, height) in enumerate(zip(rows, heights, strict=True)):
            _draw_template(
                figure, MARGIN, y, self.initial, f"initial template\nframe {self.start}", INITIAL
            )
            for column, version in enumerate(row, start=1):
                x = MARGIN + column * (TEMPLATE + GAP)
                _draw_version(figure, x, y, number * COLUMNS + column - 1, version)
            y += height + GAP
        return figure


def draw_confidence(
    axes: Axes,
    points: Sequence[Point],
    settings: TrackerSettings,
    *,
    changes: Sequence[int] = (),
    taken: Sequence[int] = (),
    span: tuple[int, int] | None = None,
) -> None:
    """Draw the confidence over frames, with the states behind it.

    Args:
        axes: Where to draw.
        points: At least one frame.
        settings: For the threshold of template updates.
        changes: Frames after which the templates changed: numbered vertical lines.
        taken: Frames that became the candidate: dots.
        span: First and last frame of the axis; by default those of `points`.
    """
    first, last = span or (points[0].index, points[-1].index)
    frames = np.array([point.index for point in points])
    confidence = np.array([point.confidence for point in points])
    for state, color in STATE_COLORS.items():
        flags = np.array([point.state is state for point in points])
        spans = [(index - 0.5, 1) for index in frames[flags]]
        axes.broken_barh(spans, (0, 1), color=color, linewidth=0)
    axes.plot(frames, confidence, color=INK, linewidth=1.1, marker="." if len(points) == 1 else "")
    dots = np.isin(frames, taken)
    axes.plot(frames[dots], confidence[dots], "o", color=BOX, markersize=6, clip_on=False)
    axes.axhline(settings.update_score_threshold, color=INK, linewidth=0.9, linestyle="--")
    for number, index in enumerate(changes, start=1):
        axes.axvline(index, color=ACCENT, linewidth=1.1)
        axes.annotate(
            f"#{number}", (index, 1.02), xycoords=("data", "axes fraction"), color=ACCENT,
            size=SMALL, ha="center",
        )  # fmt: skip
    axes.set_xlim(first - 0.5, max(last, first + 1) + 0.5)
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    axes.set_xlabel("frame", size=SMALL, color=FAINT)
    axes.set_ylabel("confidence", size=SMALL, color=FAINT)
    axes.grid(axis="y", color="#e1e1e1")
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)


def draw_depth(
    axes: Axes,
    points: Sequence[Point],
    depths: Sequence[int],
    span: tuple[int, int] | None = None,
) -> None:
    """Draw the number of blocks run over frames as bars; those of full depth stand out.

    Args:
        axes: Where to draw.
        points: At least one frame.
        depths: Numbers of blocks after which frames could be answered, ascending.
        span: First and last frame of the axis; by default those of `points`.
    """
    first, last = span or (points[0].index, points[-1].index)
    frames = np.array([point.index for point in points])
    found = np.array([point.depth for point in points])
    for flags, color in ((found < depths[-1], EXIT), (found == depths[-1], DEEP)):
        axes.bar(frames[flags], found[flags], width=1.0, color=color, linewidth=0)
    axes.set_xlim(first - 0.5, max(last, first + 1) + 0.5)
    axes.set_ylim(0, depths[-1])
    axes.set_yticks(list(depths))
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    axes.set_xlabel("frame", size=SMALL, color=FAINT)
    axes.set_ylabel("blocks", size=SMALL, color=FAINT)
    axes.legend(
        handles=[
            Patch(color=EXIT, label="answered at an exit"),
            Patch(color=DEEP, label="full depth"),
        ],
        ncols=2,
        loc="upper right",
        bbox_to_anchor=(1.005, -0.24),
        frameon=False,
        fontsize=SMALL,
        handlelength=1.2,
        labelcolor=INK,
    )
    axes.grid(axis="y", color="#e1e1e1")
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)


def _plots_height(depths: Sequence[int]) -> int:
    """Of the confidence, and of the depth where there are several."""
    return PLOT + GAP + DEPTH_PLOT if len(depths) > 1 else PLOT


def _axes_of_depth(figure: Figure, above: Axes, top: float, width: float) -> Axes:
    """Axes right below those of the confidence, which leave the numbers of the frames to them."""
    above.set_xlabel("")
    above.tick_params(labelbottom=False)
    place = top + PLOT + GAP
    return add_axes(figure, MARGIN + AXIS, place, width - 2 * MARGIN - AXIS, DEPTH_PLOT)


def templates_frame(
    moment: Moment,
    points: Sequence[Point],
    settings: TrackerSettings,
    title: str,
    span: tuple[int, int],
    depths: Sequence[int] = (),
) -> Figure:
    """Draw one frame of a video: the image, the memory after it, and the confidence so far.

    Args:
        moment: The frame.
        points: All frames so far, this one last.
        settings: For the threshold of template updates.
        title: Of the sheet.
        span: First and last frame of the axis.
        depths: See `History.sheet`.
    """
    memory = moment.after
    entries: list[tuple[Image, str, str | None]] = [(memory.initial, "initial", INITIAL)]
    for place, crop in enumerate(memory.online, start=1):
        color = ACCENT if moment.seen.template_updated else None
        same = "\nsame as initial" if crop is memory.initial else ""
        entries.append((crop, f"online {place}{same}", color))
    if memory.candidate is None:
        nothing = np.full_like(memory.initial, 235)
        entries.append((nothing, "candidate\nnone yet", None))
    else:
        color = BOX if moment.seen.candidate_taken else None
        entries.append((memory.candidate, f"candidate\nscore {memory.score:.3f}", color))
    step = TEMPLATE + 40 + GAP
    height = max(2, -(-len(entries) // 3)) * step + 56
    width = 720 + GAP + 3 * (TEMPLATE + GAP) + 2 * MARGIN
    plots = _plots_height(depths)
    figure = new_sheet(width, TOP + height + GAP + plots + 48, title)
    _draw_image(figure, moment, MARGIN, TOP, 720, height)
    x = MARGIN + 720 + GAP
    add_text(figure, x, TOP, f"frame {moment.index}", size=TITLE)
    text = f"{moment.state.name}, confidence {moment.seen.confidence:.3f}"
    if plots > PLOT:
        text += f", {moment.seen.depth} of {depths[-1]} blocks"
    add_text(figure, x, TOP + 28, text)
    if moment.seen.template_updated:
        add_text(figure, x + 200, TOP + 4, "templates updated", color=ACCENT, weight="bold")
    for number, (crop, text, color) in enumerate(entries):
        row, column = divmod(number, 3)
        _draw_template(
            figure, x + column * (TEMPLATE + GAP), TOP + 56 + row * step, crop, text, color
        )
    axes = add_axes(figure, MARGIN + AXIS, TOP + height + GAP, width - 2 * MARGIN - AXIS, PLOT)
    draw_confidence(axes, points, settings, span=span)
    if plots > PLOT:
        below = _axes_of_depth(figure, axes, TOP + height + GAP, width)
        draw_depth(below, points, depths, span)
    return figure


def point_of(moment: Moment) -> Point:
    """The frame's place on the time line."""
    return Point(moment.index, moment.seen.confidence, moment.state, moment.seen.depth)


def _draw_image(
    figure: Figure, moment: Moment, x: float, y: float, width: float, height: float
) -> None:
    """The image and the box of its target, as large as fits in the middle of a place."""
    image = moment.image.rgb()
    scale = min(width / image.shape[1], height / image.shape[0])
    across, down = image.shape[1] * scale, image.shape[0] * scale
    axes = add_axes(figure, x + (width - across) / 2, y + (height - down) / 2, across, down)
    axes.imshow(image, aspect="auto")
    axes.set_axis_off()
    left, top, w, h = moment.seen.box
    draw_box(axes, (left, top, left + w, top + h))


def _draw_template(
    figure: Figure, x: float, y: float, crop: Image, text: str, color: str | None
) -> None:
    """A template below two lines of text."""
    add_text(figure, x, y, text, size=SMALL, linespacing=1.4)
    show_template(add_axes(figure, x, y + 34, TEMPLATE, TEMPLATE), crop, color)


def _draw_version(figure: Figure, x: float, y: float, number: int, version: Version) -> None:
    """One version of the memory: its online templates, and the candidates until the next."""
    name, color = (f"#{number}", ACCENT) if number else ("start", INK)
    add_text(figure, x, y, name, size=SMALL, color=color, weight="bold")
    add_text(figure, x + TEMPLATE, y, f"frame {version.start}", size=SMALL, ha="right")
    note = "initial, no candidate" if number else "initial template"
    if version.stored is not None:
        note = f"stored {version.stored:.3f}"
    add_text(figure, x, y + 16, note, size=SMALL)
    y += 34
    for place, crop in enumerate(version.online):
        axes = add_axes(figure, x, y, TEMPLATE, TEMPLATE)
        show_template(axes, crop, ACCENT if place in version.changed else None)
        y += TEMPLATE + 6
    count = len(version.candidates)
    if count:
        add_text(figure, x, y + 2, f"{count} candidate{'s' * (count > 1)}", size=SMALL)
    y += 18
    for candidate in version.candidates[-SHOWN_CANDIDATES:]:
        show_template(add_axes(figure, x, y, THUMB, THUMB), candidate.crop, BOX)
        text = f"{candidate.index}\n{candidate.score:.3f}"
        add_text(figure, x + THUMB + 6, y + 10, text, size=SMALL, linespacing=1.4)
        y += THUMB + 10


def _version_height(versions: Sequence[Version]) -> int:
    online = max(len(version.online) for version in versions)
    candidates = max(len(version.candidates[-SHOWN_CANDIDATES:]) for version in versions)
    return 34 + online * (TEMPLATE + 6) + 18 + candidates * (THUMB + 10)


def _draw_legend(axes: Axes, plots: int) -> None:
    """Below plots of a height, of which `axes` is the first."""
    axes.legend(
        handles=[
            Patch(color=BOX, label="frame became the candidate (frame, score)"),
            Patch(color=ACCENT, label="templates updated (stored in the framed place)"),
            *(Patch(color=color, label=state.name) for state, color in STATE_COLORS.items()),
            axes.plot([], [], "--", color=INK, linewidth=0.9, label="minimum score of a candidate")[
                0
            ],
        ],
        ncols=5,
        loc="upper left",
        bbox_to_anchor=(-0.005, 1 - (plots + 34) / PLOT),
        frameon=False,
        fontsize=SMALL,
        handlelength=1.2,
        labelcolor=INK,
    )


def _changed(before: MemoryView, after: MemoryView) -> frozenset[int]:
    return frozenset(
        place
        for place, crop in enumerate(after.online)
        if place >= len(before.online) or before.online[place] is not crop
    )
