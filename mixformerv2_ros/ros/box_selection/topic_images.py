"""Images of a topic, and the tracker that boxes are published to, for any middleware."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

from mixformerv2_ros.errors import MiddlewareError
from mixformerv2_ros.ros.box_selection.images import ShownImage
from mixformerv2_ros.ros.box_selection.track_monitor import TrackMonitor
from mixformerv2_ros.ros.messages import Types, image_frame, init_box_message
from mixformerv2_ros.ros.topics import IMAGE_TYPES
from mixformerv2_ros.text import printable, some
from mixformerv2_ros.tracking.boxes import Box

POLL_S = 0.2
"""Time between two looks at the topics in the graph."""


class BoxPublisher(Protocol):
    """Publishes boxes on `init_box`."""

    types: Types

    def publish(self, message: Any) -> tuple[str, int]:
        """Publish an `InitBox`; returns the topic's full name and the number of subscriptions."""


class TopicImages:
    """The newest image of a topic; messages may come in another thread.

    Attributes:
        title: Full name of the topic.
        live: Images come by themselves.
        track_monitor: Monitors the target of the last box.
        failure: The exception that ended the node's thread.
    """

    live = True

    def __init__(self, title: str, publisher: BoxPublisher) -> None:
        """Wait for an image.

        Args:
            title: Full name of the topic.
            publisher: Publishes the boxes.
        """
        self.title = title
        self.track_monitor = TrackMonitor()
        self.failure: BaseException | None = None
        self._publisher = publisher
        self._newest: deque[Any] = deque(maxlen=1)
        self._published: Mapping[str, str] = {}
        self._found = False

    def receive(self, message: Any) -> None:
        """Take a `sensor_msgs/Image` or `CompressedImage`; it is decoded when it is shown."""
        self._newest.append(message)

    def set_published_topics(self, published: Mapping[str, str]) -> str | None:
        """Take the topics in the graph.

        Args:
            published: Types by topic.

        Returns:
            The type of the topic as soon as it has a publisher, once.

        Raises:
            MiddlewareError: it is not a topic of images.
        """
        self._published = published
        msgtype = published.get(self.title)
        if self._found or msgtype is None:
            return None
        if msgtype not in IMAGE_TYPES:
            raise MiddlewareError(
                f"topic {self.title} must be of type {' or '.join(IMAGE_TYPES)}, "
                f"got {printable(msgtype)}"
            )
        self._found = True
        return msgtype

    def take(self) -> ShownImage | None:
        """The newest image since the last call; see `ImageSource`."""
        if self.failure is not None:
            raise self.failure
        try:
            frame = image_frame(self._newest.pop())
        except IndexError:
            return None
        # People see what the tracker sees: 16-bit images are as bright as their used bits.
        pixels = frame.pixels.with_bits(frame.pixels.measured_bits())
        return ShownImage(replace(frame, pixels=pixels))

    def hold(self, held: bool) -> None:
        """No effect: images of a topic keep coming."""

    def step(self) -> None:
        """No effect: images of a topic keep coming."""

    def status(self) -> str:
        """That the topic has no publisher, or the state of the last box's target."""
        if self._found:
            return self.track_monitor.status()
        others = sorted(name for name, t in self._published.items() if t in IMAGE_TYPES)
        known = f"image topics: {some(others)}" if others else "no other image topics found"
        return f"no publisher on {self.title}; {known}"

    def publish_box(self, box: Box, target_id: str, shown: ShownImage) -> str:
        """Publish a box that was drawn on an image; returns a line for the user."""
        frame = shown.frame
        self.track_monitor.start(target_id)
        topic, subscribers = self._publisher.publish(
            init_box_message(self._publisher.types, box, target_id, frame.stamp_ns, frame.frame_id)
        )
        named = ",".join(f"{value:g}" for value in box)
        if not subscribers:
            return f"box {named} published, but {topic} has no subscribers; is the tracker running?"
        return f"box {named} published on {topic}"
