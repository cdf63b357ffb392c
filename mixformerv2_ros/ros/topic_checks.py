"""Why no message comes on a topic: no publisher, another type, or incompatible QoS."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from mixformerv2_ros.ros.qos import QosProfile, compatible, incompatible_publisher
from mixformerv2_ros.ros.topics import COMPRESSED, IMAGE, IMAGE_TYPES, IMAGES, RAW
from mixformerv2_ros.text import printable, some

MAX_TOPICS = 10
"""Number of image topics that a log line names."""


BARE_DDS = "_CREATED_BY_BARE_DDS_APP_"
"""What ROS calls the node of a publisher that no node lists."""


@dataclass(frozen=True)
class Publication:
    """A publisher of a topic, as discovered.

    Attributes:
        node: Full name of its node.
        msgtype: Type of its messages.
        qos: What it offers.
    """

    node: str
    msgtype: str
    qos: QosProfile

    @property
    def publisher(self) -> str:
        """Its node, in words for people."""
        return "a program that is no ROS node" if BARE_DDS in self.node else self.node


@dataclass(frozen=True)
class Requested:
    """What a subscription requests.

    Attributes:
        topic: Full name of the topic.
        msgtype: Type of the messages.
        qos: QoS.
    """

    topic: str
    msgtype: str
    qos: QosProfile


def type_mismatch(topic: str, published: Iterable[str], msgtype: str) -> str:
    """Log line for a subscription whose topic has publishers of other types; empty if none has.

    Args:
        topic: Full name of the topic.
        published: Types of its publishers.
        msgtype: Type of the subscription.
    """
    others = sorted(set(published) - {msgtype})
    if not others:
        return ""
    return (
        f"type mismatch on {printable(topic, 256)}: it is published as {some(others)}, this node "
        f"subscribes to {msgtype}; no messages will be received from that publisher"
    )


def subscribed_type_mismatch(topic: str, subscribed: Iterable[str], msgtype: str) -> str:
    """Log line for a publisher whose topic has subscriptions of other types; empty if none has.

    Args:
        topic: Full name of the topic.
        subscribed: Types of its subscriptions.
        msgtype: Type of the publisher.
    """
    others = sorted(set(subscribed) - {msgtype})
    if not others:
        return ""
    return (
        f"type mismatch on {printable(topic, 256)}: a subscription is to {some(others)}, this node "
        f"publishes {msgtype}; no messages will be sent to it"
    )


def no_image_reason(
    requested: Requested, publications: Collection[Publication], image_topics: Mapping[str, str]
) -> str:
    """Why a subscription to images receives none, and what to change.

    Args:
        requested: The subscription.
        publications: Publishers of its topic.
        image_topics: Types of all published topics of images, by name.
    """
    topic = requested.topic
    if not publications:
        found = [f"{name} ({kind})" for name, kind in sorted(image_topics.items())]
        known = f"image topics: {some(found, MAX_TOPICS)}" if found else "no image topics found"
        return f"no publisher on {topic}; {known}{_other_transport(topic, image_topics)}"
    published = {each.msgtype for each in publications}
    hint = "" if requested.msgtype in published else _remapping(topic, published)
    return no_message_reason(requested, publications) + hint


def no_message_reason(requested: Requested, publications: Collection[Publication]) -> str:
    """Why a subscription receives nothing.

    Args:
        requested: The subscription.
        publications: Publishers of its topic.
    """
    topic = requested.topic
    if not publications:
        return f"no publisher on {topic}"
    same_type = [each for each in publications if each.msgtype == requested.msgtype]
    if not same_type:
        return type_mismatch(topic, (each.msgtype for each in publications), requested.msgtype)
    if not any(compatible(each.qos, requested.qos) for each in same_type):
        return incompatible_publisher(topic, (each.qos for each in same_type), requested.qos)
    return f"no message from {some(sorted({each.publisher for each in same_type}))}"


def _other_transport(topic: str, image_topics: Mapping[str, str]) -> str:
    """Advice where the same images are published with the other transport."""
    suffix = f"/{COMPRESSED}"
    twin, transport = (
        (topic.removesuffix(suffix), RAW)
        if topic.endswith(suffix)
        else (topic + suffix, COMPRESSED)
    )
    if image_topics.get(twin) != IMAGES[transport][1]:
        return ""
    return f"; for {twin} set image_transport:={transport}"


def _remapping(topic: str, published: Collection[str]) -> str:
    """Parameter and remapping rule with which a topic of images of another type is received."""
    for transport, (name, msgtype) in IMAGES.items():
        if msgtype in published:
            base, suffix = topic, f"/{COMPRESSED}"
            if transport == COMPRESSED and topic.endswith(suffix):
                name, base = IMAGE, topic.removesuffix(suffix)
            return f"; set image_transport:={transport} and remap {name}:={base}"
    return f"; images are {' or '.join(IMAGE_TYPES)}"
