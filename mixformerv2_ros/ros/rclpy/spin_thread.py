"""A thread that spins a node, and ends whenever it is told to."""

from __future__ import annotations

import threading
from collections.abc import Callable

from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node

_POLL_S = 1.0
"""Maximum time until the end is noticed, if nothing wakes the executor."""


class SpinThread:
    """Executes the callbacks of a node in a thread of its own.

    `Executor.spin` cannot be ended reliably from another thread: `Executor.shutdown` destroys the
    guard condition that wakes it, and if it is just about to wait, it then waits for ever.

    Attributes:
        executor: The executor.
    """

    def __init__(
        self, node: Node, name: str, on_failure: Callable[[BaseException], None] | None = None
    ) -> None:
        """Create the thread without starting it.

        Args:
            node: The node, destroyed by the caller after `close`.
            name: Name of the thread.
            on_failure: Called in the thread with what a callback of the node raises; otherwise
                that ends the thread with a traceback.
        """
        self.executor = SingleThreadedExecutor(context=node.context)
        self.executor.add_node(node)
        self._on_failure = on_failure
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._spin, name=name, daemon=True)

    def start(self) -> None:
        """Start spinning."""
        self._thread.start()

    def close(self) -> None:
        """Wait for the callback that is running, then end."""
        self._ended.set()
        self.executor.create_task(lambda: None)  # `spin_once` returns after it
        self._thread.join()
        self.executor.shutdown()

    def _spin(self) -> None:
        try:
            while not self._ended.is_set():
                self.executor.spin_once(timeout_sec=_POLL_S)
        except ExternalShutdownException:
            return
        except BaseException as error:
            if self._on_failure is None:
                raise
            self._on_failure(error)
