"""The tracker node on DDS: which topics there are, and nothing of how a target is found."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

from mixformerv2_ros.interfaces import typestore
from mixformerv2_ros.ros.cyclonedds import qos as profiles
from mixformerv2_ros.ros.cyclonedds.node import Node
from mixformerv2_ros.ros.live.live_tracker import LiveTracker
from mixformerv2_ros.ros.live.middleware import DEBUG_IMAGE, IMAGE, IMAGES, INITS, OUTPUTS
from mixformerv2_ros.ros.live.model import Model
from mixformerv2_ros.ros.messages import Level, Types

IMAGE_DEPTH = 5
"""Images that may wait in DDS; the tracker takes them out at once."""


class TrackerNode:
    """Connects a `LiveTracker` with a node; use it as a context manager.

    Attributes:
        tracker: The tracker.
    """

    def __init__(self, model: Model, values: Mapping[str, Any], node: Node) -> None:
        """Make publishers and subscriptions.

        Args:
            model: The model to track with.
            values: Parameters by name.
            node: The node to track as.

        Raises:
            ParameterError: a value is out of range, or values contradict each other.
            MiddlewareError: a topic cannot be made.
        """
        self._node = node
        self.types: Types = typestore().types
        self.tracker = LiveTracker(model, values, self, node.names.full)
        values = self.tracker.values
        topic = node.names.topic
        self._outputs = {
            name: node.advertise(
                topic(name), msgtype, profiles.reliable(1 if name == DEBUG_IMAGE else 10)
            )
            for name, msgtype in OUTPUTS.items()
        }
        for name, msgtype in INITS.items():
            node.subscribe(topic(name), msgtype, self.tracker.receive_init, profiles.reliable(10))
        transport, wanted = str(values["image_transport"]), str(values["image_qos"])
        node.subscribe(
            node.names.image_topic(IMAGE, transport),
            IMAGES[transport][1],
            self.tracker.receive_image,
            (profiles.sensor_data if wanted == "sensor_data" else profiles.reliable)(IMAGE_DEPTH),
            auto=wanted == "auto",
        )
        node.every(float(values["diagnostics.period"]), self.tracker.publish_diagnostics)

    def __enter__(self) -> TrackerNode:
        """Set the tracker to work."""
        self.tracker.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop the tracker."""
        self.tracker.close()

    def now_ns(self) -> int:
        """Time of the node's clock."""
        return self._node.now_ns()

    def publish(self, topic: str, message: Any) -> None:
        """Publish on one of the outputs."""
        self._outputs[topic].publish(message)

    def has_subscribers(self, topic: str) -> bool:
        """Whether anybody subscribes to an output."""
        return self._outputs[topic].subscribers > 0

    def log(self, level: Level, text: str) -> None:
        """Write to the node's log."""
        self._node.log(level, text)
