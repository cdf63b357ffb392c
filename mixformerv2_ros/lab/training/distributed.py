"""Distributed data-parallel training under `torchrun`; a context of one process without it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist

from mixformerv2_ros.errors import MixFormerError, ParameterError, TrainingError
from mixformerv2_ros.shared_work import launcher_number


class PeerError(TrainingError):
    """Another process failed, and reports the reason."""


@dataclass(frozen=True)
class DistributedContext:
    """Device, rank and world size of this process, and collectives over all processes.

    Attributes:
        device: Device of this process.
        rank: Global rank.
        world_size: Number of processes.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, the process that writes files and logs."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true in any process."""
        if self.world_size == 1:
            return flag
        flags = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(flags, dist.ReduceOp.MAX)
        return bool(flags.item())

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """Mean over the processes."""
        if self.world_size == 1:
            return value
        total = value.clone()
        dist.all_reduce(total)
        return total / self.world_size

    def all_gather(self, value: Any) -> list[Any]:
        """Values of all processes, in order of rank."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    @contextmanager
    def failing_together(self) -> Iterator[None]:
        """Let every process fail if the body raises an error of bad input in one of them.

        The others would wait for it for ever. The first process that fails raises its own error,
        the others `PeerError`. The body must not wait for other processes.
        """
        failure: MixFormerError | None = None
        try:
            yield
        except MixFormerError as error:
            failure = error
        if self.world_size == 1:
            if failure is not None:
                raise failure
            return
        first = torch.tensor(self.world_size if failure is None else self.rank, device=self.device)
        dist.all_reduce(first, dist.ReduceOp.MIN)
        if failure is not None and self.rank == first:
            raise failure
        if first < self.world_size:
            raise PeerError(f"process {int(first)} failed and reports why")

    def barrier(self) -> None:
        """Block until every process has reached this point."""
        if self.world_size > 1:
            dist.barrier()


@contextmanager
def distributed_context(device: str) -> Iterator[DistributedContext]:
    """Initialise the process group that `torchrun` describes; a single process without it.

    Args:
        device: `auto`, `cpu`, `cuda` or `cuda:N`; under `torchrun` each process takes the
            GPU of its local rank.

    Raises:
        ParameterError: the device does not exist, or a variable of `torchrun` is no number.
    """
    world_size = launcher_number("WORLD_SIZE", 1)
    local = launcher_number("LOCAL_RANK", 0)
    chosen = choose_device(device, local if world_size > 1 else None)
    if world_size == 1:
        yield DistributedContext(chosen)
        return
    if dist.is_initialized():  # a recipe initialises the group once for all of its stages
        yield DistributedContext(chosen, dist.get_rank(), world_size)
        return
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield DistributedContext(chosen, dist.get_rank(), world_size)
    finally:
        dist.destroy_process_group()


def choose_device(name: str, local_rank: int | None = None) -> torch.device:
    """The device that `name` stands for; under `torchrun` the GPU of the local rank.

    Raises:
        ParameterError: the name is unknown, or the GPU does not exist.
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
        raise ParameterError(f"{device} is not available: {gpus} GPUs found")
    torch.cuda.set_device(device)
    return device
