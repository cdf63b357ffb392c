"""`mixformerv2 replay`: track targets in a recording and record their tracks."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from tqdm import tqdm

from mixformerv2_ros.cli.arguments import ranged
from mixformerv2_ros.cli.parameter_options import add_parameter_arguments
from mixformerv2_ros.cli.renamed_options import add_renamed_option
from mixformerv2_ros.cli.replay_many import Outcome, replay_all
from mixformerv2_ros.cli.shared import (
    TrackOutputs,
    add_output_arguments,
    check_outputs,
    open_stream,
    warn_of_deadline,
)
from mixformerv2_ros.cli.stream_log import StreamLog
from mixformerv2_ros.errors import MixFormerError, SourceError
from mixformerv2_ros.interrupt import INTERRUPTED, stop_request
from mixformerv2_ros.io.bag_reader import BagReader, DamagedBagError, Topic
from mixformerv2_ros.io.bag_writer import STORAGES
from mixformerv2_ros.io.reference_tracks import Comparison
from mixformerv2_ros.io.video import DEFAULT_FPS
from mixformerv2_ros.ros.replay import (
    RecordedImage,
    RecordedPrediction,
    Start,
    assign_images,
    choose_image_topic,
    choose_starts,
    images,
    replay,
    write_step,
)
from mixformerv2_ros.shared_work import launched_rank
from mixformerv2_ros.text import printable
from mixformerv2_ros.tracking.boxes import Box
from mixformerv2_ros.tracking.events import Step
from mixformerv2_ros.tracking.stream import Stream

DIFFERENT = 1
"""Exit code of a replay whose tracks differ from the reference."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `mixformerv2 replay`."""
    parser.description = (
        "Track targets in the images of a rosbag2 recording, every image in order, and record "
        "/track (mixformerv2_ros/msg/Track) and /detections (vision_msgs/msg/Detection2DArray). "
        "The output is reproducible. A damaged recording is replayed up to the damage, images that "
        "cannot be decoded are skipped; the exit code is 2 then. Several recordings are replayed "
        "into OUT/NAME each, an interrupted run continues, and processes of torchrun, srun, or "
        "with RANK and WORLD_SIZE set, share them."
    )
    parser.add_argument(
        "bags", type=Path, nargs="+", metavar="BAG", help="rosbag2 folder, .mcap or .db3 file"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="OUT",
        help="output folder; of several recordings, the folder of their outputs (then --csv, "
        "--json, --video, --report, --rerun and --reference are folders of one file per recording, "
        "too)",
    )
    parser.add_argument("--image-topic", metavar="T", help="image topic (default: the only one)")
    starts = parser.add_argument_group(
        "target",
        "Default: the init boxes recorded as mixformerv2_ros/msg/InitBox, each on the image of its "
        "stamp.",
    )
    starts.add_argument(
        "--box",
        metavar="X,Y,W,H",
        help="init box: top-left corner and size in pixels",
    )
    starts.add_argument(
        "--start-frame",
        type=ranged(int, 0),
        metavar="N",
        help="index of the image of --box (default: 0)",
    )
    starts.add_argument(
        "--start-time",
        type=ranged(float, 0, 1e9),
        metavar="S",
        help="--box is on the first image recorded this many seconds after the first",
    )
    starts.add_argument(
        "--init-topic",
        action="append",
        default=[],
        metavar="T",
        help="further topic of init boxes: InitBox, vision_msgs/msg/Detection2D or "
        "sensor_msgs/msg/RegionOfInterest (may be repeated)",
    )
    parser.add_argument(
        "--max-frames", type=ranged(int, 1), metavar="N", help="maximum number of images to track"
    )
    parser.add_argument(
        "--storage",
        choices=list(STORAGES),
        default="mcap",
        help="storage format of the output (default: %(default)s)",
    )
    parser.add_argument("--copy-images", action="store_true", help="record the images, too")
    parser.add_argument(
        "--track-predicted",
        action="store_true",
        help="record /track_predicted, too: tracks extrapolated from the stamp of each image to "
        "the time of its recording",
    )
    reference = parser.add_argument_group("comparison")
    reference.add_argument(
        "--reference",
        type=Path,
        metavar="F",
        help="compare with reference tracks from an earlier --json; exit code 1 if they differ",
    )
    reference.add_argument(
        "--min-iou",
        type=ranged(float, 0, 1),
        default=0.9,
        metavar="IOU",
        help="minimum IoU with the reference box (default: %(default)s)",
    )
    add_renamed_option(parser, "--expect", "--reference")
    add_output_arguments(parser)
    add_parameter_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Replay the recordings; what is wrong with one is stated when all else is written."""
    _check_starts(args)
    rank = launched_rank()
    if len(args.bags) > 1:
        return replay_all(args, rank, replay_one)
    if not rank.is_main:
        return 0  # one recording is not shared
    outcome = Outcome()
    replay_one(args, args.bags[0], outcome)
    return outcome.code


def _check_starts(args: argparse.Namespace) -> None:
    if args.box is None and (args.start_frame is not None or args.start_time is not None):
        raise SourceError("--start-frame and --start-time require --box")
    if args.start_frame is not None and args.start_time is not None:
        raise SourceError("--start-frame and --start-time exclude each other")
    if args.box is not None and args.init_topic:
        raise SourceError("--box and --init-topic exclude each other")


def replay_one(args: argparse.Namespace, bag: Path, outcome: Outcome) -> None:
    """Replay one recording into the outputs that the options name; says on stderr what is wrong.

    Args:
        args: The options.
        bag: The recording.
        outcome: Takes what came of it, also where an error is raised.

    Raises:
        MixFormerError: it cannot be replayed, or not to its end; raised when all is written.
    """
    check_outputs(args, bag, folder=args.output)
    comparison = None if args.reference is None else Comparison(args.reference, args.min_iou)
    with BagReader(bag) as reader:
        topic = choose_image_topic(reader, args.image_topic)
        starts = _starts(args, reader, topic)
        stream, log = open_stream(args), StreamLog("replay")
        starts = assign_images(reader, topic, starts)
        steps = log.steps(replay(images(reader, topic), stream, starts))
        steps = _compared(itertools.islice(steps, args.max_frames), comparison)
        try:
            _write(args, reader, topic, stream, steps, log, outcome)
        finally:
            skipped = log.finish()
            if reader.note:
                print(f"mixformerv2 replay: {reader.note}", file=sys.stderr)
    if skipped and not outcome.code:
        outcome.code, outcome.problem = skipped, log.skipped
    if comparison is not None and not outcome.code:
        _compare(args, comparison, outcome)


def _compared(steps: Iterator[Step], comparison: Comparison | None) -> Iterator[Step]:
    for step in steps:
        if comparison is not None:
            comparison.check(_index(step), step.tracks)
        yield step


def _index(step: Step) -> int:
    """Number of the image on its topic."""
    assert isinstance(step.image, RecordedImage)
    return step.image.index


def _compare(args: argparse.Namespace, comparison: Comparison, outcome: Outcome) -> None:
    comparison.finish()
    if comparison.difference is None:
        print(f"tracks match {args.reference}; minimum IoU {comparison.min_seen:.3f}")
        return
    outcome.code = DIFFERENT
    outcome.problem = f"tracks differ from {args.reference}: {comparison.difference}"
    print(f"mixformerv2 replay: {outcome.problem}", file=sys.stderr)


def _starts(args: argparse.Namespace, reader: BagReader, topic: Topic) -> list[Start]:
    box = None if args.box is None else Box.parse(args.box)
    starts = choose_starts(reader, topic, box, args.start_frame, args.start_time, args.init_topic)
    if not starts:
        raise SourceError(
            f"recording {reader.path} has no init boxes; give --box X,Y,W,H or --init-topic"
        )
    return starts


def _write(
    args: argparse.Namespace,
    reader: BagReader,
    topic: Topic,
    stream: Stream,
    steps: Iterator[Step],
    log: StreamLog,
    outcome: Outcome,
) -> None:
    # Nothing is created before the first frame: a box that cannot be tracked leaves no trace.
    try:
        first = next(steps, None)
    except SourceError as error:
        raise log.no_image(str(error)) from error  # with the reason, in the same line
    if first is None:
        raise log.no_image(
            f"recording {reader.path} has no image on {printable(topic.name)} that can be decoded"
        )
    failure: MixFormerError | None = None
    with ExitStack() as stack:
        outputs = stack.enter_context(
            TrackOutputs(args, str(reader.path), _fps(reader, topic), stream, first.frame)
        )
        assert outputs.bag is not None
        stopped = stack.enter_context(stop_request())
        progress = stack.enter_context(
            tqdm(
                itertools.chain([first], steps),
                total=args.max_frames or topic.count,
                unit="frame",
                disable=None,
                file=sys.stderr,
            )
        )
        prediction = RecordedPrediction(stream) if args.track_predicted else None
        try:
            for step in progress:
                write_step(outputs.bag, step, args.copy_images)
                if prediction is not None:
                    prediction.write(outputs.bag, step)
                outputs.write(_index(step), step)
                if stopped():
                    break
        except MixFormerError as error:
            failure = error
        interrupted = stopped()
        missing = "interrupted" if interrupted else log.skipped
        if failure is not None:
            missing = str(failure)
        # What a damaged recording still holds has been replayed to its end.
        ended_early = failure is not None and not isinstance(failure, DamagedBagError)
        outputs.finish(missing, ended_early=interrupted or ended_early)
    print(outputs.summary())
    warn_of_deadline("replay", stream)
    outcome.frames, outcome.states = outputs.frames, dict(outputs.states)
    outcome.is_complete = not interrupted and not ended_early
    if failure is not None:
        raise failure
    outcome.code = INTERRUPTED if interrupted else 0


def _fps(reader: BagReader, topic: Topic) -> float:
    """Frames per second of a topic on average, for the overlay video."""
    duration_ns = reader.duration_ns
    if not duration_ns or not topic.count or topic.count < 2:
        return DEFAULT_FPS
    return min(max((topic.count - 1) * 1e9 / duration_ns, 1.0), 1000.0)
