"""The other side of a DDS domain: a node that publishes and listens."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from typing import Any

from waiting import wait_for

from mixformerv2_ros.ros.cyclonedds.names import NodeNames
from mixformerv2_ros.ros.cyclonedds.node import Node
from mixformerv2_ros.ros.cyclonedds.publisher import Publisher
from mixformerv2_ros.ros.cyclonedds.qos_profiles import profile_of, reliable
from mixformerv2_ros.ros.messages import Level, stamp_ns
from mixformerv2_ros.ros.qos import Reliability


class Peer:
    """A node that publishes and keeps what it hears; spins in a thread of its own."""

    def __init__(self, name: str = "peer") -> None:
        self.lines: list[str] = []
        self.heard: dict[str, list[Any]] = defaultdict(list)
        self.times: dict[str, list[float]] = defaultdict(list)
        self.node = Node(NodeNames(name), self._log)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self.node.spin, args=(self._ended.is_set,))

    def __enter__(self) -> Peer:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()
        self.node.close()

    def listen(self, topic: str, msgtype: str, qos: Any = None, auto: bool = False) -> Any:
        def keep(message: Any) -> None:
            self.times[topic].append(time.perf_counter())
            self.heard[topic].append(message)

        return self.node.create_subscription(topic, msgtype, keep, qos or reliable(100), auto=auto)

    def stamps(self, topic: str) -> list[int]:
        return [stamp_ns(message) for message in self.heard[topic]]

    def publish_acknowledged(self, camera: Publisher, message: Any, answers: str) -> None:
        """Publish an image and wait for the answer that carries its stamp."""
        stamp = stamp_ns(message)
        assert camera.publish(message)
        wait_for(lambda: stamp in self.stamps(answers), f"an answer to the image of {stamp}")

    def requested(self, topic: str) -> list[Reliability]:
        """Reliability of every subscription to a topic."""
        endpoints = self.node.participant.subscriptions_of(topic)
        return [profile_of(endpoint.qos).reliability for endpoint in endpoints]

    def wait_best_effort(self, topic: str) -> None:
        """Wait until the subscriptions to a topic of ours are best effort."""
        wait_for(
            lambda: set(self.requested(topic)) == {Reliability.BEST_EFFORT},
            f"a best-effort subscription to {topic}",
        )

    def wait_reliable(self, topic: str) -> None:
        """Wait until somebody subscribes to a topic of ours reliably, as `auto` ends up."""

        def found() -> bool:
            return Reliability.RELIABLE in self.requested(topic)

        wait_for(found, f"a reliable subscription to {topic}")

    def _log(self, level: Level, text: str) -> None:
        self.lines.append(text)
