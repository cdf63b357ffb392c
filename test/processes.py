"""Commands and nodes as processes."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from waiting import wait_for

ROOT = Path(__file__).resolve().parents[1]
CLI = ("-m", "mixformerv2_ros.cli")


class Command:
    """A process of its own, `mixformerv2 ...` if nothing else is said; ended with SIGTERM."""

    def __init__(self, *words: object, program: Sequence[object] = CLI) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *map(str, program), *map(str, words)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []
        self.output: list[str] = []
        self._threads = [
            threading.Thread(target=self._read, args=pair)
            for pair in ((self.process.stderr, self.lines), (self.process.stdout, self.output))
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Command:
        return self

    def __exit__(self, *error: object) -> None:
        self.end()

    def end(self) -> int:
        """Ask the process to end and return its exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            code = self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        for thread in self._threads:
            thread.join()
        return code

    def wait_for_line(self, words: str) -> str:
        wait_for(
            lambda: any(words in line for line in self.lines) or self.process.poll() is not None,
            f"{words!r} in the log",
        )
        found = [line for line in self.lines if words in line]
        assert found, f"ended with {self.process.poll()}: {self.lines}"
        return found[0]

    @staticmethod
    def _read(stream: Any, lines: list[str]) -> None:
        for line in stream:
            lines.append(line.rstrip("\n"))
