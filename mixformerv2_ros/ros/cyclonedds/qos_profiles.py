"""QoS profiles of Cyclone DDS by the names that ROS 2 gives them."""

from __future__ import annotations

from cyclonedds.core import Policy, Qos
from cyclonedds.util import duration

from mixformerv2_ros.ros.cyclonedds.types import type_hash
from mixformerv2_ros.ros.qos import (
    HISTORY_DEPTH,
    SENSOR_HISTORY_DEPTH,
    Durability,
    QosProfile,
    Reliability,
)

BLOCKING_NS = duration(milliseconds=100)
"""Maximum time that a reliable publisher waits for a subscription that does not keep up."""

_BEST_EFFORT = Policy.Reliability.BestEffort
_RELIABLE = Policy.Reliability.Reliable(max_blocking_time=BLOCKING_NS)


def sensor_data(depth: int = SENSOR_HISTORY_DEPTH) -> Qos:
    """Best effort, volatile."""
    return make_qos(QosProfile(Reliability.BEST_EFFORT), depth)


def reliable(depth: int = HISTORY_DEPTH) -> Qos:
    """Reliable, volatile."""
    return make_qos(QosProfile(Reliability.RELIABLE), depth)


def transient_local(depth: int = 1) -> Qos:
    """Reliable, transient local: late subscriptions get the last messages too."""
    return make_qos(QosProfile(Reliability.RELIABLE, Durability.TRANSIENT_LOCAL), depth)


def make_qos(profile: QosProfile, depth: int) -> Qos:
    """Qos of a profile with a history of the last `depth` messages."""
    return Qos(
        _RELIABLE if profile.reliability is Reliability.RELIABLE else _BEST_EFFORT,
        Policy.Durability.TransientLocal
        if profile.durability is Durability.TRANSIENT_LOCAL
        else Policy.Durability.Volatile,
        Policy.History.KeepLast(depth),
    )


def profile_of(qos: Qos) -> QosProfile:
    """The profile of an endpoint's Qos."""
    return QosProfile(
        Reliability.RELIABLE
        if isinstance(qos[Policy.Reliability], Policy.Reliability.Reliable)
        else Reliability.BEST_EFFORT,
        Durability.VOLATILE
        if qos[Policy.Durability] == Policy.Durability.Volatile
        else Durability.TRANSIENT_LOCAL,
    )


def endpoint_qos(qos: Qos, msgtype: str) -> Qos:
    """Qos of an endpoint with what ROS nodes look for: type hash and encoding."""
    return Qos(
        Policy.Userdata(f"typehash={type_hash(msgtype)};".encode()),
        Policy.DataRepresentation(use_cdrv0_representation=True),
        base=qos,
    )
