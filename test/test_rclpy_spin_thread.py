"""The thread that spins a node ends when it is told to, at whatever moment."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from domains import own_domain
from waiting import wait_for

pytest.importorskip("rclpy", reason="needs rclpy, which is not installed")

import rclpy

from mixformerv2_ros.ros.rclpy.spin_thread import SpinThread


@pytest.fixture
def node() -> Iterator[Any]:
    with own_domain():
        context = rclpy.Context()
        rclpy.init(context=context)
        node = rclpy.create_node("spinning", context=context)
        yield node
        node.destroy_node()
        rclpy.try_shutdown(context=context)


def test_it_ends_at_any_moment(node: Any) -> None:
    """`Executor.shutdown` alone may hang: seen once in some hundred tests on a busy machine."""

    def cycles() -> None:
        for _ in range(300):
            thread = SpinThread(node, "spinning")
            thread.start()
            thread.close()

    runner = threading.Thread(target=cycles, daemon=True)
    runner.start()
    runner.join(120)
    assert not runner.is_alive()


def test_what_a_callback_raises_is_handed_over(node: Any) -> None:
    failures: list[BaseException] = []
    thread = SpinThread(node, "spinning", failures.append)

    def fail() -> None:
        raise ZeroDivisionError

    node.create_timer(0.01, fail)
    thread.start()
    wait_for(lambda: failures, "the failure")
    thread.close()
    assert isinstance(failures[0], ZeroDivisionError)


def test_it_ends_with_its_context(node: Any) -> None:
    failures: list[BaseException] = []
    thread = SpinThread(node, "spinning", failures.append)
    thread.start()
    rclpy.shutdown(context=node.context)
    thread.close()
    assert not failures
