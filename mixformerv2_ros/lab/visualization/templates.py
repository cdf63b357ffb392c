"""The template memory over time: what the tracker holds on to, and how sure it was meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from mixformerv2_ros.lab.visualization.observe import MemoryView, Moment
from mixformerv2_ros.lab.visualization.sheet import (
    ACCENT,
    BOX,
    FAINT,
    GRID,
    INK,
    LINE,
    PAPER,
    Color,
    Crop,
    Picture,
    above,
    beside,
    blank,
    enlarge,
    fit_text,
    frame_around,
    pad,
    paste,
    write_text,
)
from mixformerv2_ros.tracking.session import State
from mixformerv2_ros.tracking.settings import TrackerSettings

TEMPLATE = 112
"""Side of a template in the pictures, in pixels."""
THUMB = 54
"""Side of a candidate's thumbnail."""
COLUMNS = 9
"""Versions of the memory in one row of a sheet."""
SHEET = 1280
"""Width of a sheet."""
PLOT = 170
MARGIN = 56
GAP = 12
SHOWN_CANDIDATES = 4

STATE_COLORS: dict[State, Color] = {
    State.UNCERTAIN: (190, 225, 255),
    State.LOST: (205, 205, 250),
}
INITIAL: Color = (178, 114, 0)


@dataclass(frozen=True)
class Candidate:
    """A frame that became the candidate."""

    index: int
    score: float
    crop: Crop


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
    online: tuple[Crop, ...]
    changed: frozenset[int]
    stored: float | None
    candidates: tuple[Candidate, ...] = ()


@dataclass(frozen=True)
class Point:
    """A frame on the time line."""

    index: int
    confidence: float
    state: State


class History:
    """Collects a run; `sheet` draws it."""

    def __init__(self, start: int) -> None:
        """Begin with the frame that the target was started on."""
        self.start = start
        self.initial: Crop | None = None
        self.points: list[Point] = []
        self.versions: list[Version] = []
        self._candidates: list[Candidate] = []

    def add(self, moment: Moment) -> None:
        """Append a frame."""
        if self.initial is None:
            self.initial = moment.before.initial
            self.versions.append(Version(self.start, moment.before.online, frozenset(), None))
        self.points.append(Point(moment.index, moment.seen.confidence, moment.state))
        if moment.seen.candidate_taken:
            changed = _changed(moment.before, moment.after)
            crop = moment.after.candidate
            if crop is None:  # stored at once
                crop = moment.after.online[min(changed)]
            self._candidates.append(Candidate(moment.index, moment.seen.confidence, crop))
        if moment.seen.template_updated:
            self._close()
            self.versions.append(
                Version(
                    moment.index,
                    moment.after.online,
                    _changed(moment.before, moment.after),
                    moment.stored_score,
                )
            )

    def sheet(self, settings: TrackerSettings, title: str) -> Picture:
        """Draw all that was added: the confidence over time, and every version of the memory."""
        if self.initial is None:
            raise ValueError("a history must hold a frame")
        self._close()
        heading = blank(LINE + 14, SHEET)
        write_text(heading, fit_text(title, SHEET, 0.6), 0, 22, scale=0.6, bold=True)
        changes = [version.start for version in self.versions[1:]]
        taken = [c for version in self.versions for c in version.candidates]
        plot = confidence_plot(self.points, settings, SHEET, changes, [c.index for c in taken])
        rows = []
        for start in range(0, len(self.versions), COLUMNS):
            part = self.versions[start : start + COLUMNS]
            columns = [_column(number, v) for number, v in enumerate(part, start)]
            rows.append(beside([self._row_labels(), *columns], GAP))
        return above([heading, plot, _legend(), *rows], GAP)

    def _close(self) -> None:
        """Give the last version the candidates since it came to be."""
        last = self.versions[-1]
        self.versions[-1] = Version(
            last.start,
            last.online,
            last.changed,
            last.stored,
            (*last.candidates, *self._candidates),
        )
        self._candidates = []

    def _row_labels(self) -> Picture:
        assert self.initial is not None
        image = blank(TEMPLATE + 3 * LINE, TEMPLATE)
        write_text(image, "initial template", 0, LINE - 6, scale=0.42, bold=True)
        picture = enlarge(self.initial, TEMPLATE)
        frame_around(picture, INITIAL)
        paste(image, picture, 0, 2 * LINE)
        write_text(image, f"frame {self.start}", 0, 2 * LINE - 6)
        return image


def confidence_plot(
    points: Sequence[Point],
    settings: TrackerSettings,
    width: int,
    changes: Sequence[int] = (),
    taken: Sequence[int] = (),
    *,
    span: tuple[int, int] | None = None,
) -> Picture:
    """Confidence over frames, with the states behind it.

    Args:
        points: At least one frame.
        settings: For the threshold of template updates.
        width: Of the picture, in pixels.
        changes: Frames after which the templates changed: numbered vertical lines.
        taken: Frames that became the candidate: dots.
        span: First and last frame of the axis; by default those of `points`.
    """
    image = blank(PLOT + 2 * LINE + 8, width)
    first, last = span or (points[0].index, points[-1].index)
    area = image[LINE : LINE + PLOT]
    inner = width - MARGIN - 8

    def x_of(index: float) -> int:
        return MARGIN + round((index - first) / max(last - first, 1) * inner)

    def y_of(confidence: float) -> int:
        return round((1 - confidence) * (PLOT - 1))

    for point in points:
        if point.state in STATE_COLORS:
            low, high = x_of(point.index - 0.5), x_of(point.index + 0.5)
            area[:, max(low, MARGIN) : max(high, low + 1)] = STATE_COLORS[point.state]
    for value in (0.0, 0.25, 0.5, 0.75, 1.0):
        area[y_of(value), MARGIN : width - 8] = GRID
        write_text(image, f"{value:g}", MARGIN - 6, LINE + y_of(value) + 5, align="right")
    for number, index in enumerate(changes, 1):
        if first <= index <= last:
            area[:, x_of(index)] = ACCENT
            write_text(image, f"#{number}", x_of(index), LINE - 5, ACCENT, align="center")
    threshold = y_of(settings.update_score_threshold)
    for x in range(MARGIN, width - 8, 10):
        area[threshold, x : x + 5] = INK
    line = np.array([(x_of(p.index), y_of(p.confidence)) for p in points], np.int32)
    cv2.polylines(area, [line.reshape(-1, 1, 2)], False, INK, 1, cv2.LINE_AA)
    chosen = set(taken)
    for point in points:
        if point.index in chosen:
            cv2.circle(area, (x_of(point.index), y_of(point.confidence)), 4, BOX, -1, cv2.LINE_AA)
    if len(points) == 1:
        cv2.circle(area, (int(line[0][0]), int(line[0][1])), 2, INK, -1)
    for index in sorted({first, (first + last) // 2, last}):
        align = "center" if first < index < last else "left" if index == first else "right"
        write_text(image, f"{index}", x_of(index), PLOT + 2 * LINE, align=align)
    write_text(image, "frame", MARGIN + inner // 4, PLOT + 2 * LINE, FAINT)
    return image


def templates_frame(
    moment: Moment,
    points: Sequence[Point],
    settings: TrackerSettings,
    title: str,
    span: tuple[int, int],
) -> Picture:
    """Draw one frame of a video: the image, the memory after it, and the confidence so far."""
    image = cv2.cvtColor(moment.image.rgb(), cv2.COLOR_RGB2BGR)
    height = 2 * (TEMPLATE + LINE) + 3 * LINE
    scale = min(720 / image.shape[1], height / image.shape[0])
    size = (max(round(image.shape[1] * scale), 1), max(round(image.shape[0] * scale), 1))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    view = np.asarray(cv2.resize(image, size, interpolation=method), np.uint8)
    x, y, w, h = (value * scale for value in moment.seen.box)
    corners = (round(x), round(y)), (round(x + w), round(y + h))
    cv2.rectangle(view, *corners, (0, 0, 0), 4)
    cv2.rectangle(view, *corners, BOX, 2)
    left = blank(height, 720, (235, 235, 235))
    paste(left, view, (720 - size[0]) // 2, (height - size[1]) // 2)

    memory = moment.after
    pictures = [_captioned(memory.initial, "initial", INITIAL)]
    pictures += [
        _captioned(
            crop,
            f"online {place + 1}",
            ACCENT if moment.seen.template_updated else None,
            "is the initial one" if crop is memory.initial else "",
        )
        for place, crop in enumerate(memory.online)
    ]
    if memory.candidate is None:
        nothing = np.full_like(memory.initial, 235)
        pictures.append(_captioned(nothing, "candidate", None, "none yet"))
    else:
        color = BOX if moment.seen.candidate_taken else None
        pictures.append(_captioned(memory.candidate, "candidate", color, f"{memory.score:.3f}"))
    rows = [beside(pictures[i : i + 3], GAP) for i in range(0, len(pictures), 3)]
    panel = blank(max(height, len(rows) * (rows[0].shape[0] + GAP) + 4 * LINE), 3 * TEMPLATE + 40)
    write_text(panel, f"frame {moment.index}", 0, LINE, bold=True, scale=0.6)
    write_text(
        panel, f"{moment.state.name}, confidence {moment.seen.confidence:.3f}", 0, 2 * LINE + 4
    )
    if moment.seen.template_updated:
        write_text(panel, "templates changed", 200, LINE, ACCENT, bold=True)
    paste(panel, above(rows, GAP), 0, 3 * LINE)
    body = beside([left, panel], GAP)
    plot = confidence_plot(points, settings, body.shape[1], span=span)
    heading = blank(LINE + 10, body.shape[1])
    write_text(heading, fit_text(title, body.shape[1], 0.6), 0, 20, scale=0.6, bold=True)
    return pad(above([heading, body, plot], GAP), GAP)


def point_of(moment: Moment) -> Point:
    """The moment's place on the time line."""
    return Point(moment.index, moment.seen.confidence, moment.state)


def _captioned(crop: Crop, name: str, color: Color | None, note: str = "") -> Picture:
    image = blank(TEMPLATE + 2 * LINE, TEMPLATE)
    picture = enlarge(crop, TEMPLATE)
    if color is not None:
        frame_around(picture, color)
    write_text(image, name, 0, LINE - 6, bold=True)
    paste(image, picture, 0, LINE)
    write_text(image, note, 0, TEMPLATE + 2 * LINE - 5, scale=0.4)
    return image


def _column(number: int, version: Version) -> Picture:
    """One version of the memory: its online templates, and the candidates that it lived to see."""
    heading = blank(2 * LINE, TEMPLATE)
    name = f"#{number}" if number else "start"
    write_text(heading, name, 0, LINE - 6, ACCENT if number else INK, bold=True)
    write_text(heading, f"frame {version.start}", TEMPLATE, LINE - 6, align="right")
    if version.stored is not None:
        note = f"stored {version.stored:.3f}"
    else:
        note = "initial, no candidate" if number else "initial template"
    write_text(heading, note, 0, 2 * LINE - 6, scale=0.38)
    pictures = []
    for place, crop in enumerate(version.online):
        picture = enlarge(crop, TEMPLATE)
        if place in version.changed:
            frame_around(picture, ACCENT)
        pictures.append(picture)
    parts = [heading, above(pictures, 4)]
    if version.candidates:
        caption = blank(LINE, TEMPLATE)
        count = len(version.candidates)
        write_text(caption, f"{count} candidate{'s' * (count > 1)}", 0, LINE - 5, scale=0.4)
        parts += [caption, *(_thumb(c) for c in version.candidates[-SHOWN_CANDIDATES:])]
    return above(parts)


def _thumb(candidate: Candidate) -> Picture:
    image = blank(THUMB + 4, TEMPLATE)
    picture = enlarge(candidate.crop, THUMB)
    frame_around(picture, BOX, 2)
    paste(image, picture, 0, 0)
    write_text(image, f"{candidate.index}", THUMB + 5, 22, scale=0.42)
    write_text(image, f"{candidate.score:.3f}", THUMB + 5, 42, scale=0.42)
    return image


def _legend() -> Picture:
    image = blank(LINE, SHEET, PAPER)
    x = MARGIN
    entries: list[tuple[str, Color, int]] = [
        ("frame became the candidate (frame, score)", BOX, 300),
        ("templates changed (stored in the framed place)", ACCENT, 340),
        ("UNCERTAIN", STATE_COLORS[State.UNCERTAIN], 90),
        ("LOST", STATE_COLORS[State.LOST], 50),
        ("dashed: least score of a candidate", PAPER, 260),
    ]
    for text, color, width in entries:
        if color != PAPER:
            image[4:16, x : x + 12] = color
        write_text(image, text, x + 18, LINE - 5, scale=0.42)
        x += width + 30
    return image


def _changed(before: MemoryView, after: MemoryView) -> frozenset[int]:
    return frozenset(
        place
        for place, crop in enumerate(after.online)
        if place >= len(before.online) or before.online[place] is not crop
    )
