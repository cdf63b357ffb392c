"""Two targets on one object: whose it is, and where the other one is.

Targets that look alike can end up on the same object when they pass each other. Then each is
searched for again with the other's box covered, and of the two ways to give one of them the object
and the other its second best place, the one with more confidence in all and less motion is taken,
if both of its places are sure enough. Else nothing changes: one of the two may be hidden. So it is
tried again in the images of the next second. Targets that were started on one object have never
been apart, and stay together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from mixformerv2_ros.model.engine import Engine, Prediction
from mixformerv2_ros.tracking.boxes import Box, iou
from mixformerv2_ros.tracking.crop import cover
from mixformerv2_ros.tracking.frame import NS
from mixformerv2_ros.tracking.pixels import Pixels
from mixformerv2_ros.tracking.tracker import TargetTracker

SAME_OBJECT = 0.6
"""Overlap (IoU) above which two boxes are of one object."""
APART = 0.3
"""Overlap below which they are of two."""
CROSSING_NS = NS
"""How long after they were apart two targets are separated."""
MOTION_COST = 0.3
"""Confidence that a motion by the side of a box (sqrt of its area) counts as much as."""


def on_one_object(a: Box, b: Box) -> bool:
    """Whether two boxes are of one object."""
    return iou(a, b) > SAME_OBJECT


class Partings:
    """When targets, which their trackers stand for here, were last seen at two places."""

    def __init__(self) -> None:
        """Begin without any."""
        self._times: WeakKeyDictionary[TargetTracker, WeakKeyDictionary[TargetTracker, int]]
        self._times = WeakKeyDictionary()

    def last(self, a: TargetTracker, b: TargetTracker) -> int | None:
        """The time of it; None if they never were."""
        times = self._times.get(a)
        return None if times is None else times.get(b)

    def update(
        self,
        trackers: Sequence[TargetTracker],
        boxes: Sequence[Box],
        seen: Sequence[bool],
        time_ns: int,
    ) -> list[tuple[int, int]]:
        """Take the boxes of one image.

        Args:
            trackers: Of all targets.
            boxes: Where they are, in pixels.
            seen: Which of them are surely there.
            time_ns: Time of the image.

        Returns:
            Numbers of pairs that are on one object now and were apart within the last second.
        """
        pairs = []
        for i, j in combinations(range(len(trackers)), 2):
            a, b = trackers[i], trackers[j]
            if seen[i] and seen[j] and iou(boxes[i], boxes[j]) < APART:
                self._times.setdefault(a, WeakKeyDictionary())[b] = time_ns
                self._times.setdefault(b, WeakKeyDictionary())[a] = time_ns
            elif on_one_object(boxes[i], boxes[j]):
                last = self.last(a, b)
                if last is not None and time_ns - last <= CROSSING_NS:
                    pairs.append((i, j))
        return pairs


def separated(
    engine: Engine,
    image: Pixels,
    crops: npt.NDArray[np.uint8],
    prediction: Prediction,
    pair: tuple[int, int],
    trackers: Sequence[TargetTracker],
    threshold: float,
) -> Prediction:
    """Answers in which two targets on one object are at two places, if both are sure there.

    Takes two searches, in one call of the engine.

    Args:
        engine: What `trackers` use.
        image: The image.
        crops: (N, S, S, 3) uint8, what was searched for each of the N targets.
        prediction: The N answers; not changed.
        pair: Which two targets.
        trackers: The trackers of all targets, before they take over their answers.
        threshold: Confidence that both must exceed.

    Raises:
        EngineError: the engine failed.
    """
    boxes = [trackers[i].box_of(prediction, i, image) for i in pair]
    masked = np.stack([crops[i] for i in pair])
    for crop, i, other in zip(masked, pair, reversed(boxes), strict=True):
        cover(crop, trackers[i].search_window, other)
    beside = engine.search(masked, [trackers[i].memory for i in pair])
    moved = [trackers[i].box_of(beside, k, image) for k, i in enumerate(pair)]

    def worth(keeps: int) -> float:
        """If the one at `keeps` in the pair has the object."""
        goes = 1 - keeps
        sure = float(prediction.scores[pair[keeps]]) + float(beside.scores[goes])
        motion = _motion(trackers[pair[keeps]].box, boxes[keeps])
        return sure - MOTION_COST * (motion + _motion(trackers[pair[goes]].box, moved[goes]))

    keeps = 0 if worth(0) >= worth(1) else 1
    goes = 1 - keeps
    if min(prediction.scores[pair[keeps]], beside.scores[goes]) <= threshold:
        return prediction
    changed = replace(
        prediction,
        boxes=prediction.boxes.copy(),
        scores=prediction.scores.copy(),
        edges=prediction.edges.copy(),
        depths=prediction.depths.copy(),
    )
    changed.boxes[pair[goes]] = beside.boxes[goes]
    changed.scores[pair[goes]] = beside.scores[goes]
    changed.edges[pair[goes]] = beside.edges[goes]
    changed.depths[pair[goes]] = beside.depths[goes]
    return changed


def _motion(before: Box, now: Box) -> float:
    return math.dist(before.center, now.center) / math.sqrt(before.area)
