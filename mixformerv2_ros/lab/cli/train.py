"""`mixformerv2 train`: train a network from a YAML of settings, or run a recipe of stages."""

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
from mixformerv2_ros.cli.shared import positive_number
from mixformerv2_ros.errors import ParameterError
from mixformerv2_ros.interrupt import INTERRUPTED, stop_request

if TYPE_CHECKING:
    from mixformerv2_ros.lab.training.config import TrainConfig
    from mixformerv2_ros.lab.training.trainer import Watch

SHOWN_EVERY = 10
"""Steps between two updates of the figures beside the progress bar."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = (
        "Train a network from a file of settings, or run a recipe: a file that lists stages. An "
        "unfinished run in the same output folder is continued. With several GPUs or machines: "
        "torchrun --nproc-per-node N -m mixformerv2_ros.cli train CONFIG."
    )
    parser.add_argument("config", type=Path, help="YAML of settings, see config/training/")
    parser.add_argument(
        "settings", nargs="*", metavar="name=value", help="settings to use instead of the file's"
    )
    parser.add_argument(
        "--seconds", type=float, default=math.inf, help="stop with a checkpoint after this time"
    )
    parser.add_argument(
        "--profile",
        type=positive_number,
        metavar="STEPS",
        help="measure where the time of so many steps goes, and train nothing",
    )


def run(args: argparse.Namespace) -> int:
    """Train, or continue an unfinished run in the same output folder."""
    # Before torch is loaded: its threads must sleep, not spin, while loader processes want the
    # cores. Spinning made steps on two busy cores ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from mixformerv2_ros.lab.training.config_files import read_config, read_yaml
    from mixformerv2_ros.lab.training.recipe import is_recipe

    leads = os.environ.get("RANK", "0") == "0"
    logging.basicConfig(
        level=logging.INFO if leads else logging.ERROR,
        format="%(asctime)s %(message)s",
        datefmt="%H:%M:%S",
    )
    recipe = is_recipe(read_yaml(args.config))
    if args.profile:
        if recipe:
            raise ParameterError("--profile takes the settings of one stage, got a recipe")
        return _profile(read_config(args.config, args.settings), args.profile)
    with ExitStack() as stack:
        stopped = stack.enter_context(stop_request(signal.SIGINT, signal.SIGTERM))
        stack.enter_context(logging_redirect_tqdm())
        if recipe:
            return _recipe(args, stopped, leads)
        return _stage(read_config(args.config, args.settings), args, stopped, leads)


def _stage(
    config: TrainConfig, args: argparse.Namespace, stopped: Callable[[], bool], leads: bool
) -> int:
    from mixformerv2_ros.lab.training.trainer import train

    with _bar("", leads) as watch:
        path = train(config, args.seconds, stopped, watch)
    if leads:
        print(f"checkpoint: {path}")
    if stopped():
        return _interrupted(leads)
    if leads and config.loss.score:
        print(f"next: mixformerv2 convert {shlex.quote(str(path))} -o BUNDLE")
    return 0


def _recipe(args: argparse.Namespace, stopped: Callable[[], bool], leads: bool) -> int:
    from mixformerv2_ros.lab.training.recipe import read_recipe, run_recipe

    recipe, runs = read_recipe(args.config, args.settings)
    with ExitStack() as bars:

        def watch(run: Any, number: int, count: int) -> Watch:
            bars.close()
            return bars.enter_context(_bar(f"{number}/{count} {run.name}", leads))

        done = run_recipe(recipe, runs, args.seconds, stopped, watch)
    if stopped():
        return _interrupted(leads)
    if not leads:
        return 0
    report = Path(recipe.output) / "report.md"
    if report.exists():
        print(report.read_text(encoding="utf-8"))
        print(f"report: {report}")
    if not done:
        print("time is up; the same command continues")
        return 0
    if recipe.bundle:
        final = next(run for run in runs if run.stage == recipe.bundle)
        _convert(final.checkpoint, Path(recipe.output) / "bundle")
    return 0


def _convert(checkpoint: Path, bundle: Path) -> None:
    """Make a bundle; one from before is replaced."""
    parser = argparse.ArgumentParser()
    convert.add_arguments(parser)
    words = [str(checkpoint), "--output", str(bundle), "--force"]
    convert.run(parser.parse_args(words))


def _interrupted(leads: bool) -> int:
    if leads:
        print("stopped; the same command continues")
    return INTERRUPTED


@contextmanager
def _bar(name: str, leads: bool) -> Iterator[Watch]:
    """A progress bar over steps, as a function that is told about each of them."""
    with tqdm(desc=name or None, unit="step", disable=None if leads else True) as bar:

        def watch(step: int, total: int, values: Mapping[str, Any]) -> None:
            if bar.total != total:
                bar.reset(total)
                bar.initial = bar.n = step - 1
            if not bar.disable and step % SHOWN_EVERY == 0:
                shown = {key: f"{float(values[key]):.3f}" for key in ("loss", "iou")}
                bar.set_postfix(shown, refresh=False)
            bar.update()

        yield watch


def _profile(config: TrainConfig, steps: int) -> int:
    from mixformerv2_ros.lab.training.profiling import profile_training

    parts = profile_training(config, steps)
    for line in parts.lines():
        print(line)
    return 0
