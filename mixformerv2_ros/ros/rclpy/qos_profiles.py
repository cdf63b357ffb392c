"""QoS profiles of rclpy."""

from __future__ import annotations

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from mixformerv2_ros.ros.qos import HISTORY_DEPTH, Durability, QosProfile, Reliability


def reliable(depth: int = HISTORY_DEPTH) -> QoSProfile:
    """Reliable, volatile."""
    return make_qos(QosProfile(Reliability.RELIABLE), depth)


def make_qos(profile: QosProfile, depth: int) -> QoSProfile:
    """QoSProfile of a profile with a history of the last `depth` messages."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=ReliabilityPolicy[profile.reliability.name],
        durability=DurabilityPolicy[profile.durability.name],
    )


def profile_of(qos: QoSProfile) -> QosProfile:
    """The profile of an endpoint's QoS, as discovered."""
    return QosProfile(
        Reliability.BEST_EFFORT
        if qos.reliability == ReliabilityPolicy.BEST_EFFORT
        else Reliability.RELIABLE,
        Durability.TRANSIENT_LOCAL
        if qos.durability == DurabilityPolicy.TRANSIENT_LOCAL
        else Durability.VOLATILE,
    )
