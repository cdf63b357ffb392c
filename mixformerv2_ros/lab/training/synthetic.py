"""Training samples: crops of real pairs, of re-photographed stills, and of composited targets.

A sample is what the tracker sees in use: an initial template, an online template, and a search
region whose centre and scale are off by what a moving target or a drifting box causes. Four kinds
are mixed:

- `clip`: frames of one real sequence, real boxes;
- `still`: one photograph with a box, taken three times by differing virtual cameras;
- `composite`: an object cut out of one photograph and set on others, among other objects;
- an *absent* version of each, in which the search region does not show the target.

All is a function of (seed, index): the number of loader workers does not change the stream.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from mixformerv2_ros.errors import ParameterError
from mixformerv2_ros.lab.datasets.images import Clip, Image, Still
from mixformerv2_ros.lab.training import augment
from mixformerv2_ros.model.spec import ModelSpec
from mixformerv2_ros.tracking.crop import fade_surroundings

_SHARES = ("absent", "alike", "near", "grey", "template_surroundings", "twins", "compression")


@dataclass(frozen=True)
class SyntheticConfig:
    """How samples are drawn.

    Attributes:
        clip, still, composite: Relative frequency of the three kinds.
        absent: Share of samples without the target in the search region.
        alike: Share of samples without the target that show another of its kind instead: of a
            still, a thing with the same label; of a clip, the target of another video of its
            source. Clips are named SOURCE_VIDEO_REST.
        gap: Largest distance in frames between template and search in a clip.
        search_factor: Side of the search region over the target's size, as in the tracker.
        template_factor: The same for templates.
        center_jitter: Offset of the target from the middle of the search region: half the width
            of a uniform distribution, in target sizes (sqrt of the area).
        near: Share of search regions in which the target has hardly moved: offsets are normal
            there. Of two that look alike, the nearer one is then the likelier target.
        near_reach: Standard deviation of these offsets over `center_jitter`.
        scale_jitter: Standard deviation of the logarithm of the search region's scale error.
        photometric: Strength of colour changes and degradation.
        grey: Share of samples without colour.
        template_surroundings: Contrast that is left around the target in templates, as in the
            tracker.
        twins: Share of composites in which a copy of the target lies farther from the middle.
        compression: Share of crops that went through a strongly compressed JPEG.
    """

    clip: float = 0.35
    still: float = 0.25
    composite: float = 0.40
    absent: float = 0.12
    alike: float = 0.0
    gap: int = 100
    search_factor: float = 4.0
    template_factor: float = 2.0
    center_jitter: float = 1.3
    near: float = 0.5
    near_reach: float = 0.3
    scale_jitter: float = 0.22
    photometric: float = 0.7
    grey: float = 0.12
    template_surroundings: float = 1.0
    twins: float = 0.0
    compression: float = 0.0

    def __post_init__(self) -> None:
        for name in _SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise ParameterError(f"{name} must be from 0 to 1, got {getattr(self, name)}")
        for name in ("near_reach", "center_jitter", "scale_jitter", "photometric", "gap"):
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
class Sample:
    """One training sample.

    Attributes:
        templates: (2, T, T, 3) uint8 RGB, initial and online template.
        search: (S, S, 3) uint8 RGB.
        edges: (4,) float32 left, top, right, bottom of the target over the crop's side, clipped to
            [0, 1]; zeros where absent.
        present: Whether the search crop shows the target.
    """

    templates: Image
    search: Image
    edges: npt.NDArray[np.float32]
    present: bool


@dataclass(frozen=True)
class _View:
    """A target in a picture: the picture, its box (x, y, w, h) and the camera's roll."""

    image: Image
    box: npt.NDArray[np.float64]
    angle: float = 0.0


@dataclass(frozen=True)
class _Template:
    """A template before light and colour, and the corners x1, y1, x2, y2 of the target in it."""

    image: Image
    corners: npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Cutout:
    """An object to paste: its picture, its box in it, and an alpha mask over the box."""

    image: Image
    box: npt.NDArray[np.float64]
    mask: Image


class SyntheticDataset:
    """Draws samples. `sample(seed, index)` is a pure function of its arguments."""

    def __init__(
        self,
        stills: Sequence[Still],
        clips: Sequence[Clip],
        spec: ModelSpec,
        config: SyntheticConfig,
    ) -> None:
        self.stills = [still for still in stills if len(still.boxes)]
        self.clips = [clip for clip in clips if len(clip.images) >= 2]
        self.spec = spec
        self.config = config
        self._by_label: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for index, still in enumerate(self.stills):
            for number, label in enumerate(still.labels):
                self._by_label[label].append((index, number))
        self._labels = sorted(self._by_label)
        self._label_weights = _evened([len(self._by_label[label]) for label in self._labels])
        self._by_source: dict[str, list[Clip]] = defaultdict(list)
        for clip in self.clips:
            self._by_source[_source(clip)].append(clip)
        self._sources = sorted(self._by_source)
        self._source_weights = _evened([len(self._by_source[name]) for name in self._sources])
        kinds = np.array(
            [
                config.clip if self.clips else 0.0,
                config.still if self.stills else 0.0,
                config.composite if self.stills else 0.0,
            ]
        )
        self._kind_weights = np.cumsum(kinds / kinds.sum())

    def sample(self, seed: int, index: int) -> Sample:
        """Draw sample number `index` of the stream `seed`."""
        rng = np.random.default_rng((seed, index))
        kind = int(np.searchsorted(self._kind_weights, rng.random(), side="right"))
        present = bool(rng.random() >= self.config.absent)
        if kind == 0:
            templates, search, edges = self._clip_sample(rng, present)
        elif kind == 1:
            templates, search, edges = self._still_sample(rng, present)
        else:
            templates, search, edges = self._composite_sample(rng, present)
        return self._finish(templates, search, edges, present, rng)

    # Real pairs ---------------------------------------------------------------------------------

    def _clip_sample(
        self, rng: np.random.Generator, present: bool
    ) -> tuple[list[_Template], Image, npt.NDArray[np.float64]]:
        clip = self._draw_clip(rng)
        count = len(clip.images)
        first = int(rng.integers(count))
        low, high = max(0, first - self.config.gap), min(count - 1, first + self.config.gap)
        last = int(rng.integers(low, high + 1))
        between = int(rng.integers(min(first, last), max(first, last) + 1))
        views = [_View(clip.images[i], clip.boxes[i]) for i in (first, between, last)]
        if not present and self.config.alike > 0 and rng.random() < self.config.alike:
            others = self._other_videos(clip)
            if others:
                other = others[rng.integers(len(others))]
                frame = rng.integers(len(other.images))
                views[2] = _View(other.images[frame], other.boxes[frame])
                return self._photograph(views, rng, True)
        return self._photograph(views, rng, present)

    def _still_sample(
        self, rng: np.random.Generator, present: bool
    ) -> tuple[list[_Template], Image, npt.NDArray[np.float64]]:
        index, number = self._draw_index(rng)
        still = self.stills[index]
        angles = np.where(rng.random(3) < 0.3, rng.normal(size=3) * 0.12, 0.0)
        views = [_View(still.image, still.boxes[number], float(angle)) for angle in angles]
        if not present and self.config.alike > 0 and rng.random() < self.config.alike:
            # Another thing of the same kind: what a tracker must not take for its target.
            alike = self._by_label[still.labels[number]]
            other, its = alike[rng.integers(len(alike))]
            if (other, its) != (index, number):
                still = self.stills[other]
                views[2] = _View(still.image, still.boxes[its], views[2].angle)
                return self._photograph(views, rng, True)
        return self._photograph(views, rng, present)

    def _photograph(
        self, views: list[_View], rng: np.random.Generator, present: bool
    ) -> tuple[list[_Template], Image, npt.NDArray[np.float64]]:
        """Cut templates and search region around the boxes of three views."""
        flip = bool(rng.random() < 0.5)
        templates = [self._template(view, rng, flip) for view in views[:2]]
        view = views[2]
        if not present:
            view = self._elsewhere(view, rng)
        search, edges = self._search(view, rng, flip)
        return templates, search, edges

    def _template(self, view: _View, rng: np.random.Generator, flip: bool) -> _Template:
        x, y, w, h = view.box
        size = math.sqrt(w * h)
        # Online templates are cut around predicted boxes, which are a little off.
        center = (
            x + w / 2 + rng.normal() * 0.03 * size,
            y + h / 2 + rng.normal() * 0.03 * size,
        )
        side = max(size * self.config.template_factor * math.exp(rng.normal() * 0.04), 2.0)
        out = self.spec.template_size
        matrix = augment.crop_matrix(center, side, out, view.angle, flip)
        return _Template(augment.warp(view.image, matrix, out), augment.warp_box(view.box, matrix))

    def _search(
        self, view: _View, rng: np.random.Generator, flip: bool
    ) -> tuple[Image, npt.NDArray[np.float64]]:
        x, y, w, h = view.box
        size = math.sqrt(w * h)
        offset = self._offset(rng)
        center = (x + w / 2 + offset[0] * size, y + h / 2 + offset[1] * size)
        scale = math.exp(rng.normal() * self.config.scale_jitter)
        side = max(size * self.config.search_factor * scale, 4.0)
        out = self.spec.search_size
        matrix = augment.crop_matrix(center, side, out, view.angle, flip)
        return augment.warp(view.image, matrix, out), augment.warp_box(view.box, matrix)

    def _offset(self, rng: np.random.Generator) -> npt.NDArray[np.float64]:
        """Offset of the search region's middle from the target, in target sizes."""
        reach = self.config.center_jitter
        if rng.random() < 1 - self.config.near:
            return rng.uniform(-reach, reach, 2)
        return np.clip(rng.normal(size=2) * self.config.near_reach * reach, -reach, reach)

    def _elsewhere(self, view: _View, rng: np.random.Generator) -> _View:
        """The same picture, looked at where the target is not; or another photograph."""
        height, width = view.image.shape[:2]
        x, y, w, h = view.box
        side = math.sqrt(w * h) * self.config.search_factor
        for _ in range(4):
            center = rng.uniform((0, 0), (width, height))
            reach = 0.5 * side * 1.3
            apart_x = abs(center[0] - (x + w / 2)) > reach + w / 2
            apart_y = abs(center[1] - (y + h / 2)) > reach + h / 2
            if apart_x or apart_y:
                box = np.array([center[0] - w / 2, center[1] - h / 2, w, h])
                return _View(view.image, box, view.angle)
        if not self.stills:
            # Out of the picture, where all is black.
            return _View(view.image, np.array([-9 * w - side, y, w, h]), view.angle)
        still, number = self._draw_object(rng)
        return _View(still.image, still.boxes[number], view.angle)

    # Composites ---------------------------------------------------------------------------------

    def _composite_sample(
        self, rng: np.random.Generator, present: bool
    ) -> tuple[list[_Template], Image, npt.NDArray[np.float64]]:
        still, number = self._draw_object(rng)
        target = self._cut_out(still, number, rng)
        stretch = math.exp(rng.normal() * 0.12)
        stays = rng.random() < 0.4
        backdrop = self._draw_picture(rng)

        out = self.spec.template_size
        unit = out / self.config.template_factor
        templates = []
        for _ in range(2):
            canvas = self._background(backdrop, out, rng)
            size = unit * math.exp(rng.normal() * 0.04)
            spot = 0.5 * out + rng.normal(size=2) * 0.03 * unit
            alpha = _paste(canvas, target, _pose(target.box, size, spot, stretch, rng))
            templates.append(_Template(canvas, _bounds(alpha)))
            if not stays:
                backdrop = self._draw_picture(rng)

        out = self.spec.search_size
        unit = out / self.config.search_factor
        canvas = self._background(backdrop, out, rng)
        for _ in range(int(rng.integers(0, 4))):
            other = self._distractor(still, number, rng)
            if other is None:
                continue
            size = unit * math.exp(rng.normal() * 0.35)
            turn = _pose(other.box, size, rng.uniform(0, out, 2), 1.0, rng, roll=0.4)
            _paste(canvas, other, turn)
        edges = np.zeros(4)
        if present:
            size = unit * math.exp(rng.normal() * self.config.scale_jitter)
            spot = 0.5 * out + self._offset(rng) * unit
            if self.config.twins > 0 and rng.random() < self.config.twins:
                self._paste_twin(canvas, target, size, spot, stretch, rng)
            edges = _bounds(_paste(canvas, target, _pose(target.box, size, spot, stretch, rng)))
            if rng.random() < 0.15:
                self._occlude(canvas, edges, rng)
        return templates, canvas, edges

    def _paste_twin(
        self,
        canvas: Image,
        target: _Cutout,
        size: float,
        spot: npt.NDArray[np.float64],
        stretch: float,
        rng: np.random.Generator,
    ) -> None:
        """Paste a copy of the target, if a place is found that is farther from the middle.

        Of two that look the same, the one that moved less since the last frame is the target.
        """
        out = canvas.shape[0]
        away = np.linalg.norm(spot - 0.5 * out)
        for _ in range(4):
            place = rng.uniform(0, out, 2)
            if (
                np.linalg.norm(place - 0.5 * out) > away + 0.4 * size
                and np.linalg.norm(place - spot) > 1.2 * size
            ):
                size *= math.exp(rng.normal() * 0.1)
                _paste(canvas, target, _pose(target.box, size, place, stretch, rng))
                return

    def _background(self, image: Image, out: int, rng: np.random.Generator) -> Image:
        """A random part of a picture, `out` pixels square."""
        height, width = image.shape[:2]
        side = min(height, width) * rng.uniform(0.25, 1.0)
        center = (
            rng.uniform(0.5 * side, width - 0.5 * side),
            rng.uniform(0.5 * side, height - 0.5 * side),
        )
        flip = bool(rng.random() < 0.5)
        return augment.warp(image, augment.crop_matrix(center, side, out, flip=flip), out)

    def _distractor(self, still: Still, number: int, rng: np.random.Generator) -> _Cutout | None:
        """Another object, half of the time with the target's label; None if it is the target."""
        if rng.random() < 0.5:
            alike = self._by_label[still.labels[number]]
            index, which = alike[rng.integers(len(alike))]
            other = self.stills[index]
        else:
            other, which = self._draw_object(rng)
        if other is still and which == number:
            return None
        return self._cut_out(other, which, rng)

    def _cut_out(self, still: Still, number: int, rng: np.random.Generator) -> _Cutout:
        """An object along its outline, where that is known, or along a shape that is drawn."""
        outline = still.masks[number]
        mask = _mask(rng) if outline is None else _soft(outline)
        return _Cutout(still.image, still.boxes[number], mask)

    def _occlude(
        self, canvas: Image, edges: npt.NDArray[np.float64], rng: np.random.Generator
    ) -> None:
        """Cover up to half of the target with a piece of another picture."""
        width, height = edges[2] - edges[0], edges[3] - edges[1]
        if min(width, height) < 4:
            return
        patch = self._background(self._draw_picture(rng), canvas.shape[0], rng)
        share = rng.uniform(0.2, 0.5)
        if rng.random() < 0.5:
            x1, x2 = 0.0, share * width
            y1, y2 = -0.3 * height, 1.3 * height
            if rng.random() < 0.5:
                x1, x2 = width - x2, width
        else:
            y1, y2 = 0.0, share * height
            x1, x2 = -0.3 * width, 1.3 * width
            if rng.random() < 0.7:
                y1, y2 = height - y2, height
        side = canvas.shape[0]
        left, right = np.clip(np.array([x1, x2]) + edges[0], 0, side).astype(int)
        top, bottom = np.clip(np.array([y1, y2]) + edges[1], 0, side).astype(int)
        canvas[top:bottom, left:right] = patch[top:bottom, left:right]

    # Shared -------------------------------------------------------------------------------------

    def _draw_object(self, rng: np.random.Generator) -> tuple[Still, int]:
        index, number = self._draw_index(rng)
        return self.stills[index], number

    def _draw_index(self, rng: np.random.Generator) -> tuple[int, int]:
        label = self._labels[_draw(self._label_weights, rng)]
        candidates = self._by_label[label]
        return candidates[rng.integers(len(candidates))]

    def _other_videos(self, clip: Clip) -> list[Clip]:
        """Clips of the same source that cannot show the same target."""
        same = self._by_source[_source(clip)]
        return [other for other in same if _video(other) != _video(clip)]

    def _draw_clip(self, rng: np.random.Generator) -> Clip:
        clips = self._by_source[self._sources[_draw(self._source_weights, rng)]]
        return clips[rng.integers(len(clips))]

    def _draw_picture(self, rng: np.random.Generator) -> Image:
        if self.clips and rng.random() < 0.3:
            images = self._draw_clip(rng).images
            return images[rng.integers(len(images))]
        return self.stills[rng.integers(len(self.stills))].image

    def _finish(
        self,
        templates: list[_Template],
        search: Image,
        edges: npt.NDArray[np.float64],
        present: bool,
        rng: np.random.Generator,
    ) -> Sample:
        """Light, colour and degradation; each picture its own, on top of a common part."""
        strength = self.config.photometric
        crops = [*(template.image for template in templates), search]
        if rng.random() < 0.5 * strength:
            # The same change to all: teaches that colours differ between scenes.
            seed = int(rng.integers(2**32))
            crops = [augment.recolor(c, np.random.default_rng(seed), 1.2 * strength) for c in crops]
        own = strength * (0.4 if rng.random() < 0.6 else 1.0)
        crops = [augment.recolor(crop, rng, own) for crop in crops]
        crops = [augment.degrade(crop, rng, strength) for crop in crops]
        if rng.random() < self.config.grey:
            crops = [augment.to_grey(crop) for crop in crops]
        if self.config.compression > 0:
            crops = [
                augment.compress(crop, rng) if rng.random() < self.config.compression else crop
                for crop in crops
            ]
        if self.config.template_surroundings < 1:
            crops[:2] = self._fade(crops[:2], templates, rng)
        clipped = np.clip(edges / self.spec.search_size, 0.0, 1.0)
        # A target of which next to nothing is left in the crop is not present.
        inside = (clipped[2] - clipped[0]) * (clipped[3] - clipped[1])
        whole = (edges[2] - edges[0]) * (edges[3] - edges[1]) / self.spec.search_size**2
        present = present and inside > 0.25 * whole and inside > 1e-3
        return Sample(
            templates=np.stack(crops[:2]),
            search=crops[2],
            edges=(clipped if present else np.zeros(4)).astype(np.float32),
            present=present,
        )

    def _fade(
        self, crops: list[Image], templates: list[_Template], rng: np.random.Generator
    ) -> list[Image]:
        """Fade what surrounds the targets; the box of an online template is a predicted one."""
        unit = self.spec.template_size / self.config.template_factor
        errors = (rng.normal(size=4) * share * unit for share in (0.02, 0.05))
        return [
            fade_surroundings(crop, template.corners + error, self.config.template_surroundings)
            for crop, template, error in zip(crops, templates, errors, strict=True)
        ]


def _source(clip: Clip) -> str:
    return clip.name.partition("_")[0]


def _video(clip: Clip) -> list[str]:
    return clip.name.split("_")[:2]


def _evened(counts: Sequence[int]) -> npt.NDArray[np.float64]:
    """Cumulated shares of groups, by the square root of their sizes.

    No large group fills the stream, and no rare thing is repeated without end.
    """
    weights = np.sqrt(counts)
    return np.asarray(np.cumsum(weights / weights.sum()), dtype=np.float64)


def _draw(cumulated: npt.NDArray[np.float64], rng: np.random.Generator) -> int:
    return int(np.searchsorted(cumulated[:-1], rng.random(), side="right"))


_GRID = 64


def _mask(rng: np.random.Generator) -> Image:
    """A soft-edged shape that touches all four sides of a grid: full, elliptic, or irregular."""
    shape = np.zeros((_GRID, _GRID), dtype=np.uint8)
    roll = rng.random()
    half = _GRID / 2
    if roll < 0.25:
        shape[1:-1, 1:-1] = 255
    elif roll < 0.65:
        # Superellipse: between an ellipse and a rounded rectangle.
        axis = (np.abs(np.arange(_GRID) + 0.5 - half) / (half - 1)) ** rng.uniform(1.8, 5.0)
        shape[axis[:, None] + axis[None, :] <= 1] = 255
    else:
        angles = np.sort(rng.uniform(0, 2 * math.pi, int(rng.integers(6, 14))))
        radii = rng.uniform(0.55, 1.0, angles.shape)
        points = np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)
        low, high = points.min(axis=0), points.max(axis=0)
        points = (points - low) / np.maximum(high - low, 1e-3) * (_GRID - 3) + 1
        cv2.fillPoly(shape, [points.astype(np.int32)], (255,))
    return np.asarray(cv2.GaussianBlur(shape, (0, 0), 0.8), dtype=np.uint8)


def _soft(outline: Image) -> Image:
    """An outline on the grid of `_mask`, with a soft edge."""
    shape = cv2.resize(outline, (_GRID, _GRID), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.GaussianBlur(shape, (0, 0), 0.8), dtype=np.uint8)


def _pose(
    box: npt.NDArray[np.float64],
    size: float,
    spot: npt.NDArray[np.float64],
    stretch: float,
    rng: np.random.Generator,
    roll: float = 0.12,
) -> augment.Matrix:
    """Map that puts `box` with sqrt(area) = `size` at `spot` of a canvas, turned and sheared."""
    x, y, w, h = box
    scale = size / math.sqrt(w * h)
    angle = rng.normal() * roll
    cos, sin = math.cos(angle), math.sin(angle)
    change = stretch * math.exp(rng.normal() * 0.06)
    shape = np.array([[change, rng.normal() * 0.06], [0.0, 1.0 / change]])
    linear = scale * np.array([[cos, -sin], [sin, cos]]) @ shape
    offset = spot - linear @ np.array([x + w / 2, y + h / 2])
    return np.hstack([linear, offset[:, None]])


def _paste(canvas: Image, cutout: _Cutout, pose: augment.Matrix) -> Image:
    """Blend an object into `canvas` in place; return its alpha (S, S) uint8."""
    out = canvas.shape[0]
    x, y, w, h = cutout.box
    grid_to_image = np.array([[w / _GRID, 0.0, x], [0.0, h / _GRID, y], [0.0, 0.0, 1.0]])
    alpha = augment.warp(cutout.mask, pose @ grid_to_image, out)
    weight = alpha[:, :, None].astype(np.uint16)
    pixels = augment.warp(cutout.image, pose, out)
    # Fixed-point blend: an eighth of the time of the float one.
    canvas[:] = (pixels * weight + canvas * (255 - weight) + 127) // 255
    return alpha


def _bounds(alpha: Image) -> npt.NDArray[np.float64]:
    """Corners x1, y1, x2, y2 of what is more opaque than not; zeros when nothing is."""
    opaque = alpha > 127
    columns = np.flatnonzero(opaque.any(axis=0))
    rows = np.flatnonzero(opaque.any(axis=1))
    if not len(columns) or not len(rows):
        return np.zeros(4)
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=np.float64)
