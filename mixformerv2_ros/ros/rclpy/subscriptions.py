"""Subscriptions of rclpy that log incompatible publishers, and follow those of sensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rcl_interfaces.msg import ParameterDescriptor
from rclpy.callback_groups import CallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import QoSPolicyKind
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription
from rclpy.timer import Timer
from rosidl_runtime_py.utilities import get_message

from mixformerv2_ros.errors import MiddlewareError, ParameterError
from mixformerv2_ros.ros.image_cdr import READERS
from mixformerv2_ros.ros.live.log_throttle import LogThrottle
from mixformerv2_ros.ros.messages import Level
from mixformerv2_ros.ros.qos import (
    AUTO,
    SENSOR_HISTORY_DEPTH,
    QosProfile,
    Reliability,
    choose_reliability,
    incompatible_publisher,
    initial_reliability,
)
from mixformerv2_ros.ros.rclpy.qos_profiles import make_qos, profile_of, reliable
from mixformerv2_ros.ros.rclpy.receiver import Receiver
from mixformerv2_ros.ros.topic_checks import Publication, Requested, type_mismatch

try:
    from rclpy.event_handler import SubscriptionEventCallbacks, UnsupportedEventTypeError
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks, UnsupportedEventTypeError

_GRAPH_S = 1.0
"""Time after which an incompatible publisher is listed in the graph with its QoS."""
_OVERRIDABLE = (QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH)


def subscribe_reliably(
    node: Node,
    topic: str,
    msgtype: str,
    callback: Callable[[Any], None],
    group: CallbackGroup | None = None,
) -> Subscription:
    """Create a reliable subscription that logs incompatible publishers.

    `qos_overrides` apply.
    """
    kinds = (*_OVERRIDABLE, QoSPolicyKind.RELIABILITY)
    warn = _mismatch_logger(node, topic, msgtype, QosProfile(Reliability.RELIABLE))
    return _subscribe(node, topic, msgtype, callback, reliable(), kinds, warn, group=group)


def publications(node: Node, topic: str) -> list[Publication]:
    """The discovered publishers of a topic; `topic` is its full name."""
    return [
        Publication(
            f"{info.node_namespace.rstrip('/')}/{info.node_name}",
            info.topic_type,
            profile_of(info.qos_profile),
        )
        for info in node.get_publishers_info_by_topic(topic)
    ]


class TypeCheck:
    """Logs publishers whose type is not that of a subscription; call it periodically."""

    def __init__(self, node: Node, topic: str, msgtype: str) -> None:
        """Check from now on; `topic` is its full name."""
        self._node = node
        self._topic = topic
        self._msgtype = msgtype
        self._logged = ""

    def __call__(self) -> None:
        """Log the publishers of other types, unless the last call found the same."""
        types = [each.msgtype for each in publications(self._node, self._topic)]
        text = type_mismatch(self._topic, types, self._msgtype)
        if text and text != self._logged:
            self._node.get_logger().warning(text)
        self._logged = text


class SensorSubscription:
    """A subscription to sensor data, whose reliability can follow that of the publishers.

    See `qos.choose_reliability`. Call `follow` periodically.
    """

    def __init__(
        self,
        node: Node,
        topic: str,
        msgtype: str,
        callback: Callable[[Any], None],
        choice: str,
        on_lost: Callable[[int], None] | None = None,
        receiver: Receiver | None = None,
    ) -> None:
        """Create the subscription.

        Args:
            node: The node.
            topic: Full name of the topic.
            msgtype: Type of its messages.
            callback: Gets the messages.
            choice: One of `qos.QOS_CHOICES`; a reliability in `qos_overrides` takes precedence.
            on_lost: Gets the number of messages that the middleware has lost, whenever it does.
            receiver: Takes the messages; the node's executor where None.

        Raises:
            ParameterError: `qos_overrides` have an unknown reliability.
        """
        self._node = node
        self._receiver = receiver
        self._topic = topic
        self._source = (msgtype, callback)
        override = _override(node, topic)
        self._auto = choice == AUTO and override is None
        self._on_lost = on_lost
        self._open(override or initial_reliability(choice))

    @property
    def requested(self) -> Requested:
        """What it requests now."""
        return Requested(self._topic, self._source[0], QosProfile(self._reliability))

    def follow(self) -> None:
        """Change the reliability if the publishers require it."""
        if not self._auto:
            return
        found = publications(self._node, self._topic)
        offers = [e.qos.reliability for e in found if e.msgtype == self._source[0]]
        chosen = choose_reliability(offers, self._reliability)
        if chosen is not self._reliability:
            self.close()
            self._open(chosen)

    def close(self) -> None:
        """Destroy the subscription."""
        if self._receiver is not None:
            self._receiver.remove(self._subscription)
        self._node.destroy_subscription(self._subscription)

    def _open(self, reliability: Reliability) -> None:
        self._reliability = reliability
        profile = QosProfile(reliability)
        qos = make_qos(profile, SENSOR_HISTORY_DEPTH)
        warn = _mismatch_logger(self._node, self._topic, self._source[0], profile)
        # With auto, the next `follow` ends a mismatch.
        on_mismatch = (lambda _: None) if self._auto else warn
        receiver = self._receiver
        group = None if receiver is None else receiver.group
        self._subscription = _subscribe(
            self._node, self._topic, *self._source, qos, _OVERRIDABLE, on_mismatch, self._on_lost,
            group,
        )  # fmt: skip
        if receiver is not None:
            receiver.add(self._subscription, last=True)


def _subscribe(
    node: Node,
    topic: str,
    msgtype: str,
    callback: Callable[[Any], None],
    qos: Any,
    overridable: tuple[QoSPolicyKind, ...],
    on_mismatch: Callable[[Any], None],
    on_lost: Callable[[int], None] | None = None,
    group: CallbackGroup | None = None,
) -> Subscription:
    read = READERS.get(msgtype)
    if read is not None:
        callback = _reading(node, topic, read, callback)

    def create(**lost: Callable[[Any], None]) -> Subscription:
        return node.create_subscription(
            get_message(msgtype),
            topic,
            callback,
            qos,
            callback_group=group,
            raw=read is not None,
            event_callbacks=SubscriptionEventCallbacks(
                incompatible_qos=on_mismatch, use_default_callbacks=False, **lost
            ),
            qos_overriding_options=QoSOverridingOptions(overridable),
        )

    if on_lost is None:
        return create()
    try:
        return create(message_lost=lambda info: on_lost(int(info.total_count_change)))
    except UnsupportedEventTypeError:  # not every middleware counts them
        return create()


def _reading(
    node: Node, topic: str, read: Callable[[bytes], Any], callback: Callable[[Any], None]
) -> Callable[[bytes], None]:
    """A callback for serialized messages; it logs those that are malformed."""
    throttle = LogThrottle(lambda _, text: node.get_logger().warning(text))

    def receive(cdr: bytes) -> None:
        try:
            message = read(cdr)
        except MiddlewareError as error:
            throttle.once(Level.WARN, f"malformed message on {topic}: {error}")
        else:
            callback(message)

    return receive


def _mismatch_logger(
    node: Node, topic: str, msgtype: str, requested: QosProfile
) -> Callable[[Any], None]:
    """Logs incompatible publishers, a moment after the event: the graph lists them then."""
    logged: set[str] = set()
    clock = Clock(clock_type=ClockType.STEADY_TIME)

    def log_later(_: Any) -> None:
        timer: Timer = node.create_timer(_GRAPH_S, lambda: log(timer), clock=clock)

    def log(timer: Timer) -> None:
        node.destroy_timer(timer)
        found = publications(node, node.resolve_topic_name(topic))
        offers = [each.qos for each in found if each.msgtype == msgtype]
        if not offers:
            return  # all are of another type, which `TypeCheck` logs
        text = incompatible_publisher(topic, offers, requested)
        if text not in logged:
            logged.add(text)
            node.get_logger().warning(text)

    return log_later


def _override(node: Node, topic: str) -> Reliability | None:
    """The reliability in `qos_overrides`, if there is one.

    rclpy would declare this parameter with the first reliability as its default, and so keep that
    one for ever.
    """
    name = f"qos_overrides.{topic}.subscription.reliability"
    if not node.has_parameter(name):
        text = f"{' or '.join(_RELIABILITIES)}; {_UNSET}: as set by the parameter of this topic"
        node.declare_parameter(name, _UNSET, ParameterDescriptor(description=text, read_only=True))
    value = node.get_parameter(name).value
    if value == _UNSET:
        return None
    if value not in _RELIABILITIES:
        known = " | ".join((_UNSET, *_RELIABILITIES))
        raise ParameterError(f"{name} must be {known}, got {value!r}")
    return _RELIABILITIES[value]


_UNSET = "default"
_RELIABILITIES = {member.name.lower(): member for member in Reliability}
