"""Image files as cameras and tools leave them."""

from __future__ import annotations

import struct


def exif_rotated(jpeg: bytes) -> bytes:
    """The JPEG with an orientation tag (6) that asks viewers to turn it by 90 degrees."""
    tiff = b"II*\0\x08\0\0\0" + struct.pack("<HHHIHH", 1, 0x0112, 3, 1, 6, 0) + bytes(4)
    body = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]
