"""What the scans of damaged recordings have in common."""

from __future__ import annotations

from dataclasses import dataclass

LARGEST = 2**29
"""Longest record, message or decompressed chunk in bytes. A damaged or hostile file may announce
any length; the largest image that is decoded (`pixels.MAX_PIXELS`) has 300 MB in RGB."""


@dataclass(frozen=True)
class Recovered:
    """One message of a storage file.

    Attributes:
        topic: Name of the topic.
        msgtype: Name of the message type, such as `sensor_msgs/msg/Image`.
        definition: Message definition found in the file; empty if there is none.
        encoding: How the definition is written: `ros2msg`, `ros2idl`, or empty.
        record_ns: When the message was recorded, in nanoseconds.
        data: The serialized message.
    """

    topic: str
    msgtype: str
    definition: str
    encoding: str
    record_ns: int
    data: bytes


class Damage(Exception):
    """Where and why a scan had to stop; carries one clause for an error message."""
