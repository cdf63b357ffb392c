"""Launch files as processes."""

from __future__ import annotations

import shutil
import signal
import subprocess
import threading
from typing import Any

ROS2 = shutil.which("ros2")


class Launch:
    """`ros2 launch mixformerv2_ros FILE ...` as a process, ended with Ctrl-C.

    Attributes:
        lines: What it and its processes have written so far.
    """

    def __init__(self, file: str, **arguments: Any) -> None:
        words = [f"{name}:={value}" for name, value in arguments.items()]
        self.process = subprocess.Popen(
            [str(ROS2), "launch", "mixformerv2_ros", f"{file}.launch.py", *words],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        self.lines: list[str] = []
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def __enter__(self) -> Launch:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=60)
        self._thread.join(timeout=60)

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
