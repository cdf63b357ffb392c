"""The machine and the versions that a figure was measured with."""

from __future__ import annotations

import os
import platform
import resource
import threading
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from mixformerv2_ros import __version__


def environment() -> dict[str, Any]:
    """Versions and machine that a figure depends on; for JSON files and the heads of reports."""
    packages = ("numpy", "onnxruntime", "openvino", "torch")
    return {
        "versions": {
            "mixformerv2_ros": __version__,
            "python": platform.python_version(),
            "opencv": _opencv_version(),
            **{name: package_version(name) for name in packages},
        },
        "machine": {
            "system": platform.platform(),
            "processor": processor(),
            "cores": os.cpu_count(),
        },
    }


def processor() -> str:
    """Name of the processor as Linux gives it, else as Python does."""
    path = Path("/proc/cpuinfo")
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def processor_features() -> frozenset[str]:
    """Instruction sets of the processor in Linux's words, such as `avx512_bf16`; else none."""
    path = Path("/proc/cpuinfo")
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith(("flags", "Features")):
                return frozenset(line.partition(":")[2].split())
    return frozenset()


def show_thread_name() -> None:
    """Tell Linux the name of the current thread, for `top -H`; Python does so from 3.14 on."""
    thread = threading.current_thread()
    with suppress(OSError):
        Path(f"/proc/self/task/{thread.native_id}/comm").write_text(thread.name[:15], "utf-8")


def peak_megabytes() -> float:
    """Largest resident memory of this process so far, in MB (10^6 bytes).

    Not `ru_maxrss` where it can be avoided: on Linux that includes what the process was before it
    became this program, such as a copy of the parent.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def processor_joules() -> float | None:
    """Energy that the processors have used since some moment, in J; None where it is not told.

    Linux tells it by RAPL, of whole sockets with all that runs on them, mostly to root alone. The
    counters start anew at some value, so differences may be negative.
    """
    total, found = 0.0, False
    for counter in Path("/sys/class/powercap").glob("*-rapl:[0-9]*/energy_uj"):
        if counter.parent.name.count(":") == 1:
            try:
                total += int(counter.read_text(encoding="ascii")) / 1e6
                found = True
            except (OSError, ValueError):
                continue
    return total if found else None


def package_version(name: str) -> str | None:
    """Version of an installed package; None where it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _opencv_version() -> str:
    # Debian's package and the four wheels have different distribution names.
    import cv2

    return str(cv2.__version__)
