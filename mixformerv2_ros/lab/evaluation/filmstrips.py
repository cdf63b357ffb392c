"""Images of a failure: frames around it, with the boxes of ground truth and tracker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from mixformerv2_ros.errors import ImageError, SourceError
from mixformerv2_ros.io.images import read_bgr
from mixformerv2_ros.lab.datasets.sequences import AnnotatedSequence
from mixformerv2_ros.lab.evaluation.analysis import FAILED_BELOW, FailureSegment
from mixformerv2_ros.lab.evaluation.metrics import Floats
from mixformerv2_ros.lab.evaluation.results import Result
from mixformerv2_ros.lab.reports.page import jpeg_uri

IMAGE_WIDTH = 320
"""Largest width of an image in a strip, in pixels."""

Region = tuple[float, float, float, float]
"""x, y, w, h in pixels of the frame."""


@dataclass(frozen=True)
class FilmFrame:
    """One frame of a strip.

    Attributes:
        number: Of the frame, from 1.
        uri: The image as a `data:` address.
        region: Part of the frame that it shows, in whole pixels.
        truth: Box of the ground truth; None where the target is absent.
        predicted: Box of the tracker; None where it has no area.
        overlap: Of both; NaN where the target is absent.
        confidence: Of the tracker; NaN where it gives none.
        lost: Whether the tracker reported LOST.
    """

    number: int
    uri: str
    region: tuple[int, int, int, int]
    truth: Region | None
    predicted: Region | None
    overlap: float
    confidence: float
    lost: bool

    @property
    def grade(self) -> str:
        """`good` for a hit, `bad` for a miss, `soft` in between."""
        if self.overlap > 0.5:
            return "good"
        return "soft" if self.overlap >= FAILED_BELOW else "bad"


def filmstrip(segment: FailureSegment, result: Result) -> list[FilmFrame]:
    """The frames of `segment.frames()`; one that cannot be read is left out."""
    sequence = segment.sequence
    shown = segment.frames()
    region = _common_region(sequence, result, shown)
    strip = []
    for index in shown:
        try:
            image = read_bgr(sequence.frames[index])
        except (ImageError, SourceError):
            continue  # `evaluate` has named it already
        x, y, width, height = inside = _clipped(region, image.shape[1], image.shape[0])
        part = image[y : y + height, x : x + width]
        scale = min(1.0, IMAGE_WIDTH / width)
        if scale < 1:
            shrunk = cv2.resize(part, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            part = np.asarray(shrunk, dtype=np.uint8)
        strip.append(
            FilmFrame(
                number=index + 1,
                uri=jpeg_uri(part),
                region=inside,
                truth=_box(sequence.boxes[index]),
                predicted=_box(result.boxes[index]),
                overlap=float(segment.overlap[index]),
                confidence=float(result.confidences[index]),
                lost=bool(result.lost[index]),
            )
        )
    return strip


def _common_region(sequence: AnnotatedSequence, result: Result, shown: Sequence[int]) -> Region:
    """Part of the frame that holds all boxes of `shown` with room around them, 4:3."""
    boxes = np.concatenate([sequence.boxes[shown], result.boxes[shown]])
    boxes = boxes[~np.isnan(boxes).any(axis=1)]
    low, high = boxes[:, :2].min(axis=0), (boxes[:, :2] + boxes[:, 2:]).max(axis=0)
    sides = np.sqrt(np.maximum(boxes[:, 2] * boxes[:, 3], 1.0))
    room = 1.2 * float(np.median(sides))
    size = np.maximum(high - low + 2 * room, 5 * room)
    width = max(float(size[0]), float(size[1]) * 4 / 3)
    x, y = (float(value) for value in (low + high) / 2)
    return x - width / 2, y - width * 3 / 8, width, width * 3 / 4


def _clipped(region: Region, width: int, height: int) -> tuple[int, int, int, int]:
    """`region` in whole pixels, shrunk and shifted into a frame of the given size."""
    x, y, w, h = region
    across, down = min(round(w), width), min(round(h), height)
    left = min(max(round(x + (w - across) / 2), 0), width - across)
    top = min(max(round(y + (h - down) / 2), 0), height - down)
    return left, top, max(across, 1), max(down, 1)


def _box(box: Floats | npt.NDArray[np.float64]) -> Region | None:
    x, y, w, h = (float(value) for value in box)
    return (x, y, w, h) if w > 0 and h > 0 else None  # NaN where the target is absent
