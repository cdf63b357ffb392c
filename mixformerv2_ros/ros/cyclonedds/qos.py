"""Qualities of service by the names that ROS 2 gives them."""

from __future__ import annotations

from cyclonedds.core import Policy, Qos
from cyclonedds.util import duration

from mixformerv2_ros.ros.cyclonedds.types import type_hash

BLOCKING_NS = duration(milliseconds=100)
"""Longest time that a reliable publisher waits for a subscriber that does not keep up."""

_BEST_EFFORT = Policy.Reliability.BestEffort
_RELIABLE = Policy.Reliability.Reliable(max_blocking_time=BLOCKING_NS)


def sensor_data(depth: int = 5) -> Qos:
    """Best effort, volatile: what fits every publisher."""
    return Qos(_BEST_EFFORT, Policy.Durability.Volatile, Policy.History.KeepLast(depth))


def reliable(depth: int = 10) -> Qos:
    """Reliable, volatile."""
    return Qos(_RELIABLE, Policy.Durability.Volatile, Policy.History.KeepLast(depth))


def latched(depth: int = 1) -> Qos:
    """Reliable, transient local: who comes later gets the last one too."""
    return Qos(_RELIABLE, Policy.Durability.TransientLocal, Policy.History.KeepLast(depth))


def endpoint(qos: Qos, msgtype: str) -> Qos:
    """Qualities of an endpoint with what ROS nodes look for: type hash and encoding."""
    return Qos(
        Policy.Userdata(f"typehash={type_hash(msgtype)};".encode()),
        Policy.DataRepresentation(use_cdrv0_representation=True),
        base=qos,
    )


def is_reliable(qos: Qos) -> bool:
    """Whether a publisher or subscription with these qualities is reliable."""
    return isinstance(qos[Policy.Reliability], Policy.Reliability.Reliable)


def fits(offered: Qos, requested: Qos) -> bool:
    """Whether a subscription that requests this hears a publisher that offers that."""
    volatile = Policy.Durability.Volatile
    return (is_reliable(offered) or not is_reliable(requested)) and (
        offered[Policy.Durability] != volatile or requested[Policy.Durability] == volatile
    )


def describe(qos: Qos) -> str:
    """Reliability and durability in words, such as `best effort, volatile`."""
    volatile = qos[Policy.Durability] == Policy.Durability.Volatile
    held = "volatile" if volatile else "transient local"
    return f"{'reliable' if is_reliable(qos) else 'best effort'}, {held}"
