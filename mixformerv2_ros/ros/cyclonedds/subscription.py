"""A subscription on DDS, whose reliability can follow that of the publishers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cyclonedds.core import InstanceState, Policy, Qos, ReadCondition, SampleState, ViewState
from cyclonedds.internal import InvalidSample
from cyclonedds.sub import DataReader

from mixformerv2_ros.errors import MiddlewareError
from mixformerv2_ros.ros.cyclonedds.participant import Participant
from mixformerv2_ros.ros.cyclonedds.qos_profiles import endpoint_qos, make_qos, profile_of
from mixformerv2_ros.ros.cyclonedds.types import from_cdr
from mixformerv2_ros.ros.messages import Level
from mixformerv2_ros.ros.qos import (
    QosProfile,
    Reliability,
    choose_reliability,
    compatible,
    incompatible_publisher,
)
from mixformerv2_ros.ros.topic_checks import Requested, type_mismatch

_MAX_SAMPLES = 64
_MAX_WARNINGS = 100
_NONE_SEEN: tuple[int, int, int] = (0, 0, 0)
_RELIABILITY_POLICY_ID = 11
"""RELIABILITY_QOS_POLICY_ID of the DDS specification."""


class Subscription:
    """Receives the messages of one topic.

    With `auto` its reliability follows the publishers, see `qos.choose_reliability`. A change makes
    a new entity and may cost messages, which a best-effort publisher does not promise anyway.

    Attributes:
        topic: Full name of the topic.
        msgtype: Type of the messages.
        reader: The DDS entity.
    """

    def __init__(
        self,
        participant: Participant,
        topic: str,
        msgtype: str,
        callback: Callable[[Any], None],
        qos: Qos,
        auto: bool,
        on_reopened: Callable[[], None],
        on_lost: Callable[[int], None] | None = None,
    ) -> None:
        """Create the subscription; see `Node.create_subscription`.

        Args:
            participant: Where to create it.
            topic: Full name of the topic.
            msgtype: Type of its messages.
            callback: Gets the messages.
            qos: What to request, with `auto` at first.
            auto: Whether to follow the publishers' reliability.
            on_reopened: Called after `reader` has been replaced.
            on_lost: Gets the number of messages that were lost since the last check.
        """
        self.topic = topic
        self.msgtype = msgtype
        self._participant = participant
        self._callback = callback
        self._auto = auto
        self._on_reopened = on_reopened
        self._on_lost = on_lost
        self._lost = 0
        self._depth = qos[Policy.History].depth
        self._warned: set[str] = set()
        self._seen = _NONE_SEEN
        self._open(qos)

    @property
    def requested(self) -> Requested:
        """What it requests now."""
        return Requested(self.topic, self.msgtype, self._profile)

    def take(self) -> None:
        """Call back with the messages received since the last call."""
        for taken in self.reader.take(N=_MAX_SAMPLES):
            if isinstance(taken, InvalidSample):
                continue
            try:
                message = from_cdr(taken.cdr, self.msgtype)
            except MiddlewareError as error:
                self._warn(f"malformed message on {self.topic}: {error}")
            else:
                self._callback(message)

    def check_qos(self) -> None:
        """Follow the publishers' reliability, or log those that are incompatible; count losses.

        To be called periodically; it costs little while no publisher comes or goes.
        """
        if self._on_lost is not None:
            lost = int(self.reader.get_sample_lost_status().total_count)
            if lost > self._lost:
                self._on_lost(lost - self._lost)
                self._lost = lost
        mismatch = self.reader.get_requested_incompatible_qos_status()
        matched = self.reader.get_subscription_matched_status()
        seen = (int(mismatch.total_count), int(matched.total_count), int(matched.current_count))
        if seen == self._seen:
            return
        mismatched = seen[0] > self._seen[0]
        publishers = self._participant.publishers_of(self.topic)
        offers = [profile_of(e.qos) for e in publishers if e.msgtype == self.msgtype]
        if self._auto:
            reliabilities = [offer.reliability for offer in offers]
            # A publisher may be counted before it is listed.
            if mismatched and mismatch.last_policy_id == _RELIABILITY_POLICY_ID:
                reliabilities.append(Reliability.BEST_EFFORT)
            elif len(offers) < matched.current_count:
                return
            chosen = choose_reliability(reliabilities, self._profile.reliability)
            if chosen is not self._profile.reliability:
                self._reopen(QosProfile(chosen, self._profile.durability))
                return
        self._seen = seen
        if not mismatched:
            return
        # Cyclone counts publishers of another type among those with another QoS.
        others = type_mismatch(self.topic, (e.msgtype for e in publishers), self.msgtype)
        if others:
            self._warn(others)
        if not others or not all(compatible(offer, self._profile) for offer in offers):
            self._warn(incompatible_publisher(self.topic, offers, self._profile))

    def close(self) -> None:
        """Delete the subscription."""
        self._participant.waitset.detach(self._condition)
        del self._condition
        del self.reader

    def _open(self, qos: Qos) -> None:
        self._profile = profile_of(qos)
        self._seen = _NONE_SEEN
        self._lost = 0
        self.reader: DataReader[Any] = DataReader(
            self._participant.subscriber,
            self._participant.ros_topic(self.topic, self.msgtype),
            qos=endpoint_qos(qos, self.msgtype),
        )
        self._condition = ReadCondition(
            self.reader, SampleState.NotRead | ViewState.Any | InstanceState.Any
        )
        self._participant.waitset.attach(self._condition)

    def _reopen(self, profile: QosProfile) -> None:
        self.take()
        self.close()
        self._open(make_qos(profile, self._depth))
        self._on_reopened()

    def _warn(self, text: str) -> None:
        if text not in self._warned and len(self._warned) < _MAX_WARNINGS:
            self._warned.add(text)
            self._participant.log(Level.WARN, text)
