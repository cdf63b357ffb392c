"""MixFormerV2's inference protocol for one target.

Per frame: crop the search region around the last box, let the engine find the target in it, map the
box back to the image, and keep the best recent view of the target for the online template. The
arithmetic follows the released code, so that the same weights and frames give the same boxes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mixformerv2_ros.model.engine import Engine, Memory, Prediction
from mixformerv2_ros.tracking.boxes import Box, check_box, clip_box
from mixformerv2_ros.tracking.crop import (
    CropWindow,
    attenuate_background,
    crop_and_resize,
    crop_window,
)
from mixformerv2_ros.tracking.frame import NS
from mixformerv2_ros.tracking.memory import TemplateMemory
from mixformerv2_ros.tracking.pixels import Pixels
from mixformerv2_ros.tracking.reacquisition import Find
from mixformerv2_ros.tracking.settings import TrackerSettings


@dataclass(frozen=True)
class Observation:
    """Result of one frame for the target.

    Attributes:
        box: The target's box, clipped to the image.
        confidence: In [0, 1], how sure the network is that the box holds the target.
        edge_std: Standard deviations of left, top, right and bottom edge in pixels.
        candidate_taken: This frame became the candidate for the online template.
        template_updated: The online template changed after this frame.
        depth: Number of blocks of the network that were run for it.
    """

    box: Box
    confidence: float
    edge_std: tuple[float, float, float, float]
    candidate_taken: bool
    template_updated: bool
    depth: int


class TargetTracker:
    """Follows one target: per frame `crop_search`, the engine's search, then `apply`.

    Attributes:
        settings: May be replaced between frames.
        box: The last box in pixels.
        memory: Encoded templates, in the engine's form.
        search_window: Where the last search region was cropped.
        observation: Result of the last frame; None before the first `apply`.
    """

    def __init__(
        self,
        engine: Engine,
        settings: TrackerSettings,
        image: Pixels,
        box: Box,
        stamp_ns: int = 0,
    ) -> None:
        """Start on `box` in `image`.

        Raises:
            BoxError, ImageError: no target can be tracked from this box (`boxes.check_box`).
        """
        self.engine = engine
        self.settings = settings
        self.box = check_box(Box(*map(float, box)), image.width, image.height)
        self.templates = TemplateMemory(self._crop_template(image))
        self.memory: Memory = engine.encode_templates(self.templates.templates())
        self.frames_since_update = 0
        self.updated_ns = stamp_ns
        self.search_window = CropWindow(0, 0, 1)
        self.observation: Observation | None = None

    def crop_search(self, image: Pixels, out: npt.NDArray[np.uint8]) -> None:
        """Crop the search region around the last box into `out` (S, S, 3) uint8 RGB."""
        self.search_window = crop_window(self.box, self.settings.search_factor)
        crop_and_resize(image, self.search_window, out)

    def reduction(self, settings: TrackerSettings) -> float:
        """By how much the next image may be reduced and still have a pixel per pixel of a crop.

        The smaller of the search region's side and the template's, each over that of its crop. The
        template is cut around the box that is yet to be found.
        """
        side = math.sqrt(self.box.area)
        spec = self.engine.spec
        return side * min(
            settings.search_factor / spec.search_size,
            settings.template_factor / spec.template_size,
        )

    def box_of(self, prediction: Prediction, index: int, image: Pixels) -> Box:
        """Where the engine's answer number `index` to the last `crop_search` puts the target."""
        return clip_box(self._to_image(prediction.boxes[index]), image.width, image.height)

    def apply(
        self,
        image: Pixels,
        prediction: Prediction,
        index: int,
        stamp_ns: int = 0,
        update_templates: bool = True,
    ) -> Observation:
        """Take over the engine's answer number `index` to the last `crop_search`.

        Args:
            image: The image that the crop was cut from.
            prediction: A batch of answers.
            index: Which of them is this target's.
            stamp_ns: Time of the image, for updates by period.
            update_templates: Whether the template memory may change with this frame.
        """
        side = self.search_window.side
        score = float(prediction.scores[index])
        self.box = self.box_of(prediction, index, image)
        taken = self._offer(image, score) if update_templates else False
        self.frames_since_update += 1
        updated = update_templates and self._is_due(stamp_ns)
        if updated:
            self._commit(stamp_ns)
        self.observation = Observation(
            box=self.box,
            confidence=score,
            edge_std=_edge_std(prediction.edges[index], side),
            candidate_taken=taken,
            template_updated=updated,
            depth=int(prediction.depths[index]),
        )
        return self.observation

    def move(self, find: Find) -> Observation:
        """Go on from a find elsewhere in the image that the last `apply` was for.

        A whole interval of views is gathered there before the online template may change.
        """
        self.box = find.box
        self.search_window = find.window
        self.frames_since_update = 0
        self.observation = Observation(
            box=find.box,
            confidence=find.score,
            edge_std=_edge_std(find.edges, find.window.side),
            candidate_taken=False,
            template_updated=False,
            depth=self.engine.spec.depth,
        )
        return self.observation

    def forget_online(self) -> None:
        """Return to the initial template, after the box has drifted.

        Raises:
            EngineError: the engine failed; nothing has changed then.
        """
        initial = TemplateMemory(self.templates.initial)
        self.memory = self.engine.encode_templates(initial.templates())
        self.templates = initial

    def _to_image(self, box: npt.NDArray[np.float32]) -> Box:
        """Map a predicted box (centre, size; over the crop's side) to image pixels.

        Scaled in float32 and shifted in double precision like the reference, which takes the last
        box's middle for the crop's middle and so ignores that the crop starts at a whole pixel.
        """
        search_size = self.engine.spec.search_size
        factor = search_size / self.search_window.side
        scaled = box * np.float32(search_size) / np.float32(factor)
        cx, cy, w, h = (float(value) for value in scaled)
        half = 0.5 * search_size / factor
        x_last, y_last = self.box.center
        return Box(cx + (x_last - half) - 0.5 * w, cy + (y_last - half) - 0.5 * h, w, h)

    def _offer(self, image: Pixels, score: float) -> bool:
        self.templates.decay(self.settings.max_score_decay)
        if not self.templates.accepts(score, self.settings.update_score_threshold):
            return False
        self.templates.offer(self._crop_template(image), score)
        return True

    def _is_due(self, stamp_ns: int) -> bool:
        if self.settings.update_period > 0:
            return stamp_ns - self.updated_ns >= self.settings.update_period * NS
        return self.frames_since_update >= self.settings.update_interval

    def _commit(self, stamp_ns: int) -> None:
        self.templates.commit(self.settings.online_size)
        self.memory = self.engine.encode_templates(self.templates.templates())
        self.frames_since_update = 0
        self.updated_ns = stamp_ns

    def _crop_template(self, image: Pixels) -> npt.NDArray[np.uint8]:
        size = self.engine.spec.template_size
        crop = np.empty((size, size, 3), dtype=np.uint8)
        window = crop_window(self.box, self.settings.template_factor)
        crop_and_resize(image, window, crop)
        scale = size / window.side
        x, y = (self.box.x - window.x) * scale, (self.box.y - window.y) * scale
        corners = (x, y, x + self.box.w * scale, y + self.box.h * scale)
        return attenuate_background(crop, corners, self.settings.template_background_contrast)


def search_shape(engine: Engine) -> tuple[int, int, int]:
    """Shape (S, S, 3) of one search crop."""
    size = engine.spec.search_size
    return size, size, 3


def _edge_std(edges: npt.NDArray[np.float32], side: int) -> tuple[float, float, float, float]:
    """Standard deviations in image pixels of distributions (4, bins) over a crop of `side` px."""
    bins = edges.shape[1]
    positions = np.arange(bins) / bins
    mean = edges @ positions
    variance = edges @ np.square(positions) - np.square(mean)
    left, top, right, bottom = np.sqrt(np.maximum(variance, 0.0)) * side
    return float(left), float(top), float(right), float(bottom)
