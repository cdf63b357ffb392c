"""Pictures for samples, from disk or from a bounded part of memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mixformerv2_ros.io.images import decode_image_file, load_image_file, read_image
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

        Raises:
            SourceError: the file cannot be read.
            ImageError: it cannot be decoded.
        """
        if self.decoded:
            return self._recent.get(path, lambda: read_image(path).rgb())
        return decode_image_file(self._recent.get(path, lambda: load_image_file(path)), path).rgb()


def _keep_freed_memory() -> None:
    """Let the C library reuse the memory of pictures instead of returning it after each.

    glibc asks the kernel for blocks above a threshold and gives them back when they are freed; the
    kernel then clears every page again, which takes a good part of a decoder's time. Freeing a
    block raises the threshold to its size, 32 MiB at most.
    """
    np.empty(30_000_000, dtype=np.uint8)
