"""A participant of a DDS domain: its entities, its topics, and the endpoints that it discovers."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

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
    WaitSet,
)
from cyclonedds.domain import Domain, DomainParticipant
from cyclonedds.pub import Publisher as DdsPublisher
from cyclonedds.sub import Subscriber
from cyclonedds.topic import Topic

from mixformerv2_ros.errors import MiddlewareError
from mixformerv2_ros.ros.cyclonedds.network import configuration, domain_id
from mixformerv2_ros.ros.cyclonedds.types import dds_type, message_type
from mixformerv2_ros.ros.messages import Level
from mixformerv2_ros.ros.receive_buffer import CYCLONEDDS_URI
from mixformerv2_ros.text import printable

_MAX_ENDPOINTS = 4096

_STDERR = 2
_MAX_OUTPUT = 10_000
_PREFIX = re.compile(r"^[0-9.]+ \[[0-9]*\] +[^ ]+: ")
"""Time, domain and program before the text of a line of Cyclone."""

Log = Callable[[Level, str], None]


@dataclass(frozen=True)
class Endpoint:
    """A publisher or subscription in the domain.

    Attributes:
        topic: Full name of the topic.
        msgtype: Type of its messages, such as `sensor_msgs/msg/Image`; as on the wire if it is not
            that of a ROS message.
        qos: What it offers or requests.
        guid: Its identity in the domain, 16 bytes.
    """

    topic: str
    msgtype: str
    qos: Qos
    guid: bytes


class Participant:
    """The DDS entities that a node is made of.

    Attributes:
        log: Writes a line to the node's log.
        participant, publisher, subscriber, waitset: DDS entities.
    """

    def __init__(self, log: Log, domain: int | None = None) -> None:
        """Join a domain.

        Args:
            log: Writes a line to the node's log.
            domain: The domain; None takes `ROS_DOMAIN_ID`, 0 if that is not set.

        Raises:
            MiddlewareError: the domain cannot be joined.
            ParameterError: `ROS_DOMAIN_ID` or another variable of ROS has a wrong value.
        """
        self.log = log
        self._topics: dict[tuple[str, str], Topic[Any]] = {}
        number = domain_id() if domain is None else domain
        settings = configuration()
        output: list[str] = []
        try:
            with _captured(output):
                _configure(number, settings)
                self.participant = DomainParticipant(
                    number, qos=Qos(Policy.Userdata(b"enclave=/;"))
                )
            self.publisher = DdsPublisher(self.participant)
            self.subscriber = Subscriber(self.participant)
            self.waitset = WaitSet(self.participant)
            self._publishers = _Discovery(self.participant, BuiltinTopicDcpsPublication)
            self._subscriptions = _Discovery(self.participant, BuiltinTopicDcpsSubscription)
        except DDSException as error:
            reason = output[0] if output else printable(error)
            raise MiddlewareError(
                f"cannot join DDS domain {number}: {reason}; {CYCLONEDDS_URI} is "
                f"{printable(os.environ.get(CYCLONEDDS_URI) or 'not set')}"
            ) from error
        for line in output:
            log(Level.WARN, line)

    def close(self) -> None:
        """Leave the domain; all publishers and subscriptions must be closed before."""
        self._topics.clear()
        # DDS entities are deleted with their last reference, children before parents.
        del self._publishers, self._subscriptions
        del self.waitset, self.publisher, self.subscriber, self.participant

    def topic(self, name: str, msgtype: str) -> Topic[Any]:
        """The DDS topic of a name on the wire, such as `rt/image`.

        Raises:
            MiddlewareError: the type is not known, or the topic cannot be created.
        """
        key = (name, msgtype)
        if key not in self._topics:
            try:
                self._topics[key] = Topic(self.participant, name, dds_type(msgtype))
            except DDSException as error:
                raise MiddlewareError(
                    f"cannot create topic {name} of type {msgtype}: {printable(error)}"
                ) from error
        return self._topics[key]

    def ros_topic(self, name: str, msgtype: str) -> Topic[Any]:
        """The DDS topic of a ROS topic's full name; raises as `topic` does."""
        return self.topic(f"rt{name}", msgtype)

    def publishers_of(self, topic: str) -> list[Endpoint]:
        """Publishers of a topic in the domain, as far as discovered."""
        return [e for e in self._publishers.endpoints() if e.topic == topic]

    def subscriptions_of(self, topic: str) -> list[Endpoint]:
        """Subscriptions to a topic in the domain, as far as discovered."""
        return [e for e in self._subscriptions.endpoints() if e.topic == topic]

    def published_topics(self) -> dict[str, str]:
        """Names and types of the topics that have publishers in the domain."""
        return {e.topic: e.msgtype for e in self._publishers.endpoints()}


_configured: dict[int, Domain] = {}
"""Domains of this process; a domain is shut down with the last reference to it."""


def _configure(number: int, settings: str) -> None:
    """Configure a domain in this process, unless that has been done already."""
    if number in _configured:
        return
    try:
        _configured[number] = Domain(number, settings)
    except DDSException as error:
        if error.code != DDSException.DDS_RETCODE_PRECONDITION_NOT_MET:
            raise


_joining = threading.Lock()
"""Two threads that redirected stderr at once might leave it redirected."""


@contextmanager
def _captured(output: list[str]) -> Iterator[None]:
    """Append the lines that Cyclone writes to stderr, without time and name of the program."""
    with _joining:
        sys.stderr.flush()
        yield from _captured_alone(output)


def _captured_alone(output: list[str]) -> Iterator[None]:
    stderr = os.dup(_STDERR)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), _STDERR)
        try:
            yield
        finally:
            os.dup2(stderr, _STDERR)
            os.close(stderr)
            file.seek(0)
            lines = file.read(_MAX_OUTPUT).decode(errors="replace").splitlines()
            output.extend(printable(_PREFIX.sub("", x), 300) for x in lines if _PREFIX.match(x))
            # Lines of other threads, which came meanwhile.
            sys.stderr.writelines(f"{line}\n" for line in lines if not _PREFIX.match(line))
            sys.stderr.flush()


class _Discovery:
    """The endpoints of one kind that are there, kept from one look to the next.

    Every sample that Cyclone's Python reads of a built-in topic leaves about 100 bytes behind (seen
    with 11.0.1), so that each is taken once, when an endpoint comes, changes or goes, and not read
    with every look.
    """

    def __init__(self, participant: DomainParticipant, topic: Any) -> None:
        self._reader = BuiltinDataReader(participant, topic)
        self._found: dict[bytes, Endpoint] = {}
        self._lock = threading.Lock()

    def endpoints(self) -> list[Endpoint]:
        """Those of ROS topics that are there now; any thread may ask."""
        with self._lock:
            for sample in self._reader.take(N=_MAX_ENDPOINTS):
                self._take(sample)
            return list(self._found.values())

    def _take(self, sample: Any) -> None:
        guid = sample.key.bytes
        name = sample.topic_name
        if sample.sample_info.instance_state != InstanceState.Alive:
            self._found.pop(guid, None)
        elif name is not None and name.startswith("rt/"):
            # Programs without ROS name their types as they like.
            msgtype = message_type(sample.type_name) or sample.type_name
            if guid in self._found or len(self._found) < _MAX_ENDPOINTS:
                self._found[guid] = Endpoint(name[2:], msgtype, sample.qos, guid)
