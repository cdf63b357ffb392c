"""What picture sheets are put together from: text, heat maps over crops, boxes, rows and columns.

All pictures are (height, width, 3) uint8 in OpenCV's order, BGR; crops of the network are RGB and
come in through `enlarge`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from mixformerv2_ros.errors import ParameterError, SourceError
from mixformerv2_ros.files import write_file
from mixformerv2_ros.model.engine import EDGES
from mixformerv2_ros.text import printable

Picture = npt.NDArray[np.uint8]
Crop = npt.NDArray[np.uint8]
Color = tuple[int, int, int]

PAPER: Color = (255, 255, 255)
INK: Color = (40, 40, 40)
FAINT: Color = (150, 150, 150)
GRID: Color = (225, 225, 225)
ACCENT: Color = (0, 94, 213)
BOX: Color = (80, 220, 80)

# Okabe and Ito's palette, told apart with any colour vision.
EDGE_COLORS: dict[str, Color] = dict(
    zip(EDGES, [(178, 114, 0), (0, 94, 213), (115, 158, 0), (167, 121, 204)], strict=True)
)

COLOR_MAP = cv2.COLORMAP_INFERNO
"""Perceptually uniform: equal steps of a value look like equal steps."""

LINE = 20
"""Height of a line of text in pixels."""

MAX_SIDE = 32_000
"""Longest side of a sheet; viewers fail beyond 2^15."""

_FONT = cv2.FONT_HERSHEY_SIMPLEX
# Thicker strokes of the plain font would run into each other at this size.
_BOLD = cv2.FONT_HERSHEY_DUPLEX
_SCALE = 0.45


def blank(height: int, width: int, color: Color = PAPER) -> Picture:
    """An empty sheet."""
    return np.full((height, width, 3), color, np.uint8)


def text_width(text: str, scale: float = _SCALE, bold: bool = False) -> int:
    """Width of a line of text in pixels."""
    return int(cv2.getTextSize(text, _BOLD if bold else _FONT, scale, 1)[0][0])


def write_text(
    image: Picture,
    text: str,
    x: int,
    y: int,
    color: Color = INK,
    *,
    scale: float = _SCALE,
    bold: bool = False,
    halo: bool = False,
    align: str = "left",
) -> None:
    """Write one line into `image`.

    Args:
        image: Changed in place.
        text: OpenCV's fonts know ASCII only; other characters become question marks.
        x: Where the line starts (`align` left), has its middle (centre) or ends (right).
        y: Its base line.
        color: BGR.
        scale: Size; 0.45 gives capitals of 10 pixels.
        bold: Thicker strokes.
        halo: A dark rim, for text on photographs.
        align: `left`, `center` or `right`.
    """
    text = text.encode("ascii", "replace").decode()
    shift = {"left": 0.0, "center": 0.5, "right": 1.0}[align]
    origin = (x - round(shift * text_width(text, scale, bold)), y)
    if halo:
        cv2.putText(image, text, origin, _FONT, scale, (0, 0, 0), 3, cv2.LINE_AA)
    cv2.putText(image, text, origin, _BOLD if bold else _FONT, scale, color, 1, cv2.LINE_AA)


def fit_text(text: str, width: int, scale: float = _SCALE) -> str:
    """Shorten text to `width` pixels; unprintable characters are shown escaped."""
    shown = printable(text, 200)
    if text_width(shown, scale) <= width:
        return shown
    while shown and text_width(shown + "...", scale) > width:
        shown = shown[:-1]
    return shown + "..."


def paste(sheet: Picture, picture: Picture, x: int, y: int) -> None:
    """Set `picture` into `sheet` with its top-left corner at x, y; it must fit."""
    height, width = picture.shape[:2]
    sheet[y : y + height, x : x + width] = picture


def enlarge(crop: Crop, side: int) -> Picture:
    """An RGB crop as a BGR picture of `side` x `side` pixels."""
    method = cv2.INTER_AREA if side < crop.shape[0] else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(crop[..., ::-1].copy(), (side, side), interpolation=method))


def heat(crop: Crop, values: npt.NDArray[np.floating], top: float, side: int) -> Picture:
    """A heat map over an RGB crop.

    Args:
        crop: (N, N, 3) uint8 RGB.
        values: (G, G), one per patch; between patches the colour is interpolated.
        top: Value that gets the brightest colour; 0 the darkest.
        side: Side of the result in pixels.
    """
    level = np.clip(values / top if top > 0 else values * 0, 0, 1).astype(np.float32)
    smooth = cv2.resize(level, (side, side), interpolation=cv2.INTER_LINEAR)
    color = cv2.applyColorMap(np.rint(smooth * 255).astype(np.uint8), COLOR_MAP)
    grey = cv2.cvtColor(enlarge(crop, side), cv2.COLOR_BGR2GRAY)[..., None]
    # The crop stays visible where little happens and gives way where much does.
    opacity = (0.25 + 0.5 * smooth)[..., None]
    mixed: Picture = np.rint(grey * 0.7 * (1 - opacity) + color * opacity).astype(np.uint8)
    return mixed


def color_scale(width: int, low: str, high: str) -> Picture:
    """A legend: the colours from `low` to `high`."""
    left, right = text_width(low) + 8, text_width(high) + 8
    image = blank(LINE, left + width + right)
    ramp = np.tile(np.linspace(0, 255, width).astype(np.uint8), (LINE - 8, 1))
    paste(image, np.asarray(cv2.applyColorMap(ramp, COLOR_MAP)), left, 4)
    write_text(image, low, 0, LINE - 5)
    write_text(image, high, left + width + 8, LINE - 5)
    return image


def draw_edges(
    image: Picture,
    edges: Sequence[float] | npt.NDArray[np.floating],
    color: Color = BOX,
    thickness: int = 2,
) -> None:
    """Draw left, top, right and bottom, given over the picture's side, as a rectangle."""
    left, top, right, bottom = (round(float(edge) * (image.shape[0] - 1)) for edge in edges)
    cv2.rectangle(image, (left, top), (right, bottom), (0, 0, 0), thickness + 2)
    cv2.rectangle(image, (left, top), (right, bottom), color, thickness)


def frame_around(image: Picture, color: Color, thickness: int = 3) -> None:
    """Draw a border along the inside of a picture."""
    height, width = image.shape[:2]
    cv2.rectangle(image, (0, 0), (width - 1, height - 1), color, 2 * thickness - 1)


def above(pictures: Sequence[Picture], gap: int = 0, color: Color = PAPER) -> Picture:
    """Pictures one above the other, aligned left."""
    width = max(picture.shape[1] for picture in pictures)
    height = sum(picture.shape[0] for picture in pictures) + gap * (len(pictures) - 1)
    check_size(height, width)
    sheet = blank(height, width, color)
    y = 0
    for picture in pictures:
        paste(sheet, picture, 0, y)
        y += picture.shape[0] + gap
    return sheet


def beside(pictures: Sequence[Picture], gap: int = 0, color: Color = PAPER) -> Picture:
    """Pictures side by side, aligned at the top."""
    width = sum(picture.shape[1] for picture in pictures) + gap * (len(pictures) - 1)
    height = max(picture.shape[0] for picture in pictures)
    check_size(height, width)
    sheet = blank(height, width, color)
    x = 0
    for picture in pictures:
        paste(sheet, picture, x, 0)
        x += picture.shape[1] + gap
    return sheet


def pad(picture: Picture, margin: int, color: Color = PAPER) -> Picture:
    """The picture with a margin all around."""
    height, width = picture.shape[:2]
    sheet = blank(height + 2 * margin, width + 2 * margin, color)
    paste(sheet, picture, margin, margin)
    return sheet


def check_size(height: int, width: int) -> None:
    """Refuse a sheet that no viewer could show.

    Raises:
        ParameterError: a side is longer than `MAX_SIDE`.
    """
    if max(height, width) > MAX_SIDE:
        raise ParameterError(
            f"a sheet must be at most {MAX_SIDE} px on a side, got {width}x{height}: "
            "choose fewer frames or rows, or write a video"
        )


def write_picture(path: Path, picture: Picture) -> None:
    """Write a PNG.

    Raises:
        SourceError: the file cannot be written.
    """
    ok, data = cv2.imencode(".png", picture)
    if not ok:
        raise SourceError(f"picture {path} cannot be encoded")
    write_file(path, data.tobytes())
