"""A node on DDS that shows a topic's images to somebody who draws boxes."""

from __future__ import annotations

import threading
from typing import Any

from mixformerv2_ros.interfaces import typestore
from mixformerv2_ros.ros.cyclonedds import qos as profiles
from mixformerv2_ros.ros.cyclonedds.node import Node
from mixformerv2_ros.ros.live.middleware import INIT_BOX, INITS, OUTPUTS, TRACK
from mixformerv2_ros.ros.messages import Types
from mixformerv2_ros.ros.selection.topic_images import LOOK_S, TopicImages

_DEPTH = 2


class BoxDrawing:
    """Connects `TopicImages` with a node, which spins in a thread of its own.

    Use it as a context manager.

    Attributes:
        images: The images.
    """

    def __init__(self, node: Node, topic: str) -> None:
        """Wait for a topic, whose type its publisher tells.

        Args:
            node: The node to be; closed with this.
            topic: Name of the topic.

        Raises:
            MiddlewareError: the topic of the boxes or of the tracks cannot be made.
            ParameterError: the name is not one that ROS allows.
        """
        self._node = node
        self.types: Types = typestore().types
        self.images = TopicImages(node.names.topic(topic), self)
        self._closing = threading.Event()
        self._boxes = node.advertise(
            node.names.topic(INIT_BOX), INITS[INIT_BOX], profiles.reliable(10)
        )
        node.subscribe(
            node.names.topic(TRACK), OUTPUTS[TRACK], self.images.answers.hear, profiles.reliable(10)
        )
        node.every(LOOK_S, self._look)
        self._thread = threading.Thread(target=self._spin, name="images")

    def __enter__(self) -> TopicImages:
        """Begin to listen."""
        self._thread.start()
        return self.images

    def __exit__(self, *error: object) -> None:
        """Leave the graph when the last box has arrived."""
        self._closing.set()
        self._thread.join()
        self._boxes.flush()
        self._node.close()

    def send(self, message: Any) -> tuple[str, int]:
        """Publish a box; returns its topic and how many listen."""
        self._boxes.publish(message)
        return self._boxes.topic, self._boxes.subscribers

    def _spin(self) -> None:
        try:
            self._node.spin(self._closing.is_set)
        except BaseException as error:  # raised again where the images are taken
            self.images.failure = error

    def _look(self) -> None:
        images = self.images
        msgtype = images.look(self._node.topics())
        if msgtype is not None:
            self._node.subscribe(
                images.title, msgtype, images.receive, profiles.reliable(_DEPTH), auto=True
            )
