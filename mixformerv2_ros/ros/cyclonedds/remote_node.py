"""A node on DDS that a `TrackerView` sees and commands a tracker through."""

from __future__ import annotations

import threading
from typing import Any

from mixformerv2_ros.interfaces import typestore
from mixformerv2_ros.ros.cyclonedds.node import Node
from mixformerv2_ros.ros.cyclonedds.qos_profiles import reliable
from mixformerv2_ros.ros.cyclonedds.subscription import Subscription
from mixformerv2_ros.ros.messages import Types
from mixformerv2_ros.ros.qos import SENSOR_HISTORY_DEPTH
from mixformerv2_ros.ros.remote.tracker_view import (
    POLL_S,
    TOLD,
    RemoteTopics,
    TrackerView,
)


class DdsRemoteNode:
    """Connects a `TrackerView` with a node, which spins in a thread of its own.

    Use it as a context manager.

    Attributes:
        view: The view.
    """

    def __init__(self, node: Node, topics: RemoteTopics) -> None:
        """Create publishers and subscriptions.

        Args:
            node: The node; closed with this.
            topics: What to subscribe to.

        Raises:
            MiddlewareError: a topic cannot be created.
            ParameterError: a name is not a valid topic name.
        """
        self._node = node
        self.types: Types = typestore().types
        topic = node.names.topic
        self.view = TrackerView(self, topic(topics.image) if topics.image else None)
        self._publishers = {
            name: node.create_publisher(topic(name), msgtype, reliable())
            for name, msgtype in TOLD.items()
        }
        for name, msgtype, callback in topics.subscriptions(self.view):
            node.create_subscription(topic(name), msgtype, callback, reliable())
        self._images: Subscription | None = None
        node.create_timer(POLL_S, self._poll)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._spin, name="remote")

    def __enter__(self) -> TrackerView:
        """Start spinning."""
        self._thread.start()
        return self.view

    def __exit__(self, *error: object) -> None:
        """Leave the domain once the last message has been acknowledged."""
        self._closing.set()
        self._thread.join()
        for publisher in self._publishers.values():
            publisher.wait_for_all_acked()
        self._node.close()

    def publish(self, topic: str, message: Any) -> int:
        """Publish on one of the topics `TOLD`; returns the number of subscriptions."""
        self._publishers[topic].publish(message)
        return self._publishers[topic].subscription_count

    def _spin(self) -> None:
        try:
            self._node.spin(self._closing.is_set)
        except BaseException as error:  # raised again by whoever shows the view
            self.view.failure = error

    def _poll(self) -> None:
        """Subscribe to the images while somebody looks."""
        view = self.view
        msgtype = view.set_published_topics(self._node.participant.published_topics())
        if self._images is not None:
            if not view.images_wanted:
                self._node.destroy_subscription(self._images)
                self._images = None
        elif view.images_wanted and msgtype is not None and view.image_topic is not None:
            qos = reliable(SENSOR_HISTORY_DEPTH)
            self._images = self._node.create_subscription(
                view.image_topic, msgtype, view.receive_image, qos, auto=True
            )
