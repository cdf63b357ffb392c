"""The synthetic dataset: samples made of annotated stills and clips.

A sample resembles what the tracker meets: an initial template, an online template, and a search
region whose centre and scale are off by what a moving target or a drifting box causes. Three kinds
are mixed:

- `clip`: three frames of one sequence;
- `still`: one still, cropped three times by different virtual cameras;
- `composite`: an object cut out of one still and pasted onto other images, among other objects.

Each kind has negative samples, whose search region does not show the target. Sample number i of a
seed depends on nothing else: neither on the number of data loader workers nor on a restart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mixformerv2_ros.errors import ParameterError
from mixformerv2_ros.lab.datasets.annotated_images import DecodedClip, Image, Still
from mixformerv2_ros.lab.training import augment
from mixformerv2_ros.lab.training.composites import (
    COMPOSITE_ROLL_STD,
    Cutout,
    cut_out,
    occlude,
    opaque_bounds,
    paste,
    paste_distractor_copy,
    random_background,
    random_pose,
)
from mixformerv2_ros.lab.training.object_pool import ObjectPool
from mixformerv2_ros.lab.training.sample import Sample
from mixformerv2_ros.model.spec import ModelSpec
from mixformerv2_ros.tracking.crop import attenuate_background

_PROBABILITIES = (
    "negative_ratio",
    "hard_negative_ratio",
    "small_motion_prob",
    "grey",
    "template_background_contrast",
    "distractor_copy_prob",
    "compression",
    "relight_prob",
    "rotation_prob",
    "zoom_prob",
    "truncation_prob",
    "motion_blur_prob",
    "low_resolution_prob",
    "weather_prob",
)

_ROTATION_STD = 0.7
"""Standard deviation of large rotations in the plane, radians."""

_MAX_ZOOM = 2.5
"""Largest factor of a strong scale error."""


@dataclass(frozen=True)
class SyntheticConfig:
    """Sampling of the synthetic dataset.

    Attributes:
        clip, still, composite: Relative frequency of the three kinds of samples.
        negative_ratio: Fraction of samples whose search region does not show the target.
        hard_negative_ratio: Fraction of the negative samples of stills and clips that show a
            similar object instead: of a still, one with the same label; of a clip, the target of
            another video of its source. Clips are named SOURCE_VIDEO_REST.
        max_gap: Maximum distance in frames between template and search region in a clip.
        search_factor: Side of the search region over sqrt(w * h) of the target, as in the tracker.
        template_factor: The same for templates.
        center_jitter: Maximum offset of the target from the middle of the search region, per axis,
            in target sizes (sqrt(w * h)); uniform.
        small_motion_prob: Fraction of search regions with small motion, whose offsets are normal
            instead. It teaches that of two similar objects the nearer one is the target.
        small_motion_std: Standard deviation of these offsets over `center_jitter`.
        scale_jitter: Standard deviation of the logarithm of the search region's scale error.
        photometric: Strength of colour changes and degradation.
        grey: Fraction of samples in greyscale.
        template_background_contrast: Contrast that remains around the target in templates, as in
            the tracker.
        distractor_copy_prob: Fraction of composites with a copy of the target, farther from the
            middle than the target.
        compression: Fraction of crops with strong JPEG compression.
        relight_prob: Fraction of samples whose search region or templates lie in another light.
        rotation_prob: Fraction of search regions that are rotated against the templates.
        zoom_prob: Fraction of search regions whose scale is off by up to a factor of 2.5.
        truncation_prob: Fraction of search regions of stills and clips in which the image ends
            within the target, as when it leaves or returns.
        motion_blur_prob: Fraction of search regions that are blurred along the target's offset.
        low_resolution_prob: Fraction of samples with few pixels, in the search region or in all
            three crops.
        weather_prob: Fraction of samples with haze, rain or noise, in the search region or in all
            three crops.
    """

    clip: float = 0.35
    still: float = 0.25
    composite: float = 0.40
    negative_ratio: float = 0.12
    hard_negative_ratio: float = 0.0
    max_gap: int = 100
    search_factor: float = 4.0
    template_factor: float = 2.0
    center_jitter: float = 1.3
    small_motion_prob: float = 0.5
    small_motion_std: float = 0.3
    scale_jitter: float = 0.22
    photometric: float = 0.7
    grey: float = 0.12
    template_background_contrast: float = 1.0
    distractor_copy_prob: float = 0.0
    compression: float = 0.0
    relight_prob: float = 0.0
    rotation_prob: float = 0.0
    zoom_prob: float = 0.0
    truncation_prob: float = 0.0
    motion_blur_prob: float = 0.0
    low_resolution_prob: float = 0.0
    weather_prob: float = 0.0

    def __post_init__(self) -> None:
        for name in _PROBABILITIES:
            if not 0 <= getattr(self, name) <= 1:
                raise ParameterError(f"{name} must be from 0 to 1, got {getattr(self, name)}")
        for name in ("small_motion_std", "center_jitter", "scale_jitter", "photometric", "max_gap"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ParameterError(f"{name} must be 0 or more, got {getattr(self, name)}")
        for name in ("search_factor", "template_factor"):
            if not 1 <= getattr(self, name) <= 20:
                raise ParameterError(f"{name} must be from 1 to 20, got {getattr(self, name)}")
        kinds = self.clip, self.still, self.composite
        if min(kinds) < 0 or not 0 < sum(kinds) < math.inf:
            raise ParameterError(
                "clip, still and composite must be 0 or more and not all 0, "
                f"got {', '.join(f'{kind:g}' for kind in kinds)}"
            )


@dataclass(frozen=True)
class _Target:
    """A target in an image: its box (x, y, w, h) and the roll of the virtual camera, radians."""

    image: Image
    box: npt.NDArray[np.float64]
    roll: float = 0.0


@dataclass(frozen=True)
class _Template:
    """A template before photometric changes, and the target's corners x1, y1, x2, y2 in it."""

    image: Image
    corners: npt.NDArray[np.float64]


_Parts = tuple[list[_Template], Image, npt.NDArray[np.float64]]
"""Templates, search region, and corners of the target in it, in pixels."""


class SyntheticDataset:
    """Makes samples; `sample(seed, index)` is a pure function of its arguments."""

    def __init__(
        self,
        stills: Sequence[Still],
        clips: Sequence[DecodedClip],
        spec: ModelSpec,
        config: SyntheticConfig,
    ) -> None:
        self.pool = ObjectPool(stills, clips)
        self.spec = spec
        self.config = config
        kinds = np.array(
            [
                config.clip if self.pool.clips else 0.0,
                config.still if self.pool.stills else 0.0,
                config.composite if self.pool.stills else 0.0,
            ]
        )
        self._kind_bounds = np.cumsum(kinds / kinds.sum())

    def sample(self, seed: int, index: int) -> Sample:
        """Make sample number `index` of the stream `seed`."""
        rng = np.random.default_rng((seed, index))
        kind = int(np.searchsorted(self._kind_bounds, rng.random(), side="right"))
        present = bool(rng.random() >= self.config.negative_ratio)
        make = (self._clip_sample, self._still_sample, self._composite_sample)[kind]
        templates, search, corners = make(rng, present)
        return self._finish(templates, search, corners, present, rng)

    def _is_hard_negative(self, present: bool, rng: np.random.Generator) -> bool:
        ratio = self.config.hard_negative_ratio
        return not present and ratio > 0 and bool(rng.random() < ratio)

    # Clips and stills ---------------------------------------------------------------------------

    def _clip_sample(self, rng: np.random.Generator, present: bool) -> _Parts:
        clip = self.pool.draw_clip(rng)
        count = len(clip.images)
        first = int(rng.integers(count))
        low, high = max(0, first - self.config.max_gap), min(count - 1, first + self.config.max_gap)
        last = int(rng.integers(low, high + 1))
        between = int(rng.integers(min(first, last), max(first, last) + 1))
        targets = [_Target(clip.images[i], clip.boxes[i]) for i in (first, between, last)]
        if self._is_hard_negative(present, rng):
            others = self.pool.other_videos(clip)
            if others:
                other = others[rng.integers(len(others))]
                frame = rng.integers(len(other.images))
                targets[2] = _Target(other.images[frame], other.boxes[frame])
                return self._crops(targets, rng)
        return self._crops(targets, rng, elsewhere=not present)

    def _still_sample(self, rng: np.random.Generator, present: bool) -> _Parts:
        drawn = self.pool.draw_object(rng)
        still = self.pool.stills[drawn.still]
        rolls = np.where(rng.random(3) < 0.3, rng.normal(size=3) * 0.12, 0.0)
        targets = [_Target(still.image, still.boxes[drawn.box], float(roll)) for roll in rolls]
        if self._is_hard_negative(present, rng):
            similar = self.pool.draw_similar(drawn, rng)
            if similar != drawn:
                still = self.pool.stills[similar.still]
                targets[2] = _Target(still.image, still.boxes[similar.box], targets[2].roll)
                return self._crops(targets, rng)
        return self._crops(targets, rng, elsewhere=not present)

    def _crops(
        self, targets: Sequence[_Target], rng: np.random.Generator, elsewhere: bool = False
    ) -> _Parts:
        """Crop two templates and the search region around targets; or the latter away from its."""
        flip = bool(rng.random() < 0.5)
        templates = [self._template(target, rng, flip) for target in targets[:2]]
        target = self._elsewhere(targets[2], rng) if elsewhere else targets[2]
        if not elsewhere and _happens(self.config.truncation_prob, rng):
            target = _truncated(target, rng)
        if _happens(self.config.rotation_prob, rng):
            target = replace(target, roll=target.roll + rng.normal() * _ROTATION_STD)
        search, corners = self._search(target, rng, flip)
        return templates, search, corners

    def _template(self, target: _Target, rng: np.random.Generator, flip: bool) -> _Template:
        x, y, w, h = target.box
        size = math.sqrt(w * h)
        # Online templates are cropped around predicted boxes, which are slightly off.
        center = (
            x + w / 2 + rng.normal() * 0.03 * size,
            y + h / 2 + rng.normal() * 0.03 * size,
        )
        side = max(size * self.config.template_factor * math.exp(rng.normal() * 0.04), 2.0)
        out = self.spec.template_size
        matrix = augment.crop_matrix(center, side, out, target.roll, flip)
        image = augment.warp(target.image, matrix, out)
        return _Template(image, augment.warp_ellipse(target.box, matrix))

    def _search(
        self, target: _Target, rng: np.random.Generator, flip: bool
    ) -> tuple[Image, npt.NDArray[np.float64]]:
        x, y, w, h = target.box
        size = math.sqrt(w * h)
        offset = draw_offset(self.config, rng)
        center = (x + w / 2 + offset[0] * size, y + h / 2 + offset[1] * size)
        side = max(size * self.config.search_factor * draw_scale(self.config, rng), 4.0)
        out = self.spec.search_size
        matrix = augment.crop_matrix(center, side, out, target.roll, flip)
        return augment.warp(target.image, matrix, out), augment.warp_ellipse(target.box, matrix)

    def _elsewhere(self, target: _Target, rng: np.random.Generator) -> _Target:
        """A place without the target, in the same image or in another still."""
        height, width = target.image.shape[:2]
        x, y, w, h = target.box
        side = math.sqrt(w * h) * self.config.search_factor
        for _ in range(4):
            center = rng.uniform((0, 0), (width, height))
            reach = 0.5 * side * 1.3
            apart_x = abs(center[0] - (x + w / 2)) > reach + w / 2
            apart_y = abs(center[1] - (y + h / 2)) > reach + h / 2
            if apart_x or apart_y:
                box = np.array([center[0] - w / 2, center[1] - h / 2, w, h])
                return _Target(target.image, box, target.roll)
        if not self.pool.stills:
            # Outside of the image, where everything is black.
            return _Target(target.image, np.array([-9 * w - side, y, w, h]), target.roll)
        drawn = self.pool.draw_object(rng)
        still = self.pool.stills[drawn.still]
        return _Target(still.image, still.boxes[drawn.box], target.roll)

    # Composites ---------------------------------------------------------------------------------

    def _composite_sample(self, rng: np.random.Generator, present: bool) -> _Parts:
        drawn = self.pool.draw_object(rng)
        target = cut_out(self.pool.stills[drawn.still], drawn.box, rng)
        stretch = math.exp(rng.normal() * 0.12)
        same_background = rng.random() < 0.4
        background = self.pool.draw_image(rng)

        out = self.spec.template_size
        unit = out / self.config.template_factor
        templates = []
        for _ in range(2):
            canvas = random_background(background, out, rng)
            size = unit * math.exp(rng.normal() * 0.04)
            center = 0.5 * out + rng.normal(size=2) * 0.03 * unit
            alpha = paste(canvas, target, random_pose(target.box, size, center, stretch, rng))
            templates.append(_Template(canvas, opaque_bounds(alpha)))
            if not same_background:
                background = self.pool.draw_image(rng)

        out = self.spec.search_size
        unit = out / self.config.search_factor
        canvas = random_background(background, out, rng)
        for _ in range(int(rng.integers(0, 4))):
            distractor = self.pool.draw_distractor(drawn, rng)
            if distractor is None:
                continue
            other = cut_out(self.pool.stills[distractor.still], distractor.box, rng)
            size = unit * math.exp(rng.normal() * 0.35)
            pose = random_pose(other.box, size, rng.uniform(0, out, 2), 1.0, rng, roll=0.4)
            paste(canvas, other, pose)
        corners = np.zeros(4)
        if present:
            corners = self._paste_target(canvas, target, stretch, rng)
        return templates, canvas, corners

    def _paste_target(
        self, canvas: Image, target: Cutout, stretch: float, rng: np.random.Generator
    ) -> npt.NDArray[np.float64]:
        """Paste the target into a search region, at times with a copy or an occluder."""
        out, config = self.spec.search_size, self.config
        unit = out / config.search_factor
        size = unit * draw_scale(config, rng)
        center = 0.5 * out + draw_offset(config, rng) * unit
        roll = _ROTATION_STD if _happens(config.rotation_prob, rng) else COMPOSITE_ROLL_STD
        if config.distractor_copy_prob > 0 and rng.random() < config.distractor_copy_prob:
            paste_distractor_copy(canvas, target, size, center, stretch, rng)
        pose = random_pose(target.box, size, center, stretch, rng, roll)
        corners = opaque_bounds(paste(canvas, target, pose))
        if rng.random() < 0.15 and min(corners[2:] - corners[:2]) >= 4:
            occlude(canvas, corners, self.pool.draw_image(rng), rng)
        return corners

    # All kinds ----------------------------------------------------------------------------------

    def _finish(
        self,
        templates: list[_Template],
        search: Image,
        corners: npt.NDArray[np.float64],
        present: bool,
        rng: np.random.Generator,
    ) -> Sample:
        """Photometric changes, of each crop on top of common ones; then the label."""
        strength = self.config.photometric
        crops = [*(template.image for template in templates), search]
        if rng.random() < 0.5 * strength:
            # The same change of all crops: colours differ between scenes.
            seed = int(rng.integers(2**32))
            crops = [augment.recolor(c, np.random.default_rng(seed), 1.2 * strength) for c in crops]
        own = strength * (0.4 if rng.random() < 0.6 else 1.0)
        crops = [augment.recolor(crop, rng, own) for crop in crops]
        crops = [augment.degrade(crop, rng, strength) for crop in crops]
        crops = self._conditions(crops, corners, present, rng)
        if rng.random() < self.config.grey:
            crops = [augment.to_grey(crop) for crop in crops]
        if self.config.compression > 0:
            crops = [
                augment.compress(crop, rng) if rng.random() < self.config.compression else crop
                for crop in crops
            ]
        if self.config.template_background_contrast < 1:
            crops[:2] = self._attenuated(crops[:2], templates, rng)
        edges = np.clip(corners / self.spec.search_size, 0.0, 1.0)
        # A target of which almost nothing is left in the crop does not count as present.
        inside = (edges[2] - edges[0]) * (edges[3] - edges[1])
        whole = (corners[2] - corners[0]) * (corners[3] - corners[1]) / self.spec.search_size**2
        present = present and inside > 0.25 * whole and inside > 1e-3
        return Sample(
            templates=np.stack(crops[:2]),
            search=crops[2],
            edges=(edges if present else np.zeros(4)).astype(np.float32),
            present=present,
        )

    def _conditions(
        self,
        crops: list[Image],
        corners: npt.NDArray[np.float64],
        present: bool,
        rng: np.random.Generator,
    ) -> list[Image]:
        """Conditions that differ between templates and search region, or are hard for both."""
        config = self.config
        templates, search = crops[:2], crops[2]
        if _happens(config.relight_prob, rng):
            if rng.random() < 0.6:
                search = augment.relight(search, rng)
            else:
                seed = int(rng.integers(2**32))
                templates = [augment.relight(t, np.random.default_rng(seed)) for t in templates]
        if present and _happens(config.motion_blur_prob, rng):
            middle = (corners[:2] + corners[2:]) / 2
            offset = middle - self.spec.search_size / 2
            search = augment.motion_blur(search, offset * rng.uniform(0.1, 0.5))
        for probability, change in (
            (config.low_resolution_prob, augment.reduce_resolution),
            (config.weather_prob, augment.add_weather),
        ):
            if _happens(probability, rng):
                search = change(search, rng)
                if rng.random() < 0.4:
                    templates = [change(template, rng) for template in templates]
        return [*templates, search]

    def _attenuated(
        self, crops: list[Image], templates: list[_Template], rng: np.random.Generator
    ) -> list[Image]:
        """Templates with their background attenuated around boxes with the errors of a tracker."""
        unit = self.spec.template_size / self.config.template_factor
        errors = (rng.normal(size=4) * share * unit for share in (0.02, 0.05))
        contrast = self.config.template_background_contrast
        return [
            attenuate_background(crop, template.corners + error, contrast)
            for crop, template, error in zip(crops, templates, errors, strict=True)
        ]


def draw_offset(config: SyntheticConfig, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Draw the offset (x, y) of the search region's middle from the target, in target sizes."""
    limit = config.center_jitter
    if rng.random() < 1 - config.small_motion_prob:
        return rng.uniform(-limit, limit, 2)
    return np.clip(rng.normal(size=2) * config.small_motion_std * limit, -limit, limit)


def draw_scale(config: SyntheticConfig, rng: np.random.Generator) -> float:
    """Draw the error of the search region's scale, as a factor."""
    if _happens(config.zoom_prob, rng):
        limit = math.log(_MAX_ZOOM)
        return math.exp(rng.uniform(-limit, limit))
    return math.exp(rng.normal() * config.scale_jitter)


def _happens(probability: float, rng: np.random.Generator) -> bool:
    """Draw an event; one of probability 0 draws nothing, so that a stream stays as it was."""
    return probability > 0 and bool(rng.random() < probability)


def _truncated(target: _Target, rng: np.random.Generator) -> _Target:
    """Let the image end within the target: 35 to 90 % of its width or height are left."""
    x, y, w, h = target.box
    kept = rng.uniform(0.35, 0.9)
    side = rng.integers(4)
    left, top = max(0, math.floor(x)), max(0, math.floor(y))
    right, bottom = math.ceil(x + w), math.ceil(y + h)
    if side == 0:
        left = math.floor(x + (1 - kept) * w)
        image = target.image[:, max(left, 0) :]
        box = np.array([0.0, y, x + w - left, h])
    elif side == 1:
        right = math.ceil(x + kept * w)
        image = target.image[:, :right]
        box = np.array([x, y, right - x, h])
    elif side == 2:
        top = math.floor(y + (1 - kept) * h)
        image = target.image[max(top, 0) :]
        box = np.array([x, 0.0, w, y + h - top])
    else:
        bottom = math.ceil(y + kept * h)
        image = target.image[:bottom]
        box = np.array([x, y, w, bottom - y])
    if min(image.shape[:2]) < 2 or min(box[2:]) < 2:
        return target
    return replace(target, image=image, box=box)
