"""What the lifecycle nodes of this package share."""

from __future__ import annotations

import threading
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import SetParametersResult
from rclpy._rclpy_pybind11 import RCLError
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter as RosParameter
from rclpy.qos import QoSPolicyKind, QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions
from rosidl_runtime_py.utilities import get_message

from mixformerv2_ros.errors import InstallationError, MixFormerError, ParameterError
from mixformerv2_ros.ros.messages import Level
from mixformerv2_ros.ros.parameters import (
    AUTOSTART,
    BOND_HEARTBEAT_PERIOD,
    LIFECYCLE_PARAMETERS,
    Parameter,
    Value,
    check_changes,
    check_values,
)
from mixformerv2_ros.ros.rclpy import parameters
from mixformerv2_ros.ros.rclpy.bond import Bond
from mixformerv2_ros.ros.rclpy.message_types import message_types
from mixformerv2_ros.ros.rclpy.receiver import Receiver
from mixformerv2_ros.ros.rclpy.subscriptions import (
    SensorSubscription,
    TypeCheck,
    subscribe_reliably,
)
from mixformerv2_ros.text import printable

_CHECK_TYPE_S = 1.0
"""Time between two checks of the types on a topic: DDS reports those that differ as little as it
reports a missing publisher."""

_FOLLOW_S = 0.2
"""Time between two checks of the QoS that sensors offer."""

_OVERRIDABLE = (
    QoSPolicyKind.HISTORY,
    QoSPolicyKind.DEPTH,
    QoSPolicyKind.RELIABILITY,
    QoSPolicyKind.DURABILITY,
)
"""Policies of publishers that `qos_overrides` may set."""


_TRANSITIONS = {
    Transition.TRANSITION_CONFIGURE: "configure",
    Transition.TRANSITION_CLEANUP: "cleanup",
    Transition.TRANSITION_ACTIVATE: "activate",
    Transition.TRANSITION_DEACTIVATE: "deactivate",
}

UNCONFIGURED, INACTIVE, ACTIVE, FINALIZED = "unconfigured", "inactive", "active", "finalized"


class ManagedNode(LifecycleNode, ABC):
    """A lifecycle node that is the `Middleware` of a live node.

    A child defines `parameter_table`, `configure`, `activate` and `apply_parameters`.

    Attributes:
        lifecycle_state: `unconfigured`, `inactive`, `active` or `finalized`.
        failed_transition: Which transition failed last and why; empty if it did not.
        until_cleanup: Callbacks for cleanup, in reverse order.
        until_deactivate: Callbacks for deactivate, in reverse order.
    """

    types = staticmethod(message_types)
    parameter_table: Sequence[Parameter]

    def __init__(self, name: str, **options: Any) -> None:
        """Create the node, unconfigured.

        Args:
            name: Name of the node.
            options: As for `rclpy.node.Node`.

        Raises:
            ParameterError: a parameter was given a wrong value.
        """
        self._setting = threading.RLock()
        self._receiver: Receiver | None = None
        super().__init__(name, automatically_declare_parameters_from_overrides=True, **options)
        parameters.declare(self, (*self.parameter_table, *LIFECYCLE_PARAMETERS))
        parameters.on_change(self, self.parameter_table, self._check_changes, self.apply_parameters)
        self.lifecycle_state = UNCONFIGURED
        self.failed_transition = ""
        self._outputs: dict[str, Any] = {}
        self._type_checks: list[TypeCheck] = []
        self.until_cleanup = ExitStack()
        self.until_deactivate = ExitStack()
        for service in self.services:
            if service.srv_type is ChangeState:
                service.callback = self._refusing(service.callback)
        # Simulated time may stand still; QoS checks and diagnostics must go on.
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)

    @abstractmethod
    def configure(self, values: Mapping[str, Value]) -> None:
        """Create what lives from configure to cleanup.

        Raises:
            MixFormerError: logged; the node stays unconfigured.
        """

    @abstractmethod
    def activate(self, values: Mapping[str, Value]) -> None:
        """Create what lives from activate to deactivate.

        Raises:
            MixFormerError: logged; the node stays inactive.
        """

    @abstractmethod
    def apply_parameters(self, changes: Mapping[str, Any]) -> None:
        """Apply accepted parameter changes."""

    @property
    def failure(self) -> BaseException | None:
        """The exception that ended a thread of the node; None while it runs."""
        return None if self._receiver is None else self._receiver.failure

    def parameter_values(self) -> dict[str, Value]:
        """The current parameters by name.

        Raises:
            ParameterError: values contradict each other.
        """
        return check_values(parameters.values(self, self.parameter_table), self.parameter_table)

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Lifecycle transition configure."""
        self.get_logger().info("configuring")
        result = self._attempt("configure", self.configure, self.until_cleanup)
        if result == TransitionCallbackReturn.SUCCESS:
            self.lifecycle_state = INACTIVE
        return result

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Lifecycle transition activate."""
        super().on_activate(state)
        result = self._attempt("activate", self._activate, self.until_deactivate)
        if result != TransitionCallbackReturn.SUCCESS:
            super().on_deactivate(state)
            return result
        self.lifecycle_state = ACTIVE
        self._form_bond()
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Lifecycle transition deactivate."""
        self.until_deactivate.close()
        self._enter(INACTIVE)
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Lifecycle transition cleanup."""
        self.close()
        self._enter(UNCONFIGURED)
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Lifecycle transition shutdown, from any state."""
        self.close()
        self._enter(FINALIZED)
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Error processing: back to unconfigured."""
        return self.on_cleanup(state)

    def close(self) -> None:
        """Deactivate and clean up, whatever state the node is in."""
        self.until_deactivate.close()
        self.until_cleanup.close()
        self._outputs.clear()

    def set_parameters(self, parameter_list: list[RosParameter]) -> list[SetParametersResult]:
        """Set parameters one by one; from any thread, as topics and services do."""
        with self._setting:
            found: list[SetParametersResult] = super().set_parameters(parameter_list)
        return found

    def set_parameters_atomically(self, parameter_list: list[RosParameter]) -> SetParametersResult:
        """Set parameters, all or none; from any thread, as topics and services do."""
        with self._setting:
            return super().set_parameters_atomically(parameter_list)

    def now_ns(self) -> int:
        """Time of the node's clock in nanoseconds."""
        return int(self.get_clock().now().nanoseconds)

    def publish(self, topic: str, message: Any) -> None:
        """Publish on one of the outputs."""
        self._outputs[topic].publish(message)

    def has_subscribers(self, topic: str) -> bool:
        """Whether one of the outputs has subscribers."""
        return bool(self._outputs[topic].get_subscription_count() > 0)

    def log(self, level: Level, text: str) -> None:
        """Write to the node's log."""
        # rclpy allows one severity per line of code.
        if level is Level.OK:
            self.get_logger().info(text)
        elif level is Level.WARN:
            self.get_logger().warning(text)
        else:
            self.get_logger().error(text)

    def create_output(self, topic: str, msgtype: str, qos: QoSProfile) -> None:
        """Create a lifecycle publisher for `publish`, until cleanup.

        Raises:
            ParameterError: see `qos_overridable`.
        """
        publisher = qos_overridable(
            self.create_lifecycle_publisher, get_message(msgtype), self.full_topic(topic), qos
        )
        self._outputs[topic] = publisher
        self.until_cleanup.callback(self.destroy_lifecycle_publisher, publisher)

    def full_topic(self, name: str) -> str:
        """Full name of a topic after remapping."""
        return str(self.resolve_topic_name(name))

    def create_reliable_subscription(
        self, topic: str, msgtype: str, callback: Callable[[Any], None]
    ) -> None:
        """Create a reliable subscription, until deactivate; callbacks are the receiver's."""
        receiver = self._receiver
        assert receiver is not None
        subscription = subscribe_reliably(self, topic, msgtype, callback, receiver.group)
        receiver.add(subscription)
        self.until_deactivate.callback(self.destroy_subscription, subscription)
        self.until_deactivate.callback(receiver.remove, subscription)
        self._type_checks.append(TypeCheck(self, self.full_topic(topic), msgtype))

    def create_sensor_subscription(
        self,
        topic: str,
        msgtype: str,
        callback: Callable[[Any], None],
        choice: str,
        on_lost: Callable[[int], None] | None = None,
    ) -> SensorSubscription:
        """Create a subscription to sensor data, until deactivate; callbacks are the receiver's.

        What came on reliable subscriptions before a message is handled before it.

        Args:
            topic: Full name of the topic.
            msgtype: Type of its messages.
            callback: Gets the messages.
            choice: One of `qos.QOS_CHOICES`.
            on_lost: Gets the number of messages that the middleware has lost, whenever it does.

        Raises:
            ParameterError: `qos_overrides` have an unknown reliability.
        """
        subscription = SensorSubscription(
            self, topic, msgtype, callback, choice, on_lost, self._receiver
        )
        self.until_deactivate.callback(subscription.close)
        self.create_steady_timer(_FOLLOW_S, subscription.follow)
        self._type_checks.append(TypeCheck(self, topic, msgtype))
        return subscription

    def create_steady_timer(self, seconds: float, callback: Callable[[], None]) -> None:
        """Create a timer on the steady clock, until deactivate."""
        timer = self.create_timer(seconds, callback, clock=self._steady)
        self.until_deactivate.callback(self.destroy_timer, timer)

    def catch_up(self) -> None:
        """Handle what has come so far on the subscriptions, before what comes by other ways."""
        if self._receiver is not None:
            self._receiver.catch_up()

    def _activate(self, values: Mapping[str, Value]) -> None:
        self._receiver = receiver = Receiver(self, self.log)
        self.until_deactivate.callback(receiver.close)
        self.until_deactivate.callback(self._type_checks.clear)
        self.activate(values)
        self.create_steady_timer(_CHECK_TYPE_S, self._check_types)
        # Closed first, so that nothing comes to what is taken down after it.
        self.until_deactivate.callback(receiver.close)
        receiver.start()

    def _check_types(self) -> None:
        """Log publishers of other types on the subscriptions' topics, each once."""
        for check in self._type_checks:
            check()

    def _check_changes(self, changes: Mapping[str, Any]) -> None:
        values = parameters.values(self, self.parameter_table)
        running = self.lifecycle_state in (INACTIVE, ACTIVE)
        check_changes(values, changes, self.parameter_table, running=running)

    def _refusing(self, change_state: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        """The callback of `~/change_state`, which refuses transitions that the state does not have.

        rclpy's raises for them, which would end the process: Nav2's lifecycle_manager, for one,
        asks a node that was started again to deactivate.
        """

        def change(request: Any, response: Any) -> Any:
            try:
                return change_state(request, response)
            except RCLError:
                asked = request.transition
                name = printable(asked.label or _TRANSITIONS.get(asked.id, asked.id))
                self.get_logger().warning(
                    f"transition {name} refused: the node is {self.lifecycle_state}"
                )
                response.success = False
                return response

        return change

    def _form_bond(self) -> None:
        """Form a bond with the lifecycle manager that has activated the node, if one has."""
        period = float(self.get_parameter(BOND_HEARTBEAT_PERIOD.name).value)
        if self.get_parameter(AUTOSTART.name).value or not period:
            return
        try:
            bond = Bond(self, period, self.log)
        except InstallationError as error:
            self.get_logger().warning(str(error))
        else:
            self.until_deactivate.callback(bond.close)

    def _enter(self, state: str) -> None:
        """Note and log the state that a transition has led to."""
        self.lifecycle_state, self.failed_transition = state, ""
        self.get_logger().info(state)

    def _attempt(
        self, name: str, work: Callable[[Mapping[str, Value]], None], undo: ExitStack
    ) -> TransitionCallbackReturn:
        """Do the work of a transition; log why it failed, which rclpy does not."""
        self.failed_transition = ""
        try:
            work(self.parameter_values())
        except MixFormerError as error:
            self.failed_transition = f"{name} failed: {error}"
            self.get_logger().error(self.failed_transition)
            undo.close()
            return TransitionCallbackReturn.FAILURE
        except Exception as error:
            self.failed_transition = f"{name} failed: {type(error).__name__}: {error}"
            self.get_logger().error(traceback.format_exc())
            undo.close()
            return TransitionCallbackReturn.ERROR
        return TransitionCallbackReturn.SUCCESS


def qos_overridable(create: Callable[..., Any], msgtype: Any, topic: str, qos: QoSProfile) -> Any:
    """Create a publisher that `qos_overrides` apply to.

    Args:
        create: Method of a node.
        msgtype: Class of the messages.
        topic: Full name of the topic.
        qos: Default of its QoS.

    Raises:
        ParameterError: an override has a wrong value.
    """
    try:
        return create(
            msgtype, topic, qos, qos_overriding_options=QoSOverridingOptions(_OVERRIDABLE)
        )
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        # rclpy has no one class of error for it.
        raise ParameterError(f"qos_overrides.{topic}.publisher: {error}") from error
