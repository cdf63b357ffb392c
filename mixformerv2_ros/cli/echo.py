"""`mixformerv2 echo`: print the messages of a topic, without a ROS installation."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from typing import Any

import numpy as np

from mixformerv2_ros.cli.ros_graph import (
    add_node_arguments,
    cyclone,
    names_from_arguments,
    write_log,
)
from mixformerv2_ros.cli.shared import positive_number
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
        "-n", "--count", type=positive_number, metavar="N", help="exit after N messages"
    )
    parser.add_argument(
        "--timeout",
        type=float,
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


def as_yaml(message: Any, indent: str = "") -> str:
    """The fields of a message, one per line."""
    lines = []
    for name, _ in typestore().fielddefs[message.__msgtype__][1]:
        value = getattr(message, name)
        if dataclasses.is_dataclass(value):
            lines.append(f"{indent}{name}:\n{as_yaml(value, indent + '  ')}")
        elif isinstance(value, list) and value and dataclasses.is_dataclass(value[0]):
            lines.append(f"{indent}{name}:\n")
            for item in value[:MAX_VALUES]:
                text = as_yaml(item, indent + "  ")
                lines.append(f"{indent}- {text[len(indent) + 2 :]}")
            lines.append(_rest(len(value), indent))
        else:
            lines.append(f"{indent}{name}: {_scalar(value)}\n")
    return "".join(lines)


def _scalar(value: Any) -> str:
    if isinstance(value, np.ndarray | list):
        total = len(value)
        shown = [
            item.item() if isinstance(item, np.generic) else item for item in value[:MAX_VALUES]
        ]
        more = f"  # {total} values" if total > MAX_VALUES else ""
        return json.dumps(shown, ensure_ascii=False) + more
    if isinstance(value, np.generic):
        value = value.item()
    return json.dumps(value, ensure_ascii=False)


def _rest(total: int, indent: str) -> str:
    return f"{indent}# {total} entries\n" if total > MAX_VALUES else ""
