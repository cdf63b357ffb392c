"""`mixformerv2 visualize`: images of attention, edge distributions, templates and samples."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from tqdm import tqdm

from mixformerv2_ros.cli.arguments import ranged
from mixformerv2_ros.cli.laboratory import lab_module
from mixformerv2_ros.cli.parameter_options import add_parameter_arguments, values_from_arguments
from mixformerv2_ros.cli.stream_log import StreamLog
from mixformerv2_ros.engines.loader import load_engine
from mixformerv2_ros.errors import EngineError, ParameterError, SourceError
from mixformerv2_ros.interrupt import INTERRUPTED, stop_request
from mixformerv2_ros.io.paths import check_output_file
from mixformerv2_ros.lab.datasets.package_paths import settings_file
from mixformerv2_ros.lab.visualization.frames import (
    FrameSelection,
    OpenedFrames,
    open_frames,
    parse_frames,
)
from mixformerv2_ros.lab.visualization.observe import Moment, observe
from mixformerv2_ros.lab.visualization.sheet import SheetFile
from mixformerv2_ros.lab.visualization.templates import History, point_of, templates_frame
from mixformerv2_ros.model.bundle import Bundle, open_bundle
from mixformerv2_ros.ros.parameters import check_values, engine_arguments, tracker_settings
from mixformerv2_ros.text import printable
from mixformerv2_ros.tracking.boxes import Box

if TYPE_CHECKING:
    from mixformerv2_ros.lab.visualization.attention import AttentionEngine

VIDEO_SUFFIX = ".mp4"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the kinds of images and their arguments."""
    parser.description = (
        "Draw attention, edge distributions, the template memory or training samples, as a PNG "
        "sheet or an mp4 video."
    )
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)

    attention = kinds.add_parser(
        "attention",
        help="attention of the four prediction tokens, per layer and head",
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
            "their scores, and the frames at which they were stored; below the confidence the "
            "depth, where exits may answer (--exit-threshold, --exit-budget, --exit-deadline-ms)."
        ),
    )
    _add_source(templates, frames=False)
    templates.add_argument(
        "--max-frames", type=ranged(int, 1), metavar="N", help="maximum number of frames to track"
    )
    add_parameter_arguments(templates)

    samples = kinds.add_parser(
        "samples",
        help="samples that training draws",
        description=(
            "Draw training samples of a configuration: templates, search region, box, foreground "
            "patches and label."
        ),
    )
    samples.add_argument(
        "config", type=settings_file, help="YAML file of settings or recipe, see config/training/"
    )
    samples.add_argument(
        "settings",
        nargs="*",
        default=[],
        metavar="name=value",
        help="settings that replace those of the file",
    )
    samples.add_argument("--stage", metavar="NAME", help="stage, if the file is a recipe")
    samples.add_argument(
        "--first", type=ranged(int, 0), default=0, metavar="N", help="number of the first sample"
    )
    samples.add_argument(
        "--count",
        type=ranged(int, 1, 1000),
        default=24,
        metavar="N",
        help="number of samples (default: %(default)s)",
    )
    samples.add_argument(
        "--columns",
        type=ranged(int, 1),
        default=4,
        metavar="N",
        help="samples side by side (default: %(default)s)",
    )
    _add_output(samples, "samples.png")


def run(args: argparse.Namespace) -> int:
    """Draw; 130 where Ctrl-C ended it early, with what was drawn by then."""
    if args.kind == "samples":
        return _samples(args)
    return _templates(args) if args.kind == "templates" else _attention(args)


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
        help="the target in the start frame: top-left corner and size in pixels",
    )
    parser.add_argument(
        "--start-frame",
        type=ranged(int, 0),
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
            help="centre the search region of the frame after the start frame on this box instead "
            "of the target's",
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
    source = Path(args.config if args.kind == "samples" else args.source)
    check_output_file(path, args.force, source)


# Images -------------------------------------------------------------------------------------------


def _attention(args: argparse.Namespace) -> int:
    """Draw attention, or distributions with attention."""
    box = Box.parse(args.box)
    search_box = None if args.search_box is None else Box.parse(args.search_box)
    _check_output(args, (".png", VIDEO_SUFFIX))
    values = check_values(values_from_arguments(args))
    bundle = open_bundle(str(values["model"]) or None)
    settings = tracker_settings(values, bundle)
    rows = _rows(args, bundle)
    with ExitStack() as stack:
        source = open_frames(args.source, args.start_frame, stack)
        selection = _selection(args, source)
        engine = _attention_engine(bundle, values)
        draw = _drawing(args.kind, rows, bundle, args.source)
        stopped = stack.enter_context(stop_request())
        output = stack.enter_context(SheetFile(args.output, source.fps))
        log = StreamLog("visualize")
        moments = observe(
            engine,
            settings,
            source.frames,
            box,
            log,
            search_box=search_box,
            attend=engine.attend,
            watched=selection,
        )
        last = source.last if selection.last is None else selection.last
        for moment in _progress(moments, args.start_frame + 1, last):
            if moment.attention is not None:
                output.write(draw(moment))
            if stopped() or moment.index == selection.last:
                break
        if not output.count:
            raise log.no_image(f"{args.source} has none of the frames to draw")
        interrupted = stopped()
    print(f"{args.output}: {args.kind} of {output.count} frame{'s' * (output.count > 1)}")
    code = log.finish()
    return INTERRUPTED if interrupted else code


def _selection(args: argparse.Namespace, source: OpenedFrames) -> FrameSelection:
    """Frames to draw: by default all of a video, and the first one that is searched of a PNG."""
    if args.frames is not None:
        selection = parse_frames(args.frames)
        if selection.first < source.first:
            raise ParameterError(f"--frames must be after the start frame, got {selection.first}")
        return selection
    if args.output.suffix.lower() == VIDEO_SUFFIX:
        return FrameSelection(())
    return FrameSelection((range(source.first, source.first + 1),))


def _attention_engine(
    bundle: Bundle, values: dict[str, bool | int | float | str]
) -> AttentionEngine:
    if values["engine"] not in ("auto", "torch"):
        raise EngineError(
            f"attention comes from the torch engine only, got --engine {values['engine']}"
        )
    base = load_engine(bundle, "torch", *engine_arguments(values)[1:])
    from mixformerv2_ros.engines.torch_engine import TorchEngine
    from mixformerv2_ros.lab.visualization.attention import AttentionEngine

    assert isinstance(base, TorchEngine)
    return AttentionEngine(base.model, str(values["device"]), base.precision)


def _drawing(
    kind: str, rows: list[tuple[int, int | None]], bundle: Bundle, source: str
) -> Callable[[Moment], Figure]:
    from mixformerv2_ros.lab.visualization.attention import AttentionRow, attention_sheet
    from mixformerv2_ros.lab.visualization.distribution import distribution_sheet

    title = _title(bundle, source)
    chosen = [AttentionRow(layer, head) for layer, head in rows]
    if kind == "attention":
        return lambda moment: attention_sheet(moment, chosen, bundle.spec, title)
    return lambda moment: distribution_sheet(moment, chosen[0], bundle.spec, title)


def _title(bundle: Bundle, source: str) -> str:
    path = Path(source).resolve()
    name = f"{path.parent.name}/{path.name}" if path.name == "img" else path.name
    return f"{name} – {bundle.name}"


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
    box = Box.parse(args.box)
    _check_output(args, (".png", VIDEO_SUFFIX))
    values = check_values(values_from_arguments(args))
    bundle = open_bundle(str(values["model"]) or None)
    settings = tracker_settings(values, bundle)
    title = _title(bundle, args.source)
    depths = bundle.spec.depths if settings.asks_exits else ()
    with ExitStack() as stack:
        source = open_frames(args.source, args.start_frame, stack)
        engine = load_engine(bundle, *engine_arguments(values))
        stopped = stack.enter_context(stop_request())
        output = stack.enter_context(SheetFile(args.output, source.fps))
        ends = [source.last, args.max_frames and args.start_frame + args.max_frames - 1]
        last = min((one for one in ends if one is not None), default=None)
        first = args.start_frame + 1
        history = History(args.start_frame)
        frames = itertools.islice(source.frames, args.max_frames)
        log = StreamLog("visualize")
        for moment in _progress(observe(engine, settings, frames, box, log), first, last):
            if output.is_video:
                history.points.append(point_of(moment))
                span = (first, max(last or 0, moment.index))
                points = history.points
                output.write(templates_frame(moment, points, settings, title, span, depths))
            else:
                history.add(moment)
            if stopped():
                break
        if not history.points:
            raise log.no_image(f"{args.source} has no frame after the start frame")
        if not output.is_video:
            output.write(history.sheet(settings, title, depths))
        interrupted = stopped()
    print(f"{args.output}: templates over {len(history.points)} frames")
    code = log.finish()
    return INTERRUPTED if interrupted else code


def _samples(args: argparse.Namespace) -> int:
    """Draw samples of the training stream."""
    _check_output(args, (".png",))
    lab_module("visualization.samples", "visualize samples")  # one line where torch is missing
    from mixformerv2_ros.lab.training.data_loaders import load_datasets
    from mixformerv2_ros.lab.training.recipe import choose_stage
    from mixformerv2_ros.lab.training.stages import student_spec
    from mixformerv2_ros.lab.visualization.samples import samples_sheet

    config = choose_stage(args.config, args.settings, args.stage)[0].config
    source, _ = load_datasets(config)
    numbers = range(args.first, args.first + args.count)
    samples = [(number, source.sample(config.seed, number)) for number in numbers]
    title = f"{args.config.name}: samples {numbers[0]} to {numbers[-1]} of seed {config.seed}"
    with SheetFile(args.output, fps=1.0) as output:
        output.write(samples_sheet(samples, student_spec(config), args.columns, title))
    print(f"{args.output}: {len(numbers)} samples")
    return 0


def _progress(moments: Iterator[Moment], first: int, last: int | None) -> tqdm[Moment]:
    total = None if last is None else max(last - first + 1, 1)
    return tqdm(moments, total=total, unit="frame", disable=None, file=sys.stderr)
