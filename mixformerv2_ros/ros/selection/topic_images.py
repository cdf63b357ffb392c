"""Images of a topic, and a tracker to send boxes to, whatever carries them."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, Protocol

from mixformerv2_ros.errors import MiddlewareError
from mixformerv2_ros.ros.live.middleware import IMAGES
from mixformerv2_ros.ros.messages import Types, image_frame, init_box_message
from mixformerv2_ros.ros.selection.images import Shown
from mixformerv2_ros.ros.selection.track_monitor import Answers
from mixformerv2_ros.text import printable, some
from mixformerv2_ros.tracking.boxes import Box

IMAGE_TYPES = tuple(msgtype for _, msgtype in IMAGES.values())

LOOK_S = 0.2
"""Time between two looks at who publishes what."""


class BoxSender(Protocol):
    """Publishes boxes on `init_box`."""

    types: Types

    def send(self, message: Any) -> tuple[str, int]:
        """Publish an `InitBox`; returns the full name of the topic and its subscriptions."""


class TopicImages:
    """The newest image of a topic; messages may come in another thread.

    Attributes:
        title: Full name of the topic.
        live: Images come by themselves.
        answers: Gets the tracks of the tracker.
        failure: What ended the node's thread.
    """

    live = True

    def __init__(self, title: str, sender: BoxSender) -> None:
        """Begin without an image.

        Args:
            title: Full name of the topic.
            sender: Publishes the boxes.
        """
        self.title = title
        self.answers = Answers()
        self.failure: BaseException | None = None
        self._sender = sender
        self._newest: deque[Any] = deque(maxlen=1)
        self._published: Mapping[str, str] = {}
        self._found = False

    def receive(self, message: Any) -> None:
        """Take a `sensor_msgs/Image` or `CompressedImage`; it is decoded when it is shown."""
        self._newest.append(message)

    def look(self, published: Mapping[str, str]) -> str | None:
        """Learn who publishes what.

        Args:
            published: Types by topic.

        Returns:
            The type of the topic as soon as it has a publisher, once.

        Raises:
            MiddlewareError: its messages are no images.
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

    def take(self) -> Shown | None:
        """The newest image since the last call; see `ImageSource`."""
        if self.failure is not None:
            raise self.failure
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
        if self._found:
            return self.answers.line()
        others = sorted(name for name, t in self._published.items() if t in IMAGE_TYPES)
        known = f"; images are on {some(others)}" if others else ", nor any other image"
        return f"nobody publishes {self.title}{known}"

    def send(self, box: Box, target_id: str, shown: Shown) -> str:
        """Publish a box that was drawn on an image; says in a line whom it reached."""
        frame = shown.frame
        self.answers.ask(target_id)
        topic, subscribers = self._sender.send(
            init_box_message(self._sender.types, box, target_id, frame.stamp_ns, frame.frame_id)
        )
        named = ",".join(f"{value:g}" for value in box)
        if not subscribers:
            return f"box {named} published, but nobody listens on {topic}: is the tracker running?"
        return f"box {named} published on {topic}"
