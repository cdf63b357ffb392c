"""One camera image on its way through the tracker."""

from __future__ import annotations

from dataclasses import dataclass

from mixformerv2_ros.tracking.pixels import Pixels

NS = 1_000_000_000
"""Nanoseconds of a second."""


@dataclass(frozen=True)
class Frame:
    """An image with the stamp and the coordinate frame of its message.

    Attributes:
        pixels: The image.
        stamp_ns: Time of the image in nanoseconds, from its header.
        frame_id: Coordinate frame of the camera, from its header.
    """

    pixels: Pixels
    stamp_ns: int = 0
    frame_id: str = ""
