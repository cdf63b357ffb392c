"""Image messages read from their serialized form, without a copy of their pixels.

rclpy hands over a message as the bytes that came over the wire if it is asked to; its own
conversion looks for every field by name and checks it. The type store of `rosbags`, which the nodes
on DDS use, reads messages as this does, but a ROS installation may lack it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from struct import Struct
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mixformerv2_ros.errors import MiddlewareError

_REPRESENTATIONS = (0x00, 0x01, 0x06, 0x07, 0x10, 0x11)
"""Identifiers of CDR and, by two numberings, of XCDR2; these messages are the same in both. An odd
one means little-endian."""

_DATA_START = 4
"""Bytes before the first field, from which alignment is counted."""

_ORDERS = ">", "<"
_LENGTH = tuple(Struct(f"{order}I") for order in _ORDERS)
_STAMP_AND_LENGTH = tuple(Struct(f"{order}iII") for order in _ORDERS)
_SIZE_AND_LENGTH = tuple(Struct(f"{order}III") for order in _ORDERS)
_STEP_AND_LENGTH = tuple(Struct(f"{order}II") for order in _ORDERS)


class Time(NamedTuple):
    """A `builtin_interfaces/msg/Time`."""

    sec: int
    nanosec: int


class Header(NamedTuple):
    """A `std_msgs/msg/Header`."""

    stamp: Time
    frame_id: str


class Image(NamedTuple):
    """A `sensor_msgs/msg/Image`; its data is a view of the serialized message."""

    header: Header
    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: npt.NDArray[np.uint8]


class CompressedImage(NamedTuple):
    """A `sensor_msgs/msg/CompressedImage`; its data is a view of the serialized message."""

    header: Header
    format: str
    data: npt.NDArray[np.uint8]


def read_image(cdr: bytes) -> Image:
    """Read a serialized `sensor_msgs/msg/Image`.

    Raises:
        MiddlewareError: the bytes are not such a message.
    """
    little_endian = _is_little_endian(cdr)
    header, at = _header(cdr, little_endian)
    height, width, size = _numbers(_SIZE_AND_LENGTH[little_endian], cdr, at)
    encoding, at = _text(cdr, _aligned(at) + 12, size)
    step, size = _numbers(_STEP_AND_LENGTH[little_endian], cdr, at + 1)
    # No byte is missing: numbers follow it.
    is_bigendian = cdr[at]
    at = _aligned(at + 1) + 8
    return Image(header, height, width, encoding, is_bigendian, step, _data(cdr, at, size))


def read_compressed_image(cdr: bytes) -> CompressedImage:
    """Read a serialized `sensor_msgs/msg/CompressedImage`.

    Raises:
        MiddlewareError: the bytes are not such a message.
    """
    little_endian = _is_little_endian(cdr)
    header, at = _header(cdr, little_endian)
    (size,) = _numbers(_LENGTH[little_endian], cdr, at)
    format, at = _text(cdr, _aligned(at) + 4, size)
    (size,) = _numbers(_LENGTH[little_endian], cdr, at)
    return CompressedImage(header, format, _data(cdr, _aligned(at) + 4, size))


READERS: Mapping[str, Callable[[bytes], Image | CompressedImage]] = {
    "sensor_msgs/msg/Image": read_image,
    "sensor_msgs/msg/CompressedImage": read_compressed_image,
}
"""The readers by the type of the message."""


def _is_little_endian(cdr: bytes) -> int:
    if len(cdr) < _DATA_START or cdr[0] or cdr[1] not in _REPRESENTATIONS:
        start = cdr[:_DATA_START].hex(" ") or "nothing"
        raise MiddlewareError(f"image message must be CDR, got data that starts with {start}")
    return cdr[1] & 1


def _header(cdr: bytes, little_endian: int) -> tuple[Header, int]:
    """The header and where it ends."""
    sec, nanosec, size = _numbers(_STAMP_AND_LENGTH[little_endian], cdr, _DATA_START)
    frame_id, at = _text(cdr, _DATA_START + 12, size)
    return Header(Time(sec, nanosec), frame_id), at


def _aligned(at: int) -> int:
    """The next place for a number of 4 bytes."""
    return (at + 3) & ~3


def _numbers(form: Struct, cdr: bytes, at: int) -> tuple[int, ...]:
    """Numbers of 4 bytes at the next place for them."""
    at = _aligned(at)
    _check_size(cdr, at + form.size)
    return form.unpack_from(cdr, at)


def _text(cdr: bytes, at: int, size: int) -> tuple[str, int]:
    """A string, whose size counts a zero at its end, and where it ends."""
    end = at + size
    _check_size(cdr, end)
    # One wrong byte in a name should not cost an image; rclpy replaces it as well.
    return cdr[at : max(at, end - 1)].decode("utf-8", "replace"), end


def _data(cdr: bytes, at: int, size: int) -> npt.NDArray[np.uint8]:
    _check_size(cdr, at + size)
    return np.frombuffer(memoryview(cdr)[at : at + size], np.uint8)


def _check_size(cdr: bytes, needed: int) -> None:
    if needed > len(cdr):
        raise MiddlewareError(f"image message needs {needed} bytes at least, got {len(cdr)}")
