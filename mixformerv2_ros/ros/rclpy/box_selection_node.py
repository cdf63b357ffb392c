"""A node on rclpy that receives a topic's images and publishes the boxes drawn on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import rclpy
from rclpy.duration import Duration
from rclpy.signals import SignalHandlerOptions
from rosidl_runtime_py.utilities import get_message

from mixformerv2_ros.ros.box_selection.topic_images import POLL_S, TopicImages
from mixformerv2_ros.ros.messages import Types
from mixformerv2_ros.ros.qos import AUTO
from mixformerv2_ros.ros.rclpy.message_types import message_types
from mixformerv2_ros.ros.rclpy.qos_profiles import reliable
from mixformerv2_ros.ros.rclpy.spin_thread import SpinThread
from mixformerv2_ros.ros.rclpy.subscriptions import SensorSubscription, subscribe_reliably
from mixformerv2_ros.ros.topics import INIT_BOX, INITS, OUTPUTS, TRACK

_ACK_S = 1.0


class BoxSelectionNode:
    """Connects `TopicImages` with a node, which spins in a thread of its own.

    Use it as a context manager.

    Attributes:
        images: The images.
    """

    def __init__(self, name: str, namespace: str, remaps: Sequence[str], topic: str) -> None:
        """Wait for a publisher of a topic; it determines the type.

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
        monitor = self.images.track_monitor
        subscribe_reliably(self._node, TRACK, OUTPUTS[TRACK], monitor.receive_track)
        self._node.create_timer(POLL_S, self._poll)
        self._thread = SpinThread(self._node, "images", self._fail)

    def __enter__(self) -> TopicImages:
        """Start spinning."""
        self._thread.start()
        return self.images

    def __exit__(self, *error: object) -> None:
        """Destroy the node once the last box has been acknowledged."""
        self._boxes.wait_for_all_acked(Duration(seconds=_ACK_S))
        self._thread.close()
        self._node.destroy_node()
        rclpy.shutdown(context=self._context)

    def publish(self, message: Any) -> tuple[str, int]:
        """Publish a box; returns its topic and the number of subscriptions."""
        self._boxes.publish(message)
        return self._boxes.topic_name, self._boxes.get_subscription_count()

    def _fail(self, error: BaseException) -> None:
        self.images.failure = error  # raised again where the images are taken

    def _poll(self) -> None:
        """Subscribe once the topic has a publisher; from then on follow its reliability."""
        if self._subscription is not None:
            self._subscription.follow()
            return
        msgtype = self.images.set_published_topics(
            {
                name: types[0]
                for name, types in self._node.get_topic_names_and_types()
                if self._node.count_publishers(name)
            }
        )
        if msgtype is not None:
            self._subscription = SensorSubscription(
                self._node, self.images.title, msgtype, self.images.receive, AUTO
            )
