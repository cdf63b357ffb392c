"""A MAVLink connection: messages in, messages out, nothing that a stranger sends ends it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from pymavlink import mavutil  # type: ignore[import-untyped]

from mixformerv2_ros.errors import MiddlewareError, ParameterError
from mixformerv2_ros.ros.mavlink.camera import Camera, CameraSettings, describe
from mixformerv2_ros.ros.messages import Level
from mixformerv2_ros.ros.remote.tracker_view import TrackerView
from mixformerv2_ros.text import printable

KINDS = r"(?:udpin|udpout|tcp|tcpin):[^:\s]+:\d{1,5}|/dev/[\w./-]+"
WAIT_S = 0.01
PER_ROUND = 100
"""Messages that are read before what is due is sent, however many a stranger sends."""


class Link:
    """A camera on a connection.

    Attributes:
        unreadable: Number of messages that were no MAVLink.
    """

    def __init__(
        self,
        connection: str,
        baud: int,
        view: TrackerView,
        settings: CameraSettings,
        log: Callable[[Level, str], None],
    ) -> None:
        """Open a connection.

        Args:
            connection: `udpin:`, `udpout:`, `tcp:` or `tcpin:` with address and port, or a serial
                device `/dev/...`.
            baud: Speed of a serial device.
            view: The tracker.
            settings: Who the camera is.
            log: Writes a line.

        Raises:
            ParameterError: the connection is none of these.
            MiddlewareError: it cannot be opened.
        """
        if not re.fullmatch(KINDS, connection):
            raise ParameterError(
                "--connection must be udpin:, udpout:, tcp: or tcpin:ADDRESS:PORT, or /dev/DEVICE, "
                f"got {printable(connection)}"
            )
        self.unreadable = 0
        self._view = view
        self._log = log
        try:
            self._link = mavutil.mavlink_connection(
                connection,
                baud=baud,
                source_system=settings.system_id,
                source_component=settings.component_id,
                dialect="common",
                autoreconnect=True,
                retries=1,
            )
        except (OSError, OverflowError, ValueError) as error:
            reason = printable(error, 200)
            raise MiddlewareError(f"{connection} cannot be opened: {reason}") from error
        self._camera = Camera(view, settings, self._send, log)

    def run(self, stopped: Callable[[], bool]) -> None:
        """Answer and report until told to stop, or the node that sees the tracker has failed.

        Raises:
            Exception: what ended that node's thread.
        """
        try:
            while not stopped() and self._view.failure is None:
                self._read()
                self._camera.send_due()
        finally:
            self._link.close()
        if self._view.failure is not None:
            raise self._view.failure

    def _read(self) -> None:
        for place in range(PER_ROUND):
            message = self._link.recv_match(blocking=place == 0, timeout=WAIT_S)
            if message is None:
                return
            if message.get_type() == "BAD_DATA":
                self.unreadable += 1
                if self.unreadable == 1:
                    self._log(Level.WARN, f"something else than MAVLink came: {describe(message)}")
                continue
            self._camera.receive(message)

    def _send(self, message: Any) -> None:
        try:
            self._link.mav.send(message)
        except OSError as error:
            # A ground station that has gone, or a cable: pymavlink opens the connection again.
            self._log(Level.WARN, f"cannot be sent: {printable(error, 200)}")
