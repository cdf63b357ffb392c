"""What the lifecycle nodes of this package share."""

from __future__ import annotations

import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import QoSProfile
from rosidl_runtime_py.utilities import get_message

from mixformerv2_ros.errors import MixFormerError
from mixformerv2_ros.ros.messages import Level
from mixformerv2_ros.ros.parameters import AUTOSTART, Parameter, Value, check_changes, check_values
from mixformerv2_ros.ros.rclpy import parameters
from mixformerv2_ros.ros.rclpy.message_types import message_types
from mixformerv2_ros.ros.rclpy.subscriptions import SensorSubscription, reliable, subscribe

_FOLLOW_S = 0.2
"""Time between two looks at the qualities that sensors offer."""


class ManagedNode(LifecycleNode, ABC):
    """A lifecycle node and the middleware of `live`: declares, releases, publishes, logs.

    A child gives `table`, `set_up` and `work`. What they make is undone in reverse order, by
    cleanup and deactivate.
    """

    types = staticmethod(message_types)
    table: Sequence[Parameter]

    def __init__(self, name: str, **options: Any) -> None:
        """Make the node, unconfigured.

        Args:
            name: Name of the node.
            options: As for `rclpy.node.Node`.

        Raises:
            ParameterError: a parameter was given a wrong value.
        """
        super().__init__(name, **options)
        parameters.declare(self, (*self.table, AUTOSTART))
        parameters.on_change(self, self.table, self._check_changes, self.apply)
        self._configured = False
        self._outputs: dict[str, Any] = {}
        self._until_cleanup: list[Callable[[], Any]] = []
        self._until_deactivate: list[Callable[[], Any]] = []
        # Simulated time may stand still; watching publishers and reporting must not.
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)

    @abstractmethod
    def set_up(self, values: Mapping[str, Value]) -> None:
        """Load and make what lives from configure to cleanup.

        Raises:
            MixFormerError: that cannot be done; the node stays unconfigured and says why.
        """

    @abstractmethod
    def work(self, values: Mapping[str, Value]) -> None:
        """Make what lives from activate to deactivate.

        Raises:
            MixFormerError: that cannot be done; the node stays inactive and says why.
        """

    @abstractmethod
    def apply(self, changes: Mapping[str, Any]) -> None:
        """Put accepted changes of parameters to work."""

    @property
    def failure(self) -> BaseException | None:
        """The defect that ended a thread of the node; None while it is well."""
        return None

    def values(self) -> dict[str, Value]:
        """The parameters as they are set.

        Raises:
            ParameterError: they contradict each other.
        """
        return check_values(parameters.values(self, self.table), self.table)

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load; refuse with one line if that cannot be done."""
        result = self._attempt(self.set_up, self._until_cleanup)
        self._configured = result == TransitionCallbackReturn.SUCCESS
        return result

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe and work."""
        super().on_activate(state)
        result = self._attempt(self.work, self._until_deactivate)
        if result != TransitionCallbackReturn.SUCCESS:
            super().on_deactivate(state)
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe, keep what was loaded."""
        _undo(self._until_deactivate)
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free what was loaded."""
        self.close()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop whatever is going on."""
        self.close()
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Go back to where the node can be configured again."""
        return self.on_shutdown(state)

    def close(self) -> None:
        """Stop what runs and free everything."""
        _undo(self._until_deactivate)
        _undo(self._until_cleanup)
        self._outputs.clear()
        self._configured = False

    def now_ns(self) -> int:
        """Time of the node's clock."""
        return int(self.get_clock().now().nanoseconds)

    def publish(self, topic: str, message: Any) -> None:
        """Publish on one of the outputs."""
        self._outputs[topic].publish(message)

    def has_subscribers(self, topic: str) -> bool:
        """Whether anybody subscribes to an output."""
        return bool(self._outputs[topic].get_subscription_count() > 0)

    def log(self, level: Level, text: str) -> None:
        """Write to the node's log."""
        # rclpy wants every line of code to log at one severity for ever.
        if level is Level.OK:
            self.get_logger().info(text)
        elif level is Level.WARN:
            self.get_logger().warning(text)
        else:
            self.get_logger().error(text)

    def until_cleanup(self, undo: Callable[[], Any]) -> None:
        """Have something undone when the node is cleaned up."""
        self._until_cleanup.append(undo)

    def until_deactivate(self, undo: Callable[[], Any]) -> None:
        """Have something undone when the node is deactivated."""
        self._until_deactivate.append(undo)

    def advertise(self, topic: str, msgtype: str, qos: QoSProfile) -> None:
        """Make an output, until cleanup; it is silent while the node is inactive."""
        publisher = self.create_lifecycle_publisher(get_message(msgtype), topic, qos)
        self._outputs[topic] = publisher
        self.until_cleanup(partial(self.destroy_lifecycle_publisher, publisher))

    def hear(self, topic: str, msgtype: str, callback: Callable[[Any], None]) -> None:
        """Subscribe reliably, until deactivation."""
        subscription = subscribe(self, topic, msgtype, callback, reliable())
        self.until_deactivate(partial(self.destroy_subscription, subscription))

    def sense(
        self, topic: str, msgtype: str, callback: Callable[[Any], None], quality: str
    ) -> None:
        """Subscribe to a sensor at the quality `auto`, `sensor_data` or `reliable`.

        Raises:
            ParameterError: `qos_overrides` name a reliability that there is not.
        """
        subscription = SensorSubscription(self, topic, msgtype, callback, quality)
        self.until_deactivate(subscription.close)
        self.every(_FOLLOW_S, subscription.follow)

    def every(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call something again and again, in real time, until deactivation."""
        timer = self.create_timer(seconds, callback, clock=self._steady)
        self.until_deactivate(partial(self.destroy_timer, timer))

    def _check_changes(self, changes: Mapping[str, Any]) -> None:
        values = parameters.values(self, self.table)
        check_changes(values, changes, self.table, running=self._configured)

    def _attempt(
        self, work: Callable[[Mapping[str, Value]], None], undo: list[Callable[[], Any]]
    ) -> TransitionCallbackReturn:
        """Do the work of a transition; where it fails, say why, which rclpy does not."""
        try:
            work(self.values())
        except MixFormerError as error:
            self.get_logger().error(str(error))
            _undo(undo)
            return TransitionCallbackReturn.FAILURE
        except Exception:
            self.get_logger().error(traceback.format_exc())
            _undo(undo)
            return TransitionCallbackReturn.ERROR
        return TransitionCallbackReturn.SUCCESS


def _undo(steps: list[Callable[[], Any]]) -> None:
    while steps:
        steps.pop()()
