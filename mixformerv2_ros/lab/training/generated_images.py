"""Generated images with boxes, for training without photographs.

Each image has a background of smooth noise and one to three textured objects, and depends on its
number alone.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from mixformerv2_ros.lab.datasets.annotated_images import Image, Still

WIDTH, HEIGHT = 320, 240
_SHAPES = ("disc", "box", "star", "blob")


def generate_stills(count: int, seed: int = 0) -> list[Still]:
    """Generate `count` images of 320 x 240 with objects that are labelled by shape."""
    return [_generate_still(np.random.default_rng((seed, number))) for number in range(count)]


def _generate_still(rng: np.random.Generator) -> Still:
    image = _texture(rng, WIDTH, HEIGHT, contrast=rng.uniform(20, 60))
    boxes: list[tuple[int, int, int, int]] = []
    labels = []
    for _ in range(int(rng.integers(1, 4))):
        shape = str(rng.choice(_SHAPES))
        w, h = (int(side) for side in rng.integers(30, 90, 2))
        x, y = int(rng.integers(0, WIDTH - w)), int(rng.integers(0, HEIGHT - h))
        if any(_overlap((x, y, w, h), box) for box in boxes):
            continue
        mask = _outline(shape, w, h, rng)
        skin = _texture(rng, w, h, contrast=rng.uniform(40, 110))
        place = image[y : y + h, x : x + w]
        place[mask > 0] = skin[mask > 0]
        boxes.append((x, y, w, h))
        labels.append(shape)
    outlines = (None,) * len(labels)
    return Still(image, np.array(boxes, dtype=np.float64), tuple(labels), outlines)


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    return a[0] < b[0] + b[2] and b[0] < a[0] + a[2] and a[1] < b[1] + b[3] and b[1] < a[1] + a[3]


def _texture(rng: np.random.Generator, width: int, height: int, contrast: float) -> Image:
    """Noise at several scales around a colour."""
    texture = np.tile(rng.uniform(30, 225, 3), (height, width, 1))
    for cells in (2, 5, 12):
        grid = rng.normal(size=(cells, cells, 3))
        texture += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) * contrast / 2
    return np.clip(texture, 0, 255).astype(np.uint8)


def _outline(shape: str, w: int, h: int, rng: np.random.Generator) -> Image:
    """Mask of a shape that touches all four sides of its box."""
    mask = np.zeros((h, w), dtype=np.uint8)
    if shape == "box":
        mask[:] = 255
        return mask
    if shape == "disc":
        rows, columns = np.ogrid[:h, :w]
        far = ((columns + 0.5) / w - 0.5) ** 2 + ((rows + 0.5) / h - 0.5) ** 2
        mask[far <= 0.25] = 255
        return mask
    count = 10 if shape == "star" else 7
    radii = np.where(np.arange(count) % 2, 0.45, 1.0) if shape == "star" else rng.uniform(0.6, 1, 7)
    angles = np.arange(count) * 2 * math.pi / count + rng.uniform(0, math.pi)
    points = np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)
    low, high = points.min(axis=0), points.max(axis=0)
    points = (points - low) / (high - low) * (w - 1, h - 1)
    cv2.fillPoly(mask, [points.round().astype(np.int32)], (255,))
    return mask
