"""A ROS 2 node made of DDS entities: publishers, subscriptions, timers, clock, graph entry."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import numpy as np
from cyclonedds.core import Qos
from cyclonedds.internal import InvalidSample
from cyclonedds.pub import DataWriter
from cyclonedds.sub import DataReader

from mixformerv2_ros.errors import MiddlewareError
from mixformerv2_ros.interfaces import typestore
from mixformerv2_ros.ros.cyclonedds.names import NodeNames
from mixformerv2_ros.ros.cyclonedds.participant import Log, Participant
from mixformerv2_ros.ros.cyclonedds.publisher import Publisher
from mixformerv2_ros.ros.cyclonedds.qos_profiles import (
    endpoint_qos,
    profile_of,
    sensor_data,
    transient_local,
)
from mixformerv2_ros.ros.cyclonedds.subscription import Subscription
from mixformerv2_ros.ros.cyclonedds.types import from_cdr, sample, to_cdr
from mixformerv2_ros.ros.messages import Level
from mixformerv2_ros.ros.topic_checks import BARE_DDS, Publication
from mixformerv2_ros.tracking.frame import NS

CLOCK = "/clock"
CLOCK_TYPE = "rosgraph_msgs/msg/Clock"

ROSOUT = "/rosout"
ROSOUT_TYPE = "rcl_interfaces/msg/Log"
ROSOUT_DEPTH = 1000
"""Log lines that late subscriptions get, as many as of a node on rcl."""

_SEVERITIES = {Level.OK: 20, Level.WARN: 30, Level.ERROR: 40}
"""Severities of `rcl_interfaces/msg/Log`."""

GRAPH_TOPIC = "ros_discovery_info"
"""DDS topic on which every node lists its endpoints, for `ros2 node info`."""
GRAPH_TYPE = "rmw_dds_common/msg/ParticipantEntitiesInfo"

MAX_PARTICIPANTS = 1024
"""Participants whose nodes are remembered; those that were heard of first go first."""

CHECK_S = 0.1
"""Time between two checks of the endpoints' QoS; longest sleep of the node."""


class Node:
    """A node of the ROS graph; use it as a context manager and `spin` it in one thread.

    Attributes:
        names: Name, namespace and remapping rules.
        participant: Its DDS entities, and what is discovered in the domain.
    """

    def __init__(
        self,
        names: NodeNames,
        log: Log,
        *,
        domain: int | None = None,
        sim_time: bool = False,
        rosout: bool = False,
    ) -> None:
        """Join a domain.

        Args:
            names: Name, namespace and remapping rules.
            log: Writes a line to the node's log.
            domain: The domain; None takes `ROS_DOMAIN_ID`, 0 if that is not set.
            sim_time: Take the time from `/clock`.
            rosout: Publish the log on `/rosout`, too.

        Raises:
            MiddlewareError: the domain cannot be joined.
            ParameterError: `ROS_DOMAIN_ID` or another variable of ROS has a wrong value.
        """
        self.names = names
        self._write_log = log
        self._rosout: Publisher | None = None
        self._sim_time = sim_time
        self._sim_ns = 0
        self._publishers: list[Publisher] = []
        self._subscriptions: list[Subscription] = []
        self._timers = [_Timer(CHECK_S, self._check_qos)]
        self.participant = Participant(self.log, domain)
        self._graph: DataWriter[Any] = DataWriter(
            self.participant.publisher,
            self.participant.topic(GRAPH_TOPIC, GRAPH_TYPE),
            qos=endpoint_qos(transient_local(), GRAPH_TYPE),
        )
        self._graph_reader: DataReader[Any] = DataReader(
            self.participant.subscriber,
            self.participant.topic(GRAPH_TOPIC, GRAPH_TYPE),
            qos=endpoint_qos(transient_local(MAX_PARTICIPANTS), GRAPH_TYPE),
        )
        self._nodes: dict[bytes, dict[bytes, str]] = {}
        self._reading_graph = threading.Lock()
        if rosout:
            self._rosout = self.create_publisher(
                names.topic(ROSOUT), ROSOUT_TYPE, transient_local(ROSOUT_DEPTH)
            )
        if sim_time:
            self.create_subscription(CLOCK, CLOCK_TYPE, self._set_time, sensor_data(1))

    def __enter__(self) -> Node:
        """Return the node, which has joined already."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave the domain."""
        self.close()

    def close(self) -> None:
        """Leave the domain, at once for all others too; nothing but `log` can be used after it."""
        self._rosout = None
        for subscription in self._subscriptions:
            subscription.close()
        for publisher in self._publishers:
            publisher.close()
        self._subscriptions.clear()
        self._publishers.clear()
        del self._graph, self._graph_reader
        self.participant.close()

    def log(self, level: Level, text: str) -> None:
        """Write a line to the node's log, from any thread."""
        self._write_log(level, text)
        if (rosout := self._rosout) is not None:
            types, (seconds, rest) = typestore().types, divmod(self.now_ns(), NS)
            message = types[ROSOUT_TYPE](
                stamp=types["builtin_interfaces/msg/Time"](sec=seconds, nanosec=rest),
                level=_SEVERITIES[level],
                name=self.names.full.strip("/").replace("/", "."),
                msg=text,
                file="",
                function="",
                line=0,
            )
            rosout.publish(message)

    def create_publisher(self, topic: str, msgtype: str, qos: Qos) -> Publisher:
        """Create a publisher; `topic` is its full name.

        Raises:
            MiddlewareError: the type is not known, or the topic cannot be created.
        """
        self._publishers.append(Publisher(self.participant, topic, msgtype, qos))
        self._publish_graph()
        return self._publishers[-1]

    def create_subscription(
        self,
        topic: str,
        msgtype: str,
        callback: Callable[[Any], None],
        qos: Qos,
        auto: bool = False,
        on_lost: Callable[[int], None] | None = None,
    ) -> Subscription:
        """Create a subscription; `topic` is its full name.

        Args:
            topic: Full name of the topic.
            msgtype: Type of its messages.
            callback: Gets the messages, in the thread that spins.
            qos: What to request.
            auto: Follow the publishers' reliability from there on.
            on_lost: Gets the number of messages lost in the last tenth of a second, if any.

        Raises:
            MiddlewareError: the type is not known, or the topic cannot be created.
        """
        self._subscriptions.append(
            Subscription(
                self.participant, topic, msgtype, callback, qos, auto, self._publish_graph, on_lost
            )
        )
        self._publish_graph()
        return self._subscriptions[-1]

    def destroy_subscription(self, subscription: Subscription) -> None:
        """Delete a subscription; to be called in the thread that spins."""
        self._subscriptions.remove(subscription)
        subscription.close()
        self._publish_graph()

    def create_timer(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call back periodically, by the wall clock."""
        self._timers.append(_Timer(seconds, callback))

    def publications(self, topic: str) -> list[Publication]:
        """The publishers of a topic, as far as discovered.

        The node of a publisher that no node lists, as those of programs without ROS, is
        `BARE_DDS`, as in `ros2 topic info -v`.
        """
        with self._reading_graph:
            names = self._node_names()
        found = self.participant.publishers_of(topic)
        return sorted(
            (Publication(names.get(e.guid, BARE_DDS), e.msgtype, profile_of(e.qos)) for e in found),
            key=lambda each: each.node,
        )

    def _node_names(self) -> dict[bytes, str]:
        """Full names of nodes by their publishers."""
        for listed in self._graph_reader.take(N=MAX_PARTICIPANTS):
            if isinstance(listed, InvalidSample):
                continue
            try:
                info = from_cdr(listed.cdr, GRAPH_TYPE)
            except MiddlewareError as error:
                self.log(Level.WARN, f"malformed message on {GRAPH_TOPIC}: {error}")
                continue
            key = bytes(info.gid.data)
            self._nodes.pop(key, None)
            self._nodes[key] = {
                bytes(gid.data): f"{node.node_namespace.rstrip('/')}/{node.node_name}"
                for node in info.node_entities_info_seq
                for gid in node.writer_gid_seq
            }
            if len(self._nodes) > MAX_PARTICIPANTS:
                del self._nodes[next(iter(self._nodes))]
        return {guid: name for writers in self._nodes.values() for guid, name in writers.items()}

    def now_ns(self) -> int:
        """Nanoseconds of the system's clock, or of `/clock`, 0 before its first message."""
        return self._sim_ns if self._sim_time else time.time_ns()

    def spin(self, stop: Callable[[], bool], until: float = math.inf) -> None:
        """Dispatch messages and timers.

        Args:
            stop: Returns whether to return; it is called ten times a second at least.
            until: Return at this time of `time.monotonic()` at the latest.
        """
        while not stop():
            now = time.monotonic()
            if now >= until:
                return
            due = min(until, *(timer.due for timer in self._timers))
            if self.participant.waitset.wait(int(max(0.0, due - now) * NS)):
                for subscription in list(self._subscriptions):
                    subscription.take()
            for timer in self._timers:
                timer.run()

    def _publish_graph(self) -> None:
        """Publish the list of this node's endpoints."""
        types = typestore().types
        gid = types["rmw_dds_common/msg/Gid"]

        def identity(entity: Any) -> Any:
            return gid(data=np.frombuffer(entity.get_guid().bytes, np.uint8))

        node = types["rmw_dds_common/msg/NodeEntitiesInfo"](
            node_namespace=self.names.namespace,
            node_name=self.names.node,
            reader_gid_seq=[identity(s.reader) for s in self._subscriptions],
            writer_gid_seq=[identity(p.writer) for p in self._publishers],
        )
        message = types[GRAPH_TYPE](
            gid=identity(self.participant.participant), node_entities_info_seq=[node]
        )
        self._graph.write(sample(GRAPH_TYPE, to_cdr(message, GRAPH_TYPE)))

    def _check_qos(self) -> None:
        for subscription in self._subscriptions:
            subscription.check_qos()
        for publisher in self._publishers:
            publisher.check_qos()

    def _set_time(self, message: Any) -> None:
        self._sim_ns = int(message.clock.sec) * NS + int(message.clock.nanosec)


class _Timer:
    def __init__(self, seconds: float, callback: Callable[[], None]) -> None:
        self._seconds = seconds
        self._callback = callback
        self.due = time.monotonic() + seconds

    def run(self) -> None:
        """Call back if it is time."""
        now = time.monotonic()
        if now >= self.due:
            self.due = max(self.due + self._seconds, now)
            self._callback()
