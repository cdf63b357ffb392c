"""What the images of the network share: figures of a size in pixels, crops, colours, PNG files.

Figures are drawn by matplotlib's Agg backend without `pyplot`, so that nothing global changes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from mixformerv2_ros.errors import ParameterError, SourceError
from mixformerv2_ros.files import write_file
from mixformerv2_ros.io.video import VideoFile
from mixformerv2_ros.model.engine import EDGES
from mixformerv2_ros.text import printable

Image = npt.NDArray[np.uint8]
Extent = tuple[float, float, float, float]
"""Left, right, bottom and top in the coordinates of an axes."""

INK, FAINT, ACCENT, BOX, INITIAL = "#282828", "#969696", "#d55e00", "#50dc50", "#0072b2"

# Okabe and Ito's palette, told apart with any colour vision.
EDGE_COLORS = dict(zip(EDGES, ("#0072b2", "#d55e00", "#009e73", "#cc79a7"), strict=True))

DPI = 100
TEXT, SMALL, TITLE = 9.0, 8.0, 13.0
"""Sizes of text in points."""

MAX_SIDE = 32_000
"""Longest side of a sheet in pixels; viewers fail beyond 2^15."""

GAP = 0.012
"""Between crops, over the side of a search region."""


def new_sheet(width: int, height: int, title: str) -> Figure:
    """An empty figure of a size in pixels, with a title at its top left.

    Raises:
        ParameterError: a side is longer than `MAX_SIDE`.
    """
    check_size(width, height)
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    FigureCanvasAgg(figure)
    figure.text(
        16 / width, 1 - 14 / height, printable(title, 120), size=TITLE, va="top", color=INK,
        parse_math=False,
    )  # fmt: skip
    return figure


def check_size(width: int, height: int) -> None:
    """Refuse what no viewer would show.

    Raises:
        ParameterError: a side is longer than `MAX_SIDE`.
    """
    if max(height, width) > MAX_SIDE:
        raise ParameterError(
            f"a sheet must be at most {MAX_SIDE} px on a side, got {width}x{height}: "
            "choose fewer frames or rows, or write a video"
        )


def add_axes(figure: Figure, x: float, y: float, width: float, height: float) -> Axes:
    """Axes at a place in pixels from the top-left corner of the figure, without ticks."""
    across, down = figure.get_size_inches() * DPI
    axes = figure.add_axes((x / across, 1 - (y + height) / down, width / across, height / down))
    axes.set_xticks([])
    axes.set_yticks([])
    axes.tick_params(labelsize=SMALL, labelcolor=INK, color=FAINT)
    return axes


def add_text(figure: Figure, x: float, y: float, text: str, **options: Any) -> None:
    """Text whose top-left corner is at a place in pixels from that of the figure."""
    across, down = figure.get_size_inches() * DPI
    options = {"size": TEXT, "va": "top", "color": INK, **options}
    figure.text(x / across, 1 - y / down, text, **options)


def crop_extents(templates: int) -> list[Extent]:
    """Places of templates, two to a column, and of a search region of side 1 at their right."""
    columns = template_columns(templates)
    extents = []
    for number in range(templates):
        column, row = divmod(number, 2)
        left = (column - columns) * 0.5
        extents.append((left, left + 0.5 - GAP, (row + 1) * 0.5 - GAP * (1 - row), row * 0.5))
    return [*extents, (0.0, 1.0, 1.0, 0.0)]


def template_columns(templates: int) -> int:
    """Number of columns that `crop_extents` has beside the search region."""
    return math.ceil(templates / 2)


def crops_width(templates: int, side: int) -> int:
    """Width in pixels of crops whose search region has `side` pixels."""
    return round(side * (1 + 0.5 * template_columns(templates)))


def show_crops(axes: Axes, crops: Sequence[npt.NDArray[Any]], **options: Any) -> None:
    """Show templates and, last, the search region: RGB, or grey levels with options for them."""
    extents = crop_extents(len(crops) - 1)
    for crop, extent in zip(crops, extents, strict=True):
        show(axes, crop, extent, **{"interpolation": "catrom", **options})
    axes.set_xlim(extents[0][0], 1)
    axes.set_ylim(1, 0)
    axes.set_axis_off()


def show(axes: Axes, image: npt.NDArray[Any], extent: Extent, **options: Any) -> None:
    """Show an image at a place of an axes, whatever its shape."""
    axes.imshow(image, extent=extent, aspect="auto", **options)


def show_template(axes: Axes, crop: Image, color: str | None) -> None:
    """Show one template, in a frame of a colour where one is given."""
    axes.imshow(crop, interpolation="catrom", aspect="auto")
    for spine in axes.spines.values():
        spine.set_visible(color is not None)
        spine.set(color=color or INK, linewidth=3)


def draw_box(axes: Axes, edges: Sequence[float] | npt.NDArray[np.floating[Any]]) -> None:
    """Draw left, top, right and bottom, in the coordinates of the axes, as a rectangle."""
    left, top, right, bottom = (float(edge) for edge in edges)
    axes.add_patch(
        Rectangle(
            (left, top), right - left, bottom - top, fill=False, color=BOX, linewidth=1.8,
            path_effects=[withStroke(linewidth=3.6, foreground="black")],
        )
    )  # fmt: skip


def render(figure: Figure) -> Image:
    """The figure as (H, W, 3) uint8 BGR."""
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)  # see new_sheet
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., 2::-1])


class SheetFile:
    """A PNG file with sheets one above the other, or a video with a frame per sheet.

    Use it as a context manager: a PNG is written when the block ends without an exception.
    """

    def __init__(self, path: Path, fps: float) -> None:
        """Choose the file; its suffix is `.png` or that of a video.

        Raises:
            SourceError: the suffix is not known.
        """
        self.path = path
        self.count = 0
        self._video = None if path.suffix.lower() == ".png" else VideoFile(path, fps)
        self._images: list[Image] = []

    @property
    def is_video(self) -> bool:
        """Whether it takes a sheet per frame."""
        return self._video is not None

    def write(self, figure: Figure) -> None:
        """Append a sheet; all of a PNG must have one width.

        Raises:
            ParameterError: the PNG would be too large to be shown.
            SourceError: the video cannot be written.
        """
        self.count += 1
        image = render(figure)
        if self._video is not None:
            self._video.write(image)
            return
        self._images.append(image)
        check_size(image.shape[1], sum(each.shape[0] for each in self._images))

    def __enter__(self) -> SheetFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._video is not None:
            self._video.close()
        elif kind is None and self._images:
            done, data = cv2.imencode(".png", np.concatenate(self._images))
            if not done:
                raise SourceError(f"image {self.path} cannot be encoded")
            write_file(self.path, data.tobytes())
