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
from mixformerv2_ros.lab.training.checkpoint_files import (
    BEST,
    LAST,
    copy_checkpoint,
    read_checkpoint,
)
from mixformerv2_ros.lab.training.config import TrainConfig
from mixformerv2_ros.lab.training.data_loaders import batches, calibration_batch, load_sources
from mixformerv2_ros.lab.training.distributed import join_processes
from mixformerv2_ros.lab.training.logs import Scalars, write_row
from mixformerv2_ros.lab.training.optim import run_length
from mixformerv2_ros.lab.training.run import Run, check_stage
from mixformerv2_ros.lab.training.stages import check_settings
from mixformerv2_ros.lab.training.validation import load_clips, validate, validate_clips

log = logging.getLogger(__name__)

SCALARS_EVERY = 10
"""Steps between two points of TensorBoard's training curves."""

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
    if config.threads:
        torch.set_num_threads(config.threads)
    output = Path(config.output)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ParameterError(f"output must be a folder that can be written: {error}") from None
    with join_processes(config.device) as processes:
        path = output / LAST
        length = run_length(config, processes.count)
        if path.exists() and finished_steps(config, path) >= length.steps:
            return path
        source, held = load_sources(config)
        run = Run(config, processes, lambda count: calibration_batch(source, count))
        if path.exists():
            run.restore(path)
            log.info("resumed %s at step %d", path, run.step)
            if run.changed:
                log.warning("%s was begun with another %s", path, ", ".join(run.changed))
        steps = processes.gather(run.step)
        if len(set(steps)) > 1:
            raise TrainingError(
                f"all processes must see the same checkpoints in {output}, got steps {steps}; "
                "machines must share that folder"
            )
        clips = load_clips(config.clips)
        keeper = _Keeper(run, output)
        try:
            begin = time.monotonic()
            stream = batches(source, config, run.samples, run.length.steps - run.step, processes)
            for batch in stream:
                values = run.advance(batch)
                keeper.note(values)
                if watch is not None:
                    watch(run.step, run.length.steps, values)
                late = processes.any(time.monotonic() - begin > seconds or stop())
                if run.finished or run.step % run.length.validate_every == 0:
                    report = validate(run.averaged, held, config, processes)
                    report |= validate_clips(run.averaged, clips, config, processes)
                    keeper.keep(report)
                elif late:
                    run.save(path)  # at once: who sends SIGTERM may not wait for a validation
                if late:
                    break
        except TrainingError as error:
            kept = f"; the last good checkpoint is {path}" if path.exists() else ""
            raise TrainingError(f"{error}{kept}") from None
        finally:
            keeper.close()
    return path


def finished_steps(config: TrainConfig, path: Path) -> int:
    """Steps that a run of this stage has taken.

    Raises:
        CheckpointError: the checkpoint is damaged or of another stage.
    """
    state = read_checkpoint(path)
    check_stage(config, state, path)
    return int(state["step"])


class _Keeper:
    """Writes checkpoints, log and scalars of the leading process."""

    def __init__(self, run: Run, output: Path) -> None:
        self._run, self._output = run, output
        self._recent: list[Mapping[str, Tensor]] = []
        self._clock, self._first = time.monotonic(), run.samples
        self._scalars = Scalars(output, run.step) if run.processes.leads else None

    def note(self, values: Mapping[str, Tensor]) -> None:
        """Remember a step's values until the next validation."""
        self._recent.append(values)
        if self._scalars is not None and self._run.step % SCALARS_EVERY == 0:
            self._scalars.write("train", _floats(values), self._run.step)

    def keep(self, report: Mapping[str, float]) -> None:
        """Write a validation and a checkpoint, which is also the best one if it is.

        Raises:
            TrainingError: one of them cannot be written.
        """
        run, leads = self._run, self._run.processes.leads
        span = time.monotonic() - self._clock
        speed = (run.samples - self._first) / span
        self._clock, self._first = time.monotonic(), run.samples
        mean = _mean([_floats(values) for values in self._recent])
        self._recent.clear()
        figure = report.get("clips_iou", report["iou"])
        better = figure > run.best
        run.best = max(run.best, figure)
        if leads:
            row: dict[str, float] = {"step": run.step, "samples_per_second": round(speed, 1)}
            row |= {f"train_{name}": round(value, 5) for name, value in mean.items()}
            row |= {f"validation_{name}": round(value, 5) for name, value in report.items()}
            try:
                write_row(self._output, row)
            except OSError as error:
                raise TrainingError(f"cannot write the log ({error})") from None
        run.save(self._output / LAST)
        if leads and better:
            copy_checkpoint(self._output / LAST, self._output / BEST)
        if self._scalars is not None:
            self._scalars.write("validation", report, run.step)
            self._scalars.write("speed", {"samples_per_second": speed}, run.step)
        if leads:
            log.info(
                "step %d  %.0f samples/s  loss %.3f  iou %.3f | validation %s",
                run.step, speed, mean["loss"], mean["iou"],
                "  ".join(f"{name} {report[name]:.3f}" for name in _SHOWN if name in report),
            )  # fmt: skip

    def close(self) -> None:
        """Close the scalars."""
        if self._scalars is not None:
            self._scalars.close()


_SHOWN = ("iou", "clips_iou", "score_present", "score_absent")


def _floats(values: Mapping[str, Tensor]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
