"""The MAVLink camera, asked by a ground station on loopback."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from nodes import TYPES, Remote, free_port, image
from ranging import track as a_track
from recordings import HEIGHT, WIDTH, red_box

os.environ["MAVLINK20"] = "1"
mavutil = pytest.importorskip("pymavlink.mavutil", reason="needs pymavlink, the extra `mavlink`")

from waiting import repeat_until, wait_for  # noqa: E402

from mixformerv2_ros.cli import main  # noqa: E402
from mixformerv2_ros.errors import MiddlewareError, ParameterError  # noqa: E402
from mixformerv2_ros.ros.mavlink.camera import CameraSettings  # noqa: E402
from mixformerv2_ros.ros.mavlink.link import Link  # noqa: E402
from mixformerv2_ros.ros.messages import (  # noqa: E402
    Level,
    Status,
    diagnostics_message,
    header_message,
    make_message,
    make_pose,
    track_message,
)
from mixformerv2_ros.ros.remote.tracker_view import TrackerView  # noqa: E402
from mixformerv2_ros.tracking.boxes import Box  # noqa: E402
from mixformerv2_ros.tracking.session import State  # noqa: E402

m = mavutil.mavlink
SYSTEM, COMPONENT = 7, 101
ACCEPTED, DENIED = m.MAV_RESULT_ACCEPTED, m.MAV_RESULT_DENIED


class Station:
    """A camera in a thread, and a ground station that talks to it."""

    def __init__(self) -> None:
        self.remote = Remote()
        self.view = TrackerView(self.remote)
        self.lines: list[tuple[Level, str]] = []
        self.heard: dict[str, Any] = {}
        self._ended = threading.Event()
        port = free_port()
        settings = CameraSettings(SYSTEM, COMPONENT, "dog", "rtsp://camera/1")
        self.link = Link(f"udpin:127.0.0.1:{port}", 57600, self.view, settings, self._log)
        self._thread = threading.Thread(target=self.link.run, args=(self._ended.is_set,))
        self.mav = mavutil.mavlink_connection(
            f"udpout:127.0.0.1:{port}", source_system=255, dialect="common"
        )

    def __enter__(self) -> Station:
        self._thread.start()
        # The camera's heart beats every second, which is long to wait for in each test.
        answers: list[Any] = []

        def answered() -> bool:
            answers.append(self.next("COMMAND_ACK", 0.2))
            return any(answers)

        repeat_until(self._greet, answered, "an acknowledgement")
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()
        self.mav.close()

    def _log(self, level: Level, text: str) -> None:
        self.lines.append((level, text))

    def _greet(self) -> None:
        self.mav.mav.heartbeat_send(m.MAV_TYPE_GCS, m.MAV_AUTOPILOT_INVALID, 0, 0, 0)
        command = m.MAV_CMD_DO_SET_HOME  # which a camera refuses, and no test asks for
        self.mav.mav.command_long_send(SYSTEM, COMPONENT, command, 0, *(0.0,) * 7)

    def next(self, kind: str, seconds: float = 30) -> Any:
        return self.mav.recv_match(type=kind, blocking=True, timeout=seconds)

    def ask(
        self,
        command: int,
        *params: float,
        to: tuple[int, int] = (SYSTEM, COMPONENT),
        again: int = 0,
    ) -> int:
        """Send a command; the result that it is acknowledged with."""
        seven = (*params, *(0.0,) * (7 - len(params)))
        self.mav.mav.command_long_send(*to, command, again, *seven)
        while (answer := self.mav.recv_match(blocking=True, timeout=30)) is not None:
            self.heard[answer.get_type()] = answer
            if answer.get_type() == "COMMAND_ACK" and answer.command == command:
                assert (answer.get_srcSystem(), answer.get_srcComponent()) == (SYSTEM, COMPONENT)
                assert (answer.target_system, answer.target_component) == (255, 0)
                return int(answer.result)
        raise AssertionError(f"command {command} was not acknowledged")

    def know_size(self) -> None:
        """Let the tracker report images of 640x480."""
        status = Status("tracker: tracker", "cpu", Level.OK, "ok", {"image": "640x480 bgr8"})
        self.view.receive_diagnostics(diagnostics_message(TYPES, status, 1))

    def boxes(self) -> list[tuple[float, ...]]:
        told = [message for topic, message in self.remote.told if topic == "init_box"]
        return [(one.x, one.y, one.w, one.h) for one in told]


@pytest.fixture
def station() -> Iterator[Station]:
    with Station() as one:
        one.know_size()
        yield one


def test_it_is_a_camera_with_tracking(station: Station) -> None:
    beat = station.next("HEARTBEAT")
    assert (beat.type, beat.autopilot) == (m.MAV_TYPE_CAMERA, m.MAV_AUTOPILOT_INVALID)
    for command, number in (
        (m.MAV_CMD_REQUEST_MESSAGE, m.MAVLINK_MSG_ID_CAMERA_INFORMATION),
        (m.MAV_CMD_REQUEST_CAMERA_INFORMATION, 1),
    ):
        assert station.ask(command, number) == ACCEPTED
        told = station.heard["CAMERA_INFORMATION"]
        assert told.flags & m.CAMERA_CAP_FLAGS_HAS_TRACKING_RECTANGLE
        assert told.flags & m.CAMERA_CAP_FLAGS_HAS_TRACKING_POINT
        assert (told.resolution_h, told.resolution_v) == (640, 480)
        assert bytes(told.vendor_name).rstrip(b"\0") == b"mixformerv2_ros"
    assert station.ask(m.MAV_CMD_REQUEST_MESSAGE, m.MAVLINK_MSG_ID_CAMERA_SETTINGS) == ACCEPTED
    assert station.heard["CAMERA_SETTINGS"].mode_id == m.CAMERA_MODE_VIDEO
    number = m.MAVLINK_MSG_ID_VIDEO_STREAM_INFORMATION
    assert station.ask(m.MAV_CMD_REQUEST_MESSAGE, number) == ACCEPTED
    assert station.heard["VIDEO_STREAM_INFORMATION"].uri == "rtsp://camera/1"
    for unknown in (9999, math.nan, -3):
        assert station.ask(m.MAV_CMD_REQUEST_MESSAGE, unknown) == m.MAV_RESULT_UNSUPPORTED


def test_a_rectangle_starts_the_target(station: Station) -> None:
    assert station.ask(m.MAV_CMD_CAMERA_TRACK_RECTANGLE, 0.25, 0.5, 0.5, 0.75) == ACCEPTED
    assert station.boxes() == [(160, 240, 160, 120)]
    (_, message), *_ = station.remote.told
    assert message.target_id == "dog"
    again = station.ask(m.MAV_CMD_CAMERA_TRACK_RECTANGLE, 0.25, 0.5, 0.5, 0.75, again=1)
    assert again == ACCEPTED
    assert len(station.boxes()) == 1


@pytest.mark.parametrize(
    "corners",
    [
        (-0.1, 0.5, 0.5, 0.75),
        (0.25, 0.5, 1.5, 0.75),
        (0.5, 0.5, 0.25, 0.75),
        (0.5, 0.5, 0.5, 0.75),
        (math.nan, 0.5, 0.5, 0.75),
        (0.25, math.inf, 0.5, 0.75),
    ],
)
def test_a_rectangle_that_is_none_is_denied(station: Station, corners: tuple[float, ...]) -> None:
    assert station.ask(m.MAV_CMD_CAMERA_TRACK_RECTANGLE, *corners) == DENIED
    assert station.boxes() == []


def test_a_point_starts_a_box_around_it(station: Station) -> None:
    assert station.ask(m.MAV_CMD_CAMERA_TRACK_POINT, 0.5, 0.5, 0.05) == ACCEPTED
    assert station.ask(m.MAV_CMD_CAMERA_TRACK_POINT, 0.5, 0.5) == ACCEPTED
    assert station.boxes() == [pytest.approx((288, 208, 64, 64)), pytest.approx((296, 216, 48, 48))]
    for point in ((0.5, 1.01, 0), (math.nan, 0.5, 0), (0.5, 0.5, 3)):
        assert station.ask(m.MAV_CMD_CAMERA_TRACK_POINT, *point) == DENIED


def test_before_the_first_image_a_rectangle_has_to_wait() -> None:
    with Station() as station:
        result = station.ask(m.MAV_CMD_CAMERA_TRACK_RECTANGLE, 0.1, 0.1, 0.2, 0.2)
        assert result == m.MAV_RESULT_TEMPORARILY_REJECTED
        assert "no image size" in station.lines[-1][1]


def test_stop_stops_the_target_alone(station: Station) -> None:
    assert station.ask(m.MAV_CMD_CAMERA_STOP_TRACKING) == ACCEPTED
    assert [(topic, message.data) for topic, message in station.remote.told] == [
        ("stop_target", "dog")
    ]


def test_the_status_has_the_box_and_what_became_of_it(station: Station) -> None:
    idle = station.next("CAMERA_TRACKING_IMAGE_STATUS")
    assert idle.tracking_status == m.CAMERA_TRACKING_STATUS_FLAGS_IDLE
    states = {
        State.TRACKING: m.CAMERA_TRACKING_STATUS_FLAGS_ACTIVE,
        State.UNCERTAIN: m.CAMERA_TRACKING_STATUS_FLAGS_ACTIVE,
        State.LOST: m.CAMERA_TRACKING_STATUS_FLAGS_ERROR,
    }
    for state, expected in states.items():
        track = a_track(box=Box(64, 48, 128, 96), state=state, target_id="dog")
        station.view.receive_track(track_message(TYPES, track, 0))
        sent = time.monotonic()
        while True:
            told = station.next("CAMERA_TRACKING_IMAGE_STATUS")
            if told.tracking_status == expected and time.monotonic() - sent > 0.25:
                break
        box = told.rec_top_x, told.rec_top_y, told.rec_bottom_x, told.rec_bottom_y
        assert box == pytest.approx((0.1, 0.1, 0.3, 0.3))
        assert told.tracking_mode == m.CAMERA_TRACKING_MODE_RECTANGLE


def test_the_rate_of_the_status_is_the_stations_choice(station: Station) -> None:
    number = m.MAVLINK_MSG_ID_CAMERA_TRACKING_IMAGE_STATUS
    assert station.ask(m.MAV_CMD_SET_MESSAGE_INTERVAL, number, 50_000) == ACCEPTED
    assert station.ask(m.MAV_CMD_GET_MESSAGE_INTERVAL, number) == ACCEPTED
    assert station.heard["MESSAGE_INTERVAL"].interval_us == 50_000
    for _ in range(20):
        assert station.next("CAMERA_TRACKING_IMAGE_STATUS") is not None
    assert station.ask(m.MAV_CMD_SET_MESSAGE_INTERVAL, number, -1) == ACCEPTED
    while station.next("CAMERA_TRACKING_IMAGE_STATUS", 0.3) is not None:
        pass
    assert station.ask(m.MAV_CMD_SET_MESSAGE_INTERVAL, number, 0) == ACCEPTED
    assert station.next("CAMERA_TRACKING_IMAGE_STATUS") is not None
    assert station.ask(m.MAV_CMD_SET_MESSAGE_INTERVAL, number, 1e30) == ACCEPTED
    assert station.ask(m.MAV_CMD_GET_MESSAGE_INTERVAL, number) == ACCEPTED
    assert station.heard["MESSAGE_INTERVAL"].interval_us == 2_000_000_000
    assert station.ask(m.MAV_CMD_SET_MESSAGE_INTERVAL, number, math.nan) == DENIED
    assert station.ask(m.MAV_CMD_SET_MESSAGE_INTERVAL, 30, 1) == m.MAV_RESULT_UNSUPPORTED


def test_the_bearing_of_the_pose_node_is_a_landing_target(station: Station) -> None:
    header = header_message(TYPES, 5_000_000_000, "optical")
    vector = make_message(TYPES, "geometry_msgs/msg/Vector3", x=0.1, y=0.2, z=0.0)
    name = "geometry_msgs/msg/Vector3Stamped"
    pose = make_message(
        TYPES, "geometry_msgs/msg/PoseStamped", header=header,
        pose=make_pose(TYPES, (3.0, 4.0, 12.0), (0, 0, 0, 1)),
    )  # fmt: skip
    station.view.receive_pose(pose)
    station.view.receive_bearing(make_message(TYPES, name, header=header, vector=vector))
    told = station.next("LANDING_TARGET")
    assert (told.angle_x, told.angle_y) == pytest.approx((0.1, -0.2))
    assert told.distance == pytest.approx(13.0)
    assert told.time_usec == 5_000_000


def test_commands_for_others_are_left_to_them(station: Station) -> None:
    for to in ((SYSTEM + 1, COMPONENT), (SYSTEM, COMPONENT + 1)):
        station.mav.mav.command_long_send(*to, m.MAV_CMD_CAMERA_STOP_TRACKING, 0, *(0.0,) * 7)
    station.mav.mav.command_long_send(SYSTEM, 0, m.MAV_CMD_NAV_LAND, 0, *(0.0,) * 7)
    assert station.ask(m.MAV_CMD_NAV_LAND) == m.MAV_RESULT_UNSUPPORTED
    assert station.ask(m.MAV_CMD_CAMERA_STOP_TRACKING, to=(0, 0)) == ACCEPTED
    assert len(station.remote.told) == 1


def test_garbage_and_floods_change_nothing(station: Station) -> None:
    for index in range(3000):
        station.mav.write(bytes([index % 256]) * (index % 40 + 1))
    wait_for(lambda: station.link.unreadable > 0, "garbage to be noticed")

    def ask_again() -> None:
        """The start of a message in the garbage may swallow what comes next."""
        command = m.MAV_CMD_CAMERA_TRACK_RECTANGLE
        station.mav.mav.command_long_send(
            SYSTEM, COMPONENT, command, 0, 0.25, 0.5, 0.5, 0.75, 0, 0, 0
        )

    repeat_until(ask_again, station.boxes, "a box", period=0.2)
    warnings = [text for level, text in station.lines if level is Level.WARN]
    assert len(warnings) == 1
    assert warnings[0].startswith("something else than MAVLink came")


def test_a_rectangle_in_a_ground_station_is_tracked() -> None:
    """The whole way: ground station, camera, tracker node, and back."""
    pytest.importorskip("cyclonedds", reason="needs cyclonedds, which is not installed")
    from domains import own_domain
    from peers import Peer
    from processes import Command

    from mixformerv2_ros.ros.cyclonedds import qos_profiles as profiles

    port = free_port()
    with (
        own_domain(),
        Command("node", "-p", "diagnostics.period:=0.2") as node,
        Command("mavlink", "--dds", "--connection", f"udpin:127.0.0.1:{port}") as camera,
        Peer() as peer,
    ):
        node.wait_for_line("ready: model")
        camera.wait_for_line("camera 1/100 on udpin:127.0.0.1")
        images = peer.node.create_publisher("/image", "sensor_msgs/msg/Image", profiles.reliable(2))
        wait_for(lambda: images.subscription_count, "a subscription to the images")
        station = mavutil.mavlink_connection(f"udpout:127.0.0.1:{port}", dialect="common")
        heard: list[Any] = []
        box = red_box(0)
        corners = (
            box.x / WIDTH, box.y / HEIGHT, (box.x + box.w) / WIDTH, (box.y + box.h) / HEIGHT,
        )  # fmt: skip

        def draw() -> None:
            for index in range(3):
                images.publish(image(index, stamp=time.time_ns(), picture_of=0))
                time.sleep(0.03)
            station.mav.command_long_send(
                1, 100, m.MAV_CMD_CAMERA_TRACK_RECTANGLE, 0, *corners, 0, 0, 0
            )
            while told := station.recv_match(type="CAMERA_TRACKING_IMAGE_STATUS"):
                if told.tracking_status == m.CAMERA_TRACKING_STATUS_FLAGS_ACTIVE:
                    heard.append(told)

        repeat_until(draw, lambda: heard, "a target in the ground station")
        told = heard[0]
        found = told.rec_top_x, told.rec_top_y, told.rec_bottom_x, told.rec_bottom_y
        assert found == pytest.approx(corners, abs=0.1)
        station.close()


def test_the_end_of_the_node_ends_the_camera() -> None:
    view = TrackerView(Remote())
    link = Link(f"udpin:127.0.0.1:{free_port()}", 57600, view, CameraSettings(), lambda *_: None)
    view.failure = RuntimeError("the domain is gone")
    with pytest.raises(RuntimeError, match="the domain is gone"):
        link.run(lambda: False)


@pytest.mark.parametrize("connection", ["flight.bin", "udpin:1", "mcast:", "udpin:a:b", "/etc\n"])
def test_a_connection_that_is_none_is_refused(connection: str) -> None:
    with pytest.raises(ParameterError, match="--connection must be"):
        Link(connection, 57600, TrackerView(Remote()), CameraSettings(), lambda *_: None)


@pytest.mark.parametrize(
    "connection", ["tcp:127.0.0.1:1", "/dev/no_such_device", "udpin:no.host:1"]
)
def test_a_connection_that_cannot_be_opened_is_named(connection: str) -> None:
    with pytest.raises(MiddlewareError, match="cannot be opened"):
        Link(connection, 57600, TrackerView(Remote()), CameraSettings(), lambda *_: None)


def test_the_command_says_what_is_wrong_in_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("cyclonedds")
    assert main(["mavlink", "--dds", "--connection", "somewhere"]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("mixformerv2 mavlink: --connection must be udpin:")
