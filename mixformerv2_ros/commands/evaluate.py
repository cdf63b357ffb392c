"""`mixformerv2 evaluate`: judge trackers on annotated sequences, side by side."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

from tqdm import tqdm

from mixformerv2_ros.errors import BundleError, EngineError, ParameterError, SourceError
from mixformerv2_ros.evaluation.metrics import score_sequence
from mixformerv2_ros.evaluation.results import Result
from mixformerv2_ros.evaluation.run import Evaluation, evaluate_results, evaluate_to_folder
from mixformerv2_ros.evaluation.sequences import (
    READERS,
    Sequence,
    find_sequences,
    load_sequences,
    read_names,
)
from mixformerv2_ros.evaluation.summary import (
    Summary,
    confidence_table,
    overall_table,
    sequence_table,
)
from mixformerv2_ros.evaluation.trackers import OPENCV_TRACKERS, TrackerSpec, parse_tracker
from mixformerv2_ros.inference.loader import ENGINES

LEGEND = (
    "AUC, P20, NP, OP50, OP75: means over sequences. AO, SR50, SR75: pooled over frames. "
    "fps: tracker alone."
)
CONFIDENCE_LEGEND = (
    "Median confidence where overlap > 0.5 (hit) and < 0.1 or target absent (miss); precision and "
    "recall of LOST; long-term (LT) precision, recall, F."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `mixformerv2 evaluate`."""
    parser.description = (
        "Follow the target of each annotated sequence from its first box to the end, with our "
        "tracker and any of OpenCV's, and print success AUC, precision and more side by side. "
        "Results are kept in OUT/TRACKER; a run that was killed continues where it stopped."
    )
    parser.add_argument(
        "bundle",
        nargs="?",
        type=Path,
        metavar="BUNDLE",
        help="model bundle for the tracker `mixformer` (default: the one shipped)",
    )
    parser.add_argument(
        "--root", type=Path, required=True, metavar="R", help="folder of the sequences"
    )
    parser.add_argument(
        "--dataset", choices=list(READERS), default="plain", help="layout on disk (default: plain)"
    )
    parser.add_argument(
        "--sequences",
        metavar="FILE|NAMES",
        help="only these: a file with one name per line, or names with commas (default: all)",
    )
    kinds = ", ".join(["mixformer", *OPENCV_TRACKERS])
    parser.add_argument(
        "--trackers",
        default="mixformer",
        metavar="LIST",
        help=f"with commas, of {kinds}; KIND=PATH gives a bundle or weights, as in "
        "Nano=peers/nanotrackv2 (default: mixformer)",
    )
    parser.add_argument("-o", "--output", type=Path, metavar="OUT", help="folder for the results")
    parser.add_argument(
        "--compare",
        nargs="+",
        type=Path,
        metavar="FOLDER",
        help="run nothing; put existing result folders side by side (ours, or published raw "
        "results: one NAME.txt with x,y,w,h per frame for each sequence)",
    )
    parser.add_argument(
        "--per-sequence", action="store_true", help="also print the success AUC per sequence"
    )
    parser.add_argument(
        "--workers", type=int, default=1, metavar="N", help="processes (default: 1)"
    )
    parser.add_argument(
        "--engine", choices=ENGINES, default="auto", help="engine for mixformer (default: auto)"
    )
    parser.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        default="cpu",
        help="device of that engine (default: cpu)",
    )
    parser.add_argument(
        "--num-threads",
        type=int,
        default=1,
        metavar="N",
        help="threads of each tracker, 0 for its own choice (default: 1, so that speeds compare)",
    )


def run(args: argparse.Namespace) -> int:
    """Evaluate or compare; 2 where a sequence, a frame or a result could not be used.

    Raises:
        ParameterError: an argument is out of range, or OUT holds results of another run.
        SourceError: no sequence can be read.
    """
    _check(args)
    sequences, problems = load_sequences(args.root, args.dataset, _names(args))
    if args.compare:
        outcomes = {
            label: evaluate_results(folder, sequences)
            for label, folder in result_folders(args.compare).items()
        }
    else:
        outcomes = _evaluate(args, sequences, problems)
    for outcome in outcomes.values():
        problems.extend(outcome.problems)
    summaries = {label: outcome.summary for label, outcome in outcomes.items()}
    if summaries:
        _print(summaries, args.per_sequence)
    counts = {summary.overall.sequences for summary in summaries.values()}
    if len(counts) > 1:
        problems.append("the trackers' figures are over different sequences, see column seqs")
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

    def __init__(self, label: str, frames: int) -> None:
        """Start a bar on stderr; silent where that is no terminal."""
        self._bar = tqdm(desc=label, total=frames, unit="frame", disable=None)
        self._sum = 0.0
        self._count = 0

    def __call__(self, sequence: Sequence, result: Result) -> None:
        """Count one finished sequence."""
        self._sum += score_sequence(result.boxes, sequence.boxes).success_auc
        self._count += 1
        self._bar.set_postfix_str(f"AUC {self._sum / self._count:.3f}", refresh=False)
        self._bar.update(len(sequence))

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._bar.close()


def _check(args: argparse.Namespace) -> None:
    if args.workers < 1:
        raise ParameterError(f"--workers must be at least 1, got {args.workers}")
    if args.num_threads < 0:
        raise ParameterError(f"--num-threads must be at least 0, got {args.num_threads}")
    if args.compare is None and args.output is None:
        raise ParameterError("evaluate needs -o OUT for its results, or --compare FOLDER")


def _names(args: argparse.Namespace) -> list[str] | None:
    if args.sequences is None:
        return None
    if Path(args.sequences).is_file():
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
    args: argparse.Namespace, sequences: list[Sequence], problems: list[str]
) -> dict[str, Evaluation]:
    specs = _specs(args)
    dataset = {"dataset": args.dataset, "root": str(args.root.resolve())}
    outcomes: dict[str, Evaluation] = {}
    for spec in specs:
        bar = RunningAuc(spec.label, sum(map(len, sequences)))
        try:
            outcomes[spec.label] = evaluate_to_folder(
                spec, sequences, args.output / spec.label, dataset, args.workers, bar
            )
        except (BundleError, EngineError) as error:
            # One tracker that cannot run here does not keep the others from running.
            problems.append(f"{spec.label}: {error}")
        finally:
            bar.close()
    return outcomes


def _specs(args: argparse.Namespace) -> list[TrackerSpec]:
    specs: dict[str, TrackerSpec] = {}
    for text in args.trackers.split(","):
        spec = parse_tracker(text, args.engine, args.device, args.num_threads)
        if spec.kind == "mixformer" and spec.path is None:
            spec = dataclasses.replace(spec, path=args.bundle)
        if spec.label in specs:
            raise ParameterError(f"--trackers must name each tracker once, got {spec.label} twice")
        specs[spec.label] = spec
    return list(specs.values())


def _print(summaries: dict[str, Summary], per_sequence: bool) -> None:
    if per_sequence:
        print(sequence_table(summaries), end="\n\n")
    print(overall_table(summaries), LEGEND, sep="\n", end="\n\n")
    print(confidence_table(summaries), CONFIDENCE_LEGEND, sep="\n")
