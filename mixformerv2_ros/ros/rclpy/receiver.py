"""A thread that takes the messages of a node's subscriptions.

rclpy's executors make a new wait set of all the node's entities for every callback, which takes
longer than all that a tracker does with an image but the engine. A `Receiver` waits for
subscriptions alone, in one wait set that it keeps; services, timers, actions and QoS events stay
with the node's executor, which can neither delay an image nor be delayed by one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import Any

from rclpy.callback_groups import CallbackGroup, ReentrantCallbackGroup
from rclpy.context import Context
from rclpy.exceptions import InvalidHandle
from rclpy.guard_condition import GuardCondition
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.signals import SignalHandlerGuardCondition
from rclpy.subscription import Subscription

from mixformerv2_ros.machine import show_thread_name
from mixformerv2_ros.ros.messages import Level

_MAX_MESSAGES = 64
"""Messages of one subscription that are taken before it is another one's turn."""
_FOREVER = -1

THREAD = "receiver"
"""Name of the thread."""


class Receiver:
    """Calls back with the messages of subscriptions, in a thread of its own.

    Messages that have come by the time that an image is taken are handled before it, whatever their
    topic: `add(..., last=True)`.

    Attributes:
        group: Callback group for the subscriptions: executors leave them alone.
        failure: What a callback has raised, which has ended the thread; None while it runs.
    """

    def __init__(self, node: Node, log: Callable[[Level, str], None]) -> None:
        """Create the receiver without starting it.

        Args:
            node: The node, destroyed by the caller after `close`.
            log: Writes a line to the node's log.
        """
        self.group: CallbackGroup = _Received()
        self.failure: BaseException | None = None
        self._context = node.context
        self._log = log
        self._taking = threading.RLock()
        self._subscriptions: list[Subscription] = []
        self._last: list[Subscription] = []
        self._closing = False
        self._changed = GuardCondition(None, None, context=node.context)
        self._interrupted = SignalHandlerGuardCondition(context=node.context)
        self._thread = threading.Thread(target=self._run, name=THREAD, daemon=True)

    def start(self) -> None:
        """Start taking messages."""
        # Shut down by another thread, the context wakes nobody by itself.
        self._context.on_shutdown(self._wake)
        self._thread.start()

    def close(self) -> None:
        """Wait for the callback that is running, then end; does nothing the second time."""
        if self._closing:
            return
        self._closing = True
        self._wake()
        if self._thread.ident is not None:
            self._thread.join()
        self._changed.destroy()
        self._interrupted.destroy()

    def add(self, subscription: Subscription, last: bool = False) -> None:
        """Take a subscription's messages from now on.

        Args:
            subscription: Made with `group` as its callback group.
            last: Take one message at a time, after those of other subscriptions.
        """
        with self._taking:
            (self._last if last else self._subscriptions).append(subscription)
        self._wake()

    def remove(self, subscription: Subscription) -> None:
        """Let go of a subscription, to be destroyed by the caller; no callback follows."""
        with self._taking:
            for among in (self._subscriptions, self._last):
                if subscription in among:
                    among.remove(subscription)
        self._wake()

    def catch_up(self) -> None:
        """Call back with what has come so far, in this thread.

        For whoever is asked something by other ways than these subscriptions, and must know what
        was said before on them.
        """
        with self._taking:
            for subscription in (*self._subscriptions, *self._last):
                _take(subscription, _MAX_MESSAGES)

    def _wake(self) -> None:
        with suppress(InvalidHandle):  # closed
            self._changed.trigger()

    def _run(self) -> None:
        show_thread_name()
        try:
            with self._context.handle:
                waiting = _WaitSet(self._context, (self._changed, self._interrupted))
                while not self._closing and self._context.ok():
                    with self._taking:
                        subscriptions = (*self._subscriptions, *self._last)
                    self._take(waiting.ready(subscriptions))
        except BaseException as error:  # raised again by whoever runs the node
            self.failure = error
            self._log(Level.ERROR, f"receiving failed: {type(error).__name__}: {error}")

    def _take(self, ready: Sequence[Subscription]) -> None:
        """Call back with the messages of subscriptions that have some."""
        with self._taking:
            if self._closing:
                return
            for subscription in ready:
                if subscription in self._subscriptions:
                    _take(subscription, _MAX_MESSAGES)
                elif subscription in self._last:
                    _take(subscription, 1)


class _WaitSet:
    """Waits as `rclpy.wait_for_message` does, with one set while the subscriptions are the same."""

    def __init__(self, context: Context, guards: Sequence[GuardCondition]) -> None:
        self._context = context
        self._guards = guards
        self._size = -1
        self._set: Any = None

    def ready(self, subscriptions: Sequence[Subscription]) -> list[Subscription]:
        """Wait until a subscription has messages or a guard is triggered; returns the former."""
        with ExitStack() as used:
            valid = [each for each in subscriptions if _is_valid(each, used)]
            if len(valid) != self._size:
                self._size, counts = len(valid), (len(valid), len(self._guards), 0, 0, 0, 0)
                self._set = rclpy_implementation.WaitSet(*counts, self._context.handle)
            self._set.clear_entities()
            indices = [self._set.add_subscription(each.handle) for each in valid]
            for guard in self._guards:
                self._set.add_guard_condition(guard.handle)
            self._set.wait(_FOREVER)
            is_ready = self._set.is_ready
            return [
                each
                for each, at in zip(valid, indices, strict=True)
                if is_ready("subscription", at)
            ]


class _Received(ReentrantCallbackGroup):
    """Of its members, executors see the events of subscriptions, not the subscriptions."""

    def can_execute(self, entity: Any) -> bool:
        return not isinstance(entity, Subscription)

    def beginning_execution(self, entity: Any) -> bool:
        return not isinstance(entity, Subscription)


def _is_valid(subscription: Subscription, used: ExitStack) -> bool:
    """Whether a subscription is not destroyed; keeps it from being so."""
    try:
        used.enter_context(subscription.handle)
    except InvalidHandle:
        return False
    return True


def _take(subscription: Subscription, at_most: int) -> None:
    """Call back with messages of a subscription."""
    for _ in range(at_most):
        try:
            with subscription.handle:
                taken = subscription.handle.take_message(subscription.msg_type, subscription.raw)
        except InvalidHandle:
            return
        if taken is None:
            return
        subscription.callback(taken[0])
