"""What can be asked of an engine, and what this machine has for it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from mixformerv2_ros.errors import EngineError

ENGINES = ("auto", "onnxruntime", "openvino", "torch")

DEVICES = ("cpu", "cuda", "cuda:N", "gpu", "gpu:N", "npu")
"""Devices; N is the number of a GPU. `gpu` and `npu` are Intel's, by OpenVINO."""

PRECISIONS = ("auto", "fp32", "fp16", "bf16", "int8")
"""Number formats of a network run; `auto`: the bundle's where the device has it, else fp32."""

MAX_THREADS = 256
"""Most threads of one network run; far more would exhaust the machine before the first image."""


class UnavailableError(EngineError):
    """The machine lacks what an engine needs; another engine may run the bundle."""


@dataclass(frozen=True)
class EngineOptions:
    """How to run a bundle.

    Attributes:
        device: One of `DEVICES`.
        num_threads: Threads of one network run on a CPU; 0: all physical cores but one.
        precision: One of `PRECISIONS`.
        spinning: Threads wait actively between the operators of one run (ONNX Runtime).

    Raises:
        EngineError: the device or the precision is none, or the threads are out of range.
    """

    device: str = "cpu"
    num_threads: int = 0
    precision: str = "auto"
    spinning: bool = True

    def __post_init__(self) -> None:
        check_device(self.device)
        if not 0 <= self.num_threads <= MAX_THREADS:
            raise EngineError(f"threads must be 0 to {MAX_THREADS}, got {self.num_threads}")
        if self.precision not in PRECISIONS:
            raise EngineError(
                f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}"
            )

    @property
    def threads(self) -> int:
        """The number of threads, never 0."""
        return self.num_threads or default_threads()


def check_device(name: str) -> str:
    """Return `name` if it is a device.

    Raises:
        EngineError: it is not one of `DEVICES`.
    """
    kind, colon, number = name.partition(":")
    if kind not in DEVICES or (colon and not (f"{kind}:N" in DEVICES and number.isdecimal())):
        raise EngineError(f"device must be one of {', '.join(DEVICES)}, got {name!r}")
    return name


def default_threads() -> int:
    """All physical cores that this process may use but one, which is left to the robot."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    cores = set()
    for number in allowed if allowed is not None else range(os.cpu_count() or 1):
        siblings = Path(f"/sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list")
        try:
            cores.add(siblings.read_text(encoding="ascii").strip())
        except OSError:
            cores.add(str(number))
    return max(1, len(cores) - 1)


def cache_folder(library: str) -> Path:
    """Where a library keeps compiled graphs: `mixformerv2_ros/LIBRARY` in the user's caches."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "mixformerv2_ros" / library
