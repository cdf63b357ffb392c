"""A day of a camera at 30 Hz through the live tracker, on a clock of its own: `make soak`.

Targets come and go, hide, are lost and found; the camera stops, loops, changes its size, sends
broken images and stamps that step. Every simulated hour the process is weighed. The engine sees
red (`RedEngine`): what is weighed is everything around the network, which `soak.py` weighs with the
real one in real time.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from nodes import BUNDLE, TYPES, Desk, init_box
from processes_weight import resident_megabytes
from recordings import RedEngine
from tqdm import tqdm

from mixformerv2_ros.ros.live.live_tracker import LiveTracker
from mixformerv2_ros.ros.live.model import Model
from mixformerv2_ros.ros.messages import image_message

RATE = 30
PERIOD_NS = 10**9 // RATE
POSITIONS = 50
TARGETS = ("", "a", "b")


def scenes(width: int, height: int) -> tuple[list[Any], list[tuple[int, ...]], Any, Any]:
    """Messages with a red target, its boxes, one without it, and one that is broken."""
    ground = np.full((height, width, 3), 90, np.uint8)
    side = height // 5
    messages, boxes = [], []
    for index in range(POSITIONS):
        share = abs(2 * index / POSITIONS - 1)
        x, y = int(share * (width - side)), int((height - side) * 0.4)
        pixels = ground.copy()
        pixels[y : y + side, x : x + side] = (230, 20, 20)
        messages.append(image_message(TYPES, pixels, "rgb8", 0, "cam"))
        boxes.append((x, y, side, side))
    empty = image_message(TYPES, ground, "rgb8", 0, "cam")
    broken = image_message(TYPES, ground, "rgb8", 0, "cam")
    broken.step = 1
    return messages, boxes, empty, broken


@dataclass
class Weight:
    """What a process holds."""

    megabytes: float
    files: int
    threads: int
    objects: int

    @classmethod
    def now(cls) -> Weight:
        gc.collect()
        return cls(
            resident_megabytes(os.getpid()),
            len(os.listdir("/proc/self/fd")),
            threading.active_count(),
            len(gc.get_objects()),
        )


class Day:
    """The camera, the people who draw boxes, and the clock."""

    def __init__(self, seed: int) -> None:
        self.desk = Desk()
        self.tracker = LiveTracker(
            Model(BUNDLE, RedEngine()), {"max_targets": 3, "buffer.frames": 60}, self.desk, "/eye"
        )
        self.stamp = self.desk.time_ns
        self.frames = 0
        self.counts: dict[str, int] = {}
        self._sizes = [scenes(160, 120), scenes(200, 120)]
        self._size = 0
        self._random = random.Random(seed)
        self._hidden = 0
        self._reported = 0

    def step(self) -> None:
        """One image, and now and then something else."""
        chance = self._random.random()
        if chance < 1 / 600:
            self._event()
        messages, _, empty, broken = self._sizes[self._size]
        message = messages[self.frames % POSITIONS]
        if self._hidden:
            self._hidden -= 1
            message = empty
        elif chance > 1 - 1 / 2000:
            message = broken
            self._count("broken images")
        self.stamp += PERIOD_NS
        self.desk.time_ns += PERIOD_NS
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(self.stamp, 10**9)
        self.tracker.receive_image(message)
        while not self.tracker.idle:
            time.sleep(0)
        self.frames += 1
        if self.frames % RATE == 0:
            self.tracker.publish_diagnostics()
            self._forget()

    def _event(self) -> None:
        kind = self._random.choice(
            ["box", "box", "box", "late box", "stop", "hide", "camera stops", "loop", "size",
             "late image", "parameter", "rubbish box"]
        )  # fmt: skip
        self._count(kind)
        boxes = self._sizes[self._size][1]
        name = self._random.choice(TARGETS)
        if kind == "box":
            self.tracker.receive_init(init_box(boxes[self.frames % POSITIONS], target_id=name))
        elif kind == "late box":
            back = self._random.randrange(2, 50)
            box = boxes[(self.frames - back) % POSITIONS]
            stamp = self.stamp - (back - 1) * PERIOD_NS
            self.tracker.receive_init(init_box(box, stamp, target_id=name))
        elif kind == "stop":
            self.tracker.stop(name or None)
        elif kind == "hide":
            self._hidden = self._random.randrange(1, 20 * RATE)
        elif kind == "camera stops":
            pause = self._random.randrange(10**9, 120 * 10**9)
            self.stamp += pause
            self.desk.time_ns += pause
        elif kind == "loop":
            self.stamp -= 20 * 10**9
        elif kind == "size":
            self._size = 1 - self._size
        elif kind == "late image":
            message = self._sizes[self._size][0][0]
            late = self.stamp - 5 * PERIOD_NS
            message.header.stamp.sec, message.header.stamp.nanosec = divmod(late, 10**9)
            self.tracker.receive_image(message)
        elif kind == "parameter":
            self.tracker.set_values({"lost.duration": self._random.choice([0.5, 1.0, 2.0])})
        else:
            self.tracker.receive_init(init_box((1e300, 0, -5, float("nan")), target_id="x" * 900))

    def _count(self, kind: str) -> None:
        self.counts[kind] = self.counts.get(kind, 0) + 1

    def _forget(self) -> None:
        """Count the states of the tracks, and drop what the desk has kept."""
        for message in self.desk.tracks:
            key = ("IDLE", "TRACKING", "UNCERTAIN", "LOST")[message.state]
            self._count(f"tracks {key}")
        self.desk.published.clear()
        self.desk.lines.clear()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=24.0, help="simulated hours of images")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--limit", type=float, default=3.0, help="MB that may come on top")
    args = parser.parse_args()
    day = Day(args.seed)
    day.tracker.start()
    total, hour = round(args.hours * 3600 * RATE), 3600 * RATE
    weights = []
    begin = time.monotonic()
    with tqdm(total=total, unit="image", disable=None) as bar:
        for number in range(1, total + 1):
            day.step()
            if number % 1000 == 0:
                bar.update(1000)
            if number % hour == 0 or number == total:
                weights.append(Weight.now())
    seconds = time.monotonic() - begin
    failure = day.tracker.failure
    counts = day.tracker.statistics().counts
    day.tracker.close()
    print(f"{total} images, {args.hours:g} h at {RATE} Hz, in {seconds:.0f} s; {counts}")
    print(", ".join(f"{kind} {count}" for kind, count in sorted(day.counts.items())))
    print("hour  resident MB  open files  threads  Python objects")
    for number, weight in enumerate(weights, start=1):
        print(
            f"{number:4d}  {weight.megabytes:11.1f}  {weight.files:10d}  {weight.threads:7d}  "
            f"{weight.objects:14d}"
        )
    # The first hour fills the buffers and the allocator's arenas.
    first, last = weights[min(1, len(weights) - 1)], weights[-1]
    grew = last.megabytes - first.megabytes
    print(f"grew {grew:.2f} MB after the second hour")
    flat = grew < args.limit and last.files <= first.files and last.threads <= first.threads
    if failure is not None:
        print(f"the worker failed: {failure!r}")
    return 0 if flat and failure is None else 1


if __name__ == "__main__":
    sys.exit(main())
