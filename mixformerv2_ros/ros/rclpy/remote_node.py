"""A node on rclpy that a `TrackerView` sees and commands a tracker through."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import rclpy
from rclpy.duration import Duration
from rclpy.signals import SignalHandlerOptions
from rosidl_runtime_py.utilities import get_message

from mixformerv2_ros.ros.messages import Types
from mixformerv2_ros.ros.qos import AUTO
from mixformerv2_ros.ros.rclpy.message_types import message_types
from mixformerv2_ros.ros.rclpy.qos_profiles import reliable
from mixformerv2_ros.ros.rclpy.spin_thread import SpinThread
from mixformerv2_ros.ros.rclpy.subscriptions import SensorSubscription, subscribe_reliably
from mixformerv2_ros.ros.remote.tracker_view import (
    POLL_S,
    TOLD,
    RemoteTopics,
    TrackerView,
)

_ACK_S = 1.0


class RemoteNode:
    """Connects a `TrackerView` with a node, which spins in a thread of its own.

    Use it as a context manager.

    Attributes:
        view: The view.
    """

    def __init__(
        self, name: str, namespace: str, remaps: Sequence[str], topics: RemoteTopics
    ) -> None:
        """Create publishers and subscriptions.

        Args:
            name: Name of the node.
            namespace: Its namespace.
            remaps: Rules such as `init_box:=/drone/init_box`.
            topics: What to subscribe to.
        """
        rules = [word for rule in remaps for word in ("-r", rule)]
        self._context = rclpy.Context()
        rclpy.init(
            args=["--ros-args", *rules],
            context=self._context,
            signal_handler_options=SignalHandlerOptions.NO,
        )
        self._node = node = rclpy.create_node(name, namespace=namespace, context=self._context)
        self.types: Types = message_types
        image = str(node.resolve_topic_name(topics.image)) if topics.image else None
        self.view = TrackerView(self, image)
        self._publishers = {
            topic: node.create_publisher(get_message(msgtype), topic, reliable())
            for topic, msgtype in TOLD.items()
        }
        for topic, msgtype, callback in topics.subscriptions(self.view):
            subscribe_reliably(node, topic, msgtype, callback)
        self._images: SensorSubscription | None = None
        node.create_timer(POLL_S, self._poll)
        self._thread = SpinThread(node, "remote", self._fail)

    def __enter__(self) -> TrackerView:
        """Start spinning."""
        self._thread.start()
        return self.view

    def __exit__(self, *error: object) -> None:
        """Destroy the node once the last message has been acknowledged."""
        for publisher in self._publishers.values():
            publisher.wait_for_all_acked(Duration(seconds=_ACK_S))
        self._thread.close()
        self._node.destroy_node()
        rclpy.shutdown(context=self._context)

    def publish(self, topic: str, message: Any) -> int:
        """Publish on one of the topics `TOLD`; returns the number of subscriptions."""
        self._publishers[topic].publish(message)
        return int(self._publishers[topic].get_subscription_count())

    def _fail(self, error: BaseException) -> None:
        self.view.failure = error  # raised again by whoever shows the view

    def _poll(self) -> None:
        """Subscribe to the images while somebody looks, and follow their reliability."""
        view = self.view
        msgtype = view.set_published_topics(
            {
                name: types[0]
                for name, types in self._node.get_topic_names_and_types()
                if self._node.count_publishers(name)
            }
        )
        if self._images is not None:
            if view.images_wanted:
                self._images.follow()
            else:
                self._images.close()
                self._images = None
        elif view.images_wanted and msgtype is not None and view.image_topic is not None:
            self._images = SensorSubscription(
                self._node, view.image_topic, msgtype, view.receive_image, AUTO
            )
