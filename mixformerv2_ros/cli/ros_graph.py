"""Shared by the commands that join a ROS graph: names and log."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mixformerv2_ros.errors import MiddlewareError
from mixformerv2_ros.ros.messages import Level

if TYPE_CHECKING:
    from mixformerv2_ros.ros.cyclonedds.names import NodeNames

_WORDS = ("INFO", "WARN", "ERROR")


def add_node_arguments(parser: argparse.ArgumentParser, name: str) -> None:
    """Declare the options of every ROS node."""
    group = parser.add_argument_group(
        "node",
        "Environment variables set the DDS domain and the reach of discovery, as in ROS 2: "
        "ROS_DOMAIN_ID, ROS_AUTOMATIC_DISCOVERY_RANGE, ROS_STATIC_PEERS, ROS_LOCALHOST_ONLY, "
        "CYCLONEDDS_URI.",
    )
    group.add_argument("--name", default=name, help="node name (default: %(default)s)")
    group.add_argument(
        "--namespace", default="/", metavar="NS", help="namespace (default: %(default)s)"
    )
    group.add_argument(
        "-r",
        "--remap",
        action="append",
        default=[],
        metavar="FROM:=TO",
        help="remap a topic, __node or __ns (may be repeated)",
    )
    group.add_argument(
        "--ros-args", action="store_true", help="ignored, for compatibility with ros2 run"
    )


def names_from_arguments(args: argparse.Namespace) -> NodeNames:
    """Names and remapping rules of a node.

    Raises:
        ParameterError: a name or a rule is malformed.
    """
    from mixformerv2_ros.ros.cyclonedds.names import parse_names

    return parse_names(args.name, args.namespace, args.remap)


@contextmanager
def cyclone() -> Iterator[None]:
    """Turn a missing Cyclone DDS into an error of one line; wraps the imports that need it.

    Raises:
        MiddlewareError: the library is missing or cannot be loaded.
    """
    try:
        yield
    except ImportError as error:
        raise MiddlewareError(
            f"Eclipse Cyclone DDS is not installed: pip install 'mixformerv2_ros[dds]' ({error})"
        ) from error


def write_log(node: str) -> Callable[[Level, str], None]:
    """A log on stderr in the form of ROS: level, time, node, text."""
    name = node.strip("/").replace("/", ".")

    def log(level: Level, text: str) -> None:
        line = f"[{_WORDS[level]}] [{time.time():.3f}] [{name}]: {text}\n"
        sys.stderr.write(line)
        sys.stderr.flush()

    return log
