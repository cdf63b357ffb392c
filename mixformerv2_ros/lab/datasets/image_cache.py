"""Pictures for samples, from disk or from a bounded part of memory."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from mixformerv2_ros.errors import SourceError
from mixformerv2_ros.lab.datasets.images import Image
from mixformerv2_ros.lab.datasets.lru_cache import Recent


class PictureCache:
    """Reads pictures and remembers those used last, as files or decoded.

    A decoded 640x480 picture takes 0.9 MB and no time; as a JPEG file it takes some 60 kB and has
    to be decoded for every sample. Each loader process has a cache of its own.
    """

    def __init__(self, megabytes: float, decoded: bool) -> None:
        """Keep at most `megabytes` (10^6 bytes), decoded or as they are on disk."""
        self.decoded = decoded
        self._recent = Recent(int(megabytes * 1e6))
        _keep_freed_memory()

    def __reduce__(self) -> tuple[type[PictureCache], tuple[float, bool]]:
        return PictureCache, (self._recent.limit / 1e6, self.decoded)

    def read(self, path: Path) -> Image:
        """The picture, (H, W, 3) uint8 RGB; not to be written into.

        Orientation tags are ignored, as everywhere in this package: boxes belong to pixels as they
        are stored.

        Raises:
            SourceError: the file is missing or no picture.
        """
        if self.decoded:
            return self._recent.get(path, lambda: _decode(path, _load(path)))
        return _decode(path, self._recent.get(path, lambda: _load(path)))


def _keep_freed_memory() -> None:
    """Let the C library reuse the memory of pictures instead of returning it after each.

    glibc asks the kernel for blocks above a threshold and gives them back when they are freed; the
    kernel then clears every page again, which takes a good part of a decoder's time. Freeing a
    block raises the threshold to its size, 32 MiB at most.
    """
    np.empty(30_000_000, dtype=np.uint8)


def _load(path: Path) -> Image:
    try:
        return np.fromfile(path, dtype=np.uint8)
    except OSError:
        raise SourceError(f"{path}: expected a readable picture, found none") from None


def _decode(path: Path, data: Image) -> Image:
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    picture = cv2.imdecode(data, flags) if data.size else None
    if picture is None:
        raise SourceError(f"{path}: expected a readable picture, got {data.size} other bytes")
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), dtype=np.uint8)
