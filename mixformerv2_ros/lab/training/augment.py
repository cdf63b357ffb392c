"""Geometric and photometric augmentation of crops; all randomness comes from a generator."""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
Matrix = npt.NDArray[np.float64]

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def crop_matrix(
    center: tuple[float, float], side: float, out: int, angle: float = 0.0, flip: bool = False
) -> Matrix:
    """Affine map (2, 3) from image pixels to a square crop of `out` pixels.

    The square of `side` pixels around `center`, rotated by `angle` radians, fills the crop.
    Coordinates are continuous: the centre of the first pixel is 0.5.
    """
    scale = out / side
    cos, sin = math.cos(angle) * scale, math.sin(angle) * scale
    linear = np.array([[cos, -sin], [sin, cos]])
    if flip:
        linear = np.diag([-1.0, 1.0]) @ linear
    offset = 0.5 * out - linear @ np.asarray(center)
    return np.hstack([linear, offset[:, None]])


def warp(image: Image, matrix: Matrix, out: int) -> Image:
    """Sample a crop (out, out, C); pixels outside of the image are black, as in the tracker."""
    # In OpenCV the centre of a pixel has integer coordinates, here it has half ones.
    shifted = matrix.copy()
    shifted[:, 2] += matrix[:, :2] @ np.array([0.5, 0.5]) - 0.5
    return np.asarray(cv2.warpAffine(image, shifted, (out, out), flags=cv2.INTER_LINEAR))


def warp_box(box: npt.NDArray[np.float64], matrix: Matrix) -> npt.NDArray[np.float64]:
    """Corners x1, y1, x2, y2 of the upright box around `box` (x, y, w, h) after the map."""
    x, y, w, h = box
    corners = np.array([[x, y], [x + w, y], [x, y + h], [x + w, y + h]])
    moved = corners @ matrix[:, :2].T + matrix[:, 2]
    return np.concatenate([moved.min(axis=0), moved.max(axis=0)])


def recolor(image: Image, rng: np.random.Generator, strength: float) -> Image:
    """Change contrast, brightness, gamma, colour balance and saturation."""
    ramp = np.arange(256, dtype=np.float32) / 255.0
    gamma = math.exp(strength * rng.normal() * 0.35)
    contrast = math.exp(strength * rng.normal() * 0.25)
    brightness = strength * rng.normal() * 0.10
    curve = (ramp**gamma - 0.5) * contrast + 0.5 + brightness
    balance = np.exp(strength * rng.normal(size=3) * 0.10).astype(np.float32)
    table = np.clip(curve[:, None] * balance[None, :] * 255.0, 0, 255).astype(np.uint8)
    changed = cv2.LUT(image, table[None])
    mix = rng.normal() * 0.4 * strength
    if abs(mix) > 0.1:
        saturation = np.float32(math.exp(mix))
        matrix = saturation * np.eye(3, dtype=np.float32) + (1 - saturation) * _LUMA[None, :]
        changed = cv2.transform(changed, matrix)
    return np.asarray(changed, dtype=np.uint8)


def to_grey(image: Image) -> Image:
    """Convert to greyscale, with three equal channels."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB), dtype=np.uint8)


def degrade(image: Image, rng: np.random.Generator, strength: float) -> Image:
    """Apply Gaussian blur, motion blur, low resolution or sensor noise, or mostly none of them."""
    roll = rng.random()
    side = image.shape[0]
    if roll < 0.10 * strength:
        return np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.5, 1.6)), dtype=np.uint8)
    if roll < 0.20 * strength:
        length = int(rng.integers(3, 9))
        line = np.zeros((length, length), dtype=np.float32)
        angle = rng.uniform(0, math.pi)
        half = (length - 1) / 2
        dx, dy = half * math.cos(angle), half * math.sin(angle)
        start, end = (round(half - dx), round(half - dy)), (round(half + dx), round(half + dy))
        cv2.line(line, start, end, 1.0)
        return np.asarray(cv2.filter2D(image, -1, line / line.sum()), dtype=np.uint8)
    if roll < 0.32 * strength:
        small = max(8, int(side * rng.uniform(0.3, 0.8)))
        reduced = cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA)
        return np.asarray(cv2.resize(reduced, (side, side)), dtype=np.uint8)
    if roll < 0.42 * strength:
        noise = rng.standard_normal(image.shape, dtype=np.float32) * rng.uniform(3, 14)
        return np.clip(image + noise, 0, 255).astype(np.uint8)
    return image


def compress(image: Image, rng: np.random.Generator) -> Image:
    """Add the artefacts of JPEG compression at low quality."""
    quality = int(rng.integers(15, 60))
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    decoded = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), dtype=np.uint8)
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), dtype=np.uint8)
