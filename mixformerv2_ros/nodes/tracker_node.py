"""The tracker as a lifecycle node of ROS 2.

configure loads the model and runs it once; activate subscribes and tracks; deactivate unsubscribes,
forgets the targets and keeps the model; cleanup frees it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rosidl_runtime_py.utilities import get_message
from std_srvs.srv import Trigger

from mixformerv2_ros.action import TrackTarget
from mixformerv2_ros.live.live_tracker import LiveTracker
from mixformerv2_ros.live.middleware import (
    COMPRESSED_IMAGE,
    DEBUG_IMAGE,
    IMAGE,
    IMAGES,
    INITS,
    OUTPUTS,
)
from mixformerv2_ros.live.model import Model, load_model
from mixformerv2_ros.live.watching import End, Pursuit
from mixformerv2_ros.messages import DEFAULT_TARGET, NS, Level
from mixformerv2_ros.nodes import parameters
from mixformerv2_ros.nodes.message_types import message_types
from mixformerv2_ros.nodes.run import run, transition
from mixformerv2_ros.nodes.subscriptions import ImageSubscription, reliable, subscribe
from mixformerv2_ros.parameters import AUTOSTART, NODE_PARAMETERS, check_changes, check_values

_FOLLOW_S = 0.2
"""Time between two looks at the qualities that the cameras offer."""


class TrackerNode(LifecycleNode):
    """Connects a `LiveTracker` with ROS 2."""

    types = staticmethod(message_types)

    def __init__(self, **options: Any) -> None:
        """Make the node, unconfigured.

        Args:
            options: As for `rclpy.node.Node`, without the name.

        Raises:
            ParameterError: a parameter was given a wrong value.
        """
        super().__init__("tracker", **options)
        parameters.declare(self, (*NODE_PARAMETERS, AUTOSTART))
        parameters.on_change(self, NODE_PARAMETERS, self._check_changes, self._apply_changes)
        self._model: Model | None = None
        self._tracker: LiveTracker | None = None
        self._outputs: dict[str, Any] = {}
        self._pursuits: dict[bytes, Pursuit] = {}
        self._while_configured: list[Callable[[], Any]] = []
        self._while_active: list[Callable[[], Any]] = []
        # Simulated time may stand still; watching the publishers and reporting must not.
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)

    @property
    def failure(self) -> BaseException | None:
        """The defect that ended the tracker's thread; None while it is well."""
        return None if self._tracker is None else self._tracker.failure

    @transition
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model; refuse with one line if that cannot be done."""
        values = check_values(parameters.values(self, NODE_PARAMETERS), NODE_PARAMETERS)
        self._model = load_model(values)
        for name, msgtype in OUTPUTS.items():
            self._outputs[name] = publisher = self.create_lifecycle_publisher(
                get_message(msgtype), name, reliable(1 if name == DEBUG_IMAGE else 10)
            )
            self._while_configured.append(partial(self.destroy_lifecycle_publisher, publisher))
        for name, callback in (("~/stop", self._stop), ("~/reset", self._reset)):
            service = self.create_service(Trigger, name, callback)
            self._while_configured.append(partial(self.destroy_service, service))
        server = ActionServer(
            self,
            TrackTarget,
            "track_target",
            execute_callback=_no_execution,
            goal_callback=self._judge_goal,
            handle_accepted_callback=self._pursue,
            cancel_callback=self._cancel,
        )
        self._while_configured.append(server.destroy)
        facts = ", ".join(f"{key} {value}" for key, value in self._model.facts.items())
        self.get_logger().info(f"configured: {facts}")
        return TransitionCallbackReturn.SUCCESS

    @transition
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe and track."""
        assert self._model is not None
        values = parameters.values(self, NODE_PARAMETERS)
        transport = str(values["image_transport"])
        topic, msgtype = self._image_topic(transport), IMAGES[transport][1]
        tracker = LiveTracker(self._model, values, self, self.get_fully_qualified_name())
        images = ImageSubscription(
            self, topic, msgtype, tracker.receive_image, str(values["image_qos"])
        )
        super().on_activate(state)
        self._tracker = tracker
        tracker.start()
        self._while_active.append(images.close)
        for name, msgtype in INITS.items():
            inits = subscribe(self, name, msgtype, tracker.receive_init, reliable())
            self._while_active.append(partial(self.destroy_subscription, inits))
        for period, work in (
            (float(values["diagnostics.period"]), tracker.publish_diagnostics),
            (_FOLLOW_S, images.follow),
        ):
            timer = self.create_timer(period, work, clock=self._steady)
            self._while_active.append(partial(self.destroy_timer, timer))
        self.get_logger().info(f"active: images from {topic}")
        return TransitionCallbackReturn.SUCCESS

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe, forget the targets, keep the model."""
        self._stop_tracking()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the model."""
        self._free()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop whatever is going on."""
        self.close()
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Go back to where the node can be configured again."""
        return self.on_shutdown(state)

    def close(self) -> None:
        """Stop the tracker's thread and free everything."""
        self._stop_tracking()
        self._free()

    def now_ns(self) -> int:
        """Time of the node's clock."""
        return int(self.get_clock().now().nanoseconds)

    def publish(self, topic: str, message: Any) -> None:
        """Publish on one of the outputs."""
        self._outputs[topic].publish(message)

    def listened(self, topic: str) -> bool:
        """Whether anybody subscribes to an output."""
        return bool(self._outputs[topic].get_subscription_count() > 0)

    def log(self, level: Level, text: str) -> None:
        """Write to the node's log."""
        logger = self.get_logger()
        write = {Level.OK: logger.info, Level.WARN: logger.warning, Level.ERROR: logger.error}
        write[level](text)

    def _image_topic(self, transport: str) -> str:
        """Full name of the images' topic; like image_transport, a rule for `image` moves both."""
        raw = self.resolve_topic_name(IMAGE)
        if transport == "raw":
            return raw
        own = self.resolve_topic_name(COMPRESSED_IMAGE)
        unmapped = self.resolve_topic_name(COMPRESSED_IMAGE, only_expand=True)
        return own if own != unmapped else f"{raw}/{transport}"

    def _check_changes(self, changes: Mapping[str, Any]) -> None:
        values = parameters.values(self, NODE_PARAMETERS)
        check_changes(values, changes, NODE_PARAMETERS, running=self._model is not None)

    def _apply_changes(self, changes: Mapping[str, Any]) -> None:
        if self._tracker is not None and changes:
            self._tracker.set_values(changes)

    def _stop(self, _: Any, response: Any) -> Any:
        if self._tracker is None:
            return _answer(response, False, "the node is not active")
        return _answer(response, True, self._tracker.stop())

    def _reset(self, _: Any, response: Any) -> Any:
        if self._tracker is None:
            return _answer(response, False, "the node is not active")
        self._tracker.reset()
        return _answer(response, True, "as freshly started")

    def _judge_goal(self, _: Any) -> GoalResponse:
        if self._tracker is None:
            self.get_logger().warning("goal of track_target refused: the node is not active")
            return GoalResponse.REJECT
        return GoalResponse.ACCEPT

    def _pursue(self, handle: Any) -> None:
        """Follow the target of a goal.

        The goal is executed, in rclpy's sense, when it has ended: an execution that waits would
        occupy a thread of the executor, or, as a coroutine, be asked without pause if it is done.
        """
        tracker, goal = self._tracker, handle.request
        assert tracker is not None

        def feed(message: Any) -> None:
            handle.publish_feedback(TrackTarget.Feedback(track=message))

        def finish(end: End, reason: str) -> None:
            if end in (End.DURATION, End.CANCELED, End.LOST):
                tracker.stop(name)
            last = self._pursuits.pop(bytes(handle.goal_id.uuid)).last
            handle.execute(lambda _: _result(handle, end, reason, last))

        pursuit = Pursuit(
            _nanoseconds(goal.lost_timeout), _nanoseconds(goal.duration), feed, finish
        )
        name = goal.box.target_id or DEFAULT_TARGET
        self._pursuits[bytes(handle.goal_id.uuid)] = pursuit
        tracker.pursue(goal.box, pursuit)

    def _cancel(self, handle: Any) -> CancelResponse:
        if pursuit := self._pursuits.get(bytes(handle.goal_id.uuid)):
            pursuit.ended(End.CANCELED, "cancelled")
        return CancelResponse.ACCEPT

    def _stop_tracking(self) -> None:
        _call_all(self._while_active)
        if self._tracker is not None:
            self._tracker.close()
            self._tracker = None

    def _free(self) -> None:
        _call_all(self._while_configured)
        self._outputs.clear()
        self._model = None


def _call_all(closers: list[Callable[[], Any]]) -> None:
    while closers:
        closers.pop()()


def _answer(response: Any, success: bool, message: str) -> Any:
    response.success = success
    response.message = message
    return response


def _no_execution(handle: Any) -> Any:
    raise AssertionError("a goal is executed with what became of it")


def _result(handle: Any, end: End, reason: str, last: Any) -> Any:
    if end is End.CANCELED:
        handle.canceled()
    elif end is End.DURATION:
        handle.succeed()
    else:
        handle.abort()
    result = TrackTarget.Result(end=int(end), message=reason)
    if last is not None:
        result.track = last
    return result


def _nanoseconds(duration: Any) -> int:
    return int(duration.sec) * NS + int(duration.nanosec)


def main(args: list[str] | None = None) -> int:
    """`ros2 run mixformerv2_ros tracker_node`."""
    return run(TrackerNode, args)
