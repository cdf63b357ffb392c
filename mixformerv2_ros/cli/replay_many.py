"""Replays of several recordings into one folder, alone or shared among processes."""

from __future__ import annotations

import argparse
import copy
import csv
import dataclasses
import io
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mixformerv2_ros.cli.parameter_options import values_from_arguments
from mixformerv2_ros.errors import BAD_INPUT, MixFormerError, ParameterError, SourceError
from mixformerv2_ros.files import write_file, write_json
from mixformerv2_ros.interrupt import INTERRUPTED
from mixformerv2_ros.model.bundle import open_bundle
from mixformerv2_ros.shared_work import POLL_S, Rank, SharedWork
from mixformerv2_ros.text import printable
from mixformerv2_ros.tracking.session import State

OUTCOMES = ".replay"
"""Folder in the output folder: the options of the run, and what came of each recording."""

SUMMARY = "summary.csv"

_FOLDERS = {"csv": ".csv", "json": ".json", "video": ".mp4", "report": ".html", "rerun": ".rrd"}
"""Options that are folders here, and the suffix of the files in them."""

_CONFIGURATION = (
    *("image_topic", "box", "start_frame", "start_time", "init_topic", "max_frames"),
    *("storage", "copy_images", "track_predicted", "reference", "min_iou", *_FOLDERS),
)


@dataclass
class Outcome:
    """What a replay came to.

    Attributes:
        code: 0, 1 for tracks that differ from the reference, 2 for a recording that could not be
            used whole, or `INTERRUPTED`.
        frames: Number of images tracked.
        states: Number of tracks by the name of their state.
        problem: What is wrong with the recording, or how its tracks differ; empty if nothing.
        is_complete: Whether the outputs hold all that can be had of the recording.
    """

    code: int = 0
    frames: int = 0
    states: dict[str, int] = field(default_factory=dict)
    problem: str = ""
    is_complete: bool = False


Replay = Callable[[argparse.Namespace, Path, Outcome], None]
"""Replays one recording with the options given, and states what came of it."""


def replay_all(args: argparse.Namespace, rank: Rank, replay_one: Replay) -> int:
    """Replay every recording that has no complete output yet; rank 0 reports on all.

    Args:
        args: The options; `output` and those of other outputs name folders.
        rank: This process among those that share the recordings.
        replay_one: Called for each of them.

    Returns:
        The largest exit code of a recording; 0 in processes that do not report, whose launcher
        would end the others.

    Raises:
        ParameterError: two recordings have one name, or the outputs are of another run.
        SourceError: a folder cannot be written.
    """
    bags = _names(args.bags)
    if args.force:
        raise ParameterError("--force takes one recording; remove the output folder to start over")
    _open_folder(args)
    failures: dict[str, str] = {}
    with SharedWork(args.output / OUTCOMES / "ranks", rank) as work:
        while True:
            for name in bags:
                if name not in failures and (reason := work.failure(name)) is not None:
                    failures[name] = reason
            left = [n for n in bags if n not in failures and _read(args.output, n) is None]
            if not left:
                break
            claimed = work.claim(left)
            if claimed is None:
                time.sleep(POLL_S)
                continue
            print(f"mixformerv2 replay: {printable(claimed)}", file=sys.stderr)
            outcome = Outcome()
            try:
                replay_one(_options(args, claimed), bags[claimed], outcome)
            except MixFormerError as error:
                outcome.code, outcome.problem = BAD_INPUT, str(error)
            if outcome.code == INTERRUPTED:
                return INTERRUPTED
            if outcome.is_complete:
                write_json(_path(args.output, claimed), dataclasses.asdict(outcome))
            else:
                work.fail(claimed, outcome.problem)
                failures[claimed] = outcome.problem
    return _report(args.output, list(bags), failures) if rank.is_main else 0


def _names(bags: list[Path]) -> dict[str, Path]:
    """The recordings by the names of their outputs."""
    found: dict[str, Path] = {}
    for bag in bags:
        path = bag.resolve()
        name = path.name if path.is_dir() else path.stem
        if name in found:
            raise ParameterError(
                f"recordings must have different names, got {found[name]} and {bag}"
            )
        if name in (OUTCOMES, SUMMARY):
            raise ParameterError(f"recording {bag} has the name of an output")
        found[name] = bag
    return found


def _open_folder(args: argparse.Namespace) -> None:
    """Create the output folders, or check that what is in them was made with the same options."""
    values = values_from_arguments(args)
    model = open_bundle(str(values.get("model") or "") or None)
    config: dict[str, Any] = {name: getattr(args, name) for name in _CONFIGURATION}
    config = {**config, **values, "model": f"{model.name} {model.checksum}"}
    # As it is read back.
    config = json.loads(json.dumps(config, default=str))
    path = args.output / OUTCOMES / "options.json"
    if path.exists():
        before = _load(path)
        for key in sorted({*before, *config}):
            if before.get(key) != config.get(key):
                raise ParameterError(
                    f"{args.output} holds outputs with {key} {before.get(key)!r}, this run has "
                    f"{config.get(key)!r}: choose another output folder or remove this one"
                )
    elif args.output.exists() and any(args.output.iterdir()) and not path.parent.exists():
        raise SourceError(f"output {args.output} exists and is not of several recordings")
    try:
        for folder in (path.parent, *(getattr(args, name) for name in _FOLDERS)):
            if isinstance(folder, Path):
                folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SourceError(f"{error.filename} cannot be made a folder: {error.strerror}") from None
    write_json(path, config)


def _options(args: argparse.Namespace, name: str) -> argparse.Namespace:
    """The options of one recording."""
    options = copy.copy(args)
    options.output = args.output / name
    # What an ended run left of this recording is replaced.
    options.force = True
    for option, suffix in _FOLDERS.items():
        folder = getattr(args, option)
        if isinstance(folder, Path):  # --rerun may name a viewer
            setattr(options, option, folder / f"{name}{suffix}")
    if args.reference is not None:
        options.reference = args.reference / f"{name}.json"
    return options


def _path(folder: Path, name: str) -> Path:
    return folder / OUTCOMES / f"{name}.outcome.json"


def _read(folder: Path, name: str) -> Outcome | None:
    """What came of a recording whose outputs are complete; None for any other."""
    path = _path(folder, name)
    if not path.is_file() or not (folder / name).is_dir():
        return None
    try:
        return Outcome(**_load(path))
    except TypeError:
        raise SourceError(f"{path}: expected the outcome of a replay; remove the file") from None


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SourceError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(content, dict):
        raise SourceError(f"{path}: expected a table in JSON, got {printable(repr(content))}")
    return content


def _report(folder: Path, names: list[str], failures: dict[str, str]) -> int:
    """Write and print a line per recording."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    states = [state.name for state in State if state is not State.IDLE]
    writer.writerow(["recording", "code", "frames", *states, "problem"])
    code = 0
    for name in names:
        outcome = _read(folder, name) or Outcome(BAD_INPUT, problem=failures.get(name, ""))
        counts = [outcome.states.get(state, 0) for state in states]
        writer.writerow([name, outcome.code, outcome.frames, *counts, outcome.problem])
        code = max(code, outcome.code)
        if outcome.problem:
            problem = f"{printable(name)}: {outcome.problem}"
            print(f"mixformerv2 replay: {problem}", file=sys.stderr)
    write_file(folder / SUMMARY, table.getvalue())
    done = len(names) - len(failures)
    print(f"{done} of {len(names)} recordings replayed: {folder / SUMMARY}")
    return code
