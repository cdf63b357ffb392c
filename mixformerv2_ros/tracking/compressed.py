"""Compressed images of messages and files: JPEG and PNG, JPEGs at reduced size if wanted."""

from __future__ import annotations

import struct
from functools import partial
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mixformerv2_ros.errors import ImageError
from mixformerv2_ros.tracking.pixels import Pixels, ReducedPixels, check_size


def decode_compressed(format: str, data: Any, reduction: int = 1) -> Pixels:
    """Decode the fields of a `sensor_msgs/CompressedImage`: a JPEG or a PNG.

    Grey images stay grey, and those with 16 bits keep them; alpha is dropped.

    Args:
        format: The message's format. Only its tail matters: `... compressed rgb8` means that the
            sender compressed RGB data as if it were BGR, as image_transport may do.
        data: Anything with the buffer protocol.
        reduction: 1, 2, 4 or 8: decode a JPEG at that fraction of its width and height, which is
            faster (libjpeg leaves out the high frequencies). The result is `ReducedPixels` then.
            PNGs are always decoded in full.

    Raises:
        ImageError: the data is not a JPEG or PNG, is cut off, damaged, or claims to be larger
            than `MAX_PIXELS`.
    """
    if "compressedDepth" in format:
        raise ImageError(f"compressed image must be a JPEG or PNG, got {format!r}")
    buffer = np.frombuffer(data, np.uint8)
    view = buffer.data
    is_rgb = format.rpartition("compressed")[2].strip().startswith("rgb")
    if bytes(view[:8]) == b"\x89PNG\r\n\x1a\n":
        width, height = _png_size(view)
        reduction = 1
    elif bytes(view[:3]) == b"\xff\xd8\xff":
        width, height = _jpeg_size(view)
    else:
        start = bytes(view[:4]).hex(" ") or "nothing"
        raise ImageError(
            f"compressed image must be a JPEG or PNG, got data that starts with {start} "
            f"(format {format!r})"
        )
    check_size(width, height)
    if reduction == 1:
        return _decode(buffer, width, height, is_rgb, 0)
    reduced = _decode(buffer, width, height, is_rgb, _REDUCED[reduction])
    full = partial(_decode, buffer, width, height, is_rgb, 0)
    return ReducedPixels(width, height, reduced, reduction, full)


_REDUCED = {
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}
"""Flags of OpenCV by reduction; with IMREAD_ANYCOLOR the image keeps its colours."""


def _decode(
    buffer: npt.NDArray[np.uint8], width: int, height: int, is_rgb: bool, flags: int
) -> Pixels:
    flags |= cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        decoded = cv2.imdecode(buffer, flags)
    except cv2.error as error:
        raise ImageError(f"compressed image cannot be decoded: {error.err}") from error
    if decoded is None:
        raise ImageError(f"compressed image of {width}x{height} is damaged")
    return decoded_pixels(decoded, is_rgb)


def decoded_pixels(decoded: npt.NDArray[Any], is_rgb: bool = False) -> Pixels:
    """Wrap what OpenCV decoded: grey or three channels, of 8 or 16 bits, in its order if colour.

    Raises:
        ImageError: the array is of another type.
    """
    bits = 16 if decoded.dtype == np.uint16 else 8
    colors = "rgb" if is_rgb else "bgr"
    return Pixels.from_array(decoded, f"{colors if decoded.ndim == 3 else 'mono'}{bits}")


def _png_size(data: memoryview) -> tuple[int, int]:
    """Width and height from a PNG's header; ImageError if its end is missing.

    OpenCV reserves what a chunk claims to hold before it looks, 3.4 GB for 210 bytes, and where the
    data of the image are missing, an amount that depends on nothing.
    """
    if len(data) < 33 or bytes(data[12:16]) != b"IHDR":
        raise ImageError("PNG image has no header")
    width, height = struct.unpack_from(">II", data, 16)
    position, has_data = 8, False
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind == b"IEND":
            if not has_data:
                raise ImageError("PNG image has no data")
            return width, height
        has_data = has_data or kind == b"IDAT"
        position += 12 + length
    raise ImageError(f"PNG image is cut off after {len(data)} bytes")


def _jpeg_size(data: memoryview) -> tuple[int, int]:
    """Width and height from a JPEG's frame header; ImageError if its end is missing."""
    size: tuple[int, int] | None = None
    position = 2
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            raise ImageError(f"JPEG image is damaged at byte {position}")
        marker = data[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        (length,) = struct.unpack_from(">H", data, position + 2)
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if position + 9 > len(data):
                break
            height, width = struct.unpack_from(">HH", data, position + 5)
            size = width, height
        if marker == 0xDA and size is not None:
            # Cameras may pad the data; within it the end marker cannot occur.
            if bytes(data[-2:]) == b"\xff\xd9" or b"\xff\xd9" in bytes(data[position:]):
                return size
            break
        position += 2 + length
    raise ImageError(f"JPEG image is cut off after {len(data)} bytes")
