"""`mixformerv2 play`: publish a recording's messages, where no ROS is installed."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixformerv2_ros.cli.ros_graph import (
    add_node_arguments,
    cyclone,
    names_from_arguments,
    write_log,
)
from mixformerv2_ros.errors import ParameterError, SourceError
from mixformerv2_ros.interfaces import typestore
from mixformerv2_ros.interrupt import node_stop
from mixformerv2_ros.io.bag_reader import BagReader, Topic
from mixformerv2_ros.ros.messages import NS, Level
from mixformerv2_ros.ros.qos import DEPTH
from mixformerv2_ros.ros.topics import IMAGE_TYPES
from mixformerv2_ros.text import printable, some

if TYPE_CHECKING:
    from mixformerv2_ros.ros.cyclonedds.node import Node
    from mixformerv2_ros.ros.cyclonedds.publisher import Publisher

CLOCK_HZ = 40.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `mixformerv2 play`."""
    parser.description = (
        "Publish the messages of a rosbag2 recording with the timing of their recording, by "
        "Cyclone DDS and without a ROS installation. Headers keep their stamps: a tracker that "
        "shall take the recording's time for its own needs use_sim_time and --clock."
    )
    parser.add_argument("bag", type=Path, metavar="BAG", help="rosbag2 folder, .mcap or .db3 file")
    parser.add_argument(
        "--topics", nargs="+", default=[], metavar="T", help="publish these topics only"
    )
    parser.add_argument(
        "--rate", type=float, default=1.0, metavar="X", help="times the recorded speed (default: 1)"
    )
    parser.add_argument("--loop", action="store_true", help="begin anew at the end")
    parser.add_argument(
        "--clock",
        nargs="?",
        type=float,
        const=CLOCK_HZ,
        metavar="HZ",
        help=f"publish /clock so often (default: {CLOCK_HZ:g}) and with every message",
    )
    parser.add_argument(
        "--wait",
        type=float,
        default=3.0,
        metavar="S",
        help="begin when every image topic has a subscription, or after so many seconds "
        "(default: 3)",
    )
    add_node_arguments(parser, "player")


def run(args: argparse.Namespace) -> int:
    """Publish until the end, Ctrl-C or SIGTERM."""
    for name, low, high in (("rate", 0.01, 100.0), ("clock", 1.0, 1000.0), ("wait", 0.0, 3600.0)):
        value = getattr(args, name)
        if value is not None and not low <= value <= high:
            raise ParameterError(f"--{name} must be {low:g} to {high:g}, got {value:g}")
    names = names_from_arguments(args)
    with cyclone():
        from mixformerv2_ros.ros.cyclonedds.node import CLOCK, CLOCK_TYPE, Node
        from mixformerv2_ros.ros.cyclonedds.qos_profiles import reliable, transient_local

    log = write_log(names.full)
    with BagReader(args.bag) as reader, node_stop() as stopped, Node(names, log) as node:
        publishers = {
            topic.name: node.create_publisher(
                names.topic(topic.name),
                topic.msgtype,
                transient_local(DEPTH) if _is_transient_local(topic) else reliable(),
            )
            for topic in _topics(args, reader, log)
        }
        clock = None
        if args.clock is not None:
            clock = _Clock(node.create_publisher(CLOCK, CLOCK_TYPE, reliable(1)), args.rate)
            node.create_timer(1 / args.clock, clock.tick)
        cameras = [p for p in publishers.values() if p.msgtype in IMAGE_TYPES]
        awaited = cameras or list(publishers.values())
        node.spin(
            lambda: stopped() or all(publisher.subscription_count for publisher in awaited),
            time.monotonic() + args.wait,
        )
        log(Level.OK, f"playing {some(sorted(publishers))}")
        while True:
            count = _play(node, reader, publishers, args.rate, clock, stopped)
            if stopped() or not args.loop:
                break
            if not count:
                raise SourceError(f"recording {args.bag} holds no message to play")
        log(Level.OK, f"played {count} messages")
        # Messages not yet acknowledged would be lost with the node.
        for publisher in publishers.values():
            publisher.wait_for_all_acked()
    return 0


class _Clock:
    """Publishes the time of the recording, which goes on between the messages."""

    def __init__(self, publisher: Publisher, rate: float) -> None:
        self._publisher = publisher
        self._rate = rate
        self._first_ns: int | None = None
        self._begin = 0.0

    def start(self, first_ns: int, begin: float) -> None:
        """Let the recording begin at a time of `time.monotonic()`."""
        self._first_ns, self._begin = first_ns, begin

    def tick(self, record_ns: int = 0) -> None:
        """Publish what time it is in the recording, `record_ns` at least."""
        if self._first_ns is None:
            return
        passed = round((time.monotonic() - self._begin) * self._rate * NS)
        now_ns = max(record_ns, self._first_ns + passed)
        types: Any = typestore().types
        stamp = types["builtin_interfaces/msg/Time"](sec=now_ns // NS, nanosec=now_ns % NS)
        self._publisher.publish(types["rosgraph_msgs/msg/Clock"](clock=stamp))


def _play(
    node: Node,
    reader: BagReader,
    publishers: dict[str, Publisher],
    rate: float,
    clock: _Clock | None,
    stopped: Callable[[], bool],
) -> int:
    """Publish the recording once; returns the number of messages.

    Raises:
        DamagedBagError: after the last message before the damage.
    """
    count, first_ns, begin = 0, 0, time.monotonic()
    for message in reader.messages(publishers):
        if not count:
            first_ns = message.record_ns
            if clock is not None:
                clock.start(first_ns, begin)
        node.spin(stopped, begin + (message.record_ns - first_ns) / NS / rate)
        if stopped():
            break
        if clock is not None:
            clock.tick(message.record_ns)
        publishers[message.topic.name].publish_cdr(bytes(message.data))
        count += 1
    return count


def _topics(
    args: argparse.Namespace, reader: BagReader, log: Callable[[Level, str], None]
) -> list[Topic]:
    """The topics to publish.

    Raises:
        SourceError: a topic is not recorded, or its type is not known, or there is none.
    """
    known = typestore().types
    wanted = {f"/{name.lstrip('/')}" for name in args.topics}
    missing = wanted - reader.topics.keys()
    if missing:
        raise SourceError(
            f"recording {args.bag} has no topic {some(sorted(missing))}, but "
            f"{', '.join(map(printable, sorted(reader.topics)))}"
        )
    chosen = []
    for topic in reader.topics.values():
        if (wanted and topic.name not in wanted) or topic.name == "/clock":
            continue
        if topic.msgtype in known:
            chosen.append(topic)
        elif wanted:
            raise SourceError(f"messages of type {printable(topic.msgtype)} are not known")
        else:
            log(Level.WARN, f"left out {printable(topic.name)}: its type is not known")
    if not chosen:
        raise SourceError(f"recording {args.bag} holds no topic to play")
    return chosen


def _is_transient_local(topic: Topic) -> bool:
    """Whether the recorded publisher was transient local, as that of /tf_static."""
    return any(qos.durability.name == "TRANSIENT_LOCAL" for qos in topic.qos)
