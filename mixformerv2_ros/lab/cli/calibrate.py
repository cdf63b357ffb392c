"""`mixformerv2 calibrate`: find the threshold of a bundle's exits for a budget or a loss."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mixformerv2_ros.cli.arguments import ranged
from mixformerv2_ros.engines.loader import load_engine
from mixformerv2_ros.engines.options import MAX_THREADS
from mixformerv2_ros.errors import ParameterError, SourceError
from mixformerv2_ros.model.bundle import check_recordable, open_bundle, record_depth
from mixformerv2_ros.model.depth_calibration import DepthCalibration, DepthPoint
from mixformerv2_ros.ros.parameters import tracker_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = (
        "Track sequences with ground truth at several thresholds of the exits, then at thresholds "
        "per exit that promise more, print mean depth and success AUC of each, and write the curve "
        "and what fits the goal into the bundle: one threshold, or one per exit if they do better. "
        "Trackers of that bundle then stop early unless exit.threshold is 1."
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="model bundle with exits")
    parser.add_argument(
        "--on", type=Path, required=True, metavar="SEQUENCES",
        help="folder of sequences with ground truth, as for evaluate",
    )  # fmt: skip
    goal = parser.add_mutually_exclusive_group(required=True)
    goal.add_argument(
        "--budget", type=ranged(float, 0, 1), metavar="SHARE",
        help="mean number of blocks over that of full depth",
    )  # fmt: skip
    goal.add_argument(
        "--max-loss", type=ranged(float, 0), metavar="POINTS",
        help="points of success AUC (hundredths) that may be lost",
    )  # fmt: skip
    parser.add_argument(
        "--thresholds", metavar="LIST",
        help="thresholds to measure, separated by commas (default: from 0.5 to 0.9)",
    )  # fmt: skip
    parser.add_argument(
        "--num-threads", type=ranged(int, 0, MAX_THREADS), default=1, metavar="N",
        help="threads; 0: all physical cores but one (default: %(default)s)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Measure the curve, choose, and write both into the bundle."""
    from mixformerv2_ros.lab.datasets.evaluation_sets import load_sequences
    from mixformerv2_ros.lab.depth_curve import (
        REFINEMENTS,
        THRESHOLDS,
        best_exits,
        measure_exits,
        measure_point,
        threshold_for_budget,
        threshold_for_loss,
        unmet_goal,
    )
    from mixformerv2_ros.lab.evaluation.trade_off import parse_thresholds
    from mixformerv2_ros.lab.exit_record import CANDIDATES, candidates, record_exits

    bundle = open_bundle(args.bundle)
    if not bundle.spec.exits:
        raise ParameterError(
            f"calibrate needs a bundle with exits, which {bundle.name} has not; stage `exits` of "
            "`mixformerv2 train` makes them"
        )
    check_recordable(bundle)
    thresholds: tuple[float, ...] = THRESHOLDS
    if args.thresholds is not None:
        thresholds = parse_thresholds("--thresholds", args.thresholds)
    sequences, problems = load_sequences(args.on)
    problems = [f"left out: {problem}" for problem in problems]
    if not any(np.isfinite(one.boxes[1:]).all(axis=1).any() for one in sequences):
        raise SourceError(f"{args.on}: expected boxes after the first image, found none")
    engine = load_engine(bundle, num_threads=args.num_threads)
    settings = tracker_settings({"exit.threshold": 1.0}, bundle)
    per_exit = len(bundle.spec.exits) > 1
    budget, loss = args.budget, None if args.max_loss is None else args.max_loss / 100
    between = 0 if budget is None else REFINEMENTS
    runs = len(thresholds) + 1 + between + per_exit * CANDIDATES
    with tqdm(total=len(sequences) * runs, unit="sequence", disable=None, leave=False) as bar:

        def done() -> None:
            bar.update()

        def measure(threshold: float) -> DepthPoint:
            return measure_point(engine, settings, threshold, sequences, done)

        record, full, skipped = record_exits(engine, settings, sequences, done)
        curve = [*map(measure, thresholds), full]
        if loss is None:
            single = threshold_for_budget(curve, budget, measure)
        else:
            single = threshold_for_loss(curve, loss)
        points = []
        if per_exit:
            for some in candidates(record, curve, budget=budget, loss=loss):
                points.append(measure_exits(engine, settings, some, sequences, done))
    for problem in (*problems, *skipped):
        print(f"mixformerv2 calibrate: {problem}", file=sys.stderr)
    print("threshold        depth  success AUC")
    for point in curve:
        print(f"{point.threshold:<15g}  {point.depth:5.3f}  {point.success_auc:11.4f}")
    for exits in points:
        text = ", ".join(f"{one:g}" for one in exits.thresholds)
        print(f"{text:<15}  {exits.depth:5.3f}  {exits.success_auc:11.4f}")
    chosen = next((one for one in curve if one.threshold == single), None)
    better = best_exits(points, chosen, full.success_auc, budget=budget, loss=loss)
    if chosen is None and better is None:
        raise unmet_goal([*curve[:-1], *points], full.success_auc, budget=budget, loss=loss)
    source = {"sequences": len(sequences), "folder": args.on.resolve().name, "engine": engine.name}
    threshold = 1.0 if single is None else single
    record_depth(bundle, DepthCalibration(threshold, tuple(curve), source, better))
    what = f"threshold {threshold:.4g}"
    if better is not None:
        what = "thresholds " + ", ".join(f"{one:g}" for one in better.thresholds)
    elif points:
        print("no measured thresholds per exit do better than one for all exits")
    print(f"{what} written into {bundle.path / 'model.json'}")
    return 0
