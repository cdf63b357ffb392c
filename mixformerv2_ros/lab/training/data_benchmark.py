"""Throughput of sampling on one core."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mixformerv2_ros.lab.datasets.annotated_images import Image
from mixformerv2_ros.lab.datasets.training_sets import read_set
from mixformerv2_ros.lab.training.sample import Sample
from mixformerv2_ros.lab.training.sampling import SamplingConfig, TrackingDataset
from mixformerv2_ros.model.spec import ModelSpec

WIDTH, HEIGHT = 640, 480
QUALITY = 90
"""JPEG quality of the generated stills; their size of about 70 kB is that of photographs."""
STILLS = 48
_MEGABYTES = 1000.0


@dataclass(frozen=True)
class SamplingSpeed:
    """Samples per second of one process with one thread.

    Attributes:
        label: What was measured.
        rounds: (R, 2) seconds per sample of each round, as wall time and as CPU time.
    """

    label: str
    rounds: list[tuple[float, float]]

    def summary(self) -> dict[str, Any]:
        """Samples per second of wall time and of CPU time, medians over the rounds."""
        wall, cpu = np.median(np.array(self.rounds), axis=0)
        return {
            "source": self.label,
            "samples_per_second": round(1 / float(wall), 1),
            "samples_per_cpu_second": round(1 / float(cpu), 1),
            "milliseconds": round(float(cpu) * 1e3, 3),
        }


def write_stills(folder: Path, count: int = STILLS) -> None:
    """Write generated 640x480 JPEG stills with boxes, in the folder form of a data set."""
    images = folder / "stills" / "images"
    images.mkdir(parents=True)
    lines = ["image,x,y,w,h,label"]
    for number in range(count):
        rng = np.random.default_rng(number)
        image = _texture(rng, WIDTH, HEIGHT)
        for _ in range(3):
            w, h = np.clip(120 * np.exp(0.6 * rng.standard_normal(2)), 16, (WIDTH, HEIGHT))
            x, y = rng.uniform(0, WIDTH - w), rng.uniform(0, HEIGHT - h)
            left, top, right, bottom = (int(v) for v in (x, y, x + w, y + h))
            image[top:bottom, left:right] = _texture(rng, right - left, bottom - top)
            lines.append(f"{number:04}.jpg,{left},{top},{right - left},{bottom - top},thing")
        path = str(images / f"{number:04}.jpg")
        cv2.imwrite(path, image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    text = "\n".join(lines) + "\n"
    (folder / "stills" / "boxes.csv").write_text(text, encoding="utf-8")


def still_datasets(folder: Path, spec: ModelSpec) -> dict[str, TrackingDataset]:
    """Data sets of the stills of `write_stills`, by what the image cache holds."""
    stills = read_set("folder", folder, "stills", None)
    configs = {
        "JPEG in memory": SamplingConfig(cache_megabytes=_MEGABYTES, cache_decoded=False),
        "decoded in memory": SamplingConfig(cache_megabytes=_MEGABYTES, cache_decoded=True),
    }
    return {
        f"{WIDTH}x{HEIGHT} {label}": TrackingDataset([(stills, 1.0)], spec, config, train=True)
        for label, config in configs.items()
    }


def measure(
    label: str, sample: Callable[[int, int], Sample], rounds: int, samples: int
) -> SamplingSpeed:
    """Measure a data set in this process, with one OpenCV thread.

    Args:
        label: Name of the row.
        sample: `TrackingDataset.sample` or `SyntheticDataset.sample`.
        rounds: Number of measurements, after one more that fills caches.
        samples: Samples of one round.
    """
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        times = []
        for turn in range(rounds + 1):
            clock, core = time.perf_counter(), time.process_time()
            for index in range(samples):
                # The same samples in every round: the cache does not change.
                sample(0, index)
            spent = time.perf_counter() - clock, time.process_time() - core
            if turn:
                times.append((spent[0] / samples, spent[1] / samples))
    finally:
        cv2.setNumThreads(threads)
    return SamplingSpeed(label, times)


def _texture(rng: np.random.Generator, width: int, height: int) -> Image:
    """Noise at all scales, about as compressible as a photograph."""
    total = np.full((height, width, 3), rng.uniform(60, 190, 3), np.float32)
    for octave in range(8):
        cells = 2 ** (octave + 1)
        grid = rng.standard_normal((min(cells, height), min(cells, width), 3), dtype=np.float32)
        layer = cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
        total += np.asarray(layer, np.float32) * np.float32(45 / 1.45**octave)
    return np.clip(total, 0, 255).astype(np.uint8)
