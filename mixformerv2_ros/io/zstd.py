"""Data compressed with zstd, unpacked within limits."""

from __future__ import annotations

import shutil
from pathlib import Path

import zstandard

from mixformerv2_ros.io.damage import LARGEST, Damage

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
"""How a compressed message starts; a message in CDR starts with a zero."""

_PIECE = 2**20
_STEP = 2**10
"""Bytes unpacked at once in a file: 32 MB come out at most."""
_SMALLEST_LIMIT = 2**30
_LARGEST_RATIO = 1000


def first_bytes(data: bytes, limit: int) -> bytes:
    """Unpack at most `limit` bytes; piece by piece, because a reader makes room at once.

    Raises:
        zstandard.ZstdError: the data is damaged.
    """
    reader = zstandard.ZstdDecompressor().stream_reader(data)
    content = bytearray()
    while len(content) < limit and (piece := reader.read(min(_PIECE, limit - len(content)))):
        content += piece
    return bytes(content)


def unpack_bytes(data: bytes) -> bytes:
    """Unpack a message of at most `LARGEST` bytes.

    Raises:
        Damage: the data is damaged, cut off or too large.
    """
    try:
        size = zstandard.frame_content_size(data)
        content = b"" if size > LARGEST else first_bytes(data, LARGEST + 1)
    except zstandard.ZstdError as error:
        raise Damage(f"cannot be decompressed: {error}") from error
    if max(size, len(content)) > LARGEST:
        raise Damage(f"more than {LARGEST} bytes")
    if len(content) < size:
        raise Damage(f"{len(content)} bytes instead of {size}")
    return content


def unpack_file(source: Path, target: Path) -> str:
    """Unpack a file as far as it can be had.

    At most 1000 times its size, or 1 GiB where that is more, and at most what fits on the disk.

    Returns:
        What is wrong with `source`, as one clause; empty if nothing is.

    Raises:
        OSError: a file cannot be read or written.
    """
    limit = max(_LARGEST_RATIO * source.stat().st_size, _SMALLEST_LIMIT)
    limit = min(limit, shutil.disk_usage(target.parent).free * 9 // 10)
    decompressor = zstandard.ZstdDecompressor().decompressobj()
    written = 0
    with source.open("rb") as packed, target.open("wb") as unpacked:
        while data := packed.read(_STEP):
            try:
                piece = decompressor.decompress(data)
                while decompressor.eof and decompressor.unused_data:  # another frame follows
                    rest = decompressor.unused_data
                    decompressor = zstandard.ZstdDecompressor().decompressobj()
                    piece += decompressor.decompress(rest)
            except zstandard.ZstdError as error:
                return f"cannot be decompressed: {error}"
            written += len(piece)
            if written > limit:
                return f"cannot be decompressed: more than {limit} bytes"
            unpacked.write(piece)
    return "" if decompressor.eof else "is cut off"
