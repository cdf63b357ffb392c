"""The search for a lost target all over the image.

While a target is LOST, its tracker goes on looking where it was. Beside that, a few more crops of
every image are searched with the same templates: first wider ones around the last sure box, then
tiles of the size that a search region had at that box, the nearest first, as far as the target may
have come meanwhile. After every `GROUP` crops the best find is considered: it must be sure enough,
surer by a margin than any other place of this round (a look-alike), and of a plausible size. Then
it is followed on trial while the round goes on, and only when its confidence has held for some
images in a row, and the whole round has shown no rival, does the target move there. Everything
follows from images and their times: replays are deterministic.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mixformerv2_ros.model.engine import Prediction
from mixformerv2_ros.tracking.boxes import Box, clip_box
from mixformerv2_ros.tracking.crop import CropWindow, crop_window
from mixformerv2_ros.tracking.frame import NS, Frame
from mixformerv2_ros.tracking.settings import TrackerSettings

WIDER = (1.6, 2.4)
"""Sides of the crops around the last sure box, over that of a search region."""
STEP = 0.55
"""Distance of neighbouring tiles over their side."""
GROUP = 24
"""Crops between two decisions, so that a find is not out of date when it is considered."""
SIZES = (0.5, 2.0)
"""Side of a find (sqrt of its area) over that of the last sure box."""
SAME_PLACE = 0.75
"""Finds whose centres are farther apart, in sides of the box, are at two places; a crop that shows
a part of the target may put its box up to 0.71 away."""


@dataclass(frozen=True)
class Sighting:
    """Where a target was seen.

    Attributes:
        box: In pixels of the image.
        time_ns: Time of the image.
    """

    box: Box
    time_ns: int


@dataclass(frozen=True)
class Find:
    """What was found in one crop.

    Attributes:
        box: In pixels of the image, clipped to it.
        score: Confidence of the network.
        window: The crop.
        edges: (4, bins) distributions of the edges over the crop.
    """

    box: Box
    score: float
    window: CropWindow
    edges: npt.NDArray[np.float32]


class Reacquisition:
    """The search for one lost target. Per image: `windows`, their search, then `take`."""

    def __init__(self, last: Sighting) -> None:
        """Begin after the last sure sighting."""
        self._last = last
        self._todo: deque[CropWindow] = deque()
        self._round: list[Find] = []
        self._group: list[Find] = []
        self._trial: Find | None = None
        self._held = 0

    @property
    def on_trial(self) -> bool:
        """Whether a find is followed on trial; the first of the next `windows` is its."""
        return self._trial is not None

    def windows(
        self, frame: Frame, time_ns: int, settings: TrackerSettings, limit: int
    ) -> list[CropWindow]:
        """The crops to search in the next image, 1 to `limit`."""
        chosen = []
        if self._trial is not None:
            chosen = [crop_window(self._trial.box, settings.search_factor)]
        elif not self._todo:
            self._round, self._group = [], []
            self._todo.extend(self._plan(frame, time_ns, settings))
        count = min(limit - len(chosen), len(self._todo))
        return chosen + [self._todo.popleft() for _ in range(count)]

    def take(self, finds: Sequence[Find], settings: TrackerSettings) -> Find | None:
        """Take what was found in `windows`, in their order.

        Returns:
            Where the target is again; None while it is lost.
        """
        finds = list(finds)
        if self._trial is not None:
            self._follow(finds.pop(0), settings)
        self._group += finds
        if len(self._group) >= GROUP or not self._todo:
            if self._trial is None:
                self._trial, self._held = self._choose(settings), 0
            elif self._has_rival(self._trial, self._group, settings):
                self._trial = None
            self._round += self._group
            self._group = []
        sure = self._held >= settings.reacquire_frames and not self._todo
        return self._trial if sure else None

    def _follow(self, found: Find, settings: TrackerSettings) -> None:
        """Go on with the trial, or end it."""
        self._held += 1
        self._trial = found if found.score >= settings.uncertain_threshold else None

    def _plan(self, frame: Frame, time_ns: int, settings: TrackerSettings) -> list[CropWindow]:
        """All crops of a round."""
        width, height = frame.pixels.width, frame.pixels.height
        side = crop_window(self._last.box, settings.search_factor).side
        center = self._last.box.center
        seconds = max(0, time_ns - self._last.time_ns) / NS
        reach = math.sqrt(self._last.box.area) * settings.reacquire_max_speed
        limit = reach * (1 + seconds)
        # An image has very many tiles of a very small box, nearly all of them out of reach.
        columns, rows = (
            [place for place in _centers(length, side) if abs(place - middle) <= limit]
            for length, middle in zip((width, height), center, strict=True)
        )
        tiles = sorted((math.dist(center, (x, y)), x, y) for x in columns for y in rows)
        wider = [_window(center, math.ceil(side * factor)) for factor in WIDER]
        near = [_window((x, y), side) for distance, x, y in tiles if distance <= limit]
        return [*wider, *near]

    def _choose(self, settings: TrackerSettings) -> Find | None:
        """The best find of the group, if it is good enough and no other place comes near it."""
        best = max(self._group, key=lambda one: one.score, default=None)
        if best is None or best.score < settings.reacquire_score_threshold:
            return None
        scale = math.sqrt(best.box.area / self._last.box.area)
        if not SIZES[0] <= scale <= SIZES[1]:
            return None
        others = (*self._round, *self._group)
        return None if self._has_rival(best, others, settings) else best

    @staticmethod
    def _has_rival(one: Find, others: Sequence[Find], settings: TrackerSettings) -> bool:
        """Whether something at another place comes near a find's confidence."""
        most = max((o.score for o in others if not _same_place(o.box, one.box)), default=0.0)
        return one.score - most < settings.reacquire_margin


def find(frame: Frame, window: CropWindow, prediction: Prediction, index: int) -> Find:
    """Answer number `index` of a batch, in pixels of the image."""
    cx, cy, w, h = (float(value) * window.side for value in prediction.boxes[index])
    box = Box(window.x + cx - w / 2, window.y + cy - h / 2, w, h)
    clipped = clip_box(box, frame.pixels.width, frame.pixels.height)
    return Find(clipped, float(prediction.scores[index]), window, prediction.edges[index])


def _window(center: tuple[float, float], side: int) -> CropWindow:
    return CropWindow(round(center[0] - side / 2), round(center[1] - side / 2), side)


def _centers(length: int, side: int) -> list[float]:
    """Middles of tiles that cover `length` pixels and do not hang over more than they must."""
    if side >= length:
        return [length / 2]
    count = math.ceil((length - side) / (STEP * side)) + 1
    return [float(x) for x in np.linspace(side / 2, length - side / 2, count)]


def _same_place(a: Box, b: Box) -> bool:
    return math.dist(a.center, b.center) <= SAME_PLACE * math.sqrt(b.area)
