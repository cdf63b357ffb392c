"""The images of the last seconds, so that a target can start on one of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

INIT_TOLERANCE_NS = 200_000_000
"""How much later than an init box's stamp an image may be that stands in for one not received."""


@dataclass(eq=False)
class BufferedImage:
    """An image, a depth image or a point cloud that has arrived, not decoded.

    Attributes:
        stamp_ns: Stamp of its header in nanoseconds.
        arrival_ns: When it arrived or was recorded, in nanoseconds of one clock.
        nbytes: Bytes that it occupies while it is buffered.
        number: Count of the arrivals, from 1; 0 until it is counted.
    """

    stamp_ns: int
    arrival_ns: int
    nbytes: int
    number: int = 0


ImageT = TypeVar("ImageT", bound=BufferedImage)


class ImageBuffer(Generic[ImageT]):
    """The latest arrivals, bounded by number, age (by arrival) and bytes. Not thread-safe.

    The newest image is kept however large it is.

    Attributes:
        nbytes: Bytes of the buffered images.
    """

    def __init__(self, max_count: int, max_age_ns: int, max_bytes: int) -> None:
        self._max_count = max_count
        self._max_age_ns = max_age_ns
        self._max_bytes = max_bytes
        self._images: deque[ImageT] = deque()
        self.nbytes = 0

    def __len__(self) -> int:
        """Number of buffered images."""
        return len(self._images)

    def __contains__(self, image: object) -> bool:
        """Whether an image is buffered."""
        return image in self._images

    @property
    def oldest(self) -> ImageT | None:
        """The image that arrived first of those buffered."""
        return self._images[0] if self._images else None

    @property
    def newest(self) -> ImageT | None:
        """The image that arrived last."""
        return self._images[-1] if self._images else None

    def add(self, image: ImageT) -> None:
        """Buffer an image and let go of what is beyond the bounds."""
        self._images.append(image)
        self.nbytes += image.nbytes
        while len(self._images) > 1 and (
            len(self._images) > self._max_count
            or self.nbytes > self._max_bytes
            or image.arrival_ns - self._images[0].arrival_ns > self._max_age_ns
        ):
            self.nbytes -= self._images.popleft().nbytes

    def find(self, stamp_ns: int) -> ImageT | None:
        """The image of that stamp (the last of several), or the next one if it did not arrive.

        The next one serves up to `INIT_TOLERANCE_NS` later, and only between buffered images: what
        came before the oldest may have been of another size or another pass of a loop.
        """
        later = [image for image in self._images if image.stamp_ns >= stamp_ns]
        if not later:
            return None
        found = min(reversed(later), key=lambda image: image.stamp_ns)
        if found.stamp_ns - stamp_ns > INIT_TOLERANCE_NS:
            return None
        known = found.stamp_ns == stamp_ns or len(later) < len(self._images)
        return found if known else None

    def nearest(self, stamp_ns: int) -> ImageT | None:
        """The image whose stamp is nearest, however far that is; of two the newer one."""
        newest_first = reversed(self._images)
        return min(newest_first, key=lambda image: abs(image.stamp_ns - stamp_ns), default=None)

    @property
    def spacing_ns(self) -> int:
        """Time between the last two images; 0 where there is one at most."""
        if len(self._images) < 2:
            return 0
        return self._images[-1].stamp_ns - self._images[-2].stamp_ns

    def between(self, after: int, before: int) -> list[ImageT]:
        """Images with numbers above `after` and below `before`, by their numbers."""
        found = [image for image in self._images if after < image.number < before]
        return sorted(found, key=lambda image: image.number)

    def discard(self, image: ImageT) -> None:
        """Let go of a buffered image."""
        self._images.remove(image)
        self.nbytes -= image.nbytes

    def clear(self, keep: Sequence[ImageT] = ()) -> None:
        """Let go of all images, then buffer those to keep."""
        self._images.clear()
        self.nbytes = 0
        for image in keep:
            self.add(image)


def subsample(images: list[ImageT], count: int) -> list[ImageT]:
    """At most `count` images, evenly spaced, the last one always among them."""
    total = len(images)
    if total <= count:
        return images
    return [images[(i + 1) * total // count - 1] for i in range(count)]
