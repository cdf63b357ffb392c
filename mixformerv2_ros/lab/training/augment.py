"""Geometric and photometric augmentation of crops; all randomness comes from a generator."""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
Matrix = npt.NDArray[np.float64]

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_RAMP = np.arange(256, dtype=np.float32) / 255.0


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


def warp(image: Image, matrix: Matrix, width: int, height: int = 0) -> Image:
    """Sample a crop (height, width, C); pixels outside of the image are black, as in the tracker.

    Without a height it is a square.
    """
    # In OpenCV the centre of a pixel has integer coordinates, here it has half ones.
    shifted = matrix.copy()
    shifted[:, 2] += matrix[:, :2] @ np.array([0.5, 0.5]) - 0.5
    return np.asarray(
        cv2.warpAffine(image, shifted, (width, height or width), flags=cv2.INTER_LINEAR)
    )


def warp_ellipse(box: npt.NDArray[np.float64], matrix: Matrix) -> npt.NDArray[np.float64]:
    """Corners x1, y1, x2, y2 of the upright box around the ellipse in `box` after the map.

    Things seldom reach into the corners of their boxes: turned by much, they end where the ellipse
    does rather than where the corners come to lie.
    """
    x, y, w, h = box
    center = matrix[:, :2] @ np.array([x + w / 2, y + h / 2]) + matrix[:, 2]
    half = np.hypot(matrix[:, 0] * w / 2, matrix[:, 1] * h / 2)
    return np.concatenate([center - half, center + half])


def recolor(image: Image, rng: np.random.Generator, strength: float) -> Image:
    """Change contrast, brightness, gamma, colour balance and saturation."""
    gamma = math.exp(strength * rng.normal() * 0.35)
    contrast = math.exp(strength * rng.normal() * 0.25)
    brightness = strength * rng.normal() * 0.10
    curve = (_RAMP**gamma - 0.5) * contrast + 0.5 + brightness
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


def relight(image: Image, rng: np.random.Generator) -> Image:
    """Put a picture into another light: darker or brighter, warmer or colder, or half in shadow."""
    gain, gamma = math.exp(rng.uniform(-1.2, 0.7)), math.exp(rng.normal() * 0.3)
    warmth = rng.normal() * 0.15
    tint = np.exp(np.array([warmth, 0.0, -warmth])).astype(np.float32)
    curve = np.clip(_RAMP[:, None] ** gamma * gain * tint[None, :], 0, 1)
    lit = np.asarray(cv2.LUT(image, (curve * 255).astype(np.uint8)[None]), dtype=np.uint8)
    if rng.random() < 0.5:
        return lit
    # Both lights, with a border between them somewhere in the picture, sharp or soft.
    side = image.shape[0]
    angle, width = rng.uniform(0, 2 * math.pi), side * math.exp(rng.uniform(-4, 0))
    spot = rng.uniform(0.2, 0.8, 2) * side
    grid = np.arange(side, dtype=np.float32)
    away = math.cos(angle) * (grid[None, :] - spot[0]) + math.sin(angle) * (grid[:, None] - spot[1])
    share = np.clip(away / width + 0.5, 0, 1)[:, :, None]
    return np.asarray(lit * share + image * (1 - share), dtype=np.uint8)


def motion_blur(image: Image, offset: npt.NDArray[np.float64]) -> Image:
    """Smear a picture along a motion of (x, y) pixels that happened while the shutter was open."""
    length = min(int(np.hypot(*offset)) | 1, 31)
    if length < 3:
        return image
    line = np.zeros((length, length), dtype=np.float32)
    half = (length - 1) / 2
    dx, dy = offset / np.hypot(*offset) * half
    start, end = (round(half - dx), round(half - dy)), (round(half + dx), round(half + dy))
    cv2.line(line, start, end, 1.0)
    return np.asarray(cv2.filter2D(image, -1, line / line.sum()), dtype=np.uint8)


def reduce_resolution(image: Image, rng: np.random.Generator) -> Image:
    """Leave as few pixels as a far target has, enlarged again as the tracker enlarges it."""
    side = image.shape[0]
    small = max(8, int(side * math.exp(rng.uniform(math.log(0.2), math.log(0.6)))))
    reduced = cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA)
    enlarged = cv2.resize(reduced, (side, side), interpolation=cv2.INTER_LINEAR)
    return np.asarray(enlarged, dtype=np.uint8)


def add_weather(image: Image, rng: np.random.Generator) -> Image:
    """Haze, and streaks of rain or the noise of a dark camera in front of it."""
    side = image.shape[0]
    veil = rng.uniform(0.0, 0.5)
    value = image * np.float32(1 - veil) + np.float32(veil * rng.uniform(60, 220))
    if rng.random() < 0.5:
        streaks = np.zeros((side, side), dtype=np.uint8)
        lean, length = rng.normal() * 0.3, side * rng.uniform(0.05, 0.25)
        for x, y in rng.uniform(-0.2, 1.1, (int(rng.integers(10, 80)), 2)) * side:
            cv2.line(
                streaks,
                (round(x), round(y)),
                (round(x + lean * length), round(y + length)),
                (int(rng.integers(60, 200)),),
            )
        drops = cv2.GaussianBlur(streaks, (0, 0), 0.6)[:, :, None].astype(np.float32) / 255
        value = value + drops * (np.float32(235) - value)
    else:
        grain = rng.standard_normal(image.shape, dtype=np.float32)
        value = value + grain * np.float32(rng.uniform(8, 26))
    return np.clip(value, 0, 255).astype(np.uint8)
