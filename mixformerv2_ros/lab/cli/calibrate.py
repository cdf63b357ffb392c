"""`mixformerv2 calibrate`: find the threshold of a bundle's exits for a budget or a loss."""

from __future__ import annotations

import argparse
from pathlib import Path

from tqdm import tqdm

from mixformerv2_ros.cli.arguments import ranged
from mixformerv2_ros.engines.loader import load_engine
from mixformerv2_ros.errors import ParameterError
from mixformerv2_ros.model.bundle import open_bundle, record_depth
from mixformerv2_ros.model.depth_calibration import DepthCalibration
from mixformerv2_ros.ros.parameters import tracker_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = (
        "Track sequences with ground truth at several thresholds of the exits, print mean depth "
        "and success AUC of each, and write the curve and the threshold that fits into the bundle. "
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
        "--num-threads", type=ranged(int, 0), default=1, metavar="N",
        help="threads; 0: all physical cores but one (default: %(default)s)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Measure the curve, choose, and write both into the bundle."""
    from mixformerv2_ros.lab.datasets.evaluation_sets import load_sequences
    from mixformerv2_ros.lab.depth_curve import THRESHOLDS, measure_point, threshold_for_loss
    from mixformerv2_ros.lab.evaluation.trade_off import parse_thresholds

    bundle = open_bundle(args.bundle)
    if not bundle.spec.exits:
        raise ParameterError(
            f"calibrate needs a bundle with exits, which {bundle.name} has not; stage `exits` of "
            "`mixformerv2 train` makes them"
        )
    thresholds: tuple[float, ...] = THRESHOLDS
    if args.thresholds is not None:
        thresholds = parse_thresholds("--thresholds", args.thresholds)
    sequences, problems = load_sequences(args.on)
    for problem in problems:
        print(f"left out: {problem}")
    engine = load_engine(bundle, num_threads=args.num_threads)
    settings = tracker_settings({"exit.threshold": 1.0}, bundle)
    with tqdm(total=len(sequences) * (len(thresholds) + 1), unit="sequence", leave=False) as bar:
        curve = tuple(
            measure_point(engine, settings, threshold, sequences, lambda: bar.update())
            for threshold in (*thresholds, 1.0)
        )
    print("threshold  depth  success AUC")
    for point in curve:
        print(f"{point.threshold:9g}  {point.depth:5.3f}  {point.success_auc:11.4f}")
    source = {"sequences": len(sequences), "folder": args.on.resolve().name, "engine": engine.name}
    measured = DepthCalibration(1.0, curve, source)
    if args.budget is not None:
        threshold = measured.threshold_for(args.budget)
    else:
        threshold = threshold_for_loss(curve, args.max_loss)
    record_depth(bundle, DepthCalibration(round(threshold, 4), curve, source))
    print(f"threshold {threshold:.4g} written into {bundle.path / 'model.json'}")
    return 0
