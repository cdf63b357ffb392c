"""Optimisers and learning-rate schedule of a training run."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from mixformerv2_ros.errors import ParameterError
from mixformerv2_ros.lab.training.config import TrainConfig


@dataclass(frozen=True)
class ScheduledOptimizer:
    """An optimiser and the base learning rates of its parameter groups."""

    optimizer: torch.optim.Optimizer
    base_rates: tuple[float, ...]

    def scale_learning_rates(self, factor: float) -> None:
        """Set the learning rate of every group to `factor` times its base rate."""
        for group, rate in zip(self.optimizer.param_groups, self.base_rates, strict=True):
            group["lr"] = rate * factor


@dataclass(frozen=True)
class RunLength:
    """Length of a training run.

    Attributes:
        steps: Total number of optimisation steps.
        epoch: Steps per epoch.
        validate_every: Steps between validations.
    """

    steps: int
    epoch: int
    validate_every: int


def run_length(config: TrainConfig, world_size: int = 1) -> RunLength:
    """Convert epochs to steps; an incomplete last batch of an epoch is dropped, as published."""
    epoch = max(1, config.schedule.epoch_samples // (config.data.batch_size * world_size))
    return RunLength(
        steps=config.schedule.epochs * epoch or config.schedule.steps,
        epoch=epoch,
        validate_every=config.validation.every_epochs * epoch or config.validation.every,
    )


def learning_rate_factor(step: int, config: TrainConfig, length: RunLength) -> float:
    """Linear warm-up, then constant with step decay, then linear cool-down to zero."""
    if step < config.schedule.warmup:
        return (step + 1) / config.schedule.warmup
    drops = step // length.epoch // config.schedule.drop_epoch if config.schedule.drop_epoch else 0
    tail = config.schedule.cooldown * length.steps
    end = min(1.0, (length.steps - step) / tail) if tail > 0 else 1.0
    return float(end * 0.1**drops)


def build_optimizers(model: nn.Module, config: TrainConfig) -> list[ScheduledOptimizer]:
    """Build the optimisers of a model's trainable parameters; see `TrainConfig.groups`.

    Raises:
        ParameterError: this torch has no Muon.
    """
    if config.optimizer.param_groups == "name":
        return [_published_adamw(model, config)]
    matrices: list[nn.Parameter] = []
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if config.optimizer.matrix_learning_rate > 0 and ".blocks." in name and parameter.ndim == 2:
            matrices.append(parameter)
        elif parameter.ndim >= 2 and "reg" not in name:
            decayed.append(parameter)
        else:
            plain.append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.optimizer.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    rate = config.optimizer.learning_rate
    scheduled = [
        ScheduledOptimizer(torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98)), (rate, rate))
    ]
    if matrices:
        if not hasattr(torch.optim, "Muon"):
            raise ParameterError(
                "optimizer.matrix_learning_rate needs torch.optim.Muon (torch 2.9), got torch "
                f"{torch.__version__}"
            )
        rate = config.optimizer.matrix_learning_rate
        muon = torch.optim.Muon(matrices, lr=rate, weight_decay=config.optimizer.weight_decay)
        scheduled.append(ScheduledOptimizer(muon, (rate,)))
    return scheduled


def _published_adamw(model: nn.Module, config: TrainConfig) -> ScheduledOptimizer:
    """AdamW as released: a lower rate for the backbone, weight decay on norms and biases too.

    The prediction tokens lie in the backbone, so they get the low rate (SPEC 4.4).
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    rates = {True: config.optimizer.backbone_learning_rate, False: config.optimizer.learning_rate}
    groups = {
        inside: [p for name, p in named if ("backbone" in name) == inside] for inside in rates
    }
    present = [inside for inside in rates if groups[inside]]
    optimizer = torch.optim.AdamW(
        [{"params": groups[inside]} for inside in present],
        weight_decay=config.optimizer.weight_decay,
    )
    return ScheduledOptimizer(optimizer, tuple(rates[inside] for inside in present))
