"""`mixformerv2 web`: a page to watch a tracker, draw boxes and stop targets, also on a phone."""

from __future__ import annotations

import argparse
import asyncio
import secrets

from mixformerv2_ros.cli.arguments import ranged
from mixformerv2_ros.cli.remote import add_remote_arguments, remote_node
from mixformerv2_ros.cli.ros_graph import names_from_arguments, write_log
from mixformerv2_ros.errors import InstallationError, ParameterError
from mixformerv2_ros.interrupt import node_stop
from mixformerv2_ros.ros.messages import Level
from mixformerv2_ros.ros.remote.tracker_view import RemoteTopics
from mixformerv2_ros.ros.topics import IMAGE

LOOPBACK = "127.0.0.1"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `mixformerv2 web`."""
    parser.description = (
        "Serve one page that shows the images of a topic with the targets of a running tracker: "
        "drag a box with mouse or finger to start a target on the image shown, tap a box of a "
        "detector, stop targets, change thresholds. It joins ROS by rclpy, or by Cyclone DDS if "
        "ROS is not installed. The page is reached from this machine only, unless --host names "
        "another address; then it requires the token in the printed address."
    )
    parser.add_argument(
        "image",
        nargs="?",
        default=IMAGE,
        metavar="TOPIC",
        help="image topic (default: %(default)s)",
    )
    parser.add_argument(
        "--host", default=LOOPBACK, metavar="ADDRESS",
        help="address to listen on; 0.0.0.0: every interface (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--port",
        type=ranged(int, 0, 65535),
        default=8080,
        help="port; 0: a free one (default: 8080)",
    )
    parser.add_argument(
        "--token", default="", metavar="T",
        help="what the address of the page must end with (default: a new one at every start; none "
        "on this machine's own interface)",
    )  # fmt: skip
    parser.add_argument(
        "--max-clients", type=ranged(int, 1, 64), default=4, metavar="N",
        help="pages that may be open at the same time (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--detections", default="", metavar="TOPIC",
        help="vision_msgs/Detection2DArray of a detector; its boxes can be tapped",
    )  # fmt: skip
    add_remote_arguments(parser, "web")


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM."""
    try:
        from mixformerv2_ros.ros.web.server import WebServer, WebSettings, is_loopback
    except ImportError as error:
        raise InstallationError(
            f"Tornado is not installed: pip install 'mixformerv2_ros[web]' ({error})"
        ) from error
    if args.token and not (8 <= len(args.token) <= 128 and args.token.isalnum()):
        raise ParameterError("--token must be 8 to 128 letters and digits")
    token = args.token or ("" if is_loopback(args.host) else secrets.token_hex(16))
    settings = WebSettings(args.host, args.port, token, args.max_clients)
    log = write_log(names_from_arguments(args).full)
    topics = RemoteTopics(image=args.image, detections=args.detections)
    with node_stop() as stopped, remote_node(args, topics) as view:
        server = WebServer(view, settings, log)
        for url in server.urls:
            log(Level.OK, f"page: {url}")
        asyncio.run(server.run(stopped))
    return 0
