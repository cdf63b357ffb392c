"""Labels for video that has none: what a tracker says forwards and backwards, where both agree.

Only cameras that stand still are of use here: what moves against the median of the frames is what
is tracked. Such labels say where a thing is, and less well where its edges are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

Box = tuple[float, float, float, float]
Image = npt.NDArray[np.uint8]

AGREED = 0.6
"""Least overlap of the forward and the backward box of a frame whose label is kept."""

SHORTEST = 8
"""Frames below which a track is not worth keeping."""

MOVED = 25
"""Difference from the background, in grey levels, from which a pixel has moved."""

TRAVELLED = 0.3
"""Least distance from its start, in target sizes, that a track must reach: one that stays put
agrees with itself wherever it is."""

MOVING_SHARE = 0.2
"""Least share of a box whose pixels differ from the background."""

LARGEST = 0.4
"""Largest share of the picture that a moving region may cover: beyond, the camera moves."""


class Tracker(Protocol):
    """A tracker as OpenCV has them."""

    def init(self, image: Image, box: tuple[int, int, int, int]) -> None:
        """Start with the target's box in the first frame."""

    def update(self, image: Image) -> tuple[bool, Sequence[float]]:
        """Whether the target was found in the next frame, and its box."""


def nanotrack(folder: Path) -> Callable[[], Tracker]:
    """Makes NanoTrack trackers from a folder with its two ONNX files.

    Raises:
        FileNotFoundError: one is missing.
    """
    files = [folder / f"nanotrack_{part}_sim.onnx" for part in ("backbone", "head")]
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"{file}: expected the weights of the labelling tracker")

    def new() -> Tracker:
        params = cv2.TrackerNano_Params()
        params.backbone, params.neckhead = map(str, files)
        return cv2.TrackerNano_create(params)

    return new


def background_of(frames: Sequence[Image]) -> npt.NDArray[np.float64]:
    """What stands still before a camera that does: the median of some frames, (H, W, 3)."""
    return np.asarray(np.median(np.stack(frames[:: max(1, len(frames) // 25)]), axis=0))


def moving_regions(frames: Sequence[Image], number: int, least: float) -> list[Box]:
    """Boxes of what moves in one of the frames of a camera that stands still, largest first.

    Args:
        frames: (H, W, 3) uint8, all of one size.
        number: The frame to look at.
        least: Shortest side of a box in pixels.

    Returns:
        Boxes x, y, w, h that do not touch the border; none if so much moves that the camera does.
    """
    moved = np.abs(frames[number] - background_of(frames)).max(axis=2) > MOVED
    if moved.mean() > LARGEST:
        return []
    closed = cv2.morphologyEx(moved.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((9, 9), np.uint8))
    opened = cv2.morphologyEx(closed, cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))
    height, width = moved.shape
    regions = []
    for x, y, w, h, area in cv2.connectedComponentsWithStats(opened)[2][1:]:
        inside = x > 1 and y > 1 and x + w < width - 1 and y + h < height - 1
        if inside and min(w, h) >= least and area > 0.3 * w * h:
            regions.append((int(area), (float(x), float(y), float(w), float(h))))
    return [box for _, box in sorted(regions, key=lambda region: -region[0])]


def moving_part(track: dict[int, Box], frames: Sequence[Image]) -> dict[int, Box]:
    """A track up to the first frame in which its box holds standing background.

    A target that leaves is often replaced by whatever is there, and that by the next who comes.
    """
    background = background_of(frames)
    kept: dict[int, Box] = {}
    for number, box in sorted(track.items()):
        x, y, w, h = (max(0, round(v)) for v in box)
        inside = slice(y, y + h), slice(x, x + w)
        moved = np.abs(frames[number][inside] - background[inside]).max(axis=2) > MOVED
        if not moved.size or moved.mean() < MOVING_SHARE:
            break
        kept[number] = box
    return kept


def agreed_track(
    frames: Sequence[Image],
    box: Box,
    new_tracker: Callable[[], Tracker],
    travelled: float = TRAVELLED,
) -> dict[int, Box]:
    """Track from the first frame forwards, back again, and keep the frames in which both agree.

    A tracker that drifts agrees with itself on the way back for as long as it follows the same
    wrong thing; only a track that goes somewhere and comes back to where it began counts. Otherwise
    half as many frames are tried.

    Args:
        frames: (H, W, 3) uint8.
        box: The target's box in the first frame.
        new_tracker: Makes a tracker.
        travelled: Least distance from its start, in target sizes; 0 where somebody has seen that
            the camera follows the target.

    Returns:
        Mean of both boxes by frame number; empty where they agree nowhere.
    """
    length = len(frames)
    while length >= SHORTEST:
        forward = _follow(frames[:length], box, new_tracker())
        if len(forward) == length:
            backward = _follow(frames[:length][::-1], forward[-1], new_tracker())[::-1]
            came_back = len(backward) == length and overlap(backward[0], box) >= AGREED
            if came_back and _travelled(forward) >= travelled:
                return {
                    number: _mean(one, other)
                    for number, (one, other) in enumerate(zip(forward, backward, strict=True))
                    if overlap(one, other) >= AGREED
                }
        length //= 2
    return {}


def _follow(frames: Sequence[Image], box: Box, tracker: Tracker) -> list[Box]:
    """Boxes from the first frame on, up to where the tracker gives up."""
    x, y, w, h = (round(v) for v in box)
    tracker.init(frames[0], (x, y, max(w, 1), max(h, 1)))
    boxes = [box]
    for frame in frames[1:]:
        found, now = tracker.update(frame)
        if not found or min(now[2:]) <= 0:
            break
        boxes.append((float(now[0]), float(now[1]), float(now[2]), float(now[3])))
    return boxes


def _travelled(boxes: Sequence[Box]) -> float:
    """Largest distance of a box's middle from that of the first, in sizes of the first."""
    corners = np.array(boxes)
    middles = corners[:, :2] + corners[:, 2:] / 2
    size = float(np.sqrt(corners[0, 2] * corners[0, 3]))
    return float(np.linalg.norm(middles - middles[0], axis=1).max()) / size


def _mean(one: Box, other: Box) -> Box:
    x, y, w, h = ((a + b) / 2 for a, b in zip(one, other, strict=True))
    return x, y, w, h


def overlap(one: Box, other: Box) -> float:
    """Intersection over union of two boxes x, y, w, h."""
    w = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    h = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    if w <= 0 or h <= 0:
        return 0.0
    return w * h / (one[2] * one[3] + other[2] * other[3] - w * h)
