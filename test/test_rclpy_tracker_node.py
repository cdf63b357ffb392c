"""The tracker node on rclpy, where ROS 2 is installed and this package is built."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import weakref
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nodes import BUNDLE, box_of, content, frame_stamp
from processes import ROOT, Command
from recordings import RedEngine, picture, red_box
from waiting import repeat_until, wait_for

pytest.importorskip("rclpy", reason="needs rclpy, which is not installed")

from action_msgs.msg import GoalStatus
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import State as LifecycleState
from lifecycle_msgs.srv import GetState
from rcl_interfaces.msg import Log, ParameterType
from rcl_interfaces.srv import DescribeParameters, GetParameters
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.parameter_client import AsyncParameterClient
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.utilities import get_rmw_implementation_identifier
from ros_peers import (  # noqa: F401
    BEST_EFFORT,
    RELIABLE,
    Goal,
    Peer,
    Tracker,
    draw,
    image,
    init_box,
    peer,
    red,
    ros,
    tracker,
)
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image, RegionOfInterest
from std_srvs.srv import Trigger
from vision_msgs.msg import Detection2D, Detection2DArray

from mixformerv2_ros.action import TrackTarget
from mixformerv2_ros.engines.loader import load_engine
from mixformerv2_ros.errors import ImageError
from mixformerv2_ros.model.bundle import open_bundle
from mixformerv2_ros.msg import InitBox, Track
from mixformerv2_ros.ros.live.goal_observer import End
from mixformerv2_ros.ros.live.model import Model
from mixformerv2_ros.ros.messages import stamp_ns, track_message
from mixformerv2_ros.ros.parameters import NODE_PARAMETERS
from mixformerv2_ros.ros.rclpy import tracker_node
from mixformerv2_ros.ros.rclpy.cv_bridge_images import open_image
from mixformerv2_ros.ros.rclpy.message_types import message_types
from mixformerv2_ros.ros.rclpy.run import CYCLONE
from mixformerv2_ros.tracking.frame import Frame
from mixformerv2_ros.tracking.pixels import Pixels
from mixformerv2_ros.tracking.session import Session
from mixformerv2_ros.tracking.settings import TrackerSettings

needs_cv_bridge = pytest.mark.skipif(
    find_spec("cv_bridge") is None, reason="needs cv_bridge, which is not installed"
)


def test_every_image_gives_a_track_and_an_array(peer: Peer, tracker: Tracker) -> None:
    camera = peer.camera()
    peer.show(camera, 0)
    assert peer.heard["/track"][0].state == Track.IDLE
    draw(peer, init_box(red_box(1), frame_stamp(1)))
    peer.show(camera, 1, 2, 3)
    for index, track in enumerate(peer.heard["/track"]):
        assert stamp_ns(track) == frame_stamp(index)
        assert track.header.frame_id == "cam"
        if index:
            assert track.state == Track.TRACKING
            assert box_of(track) == pytest.approx(red_box(index), abs=1)
    arrays = peer.heard["/detections"]
    assert [len(array.detections) for array in arrays] == [0, 1, 1, 1]
    assert arrays[3].detections[0].id == "target"


def test_a_box_that_came_before_an_image_starts_in_it(peer: Peer, tracker: Tracker) -> None:
    camera = peer.camera()
    boxes = peer.node.create_publisher(InitBox, "/init_box", RELIABLE)
    wait_for(lambda: boxes.get_subscription_count() > 0, "a subscription to the boxes")
    expected = []
    for index in range(20):
        x, y, w, h = red_box(index)
        beside = (x + 3, y + 2, w, h)  # the engine would not put it there
        boxes.publish(init_box(beside))
        peer.show(camera, index)
        expected.append((frame_stamp(index), pytest.approx(beside)))
    assert [(stamp_ns(track), box_of(track)) for track in peer.heard["/track"]] == expected


def test_tracks_are_those_of_a_session(peer: Peer) -> None:
    """The real model: the numbers of the same frames without any middleware."""
    bundle = open_bundle(None)
    session = Session(load_engine(bundle, "onnxruntime", "cpu", 1), TrackerSettings(
        search_factor=bundle.search_factor, template_factor=bundle.template_factor,
        template_background_contrast=bundle.template_background_contrast,
    ))  # fmt: skip
    frames = [Frame(Pixels.from_array(picture(i)), frame_stamp(i), "cam") for i in range(6)]
    expected = [session.start(frames[0], red_box(0))]
    for frame in frames[1:]:
        expected += session.update(frame)
    made = Tracker(num_threads=1)
    try:
        camera = peer.camera()
        draw(peer, init_box(red_box(0), frame_stamp(0)))
        peer.show(camera, *range(6))
    finally:
        made.close()
    heard = [content(track) for track in peer.heard["/track"]]
    assert heard == [content(track_message(message_types, track)) for track in expected]


def test_boxes_come_as_detections_and_regions(peer: Peer, tracker: Tracker) -> None:
    camera = peer.camera()
    x, y, w, h = red_box(0)
    detection = Detection2D(id="one")
    detection.bbox.center.position.x, detection.bbox.center.position.y = x + w / 2, y + h / 2
    detection.bbox.size_x, detection.bbox.size_y = float(w), float(h)
    draw(peer, detection, "/init_detection")
    peer.show(camera, 0)
    region = RegionOfInterest(x_offset=int(x) + 2, y_offset=int(y) + 1, width=int(w), height=int(h))
    draw(peer, region, "/init_roi")
    peer.show(camera, 1)
    # The detections of an image may arrive before its second track.
    wait_for(
        lambda: {track.target_id for track in peer.heard["/track"][-2:]} == {"one", "target"},
        "the tracks of both targets",
    )


def test_compressed_images(peer: Peer, red: None) -> None:
    import cv2

    made = Tracker("-r", "image:=/cam/image_raw", image_transport="compressed")
    try:
        camera = peer.camera("/cam/image_raw/compressed", CompressedImage)
        draw(peer, init_box(red_box(0)))
        message = CompressedImage(format="png")
        message.header = image(0).header
        message.data = cv2.imencode(".png", picture(0)[..., ::-1])[1].tobytes()
        camera.publish(message)
        wait_for(lambda: peer.heard["/track"], "a track")
        assert box_of(peer.heard["/track"][0]) == pytest.approx(red_box(0))
        camera.publish(CompressedImage(format="jpeg", data=b"no jpeg"))
        peer.wait_for_line("image cannot be decoded")
    finally:
        made.close()


@pytest.mark.parametrize(
    ("quality", "offered", "words"),
    [
        ("auto", BEST_EFFORT, ""),
        ("auto", RELIABLE, ""),
        ("sensor_data", RELIABLE, ""),
        ("reliable", BEST_EFFORT, "a publisher offers best effort, volatile, this subscription "
                                  "requests reliable, volatile"),
    ],
)  # fmt: skip
def test_quality_of_the_images(
    peer: Peer, red: None, quality: str, offered: Any, words: str
) -> None:
    made = Tracker(image_qos=quality)
    try:
        camera = peer.node.create_publisher(Image, "/image", offered)
        if words:
            peer.wait_for_line(words)
            assert camera.get_subscription_count() == 0
            return
        wait_for(lambda: camera.get_subscription_count() > 0, "a subscription")
        repeat_until(lambda: camera.publish(image(0)), lambda: peer.heard["/track"], "a track")
        if quality == "auto":

            def reliabilities() -> list[ReliabilityPolicy]:
                found = peer.node.get_subscriptions_info_by_topic("/image")
                return [info.qos_profile.reliability for info in found]

            # While the subscription is created anew there is none.
            wait_for(lambda: reliabilities() == [offered.reliability], "the chosen reliability")
        assert not any("offers" in line for line in peer.lines)
    finally:
        made.close()


def test_qos_overrides_win(peer: Peer, red: None) -> None:
    name = "qos_overrides./image.subscription"
    made = Tracker("-p", f"{name}.reliability:=best_effort", "-p", f"{name}.depth:=2")
    try:
        camera = peer.camera()
        peer.show(camera, 0)
        (info,) = peer.node.get_subscriptions_info_by_topic("/image")
        assert info.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT
    finally:
        made.close()


def test_lifecycle(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = weakref.WeakSet[RedEngine]()

    def load_model(values: Any) -> Model:
        engine = RedEngine()
        loaded.add(engine)
        return Model(BUNDLE, engine)

    def models() -> int:
        gc.collect()
        return len(loaded)

    monkeypatch.setattr(tracker_node, "load_model", load_model)
    made = Tracker(active=False)
    try:
        assert not peer.node.get_subscriptions_info_by_topic("/image")
        made.go("configure")
        assert not peer.node.get_subscriptions_info_by_topic("/image")
        answer = peer.call(Trigger, "/tracker/stop", Trigger.Request())
        assert (answer.success, answer.message) == (False, "node is not active")
        for _ in range(2):
            made.go("activate")
            camera = peer.camera()
            peer.heard.clear()
            peer.listen("/track", Track)
            peer.listen("/detections", Detection2DArray)
            draw(peer, init_box(red_box(0)))
            peer.show(camera, 0)
            assert peer.heard["/track"][0].state == Track.TRACKING
            made.go("deactivate")
            wait_for(partial(unheard, camera), "the end of the subscription")
            peer.node.destroy_publisher(camera)
        assert models() == 1
        made.go("cleanup")
        assert models() == 0
        made.go("configure")
        assert made.go("activate") == TransitionCallbackReturn.SUCCESS
        state = peer.call(GetState, "/tracker/get_state", GetState.Request()).current_state
        assert state.id == LifecycleState.PRIMARY_STATE_ACTIVE
    finally:
        made.close()


def test_a_wrong_model_refuses_to_configure(peer: Peer, tmp_path: Path) -> None:
    made = Tracker(active=False, model=tmp_path)
    try:
        assert made.go("configure") == TransitionCallbackReturn.FAILURE
        peer.wait_for_line(f"{tmp_path}: must hold model.json")
        made.node.set_parameters([Parameter("model", value="")])
        assert made.go("configure") == TransitionCallbackReturn.SUCCESS
    finally:
        made.close()


def test_parameters_say_what_the_table_says(peer: Peer, tracker: Tracker) -> None:
    names = [p.name for p in NODE_PARAMETERS]
    request = DescribeParameters.Request(names=names)
    described = peer.call(DescribeParameters, "/tracker/describe_parameters", request).descriptors
    values = peer.call(
        GetParameters, "/tracker/get_parameters", GetParameters.Request(names=names)
    ).values
    kinds = {
        bool: (ParameterType.PARAMETER_BOOL, "bool_value"),
        int: (ParameterType.PARAMETER_INTEGER, "integer_value"),
        float: (ParameterType.PARAMETER_DOUBLE, "double_value"),
        str: (ParameterType.PARAMETER_STRING, "string_value"),
    }
    for p, text, value in zip(NODE_PARAMETERS, described, values, strict=True):
        kind, field = kinds[type(p.default)]
        assert text.type == value.type == kind
        assert getattr(value, field) == p.default
        assert text.description.startswith(p.text)
        assert ("not changeable at runtime" in text.additional_constraints) == (not p.live)
        assert all(choice in text.additional_constraints for choice in p.choices)
        for bounds in (*text.floating_point_range, *text.integer_range):
            assert (bounds.from_value, bounds.to_value) == (p.low, p.high)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lost.score_threshold": 3.0}, "1.0"),
        ({"lost.score_threshold": 0.9}, "must not exceed uncertain.score_threshold"),
        ({"image_qos": "best"}, "image_qos"),
        ({"model": "/elsewhere"}, "cannot be changed at runtime"),
        ({"template_update.interval": 0}, "1"),
        ({"lost.score_threshold": 0.3, "uncertain.score_threshold": 0.25}, "must not exceed"),
        ({"lost.score_threshold": 0.5, "uncertain.score_threshold": 0.6}, ""),
        ({"template_update.interval": 3, "template_update.period": 1.5}, ""),
    ],
)  # fmt: skip
def test_parameters_change_as_a_set(
    peer: Peer, tracker: Tracker, changes: dict[str, Any], words: str
) -> None:
    names = [p.name for p in NODE_PARAMETERS]
    before = dict(zip(names, peer.parameters("/tracker", *names), strict=True))
    client = AsyncParameterClient(peer.node, "/tracker")
    assert client.wait_for_services(10)
    future = client.set_parameters_atomically(
        [Parameter(name, value=value) for name, value in changes.items()]
    )
    wait_for(future.done, "an answer")
    result = future.result().result
    assert result.successful == (not words), result.reason
    assert words in result.reason
    expected = before if words else {**before, **changes}
    assert dict(zip(names, peer.parameters("/tracker", *names), strict=True)) == expected


def test_changed_parameters_apply_to_the_next_image(peer: Peer, tracker: Tracker) -> None:
    camera = peer.camera()
    draw(peer, init_box(red_box(0)))
    peer.show(camera, 0)
    client = AsyncParameterClient(peer.node, "/tracker")
    assert client.wait_for_services(10)
    future = client.set_parameters([Parameter("uncertain.score_threshold", value=0.95)])
    wait_for(future.done, "an answer")
    peer.show(camera, 1)
    assert [track.state for track in peer.heard["/track"]] == [Track.TRACKING, Track.UNCERTAIN]


def test_services(peer: Peer, tracker: Tracker) -> None:
    camera = peer.camera()
    draw(peer, init_box(red_box(0)))
    peer.show(camera, 0)
    answer = peer.call(Trigger, "/tracker/stop", Trigger.Request())
    assert (answer.success, answer.message) == (True, "stopped: target")
    peer.show(camera, 1)
    assert peer.heard["/track"][-1].state == Track.IDLE
    assert peer.call(Trigger, "/tracker/reset", Trigger.Request()).success


def test_an_action_gives_tracks_until_it_is_cancelled(peer: Peer, tracker: Tracker) -> None:
    camera = peer.camera()
    goal = Goal(peer, stamp=frame_stamp(0))
    peer.show(camera, 0, 1, 2)
    wait_for(lambda: len(goal.feedback) == 3, "feedback")
    assert box_of(goal.feedback[2]) == pytest.approx(red_box(2), abs=1)
    goal.handle.cancel_goal_async()
    status, result = goal.result()
    assert (status, result.end) == (GoalStatus.STATUS_CANCELED, TrackTarget.Result.CANCELED)
    assert result.track == goal.feedback[2]
    peer.show(camera, 3)
    assert peer.heard["/track"][-1].state == Track.IDLE


def test_a_goal_that_is_accepted_starts_in_the_next_image(peer: Peer, tracker: Tracker) -> None:
    camera = peer.camera()
    for index in range(0, 10, 2):
        goal = Goal(peer, box=red_box(index))
        peer.show(camera, index)
        wait_for(lambda goal=goal: goal.feedback, "feedback")
        assert stamp_ns(goal.feedback[0]) == frame_stamp(index)
        goal.handle.cancel_goal_async()
        assert goal.result()[1].end == End.CANCELED
        peer.show(camera, index + 1)


def test_ctrl_c_on_the_command_line_cancels_the_goal(
    peer: Peer, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command-line client cancels a goal only if the status topic has named it as active."""
    ros2 = shutil.which("ros2")
    assert ros2 is not None
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")
    camera = peer.camera()
    box = dict(zip("xywh", map(float, red_box(0)), strict=True))
    words = ["action", "send_goal", "/track_target", "mixformerv2_ros/action/TrackTarget"]
    with Command(*words, str({"box": box}), program=[ros2]) as client:
        wait_for(lambda: any("accepted" in line for line in client.output), "the goal")
        peer.show(camera, 0)
        assert peer.heard["/track"][-1].state == Track.TRACKING
        client.process.send_signal(signal.SIGINT)
        client.process.wait(30)
    assert "Canceling goal..." in client.output
    peer.show(camera, 1)
    assert peer.heard["/track"][-1].state == Track.IDLE


@pytest.mark.parametrize(
    ("fields", "work", "status", "end"),
    [
        ({"duration": 1}, lambda p, c: p.show(c, 0, 10, 20, 21),
         GoalStatus.STATUS_SUCCEEDED, End.DURATION),
        ({"box": (0, 0, 0, 0)}, lambda p, c: p.show(c, 0), GoalStatus.STATUS_ABORTED, End.REJECTED),
        ({}, lambda p, c: (p.show(c, 0), p.call(Trigger, "/tracker/stop", Trigger.Request())),
         GoalStatus.STATUS_ABORTED, End.STOPPED),
        ({}, lambda p, c: (p.show(c, 0), draw(p, init_box(red_box(1))), p.show(c, 1)),
         GoalStatus.STATUS_ABORTED, End.REPLACED),
        ({}, lambda p, c: (p.show(c, 30), p.step_back(c)), GoalStatus.STATUS_ABORTED,
         End.RESET),
        # The target has left the picture. A step ahead is held until the next image confirms it.
        ({}, lambda p, c: (p.show(c, 0),
                           [p.deliver(c, image(i), "/tracker") for i in (500, 501, 530, 531)]),
         GoalStatus.STATUS_ABORTED, End.LOST),
    ],
)  # fmt: skip
def test_ends_of_an_action(
    peer: Peer, tracker: Tracker, fields: Any, work: Any, status: int, end: End
) -> None:
    camera = peer.camera()
    goal = Goal(peer, **fields)
    work(peer, camera)
    got, result = goal.result()
    assert (got, result.end) == (status, end), result.message
    assert result.message


def test_a_goal_that_is_cancelled_leaves_the_next_one_alone(peer: Peer, tracker: Tracker) -> None:
    camera = peer.camera()
    first = Goal(peer)
    peer.show(camera, 0)
    second = Goal(peer, stamp=frame_stamp(3), box=red_box(3))
    first.handle.cancel_goal_async()
    assert first.result()[1].end == End.CANCELED
    peer.show(camera, 1, 3)
    wait_for(lambda: second.feedback, "feedback of the second goal")
    assert box_of(second.feedback[0]) == pytest.approx(red_box(3))


@pytest.mark.parametrize("transitions", [("deactivate", "cleanup"), ("shutdown",)])
def test_goals_learn_of_the_end_however_it_comes(
    peer: Peer, tracker: Tracker, transitions: tuple[str, ...]
) -> None:
    goal = Goal(peer)

    def end() -> None:
        for transition in transitions:
            getattr(tracker.node, f"trigger_{transition}")()

    tracker.spinning.executor.create_task(end)
    assert goal.result()[1].end == End.CLOSED


def test_constants_of_the_action() -> None:
    assert {end.name: int(end) for end in End} == {
        name: getattr(TrackTarget.Result, name) for name in End.__members__
    }


def test_goals_are_refused_while_inactive_and_end_with_the_activity(
    peer: Peer, tracker: Tracker
) -> None:
    goal = Goal(peer)
    tracker.go("deactivate")
    assert goal.result()[1].end == End.CLOSED
    assert not Goal(peer).handle.accepted


def malformed(**fields: Any) -> Any:
    message = image(0)
    for name, value in fields.items():
        setattr(message, name, value)
    return message


def test_malformed_images_leave_the_node_up(peer: Peer, tracker: Tracker) -> None:
    camera = peer.camera()
    peer.listen("/diagnostics", DiagnosticArray)
    for message in (
        malformed(encoding="smell8"),
        malformed(step=1),
        malformed(height=0),
        malformed(height=10**6),
        malformed(data=[]),
    ):
        camera.publish(message)
    peer.wait_for_line("image cannot be decoded")
    peer.show(camera, 1)
    wait_for(
        lambda: any(
            value.key == "images not decodable"
            for array in peer.heard["/diagnostics"]
            for value in array.status[0].values
        ),
        "diagnostics",
    )


@needs_cv_bridge
def test_distances_are_tracked_in_as_grey(peer: Peer, tracker: Tracker) -> None:
    from cv_bridge import CvBridge

    values = picture(0)[..., 0].astype(np.float32)
    values[0, 0] = np.nan
    message = CvBridge().cv2_to_imgmsg(values, "32FC1", header=image(0).header)
    frame = open_image(message)
    low, high = np.nanmin(values), np.nanmax(values)
    expected = ((np.nan_to_num(values, nan=low) - low) * 255 / (high - low)).round()
    np.testing.assert_array_equal(frame.pixels.rgb()[..., 0], expected)
    camera = peer.camera()
    camera.publish(message)
    wait_for(lambda: peer.heard["/track"], "a track")
    message.data = message.data[:-8]
    camera.publish(message)
    peer.wait_for_line("cannot decode 32FC1 image")


@needs_cv_bridge
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"step": 320}, "160x120 with step 320 does not fit its 76800 bytes"),
        ({"width": 320}, "320x120 with step 640 does not fit its 76800 bytes"),
        ({"step": 638, "width": 150}, "150x120 with step 638 does not fit its 76800 bytes"),
        ({"height": 240}, "160x240 with step 640 does not fit its 76800 bytes"),
        ({"width": 0}, "1 to 100,000,000 pixels, got 0x120"),
        ({"height": 0, "step": 0}, "1 to 100,000,000 pixels, got 160x0"),
        ({"width": 2**31, "height": 2**31}, "1 to 100,000,000 pixels, got 2147483648x2147483648"),
    ],
)
def test_grey_images_that_do_not_fit_their_bytes_are_refused(changes: Any, words: str) -> None:
    message = Image(height=120, width=160, encoding="32FC1", step=640, data=bytes(76800))
    for name, value in changes.items():
        setattr(message, name, value)
    with pytest.raises(ImageError, match=f"cannot decode 32FC1 image: .*{words}"):
        open_image(message)


@needs_cv_bridge
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("order", ["<", ">"])
def test_grey_of_padded_rows_and_of_numbers_as_far_apart_as_there_are(order: str) -> None:
    most = np.finfo(np.float64).max
    values = np.array([[-most, 0, most, 7], [np.nan, np.inf, -np.inf, 7]], f"{order}f8")
    message = Image(height=2, width=3, encoding="64FC1", step=32, data=values.tobytes())
    message.is_bigendian = int(order == ">")
    try:
        frame = open_image(message)
    except ImageError:
        if order == "<" or hasattr(np.ndarray, "newbyteorder"):
            raise
        pytest.skip("this cv_bridge swaps bytes by a method that numpy 2 has no more")
    np.testing.assert_array_equal(frame.pixels.rgb()[..., 0], [[0, 128, 255], [0, 0, 0]])


def test_the_overlay_comes_when_somebody_listens(peer: Peer, tracker: Tracker) -> None:
    camera = peer.camera()
    draw(peer, init_box(red_box(0)))
    peer.show(camera, 0)
    peer.listen("/debug_image", Image)
    wait_for(lambda: peer.node.count_publishers("/debug_image"), "the overlay's publisher")
    wait_for(lambda: tracker.node.has_subscribers("debug_image"), "the listener")
    peer.show(camera, 1)
    wait_for(lambda: peer.heard["/debug_image"], "an overlay")
    (overlay,) = peer.heard["/debug_image"]
    assert (overlay.encoding, overlay.width, overlay.height) == ("bgr8", 160, 120)
    drawn = np.frombuffer(overlay.data, np.uint8).reshape(120, 160, 3)
    assert (drawn != picture(1)[..., ::-1]).any()


def test_simulated_time(peer: Peer, red: None) -> None:
    made = Tracker(use_sim_time=True)
    try:
        peer.listen("/diagnostics", DiagnosticArray)
        clock = peer.node.create_publisher(Clock, "/clock", BEST_EFFORT)
        wait_for(lambda: clock.get_subscription_count() > 0, "a subscription to the clock")
        message = Clock()
        message.clock.sec = 1234
        repeat_until(
            lambda: clock.publish(message),
            lambda: any(m.header.stamp.sec == 1234 for m in peer.heard["/diagnostics"]),
            "simulated time in the diagnostics",
        )
    finally:
        made.close()


def test_the_process_ends_in_order(peer: Peer) -> None:
    with Command(program=[ROOT / "scripts" / "tracker_node"]) as node:
        node.wait_for_line("active: subscribed to /image")
        goal = Goal(peer)
        node.process.send_signal(signal.SIGINT)
        status, result = goal.result()
        assert (status, result.end) == (GoalStatus.STATUS_ABORTED, End.CLOSED)
        assert node.end() == 0
    assert not any("Traceback" in line or "never awaited" in line for line in node.lines)


def test_the_process_requests_a_receive_buffer_for_images(
    peer: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if get_rmw_implementation_identifier() != CYCLONE:
        pytest.skip("the middleware is not Cyclone DDS")
    own = os.environ["CYCLONEDDS_URI"]
    trace = (
        f"<Tracing><Verbosity>config</Verbosity><OutputFile>{tmp_path}/log</OutputFile></Tracing>"
    )
    monkeypatch.setenv("CYCLONEDDS_URI", f"{own},<CycloneDDS><Domain>{trace}</Domain></CycloneDDS>")
    with Command(program=[ROOT / "scripts" / "tracker_node"]) as node:
        node.wait_for_line("active: subscribed to /image")
    assert "SocketReceiveBufferSize[@max]: 16 MiB" in (tmp_path / "log").read_text()


def test_repeated_signals_do_not_cut_off_the_end(peer: Peer) -> None:
    with Command(program=[ROOT / "scripts" / "tracker_node"]) as node:
        node.wait_for_line("active: subscribed to /image")
        repeat_until(
            lambda: node.process.send_signal(signal.SIGINT),
            lambda: node.process.poll() is not None,
            "signals until the end",
            period=0.01,
        )
        assert node.end() == 0
    assert not any("Traceback" in line for line in node.lines)


def test_a_defect_ends_the_process(peer: Peer) -> None:
    """A callback that raises must not leave a process behind that does nothing."""
    code = (
        "import sys\n"
        "from mixformerv2_ros.ros.rclpy import tracker_node\n"
        "tracker_node.LiveTracker.receive_image = lambda *_: 1 / 0\n"
        "sys.exit(tracker_node.main())"
    )
    with Command(program=["-c", code]) as node:
        node.wait_for_line("active: subscribed to /image")
        peer.camera().publish(image(0))
        assert node.process.wait(30) == 1
    assert any("ZeroDivisionError" in line for line in node.lines)


def test_a_parameter_file_with_a_misspelt_name_and_an_integer_for_a_float(
    peer: Peer, red: None, tmp_path: Path
) -> None:
    file = tmp_path / "parameters.yaml"
    file.write_text(
        "/**: {ros__parameters: {lost: {duration: 2, durration: 3}, fps: 30, use_sim_time: false}}"
    )
    made = Tracker("--params-file", str(file))
    try:
        peer.wait_for_line("unknown parameter lost.durration ignored; nearest: lost.duration")
        peer.wait_for_line("unknown parameter fps ignored")
        assert peer.parameters("/tracker", "lost.duration") == [2.0]
        assert not any("sim_time" in line for line in peer.lines)
        # At runtime as well.
        client = AsyncParameterClient(peer.node, "/tracker")
        assert client.wait_for_services(10)
        future = client.set_parameters([Parameter("lost.duration", value=3)])
        wait_for(future.done, "an answer")
        assert future.result().results[0].successful
        assert peer.parameters("/tracker", "lost.duration") == [3.0]
    finally:
        made.close()


@pytest.mark.parametrize(
    ("transport", "kind", "topic", "words"),
    [
        ("raw", CompressedImage, "/cam/compressed",
         "this node subscribes to sensor_msgs/msg/Image; no messages will be received from that "
         "publisher; set image_transport:=compressed and remap image:=/cam"),
        ("compressed", Image, "/cam",
         "no publisher on /cam/compressed; image topics: /cam (sensor_msgs/msg/Image); "
         "for /cam set image_transport:=raw"),
    ],
)  # fmt: skip
def test_the_log_says_why_no_image_comes(
    peer: Peer, red: None, transport: str, kind: type, topic: str, words: str
) -> None:
    publisher = peer.node.create_publisher(kind, topic, RELIABLE)
    made = Tracker("-r", f"image:={topic}", image_transport=transport, image_timeout=0.5)
    try:
        peer.wait_for_line(words)
        assert not any("QoS" in line for line in peer.lines)
    finally:
        made.close()
        peer.node.destroy_publisher(publisher)


@pytest.mark.parametrize("pair", ["lost.score_threshold:=7.0", "lost.duration:=soon"])
def test_a_wrong_parameter_ends_the_process_with_one_line(pair: str) -> None:
    words = ("--ros-args", "-p", pair)
    with Command(*words, program=[ROOT / "scripts" / "tracker_node"]) as node:
        assert node.process.wait(30) == 2
        assert node.end() == 2
    (line,) = [line for line in node.lines if "TrackerNode" in line]
    assert pair.split(":=")[0] in line


def test_the_node_without_ros_serves_ros(peer: Peer) -> None:
    """`mixformerv2 node` on Cyclone DDS from PyPI, and rclpy on this side."""
    pytest.importorskip("cyclonedds", reason="needs cyclonedds, which is not installed")
    peer.listen("/rosout", Log, QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL))
    peer.listen("/debug_image/compressed", CompressedImage)
    with Command("node") as node:
        node.wait_for_line("ready: model")
        wait_for(lambda: "/tracker" in names(peer), "the node in the graph")
        (info,) = peer.node.get_publishers_info_by_topic("/track")
        assert info.topic_type == "mixformerv2_ros/msg/Track"
        camera = peer.camera()
        draw(peer, init_box(red_box(0), frame_stamp(0)))
        peer.show(camera, 0, 1, 2)
        wait_for(lambda: peer.heard["/debug_image/compressed"], "an overlay")
        ready = [m for m in peer.heard["/rosout"] if m.msg.startswith("ready: model")]
        assert [(m.name, m.level) for m in ready] == [("tracker", 20)]
        assert node.end() == 0
    assert [track.state for track in peer.heard["/track"]] == [Track.TRACKING] * 3
    assert box_of(peer.heard["/track"][0]) == pytest.approx(red_box(0))


def unheard(publisher: Any) -> bool:
    return publisher.get_subscription_count() == 0


def names(peer: Peer) -> list[str]:
    return [
        f"{namespace.rstrip('/')}/{name}"
        for name, namespace in peer.node.get_node_names_and_namespaces()
    ]
