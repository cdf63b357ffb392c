"""The other side of a ROS graph on rclpy."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
import rclpy
from domains import own_domain
from nodes import BUNDLE, frame_stamp
from rcl_interfaces.srv import GetParameters
from rclpy.action import ActionClient
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.node import Node
from rclpy.parameter import parameter_value_to_python
from rclpy.qos import QoSProfile, ReliabilityPolicy
from recordings import RedEngine, picture, red_box
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2DArray
from waiting import repeat_until, wait_for

from mixformerv2_ros.action import TrackTarget
from mixformerv2_ros.msg import InitBox, Track
from mixformerv2_ros.ros.live.model import Model
from mixformerv2_ros.ros.messages import image_message, stamp_ns
from mixformerv2_ros.ros.rclpy import tracker_node
from mixformerv2_ros.ros.rclpy.message_types import message_types
from mixformerv2_ros.ros.rclpy.spin_thread import SpinThread

BEST_EFFORT = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
RELIABLE = QoSProfile(depth=50)


@pytest.fixture(autouse=True, scope="module")
def ros() -> Iterator[None]:
    """rclpy in a domain of its own; a module that imports this has it."""
    with own_domain():
        rclpy.init()
        yield
        rclpy.shutdown()


def start_spinning(node: Any) -> SpinThread:
    """Spin a node in a thread."""
    thread = SpinThread(node, "test")
    thread.start()
    return thread


class Peer:
    """The other side: a camera, somebody who draws boxes, somebody who listens."""

    def __init__(self, captured: pytest.CaptureFixture[str]) -> None:
        self.node = Node("peer")
        self._captured = captured
        self._log = ""
        self.heard: dict[str, list[Any]] = defaultdict(list)
        self.subscriptions: dict[str, Any] = {}
        self.spinning = start_spinning(self.node)
        self.listen("/track", Track)
        self.listen("/detections", Detection2DArray)

    def close(self) -> None:
        self.spinning.close()
        self.node.destroy_node()

    def listen(self, topic: str, kind: type, qos: Any = RELIABLE) -> None:
        self.subscriptions[topic] = self.node.create_subscription(
            kind, topic, self.heard[topic].append, qos
        )

    @property
    def lines(self) -> list[str]:
        self._log += self._captured.readouterr().err
        return self._log.splitlines()

    def wait_for_line(self, words: str) -> None:
        wait_for(lambda: any(words in line for line in self.lines), f"{words!r} in {self.lines}")

    def camera(self, topic: str = "/image", kind: type = Image, qos: Any = RELIABLE) -> Any:
        publisher = self.node.create_publisher(kind, topic, qos)
        wait_for(lambda: publisher.get_subscription_count() > 0, f"a subscription to {topic}")
        return publisher

    def show(self, camera: Any, *indices: int) -> None:
        """Publish frames, each when the one before has been dealt with."""
        for index in indices:
            message = image(index)
            camera.publish(message)
            stamp = stamp_ns(message)
            wait_for(
                lambda stamp=stamp: stamp in [stamp_ns(m) for m in self.heard["/detections"]],
                f"an answer to image {index}; log: {self.lines}",
            )

    def step_back(self, camera: Any) -> None:
        """Publish images from 0 on until the node has believed that time stepped back."""
        indices = itertools.count()
        repeat_until(
            lambda: camera.publish(image(next(indices))),
            lambda: any(stamp_ns(m) < frame_stamp(20) for m in self.heard["/detections"]),
            "an answer to an image of before",
        )

    def deliver(self, publisher: Any, message: Any, node: str) -> None:
        """Publish, and wait until the node has taken it: it answers services after messages."""
        publisher.publish(message)
        assert publisher.wait_for_all_acked()
        self.parameters(node)

    def parameters(self, node: str, *names: str) -> list[Any]:
        """Current values of a node's parameters."""
        request = GetParameters.Request(names=names)
        values = self.call(GetParameters, f"{node}/get_parameters", request).values
        return [parameter_value_to_python(value) for value in values]

    def call(self, kind: type, name: str, request: Any) -> Any:
        client = self.node.create_client(kind, name)
        assert client.wait_for_service(10)
        future = client.call_async(request)
        wait_for(future.done, f"an answer of {name}")
        self.node.destroy_client(client)
        return future.result()


def go(node: Any, spinning: SpinThread, transition: str) -> TransitionCallbackReturn:
    """Make a transition in the executor's thread, as the node's services do."""
    task = spinning.executor.create_task(getattr(node, f"trigger_{transition}"))
    wait_for(task.done, transition)
    return task.result()


class Tracker:
    """The tracker node in this process, active unless told otherwise."""

    def __init__(self, *arguments: str, active: bool = True, **values: Any) -> None:
        words = ["--ros-args"]
        for name, value in values.items():
            text = str(value).lower() if isinstance(value, bool) else value
            words += ["-p", f"{name.replace('__', '.')}:={text}"]
        self.node = tracker_node.TrackerNode(cli_args=[*words, *arguments])
        self.spinning = start_spinning(self.node)
        if active:
            assert self.go("configure") == self.go("activate") == TransitionCallbackReturn.SUCCESS

    def go(self, transition: str) -> TransitionCallbackReturn:
        return go(self.node, self.spinning, transition)

    def close(self) -> None:
        # The second one comes after the results of goals that the first one ends.
        for work in (self.node.close, lambda: None):
            ended = self.spinning.executor.create_task(work)
            wait_for(ended.done, "the end")
        self.spinning.close()
        self.node.destroy_node()


@pytest.fixture
def red(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that sees what is red, in place of the model."""
    model = Model(BUNDLE, RedEngine())
    monkeypatch.setattr(tracker_node, "load_model", lambda values: model)


@pytest.fixture
def peer(capfd: pytest.CaptureFixture[str]) -> Iterator[Peer]:
    made = Peer(capfd)
    yield made
    made.close()


@pytest.fixture
def tracker(red: None) -> Iterator[Tracker]:
    made = Tracker()
    yield made
    made.close()


def init_box(box: Any, stamp: int = 0, target_id: str = "") -> InitBox:
    x, y, w, h = map(float, box)
    message = InitBox(target_id=target_id, x=x, y=y, w=w, h=h)
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 10**9)
    return message


def draw(peer: Peer, message: Any, topic: str = "/init_box") -> None:
    publisher = peer.node.create_publisher(type(message), topic, RELIABLE)
    wait_for(lambda: publisher.get_subscription_count() > 0, f"a subscription to {topic}")
    publisher.publish(message)
    assert publisher.wait_for_all_acked()


class Goal:
    """A goal of the action, and what comes of it."""

    def __init__(self, peer: Peer, **fields: Any) -> None:
        self.peer = peer
        self.feedback: list[Any] = []
        name = fields.pop("action", "/track_target")
        self.client = ActionClient(peer.node, TrackTarget, name)
        assert self.client.wait_for_server(10)
        goal = TrackTarget.Goal(box=init_box(fields.pop("box", red_box(0)), fields.pop("stamp", 0)))
        for name, seconds in fields.items():
            getattr(goal, name).sec = seconds
        future = self.client.send_goal_async(goal, lambda m: self.feedback.append(m.feedback.track))
        wait_for(future.done, "an answer to the goal")
        self.handle = future.result()
        if self.handle.accepted:
            self._result = self.handle.get_result_async()

    def result(self) -> tuple[int, Any]:
        wait_for(self._result.done, "the result")
        answer = self._result.result()
        self.client.destroy()
        return answer.status, answer.result


def image(index: int) -> Any:
    return image_message(message_types, picture(index), "rgb8", frame_stamp(index), "cam")
