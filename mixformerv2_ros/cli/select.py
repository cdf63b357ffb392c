"""`mixformerv2 select`: draw a box on an image, for a running tracker or a recording."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from mixformerv2_ros.cli import replay, track
from mixformerv2_ros.cli.arguments import CommandParser
from mixformerv2_ros.cli.remote import ros_is_built
from mixformerv2_ros.cli.ros_graph import (
    add_node_arguments,
    cyclone,
    names_from_arguments,
    write_log,
)
from mixformerv2_ros.errors import ImageError, SourceError
from mixformerv2_ros.files import write_json
from mixformerv2_ros.interrupt import INTERRUPTED, node_stop
from mixformerv2_ros.io.bag_files import is_storage_file
from mixformerv2_ros.io.bag_reader import BagReader
from mixformerv2_ros.io.paths import check_output_file
from mixformerv2_ros.io.video import VideoFrame, VideoSource
from mixformerv2_ros.ros.box_selection.images import FileImages, ShownImage
from mixformerv2_ros.ros.box_selection.selector import Selector
from mixformerv2_ros.ros.box_selection.topic_images import TopicImages
from mixformerv2_ros.ros.box_selection.window import SelectionWindow
from mixformerv2_ros.ros.replay import RecordedImage, choose_image_topic, images
from mixformerv2_ros.text import printable
from mixformerv2_ros.tracking.boxes import Box
from mixformerv2_ros.tracking.frame import NS

if TYPE_CHECKING:
    from types import ModuleType

BAG, CAMERA, VIDEO, TOPIC = "recording", "camera", "video", "topic"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `mixformerv2 select`."""
    parser.description = (
        "Show images in a window to draw a box around a target. A box drawn on an image of a topic "
        "is published as mixformerv2_ros/msg/InitBox on init_box, with the stamp of that image, by "
        "rclpy, or by Cyclone DDS if ROS is not installed. A box drawn on a recording or a video "
        "is printed, or tracked with --track. The image is frozen while a box is drawn. Keys: "
        "enter confirms the box, r discards it, space pauses, right shows the next image of a "
        "file, q quits."
    )
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="image topic, rosbag2 recording, video file, image folder, or camera index",
    )
    parser.add_argument(
        "--image-topic", metavar="T", help="image topic of a recording (default: its only one)"
    )
    parser.add_argument(
        "--target-id", default="", metavar="ID", help="id of the target (default: target)"
    )
    parser.add_argument(
        "--once", action="store_true", help="topic: close the window after the first box"
    )
    parser.add_argument(
        "--no-confirm",
        action="store_true",
        help="confirm a box when the mouse button is released (the tracker rejects boxes on images "
        "older than buffer.duration)",
    )
    parser.add_argument(
        "--dds", action="store_true", help="use Cyclone DDS even if rclpy is installed"
    )
    parser.add_argument(
        "--box-file", type=Path, metavar="F", help="write the last box as JSON to a file"
    )
    parser.add_argument("--force", action="store_true", help="overwrite that file")
    parser.add_argument(
        "--track",
        nargs=argparse.REMAINDER,
        metavar="OPTION",
        help="recording or video: track the box; all following options are passed to mixformerv2 "
        "replay or track",
    )
    add_node_arguments(parser, "selector")


def run(args: argparse.Namespace) -> int:
    """Show images until a box is drawn on a file, or the user quits."""
    kind = source_kind(args.source)
    if args.track is not None and kind in (TOPIC, CAMERA):
        raise SourceError(f"--track requires a recording or a video, got {kind} {args.source}")
    if args.box_file is not None:
        check_output_file(args.box_file, args.force, Path(args.source))
    if args.track is not None:
        _next_command(args, kind, Box(0, 0, 1, 1), 0)  # before any drawing is done in vain
    drawn: list[tuple[Box, ShownImage]] = []
    with ExitStack() as stack:
        stopped = stack.enter_context(node_stop())
        window = SelectionWindow(f"mixformerv2 select {args.source}")
        stack.callback(window.close)
        if kind == TOPIC:
            topic = stack.enter_context(_topic(args))

            def choose(box: Box, shown: ShownImage) -> str:
                drawn.append((box, shown))
                line = topic.publish_box(box, args.target_id, shown)
                print(line, flush=True)
                return line

            window.run(
                Selector(topic, choose, once=args.once, confirm=not args.no_confirm), stopped
            )
        else:
            file = stack.enter_context(_file(args, kind))

            def keep(box: Box, shown: ShownImage) -> str:
                drawn.append((box, shown))
                return ""

            window.run(Selector(file, keep, once=True, confirm=not args.no_confirm), stopped)
        interrupted = stopped()
    return _finish(args, kind, drawn, INTERRUPTED if interrupted else 0)


def source_kind(source: str) -> str:
    """What a source is.

    Raises:
        SourceError: it is neither an existing file nor a valid topic name.
    """
    path = Path(source)
    if path.is_dir():
        recorded = any(map(is_storage_file, path.iterdir()))
        return BAG if recorded or (path / "metadata.yaml").is_file() else VIDEO
    if path.exists():
        return BAG if is_storage_file(path) else VIDEO
    if source.isdecimal():
        return CAMERA
    if not source.removeprefix("~").replace("/", "").replace("_", "").isalnum():
        raise SourceError(
            f"source must be an existing file or a topic name, got {printable(source)}"
        )
    return TOPIC


def _topic(args: argparse.Namespace) -> AbstractContextManager[TopicImages]:
    """Images of a topic by rclpy if it and our interfaces are there, else by Cyclone DDS."""
    names = names_from_arguments(args)
    topic = names.expand(args.source)
    if ros_is_built() and not args.dds:
        from mixformerv2_ros.ros.rclpy.box_selection_node import BoxSelectionNode

        return BoxSelectionNode(names.node, names.namespace, args.remap, topic)
    with cyclone():
        from mixformerv2_ros.ros.cyclonedds.box_selection_node import DdsBoxSelectionNode
        from mixformerv2_ros.ros.cyclonedds.node import Node

    return DdsBoxSelectionNode(Node(names, write_log(names.full)), topic)


def _file(args: argparse.Namespace, kind: str) -> FileImages:
    if kind == BAG:
        with BagReader(Path(args.source)) as reader:
            choose_image_topic(reader, args.image_topic)
    else:
        with VideoSource(args.source):
            pass
    read = _bag_images if kind == BAG else _video_images
    return FileImages(args.source, kind == CAMERA, lambda: read(args))


def _bag_images(args: argparse.Namespace) -> Iterator[ShownImage]:
    with BagReader(Path(args.source)) as reader:
        yield from _decoded(images(reader, choose_image_topic(reader, args.image_topic)))


def _video_images(args: argparse.Namespace) -> Iterator[ShownImage]:
    with VideoSource(args.source) as source:
        yield from _decoded(source.frames())


def _decoded(found: Iterable[RecordedImage | VideoFrame]) -> Iterator[ShownImage]:
    for image in found:
        try:
            yield ShownImage(image.decode(), image.index)
        except ImageError as error:
            print(f"mixformerv2 select: {image.name} skipped: {error}", file=sys.stderr)


def _next_command(
    args: argparse.Namespace, kind: str, box: Box, index: int
) -> tuple[ModuleType, argparse.Namespace]:
    """The command that tracks a box in a file, and its parsed options."""
    module = replay if kind == BAG else track
    words = [args.source, "--box", _numbers(box), "--start-frame", str(index)]
    if kind == BAG and args.image_topic is not None:
        words += ["--image-topic", args.image_topic]
    words += args.track or []
    name = "replay" if kind == BAG else "track"
    parser = CommandParser(prog=f"mixformerv2 {name}")
    module.add_arguments(parser)
    parsed = parser.parse_args(words)
    parsed.command_line = [name, *words]
    return module, parsed


def _finish(
    args: argparse.Namespace, kind: str, drawn: list[tuple[Box, ShownImage]], code: int
) -> int:
    """Print and store the last box, and track it if that was asked for."""
    if not drawn:
        print("no box drawn", file=sys.stderr)
        return code
    box, shown = drawn[-1]
    if args.box_file is not None:
        record = {
            "source": args.source,
            "box": list(box),
            "frame": shown.index,
            "stamp_ns": shown.frame.stamp_ns,
            "frame_id": shown.frame.frame_id,
            "target_id": args.target_id,
        }
        write_json(args.box_file, record)
    if kind == TOPIC:
        return code
    when = f"frame {shown.index} ({shown.frame.stamp_ns / NS:.3f} s)"
    print(f"box {_numbers(box)} in {when} of {args.source}", flush=True)
    if kind == CAMERA or code:
        return code
    assert shown.index is not None
    if args.track is None:
        print(f"to track it: {_hint(args, kind, box, shown.index)}")
        return code
    module, parsed = _next_command(args, kind, box, shown.index)
    tracked: int = module.run(parsed)
    return tracked


def _hint(args: argparse.Namespace, kind: str, box: Box, index: int) -> str:
    """The command that would track a box, for people to copy."""
    words = ["mixformerv2", "replay" if kind == BAG else "track", args.source]
    words += ["--box", _numbers(box), "--start-frame", str(index)]
    return shlex.join(
        [*words, *(["--output", "tracks"] if kind == BAG else ["--csv", "tracks.csv"])]
    )


def _numbers(box: Box) -> str:
    return ",".join(f"{value:g}" for value in box)
