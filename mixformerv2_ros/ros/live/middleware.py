"""What the live nodes need from the middleware that they run on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from mixformerv2_ros.ros.messages import Level, Types
from mixformerv2_ros.ros.topic_checks import Publication, Requested


class Middleware(Protocol):
    """A node of some middleware. Its methods may be called from any thread."""

    @property
    def types(self) -> Types:
        """The message classes."""

    def now_ns(self) -> int:
        """Time of the node's clock in nanoseconds; simulated time with `use_sim_time`."""

    def publish(self, topic: str, message: Any) -> None:
        """Publish a message on one of the node's outputs, see `ros.topics`."""

    def has_subscribers(self, topic: str) -> bool:
        """Whether one of the node's outputs has subscribers."""

    def log(self, level: Level, text: str) -> None:
        """Write one line to the node's log; `Level.OK` is information."""


class ImageMiddleware(Middleware, Protocol):
    """A node that subscribes to images."""

    def image_subscription(self) -> Requested:
        """What its subscription to images requests."""

    def image_publications(self) -> list[Publication]:
        """The discovered publishers of the images."""

    def image_topics(self) -> Mapping[str, str]:
        """Types of all published topics of images but its own, by full name, as discovered."""

    def full_topic(self, name: str) -> str:
        """Full name of one of the node's topics after remapping, see `ros.topics`."""
