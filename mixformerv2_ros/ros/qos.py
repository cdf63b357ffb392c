"""Quality of service for both middlewares: compatibility, choice of reliability, log lines."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import Enum


class Reliability(Enum):
    """Reliability policy of DDS."""

    RELIABLE = "reliable"
    BEST_EFFORT = "best effort"


class Durability(Enum):
    """Durability policies of DDS that ROS 2 uses."""

    VOLATILE = "volatile"
    TRANSIENT_LOCAL = "transient local"


AUTO, SENSOR_DATA, RELIABLE = "auto", "sensor_data", "reliable"
QOS_CHOICES = (AUTO, SENSOR_DATA, RELIABLE)
"""Values of the parameters `image_qos` and `range_qos`."""

SENSOR_HISTORY_DEPTH = 5
"""History depth of subscriptions to images and other sensor data; they are taken at once."""

HISTORY_DEPTH = 10
"""History depth of all other publishers and subscriptions."""


@dataclass(frozen=True)
class QosProfile:
    """The policies that usually decide whether a publisher and a subscription match.

    Attributes:
        reliability, durability: As offered by a publisher, or requested by a subscription.
    """

    reliability: Reliability
    durability: Durability = Durability.VOLATILE

    def __str__(self) -> str:
        """Such as `best effort, volatile`."""
        return f"{self.reliability.value}, {self.durability.value}"


def compatible(offered: QosProfile, requested: QosProfile) -> bool:
    """Whether a publisher that offers a profile matches a subscription that requests another."""
    reliable = offered.reliability is Reliability.RELIABLE or (
        requested.reliability is Reliability.BEST_EFFORT
    )
    durable = offered.durability is Durability.TRANSIENT_LOCAL or (
        requested.durability is Durability.VOLATILE
    )
    return reliable and durable


def initial_reliability(choice: str) -> Reliability:
    """Reliability of a new subscription, before its publishers are known.

    Args:
        choice: One of `QOS_CHOICES`. `auto` starts reliable: a reliable publisher's messages are
            not to be lost, while a best-effort publisher promises nothing.
    """
    return Reliability.BEST_EFFORT if choice == SENSOR_DATA else Reliability.RELIABLE


def choose_reliability(offers: Collection[Reliability], current: Reliability) -> Reliability:
    """Reliability of a subscription with `auto`, given the publishers of its topic.

    Args:
        offers: What the publishers offer.
        current: What the subscription requests now.

    Returns:
        Reliable if all publishers are, else best effort, which matches all of them; the current
        one while there is no publisher.
    """
    if not offers:
        return current
    if Reliability.BEST_EFFORT in offers:
        return Reliability.BEST_EFFORT
    return Reliability.RELIABLE


def incompatible_publisher(topic: str, offers: Iterable[QosProfile], requested: QosProfile) -> str:
    """Log line for a subscription: a publisher is incompatible with it.

    Args:
        topic: Name of the topic.
        offers: Profiles of all its publishers.
        requested: QosProfile of the subscription.
    """
    offered = _list(offer for offer in offers if not compatible(offer, requested))
    return (
        f"incompatible QoS on {topic}: a publisher offers {offered}, this subscription requests "
        f"{requested}; no messages will be received from it"
    )


def incompatible_subscription(
    topic: str, requests: Iterable[QosProfile], offered: QosProfile
) -> str:
    """Log line for a publisher: a subscription is incompatible with it.

    Args:
        topic: Name of the topic.
        requests: Profiles of all its subscriptions.
        offered: QosProfile of the publisher.
    """
    requested = _list(request for request in requests if not compatible(offered, request))
    return (
        f"incompatible QoS on {topic}: a subscription requests {requested}, this publisher offers "
        f"{offered}; no messages will be sent to it"
    )


def _list(profiles: Iterable[QosProfile]) -> str:
    texts = sorted({str(profile) for profile in profiles})
    # What else makes endpoints incompatible: deadline, liveliness, ownership.
    return " or ".join(texts) or "another deadline or liveliness"
