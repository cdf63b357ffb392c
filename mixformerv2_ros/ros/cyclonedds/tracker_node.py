"""The tracker node on DDS."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

from mixformerv2_ros.interfaces import typestore
from mixformerv2_ros.ros.cyclonedds.node import Node
from mixformerv2_ros.ros.cyclonedds.qos_profiles import make_qos, reliable
from mixformerv2_ros.ros.live.live_tracker import LiveTracker, StepObserver
from mixformerv2_ros.ros.live.model import Model
from mixformerv2_ros.ros.live.remote_commands import RemoteCommands
from mixformerv2_ros.ros.messages import Level, Types
from mixformerv2_ros.ros.qos import (
    AUTO,
    HISTORY_DEPTH,
    SENSOR_HISTORY_DEPTH,
    QosProfile,
    initial_reliability,
)
from mixformerv2_ros.ros.topic_checks import Publication, Requested
from mixformerv2_ros.ros.topics import (
    COMMANDS,
    COMPRESSED,
    DEBUG_IMAGE,
    DEBUG_IMAGE_COMPRESSED,
    DETECTOR,
    IMAGE,
    IMAGE_TYPES,
    IMAGES,
    INIT_POINT,
    INITS,
    OUTPUTS,
    OVERLAYS,
)


class DdsTrackerNode:
    """Connects a `LiveTracker` with a node; use it as a context manager.

    Attributes:
        tracker: The tracker.
    """

    def __init__(
        self,
        model: Model,
        values: Mapping[str, Any],
        node: Node,
        observer: StepObserver | None = None,
    ) -> None:
        """Create publishers and subscriptions.

        Args:
            model: The model to track with.
            values: Parameters by name.
            node: The node.
            observer: Sees every step of the tracker.

        Raises:
            ParameterError: a value is out of range, or values are inconsistent.
            MiddlewareError: a topic cannot be created.
        """
        self._node = node
        self.types: Types = typestore().types
        self.tracker = LiveTracker(model, values, self, node.names.full, observer=observer)
        values = self.tracker.values
        topic = node.names.topic
        self._outputs = {
            name: node.create_publisher(
                self.full_topic(name), msgtype, reliable(1 if name in OVERLAYS else HISTORY_DEPTH)
            )
            for name, msgtype in OUTPUTS.items()
        }
        for name, msgtype in INITS.items():
            node.create_subscription(topic(name), msgtype, self.tracker.receive_init, reliable())
        click, point = INIT_POINT
        node.create_subscription(topic(click), point, self.tracker.receive_point, reliable())
        name, array = DETECTOR
        node.create_subscription(topic(name), array, self.tracker.receive_detections, reliable())
        for name, callback in RemoteCommands(self.tracker, self).callbacks.items():
            node.create_subscription(topic(name), COMMANDS[name], callback, reliable())
        transport, choice = str(values["image_transport"]), str(values["image_qos"])
        self._images = node.create_subscription(
            node.names.image_topic(IMAGE, transport),
            IMAGES[transport][1],
            self.tracker.receive_image,
            make_qos(QosProfile(initial_reliability(choice)), SENSOR_HISTORY_DEPTH),
            auto=choice == AUTO,
            on_lost=self.tracker.add_lost,
        )
        node.create_timer(float(values["diagnostics.period"]), self.tracker.publish_diagnostics)

    def __enter__(self) -> DdsTrackerNode:
        """Start the tracker."""
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
        """Whether one of the outputs has subscribers."""
        return self._outputs[topic].subscription_count > 0

    def image_subscription(self) -> Requested:
        """What the subscription to the images requests."""
        return self._images.requested

    def image_publications(self) -> list[Publication]:
        """The discovered publishers of the images."""
        return self._node.publications(self._images.topic)

    def image_topics(self) -> dict[str, str]:
        """Types of all published topics of images but its own, by full name."""
        published = self._node.participant.published_topics()
        for name in OVERLAYS:
            published.pop(self.full_topic(name), None)
        return {name: kind for name, kind in published.items() if kind in IMAGE_TYPES}

    def full_topic(self, name: str) -> str:
        """Full name of a topic after remapping."""
        names = self._node.names
        if name == DEBUG_IMAGE_COMPRESSED:
            return names.image_topic(DEBUG_IMAGE, COMPRESSED)
        return names.topic(name)

    def change_parameter(self, name: str, value: Any) -> None:
        """Change a parameter before the next image.

        Raises:
            ParameterError: the change is refused.
        """
        self.tracker.set_values({name: value})

    def log(self, level: Level, text: str) -> None:
        """Write to the node's log."""
        self._node.log(level, text)
