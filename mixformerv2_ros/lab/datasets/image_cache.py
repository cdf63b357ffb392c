"""Images for samples, from disk or from an LRU cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from cachetools import LRUCache

from mixformerv2_ros.io.images import decode_image_file, load_image_file, read_image
from mixformerv2_ros.lab.datasets.annotated_images import Image


class ImageCache:
    """Reads images through an LRU cache of their files or of their pixels.

    A decoded 640x480 image takes 0.9 MB and no time; as a JPEG file it takes some 60 kB and has to
    be decoded for every sample. A copy in another process, such as a data loader worker, starts
    empty.
    """

    def __init__(self, megabytes: float, decoded: bool) -> None:
        """Cache at most `megabytes` (10^6 bytes) of decoded images or of files."""
        self.megabytes = megabytes
        self.decoded = decoded
        self._arrays: LRUCache[Path, Image] = LRUCache(megabytes * 1e6, lambda one: one.nbytes)
        _keep_freed_memory()

    def __reduce__(self) -> tuple[type[ImageCache], tuple[float, bool]]:
        return ImageCache, (self.megabytes, self.decoded)

    def read(self, path: Path) -> Image:
        """The image, (H, W, 3) uint8 RGB; not to be written into.

        Raises:
            SourceError: the file cannot be read.
            ImageError: it cannot be decoded.
        """
        if self.decoded:
            return self._cached(path, lambda: read_image(path).rgb())
        return decode_image_file(self._cached(path, lambda: load_image_file(path)), path).rgb()

    def _cached(self, path: Path, load: Callable[[], Image]) -> Image:
        found = self._arrays.get(path)
        if found is None:
            found = load()
            if found.nbytes <= self._arrays.maxsize:
                self._arrays[path] = found
        return found


def _keep_freed_memory() -> None:
    """Let the C library reuse the memory of images instead of returning it after each.

    glibc asks the kernel for blocks above a threshold and gives them back when they are freed; the
    kernel then clears every page again, which takes a good part of a decoder's time. Freeing a
    block raises the threshold to its size, 32 MiB at most.
    """
    np.empty(30_000_000, dtype=np.uint8)
