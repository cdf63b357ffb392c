"""Subscriptions of rclpy that say why they hear nothing, and sensors at the quality they offer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rcl_interfaces.msg import ParameterDescriptor
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSCompatibility,
    QoSPolicyKind,
    QoSProfile,
    ReliabilityPolicy,
    qos_check_compatible,
)
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription
from rclpy.timer import Timer
from rosidl_runtime_py.utilities import get_message

from mixformerv2_ros.errors import ParameterError

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks

SENSOR_DEPTH = 5
"""Messages that may wait in the middleware; nodes take them out at once."""
_GRAPH_S = 1.0
"""Time after which a publisher that was heard of is listed with its qualities."""
_OVERRIDABLE = (QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH)


def reliable(depth: int = 10) -> QoSProfile:
    """Reliable, volatile."""
    return _profile(ReliabilityPolicy.RELIABLE, depth)


def describe(qos: QoSProfile) -> str:
    """Reliability and durability in words, such as `best effort, volatile`."""
    words = (qos.reliability.name, qos.durability.name)
    return ", ".join(word.lower().replace("_", " ") for word in words)


def subscribe(
    node: Node, topic: str, msgtype: str, callback: Callable[[Any], None], qos: QoSProfile
) -> Subscription:
    """Subscribe; `qos_overrides` are honoured, and a publisher that does not fit is named once."""
    kinds = (*_OVERRIDABLE, QoSPolicyKind.RELIABILITY)
    return _subscribe(node, topic, msgtype, callback, qos, kinds, _explainer(node, topic, qos))


class SensorSubscription:
    """A subscription to a sensor, which can follow the quality of its publishers.

    With `auto` it begins reliable, so that nothing is lost, and becomes best effort when a
    publisher that is no better appears, so that every publisher is heard. `follow` is to be called
    now and then.
    """

    def __init__(
        self, node: Node, topic: str, msgtype: str, callback: Callable[[Any], None], quality: str
    ) -> None:
        """Subscribe.

        Args:
            node: The node.
            topic: Full name of the topic.
            msgtype: Type of its messages.
            callback: Gets the messages.
            quality: `auto`, `sensor_data` or `reliable`; `qos_overrides` win over it.

        Raises:
            ParameterError: `qos_overrides` name a reliability that there is not.
        """
        self._node = node
        self._topic = topic
        self._source = (msgtype, callback)
        override = _override(node, topic)
        self._auto = quality == "auto" and override is None
        best_effort = quality == "sensor_data" and override is None
        self._open(
            ReliabilityPolicy.BEST_EFFORT if best_effort else override or ReliabilityPolicy.RELIABLE
        )

    def follow(self) -> None:
        """Look at the publishers, and change the reliability if that serves them better."""
        if not self._auto:
            return
        offers = [
            info.qos_profile.reliability
            for info in self._node.get_publishers_info_by_topic(self._topic)
        ]
        wanted = ReliabilityPolicy.RELIABLE
        if ReliabilityPolicy.BEST_EFFORT in offers:
            wanted = ReliabilityPolicy.BEST_EFFORT
        if offers and wanted is not self._reliability:
            self.close()
            self._open(wanted)

    def close(self) -> None:
        """Leave the topic."""
        self._node.destroy_subscription(self._subscription)

    def _open(self, reliability: ReliabilityPolicy) -> None:
        self._reliability = reliability
        qos = _profile(reliability, SENSOR_DEPTH)
        explain = _explainer(self._node, self._topic, qos)
        self._subscription = _subscribe(
            self._node, self._topic, *self._source, qos, _OVERRIDABLE,
            # A mismatch that will be followed is nothing to warn of.
            (lambda _: None) if self._auto else explain,
        )  # fmt: skip


def _subscribe(
    node: Node,
    topic: str,
    msgtype: str,
    callback: Callable[[Any], None],
    qos: QoSProfile,
    overridable: tuple[QoSPolicyKind, ...],
    on_mismatch: Callable[[Any], None],
) -> Subscription:
    return node.create_subscription(
        get_message(msgtype),
        topic,
        callback,
        qos,
        event_callbacks=SubscriptionEventCallbacks(
            incompatible_qos=on_mismatch, use_default_callbacks=False
        ),
        qos_overriding_options=QoSOverridingOptions(overridable),
    )


def _explainer(node: Node, topic: str, qos: QoSProfile) -> Callable[[Any], None]:
    """Warns of publishers that do not fit, a moment after the event: the graph knows them then."""
    warned: set[str] = set()
    clock = Clock(clock_type=ClockType.STEADY_TIME)

    def explain_later(_: Any) -> None:
        timer: Timer = node.create_timer(_GRAPH_S, lambda: explain(timer), clock=clock)

    def explain(timer: Timer) -> None:
        node.destroy_timer(timer)
        offered = {
            describe(info.qos_profile)
            for info in node.get_publishers_info_by_topic(node.resolve_topic_name(topic))
            if qos_check_compatible(info.qos_profile, qos)[0] == QoSCompatibility.ERROR
        }
        text = (
            f"a publisher of {topic} offers {' or '.join(sorted(offered)) or 'something else'}, "
            f"but the subscription asks for {describe(qos)}: it gets no messages from it"
        )
        if text not in warned:
            warned.add(text)
            node.get_logger().warning(text)

    return explain_later


def _override(node: Node, topic: str) -> ReliabilityPolicy | None:
    """The reliability that `qos_overrides` ask for.

    rclpy would declare this parameter with the first reliability as its default, and so hold on to
    that for ever.
    """
    name = f"qos_overrides.{topic}.subscription.reliability"
    if not node.has_parameter(name):
        text = (
            f"{' or '.join(_RELIABILITIES)}; {_UNSET} means what the parameter for this topic says"
        )
        node.declare_parameter(name, _UNSET, ParameterDescriptor(description=text, read_only=True))
    value = node.get_parameter(name).value
    if value == _UNSET:
        return None
    if value not in _RELIABILITIES:
        known = " | ".join((_UNSET, *_RELIABILITIES))
        raise ParameterError(f"{name} must be {known}, got {value!r}")
    return _RELIABILITIES[value]


def _profile(reliability: ReliabilityPolicy, depth: int) -> QoSProfile:
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=reliability,
        durability=DurabilityPolicy.VOLATILE,
    )


_UNSET = "default"
_RELIABILITIES = {
    "reliable": ReliabilityPolicy.RELIABLE,
    "best_effort": ReliabilityPolicy.BEST_EFFORT,
}
