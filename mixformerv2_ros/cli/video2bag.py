"""`mixformerv2 video2bag`: convert a video to a recording."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from mixformerv2_ros.cli.arguments import ranged
from mixformerv2_ros.cli.stream_log import StreamLog
from mixformerv2_ros.errors import BAD_INPUT, ImageError, SourceError
from mixformerv2_ros.interfaces import typestore
from mixformerv2_ros.interrupt import INTERRUPTED, stop_request
from mixformerv2_ros.io.bag_writer import STORAGES, BagWriter
from mixformerv2_ros.io.images import bgr_copy
from mixformerv2_ros.io.partial import PartialOutput, partial_path
from mixformerv2_ros.io.paths import check_output
from mixformerv2_ros.io.video import VideoFrame, VideoSource
from mixformerv2_ros.ros.cyclonedds.names import NodeNames
from mixformerv2_ros.ros.messages import compressed_image_message, image_message
from mixformerv2_ros.tracking.events import Event, EventKind, undecodable
from mixformerv2_ros.tracking.frame import Frame

EPOCH_S = 1_700_000_000.0
"""Default stamp of a video's first frame in seconds: arbitrary, but always the same."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `mixformerv2 video2bag`."""
    parser.description = (
        "Record a video or an image folder as sensor_msgs/msg/Image (rgb8) or CompressedImage, "
        "stamped by the video's timing. The output is reproducible byte for byte."
    )
    parser.add_argument("video", metavar="VIDEO", help="video file or image folder")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="BAG", help="output folder"
    )
    parser.add_argument(
        "--topic",
        metavar="T",
        help="image topic (default: /camera/image_raw, or /camera/image_raw/compressed)",
    )
    parser.add_argument(
        "--compressed",
        choices=["jpeg", "png", "none"],
        default="none",
        help="record CompressedImage in this format (default: %(default)s, raw images)",
    )
    parser.add_argument(
        "--frame-id",
        default="camera",
        metavar="ID",
        help="frame_id of the images (default: %(default)s)",
    )
    parser.add_argument(
        "--storage",
        choices=list(STORAGES),
        default="mcap",
        help="storage format (default: %(default)s)",
    )
    parser.add_argument(
        "--fps",
        type=ranged(float, 0.001, 10_000),
        metavar="F",
        help="frame rate to use instead of the video's timing",
    )
    parser.add_argument(
        "--start-stamp",
        type=ranged(float, 0, 2**31 - 1),
        default=EPOCH_S,
        metavar="S",
        help="stamp of the first frame in seconds (default: %(default).0f)",
    )
    parser.add_argument("--force", action="store_true", help="overwrite the output")


def run(args: argparse.Namespace) -> int:
    """Record every frame; Ctrl-C leaves a recording of those before it."""
    if args.video.isdecimal() and not Path(args.video).exists():
        raise SourceError(f"video must be a file or a folder, got camera {args.video}")
    check_output(args.output, args.force, Path(args.video))
    check_output(partial_path(args.output, is_folder=True), True, Path(args.video))
    compressed = args.compressed != "none"
    default = "/camera/image_raw" + ("/compressed" if compressed else "")
    topic = NodeNames("video2bag").expand(default if args.topic is None else args.topic)
    msgtype = "sensor_msgs/msg/CompressedImage" if compressed else "sensor_msgs/msg/Image"
    start_ns = round(args.start_stamp * 1e9)
    with VideoSource(args.video, args.fps) as source:
        log = StreamLog("video2bag")
        frames = _decoded(source.frames(), log)
        first = next(frames, None)
        if first is None:
            raise log.no_image(f"{args.video} has no frame that can be decoded")
        output = PartialOutput(args.output, is_folder=True)
        missing, ended_early, written = "ended by an error", True, 0
        try:
            with ExitStack() as stack:
                writer = stack.enter_context(BagWriter(output.target, args.storage))
                stack.callback(lambda: writer.mark_partial(missing) if missing else None)
                stopped = stack.enter_context(stop_request())
                progress = stack.enter_context(
                    tqdm(total=source.count, unit="frame", disable=None, file=sys.stderr)
                )
                for frame in itertools.chain([first], frames):
                    stamp_ns = start_ns + frame.stamp_ns
                    message = _message(frame, args.compressed, stamp_ns, args.frame_id)
                    writer.write(topic, msgtype, message, stamp_ns)
                    written += 1
                    progress.update()
                    if stopped():
                        break
                interrupted = stopped()
                ended_early = interrupted or source.is_cut
                missing = (source.warning or "interrupted") if ended_early else log.skipped
        except BaseException:
            ended_early = True
            raise
        finally:
            if not written:
                output.discard()
            else:
                place = output.keep_partial() if ended_early else output.publish()
    if source.warning:
        print(f"mixformerv2 video2bag: {source.warning}", file=sys.stderr)
    print(f"{written} images recorded on {topic}: {place}")
    code = log.finish() or (BAD_INPUT if source.is_cut else 0)
    return INTERRUPTED if interrupted else code


def _decoded(images: Iterable[VideoFrame], log: StreamLog) -> Iterator[Frame]:
    """The frames; those of 16 bits with the used ones, as a stream measures and holds them."""
    bits = 8
    for image in images:
        try:
            frame = image.decode()
        except ImageError as error:
            log.add(undecodable(image, error))
            continue
        measured = frame.pixels.measured_bits()
        if measured > bits:
            bits = measured
            text = f"{frame.pixels.encoding} images use {bits} of 16 bits, as measured"
            log.add(Event(EventKind.BITS, text, image=image))
        yield replace(frame, pixels=frame.pixels.with_bits(bits))


def _message(frame: Frame, compressed: str, stamp_ns: int, frame_id: str) -> Any:
    types = typestore().types
    if compressed == "none":
        return image_message(types, frame.pixels.rgb(), "rgb8", stamp_ns, frame_id)
    ok, data = cv2.imencode(f".{compressed}", bgr_copy(frame.pixels))
    if not ok:
        raise SourceError(f"frame at {frame.stamp_ns / 1e9:.3f} s cannot be encoded")
    return compressed_image_message(types, np.asarray(data), compressed, stamp_ns, frame_id)
