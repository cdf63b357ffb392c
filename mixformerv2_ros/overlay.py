"""Tracks drawn into camera images."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from mixformerv2_ros.tracking.session import State, Track

Image = npt.NDArray[np.uint8]
Color = tuple[int, int, int]

COLORS: dict[State, Color] = {
    State.IDLE: (160, 160, 160),
    State.TRACKING: (80, 210, 60),
    State.UNCERTAIN: (0, 180, 255),
    State.LOST: (60, 60, 235),
}
"""Colour of a box by state, BGR."""

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_BAND = 0.35
"""Opacity of the band of uncertainty along an edge."""


def draw_tracks(image: Image, tracks: Sequence[Track], full_depth: int = 0) -> None:
    """Draw boxes, the uncertainty of their edges, and labels.

    Each edge carries a translucent band of one standard deviation to both sides. A lost target's
    box is dashed. Line widths and text follow the size of the image.

    Args:
        image: (H, W, 3) uint8 BGR, changed in place.
        tracks: Tracks of this image.
        full_depth: Number of the model's blocks, which labels then have beside the number that was
            run for the target, such as 2/5; 0: labels without depth.
    """
    unit = max(image.shape[:2]) / 640
    for track in tracks:
        color = COLORS[track.state]
        if track.state is not State.LOST:
            _draw_bands(image, track, color)
        _draw_box(image, track, color, max(1, round(1.6 * unit)))
        _draw_label(image, track, color, unit, full_depth)


def _corners(track: Track) -> tuple[int, int, int, int]:
    x, y, w, h = track.box
    return round(x), round(y), round(x + w), round(y + h)


def _draw_bands(image: Image, track: Track, color: Color) -> None:
    x1, y1, x2, y2 = _corners(track)
    left, top, right, bottom = (round(std) for std in track.edge_std)
    for a, b, c, d in (
        (x1 - left, y1, x1 + left, y2),
        (x2 - right, y1, x2 + right, y2),
        (x1, y1 - top, x2, y1 + top),
        (x1, y2 - bottom, x2, y2 + bottom),
    ):
        patch = image[max(b, 0) : max(d, 0), max(a, 0) : max(c, 0)]
        if patch.size:
            tint = np.full_like(patch, color)
            cv2.addWeighted(tint, _BAND, patch, 1 - _BAND, 0, dst=patch)


def _draw_box(image: Image, track: Track, color: Color, thickness: int) -> None:
    x1, y1, x2, y2 = _corners(track)
    if track.state is not State.LOST:
        cv2.rectangle(image, (x1, y1), (x2, y2), (0, 0, 0), thickness + 2, cv2.LINE_AA)
        cv2.rectangle(image, (x1, y1), (x2, y2), color, thickness, cv2.LINE_AA)
        return
    dash = 6 * thickness
    for start, end in (
        ((x1, y1), (x2, y1)),
        ((x2, y1), (x2, y2)),
        ((x2, y2), (x1, y2)),
        ((x1, y2), (x1, y1)),
    ):
        steps = max(2, (abs(end[0] - start[0]) + abs(end[1] - start[1])) // dash)
        places = np.linspace(start, end, steps + 1).round().astype(int)
        for a, b in zip(places[:-1:2], places[1::2], strict=False):
            cv2.line(image, tuple(map(int, a)), tuple(map(int, b)), color, thickness, cv2.LINE_AA)


def _draw_label(image: Image, track: Track, color: Color, unit: float, full_depth: int) -> None:
    text = f"{track.target_id} {track.confidence:.2f}"
    if track.state is not State.TRACKING:
        text += f" {track.state.name}"
    if full_depth and track.depth:
        text += f" {track.depth}/{full_depth}"
    if track.template_updated:
        text += " *"
    scale, thickness, margin = 0.45 * unit, max(1, round(unit)), max(2, round(4 * unit))
    (width, height), baseline = cv2.getTextSize(text, _FONT, scale, thickness)
    full_width, full_height = width + 2 * margin, height + baseline + 2 * margin
    x1, y1, _, y2 = _corners(track)
    # Above the box; below it where there is no room, and always inside of the image.
    y = y1 - full_height if y1 >= full_height else y2
    x = max(0, min(x1, image.shape[1] - full_width))
    y = max(0, min(y, image.shape[0] - full_height))
    cv2.rectangle(image, (x, y), (x + full_width, y + full_height), color, cv2.FILLED)
    place = (x + margin, y + margin + height)
    cv2.putText(image, text, place, _FONT, scale, (0, 0, 0), thickness, cv2.LINE_AA)
