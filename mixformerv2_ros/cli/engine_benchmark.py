"""How long a frame takes, part by part, for every engine at hand.

Each variant runs in a process of its own and in alternating rounds: threads of one library that
spin while waiting would slow down another one in the same process, and a machine that gets slower
over time would favour whoever came first.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mixformerv2_ros.engines.loader import load_engine
from mixformerv2_ros.errors import EngineError, MixFormerError
from mixformerv2_ros.machine import peak_megabytes
from mixformerv2_ros.model.bundle import Bundle, has_graphs, open_bundle
from mixformerv2_ros.model.engine import Engine, Memory, Prediction
from mixformerv2_ros.tracking.boxes import Box
from mixformerv2_ros.tracking.pixels import decode_compressed
from mixformerv2_ros.tracking.settings import TrackerSettings
from mixformerv2_ros.tracking.tracker import TargetTracker, search_shape

PARTS = ("decode", "crop", "engine", "frame")
"""Columns of the timings: decoding a JPEG, cutting the crop, the network, and all of a frame."""


@dataclass(frozen=True)
class Variant:
    """One way to run the network.

    Attributes:
        engine: `onnxruntime` or `torch`.
        cached: Templates are encoded once, instead of with every frame.
    """

    engine: str
    cached: bool

    @property
    def label(self) -> str:
        """Name for tables."""
        return f"{self.engine} {'cached' if self.cached else 'joint'}"


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        bundle: Folder of the model bundle.
        device: `cpu`, `cuda` or `cuda:N`.
        num_threads: Threads of the network; 0 leaves the choice to the engine.
        width, height: Size of the camera image in pixels.
        rounds: How often the variants take turns.
        frames: Frames of one round.
    """

    bundle: Path
    device: str = "cpu"
    num_threads: int = 0
    width: int = 1280
    height: int = 720
    rounds: int = 5
    frames: int = 20


@dataclass(frozen=True)
class Measurement:
    """Timings of one variant.

    Attributes:
        variant: What was run.
        milliseconds: (frames, 4), columns as in `PARTS`.
        peak_megabytes: Largest resident memory of its process.
    """

    variant: Variant
    milliseconds: npt.NDArray[np.float64]
    peak_megabytes: float

    def summary(self) -> dict[str, Any]:
        """Percentiles of every part, frames per second, memory: what goes into the JSON."""
        parts = {
            part: {
                f"p{q}": round(float(np.percentile(self.milliseconds[:, column], q)), 3)
                for q in (50, 95, 99)
            }
            for column, part in enumerate(PARTS)
        }
        mean = float(self.milliseconds[:, PARTS.index("frame")].mean())
        return {
            "variant": self.variant.label,
            "milliseconds": parts,
            "frames_per_second": round(1000 / mean, 2),
            "peak_megabytes": round(self.peak_megabytes, 1),
        }


def variants_at_hand(bundle: Bundle) -> list[Variant]:
    """The variants that can run here: by installed libraries and by the files of the bundle."""
    engines = []
    if has_graphs(bundle):
        engines.append("onnxruntime")
    if find_spec("torch") is not None:
        engines.append("torch")
    return [Variant(engine, cached) for engine in engines for cached in (True, False)]


def measure(plan: Plan, variants: Sequence[Variant]) -> Iterator[list[Measurement]]:
    """Run all variants in alternating rounds; after each round, yield what is known so far.

    Raises:
        EngineError: a variant cannot run here.
    """
    with _workers(plan, variants) as connections:
        timings: list[list[npt.NDArray[np.float64]]] = [[] for _ in variants]
        peaks = [0.0] * len(variants)
        for _ in range(plan.rounds):
            for index, connection in enumerate(connections):
                connection.send(plan.frames)
                rows, peaks[index] = _answer(connection)
                timings[index].append(rows)
            yield [
                Measurement(variant, np.concatenate(rows), peak)
                for variant, rows, peak in zip(variants, timings, peaks, strict=True)
            ]


@contextmanager
def _workers(plan: Plan, variants: Sequence[Variant]) -> Iterator[list[Connection]]:
    context = multiprocessing.get_context("spawn")
    connections, processes = [], []
    try:
        for variant in variants:
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(plan, variant, theirs), daemon=True)
            process.start()
            theirs.close()
            connections.append(ours)
            processes.append(process)
            _answer(ours)
        yield connections
    finally:
        for connection in connections:
            connection.close()
        for process in processes:
            process.join(timeout=10)
            process.kill()


def _answer(connection: Connection) -> Any:
    try:
        answer = connection.recv()
    except EOFError:
        raise EngineError("a benchmark process ended before it answered") from None
    if isinstance(answer, str):
        raise EngineError(answer)
    return answer


def _work(plan: Plan, variant: Variant, connection: Connection) -> None:
    """Body of a worker process: load, report ready, then time as many frames as it is told."""
    try:
        bench = _Bench(plan, variant)
        bench.run(3)
    except MixFormerError as error:
        connection.send(f"{variant.label}: {error}")
        return
    connection.send(True)
    while True:
        try:
            frames = connection.recv()
        except EOFError:
            return
        rows = bench.run(frames)
        connection.send((rows, peak_megabytes()))


class _Bench:
    """One tracker on a camera image with a target that sways around its place."""

    def __init__(self, plan: Plan, variant: Variant) -> None:
        cv2.setNumThreads(1)
        bundle = open_bundle(plan.bundle)
        self.engine: Engine = load_engine(bundle, variant.engine, plan.device, plan.num_threads)
        self.variant = variant
        self.jpeg = _camera_image(plan.width, plan.height)
        size = 0.2 * plan.height
        self.box = Box(0.45 * plan.width, 0.4 * plan.height, 0.7 * size, 1.4 * size)
        settings = TrackerSettings(
            search_factor=bundle.search_factor,
            template_factor=bundle.template_factor,
            template_background_contrast=bundle.template_background_contrast,
        )
        self.tracker = TargetTracker(
            self.engine, settings, decode_compressed("jpeg", self.jpeg), self.box
        )
        self.templates = self.tracker.templates.templates()
        self.memory: Memory = self.tracker.memory
        self.crops = np.empty((1, *search_shape(self.engine)), dtype=np.uint8)

    def run(self, frames: int) -> npt.NDArray[np.float64]:
        """Milliseconds (frames, 4) of `frames` frames."""
        rows = np.empty((frames, len(PARTS)))
        for row in rows:
            # The network's answer is not followed: every frame shall cost the same.
            self.tracker.box = self.box
            start = time.perf_counter()
            image = decode_compressed("jpeg", self.jpeg)
            decoded = time.perf_counter()
            self.tracker.crop_search(image, self.crops[0])
            cut = time.perf_counter()
            prediction = self._search()
            searched = time.perf_counter()
            self.tracker.apply(image, prediction, 0, update_templates=False)
            end = time.perf_counter()
            row[:] = decoded - start, cut - decoded, searched - cut, end - start
        return rows * 1000

    def _search(self) -> Prediction:
        if self.variant.cached:
            return self.engine.search(self.crops, [self.memory])
        if self.variant.engine == "torch":
            from mixformerv2_ros.engines.torch_engine import TorchEngine

            assert isinstance(self.engine, TorchEngine)
            return self.engine.joint(self.templates, self.crops[0])
        return self.engine.search(self.crops, [self.engine.encode_templates(self.templates)])


def _camera_image(width: int, height: int) -> npt.NDArray[np.uint8]:
    """A JPEG with about the detail of a photograph."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    noise = rng.normal(0, 6, image.shape)
    noisy = np.clip(image + noise, 0, 255).astype(np.uint8)
    _, encoded = cv2.imencode(".jpg", noisy, [cv2.IMWRITE_JPEG_QUALITY, 90])
    return np.asarray(encoded, dtype=np.uint8)
