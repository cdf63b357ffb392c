"""What `track` and `replay` share: options, the stream, and output files."""

from __future__ import annotations

import argparse
import os
import shlex
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

from mixformerv2_ros.cli.laboratory import lab_module
from mixformerv2_ros.cli.parameter_options import values_from_arguments
from mixformerv2_ros.engines.loader import load_engine
from mixformerv2_ros.errors import SourceError
from mixformerv2_ros.io.images import bgr_copy
from mixformerv2_ros.io.paths import check_output
from mixformerv2_ros.io.track_tables import CsvFile, JsonFile
from mixformerv2_ros.io.video import CODECS, VideoFile
from mixformerv2_ros.machine import environment
from mixformerv2_ros.model.bundle import open_bundle
from mixformerv2_ros.overlay import draw_tracks
from mixformerv2_ros.ros.parameters import check_values, stream_rules, tracker_settings
from mixformerv2_ros.tracking.frame import Frame
from mixformerv2_ros.tracking.session import Track
from mixformerv2_ros.tracking.stream import Stream


def open_stream(args: argparse.Namespace) -> Stream:
    """Load the model and settings that the options of `parameters.py` name.

    Raises:
        MixFormerError: the bundle, the engine or a setting is not usable.
    """
    values = check_values(values_from_arguments(args))
    bundle = open_bundle(str(values["model"]) or None)
    settings = tracker_settings(values, bundle)
    engine = load_engine(
        bundle, str(values["engine"]), str(values["device"]), int(values["num_threads"])
    )
    return Stream(engine, settings, stream_rules(values))


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
    group.add_argument("--force", action="store_true", help="overwrite existing outputs")


def check_outputs(args: argparse.Namespace, source: Path, folder: Path | None = None) -> None:
    """Refuse outputs that exist, name each other, or would destroy their source.

    Raises:
        SourceError: an output must not or cannot be written.
    """
    files = (args.csv, args.json, args.video, args.report)
    paths = [path for path in (folder, *files) if path is not None]
    if len({path.resolve() for path in paths}) < len(paths):
        raise SourceError("outputs must be different files")
    for path in paths:
        check_output(path, args.force, source)
    for path in files:
        if path is not None and not path.parent.is_dir():
            raise SourceError(f"folder of output {path} does not exist")
        if path is not None and path.is_dir():
            raise SourceError(f"output {path} must be a file, got a folder")
    if args.video is not None:
        VideoFile(args.video, 1.0)  # refuses an unknown suffix, creates nothing yet
    if args.report is not None:
        _report_module()  # what is missing shows now, not after the first frame


class TrackOutputs:
    """The files that the options name; closed with the stack it is given."""

    def __init__(
        self,
        args: argparse.Namespace,
        source: str,
        fps: float,
        stream: Stream,
        stack: ExitStack,
    ) -> None:
        """Create the files.

        Args:
            args: The parsed options.
            source: Name of the video or recording.
            fps: Frames per second of the overlay video.
            stream: What makes the tracks.
            stack: Closes the files.

        Raises:
            SourceError: a file cannot be created.
        """
        self.frames = 0
        self.states: Counter[str] = Counter()
        self.paths: list[Path] = []
        self._tables: list[CsvFile | JsonFile] = []
        self._video: VideoFile | None = None
        self._report: Any = None
        self._last = time.perf_counter()
        if args.csv is not None:
            self._tables.append(CsvFile(args.csv))
            stack.callback(self._tables[-1].close)
        if args.json is not None:
            self._tables.append(JsonFile(args.json, source))
            stack.callback(self._tables[-1].close)
        self.paths.extend(table.path for table in self._tables)
        if args.report is not None:
            report = _report_module()
            facts = report.RunFacts(**_facts(args, source, stream))
            self._report = report.RunReport(args.report, facts)
            stack.callback(self._report.close)
            self.paths.append(args.report)
        if args.video is not None:
            self._video = VideoFile(args.video, fps)
            stack.callback(self._video.close)
            self.paths.append(args.video)

    def write(self, index: int, frame: Frame, tracks: Sequence[Track]) -> None:
        """Append one frame's tracks to every file.

        Raises:
            SourceError: a file cannot be written.
        """
        seconds = time.perf_counter() - self._last
        self.frames += 1
        for track in tracks:
            self.states[track.state.name] += 1
            for table in self._tables:
                table.write(index, track)
        if self._video is not None or self._report is not None:
            image = bgr_copy(frame.pixels)
            draw_tracks(image, tracks)
            if self._video is not None:
                self._video.write(image)
            if self._report is not None:
                self._report.write(image, tracks, seconds)
        self._last = time.perf_counter()

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
