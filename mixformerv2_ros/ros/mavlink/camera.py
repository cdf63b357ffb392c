"""The camera component: what a ground station may ask, and what it is answered.

Source: the MAVLink camera protocol v2 (mavlink.io, services/camera), messages of `common.xml`. No
sockets here: messages come in by `receive`, and what is to be sent goes out by a function.

A rectangle or a point starts a target on the tracker's next image, since ground stations do not say
which image theirs was. Coordinates are over the image's width and height, from its top-left corner.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pymavlink import mavutil  # type: ignore[import-untyped]

from mixformerv2_ros import __version__
from mixformerv2_ros.ros.messages import Level, stamp_ns
from mixformerv2_ros.ros.remote.tracker_view import TrackerView
from mixformerv2_ros.text import printable
from mixformerv2_ros.tracking.boxes import MARGIN, Box
from mixformerv2_ros.tracking.session import State, Track

m = mavutil.mavlink

STATUS = m.MAVLINK_MSG_ID_CAMERA_TRACKING_IMAGE_STATUS
LANDING_TARGET = m.MAVLINK_MSG_ID_LANDING_TARGET
INTERVALS_S = {m.MAVLINK_MSG_ID_HEARTBEAT: 1.0, STATUS: 0.2, LANDING_TARGET: 0.05}
"""Messages that are sent by themselves, and how often where nobody asks for another rate."""
SHORTEST_S, LONGEST_S = 0.01, 2000.0
"""Limits of the time between two of them; MAVLink has 31 bits for it, in microseconds."""
POINT_SHARE = 0.1
"""Side of the box around a point without a radius, over the shorter side of the image."""
REPEATED_S = 2.0
"""A command that is the one before, with a confirmation number, within this time, is repeated."""

VENDOR, MODEL = b"mixformerv2_ros", b"tracker"


@dataclass(frozen=True)
class CameraSettings:
    """Who the camera is.

    Attributes:
        system_id: MAVLink system of the vehicle that carries it, 1 to 255.
        component_id: Its component, 1 to 255.
        target_id: Name of the target that ground stations start.
        stream_uri: Address of the camera's video for ground stations; empty for none.
    """

    system_id: int = 1
    component_id: int = m.MAV_COMP_ID_CAMERA
    target_id: str = "target"
    stream_uri: str = ""


class Camera:
    """Answers ground stations and reports the target of a tracker."""

    def __init__(
        self,
        view: TrackerView,
        settings: CameraSettings,
        send: Callable[[Any], None],
        log: Callable[[Level, str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Know a tracker by `view`, send messages of pymavlink by `send`.

        Args:
            view: The tracker.
            settings: Who the camera is.
            send: Sends a message of `pymavlink.mavutil.mavlink`.
            log: Writes a line.
            clock: Time in seconds.
        """
        self._view = view
        self._settings = settings
        self._send = send
        self._log = log
        self._clock = clock
        self._begin = clock()
        self._intervals = dict(INTERVALS_S)
        self._due = dict.fromkeys(INTERVALS_S, self._begin)
        self._landed = 0
        self._last: tuple[Any, float] = (None, -math.inf)
        self._commands: dict[int, Callable[[Any], int]] = {
            m.MAV_CMD_REQUEST_MESSAGE: lambda c: self._answer(_number(c)),
            m.MAV_CMD_REQUEST_CAMERA_INFORMATION: lambda c: self._answer_if(
                c, m.MAVLINK_MSG_ID_CAMERA_INFORMATION
            ),
            m.MAV_CMD_REQUEST_CAMERA_SETTINGS: lambda c: self._answer_if(
                c, m.MAVLINK_MSG_ID_CAMERA_SETTINGS
            ),
            m.MAV_CMD_SET_MESSAGE_INTERVAL: self._set_interval,
            m.MAV_CMD_GET_MESSAGE_INTERVAL: self._get_interval,
            m.MAV_CMD_CAMERA_TRACK_RECTANGLE: self._track_rectangle,
            m.MAV_CMD_CAMERA_TRACK_POINT: self._track_point,
            m.MAV_CMD_CAMERA_STOP_TRACKING: self._stop,
        }
        self._messages: dict[int, Callable[[], Any]] = {
            m.MAVLINK_MSG_ID_CAMERA_INFORMATION: self._information,
            m.MAVLINK_MSG_ID_CAMERA_SETTINGS: self._camera_settings,
            m.MAVLINK_MSG_ID_HEARTBEAT: self._heartbeat,
            STATUS: self._tracking_status,
        }
        if settings.stream_uri:
            self._messages[m.MAVLINK_MSG_ID_VIDEO_STREAM_INFORMATION] = self._stream

    def receive(self, message: Any) -> None:
        """Take a message from the link; those for others are ignored."""
        if message.get_type() not in ("COMMAND_LONG", "COMMAND_INT"):
            return
        settings = self._settings
        if message.target_system not in (0, settings.system_id):
            return
        if message.target_component not in (0, settings.component_id):
            return
        what = self._commands.get(message.command)
        if what is None:
            # A broadcast is meant for others as well, which may know the command.
            if message.target_component:
                self._acknowledge(message, m.MAV_RESULT_UNSUPPORTED)
            return
        key = message.get_srcSystem(), message.get_srcComponent(), message.command, _params(message)
        now = self._clock()
        before, at = self._last
        self._last = key, now
        if getattr(message, "confirmation", 0) and before == key and now - at <= REPEATED_S:
            self._acknowledge(message, m.MAV_RESULT_ACCEPTED)
            return
        # Unused parameters may be NaN; comparisons with it are false.
        infinite = any(map(math.isinf, _params(message)))
        self._acknowledge(message, m.MAV_RESULT_DENIED if infinite else what(message))

    def send_due(self) -> None:
        """Send what is due: heartbeat, status of the target, landing target."""
        now = self._clock()
        for number, interval in self._intervals.items():
            if interval <= 0 or now < self._due[number]:
                continue
            # Not one after the other what was missed.
            self._due[number] = max(self._due[number] + interval, now)
            if number == LANDING_TARGET:
                self._send_landing_target()
            else:
                self._send(self._messages[number]())

    # Commands --------------------------------------------------------------------------------

    def _acknowledge(self, command: Any, result: int) -> None:
        self._send(
            m.MAVLink_command_ack_message(
                command.command, result, 0, 0, command.get_srcSystem(), command.get_srcComponent()
            )
        )

    def _answer(self, number: int) -> int:
        make = self._messages.get(number)
        if make is None:
            return int(m.MAV_RESULT_UNSUPPORTED)
        self._send(make())
        return int(m.MAV_RESULT_ACCEPTED)

    def _answer_if(self, command: Any, number: int) -> int:
        return self._answer(number) if command.param1 == 1 else int(m.MAV_RESULT_ACCEPTED)

    def _set_interval(self, command: Any) -> int:
        number, interval = _number(command), command.param2
        if number not in self._intervals:
            return int(m.MAV_RESULT_UNSUPPORTED)
        if math.isnan(interval) or interval < -1:
            return int(m.MAV_RESULT_DENIED)
        seconds = INTERVALS_S[number] if interval == 0 else interval / 1e6
        self._intervals[number] = (
            min(max(SHORTEST_S, seconds), LONGEST_S) if interval >= 0 else -1.0
        )
        self._due[number] = self._clock()
        return int(m.MAV_RESULT_ACCEPTED)

    def _get_interval(self, command: Any) -> int:
        number = _number(command)
        seconds = self._intervals.get(number, 0.0)
        microseconds = round(seconds * 1e6) if seconds > 0 else int(seconds)
        self._send(m.MAVLink_message_interval_message(number & 0xFFFF, microseconds))
        return int(m.MAV_RESULT_ACCEPTED)

    def _track_rectangle(self, command: Any) -> int:
        x1, y1, x2, y2 = _params(command)[:4]
        inside = all(0 <= value <= 1 for value in (x1, y1, x2, y2))
        return self._start(Box(x1, y1, x2 - x1, y2 - y1) if inside else None)

    def _track_point(self, command: Any) -> int:
        x, y, radius = _params(command)[:3]
        size = self._view.image_size()
        if not (0 <= x <= 1 and 0 <= y <= 1) or radius > 1 or size is None:
            return self._start(None)
        side = 2 * radius * size[0] if radius > 0 else POINT_SHARE * min(size)
        w, h = max(side, MARGIN) / size[0], max(side, MARGIN) / size[1]
        return self._start(Box(x - w / 2, y - h / 2, w, h))

    def _start(self, box: Box | None) -> int:
        """Start the target on a box over the image's size."""
        size = self._view.image_size()
        if size is None:
            self._log(Level.WARN, "command to track refused: no image size in the diagnostics yet")
            return int(m.MAV_RESULT_TEMPORARILY_REJECTED)
        if box is None or not (box.w > 0 and box.h > 0):
            return int(m.MAV_RESULT_DENIED)
        width, height = size
        pixels = Box(box.x * width, box.y * height, box.w * width, box.h * height)
        self._log(Level.OK, self._view.start(pixels, self._settings.target_id, 0, ""))
        return int(m.MAV_RESULT_ACCEPTED)

    def _stop(self, command: Any) -> int:
        self._log(Level.OK, self._view.stop(self._settings.target_id))
        return int(m.MAV_RESULT_ACCEPTED)

    # Messages --------------------------------------------------------------------------------

    def _boot_ms(self) -> int:
        return int((self._clock() - self._begin) * 1000) & 0xFFFFFFFF

    def _heartbeat(self) -> Any:
        return m.MAVLink_heartbeat_message(
            m.MAV_TYPE_CAMERA, m.MAV_AUTOPILOT_INVALID, 0, 0, m.MAV_STATE_ACTIVE, 3
        )

    def _information(self) -> Any:
        width, height = self._view.image_size() or (0, 0)
        flags = m.CAMERA_CAP_FLAGS_HAS_TRACKING_POINT | m.CAMERA_CAP_FLAGS_HAS_TRACKING_RECTANGLE
        if self._settings.stream_uri:
            flags |= m.CAMERA_CAP_FLAGS_HAS_VIDEO_STREAM
        numbers = [int(part) for part in __version__.split(".")[:3]]
        version = sum(number << 8 * place for place, number in enumerate(numbers))
        return m.MAVLink_camera_information_message(
            self._boot_ms(), list(VENDOR.ljust(32, b"\0")), list(MODEL.ljust(32, b"\0")), version,
            math.nan, math.nan, math.nan, width, height, 0, flags, 0, b"",
        )  # fmt: skip

    def _camera_settings(self) -> Any:
        return m.MAVLink_camera_settings_message(self._boot_ms(), m.CAMERA_MODE_VIDEO)

    def _stream(self) -> Any:
        width, height = self._view.image_size() or (0, 0)
        return m.MAVLink_video_stream_information_message(
            1, 1, m.VIDEO_STREAM_TYPE_RTSP, m.VIDEO_STREAM_STATUS_FLAGS_RUNNING, 0.0, width,
            height, 0, 0, 0, MODEL, self._settings.stream_uri.encode(),
        )  # fmt: skip

    def _track(self) -> Track | None:
        for track in self._view.tracks():
            if track.target_id == self._settings.target_id:
                return track
        return None

    def _tracking_status(self) -> Any:
        track, size = self._track(), self._view.image_size()
        if track is None or size is None:
            return m.MAVLink_camera_tracking_image_status_message(
                m.CAMERA_TRACKING_STATUS_FLAGS_IDLE, m.CAMERA_TRACKING_MODE_NONE, 0,
                *(math.nan,) * 7,
            )  # fmt: skip
        lost = track.state is State.LOST
        width, height = size
        x1, y1, x2, y2 = track.box.xyxy
        return m.MAVLink_camera_tracking_image_status_message(
            m.CAMERA_TRACKING_STATUS_FLAGS_ERROR if lost else m.CAMERA_TRACKING_STATUS_FLAGS_ACTIVE,
            m.CAMERA_TRACKING_MODE_RECTANGLE, m.CAMERA_TRACKING_TARGET_DATA_IN_STATUS,
            math.nan, math.nan, math.nan, x1 / width, y1 / height, x2 / width, y2 / height,
        )  # fmt: skip

    def _send_landing_target(self) -> None:
        """Send the bearing, and the distance with it where the pose node knows one, once each."""
        bearing = self._view.bearing()
        if bearing is None or stamp_ns(bearing) == self._landed:
            return
        self._landed = stamp_ns(bearing)
        pose = self._view.pose()
        distance = 0.0
        if pose is not None and pose.header.frame_id == bearing.header.frame_id:
            position = pose.pose.position
            distance = math.hypot(position.x, position.y, position.z)
        angles = bearing.vector.x, -bearing.vector.y
        self._send(
            m.MAVLink_landing_target_message(
                self._landed // 1000, 0, m.MAV_FRAME_BODY_FRD, *angles, distance, 0.0, 0.0
            )
        )


def describe(message: Any) -> str:
    """What a message that cannot be used is, for a log line."""
    reason = getattr(message, "reason", "")
    return printable(f"{message.get_type()} {reason}".strip())


def _number(command: Any) -> int:
    """The number of a message in the first parameter; -1 for none."""
    value = command.param1
    return int(value) if 0 <= value <= 0xFFFFFF else -1


def _params(command: Any) -> tuple[float, ...]:
    """The parameters of a COMMAND_LONG or COMMAND_INT."""
    fifth = ("param5", "param6") if hasattr(command, "param5") else ("x", "y")
    names = ("param1", "param2", "param3", "param4", *fifth)
    return tuple(float(getattr(command, name)) for name in names)
