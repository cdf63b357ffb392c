"""A publisher on DDS."""

from __future__ import annotations

import contextlib
from typing import Any

from cyclonedds.core import DDSException, Qos
from cyclonedds.pub import DataWriter

from mixformerv2_ros.errors import MiddlewareError
from mixformerv2_ros.ros.cyclonedds.participant import Participant
from mixformerv2_ros.ros.cyclonedds.qos_profiles import endpoint_qos, profile_of
from mixformerv2_ros.ros.cyclonedds.types import sample, to_cdr
from mixformerv2_ros.ros.messages import Level
from mixformerv2_ros.ros.qos import compatible, incompatible_subscription
from mixformerv2_ros.ros.topic_checks import subscribed_type_mismatch
from mixformerv2_ros.text import printable
from mixformerv2_ros.tracking.frame import NS


class Publisher:
    """Publishes messages of one type on one topic.

    Attributes:
        topic: Full name of the topic.
        msgtype: Type of the messages.
        writer: The DDS entity.
    """

    def __init__(self, participant: Participant, topic: str, msgtype: str, qos: Qos) -> None:
        """Create the publisher; see `Node.create_publisher`."""
        self.topic = topic
        self.msgtype = msgtype
        self._participant = participant
        self._qos = qos
        self._incompatible = 0
        self.writer: DataWriter[Any] = DataWriter(
            participant.publisher,
            participant.ros_topic(topic, msgtype),
            qos=endpoint_qos(qos, msgtype),
        )

    @property
    def subscription_count(self) -> int:
        """Number of matched subscriptions."""
        return int(self.writer.get_publication_matched_status().current_count)

    def publish(self, message: Any) -> bool:
        """Publish a message; False if a reliable subscription did not keep up and it was dropped.

        Raises:
            MiddlewareError: DDS refuses it.
        """
        return self.publish_cdr(to_cdr(message, self.msgtype))

    def publish_cdr(self, cdr: bytes) -> bool:
        """Publish a serialized message; see `publish`."""
        try:
            self.writer.write(sample(self.msgtype, cdr))
        except DDSException as error:
            if error.code == DDSException.DDS_RETCODE_TIMEOUT:
                return False
            raise MiddlewareError(
                f"cannot publish message on {self.topic}: {printable(error.msg)}"
            ) from error
        return True

    def wait_for_all_acked(self) -> None:
        """Wait, for a second at most, until reliable subscriptions have received all messages."""
        # Where they do not answer in time, cyclonedds 11.0.1 trips over its own error handling.
        with contextlib.suppress(DDSException, AttributeError):
            self.writer.wait_for_acks(NS)

    def check_qos(self) -> None:
        """Log new subscriptions whose QoS is incompatible; to be called periodically."""
        count = self.writer.get_offered_incompatible_qos_status().total_count
        if count <= self._incompatible:
            return
        self._incompatible = count
        found = self._participant.subscriptions_of(self.topic)
        requests = [profile_of(e.qos) for e in found if e.msgtype == self.msgtype]
        offered, log = profile_of(self._qos), self._participant.log
        # Cyclone counts subscriptions of another type among those with another QoS.
        others = subscribed_type_mismatch(self.topic, (e.msgtype for e in found), self.msgtype)
        if others:
            log(Level.WARN, others)
        if not others or not all(compatible(offered, request) for request in requests):
            log(Level.WARN, incompatible_subscription(self.topic, requests, offered))

    def close(self) -> None:
        """Delete the publisher."""
        del self.writer
