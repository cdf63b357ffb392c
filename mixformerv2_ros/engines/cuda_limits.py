"""What a CUDA device could do at best: products of matrices, measured with torch."""

from __future__ import annotations

import time

import torch

from mixformerv2_ros.engines.torch_engine import DTYPES
from mixformerv2_ros.engines.torch_loader import torch_precisions

SIDE = 8192
"""Rows and columns of the matrices: enough to be bound by arithmetic on large devices."""
REPETITIONS = 6


def cuda_matrix_rates(device: str) -> dict[str, float]:
    """10^9 multiply-adds per second by precision, as the device has it.

    Raises:
        UnavailableError: torch finds no such device.
    """
    rates = {}
    for precision in torch_precisions(device):
        # Not zeros: a device may be faster on them.
        left, right = (
            torch.randn(SIDE, SIDE, device=device, dtype=DTYPES[precision]) for _ in range(2)
        )
        times = []
        for _ in range(REPETITIONS):
            torch.cuda.synchronize(device)
            start = time.perf_counter()
            torch.mm(left, right)
            torch.cuda.synchronize(device)
            times.append(time.perf_counter() - start)
        rates[precision] = SIDE**3 / min(times) / 1e9
    return rates


def cuda_name(device: str) -> str:
    """Name of a CUDA device with the versions of torch and CUDA."""
    name = torch.cuda.get_device_name(device)
    return f"{name}, torch {torch.__version__}, CUDA {torch.version.cuda}"
