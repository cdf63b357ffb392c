"""The state of one run: everything that a checkpoint holds, and the step that changes it."""

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
)
from mixformerv2_ros.lab.training.optimizers import (
    build_optimizers,
    learning_rate_factor,
    run_length,
)
from mixformerv2_ros.lab.training.stages import PRECISIONS, check_settings
from mixformerv2_ros.lab.training.training_model import Batch, ModelOutput, TrainingModel

_MOST_SKIPPED = 20
"""Steps in a row whose half precision gradients may overflow while their scale is being found."""


def _no_samples(_: int) -> Batch:
    raise TrainingError("stage mlp-reduction needs calibration samples, got none")


class TrainingRun:
    """One run of one stage.

    Attributes:
        config: The stage.
        step: Steps taken.
        samples: Samples seen by all processes: where the stream goes on.
        best: Best validation figure so far.
        changed: Settings that the restored checkpoint had otherwise.
        model: What is trained.
        ema_model: Exponential moving average of `model`, in evaluation mode.
    """

    def __init__(
        self,
        config: TrainConfig,
        context: DistributedContext | None = None,
        draw: DrawBatch = _no_samples,
    ) -> None:
        """Build network, teacher and optimisers as they are before the first step.

        Args:
            config: The stage.
            context: Those that train together.
            draw: Gives samples of the stage's data; only stage `mlp-reduction` asks.

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
        self.ema_model = copy.deepcopy(self.model).requires_grad_(False).eval()
        self.optimizers = build_optimizers(self.model, config)
        dtype = PRECISIONS[config.runtime.precision]
        for part in (self.model, self.ema_model, self.teacher):
            if part is not None:
                part.dtype = dtype
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)
        self._skipped = 0
        # Stochastic depth must not skip the same samples' branches in every process.
        if self.context.rank:
            torch.manual_seed(config.seed + self.context.rank)
        self._forward: nn.Module = self.model
        if self.context.world_size > 1:
            self._forward = DistributedDataParallel(self.model)
        set_training_mode(self.model)
        self._fade()

    @property
    def finished(self) -> bool:
        """Whether all steps have been taken."""
        return self.step >= self.length.steps

    def advance(self, batch: Batch) -> dict[str, Tensor]:
        """Take one optimisation step; return detached loss terms, `iou`, `loss` and `norm`.

        Raises:
            TrainingError: loss or gradient is not finite; weights are as they were.
        """
        self.begin_step()
        values = self.compute_gradients(batch)
        values["norm"] = self.apply_gradients(values["loss"])
        return values

    def begin_step(self) -> None:
        """Set what depends on the step: learning rates, gain of layers that fade."""
        self._fade()
        factor = learning_rate_factor(self.step, self.config, self.length)
        for scheduled in self.optimizers:
            scheduled.scale_learning_rates(factor)

    def compute_gradients(self, batch: Batch) -> dict[str, Tensor]:
        """Run network and teacher on a batch, forward and backward."""
        targets = self.teacher(batch) if self.teacher is not None else None
        output: ModelOutput = self._forward(batch, bool(targets and targets.pairs))
        loss, values = total_loss(
            output,
            batch,
            self.config.loss,
            targets,
            self._share(batch),
        )
        for scheduled in self.optimizers:
            scheduled.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        return values

    def apply_gradients(self, loss: Tensor) -> Tensor:
        """Clip, step and average; return the norm of the gradient before it was clipped.

        Raises:
            TrainingError: loss or gradient is not finite; weights are as they were.
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
        """Stop before a step that would spoil the weights.

        Half precision may overflow while its scale is being found; the scaler skips such a step.
        """
        bad = not bool(torch.isfinite(norm))
        if self.scaler.is_enabled() and bool(torch.isfinite(loss)):
            self._skipped = self._skipped + 1 if bad else 0
            bad = self._skipped > _MOST_SKIPPED
        else:
            bad = bad or not bool(torch.isfinite(loss))
        if self.context.any(bad):
            raise TrainingError(
                f"training diverged at step {self.step + 1}: loss is {float(loss):g}, "
                f"gradient norm {float(norm):g}"
            )

    def _fade(self) -> None:
        """Set the gain of layers that are being removed, for the epoch of the coming step."""
        removal = self.config.pruning
        if not removal.layers:
            return
        epoch = 1 + min(self.step, self.length.steps - 1) // self.length.epoch
        gamma = pruning.gamma(epoch, removal.epochs)
        for model in (self.model, self.ema_model):
            assert isinstance(model, TrainingModel)
            pruning.set_gamma(model.network, removal.layers, gamma)

    def save(self, path: Path) -> None:
        """Write a checkpoint, whole or not at all; every process must call it.

        `net` holds the averaged network's weights, without a score head that was never trained.

        Raises:
            TrainingError: it cannot be written.
        """
        generators = self.context.all_gather(_generator_states(self.context.device))
        if not self.context.is_main:
            return
        net = self.ema_model.network.state_dict()
        if not self.config.loss.score:
            net = {name: value for name, value in net.items() if "score_head." not in name}
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
        """Continue from a checkpoint of the same stage, bit for bit.

        With another number of processes the samples go on where they stopped, but stochastic depth
        draws anew.

        Raises:
            CheckpointError: the file is damaged, or of another stage or architecture.
        """
        state = read_checkpoint(path)
        check_stage(self.config, state, path)
        spec = dataclasses.asdict(self.model.network.spec)
        if state["spec"] != spec:
            raise CheckpointError(f"{path}: expected architecture {spec}, got {state['spec']}")
        groups = [len(scheduled.base_rates) for scheduled in self.optimizers]
        saved = [len(one["param_groups"]) for one in state["optimizers"]]
        if groups != saved:
            raise CheckpointError(
                f"{path}: expected optimisers with {groups} groups of parameters, got {saved}; "
                "settings have changed, choose another output"
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
        self._fade()


def check_stage(config: TrainConfig, state: Mapping[str, Any], path: Path) -> None:
    """Refuse to continue what another stage has begun.

    Raises:
        CheckpointError: it is of another stage.
    """
    stage = stage_of(state)
    if stage != config.stage:
        raise CheckpointError(
            f"{path}: expected a run of stage {config.stage}, got one of stage {stage}; "
            "choose another output"
        )


def set_training_mode(model: nn.Module) -> None:
    """Put what learns in training mode and what is frozen in evaluation mode.

    A frozen block that dropped paths would perturb the very tokens that the rest learns from.
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
    if isinstance(saved, Tensor):  # from before there were several processes
        saved = [{"cpu": saved}]
    if len(saved) != context.world_size:
        return
    states = saved[context.rank]
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and context.device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], context.device)
