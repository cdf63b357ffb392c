"""`mixformerv2 mavlink`: a tracker as a camera for ground stations and autopilots."""

from __future__ import annotations

import argparse

from mixformerv2_ros.cli.arguments import ranged
from mixformerv2_ros.cli.remote import add_remote_arguments, remote_node
from mixformerv2_ros.cli.ros_graph import names_from_arguments, write_log
from mixformerv2_ros.errors import InstallationError
from mixformerv2_ros.interrupt import node_stop
from mixformerv2_ros.ros.messages import Level
from mixformerv2_ros.ros.remote.tracker_view import RemoteTopics


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `mixformerv2 mavlink`."""
    parser.description = (
        "Answer as a camera of the MAVLink camera protocol: a rectangle or a point drawn in "
        "a ground station starts a target of a running tracker, and its box is reported back; with "
        "the target pose node beside it, LANDING_TARGET too. It joins ROS by rclpy, or by Cyclone "
        "DDS if ROS is not installed. MAVLink knows no passwords: keep the connection on this "
        "machine or on a network that you trust."
    )
    parser.add_argument(
        "--connection",
        default="udpin:127.0.0.1:14580",
        metavar="C",
        help="udpin:, udpout:, tcp: or tcpin:ADDRESS:PORT, or a serial device /dev/... "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--baud", type=ranged(int, 1200, 10_000_000), default=57600,
        help="speed of a serial device (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--system-id", type=ranged(int, 1, 255), default=1, metavar="N",
        help="MAVLink system of the vehicle (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--component-id", type=ranged(int, 1, 255), default=100, metavar="N",
        help="MAVLink component of the camera; 100 to 105 are cameras (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--target", default="target", metavar="NAME",
        help="name of the target that ground stations start (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--stream-uri", default="", metavar="URI",
        help="RTSP address of the camera's video, told to ground stations",
    )  # fmt: skip
    add_remote_arguments(parser, "mavlink")


def run(args: argparse.Namespace) -> int:
    """Answer until Ctrl-C or SIGTERM."""
    try:
        from mixformerv2_ros.ros.mavlink.camera import CameraSettings
        from mixformerv2_ros.ros.mavlink.link import Link
    except ImportError as error:
        raise InstallationError(
            f"pymavlink is not installed: pip install 'mixformerv2_ros[mavlink]' ({error})"
        ) from error
    settings = CameraSettings(args.system_id, args.component_id, args.target, args.stream_uri)
    log = write_log(names_from_arguments(args).full)
    with node_stop() as stopped, remote_node(args, RemoteTopics(poses=True)) as view:
        link = Link(args.connection, args.baud, view, settings, log)
        log(Level.OK, f"camera {args.system_id}/{args.component_id} on {args.connection}")
        link.run(stopped)
    return 0
