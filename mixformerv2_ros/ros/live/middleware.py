"""What the live nodes need from the middleware that they run on."""

from __future__ import annotations

from typing import Any, Protocol

from mixformerv2_ros.ros.messages import Level, Types


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

    def image_publishers(self) -> list[str]:
        """Names of the nodes that publish the images, as far as the middleware knows them."""

    def log(self, level: Level, text: str) -> None:
        """Write one line to the node's log; `Level.OK` is information."""
