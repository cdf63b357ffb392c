"""Copy-paste augmentation: objects cut out of stills and pasted onto other images."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from mixformerv2_ros.lab.datasets.annotated_images import Image, Still
from mixformerv2_ros.lab.training import augment

COMPOSITE_ROLL_STD = 0.12
"""Standard deviation of an object's ordinary rotation, radians."""

MASK_SIDE = 64
"""Side of an object's alpha mask in pixels; the mask is stretched over the object's box."""


@dataclass(frozen=True)
class Cutout:
    """An object to paste.

    Attributes:
        image: (H, W, 3) uint8 RGB, the whole image.
        box: The object's box x, y, w, h in it.
        mask: (MASK_SIDE, MASK_SIDE) uint8 alpha, stretched over the box.
    """

    image: Image
    box: npt.NDArray[np.float64]
    mask: Image


def cut_out(still: Still, number: int, rng: np.random.Generator) -> Cutout:
    """Cut out an object: along its outline if that is known, else along a random shape."""
    outline = still.masks[number]
    mask = _random_mask(rng) if outline is None else _soft_mask(outline)
    return Cutout(still.image, still.boxes[number], mask)


def random_pose(
    box: npt.NDArray[np.float64],
    size: float,
    center: npt.NDArray[np.float64],
    stretch: float,
    rng: np.random.Generator,
    roll: float = COMPOSITE_ROLL_STD,
) -> augment.Matrix:
    """Affine map (2, 3) that places `box` with sqrt(area) = `size` at `center` of a canvas.

    It is rotated (standard deviation `roll` radians), sheared, and its aspect ratio changed by
    `stretch` and a random factor.
    """
    x, y, w, h = box
    scale = size / math.sqrt(w * h)
    angle = rng.normal() * roll
    cos, sin = math.cos(angle), math.sin(angle)
    change = stretch * math.exp(rng.normal() * 0.06)
    shape = np.array([[change, rng.normal() * 0.06], [0.0, 1.0 / change]])
    linear = scale * np.array([[cos, -sin], [sin, cos]]) @ shape
    offset = center - linear @ np.array([x + w / 2, y + h / 2])
    return np.hstack([linear, offset[:, None]])


def paste(canvas: Image, cutout: Cutout, pose: augment.Matrix) -> Image:
    """Blend an object into the square `canvas` in place; return its alpha (S, S) uint8."""
    x, y, w, h = cutout.box
    mask_to_image = np.array([[w / MASK_SIDE, 0.0, x], [0.0, h / MASK_SIDE, y], [0.0, 0.0, 1.0]])
    alpha = np.zeros(canvas.shape[:2], dtype=np.uint8)
    # Most objects cover a small part of the canvas: nothing changes outside of their bounds.
    corners = pose[:, :2] @ np.array([[x, x + w, x, x + w], [y, y, y + h, y + h]]) + pose[:, 2:]
    low = np.clip(np.floor(corners.min(axis=1)) - 1, 0, canvas.shape[0]).astype(int)
    high = np.clip(np.ceil(corners.max(axis=1)) + 1, 0, canvas.shape[0]).astype(int)
    if (high <= low).any():
        return alpha
    part = slice(low[1], high[1]), slice(low[0], high[0])
    width, height = (high - low).tolist()
    inside = pose.copy()
    inside[:, 2] -= low
    alpha[part] = augment.warp(cutout.mask, inside @ mask_to_image, width, height)
    weight = alpha[part][:, :, None].astype(np.uint16)
    pixels = augment.warp(cutout.image, inside, width, height)
    # Fixed-point blend: an eighth of the time of the float one.
    canvas[part] = (pixels * weight + canvas[part] * (255 - weight) + 127) // 255
    return alpha


def opaque_bounds(alpha: Image) -> npt.NDArray[np.float64]:
    """Corners x1, y1, x2, y2 around the pixels with alpha above one half; zeros without any."""
    opaque = alpha > 127
    columns = np.flatnonzero(opaque.any(axis=0))
    rows = np.flatnonzero(opaque.any(axis=1))
    if not len(columns) or not len(rows):
        return np.zeros(4)
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=np.float64)


def random_background(image: Image, out: int, rng: np.random.Generator) -> Image:
    """A random square part of an image, scaled to `out` pixels."""
    height, width = image.shape[:2]
    side = min(height, width) * rng.uniform(0.25, 1.0)
    center = (
        rng.uniform(0.5 * side, width - 0.5 * side),
        rng.uniform(0.5 * side, height - 0.5 * side),
    )
    flip = bool(rng.random() < 0.5)
    return augment.warp(image, augment.crop_matrix(center, side, out, flip=flip), out)


def paste_distractor_copy(
    canvas: Image,
    target: Cutout,
    size: float,
    center: npt.NDArray[np.float64],
    stretch: float,
    rng: np.random.Generator,
) -> None:
    """Paste a copy of the target farther from the middle than the target itself, if it fits.

    Of two identical objects, the one that moved less since the last frame is the target.

    Args:
        canvas: Search region; changed in place.
        target: The target.
        size: sqrt(area) at which the target will be pasted, in pixels.
        center: Where the target will be pasted.
        stretch: Change of its aspect ratio.
        rng: Random generator.
    """
    out = canvas.shape[0]
    distance = np.linalg.norm(center - 0.5 * out)
    for _ in range(4):
        place = rng.uniform(0, out, 2)
        if (
            np.linalg.norm(place - 0.5 * out) > distance + 0.4 * size
            and np.linalg.norm(place - center) > 1.2 * size
        ):
            size *= math.exp(rng.normal() * 0.1)
            paste(canvas, target, random_pose(target.box, size, place, stretch, rng))
            return


def occlude(
    canvas: Image, edges: npt.NDArray[np.float64], image: Image, rng: np.random.Generator
) -> None:
    """Cover 20 to 50 % of the target with a part of another image.

    Args:
        canvas: Search region; changed in place.
        edges: Corners x1, y1, x2, y2 of the target in it.
        image: Image that covers it.
        rng: Random generator.
    """
    width, height = edges[2] - edges[0], edges[3] - edges[1]
    patch = random_background(image, canvas.shape[0], rng)
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


def _random_mask(rng: np.random.Generator) -> Image:
    """A soft-edged shape that touches all four sides: rectangle, superellipse, or polygon."""
    shape = np.zeros((MASK_SIDE, MASK_SIDE), dtype=np.uint8)
    roll = rng.random()
    half = MASK_SIDE / 2
    if roll < 0.25:
        shape[1:-1, 1:-1] = 255
    elif roll < 0.65:
        axis = (np.abs(np.arange(MASK_SIDE) + 0.5 - half) / (half - 1)) ** rng.uniform(1.8, 5.0)
        shape[axis[:, None] + axis[None, :] <= 1] = 255
    else:
        angles = np.sort(rng.uniform(0, 2 * math.pi, int(rng.integers(6, 14))))
        radii = rng.uniform(0.55, 1.0, angles.shape)
        points = np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)
        low, high = points.min(axis=0), points.max(axis=0)
        points = (points - low) / np.maximum(high - low, 1e-3) * (MASK_SIDE - 3) + 1
        cv2.fillPoly(shape, [points.astype(np.int32)], (255,))
    return np.asarray(cv2.GaussianBlur(shape, (0, 0), 0.8), dtype=np.uint8)


def _soft_mask(outline: Image) -> Image:
    """An outline at the size of a mask, with a soft edge."""
    shape = cv2.resize(outline, (MASK_SIDE, MASK_SIDE), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.GaussianBlur(shape, (0, 0), 0.8), dtype=np.uint8)
