"""Images of a topic to draw on, and boxes sent to a tracker, on rclpy."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from typing import Any

import rclpy
from rclpy.duration import Duration
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions

from mixformerv2_ros.live.middleware import INIT_BOX, INITS, OUTPUTS, TRACK
from mixformerv2_ros.messages import image_frame, init_box_message
from mixformerv2_ros.nodes.message_types import message_types
from mixformerv2_ros.nodes.subscriptions import ImageSubscription, reliable, subscribe
from mixformerv2_ros.selection.answers import Answers
from mixformerv2_ros.selection.images import Shown, image_type, missing_topic, sent
from mixformerv2_ros.tracking.boxes import Box

_LOOK_S = 0.2
_ARRIVAL_S = 1.0


class RosImages:
    """Images of a topic; the node spins in a thread of its own. Use it as a context manager.

    Attributes:
        title: Name of the topic.
        live: Images come by themselves.
    """

    live = True

    def __init__(self, name: str, namespace: str, remaps: Sequence[str], topic: str) -> None:
        """Wait for the topic, whose type its publisher tells.

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
        self.title = self._node.resolve_topic_name(topic)
        self._newest: deque[Any] = deque(maxlen=1)
        self._images: ImageSubscription | None = None
        self._published: dict[str, str] = {}
        self._failure: BaseException | None = None
        self._boxes = self._node.create_publisher(
            message_types(INITS[INIT_BOX]), INIT_BOX, reliable()
        )
        self._answers = Answers()
        subscribe(self._node, TRACK, OUTPUTS[TRACK], self._answers.hear, reliable())
        self._node.create_timer(_LOOK_S, self._look)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._spin, name="images")
        self._thread.start()

    def __enter__(self) -> RosImages:
        """Return the source, which listens already."""
        return self

    def __exit__(self, *error: object) -> None:
        """Leave the graph when the last box has arrived."""
        if hasattr(self._boxes, "wait_for_all_acked"):
            self._boxes.wait_for_all_acked(Duration(seconds=_ARRIVAL_S))
        self._executor.shutdown()
        self._thread.join()
        self._node.destroy_node()
        rclpy.shutdown(context=self._context)

    def take(self) -> Shown | None:
        """The newest image since the last call; see `ImageSource`."""
        if self._failure is not None:
            raise self._failure
        try:
            return Shown(image_frame(self._newest.pop()))
        except IndexError:
            return None

    def hold(self, held: bool) -> None:
        """Nothing: a topic goes on."""

    def step(self) -> None:
        """Nothing: a topic goes on."""

    def status(self) -> str:
        """Whom the topic lacks, or what became of the last box."""
        if self._images is None:
            return missing_topic(self.title, self._published)
        return self._answers.line()

    def send(self, box: Box, target_id: str, shown: Shown) -> str:
        """Publish a box; says whom it reached."""
        frame = shown.frame
        self._answers.ask(target_id)
        self._boxes.publish(
            init_box_message(message_types, box, target_id, frame.stamp_ns, frame.frame_id)
        )
        return sent(box, self._boxes.topic_name, self._boxes.get_subscription_count())

    def _spin(self) -> None:
        try:
            self._executor.spin()
        except ExternalShutdownException:
            return
        except BaseException as error:  # raised again where the images are taken
            self._failure = error

    def _look(self) -> None:
        """Subscribe as soon as somebody publishes the topic; then follow its quality."""
        if self._images is not None:
            self._images.follow()
            return
        self._published = {
            name: types[0]
            for name, types in self._node.get_topic_names_and_types()
            if self._node.count_publishers(name)
        }
        msgtype = image_type(self.title, self._published)
        if msgtype is not None:
            self._images = ImageSubscription(
                self._node, self.title, msgtype, self._newest.append, "auto"
            )
