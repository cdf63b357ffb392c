"""Publishes images with the tracks drawn in, while somebody looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mixformerv2_ros.overlay import draw_tracks
from mixformerv2_ros.ros.live.middleware import Middleware
from mixformerv2_ros.ros.messages import compressed_image_message, image_message
from mixformerv2_ros.ros.topics import DEBUG_IMAGE, DEBUG_IMAGE_COMPRESSED
from mixformerv2_ros.tracking.boxes import Box
from mixformerv2_ros.tracking.frame import NS, Frame
from mixformerv2_ros.tracking.session import Track

FORMAT = "bgr8; jpeg compressed bgr8"
"""Format of the compressed overlay, in the grammar of compressed_image_transport."""

Image = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class OverlayLimits:
    """Limits of the compressed overlay.

    Attributes:
        max_size: Longest side in pixels; larger images are scaled down; 0 for any.
        max_rate: Images per second; 0 for every processed image.
        jpeg_quality: Of the JPEG, 1 to 100.
    """

    max_size: int
    max_rate: float
    jpeg_quality: int


def overlay_limits(values: Mapping[str, Any]) -> OverlayLimits:
    """The limits from the parameters of a node."""
    group = "debug_image.compressed."
    return OverlayLimits(
        int(values[group + "max_size"]),
        float(values[group + "max_rate"]),
        int(values[group + "jpeg_quality"]),
    )


class OverlayPublisher:
    """Publishes overlays; `publish` is for one thread.

    Attributes:
        limits: Limits of the compressed overlay; may be replaced at any time.
    """

    def __init__(self, middleware: Middleware, limits: OverlayLimits) -> None:
        self.limits = limits
        self._middleware = middleware
        self._due_ns: int | None = None

    def publish(self, frame: Frame, tracks: Sequence[Track], full_depth: int) -> None:
        """Publish the overlays of an image that have subscribers and are due.

        Args:
            frame: The image.
            tracks: Its tracks.
            full_depth: See `draw_tracks`.
        """
        middleware, limits = self._middleware, self.limits
        raw = middleware.has_subscribers(DEBUG_IMAGE)
        compressed = middleware.has_subscribers(DEBUG_IMAGE_COMPRESSED) and self._due(limits)
        if not (raw or compressed):
            return
        image = np.asarray(cv2.cvtColor(frame.pixels.rgb(), cv2.COLOR_RGB2BGR), np.uint8)
        if compressed and (small := _scaled_down(image, limits.max_size)) is not image:
            # Drawn at the size at which it is seen, so that labels stay readable.
            sx, sy = small.shape[1] / image.shape[1], small.shape[0] / image.shape[0]
            draw_tracks(small, [_scaled(track, sx, sy) for track in tracks], full_depth)
            self._publish_compressed(small, frame, limits)
            compressed = False
        if raw or compressed:
            draw_tracks(image, tracks, full_depth)
        if compressed:
            self._publish_compressed(image, frame, limits)
        if raw:
            message = image_message(middleware.types, image, "bgr8", frame.stamp_ns, frame.frame_id)
            middleware.publish(DEBUG_IMAGE, message)

    def _due(self, limits: OverlayLimits) -> bool:
        """Whether a compressed overlay is due; the rate is held in the mean, not per interval."""
        if not limits.max_rate:
            return True
        now, period = self._middleware.now_ns(), round(NS / limits.max_rate)
        due = self._due_ns
        # A clock that has stepped back leaves a time that is too far ahead.
        if due is not None and now < due <= now + period:
            return False
        late = due is None or not due <= now < due + period
        self._due_ns = (now if late or due is None else due) + period
        return True

    def _publish_compressed(self, image: Image, frame: Frame, limits: OverlayLimits) -> None:
        options = [cv2.IMWRITE_JPEG_QUALITY, limits.jpeg_quality]
        _, data = cv2.imencode(".jpg", image, options)
        message = compressed_image_message(
            self._middleware.types,
            np.asarray(data, np.uint8),
            FORMAT,
            frame.stamp_ns,
            frame.frame_id,
        )
        self._middleware.publish(DEBUG_IMAGE_COMPRESSED, message)


def _scaled_down(image: Image, max_size: int) -> Image:
    """The image with its longest side at most `max_size`; itself where it is small enough."""
    height, width = image.shape[:2]
    scale = max_size / max(width, height)
    if not 0 < scale < 1:
        return image
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _scaled(track: Track, sx: float, sy: float) -> Track:
    x, y, w, h = track.box
    left, top, right, bottom = track.edge_std
    return replace(
        track,
        box=Box(x * sx, y * sy, w * sx, h * sy),
        edge_std=(left * sx, top * sy, right * sx, bottom * sy),
    )
