"""`mixformerv2 check-data`: read all data of a training before it begins."""

from __future__ import annotations

import argparse
import sys
from itertools import combinations
from typing import TYPE_CHECKING

from tqdm import tqdm

from mixformerv2_ros.cli.arguments import ranged
from mixformerv2_ros.cli.laboratory import lab_module
from mixformerv2_ros.errors import BAD_INPUT
from mixformerv2_ros.lab.datasets.package_paths import settings_file

if TYPE_CHECKING:
    from mixformerv2_ros.lab.training.config import TrainConfig
    from mixformerv2_ros.lab.training.data_check import DataPart, PartReport


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = (
        "Read every annotation and image that a training would use. Prints counts, split and "
        "licence file of each data set, and names every broken line and image. The exit code is 2 "
        "if there are any, data.max_unreadable excepted."
    )
    parser.add_argument(
        "config", type=settings_file, help="settings of a stage, or a recipe (YAML)"
    )
    parser.add_argument(
        "settings",
        nargs="*",
        default=[],
        metavar="name=value",
        help="override settings, as for train",
    )
    parser.add_argument(
        "--image-step",
        type=ranged(int, 1),
        default=1,
        metavar="N",
        help="read every N-th image of each sequence only (default: 1, all)",
    )


def run(args: argparse.Namespace) -> int:
    """Check the data of a stage, or of all stages of a recipe."""
    lab_module("training.data_check", "check-data")  # one line where torch is missing
    from mixformerv2_ros.lab.training.data_check import check_part, data_parts
    from mixformerv2_ros.lab.training.recipe import read_stages

    configs = [stage.config for stage in read_stages(args.config, args.settings)]
    found = []
    for part in data_parts(configs):
        with tqdm(desc=part.name, unit="clip", disable=None, file=sys.stderr, leave=False) as bar:

            def watch(done: int, count: int, bar: tqdm[None] = bar) -> None:
                bar.total = count
                bar.update(done - bar.n)

            report = check_part(part, args.image_step, watch)
        _print(part, report)
        found.append((part, report))
    for (first, a), (second, b) in combinations(found, 2):
        common = sorted(a.names & b.names)
        if common and first.use != second.use:
            print(
                f"note: {len(common)} clips of {first.name} ({first.use}) are also in "
                f"{second.name} ({second.use}): {', '.join(common[:3])}"
                + (" ..." if len(common) > 3 else "")
            )
    return _verdict([report for _, report in found], configs)


def _print(part: DataPart, report: PartReport) -> None:
    from mixformerv2_ros.lab.training.data_check import licence_of

    print(f"{part.name} ({part.use}), {part.root}")
    print(
        f"  {report.clips:,} clips, {report.frames:,} boxes or frames, {report.visible:,} with a "
        f"visible target, {report.images:,} images read"
    )
    print(f"  licence: {licence_of(part.root)}")
    for problem in (*report.problems, *report.unreadable):
        print(f"  {problem}")


def _verdict(reports: list[PartReport], configs: list[TrainConfig]) -> int:
    broken = sum(len(report.problems) for report in reports)
    unreadable = sum(len(report.unreadable) for report in reports)
    images = sum(report.images for report in reports) + unreadable
    share = min(config.data.max_unreadable for config in configs)
    permitted = unreadable <= share * images
    line = f"{broken} broken lines, boxes or clips, {unreadable} of {images:,} images unreadable"
    if unreadable and permitted:
        line += f" (data.max_unreadable permits {share:g})"
    print(line)
    return 0 if not broken and permitted else BAD_INPUT
