"""Untrained networks in place of checkpoints that earlier stages have not written yet.

A training step takes as long with them, so that a stage can be profiled before the chain has run.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mixformerv2_ros.lab.training.checkpoint_files import LAST, write_checkpoint
from mixformerv2_ros.lab.training.config import TrainConfig
from mixformerv2_ros.lab.training.config_files import fill, set_value
from mixformerv2_ros.lab.training.recipe import StageRun
from mixformerv2_ros.lab.training.stages import student_spec, teacher_spec
from mixformerv2_ros.lab.training.training_model import new_training_model


@contextmanager
def stand_ins(run: StageRun, runs: Sequence[StageRun]) -> Iterator[tuple[TrainConfig, list[str]]]:
    """Settings of a stage that can be run although stages before it have not.

    Args:
        run: The stage.
        runs: All stages of its recipe.

    Yields the settings, and the names of the stages that untrained networks stand in for.
    """
    by_name = {each.name: each for each in runs}
    tree = dataclasses.asdict(run.config)
    names = []
    with tempfile.TemporaryDirectory() as folder:
        for setting, name in run.needs.items():
            earlier = by_name[name]
            if earlier.checkpoint.exists():
                continue
            names.append(name)
            path = Path(folder) / name / LAST
            path.parent.mkdir(exist_ok=True)
            _write_untrained(earlier.config, path)
            set_value(tree, setting, str(path))
        yield fill(TrainConfig, tree, run.name), list(dict.fromkeys(names))


def _write_untrained(config: TrainConfig, path: Path) -> None:
    spec = teacher_spec(config) if config.stage == "teacher" else student_spec(config)
    model = new_training_model(spec, 0.0, config.seed, 0.0)
    weights = model.state_dict()
    state = {
        "net": model.network.state_dict(),
        "net_type": "MixFormer",
        "spec": dataclasses.asdict(spec),
        "config": dataclasses.asdict(config),
        "step": 0,
        "model": weights,
        "averaged": weights,
    }
    write_checkpoint(state, path)
