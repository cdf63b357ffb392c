"""State of a training run, as checkpoints hold it, and its optimisation step."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mixformerv2_ros.errors import CheckpointError, TrainingError
from mixformerv2_ros.lab.training import pruning
from mixformerv2_ros.lab.training.checkpoint_files import (
    read_checkpoint,
    stage_of,
    write_checkpoint,
)
from mixformerv2_ros.lab.training.config import TrainConfig
from mixformerv2_ros.lab.training.config_files import changed_settings
from mixformerv2_ros.lab.training.criterion import total_loss
from mixformerv2_ros.lab.training.distributed import DistributedContext
from mixformerv2_ros.lab.training.initialization import (
    DrawBatch,
    build_training_model,
    load_stage_teacher,
    load_tracker_teacher,
)
from mixformerv2_ros.lab.training.optimizers import (
    build_optimizers,
    learning_rate_factor,
    run_length,
)
from mixformerv2_ros.lab.training.stages import PRECISIONS, check_settings
from mixformerv2_ros.lab.training.training_model import Batch, ModelOutput, TrainingModel

_MAX_SKIPPED = 20
"""Consecutive steps that may be skipped while the gradient scaler searches its scale."""


def no_samples(_: int) -> Batch:
    """Draws for stages that need no samples when they begin."""
    raise TrainingError("stage mlp-reduction needs calibration samples, got none")


class TrainingRun:
    """One run of one stage.

    Attributes:
        config: The stage.
        step: Number of steps taken.
        samples: Number of samples seen by all processes.
        best: Best validation result so far.
        changed: Settings that differ from those of the restored checkpoint, as `NAME OLD -> NEW`.
        model: The model in training.
        ema_model: Exponential moving average of `model`, in evaluation mode.
    """

    def __init__(
        self,
        config: TrainConfig,
        context: DistributedContext | None = None,
        draw: DrawBatch = no_samples,
    ) -> None:
        """Build model, teacher and optimisers in their initial state.

        Args:
            config: The stage.
            context: Process group.
            draw: Draws samples of the stage's data; used by stage `mlp-reduction` only.

        Raises:
            ParameterError: settings contradict each other.
            CheckpointError: `init_from` or the teacher cannot be read or does not fit.
        """
        check_settings(config)
        self.config = config
        self.context = context or DistributedContext()
        self.length = run_length(config, self.context.world_size)
        self.step = 0
        self.samples = 0
        self.best = -math.inf
        self.changed: list[str] = []
        device = self.context.device
        self.model = build_training_model(config, draw).to(device)
        self.teacher = load_stage_teacher(config)
        if self.teacher is not None:
            self.teacher.network.to(device)
        self.tracker_teacher = load_tracker_teacher(config)
        if self.tracker_teacher is not None:
            self.tracker_teacher.to(device)
        self.ema_model = copy.deepcopy(self.model).requires_grad_(False).eval()
        self.optimizers = build_optimizers(self.model, config)
        dtype = PRECISIONS[config.runtime.precision]
        for part in (self.model, self.ema_model, self.teacher, self.tracker_teacher):
            if part is not None:
                part.dtype = dtype
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)
        self._skipped = 0
        # Stochastic depth must not be the same in every process.
        if self.context.rank:
            torch.manual_seed(config.seed + self.context.rank)
        self._forward: nn.Module = self.model
        if self.context.world_size > 1:
            self._forward = DistributedDataParallel(self.model)
        set_training_mode(self.model)
        self._update_gamma()

    @property
    def finished(self) -> bool:
        """Whether all steps have been taken."""
        return self.step >= self.length.steps

    def advance(self, batch: Batch) -> dict[str, Tensor]:
        """Take one optimisation step; return detached loss terms, `iou`, `loss` and `norm`.

        Raises:
            TrainingError: loss or gradient is not finite; the weights are unchanged.
        """
        self.begin_step()
        values = self.compute_gradients(batch)
        values["norm"] = self.apply_gradients(values["loss"])
        return values

    def begin_step(self) -> None:
        """Set learning rates, and gamma of layers that are being pruned, for the next step."""
        self._update_gamma()
        factor = learning_rate_factor(self.step, self.config, self.length)
        for scheduled in self.optimizers:
            scheduled.scale_learning_rates(factor)

    def compute_gradients(self, batch: Batch) -> dict[str, Tensor]:
        """Forward pass of model and teacher, and backward pass."""
        targets = self.teacher(batch) if self.teacher is not None else None
        lesson = None
        if self.tracker_teacher is not None:
            lesson = self.tracker_teacher(batch.templates, batch.search)
        output: ModelOutput = self._forward(batch, bool(targets and targets.pairs))
        loss, values = total_loss(
            output,
            batch,
            self.config.loss,
            targets,
            self._share(batch),
            lesson,
        )
        for scheduled in self.optimizers:
            scheduled.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        return values

    def apply_gradients(self, loss: Tensor) -> Tensor:
        """Clip gradients, step, update the moving average; return the norm before clipping.

        Raises:
            TrainingError: loss or gradient is not finite; the weights are unchanged.
        """
        for scheduled in self.optimizers:
            self.scaler.unscale_(scheduled.optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optimizer.clip_norm)
        self._check_finite(loss, norm)
        for scheduled in self.optimizers:
            self.scaler.step(scheduled.optimizer)
        self.scaler.update()
        self.step += 1
        self.samples += self.config.data.batch_size * self.context.world_size
        decay = min(self.config.optimizer.ema_decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.ema_model.parameters()), list(self.model.parameters()), 1 - decay
            )
            for mean, now in zip(self.ema_model.buffers(), self.model.buffers(), strict=True):
                mean.copy_(now)
        return norm

    def _share(self, batch: Batch) -> Tensor | None:
        if self.context.world_size == 1:
            return None
        count = (batch.present > 0.5).sum().float()
        return count / self.context.mean(count).clamp(min=1e-6)

    def _check_finite(self, loss: Tensor, norm: Tensor) -> None:
        """Raise before a step that would make the weights invalid.

        In half precision, gradients may overflow while the scaler searches its scale; it skips such
        a step.
        """
        bad = not bool(torch.isfinite(norm))
        if self.scaler.is_enabled() and bool(torch.isfinite(loss)):
            self._skipped = self._skipped + 1 if bad else 0
            bad = self._skipped > _MAX_SKIPPED
        else:
            bad = bad or not bool(torch.isfinite(loss))
        if self.context.any(bad):
            raise TrainingError(
                f"training diverged at step {self.step + 1}: loss is {float(loss):g}, "
                f"gradient norm {float(norm):g}"
            )

    def _update_gamma(self) -> None:
        """Set the gamma of layers that are being pruned to that of the next step's epoch."""
        settings = self.config.pruning
        if not settings.layers:
            return
        epoch = 1 + min(self.step, self.length.steps - 1) // self.length.epoch
        gamma = pruning.gamma(epoch, settings.epochs)
        for model in (self.model, self.ema_model):
            assert isinstance(model, TrainingModel)
            pruning.set_gamma(model.network, settings.layers, gamma)

    def save(self, path: Path) -> None:
        """Write a checkpoint atomically; every process must call it.

        Its `net` holds the moving average of the network, without an untrained score head.

        Raises:
            TrainingError: it cannot be written.
        """
        generators = self.context.all_gather(_generator_states(self.context.device))
        if not self.context.is_main:
            return
        net = self.ema_model.network.state_dict()
        if not self.config.loss.score:
            net = {name: value for name, value in net.items() if not name.startswith("score_head.")}
        state = {
            "net": net,
            "net_type": "MixFormer",
            "spec": dataclasses.asdict(self.ema_model.network.spec),
            "config": dataclasses.asdict(self.config),
            "step": self.step,
            "samples": self.samples,
            "best": self.best,
            "model": self.model.state_dict(),
            "averaged": self.ema_model.state_dict(),
            "optimizers": [scheduled.optimizer.state_dict() for scheduled in self.optimizers],
            "scaler": self.scaler.state_dict(),
            "rng": generators,
        }
        write_checkpoint(state, path)

    def restore(self, path: Path) -> None:
        """Resume from a checkpoint of the same stage, bit for bit.

        With another number of processes, samples continue where they stopped, but the random state
        of stochastic depth is new.

        Raises:
            CheckpointError: the file is damaged, or of another stage or architecture.
        """
        state = read_checkpoint(path)
        check_stage(self.config, state, path)
        spec = dataclasses.asdict(self.model.network.spec)
        differences = [
            f"{name} {value}, got {state['spec'].get(name, ())}"
            for name, value in spec.items()
            # The first checkpoints know of no exits.
            if state["spec"].get(name, ()) != value
        ]
        if differences:
            raise CheckpointError(f"{path}: expected architecture {'; '.join(differences)}")
        groups = [len(scheduled.base_rates) for scheduled in self.optimizers]
        saved = [len(one["param_groups"]) for one in state["optimizers"]]
        if groups != saved:
            raise CheckpointError(
                f"{path}: expected optimisers with {groups} groups of parameters, got {saved}; "
                "settings have changed, choose another output"
            )
        names = self.model.state_dict().keys()
        if names != state["model"].keys():
            other = sorted(names ^ state["model"].keys())
            raise CheckpointError(
                f"{path}: it and the settings differ in {', '.join(other)}; settings have changed, "
                "choose another output"
            )
        self.model.load_state_dict(state["model"])
        self.ema_model.load_state_dict(state["averaged"])
        for scheduled, one in zip(self.optimizers, state["optimizers"], strict=True):
            scheduled.optimizer.load_state_dict(one)
        if state.get("scaler"):
            self.scaler.load_state_dict(state["scaler"])
        self.changed = changed_settings(state["config"], self.config)
        self.step = state["step"]
        self.samples = state.get("samples", self.step * self.config.data.batch_size)
        self.best = state.get("best", -math.inf)
        _restore_generators(state["rng"], self.context)
        self._update_gamma()


def check_stage(config: TrainConfig, state: Mapping[str, Any], path: Path) -> None:
    """Check that a checkpoint is of this stage.

    Raises:
        CheckpointError: it is of another one.
    """
    stage = stage_of(state)
    if stage != config.stage:
        raise CheckpointError(
            f"{path}: expected a run of stage {config.stage}, got one of stage {stage}; "
            "choose another output"
        )


def set_training_mode(model: nn.Module) -> None:
    """Put trainable modules in training mode and frozen ones in eval mode.

    Stochastic depth in frozen blocks would perturb the input of the trainable ones.
    """
    for module in model.modules():
        parameters = list(module.parameters())
        module.training = not parameters or any(p.requires_grad for p in parameters)


def _generator_states(device: torch.device) -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _restore_generators(
    saved: Tensor | list[Mapping[str, Any]], context: DistributedContext
) -> None:
    if isinstance(saved, Tensor):  # of the first checkpoints
        saved = [{"cpu": saved}]
    if len(saved) != context.world_size:
        return
    states = saved[context.rank]
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and context.device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], context.device)
