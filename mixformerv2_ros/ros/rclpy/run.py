"""Runs a lifecycle node as a process."""

from __future__ import annotations

import os
import sys
from typing import Any

import rclpy
from rclpy._rclpy_pybind11 import RCLError, RCLInvalidROSArgsError, UnknownROSArgsError
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import get_rmw_implementation_identifier

from mixformerv2_ros.errors import BAD_INPUT, ParameterError
from mixformerv2_ros.interrupt import node_stop
from mixformerv2_ros.ros.receive_buffer import CYCLONEDDS_URI, with_receive_buffer

CYCLONE = "rmw_cyclonedds_cpp"

_POLL_S = 0.2
"""Maximum time until a signal, or a failure of the node's own thread, is handled."""
_FINAL_SPINS, _FINAL_SPIN_S = 20, 0.01
"""Callbacks executed after the end, such as results of goals, and the wait for each of them."""


def run(make: Any, args: list[str] | None) -> int:
    """Create a node and spin it until Ctrl-C, SIGTERM or a failure.

    Signals end the node while it can still publish; rclpy's own handlers would invalidate its
    publishers first.

    Args:
        make: Class of the node, with `failure` and `close`, and the parameter `autostart`.
        args: Command line as for `rclpy.init`.

    Returns:
        Exit code: 2 if a parameter was given a wrong value.
    """
    if get_rmw_implementation_identifier() == CYCLONE:
        # Read when the first node joins the domain.
        os.environ[CYCLONEDDS_URI] = with_receive_buffer(os.environ.get(CYCLONEDDS_URI, ""))
    with node_stop() as stopped:
        try:
            rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
            node = make()
        except (ParameterError, RCLError, RCLInvalidROSArgsError, UnknownROSArgsError) as error:
            print(f"{make.__name__}: {' '.join(str(error).split())}", file=sys.stderr)
            rclpy.try_shutdown()
            return BAD_INPUT
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        try:
            if (
                node.get_parameter("autostart").value
                and node.trigger_configure() == TransitionCallbackReturn.SUCCESS
            ):
                node.trigger_activate()
            while not stopped() and node.failure is None:
                executor.spin_once(timeout_sec=_POLL_S)
            failure = node.failure
            node.close()
            # Goals have ended now; send their results.
            for _ in range(_FINAL_SPINS):
                executor.spin_once(timeout_sec=_FINAL_SPIN_S)
        finally:
            # Threads of the node would keep the process alive.
            node.close()
            executor.shutdown()
            node.destroy_node()
            rclpy.shutdown()
    if failure is not None:
        raise failure
    return 0
