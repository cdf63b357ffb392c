"""Image messages read from their serialized form, against the type store of rosbags."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from nodes import TYPES

from mixformerv2_ros.errors import MiddlewareError
from mixformerv2_ros.interfaces import typestore
from mixformerv2_ros.ros.image_cdr import READERS, read_compressed_image, read_image
from mixformerv2_ros.ros.messages import header_message

NAMES = ("", "a", "ab", "abc", "camera", "kam\u00e9ra")
STAMP = 1_700_000_000_123_456_789


def raw(frame_id: str = "camera", encoding: str = "bgr8", size: int = 24) -> Any:
    return TYPES["sensor_msgs/msg/Image"](
        header=header_message(TYPES, STAMP, frame_id), height=2, width=4, encoding=encoding,
        is_bigendian=1, step=12, data=np.arange(size, dtype=np.uint8),
    )  # fmt: skip


def compressed(frame_id: str = "camera", format: str = "jpeg", size: int = 5) -> Any:
    return TYPES["sensor_msgs/msg/CompressedImage"](
        header=header_message(TYPES, STAMP, frame_id), format=format,
        data=np.arange(size, dtype=np.uint8),
    )  # fmt: skip


def serialized(message: Any, little_endian: bool = True) -> bytes:
    store = typestore()
    return bytes(store.serialize_cdr(message, message.__msgtype__, little_endian=little_endian))


def content(message: Any) -> list[Any]:
    """All fields, whichever library made them."""
    stamp, names = message.header.stamp, ("height", "width", "encoding", "is_bigendian", "step")
    found = [stamp.sec, stamp.nanosec, message.header.frame_id, bytes(message.data)]
    return found + [getattr(message, name, None) for name in (*names, "format")]


@pytest.mark.parametrize("little_endian", [True, False])
@pytest.mark.parametrize("frame_id", NAMES)
@pytest.mark.parametrize("name", NAMES)
def test_they_are_what_was_sent(little_endian: bool, frame_id: str, name: str) -> None:
    """Names of every length, which decide where the numbers after them lie."""
    for message in (raw(frame_id, name), compressed(frame_id, name)):
        cdr = serialized(message, little_endian)
        assert content(READERS[message.__msgtype__](cdr)) == content(message)


@pytest.mark.parametrize("message", [raw(size=0), compressed(size=0)])
def test_images_without_data(message: Any) -> None:
    assert len(READERS[message.__msgtype__](serialized(message)).data) == 0


def test_the_data_are_not_copied() -> None:
    cdr = serialized(raw())
    assert np.shares_memory(read_image(cdr).data, np.frombuffer(cdr, np.uint8))


@pytest.mark.parametrize("message", [raw(), compressed()])
def test_messages_that_are_cut_off(message: Any) -> None:
    cdr, read = serialized(message), READERS[message.__msgtype__]
    end = cdr.rindex(bytes(message.data)) + len(message.data)
    for size in range(end):
        with pytest.raises(MiddlewareError, match=r"^image message (needs|must be)"):
            read(cdr[:size])
    assert content(read(cdr[:end])) == content(read(cdr + b"more")) == content(message)


def test_lengths_that_no_message_has() -> None:
    cdr = bytearray(serialized(compressed(frame_id="")))
    struct.pack_into("<I", cdr, 12, 2**32 - 1)
    with pytest.raises(MiddlewareError, match="needs 4294967311 bytes at least, got"):
        read_compressed_image(bytes(cdr))
    struct.pack_into("<I", cdr, 12, 0)  # a string has one byte at least, its zero
    assert read_compressed_image(bytes(cdr)).header.frame_id == ""


def test_a_name_that_is_not_utf8_costs_no_image() -> None:
    cdr = serialized(raw("abc")).replace(b"abc", b"\xff\xfe!")
    assert read_image(cdr).header.frame_id == "\ufffd\ufffd!"


@pytest.mark.parametrize("start", [b"", b"\0\1", b"\0\3\0\0", b"\1\1\0\0"])
def test_other_representations_are_named(start: bytes) -> None:
    with pytest.raises(MiddlewareError, match="must be CDR, got data that starts with"):
        read_image(start + serialized(raw())[4:] if len(start) == 4 else start)
