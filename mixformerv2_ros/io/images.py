"""The one reader of image files.

Orientation tags (EXIF) are ignored everywhere: pixels count as they are stored. The boxes that
come with images are in stored pixels, for the ground truth of tracking benchmarks as for the boxes
of training stills; messages of a camera are decoded the same way, so that a box from one command
fits the same image in every other. Turning an image would silently move all its boxes. (Videos
are decoded by OpenCV, which applies a video's own rotation as every player does.)
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from mixformerv2_ros.errors import ImageError, SourceError
from mixformerv2_ros.text import natural_order
from mixformerv2_ros.tracking.compressed import decode_compressed, decoded_pixels
from mixformerv2_ros.tracking.pixels import Pixels

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp")

MAX_IMAGE_BYTES = 2**29
"""Longest image file: the largest image that is decoded has 300 MB in RGB."""

Bytes = npt.NDArray[np.uint8]


def read_image(path: Path, reduction: int = 1) -> Pixels:
    """Read an image file, in the orientation in which its pixels are stored.

    A JPEG may be reduced, see `compressed.decode_compressed`.

    Raises:
        SourceError: the file cannot be read; names it.
        ImageError: the file is no image, is cut off or damaged; names it.
    """
    return decode_image_file(load_image_file(path), path, reduction)


def read_bgr(path: Path) -> Bytes:
    """Read an image file as `read_image` does: (height, width, 3) uint8 in OpenCV's order.

    Raises:
        SourceError, ImageError: as `read_image`.
    """
    return bgr_copy(read_image(path))


def load_image_file(path: Path) -> Bytes:
    """The bytes of an image file, for `decode_image_file`.

    Raises:
        SourceError: the file cannot be read, or is longer than `MAX_IMAGE_BYTES`; names it.
    """
    try:
        size = path.stat().st_size
        if size > MAX_IMAGE_BYTES:
            raise SourceError(f"image {path} must be at most {MAX_IMAGE_BYTES} bytes, got {size}")
        return np.fromfile(path, np.uint8)
    except OSError as error:
        raise SourceError(f"image {path} cannot be read: {error.strerror}") from error


def decode_image_file(data: Bytes, path: Path, reduction: int = 1) -> Pixels:
    """Decode the bytes of the image file `path`, in the orientation in which pixels are stored.

    A JPEG may be reduced, see `compressed.decode_compressed`.

    Raises:
        ImageError: the data is no image, is cut off or damaged; names the file.
    """
    try:
        if data[:2].tobytes() == b"\xff\xd8" or data[:4].tobytes() == b"\x89PNG":
            return decode_compressed("", data, reduction)
        flags = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
        image = cv2.imdecode(data, flags) if data.size else None
    except ImageError as error:
        raise ImageError(f"image {path} cannot be decoded: {error}") from error
    except cv2.error as error:
        raise ImageError(f"image {path} cannot be decoded: {error.err}") from error
    if image is None:
        raise ImageError(f"image {path} cannot be decoded: not an image format supported by OpenCV")
    if image.dtype not in (np.uint8, np.uint16):
        raise ImageError(f"image {path} must have 8 or 16 bits, got {image.dtype}")
    return decoded_pixels(image)


def list_images(folder: Path) -> list[Path]:
    """Image files directly in `folder`, in natural order.

    Raises:
        SourceError: no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise SourceError(f"{folder}: expected a folder of images, found none")
    # A Mac leaves a `._1.jpg` beside 1.jpg on foreign file systems.
    found = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES
        and not path.name.startswith(".")
        and (path.is_file() or not path.exists())  # of a broken link, reading tells
    ]
    if not found:
        raise SourceError(f"{folder}: expected images ({', '.join(IMAGE_SUFFIXES)}), found none")
    return sorted(found, key=lambda path: natural_order(path.name))


def bgr_copy(pixels: Pixels) -> Bytes:
    """The whole image as a new (height, width, 3) uint8 array in OpenCV's order, to draw in."""
    return np.asarray(cv2.cvtColor(pixels.rgb(), cv2.COLOR_RGB2BGR), np.uint8)
