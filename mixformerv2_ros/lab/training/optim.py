"""Optimisers and their rates over the steps of a run."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from mixformerv2_ros.errors import ParameterError
from mixformerv2_ros.lab.training.config import TrainConfig


@dataclass(frozen=True)
class Rated:
    """An optimiser and the learning rates of its groups, before the schedule's factor."""

    optimizer: torch.optim.Optimizer
    rates: tuple[float, ...]

    def set_factor(self, factor: float) -> None:
        """Let the groups learn with `factor` times their rates."""
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor


@dataclass(frozen=True)
class Length:
    """A run in steps.

    Attributes:
        steps: All of them.
        epoch: Steps of one epoch.
        validate_every: Steps between validations.
    """

    steps: int
    epoch: int
    validate_every: int


def run_length(config: TrainConfig, processes: int = 1) -> Length:
    """Turn epochs into steps; what is left over of an epoch is dropped, as published."""
    epoch = max(1, config.epoch_samples // (config.batch * processes))
    return Length(
        steps=config.epochs * epoch or config.steps,
        epoch=epoch,
        validate_every=config.validate_epochs * epoch or config.validate_every,
    )


def learning_rate_factor(step: int, config: TrainConfig, length: Length) -> float:
    """Linear warm-up, then constant or falling in steps, then linear cool-down to zero."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    drops = step // length.epoch // config.drop_epoch if config.drop_epoch else 0
    tail = config.cooldown * length.steps
    end = min(1.0, (length.steps - step) / tail) if tail > 0 else 1.0
    return float(end * 0.1**drops)


def build_optimizers(model: nn.Module, config: TrainConfig) -> list[Rated]:
    """The optimisers of a model's trainable parameters; see `TrainConfig.groups`.

    Raises:
        ParameterError: this torch has no Muon.
    """
    if config.groups == "name":
        return [_published_adamw(model, config)]
    matrices: list[nn.Parameter] = []
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if config.matrix_learning_rate > 0 and ".blocks." in name and parameter.ndim == 2:
            matrices.append(parameter)
        elif parameter.ndim >= 2 and "reg" not in name:
            decayed.append(parameter)
        else:
            plain.append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    rate = config.learning_rate
    rated = [Rated(torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98)), (rate, rate))]
    if matrices:
        if not hasattr(torch.optim, "Muon"):
            raise ParameterError(
                f"matrix_learning_rate needs torch 2.9, which brings Muon, got {torch.__version__}"
            )
        rate = config.matrix_learning_rate
        muon = torch.optim.Muon(matrices, lr=rate, weight_decay=config.weight_decay)
        rated.append(Rated(muon, (rate,)))
    return rated


def _published_adamw(model: nn.Module, config: TrainConfig) -> Rated:
    """AdamW as released: a lower rate for the backbone, weight decay on norms and biases too.

    The prediction tokens lie in the backbone, so they get the low rate (SPEC 4.4).
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    rates = {True: config.backbone_learning_rate, False: config.learning_rate}
    groups = {
        inside: [p for name, p in named if ("backbone" in name) == inside] for inside in rates
    }
    present = [inside for inside in rates if groups[inside]]
    optimizer = torch.optim.AdamW(
        [{"params": groups[inside]} for inside in present], weight_decay=config.weight_decay
    )
    return Rated(optimizer, tuple(rates[inside] for inside in present))
