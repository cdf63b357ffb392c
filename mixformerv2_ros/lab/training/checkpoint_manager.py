"""What a training run writes: checkpoints, a CSV log and TensorBoard scalars."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from mixformerv2_ros.files import copy_file
from mixformerv2_ros.lab.training.checkpoint_files import BEST, LAST
from mixformerv2_ros.lab.training.logs import Scalars, write_row
from mixformerv2_ros.lab.training.training_run import TrainingRun

log = logging.getLogger(__name__)

SCALARS_EVERY = 10
"""Steps between two points of TensorBoard's training curves."""


class CheckpointManager:
    """Writes checkpoints, CSV log and TensorBoard scalars of a run (on rank 0)."""

    def __init__(self, run: TrainingRun, output: Path) -> None:
        self._run, self._output = run, output
        self._recent: list[Mapping[str, Tensor]] = []
        self._clock, self._first = time.monotonic(), run.samples
        self._scalars = Scalars(output, run.step) if run.context.is_main else None

    def record(self, values: Mapping[str, Tensor]) -> None:
        """Collect the values of one step for the mean until the next validation.

        Every process must call it: what is logged are means over the processes.
        """
        self._recent.append(values)
        if self._run.step % SCALARS_EVERY == 0:
            means = self._over_processes(_floats(values))
            if self._scalars is not None:
                self._scalars.write("train", means, self._run.step)

    def save(self, report: Mapping[str, float]) -> None:
        """Log a validation and write `last`; copy it to `best` if validation has improved.

        Raises:
            TrainingError: the checkpoint cannot be written.
            SourceError: the log or the copy cannot be written.
        """
        run, is_main = self._run, self._run.context.is_main
        span = time.monotonic() - self._clock
        speed = (run.samples - self._first) / span
        self._clock, self._first = time.monotonic(), run.samples
        mean = self._over_processes(_mean([_floats(values) for values in self._recent]))
        self._recent.clear()
        figure = report.get("clips_iou", report["iou"])
        better = figure > run.best
        run.best = max(run.best, figure)
        if is_main:
            row: dict[str, float] = {"step": run.step, "samples_per_second": round(speed, 1)}
            row |= {f"train_{name}": round(value, 5) for name, value in mean.items()}
            row |= {f"validation_{name}": round(value, 5) for name, value in report.items()}
            write_row(self._output, row)
        run.save(self._output / LAST)
        if is_main and better:
            copy_file(self._output / LAST, self._output / BEST)
        if self._scalars is not None:
            self._scalars.write("validation", report, run.step)
            self._scalars.write("speed", {"samples_per_second": speed}, run.step)
        if is_main:
            log.info(
                "step %d  %.0f samples/s  loss %.3f  iou %.3f | validation %s",
                run.step, speed, mean["loss"], mean["iou"],
                "  ".join(f"{name} {report[name]:.3f}" for name in _SHOWN if name in report),
            )  # fmt: skip

    def _over_processes(self, values: Mapping[str, float]) -> dict[str, float]:
        context = self._run.context
        means = context.mean(torch.tensor(list(values.values()), device=context.device))
        return dict(zip(values, means.tolist(), strict=True))

    def close(self) -> None:
        """Close the scalars."""
        if self._scalars is not None:
            self._scalars.close()


_SHOWN = ("iou", "clips_iou", "score_present", "score_absent")


def _floats(values: Mapping[str, Tensor]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
