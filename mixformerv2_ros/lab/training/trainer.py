"""The trainer: one run from a seed to a checkpoint, resumable at every checkpoint."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from mixformerv2_ros.errors import ParameterError, TrainingError
from mixformerv2_ros.lab.training.checkpoint_files import LAST, read_checkpoint
from mixformerv2_ros.lab.training.checkpoint_manager import CheckpointManager
from mixformerv2_ros.lab.training.config import TrainConfig
from mixformerv2_ros.lab.training.data_loaders import calibration_batch, load_batches, load_datasets
from mixformerv2_ros.lab.training.distributed import distributed_context
from mixformerv2_ros.lab.training.optimizers import run_length
from mixformerv2_ros.lab.training.stages import check_settings
from mixformerv2_ros.lab.training.training_run import TrainingRun, check_stage
from mixformerv2_ros.lab.training.validation import load_clips, validate, validate_clips

log = logging.getLogger(__name__)

Watch = Callable[[int, int, Mapping[str, Tensor]], None]
"""Called after every step with its number, their count, and the step's values."""


def train(
    config: TrainConfig,
    seconds: float = math.inf,
    stop: Callable[[], bool] = lambda: False,
    watch: Watch | None = None,
) -> Path:
    """Run or resume a training; return the path of the last checkpoint.

    Started by `torchrun`, every process must call it.

    Args:
        config: Settings; `output` may hold an earlier, unfinished run, which is continued.
        seconds: Stop with a checkpoint after this much time.
        stop: Asked after every step whether to stop with a checkpoint.
        watch: Told about every step.

    Raises:
        MixFormerError: settings, data or checkpoints are unusable; training diverged; or a
            checkpoint cannot be written. The last good checkpoint is then left as it was.
    """
    check_settings(config)
    if config.runtime.threads:
        torch.set_num_threads(config.runtime.threads)
    output = Path(config.output)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ParameterError(f"output must be a folder that can be written: {error}") from None
    with distributed_context(config.runtime.device) as context:
        path = output / LAST
        length = run_length(config, context.world_size)
        if path.exists() and finished_steps(config, path) >= length.steps:
            return path
        source, held = load_datasets(config)
        run = TrainingRun(config, context, lambda count: calibration_batch(source, count))
        if path.exists():
            run.restore(path)
            log.info("resumed %s at step %d", path, run.step)
            if run.changed:
                log.warning("%s was begun with another %s", path, ", ".join(run.changed))
        steps = context.all_gather(run.step)
        if len(set(steps)) > 1:
            raise TrainingError(
                f"all processes must see the same checkpoints in {output}, got steps {steps}; "
                "machines must share that folder"
            )
        clips = load_clips(config.validation.clips)
        manager = CheckpointManager(run, output)
        try:
            begin = time.monotonic()
            stream = load_batches(source, config, run.samples, run.length.steps - run.step, context)
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
                    run.save(path)  # at once: who sends SIGTERM may not wait for a validation
                if late:
                    break
        except TrainingError as error:
            kept = f"; the last good checkpoint is {path}" if path.exists() else ""
            raise TrainingError(f"{error}{kept}") from None
        finally:
            manager.close()
    return path


def finished_steps(config: TrainConfig, path: Path) -> int:
    """Steps that a run of this stage has taken.

    Raises:
        CheckpointError: the checkpoint is damaged or of another stage.
    """
    state = read_checkpoint(path)
    check_stage(config, state, path)
    return int(state["step"])
