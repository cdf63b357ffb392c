"""What `track` and `replay` share: options, the stream, and output files."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from mixformerv2_ros.cli.laboratory import lab_module
from mixformerv2_ros.cli.parameter_options import values_from_arguments
from mixformerv2_ros.cli.rerun_option import (
    add_rerun_argument,
    check_rerun,
    is_viewer,
    open_rerun,
)
from mixformerv2_ros.engines.loader import load_engine
from mixformerv2_ros.errors import SourceError
from mixformerv2_ros.io.bag_writer import BagWriter
from mixformerv2_ros.io.images import bgr_copy
from mixformerv2_ros.io.partial import PartialOutput, partial_path
from mixformerv2_ros.io.paths import check_output, check_output_file
from mixformerv2_ros.io.rerun_output import RerunOutput
from mixformerv2_ros.io.track_tables import CsvFile, JsonFile
from mixformerv2_ros.io.video import CODECS, VideoFile
from mixformerv2_ros.machine import environment
from mixformerv2_ros.model.bundle import open_bundle
from mixformerv2_ros.overlay import draw_tracks
from mixformerv2_ros.ros.parameters import (
    check_values,
    engine_arguments,
    stream_rules,
    tracker_settings,
)
from mixformerv2_ros.tracking.events import Step
from mixformerv2_ros.tracking.frame import Frame
from mixformerv2_ros.tracking.stream import Stream


def open_stream(args: argparse.Namespace) -> Stream:
    """Load the model and settings that the options of `parameters.py` name.

    Raises:
        MixFormerError: the bundle, the engine or a setting is not usable.
    """
    values = check_values(values_from_arguments(args))
    bundle = open_bundle(str(values["model"]) or None)
    settings = tracker_settings(values, bundle)
    engine = load_engine(bundle, *engine_arguments(values))
    return Stream(engine, settings, stream_rules(values))


def warn_of_deadline(command: str, stream: Stream) -> None:
    """Print on stderr that a deadline was shorter than the first exit, if it was."""
    shortfall = stream.session.depth_figures.shortfall(stream.settings.exit_deadline_ms)
    if shortfall:
        print(f"mixformerv2 {command}: {shortfall}", file=sys.stderr)


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options that name output files besides a recording."""
    group = parser.add_argument_group("output")
    group.add_argument("--csv", type=Path, metavar="F", help="write the tracks as CSV")
    group.add_argument("--json", type=Path, metavar="F", help="write the tracks as JSON")
    group.add_argument(
        "--video",
        type=Path,
        metavar="F",
        help=f"write a video with the tracks drawn in ({', '.join(CODECS)})",
    )
    group.add_argument("--report", type=Path, metavar="F", help="write an HTML report")
    add_rerun_argument(group)
    group.add_argument("--force", action="store_true", help="overwrite existing outputs")


def check_outputs(args: argparse.Namespace, source: Path, folder: Path | None = None) -> None:
    """Refuse outputs that exist, name each other, or would destroy their source.

    Raises:
        SourceError: an output must not or cannot be written.
    """
    check_rerun(args.rerun)
    rerun = None if is_viewer(args.rerun) else args.rerun
    files = (args.csv, args.json, args.video, args.report, rerun)
    paths = [path for path in (folder, *files) if path is not None]
    if len({path.resolve() for path in paths}) < len(paths):
        raise SourceError("outputs must be different files")
    for path in paths:
        check = check_output if path == folder else check_output_file
        check(path, args.force, source)
        # What an earlier run left is replaced unasked: it is not whole.
        check_output(partial_path(path, path == folder), True, source)
    if args.video is not None:
        VideoFile(args.video, 1.0)  # refuses an unknown suffix, creates nothing yet
    if args.report is not None:
        _report_module()  # what is missing shows now, not after the first frame


class TrackOutputs:
    """The outputs that the options name; use it as a context manager.

    They grow under partial names (`io.partial`) and take their own when the block has ended after
    `finish`; an output without a frame is removed.
    """

    def __init__(
        self, args: argparse.Namespace, source: str, fps: float, stream: Stream, first: Frame
    ) -> None:
        """Create the files, first what is most likely to fail.

        Args:
            args: The parsed options; those of `replay` name a recording, too.
            source: Name of the video or recording.
            fps: Frames per second of the overlay video.
            stream: What makes the tracks.
            first: The first frame, which gives the overlay video its size.

        Raises:
            SourceError: a file cannot be created.
        """
        self.frames = 0
        self.states: Counter[str] = Counter()
        self.bag: BagWriter | None = None
        bag = getattr(args, "output", None)
        rerun = None if is_viewer(args.rerun) else args.rerun
        files = (bag, args.csv, args.json, args.report, args.video, rerun)
        self.paths = [path for path in files if path]
        self._outputs: list[PartialOutput] = []
        self._tables: list[CsvFile | JsonFile] = []
        self._video: VideoFile | None = None
        self._report: Any = None
        self._rerun: RerunOutput | None = None
        self._session = stream.session
        self._last = time.perf_counter()
        # Until `finish`: what an exception leaves is not whole.
        self._missing, self._ended_early = "ended by an error", True
        with ExitStack() as stack:
            stack.push(self._publish)
            self._open(args, source, fps, stream, first, stack)
            self._stack = stack.pop_all()

    def __enter__(self) -> TrackOutputs:
        """Return the outputs, which are open already."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the files, whatever happens to some of them, and give them their names."""
        self._stack.__exit__(kind, error, traceback)

    def _open(
        self,
        args: argparse.Namespace,
        source: str,
        fps: float,
        stream: Stream,
        first: Frame,
        stack: ExitStack,
    ) -> None:
        if args.video is not None:
            self._video = VideoFile(self._partial(args.video), fps)
            stack.callback(self._video.close)
            self._video.open(first.pixels.width, first.pixels.height)
        bag = getattr(args, "output", None)
        if bag is not None:
            self.bag = BagWriter(self._partial(bag, is_folder=True), args.storage)
            stack.callback(self._close_bag, self.bag)
        if args.csv is not None:
            table = CsvFile(self._partial(args.csv))
            stack.callback(table.close)
            self._tables.append(table)
        if args.json is not None:
            document = JsonFile(self._partial(args.json), source)
            stack.callback(lambda: document.close(self._missing))
            self._tables.append(document)
        if args.report is not None:
            report = _report_module()
            facts = report.RunFacts(**_facts(args, source, stream))
            self._report = report.RunReport(self._partial(args.report), facts)
            stack.callback(self._report.close)
        if args.rerun is not None:
            rerun = args.rerun if is_viewer(args.rerun) else self._partial(args.rerun)
            # Images of recordings have the time of a clock; those of videos count from 0.
            self._rerun = open_rerun(rerun, source, is_clock=bag is not None)
            stack.callback(self._rerun.close)

    def _partial(self, path: Path, is_folder: bool = False) -> Path:
        self._outputs.append(PartialOutput(path, is_folder))
        return self._outputs[-1].target

    def _close_bag(self, bag: BagWriter) -> None:
        if self._missing:
            bag.mark_partial(self._missing)
        bag.close()

    def _publish(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self.frames:
            for output in self._outputs:
                output.discard()
        elif error is not None or self._ended_early:
            self.paths = [output.keep_partial() for output in self._outputs]
        else:
            for output in self._outputs:
                output.publish()

    def write(self, index: int, step: Step) -> None:
        """Append the tracks of image `index` to every file but the recording.

        Raises:
            SourceError: a file cannot be written.
        """
        seconds = time.perf_counter() - self._last
        tracks = step.tracks
        self.frames += 1
        for track in tracks:
            self.states[track.state.name] += 1
            for table in self._tables:
                table.write(index, track)
        if self._video is not None or self._report is not None:
            image = bgr_copy(step.frame.pixels)
            draw_tracks(image, tracks, self._session.dynamic_depth)
            if self._video is not None:
                self._video.write(image)
            if self._report is not None:
                self._report.write(image, tracks, seconds)
        if self._rerun is not None:
            self._rerun.write(index, step, self._session)
        self._last = time.perf_counter()

    def finish(self, missing: str = "", ended_early: bool = False) -> None:
        """State that no more frames come, before the files are closed.

        Args:
            missing: Why frames are missing, which goes into outputs that have a place for it.
            ended_early: Whether the outputs stay under their partial names.
        """
        self._missing, self._ended_early = missing, ended_early

    def summary(self) -> str:
        """One line: frames, tracks by state, and where they are."""
        states = ", ".join(f"{count} {name}" for name, count in sorted(self.states.items()))
        where = f": {', '.join(map(str, self.paths))}" if self.paths else ""
        return f"{self.frames} frames tracked ({states or 'no track'}){where}"


def _report_module() -> ModuleType:
    return lab_module("reports.run_report", "--report", extra="report")


def _facts(args: argparse.Namespace, source: str, stream: Stream) -> dict[str, Any]:
    """Keyword arguments of `lab.reports.run_report.RunFacts`."""
    bundle = open_bundle(args.model)
    about = environment()
    settings = stream.settings
    online = f"{settings.online_size} online template" + "s" * (settings.online_size > 1)
    interval = (
        f"{settings.update_period:g} s"
        if settings.update_period
        else f"{settings.update_interval} frames"
    )
    folder = args.report.parent
    files = [getattr(args, "output", None), args.csv, args.json, args.video]
    return {
        "source": source,
        "facts": (
            ("model", f"{bundle.name}, preset {bundle.spec.preset}, weights {bundle.checksum}"),
            ("engine", stream.session.engine.name),
            ("templates", f"{online}, changed every {interval}"),
            ("machine", f"{about['machine']['processor']}, {about['machine']['cores']} cores"),
            ("versions", ", ".join(f"{k} {v}" for k, v in about["versions"].items() if v)),
        ),
        "score_threshold": settings.update_score_threshold,
        "links": tuple((f.name, os.path.relpath(f, folder)) for f in files if f is not None),
        "commands": (shlex.join(["mixformerv2", *args.command_line]),),
    }
