"""Sampling of data sets as in the published training (specification, 4.1 and 4.2).

For each sample, a data set is drawn by weight, then a clip uniformly, then three frames. Sample
number i of a seed depends on nothing else: neither on the number of data loader workers nor on a
restart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mixformerv2_ros.errors import ImageError, ParameterError, SourceError
from mixformerv2_ros.lab.datasets.annotated_images import Image
from mixformerv2_ros.lab.datasets.image_cache import ImageCache
from mixformerv2_ros.lab.datasets.source import Clip, ClipDataset
from mixformerv2_ros.lab.training.crops import (
    AugmentedImage,
    Crop,
    brighten,
    crop_around,
    flip,
    jitter_box,
)
from mixformerv2_ros.lab.training.sample import Sample
from mixformerv2_ros.model.spec import ModelSpec
from mixformerv2_ros.tracking.boxes import Box
from mixformerv2_ros.tracking.crop import attenuate_background

MODES = ("causal", "trident_pro")
TRIES = 1000
"""Rejected draws in a row after which a data set is reported as unusable."""
GROWTH = 5
"""Frames by which windows grow if they contain no visible frame."""

_PROBABILITIES = (
    "negative_ratio",
    "grey",
    "flip",
    "crop_flip",
    "brightness",
    "template_background_contrast",
)


@dataclass(frozen=True)
class SamplingConfig:
    """Sampling of data sets. The defaults are the published ones for distillation at 224 pixels.

    Attributes:
        mode: Choice of frames. `causal` (distillation): the online template before the initial one,
            the search frame after it. `trident_pro` (score stage): any two frames, and the online
            template on the initial one's side of the search frame, visible or not.
        max_gap: Half the width, in frames, of the windows that frames are drawn from.
        negative_ratio: Fraction of samples whose search region does not show the target (score
            stage: 0.5).
        template_factor: Side of a template over sqrt(w * h) of the target.
        search_factor: The same for the search region (published: 5.0 at 288 pixels).
        template_background_contrast: Contrast that remains around the target in templates
            (published: 1).
        template_center_jitter: Width of the uniform offset of a template's centre, in target sizes.
        search_center_jitter: The same for the search region.
        template_scale_jitter: Standard deviation of the log of a template box's width and height.
        search_scale_jitter: The same for the search region.
        grey: Fraction of samples in greyscale.
        flip: Fraction of samples that are flipped as a whole.
        crop_flip: Fraction of crops that are flipped individually.
        brightness: Each crop is multiplied by U(1 - brightness, 1 + brightness).
        min_frames: Minimum number of frames of a video.
        min_visible: Minimum number of frames with a visible target of a video.
        cache_megabytes: Image cache of each data loader worker, 10^6 bytes; 0 turns it off.
        cache_decoded: Cache decoded images: fifteen times the memory, but no decoding.
    """

    mode: str = "causal"
    max_gap: int = 200
    negative_ratio: float = 0.0
    template_factor: float = 2.0
    search_factor: float = 4.5
    template_background_contrast: float = 1.0
    template_center_jitter: float = 0.0
    search_center_jitter: float = 4.5
    template_scale_jitter: float = 0.0
    search_scale_jitter: float = 0.5
    grey: float = 0.05
    flip: float = 0.5
    crop_flip: float = 0.5
    brightness: float = 0.2
    min_frames: int = 20
    min_visible: int = 7
    cache_megabytes: float = 0.0
    cache_decoded: bool = True

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ParameterError(f"mode must be one of {', '.join(MODES)}, got {self.mode!r}")
        shares = (
            "negative_ratio",
            "grey",
            "flip",
            "crop_flip",
            "brightness",
            "template_background_contrast",
        )
        for name in shares:
            if not 0 <= getattr(self, name) <= 1:
                raise ParameterError(f"{name} must be from 0 to 1, got {getattr(self, name)}")
        for name in ("max_gap", "min_frames", "template_factor", "search_factor"):
            if not 0 < getattr(self, name) < math.inf:
                raise ParameterError(f"{name} must be more than 0, got {getattr(self, name)}")
        # The causal choice needs a frame before and one after the first.
        if self.min_visible < 3:
            raise ParameterError(f"min_visible must be at least 3, got {self.min_visible}")
        jitters = [f"{part}_{what}_jitter" for part in ("template", "search")
                   for what in ("center", "scale")]  # fmt: skip
        for name in (*jitters, "cache_megabytes"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ParameterError(f"{name} must be 0 or more, got {getattr(self, name)}")


class _UnreadableImage(Exception):
    """An image that a sample needs is missing or damaged, and may be left out."""


class Choice(NamedTuple):
    """Frames of one clip: initial template, online template, search region."""

    first: int
    online: int
    search: int


def choose_causal(visible: npt.NDArray[np.bool_], max_gap: int, rng: np.random.Generator) -> Choice:
    """Choose visible frames online < first < search, neighbours less than `max_gap` apart.

    Args:
        visible: (N,), at least three of them true.
        max_gap: Online comes from [first - gap, first), search from (first, first + gap); if one of
            these windows has no visible frame, all three are drawn again with a gap larger by 5.
        rng: Random generator.
    """
    seen = np.flatnonzero(visible)
    gap = max_gap
    while True:
        place = int(rng.integers(len(seen)))
        first = int(seen[place])
        low = int(np.searchsorted(seen, first - gap, side="left"))
        high = int(np.searchsorted(seen, first + gap, side="left"))
        if low < place and place + 1 < high:
            online = int(seen[rng.integers(low, place)])
            search = int(seen[rng.integers(place + 1, high)])
            return Choice(first, online, search)
        gap += GROWTH


def choose_trident(
    visible: npt.NDArray[np.bool_], max_gap: int, rng: np.random.Generator
) -> Choice:
    """Choose two visible frames at random and an online template near the search frame.

    The online template comes from [search, search + gap) if the initial one is not before the
    search frame, else from [search - gap, search); the target need not be visible in it.
    """
    seen = np.flatnonzero(visible)
    first, search = (int(frame) for frame in seen[rng.integers(len(seen), size=2)])
    if first >= search:
        online = int(rng.integers(search, min(search + max_gap, len(visible))))
    else:
        online = int(rng.integers(max(search - max_gap, 0), search))
    return Choice(first, online, search)


def centered_box(width: int, height: int) -> Box:
    """A box in the middle of an image, an eighth of its size, for search regions without target."""
    w, h = width / 8, height / 8
    return Box(*(float(int(v)) for v in (0.5 * (width - w), 0.5 * (height - h), w, h)))


class TrackingDataset:
    """Draws samples; `sample(seed, index)` is a pure function of its arguments."""

    def __init__(
        self,
        sets: Sequence[tuple[ClipDataset, float]],
        spec: ModelSpec,
        config: SamplingConfig,
        train: bool,
        skip_unreadable: bool = False,
    ) -> None:
        """Prepare sampling.

        Args:
            sets: Data sets and their weights, which need not sum to 1.
            spec: The network, which determines the sizes of crops.
            config: Sampling.
            train: Whether to augment crops individually (brightness, flip); not for validation.
            skip_unreadable: Whether to draw again where an image cannot be read, instead of
                raising; the sample names the image.

        Raises:
            ParameterError: no set, or weights that are negative or all zero.
        """
        weights = np.array([weight for _, weight in sets], dtype=np.float64)
        if not len(weights):
            raise ParameterError("expected at least one data set, got none")
        if not np.isfinite(weights).all() or (weights < 0).any():
            raise ParameterError(f"weights of data sets must be 0 or more, got {weights.tolist()}")
        if weights.sum() <= 0:
            raise ParameterError(f"a data set must have a weight above 0, got {weights.tolist()}")
        self.sets = [each for each, _ in sets]
        self.spec = spec
        self.config = config
        self.train = train
        self.skip_unreadable = skip_unreadable
        self._shares = np.cumsum(weights / weights.sum())[:-1]
        self._images = ImageCache(config.cache_megabytes, config.cache_decoded)

    def sample(self, seed: int, index: int) -> Sample:
        """Draw sample number `index` of the stream `seed`.

        `edges` are zeros if the target is absent.

        Raises:
            SourceError: an annotation or an image is missing or damaged, or no clip of a data set
                is usable.
            ImageError: an image cannot be decoded.
        """
        rng = np.random.default_rng((seed, index))
        unreadable: list[str] = []
        for _ in range(TRIES):
            try:
                sample = self._draw(rng)
            except _UnreadableImage as error:
                unreadable.append(str(error))
                continue
            if sample is not None:
                return replace(sample, unreadable=tuple(unreadable))
        names = ", ".join(each.name for each in self.sets)
        raise SourceError(
            f"{names}: {TRIES} samples in a row were rejected, check boxes and images"
        )

    # Frames ------------------------------------------------------------------------------------

    def draw_clip(self, rng: np.random.Generator) -> Clip:
        """Draw a data set by weight, then a still or a sufficiently long video of it."""
        source = self.sets[int(np.searchsorted(self._shares, rng.random(), side="right"))]
        for _ in range(TRIES):
            clip = source.clip(int(rng.integers(len(source))))
            if clip.is_image or (
                len(clip.frames) >= self.config.min_frames
                and np.count_nonzero(clip.visible) >= self.config.min_visible
            ):
                return clip
        raise SourceError(
            f"{source.name}: expected videos of {self.config.min_frames} frames or more with "
            f"{self.config.min_visible} visible targets, found none in {TRIES} draws"
        )

    def _choose(self, clip: Clip, rng: np.random.Generator) -> Choice:
        if clip.is_image:
            return Choice(0, 0, 0)
        choose = choose_causal if self.config.mode == "causal" else choose_trident
        return choose(clip.visible, self.config.max_gap, rng)

    def draw_negative(self, clip: Clip, rng: np.random.Generator) -> tuple[Image, Box]:
        """Draw an image without the target of `clip`, and the box to crop around.

        It is a frame of the same video in which the target is hidden, or, if there is none, any
        frame of another clip.

        Raises:
            SourceError: there are no other clips.
        """
        hidden = np.flatnonzero(~clip.visible)
        if len(hidden):
            image = self._read(clip.frames[int(rng.choice(hidden))])
            return image, centered_box(image.shape[1], image.shape[0])
        for _ in range(TRIES):
            other = self.draw_clip(rng)
            # The published code may draw the same images here and label the target absent.
            if other.frames[0] != clip.frames[0]:
                frame = int(rng.integers(len(other.frames)))
                return self._read(other.frames[frame]), _box(other, frame)
        raise SourceError(f"{clip.name}: negative samples need other clips, found none")

    def _read(self, path: Path) -> Image:
        try:
            return self._images.read(path)
        except (SourceError, ImageError) as error:
            if self.skip_unreadable:
                raise _UnreadableImage(str(error)) from None
            raise

    # Crops -------------------------------------------------------------------------------------

    def _draw(self, rng: np.random.Generator) -> Sample | None:
        """Draw one sample; None if a crop is rejected."""
        config = self.config
        clip = self.draw_clip(rng)
        chosen = self._choose(clip, rng)
        present = not rng.random() < config.negative_ratio
        # A still is read once for all crops, with or without a cache.
        images = {frame: self._read(clip.frames[frame]) for frame in {*chosen[:2]}}
        if not present:
            image, box = self.draw_negative(clip, rng)
        else:
            found = images.get(chosen.search)
            image = self._read(clip.frames[chosen.search]) if found is None else found
            box = _box(clip, chosen.search)
        boxes = [*((images[frame], _box(clip, frame)) for frame in chosen[:2]), (image, box)]

        grey, flipped = rng.random(2) < (config.grey, config.flip)
        crops = []
        for number, (image, box) in enumerate(boxes):
            augmented = AugmentedImage(image, bool(flipped), bool(grey))
            crop = self._crop(augmented, augmented.box(box), number == 2, rng)
            if crop is None:
                return None
            crops.append(self._augment(crop, rng))
        edges = np.minimum(np.maximum(crops[2].edges, 0), 1) if present else np.zeros(4)
        return Sample(
            templates=np.stack([self._attenuate(crop) for crop in crops[:2]]),
            search=crops[2].image,
            edges=edges.astype(np.float32),
            present=present,
        )

    def _crop(
        self, image: AugmentedImage, box: Box, is_search: bool, rng: np.random.Generator
    ) -> Crop | None:
        config, spec = self.config, self.spec
        if is_search:
            jitter = config.search_center_jitter, config.search_scale_jitter
            factor, size = config.search_factor, spec.search_size
        else:
            jitter = config.template_center_jitter, config.template_scale_jitter
            factor, size = config.template_factor, spec.template_size
        # A hidden target's box may be anything.
        if not (box.w > 0 and box.h > 0 and math.isfinite(sum(box))):
            return None
        return crop_around(image, jitter_box(box, rng, *jitter), box, factor, size)

    def _attenuate(self, template: Crop) -> Image:
        corners = template.edges * self.spec.template_size
        return attenuate_background(
            template.image, corners, self.config.template_background_contrast
        )

    def _augment(self, crop: Crop, rng: np.random.Generator) -> Crop:
        if not self.train:
            return crop
        reach = self.config.brightness
        crop = Crop(brighten(crop.image, rng.uniform(1 - reach, 1 + reach)), crop.edges)
        return flip(crop) if rng.random() < self.config.crop_flip else crop


def _box(clip: Clip, frame: int) -> Box:
    return Box(*map(float, clip.boxes[frame]))
