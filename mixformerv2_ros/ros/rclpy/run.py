"""Runs a lifecycle node, or those of several cameras, as a process."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import rclpy
from rclpy._rclpy_pybind11 import RCLError, RCLInvalidROSArgsError, UnknownROSArgsError
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.logging import get_logger
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import get_rmw_implementation_identifier

from mixformerv2_ros.errors import BAD_INPUT, ParameterError
from mixformerv2_ros.interrupt import node_stop
from mixformerv2_ros.ros.live.cameras import CameraThread, run_threads
from mixformerv2_ros.ros.messages import Level
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
    with node_stop() as stopped:
        try:
            _init(args)
            node = make()
        except _WRONG_INPUT as error:
            return _refused(make.__name__, error)
        try:
            _spin(node, stopped)
        finally:
            rclpy.shutdown()
    return 0


def run_cameras(makes: Mapping[str, Callable[[], Any]], name: str, args: list[str] | None) -> int:
    """Create the nodes of several cameras and spin each in a thread of its own, see `cameras`.

    Args:
        makes: Makes of nodes as for `run`, by the cameras' namespaces.
        name: Name of the program in an error.
        args: Command line as for `rclpy.init`.

    Returns:
        Exit code: 2 if a parameter was given a wrong value.
    """

    def spin(make: Callable[[], Any], thread: CameraThread) -> None:
        node = make()
        thread.set_ready()
        _spin(node, thread.is_closing)

    with node_stop() as stopped:
        try:
            _init(args)
            run_threads(
                [
                    CameraThread(camera, partial(spin, make), partial(_log, camera), stopped)
                    for camera, make in makes.items()
                ],
                stopped,
            )
        except _WRONG_INPUT as error:
            return _refused(name, error)
        finally:
            rclpy.try_shutdown()
    return 0


_WRONG_INPUT = (ParameterError, RCLError, RCLInvalidROSArgsError, UnknownROSArgsError)


def _init(args: list[str] | None) -> None:
    if get_rmw_implementation_identifier() == CYCLONE:
        # Read when the first node joins the domain.
        os.environ[CYCLONEDDS_URI] = with_receive_buffer(os.environ.get(CYCLONEDDS_URI, ""))
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)


def _refused(name: str, error: Exception) -> int:
    print(f"{name}: {' '.join(str(error).split())}", file=sys.stderr)
    rclpy.try_shutdown()
    return BAD_INPUT


def _log(camera: str, level: Level, text: str) -> None:
    logger = get_logger(camera.replace("/", "."))
    if level is Level.ERROR:
        logger.error(text)
    else:
        logger.info(text)


def _spin(node: Any, stopped: Callable[[], bool]) -> None:
    """Start a node and spin it until it is to stop or fails; then destroy it.

    Raises:
        BaseException: what the node's thread has failed with.
    """
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
    if failure is not None:
        raise failure
