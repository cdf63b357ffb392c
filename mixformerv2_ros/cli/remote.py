"""Shared by the commands that watch and command a running tracker."""

from __future__ import annotations

import argparse
import importlib.util
from contextlib import AbstractContextManager

from mixformerv2_ros.cli.ros_graph import (
    add_node_arguments,
    cyclone,
    names_from_arguments,
    write_log,
)
from mixformerv2_ros.ros.remote.tracker_view import RemoteTopics, TrackerView


def add_remote_arguments(parser: argparse.ArgumentParser, name: str) -> None:
    """Declare the options of a node that joins by rclpy or Cyclone DDS; `name` is its default."""
    parser.add_argument(
        "--dds", action="store_true", help="use Cyclone DDS even if rclpy is installed"
    )
    add_node_arguments(parser, name)


def remote_node(
    args: argparse.Namespace, topics: RemoteTopics
) -> AbstractContextManager[TrackerView]:
    """Join a graph by rclpy if it and our interfaces are there, else by Cyclone DDS.

    Args:
        args: Parsed command line with the options of a node and `dds`.
        topics: What to subscribe to.

    Raises:
        MiddlewareError: Cyclone DDS is not installed, or the domain cannot be joined.
        ParameterError: a name or a rule is malformed.
    """
    names = names_from_arguments(args)
    if ros_is_built() and not args.dds:
        from mixformerv2_ros.ros.rclpy.remote_node import RemoteNode

        return RemoteNode(names.node, names.namespace, args.remap, topics)
    with cyclone():
        from mixformerv2_ros.ros.cyclonedds.node import Node
        from mixformerv2_ros.ros.cyclonedds.remote_node import DdsRemoteNode

    return DdsRemoteNode(Node(names, write_log(names.full)), topics)


def ros_is_built() -> bool:
    """Whether rclpy and this package's own interfaces can be imported."""
    return all(importlib.util.find_spec(name) for name in ("rclpy", "mixformerv2_ros.msg"))
