"""A virtual display for tests of windows: its picture, its mouse and its keyboard."""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from waiting import wait_for

ROOT = Path(__file__).resolve().parents[1]
WIDTH, HEIGHT = 1280, 900


class Screen:
    """An X display that nobody sees."""

    def __init__(self, number: int, framebuffer: Path) -> None:
        self.name = f":{number}"
        self._framebuffer = framebuffer

    def picture(self) -> np.ndarray:
        """What is on the screen: (HEIGHT, WIDTH, 3) uint8 RGB, from the server's XWD file."""
        data = self._framebuffer.read_bytes()
        header = struct.unpack(">25I", data[:100])
        start = header[0] + header[19] * 12  # the header, then the colour table
        width, height, line = header[4], header[5], header[12]
        rows = np.frombuffer(data, np.uint8, height * line, start).reshape(height, line)
        return rows[:, : width * 4].reshape(height, width, 4)[..., 2::-1].copy()

    def do(self, *words: object) -> str:
        """Run xdotool, which plays the user."""
        command = ["xdotool", *map(str, words)]
        environment = {**os.environ, "DISPLAY": self.name}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    def window(self, title: str, seconds: float = 30.0) -> str:
        """Wait for a window, give it the keyboard; returns its number."""
        end = time.monotonic() + seconds
        while not (found := self.do("search", "--onlyvisible", "--name", title)):
            assert time.monotonic() < end, f"no window {title!r}"
            time.sleep(0.05)
        self.do("windowfocus", "--sync", found.split()[0])
        return found.split()[0]

    def drag(self, x1: float, y1: float, x2: float, y2: float, drop: bool = True) -> None:
        """Press the mouse at a place, move it to another, and let go."""
        self.do("mousemove", round(x1), round(y1), "mousedown", 1)
        self.do("mousemove", round((x1 + x2) / 2), round((y1 + y2) / 2))
        self.do("mousemove", round(x2), round(y2))
        if drop:
            self.do("mouseup", 1)


@contextlib.contextmanager
def virtual_screen(folder: Path) -> Iterator[Screen]:
    """Start a virtual display; the test is skipped by name where it cannot be had."""
    for program in ("Xvfb", "xdotool"):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program} (Debian package {program.lower()}), which is absent")
    pytest.importorskip("tkinter", reason="needs Tk (Debian package python3-tk), which is absent")
    reading, writing = os.pipe()
    # The server chooses a free number and tells it.
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(writing), "-screen", "0", f"{WIDTH}x{HEIGHT}x24",
         "-fbdir", str(folder), "-nolisten", "tcp"],
        pass_fds=(writing,), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(writing)
    try:
        with os.fdopen(reading) as stream:
            number = int(stream.readline())
        yield Screen(number, folder / "Xvfb_screen0")
    finally:
        server.terminate()
        server.wait(10)


class Session:
    """`mixformerv2 select` in a window."""

    def __init__(self, screen: Screen, *words: object) -> None:
        self.screen = screen
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mixformerv2_ros.cli", "select", *map(str, words)],
            cwd=ROOT, env={**os.environ, "DISPLAY": screen.name},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        screen.window("mixformerv2 select")

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.communicate()

    def see(self, condition: Any, what: str, still: bool = True) -> np.ndarray:
        """Wait until the screen shows something, and all of it: a window is painted in steps.

        Args:
            condition: Says of a picture whether it shows that.
            what: What it is, for the error.
            still: Wait also until the picture has not changed for a while.
        """
        pictures: list[np.ndarray] = []

        def looks_so() -> bool:
            pictures.append(self.screen.picture())
            if not condition(pictures[-1]):
                pictures.clear()
                return False
            if not still:
                return True
            if not (pictures[0] == pictures[-1]).all():
                del pictures[:-1]
            return len(pictures) >= 10

        wait_for(looks_so, what, 30)
        return pictures[-1]

    def key(self, name: str) -> None:
        self.screen.do("key", name)

    def ended(self) -> tuple[int, str, str]:
        """Exit code and output, when the command has ended by itself."""
        output, errors = self.process.communicate(timeout=60)
        return self.process.returncode, output, errors


RED, DRAWN, DRAWING = (230, 20, 20), (80, 210, 60), (255, 210, 63)


def where(image: np.ndarray, color: tuple[int, int, int]) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of what has a colour on the screen."""
    rows, columns = np.nonzero((np.abs(image.astype(int) - color) < 30).all(axis=2))
    if not rows.size:
        return 0.0, 0.0, 0.0, 0.0
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def red_target(image: np.ndarray) -> bool:
    left, top, right, bottom = where(image, RED)
    return right - left > 40 and bottom - top > 40
