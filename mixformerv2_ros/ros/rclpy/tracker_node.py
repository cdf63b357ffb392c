"""The tracker as a lifecycle node of ROS 2.

configure loads the model and runs it once; activate subscribes and tracks; deactivate unsubscribes,
forgets the targets and keeps the model; cleanup frees it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.clock import Clock, ClockType
from rclpy.parameter import Parameter
from rclpy.utilities import remove_ros_args
from rosidl_runtime_py.utilities import get_message
from std_srvs.srv import Trigger

from mixformerv2_ros.action import TrackTarget
from mixformerv2_ros.errors import BAD_INPUT, ParameterError
from mixformerv2_ros.ros.live.cameras import Camera, parse_cameras
from mixformerv2_ros.ros.live.engine_log import engine_lines
from mixformerv2_ros.ros.live.goal_observer import End, TrackGoal
from mixformerv2_ros.ros.live.live_tracker import LiveTracker
from mixformerv2_ros.ros.live.log_throttle import LogThrottle
from mixformerv2_ros.ros.live.model import Model, SharedModels, load_model
from mixformerv2_ros.ros.live.remote_commands import RemoteCommands
from mixformerv2_ros.ros.live.statistics import lifecycle_status
from mixformerv2_ros.ros.messages import Level, diagnostics_message
from mixformerv2_ros.ros.parameters import NODE_PARAMETERS, Value
from mixformerv2_ros.ros.qos import HISTORY_DEPTH
from mixformerv2_ros.ros.rclpy.cv_bridge_images import open_image
from mixformerv2_ros.ros.rclpy.managed_node import ManagedNode, qos_overridable
from mixformerv2_ros.ros.rclpy.qos_profiles import reliable
from mixformerv2_ros.ros.rclpy.run import run, run_cameras
from mixformerv2_ros.ros.rclpy.subscriptions import SensorSubscription, publications
from mixformerv2_ros.ros.topic_checks import Publication, Requested
from mixformerv2_ros.ros.topics import (
    COMMANDS,
    COMPRESSED,
    DEBUG_IMAGE,
    DEBUG_IMAGE_COMPRESSED,
    DETECTOR,
    DIAGNOSTICS,
    IMAGE,
    IMAGE_TYPES,
    IMAGES,
    INIT_POINT,
    INITS,
    OUTPUTS,
    OVERLAYS,
    RAW,
    TRACK_TARGET,
)
from mixformerv2_ros.text import printable
from mixformerv2_ros.tracking.events import DEFAULT_TARGET
from mixformerv2_ros.tracking.frame import NS

PROGRAM = "tracker_node"

NOT_ACTIVE = "node is not active"

_PERIOD = "diagnostics.period"


class TrackerNode(ManagedNode):
    """Connects a `LiveTracker` with ROS 2."""

    parameter_table = NODE_PARAMETERS

    def __init__(
        self, load: Callable[[Mapping[str, Value]], Model] | None = None, **options: Any
    ) -> None:
        """Create the node, unconfigured.

        Args:
            load: Gives the model of parameters; `load_model` where None.
            options: See `ManagedNode`.
        """
        super().__init__("tracker", **options)
        self._load = load
        self._model: Model | None = None
        self._tracker: LiveTracker | None = None
        self._images: SensorSubscription | None = None
        self._accepted: tuple[LiveTracker, str, TrackGoal] | None = None
        self._goals: dict[bytes, TrackGoal] = {}
        self._goal_log = LogThrottle(self.log)
        # Published while there is no tracker, too.
        self._diagnostics = qos_overridable(
            self.create_publisher, get_message(OUTPUTS[DIAGNOSTICS]), self.full_topic(DIAGNOSTICS),
            reliable(),
        )  # fmt: skip
        self._reports = self.create_timer(
            float(self.get_parameter(_PERIOD).value),
            self._report,
            clock=Clock(clock_type=ClockType.STEADY_TIME),
        )
        # Not destroyed with the other entities: results of goals are sent after they have ended.
        self._server = _TrackServer(
            self,
            TrackTarget,
            TRACK_TARGET,
            execute_callback=_no_execution,
            goal_callback=self._accept_goal,
            handle_accepted_callback=self._start_goal,
            cancel_callback=self._cancel,
        )

    def destroy_node(self) -> None:
        """Destroy the node with its action."""
        self._reports.cancel()
        self._server.destroy()
        super().destroy_node()

    @property
    def failure(self) -> BaseException | None:
        """The exception that ended the tracker's thread or the receiver's; None while they run."""
        tracked = None if self._tracker is None else self._tracker.failure
        return tracked or super().failure

    def configure(self, values: Mapping[str, Value]) -> None:
        """Load the model, create publishers and services.

        Raises:
            BundleError, EngineError: the model cannot be loaded or run.
        """
        self.until_cleanup.enter_context(engine_lines(self.log))
        self._model = (self._load or load_model)(values)
        self.until_cleanup.callback(self._drop_model)
        for name, msgtype in OUTPUTS.items():
            if name != DIAGNOSTICS:
                self.create_output(
                    name, msgtype, reliable(1 if name in OVERLAYS else HISTORY_DEPTH)
                )
        for name, callback in (("~/stop", self._stop), ("~/reset", self._reset)):
            service = self.create_service(Trigger, name, callback)
            self.until_cleanup.callback(self.destroy_service, service)
        self.get_logger().info(f"configured: {self._model.summary}")

    def activate(self, values: Mapping[str, Value]) -> None:
        """Subscribe and track.

        Raises:
            ParameterError: `qos_overrides` have an unknown reliability.
        """
        assert self._model is not None
        tracker = LiveTracker(
            self._model, values, self, self.get_fully_qualified_name(), open_image
        )
        self._tracker = tracker
        self.until_deactivate.callback(self._drop_tracker)
        transport = str(values["image_transport"])
        topic, msgtype = self._image_topic(IMAGE, transport), IMAGES[transport][1]
        tracker.start()
        self._images = self.create_sensor_subscription(
            topic, msgtype, tracker.receive_image, str(values["image_qos"]), tracker.add_lost
        )
        for name, kind in INITS.items():
            self.create_reliable_subscription(name, kind, tracker.receive_init)
        self.create_reliable_subscription(*INIT_POINT, tracker.receive_point)
        self.create_reliable_subscription(*DETECTOR, tracker.receive_detections)
        for name, callback in RemoteCommands(tracker, self).callbacks.items():
            self.create_reliable_subscription(name, COMMANDS[name], callback)
        self._reports.timer_period_ns = round(float(values[_PERIOD]) * NS)
        self.get_logger().info(f"active: subscribed to {topic}")

    def image_subscription(self) -> Requested:
        """What the subscription to the images requests."""
        assert self._images is not None
        return self._images.requested

    def image_publications(self) -> list[Publication]:
        """The discovered publishers of the images."""
        return publications(self, self.image_subscription().topic)

    def image_topics(self) -> dict[str, str]:
        """Types of all published topics of images but its own, by full name."""
        own = [self.full_topic(name) for name in OVERLAYS]
        return {
            name: kind
            for name, kinds in self.get_topic_names_and_types()
            for kind in kinds
            if kind in IMAGE_TYPES
            and name not in own
            and any(each.msgtype == kind for each in publications(self, name))
        }

    def full_topic(self, name: str) -> str:
        """Full name of a topic after remapping; that of compressed images follows the raw one's."""
        if name == DEBUG_IMAGE_COMPRESSED:
            return self._image_topic(DEBUG_IMAGE, COMPRESSED)
        return super().full_topic(name)

    def publish(self, topic: str, message: Any) -> None:
        """Publish on one of the outputs."""
        if topic == DIAGNOSTICS:
            self._diagnostics.publish(message)
        else:
            super().publish(topic, message)

    def change_parameter(self, name: str, value: Any) -> None:
        """Change a parameter, as `ros2 param set` does.

        Raises:
            ParameterError: the change is refused.
        """
        (result,) = self.set_parameters([Parameter(name, value=value)])
        if not result.successful:
            raise ParameterError(result.reason)

    def apply_parameters(self, changes: Mapping[str, Any]) -> None:
        """Apply accepted changes before the next image."""
        if self._tracker is not None and changes:
            self._tracker.set_values(changes)

    def _drop_model(self) -> None:
        self._model = None

    def _drop_tracker(self) -> None:
        if self._tracker is not None:
            self._tracker.close()
            # The subscription is destroyed, but its callback would keep tracker and model.
            self._tracker = self._images = None

    def _report(self) -> None:
        """Publish the diagnostics, whatever state the node is in."""
        if self._tracker is not None:
            self._tracker.publish_diagnostics()
            return
        model = {} if self._model is None else self._model.info
        status = lifecycle_status(
            self.get_fully_qualified_name(), self.lifecycle_state, self.failed_transition, model
        )
        self.publish(DIAGNOSTICS, diagnostics_message(self.types, status, self.now_ns()))

    def _image_topic(self, base: str, transport: str) -> str:
        """Full name of an image topic; like image_transport, a rule for `image` moves both."""
        raw = str(self.resolve_topic_name(base))
        if transport == RAW:
            return raw
        name = f"{base}/{transport}"
        own, unmapped = (self.resolve_topic_name(name, only_expand=e) for e in (False, True))
        return str(own) if own != unmapped else f"{raw}/{transport}"

    def _stop(self, _: Any, response: Any) -> Any:
        if self._tracker is None:
            return _response(response, False, NOT_ACTIVE)
        self.catch_up()
        return _response(response, True, self._tracker.stop())

    def _reset(self, _: Any, response: Any) -> Any:
        if self._tracker is None:
            return _response(response, False, NOT_ACTIVE)
        self.catch_up()
        self._tracker.reset()
        return _response(response, True, "tracker reset")

    def _accept_goal(self, goal: Any) -> GoalResponse:
        """Accept a goal; its target is tracked from the next image on, whoever knows of it then."""
        self._let_go()
        if self._tracker is None:
            self.get_logger().warning(f"goal of track_target rejected: {NOT_ACTIVE}")
            return GoalResponse.REJECT
        self.catch_up()
        lost_timeout, duration = _nanoseconds(goal.lost_timeout), _nanoseconds(goal.duration)
        limit = f"for {duration / NS:g} s" if duration else "until canceled"
        text = f"accepted: {limit}, lost_timeout {lost_timeout / NS:g} s"
        self._log_goal(_target_of(goal), text)
        observer = TrackGoal(lost_timeout, duration)
        self._accepted = self._tracker, _target_of(goal), observer
        self._tracker.start_goal(goal.box, observer)
        return GoalResponse.ACCEPT

    def _start_goal(self, handle: Any) -> None:
        """Report on an accepted goal to its client, who has been told."""
        assert self._accepted is not None
        (tracker, name, observer), self._accepted = self._accepted, None
        key = bytes(handle.goal_id.uuid)

        def feedback(message: Any) -> None:
            handle.publish_feedback(TrackTarget.Feedback(track=message))

        def done(end: End, reason: str) -> None:
            if end in (End.DURATION, End.CANCELED, End.LOST):
                tracker.release(name, observer)
            last = self._goals.pop(key).last
            self._server.notify_execute(handle, lambda _: self._end_goal(handle, end, reason, last))

        self._goals[key] = observer
        # On the status topic from now on: command-line clients cancel no goal that is not.
        handle.execute()
        observer.connect(feedback, done)

    def _let_go(self) -> None:
        """Stop the target of a goal that rclpy could not accept after all."""
        if self._accepted is not None:
            (tracker, name, observer), self._accepted = self._accepted, None
            tracker.release(name, observer)

    def _end_goal(self, handle: Any, end: End, reason: str, last: Any) -> Any:
        self._log_goal(_target_of(handle.request), f"ended: {end.name}, {reason}")
        return _result(handle, end, reason, last)

    def _log_goal(self, target_id: str, text: str) -> None:
        self._goal_log.burst(Level.OK, "goals", f"goal of {printable(target_id)} {text}")

    def _cancel(self, handle: Any) -> CancelResponse:
        if observer := self._goals.get(bytes(handle.goal_id.uuid)):
            observer.on_end(End.CANCELED, "canceled")
        return CancelResponse.ACCEPT


class _TrackServer(ActionServer):
    """An action server whose goals are EXECUTING without a callback until they have ended.

    A callback that waits for the end would occupy a thread of the executor, or, as a coroutine, be
    polled without pause.
    """

    def notify_execute(
        self, goal_handle: Any, execute_callback: Callable[[Any], Any] | None
    ) -> None:
        """Execute a callback in the executor, which gives the result; nothing where it is None."""
        if execute_callback is not None:
            super().notify_execute(goal_handle, execute_callback)


def _response(response: Any, success: bool, message: str) -> Any:
    response.success = success
    response.message = message
    return response


def _no_execution(handle: Any) -> Any:
    raise AssertionError("a goal is executed with its result")


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


def _target_of(goal: Any) -> str:
    return goal.box.target_id or DEFAULT_TARGET


def _nanoseconds(duration: Any) -> int:
    return int(duration.sec) * NS + int(duration.nanosec)


def main(args: list[str] | None = None) -> int:
    """`ros2 run mixformerv2_ros tracker_node [--camera NS[=TOPIC] ...]`."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description="The tracker node; parameters and remapping rules: --ros-args."
    )
    parser.add_argument(
        "--camera",
        action="append",
        default=[],
        metavar="NS[=TOPIC]",
        help="a camera with a node of its own in namespace NS, its images on TOPIC (default: "
        "NS/image); repeated, cameras share one process and one engine",
    )
    words = parser.parse_args(remove_ros_args(sys.argv if args is None else args)[1:])
    if not words.camera:
        return run(TrackerNode, args)
    try:
        cameras = parse_cameras(words.camera)
    except ParameterError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return BAD_INPUT
    models = SharedModels()
    makes = {one.namespace: partial(_camera_node, one, models) for one in cameras}
    return run_cameras(makes, PROGRAM, args)


def _camera_node(camera: Camera, models: SharedModels) -> TrackerNode:
    """The node of one of several cameras; its rules come before those of the process."""
    rules = ["-r", f"__ns:=/{camera.namespace}"]
    if camera.image:
        rules += ["-r", f"{IMAGE}:={camera.image}"]
    return TrackerNode(models.load, cli_args=["--ros-args", *rules])
