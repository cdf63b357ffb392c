"""`mixformerv2 track`: track a target in a video, a camera or an image folder."""

from __future__ import annotations

import argparse
import itertools
import sys
from contextlib import ExitStack
from pathlib import Path

from tqdm import tqdm

from mixformerv2_ros.cli.arguments import ranged
from mixformerv2_ros.cli.parameter_options import add_parameter_arguments
from mixformerv2_ros.cli.shared import (
    TrackOutputs,
    add_output_arguments,
    check_outputs,
    open_stream,
    warn_of_deadline,
)
from mixformerv2_ros.cli.stream_log import StreamLog
from mixformerv2_ros.errors import BAD_INPUT
from mixformerv2_ros.interrupt import INTERRUPTED, stop_request
from mixformerv2_ros.io.video import VideoFrame, VideoSource
from mixformerv2_ros.tracking.boxes import Box
from mixformerv2_ros.tracking.events import InitRequest
from mixformerv2_ros.tracking.stream import track_one


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `mixformerv2 track`."""
    parser.description = (
        "Track a target in a video file, a camera or an image folder, and write its track as CSV, "
        "JSON, HTML report, a video with the box drawn in, or for the Rerun viewer."
    )
    parser.add_argument(
        "source", metavar="SOURCE", help="video file, camera index, or image folder"
    )
    parser.add_argument(
        "--box",
        type=str,
        required=True,
        metavar="X,Y,W,H",
        help="init box: top-left corner and size in pixels",
    )
    parser.add_argument(
        "--start-frame",
        type=ranged(int, 0),
        default=0,
        metavar="N",
        help="index of the frame of --box (default: %(default)s)",
    )
    parser.add_argument(
        "--max-frames", type=ranged(int, 1), metavar="N", help="maximum number of frames to track"
    )
    parser.add_argument(
        "--fps",
        type=ranged(float, 0.001, 10_000),
        metavar="F",
        help="frame rate to use instead of the source's timing (image folders: 30)",
    )
    add_output_arguments(parser)
    add_parameter_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Track until the source ends, `--max-frames` is reached, or Ctrl-C."""
    box = Box.parse(args.box)
    check_outputs(args, Path(args.source))
    with ExitStack() as stack:
        source = stack.enter_context(VideoSource(args.source, args.fps))
        frames = itertools.islice(source.frames(), args.start_frame, None)
        stream, log = open_stream(args), StreamLog("track")
        steps = log.steps(track_one(stream, frames, InitRequest(box)))
        steps = itertools.islice(steps, args.max_frames)
        first = next(steps, None)
        if first is None:
            error = log.no_image(
                f"{args.source} has no frame {args.start_frame} that can be decoded"
            )
            log.finish()
            raise error
        outputs = stack.enter_context(
            TrackOutputs(args, args.source, source.fps, stream, first.frame)
        )
        ends = [source.count, args.max_frames and args.start_frame + args.max_frames]
        total = min((end for end in ends if end is not None), default=None)
        stopped = stack.enter_context(stop_request())
        progress = stack.enter_context(
            tqdm(
                itertools.chain([first], steps),
                total=None if total is None else max(total - args.start_frame, 1),
                unit="frame",
                disable=None,
                file=sys.stderr,
            )
        )
        for step in progress:
            assert isinstance(step.image, VideoFrame)
            outputs.write(step.image.index, step)
            if stopped():
                break
        interrupted = stopped()
        # Ctrl-C is how a camera ends.
        is_cut = source.is_cut or (interrupted and not source.is_live)
        missing = (source.warning or "interrupted") if is_cut else log.skipped
        outputs.finish(missing, ended_early=is_cut)
    if source.warning:
        print(f"mixformerv2 track: {source.warning}", file=sys.stderr)
    print(outputs.summary())
    warn_of_deadline("track", stream)
    code = log.finish() or (BAD_INPUT if source.is_cut else 0)
    return INTERRUPTED if interrupted else code
