"""Annotated stills and clips in memory, drawn so that no large group dominates."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mixformerv2_ros.lab.datasets.annotated_images import DecodedClip, Image, Still


class StillObject(NamedTuple):
    """An annotated object of a still: index of the still in its pool, and number of its box."""

    still: int
    box: int


class ObjectPool:
    """Objects of stills, grouped by label, and clips, grouped by source.

    A group is drawn with a probability proportional to the square root of its size, then one of its
    members uniformly. Clips are named SOURCE_VIDEO_REST.

    Attributes:
        stills: Stills with at least one box.
        clips: Clips with at least two frames.
    """

    def __init__(self, stills: Sequence[Still], clips: Sequence[DecodedClip]) -> None:
        self.stills = [still for still in stills if len(still.boxes)]
        self.clips = [clip for clip in clips if len(clip.images) >= 2]
        self._by_label: dict[str, list[StillObject]] = defaultdict(list)
        for index, still in enumerate(self.stills):
            for number, label in enumerate(still.labels):
                self._by_label[label].append(StillObject(index, number))
        self._labels = sorted(self._by_label)
        self._label_bounds = _cumulated([len(self._by_label[label]) for label in self._labels])
        self._by_source: dict[str, list[DecodedClip]] = defaultdict(list)
        for clip in self.clips:
            self._by_source[_source(clip)].append(clip)
        self._sources = sorted(self._by_source)
        self._source_bounds = _cumulated([len(self._by_source[name]) for name in self._sources])

    def draw_object(self, rng: np.random.Generator) -> StillObject:
        """Draw an object of a still."""
        objects = self._by_label[self._labels[_draw(self._label_bounds, rng)]]
        return objects[rng.integers(len(objects))]

    def draw_similar(self, target: StillObject, rng: np.random.Generator) -> StillObject:
        """Draw an object with the label of `target`, which may be `target` itself."""
        objects = self._by_label[self.stills[target.still].labels[target.box]]
        return objects[rng.integers(len(objects))]

    def draw_distractor(self, target: StillObject, rng: np.random.Generator) -> StillObject | None:
        """Draw an object, half of the time with the target's label; None if it is the target."""
        similar = rng.random() < 0.5
        other = self.draw_similar(target, rng) if similar else self.draw_object(rng)
        return None if other == target else other

    def draw_clip(self, rng: np.random.Generator) -> DecodedClip:
        """Draw a clip."""
        clips = self._by_source[self._sources[_draw(self._source_bounds, rng)]]
        return clips[rng.integers(len(clips))]

    def other_videos(self, clip: DecodedClip) -> list[DecodedClip]:
        """Clips of the same source that cannot show the same target."""
        same = self._by_source[_source(clip)]
        return [other for other in same if _video(other) != _video(clip)]

    def draw_image(self, rng: np.random.Generator) -> Image:
        """Draw a whole image: a still, or at times a frame of a clip."""
        if self.clips and rng.random() < 0.3:
            images = self.draw_clip(rng).images
            return images[rng.integers(len(images))]
        return self.stills[rng.integers(len(self.stills))].image


def _source(clip: DecodedClip) -> str:
    return clip.name.partition("_")[0]


def _video(clip: DecodedClip) -> list[str]:
    return clip.name.split("_")[:2]


def _cumulated(counts: Sequence[int]) -> npt.NDArray[np.float64]:
    """Cumulated probabilities of groups, proportional to the square root of their sizes."""
    weights = np.sqrt(counts)
    return np.asarray(np.cumsum(weights / weights.sum()), dtype=np.float64)


def _draw(cumulated: npt.NDArray[np.float64], rng: np.random.Generator) -> int:
    return int(np.searchsorted(cumulated[:-1], rng.random(), side="right"))
