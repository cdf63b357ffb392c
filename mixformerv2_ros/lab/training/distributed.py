"""One training in several processes: who they are, and what they ask each other.

`torchrun` starts the processes and tells each its place in environment variables; without it there
is one process, and nothing here costs anything.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist

from mixformerv2_ros.errors import ParameterError


@dataclass(frozen=True)
class Processes:
    """The processes of one training, seen from one of them.

    Attributes:
        device: Where this process computes.
        rank: Its number, from 0.
        count: How many there are.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    rank: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true in any process."""
        if self.count == 1:
            return flag
        flags = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(flags, dist.ReduceOp.MAX)
        return bool(flags.item())

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """Mean over the processes."""
        if self.count == 1:
            return value
        total = value.clone()
        dist.all_reduce(total)
        return total / self.count

    def gather(self, thing: Any) -> list[Any]:
        """What every process holds, in order of rank."""
        if self.count == 1:
            return [thing]
        things: list[Any] = [None] * self.count
        dist.all_gather_object(things, thing)
        return things

    def wait(self) -> None:
        """Return once every process has come here."""
        if self.count > 1:
            dist.barrier()


@contextmanager
def join_processes(device: str) -> Iterator[Processes]:
    """Join the processes that `torchrun` started; alone without it.

    Args:
        device: `auto`, `cpu`, `cuda` or `cuda:N`; with several processes each takes its own GPU.

    Raises:
        ParameterError: there is no such device.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    chosen = choose_device(device, local if count > 1 else None)
    if count == 1:
        yield Processes(chosen)
        return
    if dist.is_initialized():  # a recipe has joined them for all of its stages
        yield Processes(chosen, dist.get_rank(), count)
        return
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Processes(chosen, dist.get_rank(), count)
    finally:
        dist.destroy_process_group()


def choose_device(name: str, local_rank: int | None = None) -> torch.device:
    """The device that `name` stands for; a process of several takes the GPU of its number.

    Raises:
        ParameterError: the name means nothing, or there is no such GPU.
    """
    gpus = torch.cuda.device_count()
    if name == "auto":
        name = "cuda" if gpus else "cpu"
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and not (kind == "cuda" and number.isdigit())):
        raise ParameterError(f"device must be auto, cpu, cuda or cuda:N, got {name!r}")
    if kind == "cpu":
        return torch.device("cpu")
    if local_rank is not None:
        number = str(local_rank)
    device = torch.device(f"cuda:{number or 0}")
    if (device.index or 0) >= gpus:
        raise ParameterError(f"device {device} needs that many GPUs, found {gpus}")
    torch.cuda.set_device(device)
    return device
