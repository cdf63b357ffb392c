"""The node's end of a bond with Nav2's lifecycle_manager.

A bond is two heartbeats on one topic (bond_core, BSD). The manager forms one with each of its nodes
after their activation, and takes all of them down when a heartbeat stays away. bondpy would start
a thread per heartbeat and declare parameters in our node, so its protocol is spoken here: that
needs the message of the package `bond` only.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from enum import Enum, auto
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rosidl_runtime_py.utilities import get_message

from mixformerv2_ros.errors import InstallationError
from mixformerv2_ros.ros.messages import Level
from mixformerv2_ros.ros.rclpy.qos_profiles import reliable

TOPIC = "bond"
"""Relative, as in Nav2: manager and node share a namespace."""

HEARTBEAT_TIMEOUT_S = 4.0
"""Time without a heartbeat of the manager after which the bond is broken; Nav2's."""


class _State(Enum):
    WAITING = auto()
    FORMED = auto()
    BROKEN = auto()


class Bond:
    """Sends heartbeats until it is closed, or broken by the other end. For the executor's thread.

    As in Nav2, a broken bond is logged and changes nothing else: a robot goes on tracking while its
    manager is restarted.
    """

    def __init__(
        self,
        node: Node,
        period_s: float,
        log: Callable[[Level, str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Send the first heartbeat.

        Args:
            node: The node; its name is the bond's identity.
            period_s: Time between two heartbeats.
            log: Writes a line to the node's log.
            clock: Time in seconds.

        Raises:
            InstallationError: the package `bond` is not installed.
        """
        try:
            self._status = get_message("bond/msg/Status")
        except ModuleNotFoundError as error:
            raise InstallationError(
                "no bond with a lifecycle_manager: the ROS package bond is not installed; "
                "Nav2's lifecycle_manager needs bond_timeout 0.0 then"
            ) from error
        self._node = node
        self._period_s = period_s
        self._log = log
        self._clock = clock
        self._state = _State.WAITING
        self._own = str(uuid.uuid4())
        self._other = ""
        self._heard = 0.0
        self._publisher = node.create_publisher(self._status, TOPIC, reliable())
        self._subscription = node.create_subscription(
            self._status, TOPIC, self._receive, reliable()
        )
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = node.create_timer(period_s, self._beat, clock=steady)
        self._publish(active=True)

    def close(self) -> None:
        """End the bond; the other end learns it at once."""
        if self._state is not _State.BROKEN:
            self._publish(active=False)
        self._node.destroy_timer(self._timer)
        self._node.destroy_subscription(self._subscription)
        self._node.destroy_publisher(self._publisher)

    def _beat(self) -> None:
        silence = self._clock() - self._heard
        if self._state is _State.FORMED and silence > HEARTBEAT_TIMEOUT_S:
            self._break(
                Level.WARN,
                f"bond broken: no heartbeat of the lifecycle manager for {silence:.1f} s",
            )
        if self._state is not _State.BROKEN:
            self._publish(active=True)

    def _receive(self, message: Any) -> None:
        if message.id != self._node.get_name() or message.instance_id == self._own:
            return
        if self._state is _State.BROKEN:
            return
        if self._state is _State.WAITING and message.active:
            self._state, self._other = _State.FORMED, message.instance_id
            self._log(Level.OK, "bond with the lifecycle manager formed")
        if message.instance_id != self._other:
            return
        if message.active:
            self._heard = self._clock()
        else:
            self._break(Level.OK, "bond ended by the lifecycle manager")

    def _break(self, level: Level, text: str) -> None:
        self._log(level, text)
        self._state = _State.BROKEN
        # Acknowledges the end; a manager that waits for it would wait for its timeout.
        self._publish(active=False)

    def _publish(self, active: bool) -> None:
        status = self._status(
            id=self._node.get_name(),
            instance_id=self._own,
            active=active,
            heartbeat_timeout=HEARTBEAT_TIMEOUT_S,
            heartbeat_period=self._period_s,
        )
        status.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(status)
