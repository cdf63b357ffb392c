"""Formula weights and images of the golden vectors (`../shared/vectors/README.md`)."""

from __future__ import annotations

import zlib

import numpy as np

WEIGHT_SEED = 20230525
IMAGE_SEED = 11
SEQUENCE_SEED = 7
TOKENS = {"S": (18, 1, 0, 2, 3), "B": (310, 0, 1, 3, 2)}
SCORE_BIAS = {"S": -1.35, "B": 0.88}


def weight(key: str, shape: tuple[int, ...], preset: str) -> np.ndarray:
    """The formula weight of one state_dict entry."""
    if key.endswith(("pos_embed_t", "pos_embed_s")):
        # Here, because the images below serve tests that need no torch.
        from mixformerv2_ros.network.backbone import sincos_position_table

        return sincos_position_table(shape[2], int(shape[1] ** 0.5))
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    seed = WEIGHT_SEED
    is_token = key in ("backbone.reg_tokens", "backbone.pos_embed_reg")
    if is_token:
        seed = (WEIGHT_SEED + 1000003 * TOKENS[preset][0]) % 2**32
    seed = (zlib.crc32(key.encode()) ^ seed) & 0xFFFFFFFF
    n = np.random.Generator(np.random.PCG64(seed)).standard_normal(shape)
    if is_token:
        value = (2.0 if key.endswith("reg_tokens") else 0.5) * n[:, list(TOKENS[preset][1:])]
    elif key == "score_head.layers.1.bias":
        value = np.full(shape, SCORE_BIAS[preset])
    elif key == "score_head.layers.1.weight":
        value = n * 4 / np.sqrt(768)
    elif key == "box_head.layers.1.1.weight":
        value = 3 * (1 + 0.1 * n)
    elif key.endswith("running_mean"):
        value = 0.1 * n
    elif key.endswith("running_var"):
        value = 1 + 0.2 * np.abs(n)
    elif len(shape) >= 2:
        gain = 1.2 if key.endswith("attn.qkv.weight") else 1.0
        value = n * gain / np.sqrt(np.prod(shape[1:]))
    elif key.endswith(".weight"):
        value = 1 + 0.1 * n
    else:
        value = 0.05 * n
    return value.astype(np.float32)


def weights(shapes: dict[str, tuple[int, ...]], preset: str) -> dict[str, np.ndarray]:
    """Formula weights of a whole state_dict."""
    return {key: weight(key, shape, preset) for key, shape in shapes.items()}


def image(height: int, width: int, a: int) -> np.ndarray:
    """Formula image (height, width, 3) uint8, RGB."""
    x = np.arange(width)[None, :, None]
    y = np.arange(height)[:, None, None]
    c = np.arange(3)[None, None, :]
    value = x * (3 + a % 5) + y * (5 + a % 7) + (x * y // 16) * (c + 1) + 37 * a + 71 * c
    return (value % 256).astype(np.uint8)


def target(k: int) -> tuple[int, int, int, int]:
    """Box x, y, w, h of the drawn target in frame k."""
    return 110 + (7 * k) // 4, 80 + (k * k) // 45, 44 + k // 6, 36 + k // 10


def frame(k: int) -> np.ndarray:
    """Frame k (240, 320, 3) uint8, RGB, of the golden sequence."""
    x = np.arange(320)[None, :, None]
    y = np.arange(240)[:, None, None]
    c = np.arange(3)[None, None, :]
    t = SEQUENCE_SEED
    background = (x * 3 + y * 5 + (x * y // 64) * (c + 1) + t * 13 + 29 * c) % 97 + 40
    px, py, w, h = target(k)
    u, v = x - px, y - py
    foreground = (((u * 11 + v * 7 + c * 53 + t * 3) ^ (u * v)) % 128) + 100
    inside = (u >= 0) & (u < w) & (v >= 0) & (v < h)
    value = np.where(inside, foreground, background) + 2 * (k % 13)
    return np.clip(value, 0, 255).astype(np.uint8)
