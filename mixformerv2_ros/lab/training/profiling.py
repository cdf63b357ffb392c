"""Profile of a training step."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass

import torch

from mixformerv2_ros.errors import ParameterError
from mixformerv2_ros.lab.training.config import TrainConfig
from mixformerv2_ros.lab.training.data_loaders import (
    calibration_batch,
    load_batches,
    load_datasets,
    worker_deaths_named,
)
from mixformerv2_ros.lab.training.distributed import distributed_context
from mixformerv2_ros.lab.training.training_run import TrainingRun

WARM_UP = 3
"""Steps before the measurement, while buffers, threads and data loader workers start."""


@dataclass(frozen=True)
class StepTimes:
    """Mean seconds per step.

    Attributes:
        network: Forward and backward of network and teacher, and the losses.
        update: Gradient clipping, optimiser, moving average, checks.
        waiting: Waiting for the data loader.
        batch: Samples per step.
    """

    network: float
    update: float
    waiting: float
    batch: int

    @property
    def overhead(self) -> float:
        """Time of update and waiting, over that of forward and backward."""
        return (self.update + self.waiting) / self.network

    def lines(self) -> list[str]:
        """The profile as lines of text."""
        whole = self.network + self.update + self.waiting
        return [
            f"forward and backward  {1000 * self.network:8.1f} ms",
            f"update                {1000 * self.update:8.1f} ms",
            f"waiting for data      {1000 * self.waiting:8.1f} ms",
            f"step                  {1000 * whole:8.1f} ms, {self.batch / whole:.0f} samples/s",
            f"overhead              {100 * self.overhead:8.1f} % of forward and backward",
        ]


def profile_training(config: TrainConfig, steps: int) -> StepTimes:
    """Measure `steps` training steps; writes no file.

    Raises:
        MixFormerError: as `train`.
    """
    if config.runtime.threads:
        torch.set_num_threads(config.runtime.threads)
    with distributed_context(config.runtime.device) as context:
        source, _ = load_datasets(config)
        run = TrainingRun(config, context, lambda count: calibration_batch(source, count))
        if run.length.steps < WARM_UP + steps:
            raise ParameterError(
                f"--profile-steps must be at most {run.length.steps - WARM_UP} (schedule.steps "
                f"minus {WARM_UP} steps of warm-up), got {steps}"
            )
        network = update = waiting = 0.0
        stream = load_batches(source, config, 0, WARM_UP + steps, context)
        clock = _Stopwatch(context.device)
        with worker_deaths_named(), closing(stream):
            for number in range(WARM_UP + steps):
                batch = next(stream)
                waited = clock.lap()
                run.begin_step()
                values = run.compute_gradients(batch)
                computed = clock.lap()
                run.apply_gradients(values["loss"])
                updated = clock.lap()
                if number >= WARM_UP:
                    network, update = network + computed, update + updated
                    waiting += waited
    return StepTimes(network / steps, update / steps, waiting / steps, config.data.batch_size)


class _Stopwatch:
    """Time between laps, with the device synchronised."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._last = time.perf_counter()

    def lap(self) -> float:
        """Seconds since the last lap."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        span, self._last = now - self._last, now
        return span
