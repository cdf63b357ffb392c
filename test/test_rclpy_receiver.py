"""The thread that takes the messages of a node on rclpy: what comes first, and when it ends."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from domains import own_domain
from processes import Command
from waiting import wait_for

pytest.importorskip("rclpy", reason="needs rclpy, which is not installed")

import rclpy
from std_msgs.msg import String
from std_srvs.srv import Trigger

from mixformerv2_ros.ros.messages import Level
from mixformerv2_ros.ros.rclpy.receiver import THREAD, Receiver
from mixformerv2_ros.ros.rclpy.spin_thread import SpinThread

DEPTH = 50


class Pair:
    """A node with a receiver, an executor in a thread, and publishers of another node."""

    def __init__(self) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node("receiving", context=self.context)
        self.other = rclpy.create_node("sending", context=self.context)
        self.lines: list[tuple[Level, str]] = []
        self.receiver = Receiver(self.node, lambda *line: self.lines.append(line))
        self.spinning = SpinThread(self.node, "test")
        self.spinning.start()
        self.heard: list[str] = []
        self.publishers: dict[str, Any] = {}

    def close(self) -> None:
        self.receiver.close()
        self.spinning.close()
        self.node.destroy_node()
        self.other.destroy_node()
        rclpy.try_shutdown(context=self.context)

    def subscribe(
        self, topic: str, callback: Callable[[Any], None] | None = None, last: bool = False
    ) -> Any:
        made = self.node.create_subscription(
            String,
            topic,
            callback or (lambda message: self.heard.append(message.data)),
            DEPTH,
            callback_group=self.receiver.group,
        )
        self.receiver.add(made, last)
        publisher = self.other.create_publisher(String, topic, DEPTH)
        wait_for(lambda: publisher.get_subscription_count() > 0, "the subscription")
        wait_for(lambda: made.get_publisher_count() > 0, "the publisher")
        self.publishers[topic] = publisher
        return made

    def say(self, topic: str, *words: str) -> None:
        """Publish, and wait until the messages have arrived in the node."""
        for word in words:
            self.publishers[topic].publish(String(data=word))
        assert self.publishers[topic].wait_for_all_acked()


@pytest.fixture
def pair() -> Iterator[Pair]:
    with own_domain():
        made = Pair()
        yield made
        made.close()


def test_what_came_before_an_image_is_handled_before_it(pair: Pair) -> None:
    busy, go_on = threading.Event(), threading.Event()

    def block(_: Any) -> None:
        busy.set()
        assert go_on.wait(60)

    pair.subscribe("image", last=True)
    pair.subscribe("block", block)
    pair.subscribe("box")
    pair.receiver.start()
    pair.say("block", "")
    assert busy.wait(60)
    pair.say("image", "image 1")
    pair.say("box", "box 1", "box 2")
    pair.say("image", "image 2", "image 3")
    go_on.set()
    wait_for(lambda: len(pair.heard) == 5, "all messages")
    # Which of the first image and the boxes came first is nobody's to say: their topics differ.
    assert pair.heard == ["box 1", "box 2", "image 1", "image 2", "image 3"]


def test_callbacks_and_services_do_not_wait_for_each_other(pair: Pair) -> None:
    busy, go_on = threading.Event(), threading.Event()
    threads: list[str] = []

    def block(_: Any) -> None:
        threads.append(threading.current_thread().name)
        busy.set()
        assert go_on.wait(60)

    def answer(_: Any, response: Any) -> Any:
        response.success = True
        return response

    pair.subscribe("block", block)
    pair.node.create_service(Trigger, "answer", answer)
    pair.receiver.start()
    pair.say("block", "")
    assert busy.wait(60)
    asking = SpinThread(pair.other, "asking")
    asking.start()
    client = pair.other.create_client(Trigger, "answer")
    assert client.wait_for_service(60)
    future = client.call_async(Trigger.Request())
    wait_for(future.done, "an answer while the receiver is busy")
    asking.close()
    go_on.set()
    assert future.result().success
    assert threads == [THREAD]


def test_catching_up_takes_what_has_come_in_the_thread_that_asks(pair: Pair) -> None:
    threads: list[str] = []
    pair.subscribe("image", lambda _: threads.append(threading.current_thread().name), last=True)
    pair.say("image", "1", "2")
    pair.receiver.catch_up()
    assert threads == [threading.current_thread().name] * 2
    pair.receiver.catch_up()
    assert len(threads) == 2


def test_a_subscription_that_was_removed_is_heard_no_more(pair: Pair) -> None:
    first = pair.subscribe("first")
    pair.subscribe("second")
    pair.receiver.start()
    pair.say("first", "a")
    wait_for(lambda: pair.heard, "a message")
    pair.receiver.remove(first)
    pair.say("first", "b")
    pair.say("second", "c")
    wait_for(lambda: "c" in pair.heard, "the other topic")
    pair.node.destroy_subscription(first)
    pair.subscribe("third")
    pair.say("third", "d")
    wait_for(lambda: "d" in pair.heard, "a new topic")
    assert pair.heard == ["a", "c", "d"]


def test_it_sleeps_while_the_executor_works(pair: Pair) -> None:
    """What happens elsewhere in the node does not wake it, as it would wake an executor."""
    pair.subscribe("image", last=True)
    pair.receiver.start()
    pair.say("image", "1")
    wait_for(lambda: pair.heard, "a message")
    (thread,) = [each for each in threading.enumerate() if each.name == THREAD]
    status = Path(f"/proc/self/task/{thread.native_id}/status")

    def switches() -> int:
        lines = [line for line in status.read_text("ascii").splitlines() if "ctxt_switch" in line]
        return sum(int(line.split()[1]) for line in lines)

    def settled() -> bool:
        before = switches()
        fired = len(ticks)
        wait_for(lambda: len(ticks) >= fired + 100, "the timer")
        return switches() == before

    ticks: list[None] = []
    pair.node.create_timer(0.001, lambda: ticks.append(None))
    wait_for(settled, "a hundred callbacks of a timer that do not wake the receiver")


def test_what_a_callback_raises_ends_it_and_is_logged(pair: Pair) -> None:
    pair.subscribe("image", lambda _: 1 / 0)
    pair.receiver.start()
    pair.say("image", "1")
    wait_for(lambda: pair.receiver.failure, "the failure")
    assert isinstance(pair.receiver.failure, ZeroDivisionError)
    wait_for(lambda: pair.lines, "the log")
    assert pair.lines == [(Level.ERROR, "receiving failed: ZeroDivisionError: division by zero")]


def test_it_ends_at_any_moment(pair: Pair) -> None:
    pair.subscribe("image")
    pair.say("image", "1")

    def cycles() -> None:
        for _ in range(200):
            made = Receiver(pair.node, print)
            made.start()
            made.close()
            made.close()

    runner = threading.Thread(target=cycles, daemon=True)
    runner.start()
    runner.join(120)
    assert not runner.is_alive()
    pair.receiver.close()  # was never started


def test_it_ends_with_its_context(pair: Pair) -> None:
    pair.subscribe("image")
    pair.receiver.start()
    (thread,) = [each for each in threading.enumerate() if each.name == THREAD]
    rclpy.shutdown(context=pair.context)
    wait_for(lambda: not thread.is_alive(), "the end")
    assert pair.receiver.failure is None


SIGNALLED = """
import contextlib, os, signal, threading, rclpy
from mixformerv2_ros.ros.rclpy.receiver import THREAD, Receiver
rclpy.init()
node = rclpy.create_node("receiving")
receiver = Receiver(node, print)
receiver.start()
(thread,) = [each for each in threading.enumerate() if each.name == THREAD]
with contextlib.suppress(KeyboardInterrupt):  # rclpy hands the signal on to Python
    os.kill(os.getpid(), signal.SIGINT)
    thread.join(60)
thread.join(60)
print("ended", not thread.is_alive(), receiver.failure)
receiver.close()
"""


def test_it_ends_with_the_signal_that_shuts_rclpy_down() -> None:
    """In programs that leave signals to rclpy; ours do not."""
    with own_domain(), Command(program=["-c", SIGNALLED]) as process:
        process.process.wait(90)
    assert "ended True None" in process.output
