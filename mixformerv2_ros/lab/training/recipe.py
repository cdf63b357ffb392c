"""Recipes: stages that build on each other, from pretrained weights to the final network.

A recipe is a YAML file that lists stages; each names a settings file and overrides some of its
settings. `$name` stands for the checkpoint of an earlier stage, or for an input. All stages are
checked before the first step, and an interrupted recipe is resumed where it stopped.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mixformerv2_ros.errors import CheckpointError, MixFormerError, ParameterError
from mixformerv2_ros.lab.datasets.package_paths import settings_path
from mixformerv2_ros.lab.training.checkpoint_files import LAST
from mixformerv2_ros.lab.training.config import TrainConfig
from mixformerv2_ros.lab.training.config_files import (
    fill,
    get_value,
    is_recipe,
    override,
    read_config,
    read_yaml,
    set_value,
    train_config,
)
from mixformerv2_ros.lab.training.data_check import check_inputs
from mixformerv2_ros.lab.training.distributed import PeerError, distributed_context
from mixformerv2_ros.lab.training.initialization import (
    build_training_model,
    check_init,
    check_teacher,
    load_stage_teacher,
)
from mixformerv2_ros.lab.training.logs import last_row
from mixformerv2_ros.lab.training.optimizers import run_length
from mixformerv2_ros.lab.training.recipe_report import RESULTS, Table, write_report
from mixformerv2_ros.lab.training.stages import check_settings, student_spec
from mixformerv2_ros.lab.training.trainer import Watch, finished_steps, train
from mixformerv2_ros.lab.training.training_run import no_samples

log = logging.getLogger(__name__)

MARK = "$"
INIT, TEACHER = "init_from", "distillation.teacher"
"""Settings that name a checkpoint: a file, or with `$` an input or an earlier stage."""


@dataclass(frozen=True)
class StageEntry:
    """One stage of a recipe.

    Attributes:
        name: Name in references and tables, and of the output folder.
        config: Settings file, relative to the recipe's folder.
        settings: Settings to override, by dotted names.
        seeds: Seeds to run the stage with; empty runs it once, with the file's seed.
    """

    name: str
    config: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """The content of a recipe file.

    Attributes:
        output: Folder of all stages.
        inputs: Existing files by name, such as pretrained weights.
        common: Settings of every stage, which its own settings override.
        force: Settings of every stage, which override its own; for a quick trial.
        stages: The stages in order.
        bundle: Stage whose network is converted to a bundle; empty converts none.
        tables: Tables of the report, before the list of all runs.
    """

    output: str
    stages: tuple[StageEntry, ...]
    inputs: Mapping[str, str] = field(default_factory=dict)
    common: Mapping[str, Any] = field(default_factory=dict)
    force: Mapping[str, Any] = field(default_factory=dict)
    bundle: str = ""
    tables: tuple[Table, ...] = ()


@dataclass(frozen=True)
class StageRun:
    """One stage with one seed, ready to run.

    Attributes:
        stage: Name of the stage.
        name: The same, with the seed if there are several.
        config: Its settings.
        needs: Runs that it builds on, by setting (`init_from`, `distillation.teacher`).
    """

    stage: str
    name: str
    config: TrainConfig
    needs: Mapping[str, str]

    @property
    def checkpoint(self) -> Path:
        """Path of its last checkpoint."""
        return Path(self.config.output) / LAST


def read_stages(path: Path, overrides: list[str] | None = None) -> list[StageRun]:
    """Read the stages of a recipe, or the one stage of a settings file; checkpoints may be absent.

    Args:
        path: The file.
        overrides: `name=value`.

    Raises:
        MixFormerError: a setting is unknown or inconsistent.
    """
    if is_recipe(read_yaml(path)):
        return read_recipe(path, overrides, need_checkpoints=False)[1]
    config = read_config(path, overrides)
    check_settings(config)
    return [StageRun(path.stem, path.stem, config, {})]


def choose_stage(
    path: Path, overrides: list[str] | None, name: str | None
) -> tuple[StageRun, list[StageRun]]:
    """Read the settings of one stage, and of all stages of its file.

    Args:
        path: A settings file or a recipe.
        overrides: `name=value`.
        name: Stage of the recipe; None for a settings file.

    Raises:
        MixFormerError: a setting is unknown or inconsistent, or the name is not that of a stage.
    """
    stages = read_stages(path, overrides)
    recipe = is_recipe(read_yaml(path))
    if recipe == (name is not None):
        found = [stage for stage in stages if name in (None, stage.stage, stage.name)]
        if found:
            return found[0], stages
    names = ", ".join(dict.fromkeys(stage.stage for stage in stages))
    if not recipe:
        raise ParameterError(
            f"{path}: --stage {name} needs a recipe, got the settings of one stage"
        )
    came = "none" if name is None else repr(name)
    raise ParameterError(f"{path}: a recipe needs --stage, one of {names}; got {came}")


def read_recipe(
    path: Path, overrides: list[str] | None = None, need_checkpoints: bool = True
) -> tuple[Recipe, list[StageRun]]:
    """Read a recipe and the settings of all of its stages, and check their consistency.

    Args:
        path: The recipe.
        overrides: `name=value`, such as `inputs.teacher=FILE` or `common.data.batch_size=64`.
        need_checkpoints: Whether files of weights must exist.

    Raises:
        MixFormerError: a setting is unknown or inconsistent, or a file is missing.
    """
    tree = read_yaml(path)
    override(tree, overrides or [])
    recipe: Recipe = fill(Recipe, tree, str(path))
    runs: dict[str, StageRun] = {}
    known: dict[str, list[str]] = {}
    for entry in recipe.stages:
        if not entry.name or entry.name in known or entry.name in recipe.inputs:
            raise ParameterError(f"{path}: stages need unique names, got {entry.name!r}")
        known[entry.name] = []
        for seed in entry.seeds or (None,):
            try:
                run = _stage_run(recipe, entry, seed, path.parent, known, runs)
                if need_checkpoints:
                    _check_files(run)
                check_settings(run.config)
                _check_needs(run, runs)
            except MixFormerError as error:
                message = str(error).removeprefix(f"{path}: ")
                raise type(error)(f"{path}: stage {entry.name}: {message}") from None
            runs[run.name] = run
            known[entry.name].append(run.name)
    for name in (
        recipe.bundle,
        *(s for t in recipe.tables for row in t.rows.values() for s in row),
    ):
        if name and name not in known:
            raise ParameterError(f"{path}: expected the name of a stage, got {name!r}")
    for table in recipe.tables:
        for row, names in table.rows.items():
            if len(names) != len(table.columns):
                raise ParameterError(
                    f"{path}: table row {row!r} needs {len(table.columns)} stages, got {len(names)}"
                )
    return recipe, list(runs.values())


def _stage_run(
    recipe: Recipe,
    entry: StageEntry,
    seed: int | None,
    folder: Path,
    known: Mapping[str, list[str]],
    runs: Mapping[str, StageRun],
) -> StageRun:
    name = entry.name if seed is None else f"{entry.name}-seed{seed}"
    tree = read_yaml(folder / entry.config)
    for source in (recipe.common, entry.settings, recipe.force):
        for setting, value in source.items():
            _merge(tree, setting, value)
    tree["output"] = str(Path(recipe.output) / name)
    if seed is not None:
        tree["seed"] = seed
    needs: dict[str, str] = {}
    for setting in (INIT, TEACHER):
        value = get_value(tree, setting)
        if not (isinstance(value, str) and value.startswith(MARK)):
            continue
        wanted = value.removeprefix(MARK)
        if wanted in recipe.inputs:
            set_value(tree, setting, recipe.inputs[wanted])
        elif known.get(wanted):
            candidates = known[wanted]
            # The run with the same seed if there is one, else the first.
            same = f"{wanted}-seed{seed}"
            needs[setting] = same if same in candidates else candidates[0]
            set_value(tree, setting, str(runs[needs[setting]].checkpoint))
        else:
            names = ", ".join([*recipe.inputs, *(n for n in known if known[n])]) or "none"
            raise ParameterError(
                f"{setting} must be an input or an earlier stage ({names}), got {value}"
            )
    return StageRun(entry.name, name, train_config(tree, entry.config), needs)


def _check_files(run: StageRun) -> None:
    config = run.config
    for setting, file in ((INIT, config.init_from), (TEACHER, config.distillation.teacher)):
        if file and setting not in run.needs and not settings_path(file).exists():
            raise CheckpointError(f"{setting}: expected a checkpoint file, found none at {file}")


def _merge(tree: dict[str, Any], setting: str, value: Any) -> None:
    """Set a dotted name; of a table only the entries that are given."""
    if isinstance(value, Mapping):
        for key, entry in value.items():
            _merge(tree, f"{setting}.{key}", entry)
    else:
        set_value(tree, setting, value)


def _check_needs(run: StageRun, runs: Mapping[str, StageRun]) -> None:
    for setting, check in ((INIT, check_init), (TEACHER, check_teacher)):
        if setting in run.needs:
            name = run.needs[setting]
            check(run.config, runs[name].config, name)


def run_recipe(
    recipe: Recipe,
    runs: Sequence[StageRun],
    seconds: float = math.inf,
    stop: Callable[[], bool] = lambda: False,
    watch: Callable[[StageRun, int, int], Watch | None] = lambda *_: None,
) -> bool:
    """Run or resume a recipe; writes `report.md` and `report.json` to its folder.

    Args:
        recipe: The recipe.
        runs: Its stages.
        seconds: Time limit, after which a checkpoint is written and training stops.
        stop: Called after every step; returns whether to write a checkpoint and stop.
        watch: Called with a run, its number and the number of runs before the run begins; returns
            the callback for its steps.

    Returns:
        Whether all stages are finished.

    Raises:
        MixFormerError: as `train`.
    """
    begin = time.monotonic()
    with distributed_context(runs[0].config.runtime.device) as context:
        with context.failing_together():
            check_all_inputs(runs, context.world_size)
        for number, run in enumerate(runs, start=1):
            left = seconds - (time.monotonic() - begin)
            if context.any(stop() or left <= 0):
                return False
            log.info("stage %d of %d: %s", number, len(runs), run.name)
            try:
                train(run.config, left, stop, watch(run, number, len(runs)))
            except PeerError:
                raise
            except MixFormerError as error:
                raise type(error)(f"stage {run.name}: {error}") from None
            context.barrier()  # until rank 0 has written its checkpoint
            if not _is_finished(run, context.world_size):
                return False
            if context.is_main:
                _write_report(recipe, runs)
    return True


def check_all_inputs(runs: Sequence[StageRun], world_size: int) -> None:
    """Check that the data of all stages that are not finished can be opened.

    Raises:
        MixFormerError: it cannot; names the stage.
    """
    checked = set()
    for run in runs:
        config = run.config
        weights = (config.init_from, config.distillation.teacher)
        inputs = (config.data, config.validation.clips, weights)
        if inputs in checked or _is_finished(run, world_size):
            continue
        checked.add(inputs)
        try:
            check_inputs(run.config)
            _check_weights(run)
        except MixFormerError as error:
            raise type(error)(f"stage {run.name}: {error}") from None


def _check_weights(run: StageRun) -> None:
    """Read the weights that no earlier stage writes."""
    config = run.config
    if TEACHER not in run.needs:
        load_stage_teacher(config)
    # The MLP reduction needs samples, and starts from an earlier stage in every recipe of ours.
    if config.init_from and INIT not in run.needs and config.stage != "mlp-reduction":
        build_training_model(config, no_samples)


def _is_finished(run: StageRun, world_size: int) -> bool:
    if not run.checkpoint.exists():
        return False
    return finished_steps(run.config, run.checkpoint) >= run_length(run.config, world_size).steps


def _write_report(recipe: Recipe, runs: Sequence[StageRun]) -> None:
    rows = [
        {**_facts(run), **{name: row[name] for name in RESULTS if name in row}}
        for run in runs
        if (row := last_row(Path(run.config.output))) is not None
    ]
    write_report(Path(recipe.output), recipe.tables, rows)


def _facts(run: StageRun) -> dict[str, Any]:
    spec = student_spec(run.config)
    return {
        "name": run.name,
        "stage": run.stage,
        "kind": run.config.stage,
        "seed": run.config.seed,
        "depth": spec.depth,
        "mlp_ratio": spec.mlp_ratio,
        "from": run.needs.get(INIT, run.config.init_from),
        "teacher": run.needs.get(TEACHER, run.config.distillation.teacher),
    }
