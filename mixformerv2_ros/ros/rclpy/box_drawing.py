"""A node on rclpy that shows a topic's images to somebody who draws boxes."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import rclpy
from rclpy.duration import Duration
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions
from rosidl_runtime_py.utilities import get_message

from mixformerv2_ros.ros.live.middleware import INIT_BOX, INITS, OUTPUTS, TRACK
from mixformerv2_ros.ros.messages import Types
from mixformerv2_ros.ros.rclpy.message_types import message_types
from mixformerv2_ros.ros.rclpy.subscriptions import SensorSubscription, reliable, subscribe
from mixformerv2_ros.ros.selection.topic_images import LOOK_S, TopicImages

_ARRIVAL_S = 1.0


class BoxDrawing:
    """Connects `TopicImages` with a node, which spins in a thread of its own.

    Use it as a context manager.

    Attributes:
        images: The images.
    """

    def __init__(self, name: str, namespace: str, remaps: Sequence[str], topic: str) -> None:
        """Wait for a topic, whose type its publisher tells.

        Args:
            name: Name of the node.
            namespace: Its namespace.
            remaps: Rules such as `init_box:=/drone/init_box`.
            topic: Name of the topic.
        """
        rules = [word for rule in remaps for word in ("-r", rule)]
        self._context = rclpy.Context()
        rclpy.init(
            args=["--ros-args", *rules],
            context=self._context,
            signal_handler_options=SignalHandlerOptions.NO,
        )
        self._node = rclpy.create_node(name, namespace=namespace, context=self._context)
        self.types: Types = message_types
        self.images = TopicImages(self._node.resolve_topic_name(topic), self)
        self._subscription: SensorSubscription | None = None
        self._boxes = self._node.create_publisher(
            get_message(INITS[INIT_BOX]), INIT_BOX, reliable()
        )
        subscribe(self._node, TRACK, OUTPUTS[TRACK], self.images.answers.hear, reliable())
        self._node.create_timer(LOOK_S, self._look)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._spin, name="images")

    def __enter__(self) -> TopicImages:
        """Begin to listen."""
        self._thread.start()
        return self.images

    def __exit__(self, *error: object) -> None:
        """Leave the graph when the last box has arrived."""
        self._boxes.wait_for_all_acked(Duration(seconds=_ARRIVAL_S))
        self._executor.shutdown()
        self._thread.join()
        self._node.destroy_node()
        rclpy.shutdown(context=self._context)

    def send(self, message: Any) -> tuple[str, int]:
        """Publish a box; returns its topic and how many listen."""
        self._boxes.publish(message)
        return self._boxes.topic_name, self._boxes.get_subscription_count()

    def _spin(self) -> None:
        try:
            self._executor.spin()
        except ExternalShutdownException:
            return
        except BaseException as error:  # raised again where the images are taken
            self.images.failure = error

    def _look(self) -> None:
        """Subscribe as soon as somebody publishes the topic; then follow its quality."""
        if self._subscription is not None:
            self._subscription.follow()
            return
        msgtype = self.images.look(
            {
                name: types[0]
                for name, types in self._node.get_topic_names_and_types()
                if self._node.count_publishers(name)
            }
        )
        if msgtype is not None:
            self._subscription = SensorSubscription(
                self._node, self.images.title, msgtype, self.images.receive, "auto"
            )
