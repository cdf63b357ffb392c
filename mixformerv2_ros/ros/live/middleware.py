"""What the live tracker asks of the middleware that it is connected with."""

from __future__ import annotations

from typing import Any, Protocol

from mixformerv2_ros.ros.messages import Level, Types

TRACK = "track"
DETECTIONS = "detections"
DEBUG_IMAGE = "debug_image"
DIAGNOSTICS = "/diagnostics"

IMAGE = "image"
COMPRESSED_IMAGE = "image/compressed"
INIT_BOX = "init_box"
INIT_DETECTION = "init_detection"
INIT_ROI = "init_roi"

OUTPUTS = {
    TRACK: "mixformerv2_ros/msg/Track",
    DETECTIONS: "vision_msgs/msg/Detection2DArray",
    DEBUG_IMAGE: "sensor_msgs/msg/Image",
    DIAGNOSTICS: "diagnostic_msgs/msg/DiagnosticArray",
}
"""Topics that the node publishes and their types; relative names can be remapped."""

INITS = {
    INIT_BOX: "mixformerv2_ros/msg/InitBox",
    INIT_DETECTION: "vision_msgs/msg/Detection2D",
    INIT_ROI: "sensor_msgs/msg/RegionOfInterest",
}
"""Topics that boxes come on, and their types."""

IMAGES = {
    "raw": (IMAGE, "sensor_msgs/msg/Image"),
    "compressed": (COMPRESSED_IMAGE, "sensor_msgs/msg/CompressedImage"),
}
"""Topic and type of the images by the parameter `image_transport`."""


class Middleware(Protocol):
    """A node of some middleware. Its methods are called from the tracker's thread."""

    @property
    def types(self) -> Types:
        """The message classes."""

    def now_ns(self) -> int:
        """Time of the node's clock in nanoseconds; simulated time where that is used."""

    def publish(self, topic: str, message: Any) -> None:
        """Publish a message on one of `OUTPUTS`."""

    def has_subscribers(self, topic: str) -> bool:
        """Whether anybody subscribes to one of `OUTPUTS`."""

    def log(self, level: Level, text: str) -> None:
        """Write one line to the node's log; `Level.OK` is for information."""
