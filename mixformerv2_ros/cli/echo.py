"""`mixformerv2 echo`: print the messages of a topic, without a ROS installation."""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
import time
from typing import Any

import numpy as np
import yaml

from mixformerv2_ros.cli.arguments import ranged
from mixformerv2_ros.cli.ros_graph import (
    add_node_arguments,
    cyclone,
    names_from_arguments,
    write_log,
)
from mixformerv2_ros.errors import MiddlewareError
from mixformerv2_ros.interfaces import typestore
from mixformerv2_ros.interrupt import node_stop
from mixformerv2_ros.text import printable, some

MAX_VALUES = 40
"""Length up to which arrays are printed completely."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `mixformerv2 echo`."""
    parser.description = (
        "Print the messages of a topic as YAML, by Cyclone DDS, without a ROS installation. Arrays "
        f"are truncated to {MAX_VALUES} values."
    )
    parser.add_argument("topic", metavar="TOPIC", help="topic name, such as /track")
    parser.add_argument("--type", metavar="T", help="message type (default: that of the publisher)")
    parser.add_argument(
        "-n", "--count", type=ranged(int, 1), metavar="N", help="exit after N messages"
    )
    parser.add_argument(
        "--timeout",
        type=ranged(float, 0),
        default=10.0,
        metavar="S",
        help="maximum seconds to wait for a publisher (default: 10)",
    )
    add_node_arguments(parser, "echo")


def run(args: argparse.Namespace) -> int:
    """Print until Ctrl-C, SIGTERM, or the number of messages asked for."""
    names = names_from_arguments(args)
    topic = names.topic(args.topic)
    with cyclone():
        from mixformerv2_ros.ros.cyclonedds.node import Node
        from mixformerv2_ros.ros.cyclonedds.qos_profiles import reliable

    with node_stop() as stopped, Node(names, write_log(names.full)) as node:
        msgtype = args.type
        if msgtype is None:
            node.spin(
                lambda: stopped() or topic in node.participant.published_topics(),
                time.monotonic() + args.timeout,
            )
            msgtype = node.participant.published_topics().get(topic)
            if stopped():
                return 0
        if msgtype is None:
            topics = some(sorted(node.participant.published_topics()), 20) or "none"
            raise MiddlewareError(f"no publisher on {printable(topic)}; topics found: {topics}")
        left = args.count if args.count is not None else -1

        def show(message: Any) -> None:
            nonlocal left
            if left:
                left -= 1
                print(as_yaml(message), end="---\n")
                sys.stdout.flush()

        node.create_subscription(topic, msgtype, show, reliable(), auto=True)
        node.spin(lambda: stopped() or left == 0)
    return 0


class _Dumper(yaml.SafeDumper):
    """Arrays of numbers in one line, all else in lines of their own."""


_Dumper.add_representer(
    list,
    lambda dumper, items: dumper.represent_sequence(
        "tag:yaml.org,2002:seq", items, flow_style=not any(isinstance(i, dict) for i in items)
    ),
)


def as_yaml(message: Any) -> str:
    """The fields of a message as YAML; in place of an array's further values their number."""
    return yaml.dump(
        _plain(message), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=math.inf
    )


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        fields = typestore().fielddefs[value.__msgtype__][1]  # type: ignore[union-attr]
        return {name: _plain(getattr(value, name)) for name, _ in fields}
    if isinstance(value, np.ndarray | list):
        shown = [_plain(item) for item in value[:MAX_VALUES]]
        return [*shown, f"... {len(value)} values"] if len(value) > MAX_VALUES else shown
    return value.item() if isinstance(value, np.generic) else value
