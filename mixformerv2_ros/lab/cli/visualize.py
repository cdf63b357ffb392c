"""`mixformerv2 visualize`: pictures of what the network sees and does."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Container, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from mixformerv2_ros.cli.shared import positive_number, whole_number
from mixformerv2_ros.engines.loader import load_engine
from mixformerv2_ros.errors import EngineError, ParameterError, SourceError
from mixformerv2_ros.interrupt import INTERRUPTED, stop_request
from mixformerv2_ros.io.images import IMAGE_SUFFIXES, read_image
from mixformerv2_ros.io.paths import check_output
from mixformerv2_ros.io.video import VideoFile, VideoFrame, VideoSource
from mixformerv2_ros.lab.visualization.observe import Moment, observe
from mixformerv2_ros.lab.visualization.sheet import Picture, above, pad, write_picture
from mixformerv2_ros.model.bundle import Bundle, open_bundle
from mixformerv2_ros.ros.parameters import (
    add_parameter_arguments,
    check_values,
    tracker_settings,
    values_from_arguments,
)
from mixformerv2_ros.text import printable
from mixformerv2_ros.tracking.boxes import Box
from mixformerv2_ros.tracking.frame import Frame

if TYPE_CHECKING:
    from mixformerv2_ros.lab.visualization.attention import Row, WatchingEngine

VIDEO_SUFFIX = ".mp4"
MARGIN = 16
MAX_FRAME = 10**9


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the kinds of pictures and their arguments."""
    parser.description = "Draw what the network sees and does, as a PNG sheet or an mp4 video."
    kinds = parser.add_subparsers(dest="kind", metavar="PICTURE", required=True)

    attention = kinds.add_parser(
        "attention",
        help="where the four prediction tokens look, per layer and head",
        description=(
            "Draw the attention of the four prediction tokens (left, top, right, bottom) over "
            "templates and search region: a row per layer and head, a column per token."
        ),
    )
    _add_source(attention, frames=True)
    attention.add_argument(
        "--layer", default="all", metavar="L", help="layer from 1, or all (default: %(default)s)"
    )
    attention.add_argument(
        "--head",
        default="mean",
        metavar="H",
        help="head from 1, mean of the heads, or all (default: %(default)s)",
    )
    add_parameter_arguments(attention)

    distribution = kinds.add_parser(
        "distribution",
        help="the four edge distributions beside the attention",
        description=(
            "Draw the distributions of the four box edges along the sides of the search region, "
            "with mean and standard deviation, beside the attention of the prediction tokens."
        ),
    )
    _add_source(distribution, frames=True)
    distribution.add_argument(
        "--layer", default="last", metavar="L", help="layer from 1, or last (default: %(default)s)"
    )
    distribution.add_argument(
        "--head",
        default="mean",
        metavar="H",
        help="head from 1, or mean of the heads (default: %(default)s)",
    )
    add_parameter_arguments(distribution)

    templates = kinds.add_parser(
        "templates",
        help="the template memory over time",
        description=(
            "Draw the template memory over a run: initial and online templates, candidates with "
            "their scores, and when which of them was stored."
        ),
    )
    _add_source(templates, frames=False)
    templates.add_argument(
        "--max-frames", type=positive_number, metavar="N", help="track at most so many frames"
    )
    add_parameter_arguments(templates)

    samples = kinds.add_parser(
        "samples",
        help="what training sees",
        description=(
            "Draw samples of the training stream of a configuration, from the synthetic world or "
            "from data sets: templates, search region, box, foreground patches and label."
        ),
    )
    samples.add_argument("config", type=Path, help="YAML of settings, see config/training/")
    samples.add_argument(
        "settings", nargs="*", metavar="name=value", help="settings to use instead of the file's"
    )
    samples.add_argument(
        "--first", type=whole_number, default=0, metavar="N", help="number of the first sample"
    )
    samples.add_argument(
        "--count",
        type=positive_number,
        default=24,
        metavar="N",
        help="number of samples (default: %(default)s)",
    )
    samples.add_argument(
        "--columns",
        type=positive_number,
        default=4,
        metavar="N",
        help="samples side by side (default: %(default)s)",
    )
    _add_output(samples, "samples.png")


def run(args: argparse.Namespace) -> int:
    """Draw; 130 where Ctrl-C ended it early, with what was drawn by then."""
    if args.kind == "samples":
        return _samples(args)
    return _templates(args) if args.kind == "templates" else _looks(args)


def parse_frames(text: str) -> list[range]:
    """Read frame numbers such as `10,50-100` or `0-300:10` (every tenth).

    Raises:
        ParameterError: the text is something else.
    """
    ranges = []
    for part in text.split(","):
        numbers, _, step = part.partition(":")
        first, dash, last = numbers.partition("-")
        fields = [first, last if dash else first, step if ":" in part else "1"]
        if not all(f.strip().isdecimal() and int(f) <= MAX_FRAME for f in fields):
            raise ParameterError(
                f"--frames must be numbers and ranges such as 10,50-100 or 0-300:10, "
                f"got {printable(text)!r}"
            )
        start, end, stride = (int(field) for field in fields)
        if end < start or stride < 1:
            raise ParameterError(f"--frames has an empty range, {printable(part)!r}")
        ranges.append(range(start, end + 1, stride))
    return ranges


# Arguments ----------------------------------------------------------------------------------------


def _add_source(parser: argparse.ArgumentParser, frames: bool) -> None:
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="video file, folder of images" + (", or one image" if frames else ""),
    )
    parser.add_argument(
        "--box",
        required=True,
        metavar="X,Y,W,H",
        help="the target in the first frame: top-left corner and size in pixels",
    )
    parser.add_argument(
        "--start-frame",
        type=whole_number,
        default=0,
        metavar="N",
        help="frame that the box is drawn on, from 0 (default: %(default)s)",
    )
    if frames:
        parser.add_argument(
            "--frames",
            metavar="LIST",
            help="frames to draw, such as 10,50-100 or 0-300:10 (default: the one after the start "
            "frame; for a video all after it)",
        )
        parser.add_argument(
            "--search-box",
            metavar="X,Y,W,H",
            help="cut the next frame's search region around this box instead of the target's",
        )
    _add_output(parser, f"{parser.prog.split()[-1]}.png", f" or {VIDEO_SUFFIX}")


def _add_output(parser: argparse.ArgumentParser, name: str, more: str = "") -> None:
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path(name),
        metavar="FILE",
        help=f".png{more} to write (default: %(default)s)",
    )
    parser.add_argument("--force", action="store_true", help="overwrite an output that exists")


def _check_output(args: argparse.Namespace, suffixes: tuple[str, ...]) -> None:
    path: Path = args.output
    if path.suffix.lower() not in suffixes:
        raise SourceError(f"output must end in {' or '.join(suffixes)}, got {path}")
    if path.is_dir():
        raise SourceError(f"output {path} must be a file, but is a folder")
    source = Path(args.config if args.kind == "samples" else args.source)
    check_output(path, args.force, source)
    if not path.parent.is_dir():
        raise SourceError(f"folder of output {path} does not exist")


def _is_video(args: argparse.Namespace) -> bool:
    return bool(args.output.suffix.lower() == VIDEO_SUFFIX)


# Frames -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Clip:
    """An opened source.

    Attributes:
        frames: The start frame and those after it.
        fps: Frames per second.
        last: Number of the last frame as far as known.
    """

    frames: Iterator[VideoFrame]
    fps: float
    last: int | None


def _open_clip(args: argparse.Namespace, stack: ExitStack) -> Clip:
    path = Path(args.source)
    if path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES:
        if args.start_frame:
            raise ParameterError(f"--start-frame must be 0 for one image, got {args.start_frame}")
        # Searched in the very image that the target is drawn on.
        frame = VideoFrame(0, Frame(read_image(path)), path.name)
        return Clip(iter([frame, frame]), 1.0, 0)
    source = stack.enter_context(VideoSource(args.source))
    frames = itertools.islice(source.frames(), args.start_frame, None)
    first = next(frames, None)
    if first is None:
        raise SourceError(f"{args.source} has no frame {args.start_frame}")
    last = None if source.count is None else source.count - 1
    return Clip(itertools.chain([first], frames), source.fps, last)


@dataclass(frozen=True)
class Selection(Container[int]):
    """The frames to draw.

    Attributes:
        ranges: Numbers of frames; empty for all.
    """

    ranges: tuple[range, ...]

    def __contains__(self, index: object) -> bool:
        """Whether a frame is to be drawn."""
        return not self.ranges or any(index in one for one in self.ranges)

    @property
    def end(self) -> int | None:
        """The last of them, None for all."""
        return max((one[-1] for one in self.ranges), default=None)


def _selection(args: argparse.Namespace, clip: Clip) -> Selection:
    single = clip.last == 0 and args.start_frame == 0
    if args.frames is None:
        if _is_video(args):
            return Selection(())
        index = args.start_frame + (0 if single else 1)
        return Selection((range(index, index + 1),))
    selection = Selection(tuple(parse_frames(args.frames)))
    first = args.start_frame + (0 if single else 1)
    start = min(one[0] for one in selection.ranges)
    if start < first:
        raise ParameterError(f"--frames must be after the start frame, got {start}")
    return selection


def _progress(moments: Iterator[Moment], total: int | None) -> tqdm[Moment]:
    return tqdm(moments, total=total, unit="frame", disable=None, file=sys.stderr)


# Pictures -----------------------------------------------------------------------------------------


def _looks(args: argparse.Namespace) -> int:
    """Draw attention, or distributions with attention."""
    box = Box.parse(args.box)
    search_box = None if args.search_box is None else Box.parse(args.search_box)
    _check_output(args, (".png", VIDEO_SUFFIX))
    values = check_values(values_from_arguments(args))
    bundle = open_bundle(str(values["model"]) or None)
    settings = tracker_settings(values, bundle)
    rows = _rows(args, bundle)
    with ExitStack() as stack:
        clip = _open_clip(args, stack)
        selection = _selection(args, clip)
        engine = _watching_engine(bundle, values)
        draw = _drawing(args.kind, rows, bundle, args.source)
        stopped = stack.enter_context(stop_request())
        video = VideoFile(args.output, clip.fps) if _is_video(args) else None
        if video is not None:
            stack.callback(video.close)
        moments = observe(
            engine,
            settings,
            clip.frames,
            box,
            search_box=search_box,
            attend=engine.attend,
            watched=selection,
        )
        end = clip.last if selection.end is None else selection.end
        count = 0
        pictures: list[Picture] = []
        for moment in _progress(moments, None if end is None else max(end - args.start_frame, 1)):
            if moment.attention is not None:
                count += 1
                picture = pad(draw(moment), MARGIN)
                if video is not None:
                    video.write(picture)
                else:
                    pictures.append(picture)
            if stopped() or moment.index == selection.end:
                break
        if not count:
            raise SourceError(f"{args.source} has none of the frames to draw")
        if pictures:
            write_picture(args.output, above(pictures))
        print(f"{args.output}: {args.kind} of {count} frame{'s' * (count > 1)}")
        return INTERRUPTED if stopped() else 0


def _watching_engine(bundle: Bundle, values: dict[str, bool | int | float | str]) -> WatchingEngine:
    if values["engine"] == "onnxruntime":
        raise EngineError("attention comes from the torch engine only, got --engine onnxruntime")
    base = load_engine(bundle, "torch", str(values["device"]), int(values["num_threads"]))
    from mixformerv2_ros.engines.torch_engine import TorchEngine
    from mixformerv2_ros.lab.visualization.attention import WatchingEngine

    assert isinstance(base, TorchEngine)
    return WatchingEngine(base.model, str(values["device"]))


def _drawing(
    kind: str, rows: list[tuple[int, int | None]], bundle: Bundle, source: str
) -> Callable[[Moment], Picture]:
    from mixformerv2_ros.lab.visualization.attention import Row, attention_sheet
    from mixformerv2_ros.lab.visualization.distribution import distribution_sheet

    title = _title(bundle, source)
    chosen: list[Row] = [Row(layer, head) for layer, head in rows]
    if kind == "attention":
        return lambda moment: attention_sheet(moment, chosen, bundle.spec, title)
    return lambda moment: distribution_sheet(moment, chosen[0], bundle.spec, title)


def _title(bundle: Bundle, source: str) -> str:
    path = Path(source).resolve()
    name = f"{path.parent.name}/{path.name}" if path.name == "img" else path.name
    return f"{name} - {bundle.name}"


def _rows(args: argparse.Namespace, bundle: Bundle) -> list[tuple[int, int | None]]:
    """Layers and heads to draw, from 0."""
    many = args.kind == "attention"
    spec = bundle.spec
    layers = _numbers("--layer", args.layer, spec.depth, "all" if many else "last")
    if args.layer == "last":
        layers = [spec.depth - 1]
    heads: list[int | None]
    if args.head == "mean":
        heads = [None]
    else:
        heads = list(_numbers("--head", args.head, spec.heads, "mean or all" if many else "mean"))
        if args.head == "all":
            heads.append(None)
    return [(layer, head) for layer in layers for head in heads]


def _numbers(option: str, text: str, count: int, words: str) -> list[int]:
    if text == "all" and "all" in words:
        return list(range(count))
    if text == "last" and words == "last":
        return [count - 1]
    if not (text.isdecimal() and 1 <= int(text) <= count):
        raise ParameterError(f"{option} must be 1 to {count}, {words}, got {printable(text)}")
    return [int(text) - 1]


def _templates(args: argparse.Namespace) -> int:
    """Draw the template memory over a run."""
    from mixformerv2_ros.lab.visualization.templates import History, point_of, templates_frame

    box = Box.parse(args.box)
    _check_output(args, (".png", VIDEO_SUFFIX))
    values = check_values(values_from_arguments(args))
    bundle = open_bundle(str(values["model"]) or None)
    settings = tracker_settings(values, bundle)
    with ExitStack() as stack:
        clip = _open_clip(args, stack)
        engine = load_engine(
            bundle, str(values["engine"]), str(values["device"]), int(values["num_threads"])
        )
        stopped = stack.enter_context(stop_request())
        video = VideoFile(args.output, clip.fps) if _is_video(args) else None
        if video is not None:
            stack.callback(video.close)
        frames = itertools.islice(clip.frames, args.max_frames)
        ends = [clip.last, args.max_frames and args.start_frame + args.max_frames - 1]
        end = min((one for one in ends if one is not None), default=None)
        history = History(args.start_frame)
        title = _title(bundle, args.source)
        first = args.start_frame + 1
        moments = observe(engine, settings, frames, box)
        for moment in _progress(moments, None if end is None else max(end - first + 1, 1)):
            if video is None:
                history.add(moment)
            else:
                history.points.append(point_of(moment))
                span = (first, max(end or 0, moment.index, first + 1))
                video.write(templates_frame(moment, history.points, settings, title, span))
            if stopped():
                break
        if not history.points:
            raise SourceError(f"{args.source} has no frame after the start frame")
        if video is None:
            write_picture(args.output, pad(history.sheet(settings, title), MARGIN))
        print(f"{args.output}: templates over {len(history.points)} frames")
        return INTERRUPTED if stopped() else 0


def _samples(args: argparse.Namespace) -> int:
    """Draw samples of the training stream."""
    _check_output(args, (".png",))
    if args.count > 1000:
        raise ParameterError(f"--count must be at most 1000, got {args.count}")
    from mixformerv2_ros.lab.training.config_files import read_config
    from mixformerv2_ros.lab.training.data_loaders import load_datasets
    from mixformerv2_ros.lab.training.stages import student_spec
    from mixformerv2_ros.lab.visualization.samples import samples_sheet

    config = read_config(args.config, args.settings)
    source, _ = load_datasets(config)
    numbers = range(args.first, args.first + args.count)
    samples = ((number, source.sample(config.seed, number)) for number in numbers)
    title = f"{args.config.name}: samples {numbers[0]} to {numbers[-1]} of seed {config.seed}"
    sheet = samples_sheet(samples, student_spec(config), args.columns, title)
    write_picture(args.output, pad(sheet, MARGIN))
    print(f"{args.output}: {len(numbers)} samples")
    return 0
