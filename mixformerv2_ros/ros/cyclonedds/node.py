"""A ROS 2 node made of DDS entities: topics, timers, a clock, and its entry in the graph."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
from cyclonedds.builtin import (
    BuiltinDataReader,
    BuiltinTopicDcpsPublication,
    BuiltinTopicDcpsSubscription,
)
from cyclonedds.core import (
    DDSException,
    InstanceState,
    Policy,
    Qos,
    ReadCondition,
    SampleState,
    ViewState,
    WaitSet,
)
from cyclonedds.domain import Domain, DomainParticipant
from cyclonedds.internal import InvalidSample
from cyclonedds.pub import DataWriter
from cyclonedds.pub import Publisher as DdsPublisher
from cyclonedds.sub import DataReader, Subscriber
from cyclonedds.topic import Topic

from mixformerv2_ros.errors import MiddlewareError, ParameterError
from mixformerv2_ros.interfaces import typestore
from mixformerv2_ros.ros.cyclonedds import qos as profiles
from mixformerv2_ros.ros.cyclonedds.names import NodeNames
from mixformerv2_ros.ros.cyclonedds.types import dds_type, from_cdr, message_type, sample, to_cdr
from mixformerv2_ros.ros.messages import NS, Level
from mixformerv2_ros.text import printable

LARGE_MESSAGES = (
    "<CycloneDDS><Domain><Internal>"
    '<SocketReceiveBufferSize max="16MB"/>'
    "</Internal></Domain></CycloneDDS>"
)
"""Configuration that comes before the user's: Cyclone's own megabyte is less than one image, and
at 1280x720 and 30 Hz every second image was lost. The system may grant less (net.core.rmem_max)."""

MAX_DOMAIN = 232
"""Highest domain whose UDP ports exist."""

CLOCK = "/clock"
CLOCK_TYPE = "rosgraph_msgs/msg/Clock"

_GRAPH_TOPIC = "ros_discovery_info"
_GRAPH_TYPE = "rmw_dds_common/msg/ParticipantEntitiesInfo"
_CHECK_S = 0.1
"""Time between two looks at the qualities that publishers offer; longest sleep of the node."""
_MOST_ENDPOINTS = 4096
_MOST_SAMPLES = 64
_OTHERS = "other deadlines or liveliness"

Log = Callable[[Level, str], None]


@dataclass(frozen=True)
class Endpoint:
    """A publisher or subscription somewhere in the domain.

    Attributes:
        topic: Full name of the topic.
        msgtype: Type of its messages.
        qos: Qualities that it offers or asks for.
    """

    topic: str
    msgtype: str
    qos: Qos


class Publisher:
    """Publishes messages of one type on one topic."""

    def __init__(self, node: Node, topic: str, msgtype: str, qos: Qos) -> None:
        self.topic = topic
        self.msgtype = msgtype
        self._node = node
        self._incompatible = 0
        self.writer: DataWriter[Any] = DataWriter(
            node.publisher, node.dds_topic(topic, msgtype), qos=profiles.endpoint(qos, msgtype)
        )

    @property
    def subscribers(self) -> int:
        """Number of subscriptions that this publisher reaches."""
        return int(self.writer.get_publication_matched_status().current_count)

    def publish(self, message: Any) -> bool:
        """Publish a message; False if a reliable subscriber did not keep up, and it was dropped."""
        return self.publish_cdr(to_cdr(message, self.msgtype))

    def publish_cdr(self, cdr: bytes) -> bool:
        """Publish a serialized message.

        Raises:
            MiddlewareError: DDS refuses it, as it does with one that is empty.
        """
        try:
            self.writer.write(sample(self.msgtype, cdr))
        except DDSException as error:
            if error.code == DDSException.DDS_RETCODE_TIMEOUT:
                return False
            raise MiddlewareError(
                f"message on {self.topic} cannot be published: {printable(error.msg)}"
            ) from error
        return True

    def close(self) -> None:
        """Leave the topic."""
        del self.writer

    def flush(self) -> None:
        """Wait a moment until reliable subscriptions have what was published."""
        # Where they do not answer in time, cyclonedds 11.0.1 trips over its own error handling.
        with contextlib.suppress(DDSException, AttributeError):
            self.writer.wait_for_acks(NS)

    def check(self) -> None:
        """Tell the log about subscriptions that ask for more than is offered."""
        count = self.writer.get_offered_incompatible_qos_status().total_count
        if count > self._incompatible:
            self._incompatible = count
            own = profiles.describe(self.writer.get_qos())
            asked = {
                profiles.describe(e.qos)
                for e in self._node.subscriptions_of(self.topic)
                if not profiles.fits(self.writer.get_qos(), e.qos)
            }
            self._node.log(
                Level.WARN,
                f"a subscription to {self.topic} asks for {' or '.join(sorted(asked)) or _OTHERS}, "
                f"but it is published {own}: it gets no messages",
            )


class Subscription:
    """Receives the messages of one topic.

    With `auto`, it is reliable as long as all publishers are, so that nothing is lost, and best
    effort otherwise, so that every publisher fits. It should begin reliable: a change means a new
    entity and may cost messages, which a best effort publisher does not promise anyway.
    """

    def __init__(
        self,
        node: Node,
        topic: str,
        msgtype: str,
        callback: Callable[[Any], None],
        qos: Qos,
        auto: bool = False,
    ) -> None:
        self.topic = topic
        self.msgtype = msgtype
        self._node = node
        self._callback = callback
        self._auto = auto
        self._depth = qos[Policy.History].depth
        self._warned: set[str] = set()
        self._incompatible = 0
        self._matched = (0, 0)
        self._open(qos)

    @property
    def publishers(self) -> int:
        """Number of publishers that this subscription hears."""
        return int(self.reader.get_subscription_matched_status().current_count)

    def take(self) -> None:
        """Hand over what has come."""
        for taken in self.reader.take(N=_MOST_SAMPLES):
            if isinstance(taken, InvalidSample):
                continue
            try:
                message = from_cdr(taken.cdr, self.msgtype)
            except MiddlewareError as error:
                self._warn(f"a message on {self.topic} is malformed: {error}")
            else:
                self._callback(message)

    def check(self) -> None:
        """Follow the publishers' qualities, or tell the log about those that do not fit."""
        status = self.reader.get_requested_incompatible_qos_status()
        if status.total_count > self._incompatible:
            self._incompatible = status.total_count
            self._handle_incompatible()
        elif self._auto and not profiles.is_reliable(self._qos) and self._matches_changed():
            offers = [self._offer(handle) for handle in self.reader.get_matched_publications()]
            if None in offers:
                self._matched = (0, 0)  # not known yet: look again
            elif offers and all(offer and profiles.is_reliable(offer) for offer in offers):
                self._reopen(profiles.reliable(self._depth))

    def close(self) -> None:
        """Leave the topic."""
        self._node.waitset.detach(self._condition)
        del self._condition
        del self.reader

    def _open(self, qos: Qos) -> None:
        node = self._node
        self._qos = qos
        self._incompatible = 0
        self._matched = (0, 0)
        self.reader: DataReader[Any] = DataReader(
            node.subscriber,
            node.dds_topic(self.topic, self.msgtype),
            qos=profiles.endpoint(qos, self.msgtype),
        )
        self._condition = ReadCondition(
            self.reader, SampleState.NotRead | ViewState.Any | InstanceState.Any
        )
        node.waitset.attach(self._condition)

    def _reopen(self, qos: Qos) -> None:
        self.take()
        self.close()
        self._open(qos)
        self._node.announce()

    def _matches_changed(self) -> bool:
        """Whether publishers have come or gone since the last look."""
        status = self.reader.get_subscription_matched_status()
        now = (int(status.total_count), int(status.current_count))
        before, self._matched = self._matched, now
        return now != before

    def _offer(self, handle: int) -> Qos | None:
        data = self.reader.get_matched_publication_data(handle)
        return None if data is None else data.qos

    def _handle_incompatible(self) -> None:
        if self._auto and profiles.is_reliable(self._qos):
            self._reopen(profiles.sensor_data(self._depth))
            return
        own = profiles.describe(self._qos)
        offered = {
            profiles.describe(e.qos)
            for e in self._node.publishers_of(self.topic)
            if not profiles.fits(e.qos, self._qos)
        }
        self._warn(
            f"a publisher of {self.topic} offers {' or '.join(sorted(offered)) or _OTHERS}, "
            f"but the subscription asks for {own}: it gets no messages from it"
        )

    def _warn(self, text: str) -> None:
        if text not in self._warned and len(self._warned) < 100:
            self._warned.add(text)
            self._node.log(Level.WARN, text)


class Node:
    """A node of the ROS graph; use it as a context manager and `spin` it in one thread."""

    def __init__(
        self, names: NodeNames, log: Log, *, domain: int | None = None, sim_time: bool = False
    ) -> None:
        """Join a domain.

        Args:
            names: Name, namespace and remapping rules.
            log: Writes a line to the node's log.
            domain: The domain; None takes `ROS_DOMAIN_ID`, 0 if that is not set.
            sim_time: Take the time from `/clock`.

        Raises:
            MiddlewareError: the domain cannot be joined.
            ParameterError: `ROS_DOMAIN_ID` is no number of a domain.
        """
        self.names = names
        self.log = log
        self._sim_time = sim_time
        self._sim_ns = 0
        self._publishers: list[Publisher] = []
        self._subscriptions: list[Subscription] = []
        self._timers = [_Timer(_CHECK_S, self._check)]
        self._topics: dict[tuple[str, str], Topic[Any]] = {}
        number = domain_from_environment() if domain is None else domain
        try:
            _configure(number)
            self.participant = DomainParticipant(number, qos=Qos(Policy.Userdata(b"enclave=/;")))
            self.publisher = DdsPublisher(self.participant)
            self.subscriber = Subscriber(self.participant)
            self.waitset = WaitSet(self.participant)
            self._seen_publishers = BuiltinDataReader(self.participant, BuiltinTopicDcpsPublication)
            self._seen_subscriptions = BuiltinDataReader(
                self.participant, BuiltinTopicDcpsSubscription
            )
        except DDSException as error:
            raise MiddlewareError(
                f"DDS domain {number} cannot be joined; is CYCLONEDDS_URI right? "
                f"{printable(os.environ.get('CYCLONEDDS_URI') or 'it is not set')}"
            ) from error
        self._graph: DataWriter[Any] = DataWriter(
            self.publisher,
            self.dds_topic("", _GRAPH_TYPE),
            qos=profiles.endpoint(profiles.latched(), _GRAPH_TYPE),
        )
        if sim_time:
            self.subscribe(CLOCK, CLOCK_TYPE, self._set_time, profiles.sensor_data(1))

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
        """Leave the domain, at once for all others too; nothing can be used after it."""
        for subscription in self._subscriptions:
            subscription.close()
        for publisher in self._publishers:
            publisher.close()
        self._subscriptions.clear()
        self._publishers.clear()
        self._topics.clear()
        # DDS entities are deleted with their last reference, children before parents.
        del self._graph, self._seen_publishers, self._seen_subscriptions
        del self.waitset, self.publisher, self.subscriber, self.participant

    def advertise(self, topic: str, msgtype: str, qos: Qos) -> Publisher:
        """Publish on a topic; `topic` is its full name.

        Raises:
            MiddlewareError: the type is not known, or the topic cannot be made.
        """
        self._publishers.append(Publisher(self, topic, msgtype, qos))
        self.announce()
        return self._publishers[-1]

    def withdraw(self, publisher: Publisher) -> None:
        """Stop publishing on a topic."""
        self._publishers.remove(publisher)
        publisher.close()
        self.announce()

    def subscribe(
        self,
        topic: str,
        msgtype: str,
        callback: Callable[[Any], None],
        qos: Qos,
        auto: bool = False,
    ) -> Subscription:
        """Call back for every message of a topic; `topic` is its full name.

        Raises:
            MiddlewareError: the type is not known, or the topic cannot be made.
        """
        self._subscriptions.append(Subscription(self, topic, msgtype, callback, qos, auto))
        self.announce()
        return self._subscriptions[-1]

    def every(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call back periodically, by the wall clock."""
        self._timers.append(_Timer(seconds, callback))

    def now_ns(self) -> int:
        """Nanoseconds of the system's clock, or of `/clock`, 0 before its first message."""
        return self._sim_ns if self._sim_time else time.time_ns()

    def spin(self, ended: Callable[[], bool], until: float = math.inf) -> None:
        """Dispatch messages and timers.

        Args:
            ended: Says when to return; it is asked ten times a second at least.
            until: Return at this time of `time.monotonic()` at the latest.
        """
        while not ended():
            now = time.monotonic()
            if now >= until:
                return
            due = min(until, *(timer.due for timer in self._timers))
            if self.waitset.wait(int(max(0.0, due - now) * NS)):
                for subscription in list(self._subscriptions):
                    subscription.take()
            for timer in self._timers:
                timer.run()

    def publishers_of(self, topic: str) -> list[Endpoint]:
        """Publishers of a topic in the domain, as far as discovered."""
        return self._endpoints(self._seen_publishers, topic)

    def subscriptions_of(self, topic: str) -> list[Endpoint]:
        """Subscriptions to a topic in the domain, as far as discovered."""
        return self._endpoints(self._seen_subscriptions, topic)

    def topics(self) -> dict[str, str]:
        """Names and types of the topics that are published in the domain."""
        return {e.topic: e.msgtype for e in self._endpoints(self._seen_publishers, None)}

    def dds_topic(self, topic: str, msgtype: str) -> Topic[Any]:
        """The DDS topic of a ROS topic; the empty name is the graph's."""
        key = (topic, msgtype)
        if key not in self._topics:
            name = f"rt{topic}" if topic else _GRAPH_TOPIC
            try:
                self._topics[key] = Topic(self.participant, name, dds_type(msgtype))
            except DDSException as error:
                raise MiddlewareError(
                    f"topic {topic} of type {msgtype} cannot be made: {printable(error)}"
                ) from error
        return self._topics[key]

    def announce(self) -> None:
        """Tell ROS which topics this node has, so that `ros2 node info` shows them."""
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
        message = types[_GRAPH_TYPE](gid=identity(self.participant), node_entities_info_seq=[node])
        self._graph.write(sample(_GRAPH_TYPE, to_cdr(message, _GRAPH_TYPE)))

    def _check(self) -> None:
        for subscription in self._subscriptions:
            subscription.check()
        for publisher in self._publishers:
            publisher.check()

    def _set_time(self, message: Any) -> None:
        self._sim_ns = int(message.clock.sec) * NS + int(message.clock.nanosec)

    def _endpoints(self, reader: BuiltinDataReader, topic: str | None) -> list[Endpoint]:
        found = []
        alive = ReadCondition(reader, SampleState.Any | ViewState.Any | InstanceState.Alive)
        for seen in reader.read(N=_MOST_ENDPOINTS, condition=alive):
            if seen.topic_name is None or not seen.topic_name.startswith("rt/"):
                continue
            name, msgtype = seen.topic_name[2:], message_type(seen.type_name)
            if msgtype is not None and topic in (None, name):
                found.append(Endpoint(name, msgtype, seen.qos))
        return found


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


_configured: dict[int, Domain] = {}
"""Domains of this process; a domain is shut down with the last reference to it."""


def _configure(number: int) -> None:
    """Set up a domain in this process, unless somebody else has done so."""
    if number in _configured:
        return
    users = os.environ.get("CYCLONEDDS_URI", "")
    try:
        _configured[number] = Domain(number, f"{LARGE_MESSAGES},{users}".rstrip(","))
    except DDSException as error:
        if error.code != DDSException.DDS_RETCODE_PRECONDITION_NOT_MET:
            raise


def domain_from_environment() -> int:
    """The domain of `ROS_DOMAIN_ID`, 0 if that is not set.

    Raises:
        ParameterError: it is no number of a domain.
    """
    text = os.environ.get("ROS_DOMAIN_ID", "").strip() or "0"
    if not text.isdecimal() or int(text) > MAX_DOMAIN:
        raise ParameterError(f"ROS_DOMAIN_ID must be 0 to {MAX_DOMAIN}, got {printable(text)}")
    return int(text)
