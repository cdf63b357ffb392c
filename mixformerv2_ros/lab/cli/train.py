"""`mixformerv2 train`: train a network, or run a recipe of stages."""

from __future__ import annotations

import argparse
import logging
import math
import os
import shlex
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from mixformerv2_ros.cli import convert
from mixformerv2_ros.cli.arguments import ranged
from mixformerv2_ros.errors import BAD_INPUT, ParameterError
from mixformerv2_ros.interrupt import INTERRUPTED, stop_request
from mixformerv2_ros.lab.cli import export
from mixformerv2_ros.lab.datasets.package_paths import settings_file

if TYPE_CHECKING:
    from mixformerv2_ros.lab.training.config import TrainConfig
    from mixformerv2_ros.lab.training.trainer import Watch

SETTINGS = Path(__file__).parents[1] / "training" / "config.py"
"""The file that declares and documents all settings."""

SHOWN_EVERY = 10
"""Steps between updates of loss and IoU beside the progress bar."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = (
        "Train a network with the settings of a YAML file, or all stages of a recipe. An "
        "unfinished run in the output folder is resumed. With several GPUs or machines: "
        "torchrun --nproc-per-node N -m mixformerv2_ros.cli train CONFIG. "
        f"All settings, their meaning and defaults: {SETTINGS}; ready files come with the package: "
        "config/training/ in its sources; guide: docs/training.md."
    )
    parser.add_argument(
        "config",
        type=settings_file,
        help="settings of a stage, or a recipe (YAML); see config/training/",
    )
    parser.add_argument(
        "settings",
        nargs="*",
        default=[],
        metavar="name=value",
        help="override settings of the file, such as optimizer.learning_rate=1e-4",
    )
    parser.add_argument(
        "--seconds",
        type=ranged(float, 0),
        default=math.inf,
        help="time limit, after which a checkpoint is written and training stops",
    )
    parser.add_argument(
        "--profile",
        action="store_true",
        help="measure the parts of a step instead of training",
    )
    parser.add_argument(
        "--profile-steps",
        type=ranged(int, 1),
        default=20,
        metavar="N",
        help="number of steps to measure (default: %(default)s)",
    )
    parser.add_argument("--stage", metavar="NAME", help="with --profile: stage of the recipe")


def run(args: argparse.Namespace) -> int:
    """Train, or resume an unfinished run in the output folder."""
    # Before torch is loaded: its threads must sleep, not spin, while data loader workers need the
    # cores. Spinning made steps on two busy cores ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from mixformerv2_ros.lab.training.config_files import is_recipe, read_config, read_yaml

    is_main = os.environ.get("RANK", "0") == "0"
    logging.basicConfig(
        level=logging.INFO if is_main else logging.ERROR,
        format="%(asctime)s %(message)s",
        datefmt="%H:%M:%S",
    )
    if args.profile:
        return _profile(args)
    if args.stage is not None:
        raise ParameterError("--stage needs --profile; a recipe trains all of its stages")
    from mixformerv2_ros.lab.training.distributed import PeerError

    with ExitStack() as stack:
        stopped = stack.enter_context(stop_request(signal.SIGINT, signal.SIGTERM))
        stack.enter_context(logging_redirect_tqdm())
        try:
            if is_recipe(read_yaml(args.config)):
                return _recipe(args, stopped, is_main)
            return _stage(read_config(args.config, args.settings), args, stopped, is_main)
        except PeerError:  # the other process reports why
            return BAD_INPUT


def _stage(
    config: TrainConfig, args: argparse.Namespace, stopped: Callable[[], bool], is_main: bool
) -> int:
    from mixformerv2_ros.lab.training.trainer import train

    with _bar("", is_main) as watch:
        path = train(config, args.seconds, stopped, watch)
    if is_main:
        print(f"checkpoint: {path}")
    if stopped():
        return _interrupted(is_main)
    if is_main and config.loss.score:
        print(f"next: mixformerv2 convert {shlex.quote(str(path))} -o BUNDLE")
    return 0


def _recipe(args: argparse.Namespace, stopped: Callable[[], bool], is_main: bool) -> int:
    from mixformerv2_ros.lab.training.recipe import read_recipe, run_recipe

    recipe, runs = read_recipe(args.config, args.settings)
    if recipe.bundle:
        export.check_libraries()
    with ExitStack() as bars:

        def watch(run: Any, number: int, count: int) -> Watch:
            bars.close()
            return bars.enter_context(_bar(f"{number}/{count} {run.name}", is_main))

        done = run_recipe(recipe, runs, args.seconds, stopped, watch)
    if stopped():
        return _interrupted(is_main)
    if not is_main:
        return 0
    report = Path(recipe.output) / "report.md"
    if report.exists():
        print(report.read_text(encoding="utf-8"))
        print(f"report: {report}")
    if not done:
        print("time limit reached; run the same command to resume")
        return 0
    if recipe.bundle:
        final = next(run for run in runs if run.stage == recipe.bundle)
        _convert(final.checkpoint, Path(recipe.output) / "bundle")
    return 0


def _convert(checkpoint: Path, bundle: Path) -> None:
    """Write a bundle with its ONNX graphs, replacing an earlier one."""
    parser = argparse.ArgumentParser()
    convert.add_arguments(parser)
    words = [str(checkpoint), "--output", str(bundle), "--force"]
    convert.run(parser.parse_args(words))
    parser = argparse.ArgumentParser()
    export.add_arguments(parser)
    export.run(parser.parse_args([str(bundle)]))


def _interrupted(is_main: bool) -> int:
    if is_main:
        print("stopped; run the same command to resume")
    return INTERRUPTED


@contextmanager
def _bar(name: str, is_main: bool) -> Iterator[Watch]:
    """A progress bar, as a callback for `train`."""
    with tqdm(desc=name or None, unit="step", disable=None if is_main else True) as bar:

        def watch(step: int, total: int, values: Mapping[str, Any]) -> None:
            if bar.total != total:
                bar.reset(total)
                bar.initial = bar.n = step - 1
            if not bar.disable and step % SHOWN_EVERY == 0:
                shown = {key: f"{float(values[key]):.3f}" for key in ("loss", "iou")}
                bar.set_postfix(shown, refresh=False)
            bar.update()

        yield watch


def _profile(args: argparse.Namespace) -> int:
    from mixformerv2_ros.lab.training.profiling import profile_training
    from mixformerv2_ros.lab.training.recipe import choose_stage
    from mixformerv2_ros.lab.training.stand_ins import stand_ins

    with stand_ins(*choose_stage(args.config, args.settings, args.stage)) as (config, untrained):
        if untrained:
            print(f"not run yet, so untrained networks stand in for: {', '.join(untrained)}")
        parts = profile_training(config, args.profile_steps)
    for line in parts.lines():
        print(line)
    return 0
