"""The training loop of one run, which can be resumed from its last checkpoint."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

import torch
from torch import Tensor

from mixformerv2_ros.errors import ParameterError, TrainingError
from mixformerv2_ros.lab.training.checkpoint_files import LAST, read_checkpoint
from mixformerv2_ros.lab.training.checkpoint_manager import CheckpointManager
from mixformerv2_ros.lab.training.config import TrainConfig
from mixformerv2_ros.lab.training.config_files import changed_settings
from mixformerv2_ros.lab.training.data_loaders import (
    calibration_batch,
    load_batches,
    load_datasets,
    worker_deaths_named,
)
from mixformerv2_ros.lab.training.distributed import PeerError, distributed_context
from mixformerv2_ros.lab.training.optimizers import run_length
from mixformerv2_ros.lab.training.stages import check_settings
from mixformerv2_ros.lab.training.training_run import TrainingRun, check_stage
from mixformerv2_ros.lab.training.validation import load_clips, validate, validate_clips

log = logging.getLogger(__name__)

Watch = Callable[[int, int, Mapping[str, Tensor]], None]
"""Callback after every step: its number, the number of steps, and the step's loss values."""


def train(
    config: TrainConfig,
    seconds: float = math.inf,
    stop: Callable[[], bool] = lambda: False,
    watch: Watch | None = None,
) -> Path:
    """Run or resume a training; return the path of the last checkpoint.

    Under `torchrun`, every process must call it.

    Args:
        config: Settings; an unfinished run in `output` is resumed.
        seconds: Time limit, after which a checkpoint is written and training stops.
        stop: Called after every step; returns whether to write a checkpoint and stop.
        watch: Callback after every step.

    Raises:
        MixFormerError: settings, data or checkpoints are unusable; a run in `output` has finished
            with other settings; training diverged; or a checkpoint cannot be written. The last
            good checkpoint is then left as it was.
    """
    check_settings(config)
    if config.runtime.threads:
        torch.set_num_threads(config.runtime.threads)
    output = Path(config.output)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ParameterError(f"output must be a writable folder: {error}") from None
    with distributed_context(config.runtime.device) as context:
        path = output / LAST
        length = run_length(config, context.world_size)
        if path.exists() and finished_steps(config, path) >= length.steps:
            _check_unchanged(config, path)
            log.info("%s is finished, nothing to train", output)
            return path
        with context.failing_together():
            source, held = load_datasets(config)
        run = TrainingRun(config, context, lambda count: calibration_batch(source, count))
        if path.exists():
            run.restore(path)
            log.info("resumed %s at step %d", path, run.step)
            if run.changed:
                log.warning("settings have changed since %s: %s", path, ", ".join(run.changed))
        steps = context.all_gather(run.step)
        if len(set(steps)) > 1:
            raise TrainingError(
                f"all processes must share the folder {output}, but their checkpoints are at steps "
                f"{steps}"
            )
        with context.failing_together():
            clips = load_clips(config.validation.clips)
        manager = CheckpointManager(run, output)
        begin = time.monotonic()
        stream = load_batches(source, config, run.samples, run.length.steps - run.step, context)
        try:
            with worker_deaths_named(), closing(stream):
                for batch in stream:
                    values = run.advance(batch)
                    manager.record(values)
                    if watch is not None:
                        watch(run.step, run.length.steps, values)
                    late = context.any(time.monotonic() - begin > seconds or stop())
                    if run.finished or run.step % run.length.validate_every == 0:
                        report = validate(run.ema_model, held, config, context)
                        report |= validate_clips(run.ema_model, clips, config, context)
                        manager.save(report)
                    elif late:
                        run.save(path)  # without validation: SIGKILL may follow SIGTERM soon
                    if late:
                        break
        except PeerError:
            raise
        except TrainingError as error:
            kept = f"; the last good checkpoint is {path}" if path.exists() else ""
            raise TrainingError(f"{error}{kept}") from None
        finally:
            manager.close()
    return path


def _check_unchanged(config: TrainConfig, path: Path) -> None:
    state = read_checkpoint(path)
    changed = changed_settings(state["config"], config)
    if changed:
        raise ParameterError(
            f"{path} has finished with other settings: {', '.join(changed)}; choose another output"
        )


def finished_steps(config: TrainConfig, path: Path) -> int:
    """Number of steps that a checkpoint's run has taken.

    Raises:
        CheckpointError: the checkpoint is damaged or of another stage.
    """
    state = read_checkpoint(path)
    check_stage(config, state, path)
    return int(state["step"])
