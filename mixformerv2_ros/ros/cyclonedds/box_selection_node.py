"""A node on DDS that receives a topic's images and publishes the boxes drawn on them."""

from __future__ import annotations

import threading
from typing import Any

from mixformerv2_ros.interfaces import typestore
from mixformerv2_ros.ros.box_selection.topic_images import POLL_S, TopicImages
from mixformerv2_ros.ros.cyclonedds.node import Node
from mixformerv2_ros.ros.cyclonedds.qos_profiles import reliable
from mixformerv2_ros.ros.messages import Types
from mixformerv2_ros.ros.qos import SENSOR_HISTORY_DEPTH
from mixformerv2_ros.ros.topics import INIT_BOX, INITS, OUTPUTS, TRACK


class DdsBoxSelectionNode:
    """Connects `TopicImages` with a node, which spins in a thread of its own.

    Use it as a context manager.

    Attributes:
        images: The images.
    """

    def __init__(self, node: Node, topic: str) -> None:
        """Wait for a publisher of a topic; it determines the type.

        Args:
            node: The node to be; closed with this.
            topic: Name of the topic.

        Raises:
            MiddlewareError: the topic of the boxes or of the tracks cannot be created.
            ParameterError: the name is not a valid topic name.
        """
        self._node = node
        self.types: Types = typestore().types
        names = node.names
        self.images = TopicImages(names.topic(topic), self)
        self._closing = threading.Event()
        self._boxes = node.create_publisher(names.topic(INIT_BOX), INITS[INIT_BOX], reliable())
        node.create_subscription(
            names.topic(TRACK), OUTPUTS[TRACK], self.images.track_monitor.receive_track, reliable()
        )
        node.create_timer(POLL_S, self._poll)
        self._thread = threading.Thread(target=self._spin, name="images")

    def __enter__(self) -> TopicImages:
        """Start spinning."""
        self._thread.start()
        return self.images

    def __exit__(self, *error: object) -> None:
        """Leave the domain once the last box has been acknowledged."""
        self._closing.set()
        self._thread.join()
        self._boxes.wait_for_all_acked()
        self._node.close()

    def publish(self, message: Any) -> tuple[str, int]:
        """Publish a box; returns its topic and the number of subscriptions."""
        self._boxes.publish(message)
        return self._boxes.topic, self._boxes.subscription_count

    def _spin(self) -> None:
        try:
            self._node.spin(self._closing.is_set)
        except BaseException as error:  # raised again where the images are taken
            self.images.failure = error

    def _poll(self) -> None:
        """Subscribe once the topic has a publisher."""
        images = self.images
        msgtype = images.set_published_topics(self._node.participant.published_topics())
        if msgtype is not None:
            self._node.create_subscription(
                images.title, msgtype, images.receive, reliable(SENSOR_HISTORY_DEPTH), auto=True
            )
