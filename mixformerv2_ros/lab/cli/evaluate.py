"""`mixformerv2 evaluate`: evaluate trackers on annotated sequences."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import math
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mixformerv2_ros.cli.arguments import ranged
from mixformerv2_ros.cli.laboratory import lab_module
from mixformerv2_ros.cli.parameter_options import add_parameter_arguments, values_from_arguments
from mixformerv2_ros.cli.renamed_options import add_renamed_option
from mixformerv2_ros.errors import BundleError, EngineError, ParameterError, SourceError
from mixformerv2_ros.files import write_json
from mixformerv2_ros.lab.datasets.evaluation_sets import (
    EVALUATION_SETS,
    find_sequences,
    load_sequences,
)
from mixformerv2_ros.lab.datasets.sequences import AnnotatedSequence, read_names
from mixformerv2_ros.lab.evaluation.absences import with_absence
from mixformerv2_ros.lab.evaluation.analysis import read_run, run_facts
from mixformerv2_ros.lab.evaluation.metrics import score_sequence
from mixformerv2_ros.lab.evaluation.protocols import published_settings
from mixformerv2_ros.lab.evaluation.results import Result
from mixformerv2_ros.lab.evaluation.run import Evaluation, evaluate_results, evaluate_to_folder
from mixformerv2_ros.lab.evaluation.submission import DATASETS, check_submission, write_submission
from mixformerv2_ros.lab.evaluation.summary import (
    Summary,
    absence_table,
    confidence_table,
    overall_table,
    sequence_table,
    spread_table,
    toolkit_table,
)
from mixformerv2_ros.lab.evaluation.trackers import OPENCV_TRACKERS, TrackerSpec, parse_tracker
from mixformerv2_ros.lab.evaluation.trade_off import (
    exit_specs,
    parse_thresholds,
    trade_off_facts,
    trade_off_table,
    trade_offs,
)
from mixformerv2_ros.model.bundle import open_bundle
from mixformerv2_ros.ros.parameters import BY_NAME, EXITS, check_values
from mixformerv2_ros.shared_work import Rank, launched_rank

LEGEND = (
    "AUC, P20, NP, OP50, OP75: means over sequences. SEQ50: share of sequences with a mean overlap "
    "above 0.5. AO, SR50, SR75: pooled over frames. "
    "fps: tracker alone."
)
CONFIDENCE_LEGEND = (
    "Median confidence where overlap > 0.5 (hit) and < 0.1 or target absent (miss); precision and "
    "recall of LOST; long-term (LT) precision, recall, F."
)
ABSENCE_LEGEND = (
    "Sequences in which the target is absent for a while. returns: how often it returned; found: "
    "share of them after which it was tracked again, and the median number of frames until then."
)


TRADE_OFF_LEGEND = (
    "depth: mean blocks per frame over all blocks. ms: mean time of a frame inside the tracker. "
    "cut: the same model always answering after that block, which a static model would do. "
    "less full: paired difference of success AUC. cuts at that ms: success AUC of static models of "
    "that cost, between two cuts linear."
)
SPREAD_LEGEND = (
    "Success AUC with a bootstrap interval over sequences; its mean over every other sequence by "
    "name; lost: share of sequences with a mean overlap below 0.3. Differences are paired."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `mixformerv2 evaluate`."""
    parser.description = (
        "One-pass evaluation: track the target of each annotated sequence from its first box to "
        "the end, with this tracker and trackers of OpenCV, and print success AUC, precision and "
        "other measures. Results are stored in OUT/TRACKER; an interrupted run is continued. "
        "--dataset also sets the search factor and the template updates published for it; the "
        "tracker options override them. Each tracker uses one thread unless --num-threads is "
        "given. Under torchrun, srun, or with RANK and WORLD_SIZE set, each process runs a share "
        "of the sequences and what dead processes left; rank 0 prints the results."
    )
    parser.add_argument(
        "bundle",
        nargs="?",
        type=Path,
        metavar="BUNDLE",
        help="model bundle of the tracker `mixformer`, same as --model (default: the bundle of the "
        "package)",
    )
    parser.add_argument(
        "--root", type=Path, required=True, metavar="R", help="root folder of the data set"
    )
    parser.add_argument(
        "--dataset",
        default="folder",
        metavar="D",
        help=f"kind of data set: {', '.join(EVALUATION_SETS)} (default: folder)",
    )
    parser.add_argument(
        "--sequences",
        metavar="FILE|NAMES",
        help="subset of sequences: a file with one name per line, or names separated by commas "
        "(default: the data set's own list, else all)",
    )
    parser.add_argument(
        "--frame-step",
        type=ranged(int, 1),
        default=1,
        metavar="N",
        help="use every N-th frame only, as from a camera with a lower frame rate (default: 1)",
    )
    add_renamed_option(parser, "--every", "--frame-step")
    parser.add_argument(
        "--absence",
        type=ranged(int, 0),
        default=0,
        metavar="N",
        help="let every target be absent: N frames of another sequence after the first half, then "
        "the second half backwards (default: 0)",
    )
    kinds = ", ".join(["mixformer", *OPENCV_TRACKERS])
    parser.add_argument(
        "--trackers",
        default="mixformer",
        metavar="LIST",
        help=f"trackers separated by commas: {kinds}; KIND=PATH sets a bundle or weights, such as "
        "Nano=peers/nanotrackv2 (default: mixformer)",
    )
    parser.add_argument(
        "--exit-thresholds",
        metavar="LIST",
        help="run `mixformer` with each of these thresholds of its exits, separated by commas, and "
        "beside them cut at each exit and at full depth, and print what depth, time and success "
        "AUC they come to",
    )
    parser.add_argument("-o", "--output", type=Path, metavar="OUT", help="output folder")
    parser.add_argument(
        "--compare",
        nargs="+",
        type=Path,
        metavar="FOLDER",
        help="compare existing result folders instead of running trackers (folders of evaluate, or "
        "raw results: NAME.txt with x,y,w,h per frame for each sequence)",
    )
    parser.add_argument(
        "--per-sequence", action="store_true", help="print the success AUC per sequence, too"
    )
    parser.add_argument(
        "--workers",
        type=ranged(int, 1),
        default=1,
        metavar="N",
        help="number of processes (default: 1)",
    )
    parser.add_argument("--report", type=Path, metavar="FILE.html", help="write an HTML report")
    parser.add_argument(
        "--submission",
        type=Path,
        metavar="FILE.zip",
        help="write the results of a single tracker in the submission format of the benchmark "
        f"({', '.join(DATASETS)})",
    )
    add_parameter_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate or compare; exit code 2 if a sequence, a frame or a result could not be used.

    Raises:
        ParameterError: an argument is out of range, or OUT holds results of another run.
        SourceError: no sequence can be read.
    """
    values = _check(args)
    rank = launched_rank()
    if args.compare and not rank.is_main:
        return 0
    specs = _specs(args, values)
    if args.exit_thresholds is not None:
        specs = _with_exit_thresholds(args, specs, values)
    folders = (
        result_folders(args.compare)
        if args.compare
        else {spec.label: args.output / spec.label for spec in specs}
    )
    if args.submission is not None:
        check_submission(args.submission, args.dataset)
        if len(folders) > 1:
            raise ParameterError(
                f"--submission requires a single tracker, got {', '.join(folders)}"
            )
        if args.frame_step > 1:
            raise ParameterError(
                f"--submission requires all frames, got --frame-step {args.frame_step}"
            )
        if args.absence:
            raise ParameterError(
                f"--submission requires the published frames, got --absence {args.absence}"
            )
    sequences, problems = load_sequences(args.root, args.dataset, _names(args))
    if args.frame_step > 1:
        shortest = min(map(len, sequences), default=math.inf)
        if args.frame_step >= shortest:
            raise ParameterError(
                f"--frame-step must be below the shortest sequence's length, {shortest} frames, "
                f"got {args.frame_step}"
            )
        sequences = [sequence.subsampled(args.frame_step) for sequence in sequences]
    if args.absence:
        sequences = _with_absences(sequences, args.absence)
    if args.compare:
        outcomes = {
            label: evaluate_results(folder, sequences, args.dataset)
            for label, folder in folders.items()
        }
    else:
        outcomes = _evaluate(args, specs, values, sequences, problems, rank)
    if not rank.is_main:
        # The main process reports. A launcher would end all processes if this one said 2.
        return 0
    for outcome in outcomes.values():
        problems.extend(outcome.problems)
    summaries = {label: outcome.summary for label, outcome in outcomes.items()}
    if summaries:
        # Also without a reader, such as `head`, submission and report are written.
        with contextlib.suppress(BrokenPipeError):
            _print(summaries, args.per_sequence)
            _trade_offs(args, summaries, folders)
    written = []
    counts = {summary.overall.sequences for summary in summaries.values()}
    if len(counts) > 1:
        problems.append("the trackers were evaluated on different sequences, see column seqs")
    if args.submission is not None and not problems:
        ((label, folder),) = folders.items()
        write_submission(args.submission, args.dataset, label, folder, sequences)
        written.append(f"submission: {args.submission}")
    elif args.submission is not None:
        problems.append(f"{args.submission} not written: results are incomplete")
    withheld = sum(sequence.withheld for sequence in sequences)
    if withheld:
        text = f"{withheld} sequences have no public ground truth: only their speed is evaluated."
        written.append(text)
    if args.report is not None and len(sequences) > withheld and any(counts):
        _report(args, {label: folders[label] for label in outcomes}, sequences, problems)
        written.append(f"report: {args.report}")
    for line in written:
        print(f"\n{line}")
    for problem in problems:
        print(f"mixformerv2 evaluate: {problem}", file=sys.stderr)
    return 2 if problems else 0


def result_folders(folders: list[Path]) -> dict[str, Path]:
    """Folders of single trackers among `folders` and directly below them, by label.

    Raises:
        SourceError: a folder holds no results.
    """
    found: dict[str, Path] = {}
    for folder in folders:
        inner = [folder, *sorted(path for path in folder.glob("*") if path.is_dir())]
        holding = [path for path in inner if any(path.glob("*.txt"))]
        if not holding:
            raise SourceError(f"{folder}: expected result files NAME.txt, found none")
        for path in holding:
            label = path.resolve().name
            if label in found:
                label = f"{path.resolve().parent.name}/{label}"
            found[label] = path
    return found


class RunningAuc:
    """A progress bar over frames that shows the mean success AUC of the sequences done."""

    def __init__(self, label: str, frames: int, shown: bool = True) -> None:
        """Start a bar on stderr; silent where that is no terminal."""
        self._bar = tqdm(desc=label, total=frames, unit="frame", disable=None if shown else True)
        self._sum = 0.0
        self._count = 0

    def __call__(self, sequence: AnnotatedSequence, result: Result) -> None:
        """Count one finished sequence."""
        if not sequence.withheld:
            self._sum += score_sequence(result.boxes, sequence.boxes).success_auc
            self._count += 1
            self._bar.set_postfix_str(f"AUC {self._sum / self._count:.3f}", refresh=False)
        self._bar.update(len(sequence))

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._bar.close()


def _check(args: argparse.Namespace) -> dict[str, Any]:
    """Check the options; return the values of those that `parameters.py` declares."""
    if args.compare is None and args.output is None:
        raise ParameterError("evaluate requires -o OUT or --compare FOLDER")
    if args.report is not None and not args.report.parent.is_dir():
        raise ParameterError(f"--report must be a file in an existing folder, got {args.report}")
    if args.report is not None:
        # What is missing shows now, not after the last sequence.
        lab_module("evaluation.report", "--report", extra="report")
    if args.bundle is not None and args.model is not None:
        raise ParameterError("BUNDLE and --model exclude each other")
    values: dict[str, Any] = values_from_arguments(args)
    check_values(values)
    return values


def _names(args: argparse.Namespace) -> list[str] | None:
    if args.sequences is None:
        return None
    # Not Path.is_file, which raises where many names are longer than the name of a file may be.
    if os.path.isfile(args.sequences):
        return read_names(Path(args.sequences))
    names = [name.strip() for name in args.sequences.split(",") if name.strip()]
    known = find_sequences(args.root, args.dataset)
    if not any(name in known for name in names):
        raise SourceError(
            f"--sequences must be a file of names, or names of sequences in {args.root}, "
            f"got {args.sequences!r}"
        )
    return names


def _evaluate(
    args: argparse.Namespace,
    specs: list[TrackerSpec],
    values: dict[str, Any],
    sequences: list[AnnotatedSequence],
    problems: list[str],
    rank: Rank,
) -> dict[str, Evaluation]:
    given = {name: value for name, value in values.items() if BY_NAME[name].setting}
    dataset: dict[str, str | int] = {"dataset": args.dataset, "root": str(args.root.resolve())}
    if args.frame_step > 1:
        dataset["frame_step"] = args.frame_step
    if args.absence:
        dataset["absence"] = args.absence
        # Which scene stands between depends on all of them.
        dataset["absence_sequences"] = ",".join(sequence.name for sequence in sequences)
    specs = [_with_settings(spec, args.dataset, given) for spec in specs]
    if args.exit_thresholds is not None and args.workers == rank.world_size == 1:
        _in_turn([spec for spec in specs if spec.exits], sequences, args.output, dataset)
    outcomes: dict[str, Evaluation] = {}
    for spec in specs:
        bar = RunningAuc(spec.label, sum(map(len, sequences)), shown=rank.is_main)
        try:
            outcomes[spec.label] = evaluate_to_folder(
                spec,
                sequences,
                args.output / spec.label,
                dataset,
                args.workers,
                bar,
                rank,
            )
        except (BundleError, EngineError) as error:
            # One tracker that cannot run here does not keep the others from running.
            problems.append(f"{spec.label}: {error}")
        finally:
            bar.close()
    return outcomes


def _in_turn(
    specs: list[TrackerSpec],
    sequences: list[AnnotatedSequence],
    output: Path,
    dataset: dict[str, str | int],
) -> None:
    """Run every sequence with all specs before the next, so that their times compare.

    A machine that gets slower meanwhile would favour whoever ran first. What cannot be run is left
    to the evaluation, which names it.
    """
    total = len(specs) * sum(map(len, sequences))
    with tqdm(desc="in turn", total=total, unit="frame", disable=None) as bar:
        for sequence in sequences:
            for spec in specs:
                evaluate_to_folder(spec, [sequence], output / spec.label, dataset)
                bar.update(len(sequence))


def _with_absences(sequences: list[AnnotatedSequence], frames: int) -> list[AnnotatedSequence]:
    """Each with the scene of one half the list further on: neighbours by name may be alike.

    Raises:
        ParameterError: there is no other sequence.
    """
    if len(sequences) < 2:
        raise ParameterError(f"--absence requires two sequences, got {len(sequences)}")
    half = len(sequences) // 2
    others = sequences[half:] + sequences[:half]
    pairs = zip(sequences, others, strict=True)
    return [with_absence(sequence, other, frames) for sequence, other in pairs]


def _with_settings(spec: TrackerSpec, dataset: str, given: dict[str, Any]) -> TrackerSpec:
    """Add what was published for `dataset`, overridden by the command line."""
    if spec.kind != "mixformer":
        return spec
    published = published_settings(dataset, open_bundle(spec.path).spec.preset)
    return dataclasses.replace(spec, values=tuple(sorted({**published, **given}.items())))


def _with_exit_thresholds(
    args: argparse.Namespace, specs: list[TrackerSpec], values: dict[str, Any]
) -> list[TrackerSpec]:
    """Every `mixformer` at thresholds and cuts instead of as it is; the others as they are.

    Raises:
        ParameterError: the thresholds are none, or there is nothing that has exits.
    """
    thresholds = parse_thresholds("--exit-thresholds", args.exit_thresholds)
    given = [name for name in EXITS if values.get(name)]
    if given or args.compare:
        other = f"--{given[0].replace('.', '-').replace('_', '-')}" if given else "--compare"
        raise ParameterError(f"--exit-thresholds and {other} exclude each other")
    if not any(spec.kind == "mixformer" for spec in specs):
        raise ParameterError(
            f"--exit-thresholds requires the tracker mixformer, got {args.trackers}"
        )
    found = []
    for spec in specs:
        found += exit_specs(spec, thresholds) if spec.kind == "mixformer" else [spec]
    return found


def _specs(args: argparse.Namespace, values: dict[str, Any]) -> list[TrackerSpec]:
    specs: dict[str, TrackerSpec] = {}
    bundle = args.bundle or (Path(values["model"]) if values.get("model") else None)
    engine, device = values.get("engine", "auto"), values.get("device", "cpu")
    for text in args.trackers.split(","):
        spec = parse_tracker(text, engine, device, values.get("num_threads", 1))
        if spec.kind == "mixformer" and spec.path is None:
            spec = dataclasses.replace(spec, path=bundle)
        if spec.label in specs:
            raise ParameterError(f"--trackers must list each tracker once, got {spec.label} twice")
        specs[spec.label] = spec
    return list(specs.values())


def _report(
    args: argparse.Namespace,
    folders: dict[str, Path],
    sequences: list[AnnotatedSequence],
    problems: list[str],
) -> None:
    from mixformerv2_ros.lab.evaluation.report import write_report

    words = getattr(args, "command_line", None)  # set by cli.py
    write_report(
        args.report,
        [read_run(label, folder, sequences) for label, folder in folders.items()],
        sequences,
        command=shlex.join(["mixformerv2", *words]) if words else "",
        dataset=args.dataset,
        problems=problems,
    )


def _trade_offs(
    args: argparse.Namespace, summaries: dict[str, Summary], folders: dict[str, Path]
) -> None:
    """Print what thresholds and cuts of exits came to, and write it beside the results."""
    configs = {label: run_facts(folders[label]).get("config", {}) for label in summaries}
    found = trade_offs(summaries, configs)
    if found and not args.compare:
        write_json(args.output / "trade_off.json", list(map(trade_off_facts, found)))
    for one in found:
        print("", trade_off_table(one), sep="\n")
    if found:
        print(TRADE_OFF_LEGEND)


def _print(summaries: dict[str, Summary], per_sequence: bool) -> None:
    if per_sequence:
        print(sequence_table(summaries), end="\n\n")
    print(overall_table(summaries), LEGEND, sep="\n", end="\n\n")
    if table := toolkit_table(summaries):
        print(table, end="\n\n")
    print(confidence_table(summaries), CONFIDENCE_LEGEND, sep="\n", end="\n\n")
    if table := absence_table(summaries):
        print(table, ABSENCE_LEGEND, sep="\n", end="\n\n")
    print(spread_table(summaries), SPREAD_LEGEND, sep="\n")
