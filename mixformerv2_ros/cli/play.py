"""`mixformerv2 play`: publish a recording on DDS, without a ROS installation."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixformerv2_ros.cli.arguments import ranged
from mixformerv2_ros.cli.ros_graph import (
    add_node_arguments,
    cyclone,
    names_from_arguments,
    write_log,
)
from mixformerv2_ros.errors import SourceError
from mixformerv2_ros.interfaces import typestore
from mixformerv2_ros.interrupt import node_stop
from mixformerv2_ros.io.bag_reader import BagReader, Topic
from mixformerv2_ros.ros.messages import Level
from mixformerv2_ros.ros.qos import HISTORY_DEPTH
from mixformerv2_ros.ros.topics import IMAGE_TYPES
from mixformerv2_ros.text import printable, some
from mixformerv2_ros.tracking.frame import NS

if TYPE_CHECKING:
    from mixformerv2_ros.ros.cyclonedds.node import Node
    from mixformerv2_ros.ros.cyclonedds.publisher import Publisher

CLOCK_HZ = 40.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `mixformerv2 play`."""
    parser.description = (
        "Publish the messages of a rosbag2 recording with their recorded timing, by Cyclone DDS, "
        "without a ROS installation. Stamps are not changed; use --clock here and use_sim_time in "
        "the nodes to run on recorded time."
    )
    parser.add_argument("bag", type=Path, metavar="BAG", help="rosbag2 folder, .mcap or .db3 file")
    parser.add_argument(
        "--topics", nargs="+", default=[], metavar="T", help="publish only these topics"
    )
    parser.add_argument(
        "--rate",
        type=ranged(float, 0.01, 100),
        default=1.0,
        metavar="X",
        help="playback rate (default: 1)",
    )
    parser.add_argument("--loop", action="store_true", help="play in a loop")
    parser.add_argument(
        "--clock",
        nargs="?",
        type=ranged(float, 1, 1000),
        const=CLOCK_HZ,
        metavar="HZ",
        help=f"publish /clock at this rate (default: {CLOCK_HZ:g}) and with every message",
    )
    parser.add_argument(
        "--wait",
        type=ranged(float, 0, 3600),
        default=3.0,
        metavar="S",
        help="wait at most this many seconds for subscriptions to all image topics (default: 3)",
    )
    add_node_arguments(parser, "player")


def run(args: argparse.Namespace) -> int:
    """Publish until the end, Ctrl-C or SIGTERM."""
    names = names_from_arguments(args)
    with cyclone():
        from mixformerv2_ros.ros.cyclonedds.node import CLOCK, CLOCK_TYPE, Node
        from mixformerv2_ros.ros.cyclonedds.qos_profiles import reliable, transient_local

    log = write_log(names.full)
    with BagReader(args.bag) as reader, node_stop() as stopped, Node(names, log) as node:
        if reader.note:
            log(Level.WARN, reader.note)
        publishers = {
            topic.name: node.create_publisher(
                names.topic(topic.name),
                topic.msgtype,
                transient_local(HISTORY_DEPTH) if _is_transient_local(topic) else reliable(),
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
        alone = sorted(p.topic for p in awaited if not p.subscription_count)
        if alone and not stopped():
            log(Level.WARN, f"no subscription to {some(alone)}")
        log(Level.OK, f"playing {some(sorted(publishers))}")
        while True:
            count = _play(node, reader, publishers, args.rate, clock, stopped)
            if stopped() or not args.loop:
                break
            if not count:
                raise SourceError(f"recording {args.bag} has no messages to play")
        log(Level.OK, f"played {count} messages")
        # Messages not yet acknowledged would be lost with the node.
        for publisher in publishers.values():
            publisher.wait_for_all_acked()
    return 0


class _Clock:
    """Publishes the recorded time, also between messages."""

    def __init__(self, publisher: Publisher, rate: float) -> None:
        self._publisher = publisher
        self._rate = rate
        self._first_ns: int | None = None
        self._begin = 0.0

    def start(self, first_ns: int, begin: float) -> None:
        """Start the recording at a time of `time.monotonic()`."""
        self._first_ns, self._begin = first_ns, begin

    def tick(self, record_ns: int = 0) -> None:
        """Publish the recorded time, `record_ns` at least."""
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
        SourceError: a topic is not recorded, a type is unknown, or there is no topic.
    """
    known = typestore().types
    wanted = {f"/{name.lstrip('/')}" for name in args.topics}
    missing = wanted - reader.topics.keys()
    if missing:
        raise SourceError(
            f"recording {args.bag} has no topic {some(sorted(missing))}; topics: "
            f"{some(sorted(reader.topics), 20)}"
        )
    chosen = []
    for topic in reader.topics.values():
        if (wanted and topic.name not in wanted) or topic.name == "/clock":
            continue
        if topic.msgtype in known:
            chosen.append(topic)
        elif wanted:
            raise SourceError(
                f"unknown message type {printable(topic.msgtype)} of topic {printable(topic.name)}"
            )
        else:
            log(
                Level.WARN,
                f"topic {printable(topic.name)} skipped: unknown type {printable(topic.msgtype)}",
            )
    if not chosen:
        raise SourceError(f"recording {args.bag} has no topics to play")
    return chosen


def _is_transient_local(topic: Topic) -> bool:
    """Whether the recorded publisher was transient local, as that of /tf_static."""
    return any(qos.durability.name == "TRANSIENT_LOCAL" for qos in topic.qos)
