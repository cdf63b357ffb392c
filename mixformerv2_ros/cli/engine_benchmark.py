"""How long a frame takes, part by part, for every engine at hand.

Each variant runs in a process of its own and in alternating rounds: threads of one library that
spin while waiting would slow down another one in the same process, and a machine that gets slower
over time would favour whoever came first.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime

from mixformerv2_ros.cli.laboratory import lab_module
from mixformerv2_ros.engines.loader import load_engine
from mixformerv2_ros.engines.options import UnavailableError
from mixformerv2_ros.errors import EngineError, MixFormerError
from mixformerv2_ros.machine import peak_megabytes, processor_joules
from mixformerv2_ros.model.bundle import Bundle, has_graphs, open_bundle
from mixformerv2_ros.model.crop_buffers import crop_buffer
from mixformerv2_ros.model.engine import Engine, Memory, Prediction, join_predictions
from mixformerv2_ros.tracking.boxes import Box
from mixformerv2_ros.tracking.compressed import decode_compressed
from mixformerv2_ros.tracking.settings import TrackerSettings
from mixformerv2_ros.tracking.tracker import TargetTracker

AGREEMENT_CROPS = 8
"""Crops in which the variants' boxes are compared."""

PARTS = ("decode", "crop", "engine", "frame", "cpu")
"""Columns of the timings: decoding a JPEG, cutting the crops, the network, all of a frame, and the
time of all cores together."""


@dataclass(frozen=True)
class Variant:
    """One way to run the network, or one of OpenCV's trackers.

    Attributes:
        engine: `onnxruntime`, `openvino` or `torch`; or a tracker as `mixformerv2 evaluate` names
            it, such as `KCF`.
        cached: Templates are encoded once, instead of with every frame.
        precision: Number format of the network run, as for `load_engine`.
        bundle: Folder of another bundle than the plan's.
        note: What tells it from others of the same engine and precision, for tables.
        is_peer: It is one of OpenCV's trackers.
        answer_at: Number of blocks after which all targets are answered, one of
            `ModelSpec.depths`, by a search that asks at every exit before; 0: a search that asks
            at none.
    """

    engine: str
    cached: bool
    precision: str = "fp32"
    bundle: Path | None = None
    note: str = ""
    is_peer: bool = False
    answer_at: int = 0

    @property
    def label(self) -> str:
        """Name for tables."""
        if self.is_peer:
            kind, _, path = self.engine.partition("=")
            return f"{kind} {Path(path).stem[:14]}".strip() if path else kind
        precision = "" if self.precision == "fp32" else f" {self.precision}"
        if self.answer_at:
            return f"{self.engine}{precision} depth {self.answer_at}"
        name = f"{self.engine}{precision} {'cached' if self.cached else 'joint'}"
        return f"{name} {self.note}".rstrip()


JOINT = Variant("torch", False)
"""What everything is compared with: the whole network with every frame, in fp32, without graphs."""


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        bundle: Folder of the model bundle.
        device: One of `engines.options.DEVICES`.
        num_threads: Threads of the network; 0 leaves the choice to the engine.
        width, height: Size of the camera image in pixels.
        rounds: How often the variants take turns.
        frames: Frames of one round.
        targets: Targets that are tracked at once.
        online_size: Online templates of each target.
    """

    bundle: Path
    device: str = "cpu"
    num_threads: int = 0
    width: int = 1280
    height: int = 720
    rounds: int = 5
    frames: int = 20
    targets: int = 1
    online_size: int = 1


@dataclass(frozen=True)
class Measurement:
    """Timings of one variant.

    Attributes:
        variant: What was run.
        milliseconds: (frames, 5), columns as in `PARTS`.
        peak_megabytes: Largest resident memory of its process.
        joules: Energy of the processor's socket per frame, with all that runs on it; None where it
            is not told.
        alone: Milliseconds of engine calls that follow each other at once, without the rest of a
            frame between them; only of devices other than the CPU, whose clocks may sink meanwhile.
        edges: (n, 4) left, top, right and bottom of the boxes found in n crops, the same for all
            variants, over the side of the crop; None of OpenCV's trackers.
    """

    variant: Variant
    milliseconds: npt.NDArray[np.float64]
    peak_megabytes: float
    joules: float | None = None
    alone: npt.NDArray[np.float64] | None = None
    edges: npt.NDArray[np.float64] | None = None

    def summary(self) -> dict[str, Any]:
        """Percentiles of every part, frames per second, memory: what goes into the JSON."""
        parts = {
            part: {
                f"p{q}": round(float(np.percentile(self.milliseconds[:, column], q)), 3)
                for q in (50, 95, 99)
            }
            for column, part in enumerate(PARTS)
        }
        if self.alone is not None:
            parts["alone"] = {
                f"p{q}": round(float(np.percentile(self.alone, q)), 3) for q in (50, 95, 99)
            }
        mean = float(self.milliseconds[:, PARTS.index("frame")].mean())
        return {
            "variant": self.variant.label,
            "milliseconds": parts,
            "frames_per_second": round(1000 / mean, 2),
            "peak_megabytes": round(self.peak_megabytes, 1),
            "joules_per_frame": None if self.joules is None else round(self.joules, 4),
            "answer_at": self.variant.answer_at,
        }


def variants_at_hand(bundle: Bundle, device: str = "cpu") -> list[Variant]:
    """The variants that can run here: by installed libraries, device and files of the bundle."""
    graphs = ("int8",) if bundle.inference_precision == "int8" else ("fp32", "fp16", "bf16")
    found: list[tuple[str, str]] = []
    if has_graphs(bundle):
        providers = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
        provider = providers.get(device.partition(":")[0])
        if provider in onnxruntime.get_available_providers():
            found.append(("onnxruntime", graphs[0]))
        if find_spec("openvino") is not None:
            from mixformerv2_ros.engines.openvino_engine import openvino_precisions

            with suppress(UnavailableError):
                able = openvino_precisions(device)
                found += [("openvino", precision) for precision in graphs if precision in able]
    variants = [
        Variant(engine, cached, precision)
        for engine, precision in found
        for cached in (True, False)
    ]
    if find_spec("torch") is not None:
        from mixformerv2_ros.engines.torch_loader import torch_precisions

        with suppress(UnavailableError):
            variants += [Variant("torch", True, one) for one in torch_precisions(device)]
            variants.append(JOINT)
    return variants


def devices_at_hand() -> list[str]:
    """The devices that an installed engine finds here."""
    found = ["cpu"]
    if find_spec("openvino") is not None:
        from mixformerv2_ros.engines.openvino_engine import openvino_core

        names = (one.lower().replace(".", ":") for one in openvino_core().available_devices)
        found += [name for name in names if name != "cpu"]
    if find_spec("torch") is not None:
        from mixformerv2_ros.engines.torch_loader import cuda_devices

        found += cuda_devices()
    elif "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        found.append("cuda")
    return found


def at_exits(variants: Sequence[Variant], bundle: Bundle) -> list[Variant]:
    """Variants that answer at each exit of the model and, through all exits, at full depth.

    Raises:
        EngineError: the model has no exits.
    """
    if not bundle.spec.exits:
        raise EngineError(f"--exits requires a bundle with exits, and {bundle.path} has none")
    return [
        replace(one, answer_at=depth)
        for one in variants
        if one.cached and one.bundle is None
        for depth in bundle.spec.depths
    ]


def measure(plan: Plan, variants: Sequence[Variant]) -> Iterator[list[Measurement]]:
    """Run all variants in alternating rounds; after each round, yield what is known so far.

    Raises:
        EngineError: a variant cannot run here.
    """
    with _workers(plan, variants) as connections:
        timings: list[list[npt.NDArray[np.float64]]] = [[] for _ in variants]
        peaks = [0.0] * len(variants)
        joules: list[list[float]] = [[] for _ in variants]
        alone: list[list[npt.NDArray[np.float64]]] = [[] for _ in variants]
        edges = []
        for connection in connections:
            connection.send(("edges", AGREEMENT_CROPS))
            edges.append(_answer(connection))
        for _ in range(plan.rounds):
            for index, connection in enumerate(connections):
                before = processor_joules()
                connection.send(("frames", plan.frames))
                rows, peaks[index] = _answer(connection)
                after = processor_joules()
                timings[index].append(rows)
                if before is not None and after is not None and after > before:
                    joules[index].append((after - before) / plan.frames)
                if plan.device != "cpu":
                    connection.send(("alone", plan.frames))
                    alone[index].append(_answer(connection))
            yield [
                Measurement(
                    variant,
                    np.concatenate(rows),
                    peak,
                    float(np.median(used)) if used else None,
                    np.concatenate(calls) if calls else None,
                    found,
                )
                for variant, rows, peak, used, calls, found in zip(
                    variants, timings, peaks, joules, alone, edges, strict=True
                )
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
    """Body of a worker process: load, report ready, then do what it is told, so often."""
    try:
        bench: _Bench | _PeerBench = (
            _PeerBench(plan, variant) if variant.is_peer else _Bench(plan, variant)
        )
        bench.run(3)
    except MixFormerError as error:
        connection.send(f"{variant.label}: {error}")
        return
    connection.send(True)
    while True:
        try:
            what, count = connection.recv()
        except EOFError:
            return
        if what == "frames":
            connection.send((bench.run(count), peak_megabytes()))
        elif what == "alone":
            connection.send(bench.alone(count))
        else:
            connection.send(bench.edges(count))


class _Bench:
    """A tracker per target on a camera image, whose targets stay where they are."""

    def __init__(self, plan: Plan, variant: Variant) -> None:
        cv2.setNumThreads(1)
        bundle = open_bundle(variant.bundle or plan.bundle)
        self.engine: Engine = load_engine(
            bundle, variant.engine, plan.device, plan.num_threads, variant.precision
        )
        self.variant = variant
        self.jpeg = camera_image(plan.width, plan.height)
        self.boxes = [_box(plan, index) for index in range(plan.targets)]
        settings = TrackerSettings(
            search_factor=bundle.search_factor,
            template_factor=bundle.template_factor,
            template_background_contrast=bundle.template_background_contrast,
        )
        image = decode_compressed("jpeg", self.jpeg)
        self.trackers = [TargetTracker(self.engine, settings, image, box) for box in self.boxes]
        self.templates = [
            np.repeat(tracker.templates.templates(), [1, plan.online_size], axis=0)
            for tracker in self.trackers
        ]
        self.memories: list[Memory] = list(map(self.engine.encode_templates, self.templates))
        self.crops = crop_buffer(self.engine, plan.targets)

    def run(self, frames: int) -> npt.NDArray[np.float64]:
        """Milliseconds (frames, 5) of `frames` frames."""
        rows = np.empty((frames, len(PARTS)))
        for row in rows:
            # The network's answer is not followed: every frame shall cost the same.
            for tracker, box in zip(self.trackers, self.boxes, strict=True):
                tracker.box = box
            used = time.process_time()
            start = time.perf_counter()
            image = decode_compressed("jpeg", self.jpeg)
            decoded = time.perf_counter()
            for tracker, crop in zip(self.trackers, self.crops, strict=True):
                tracker.crop_search(image, crop)
            cut = time.perf_counter()
            prediction = self._search()
            searched = time.perf_counter()
            for index, tracker in enumerate(self.trackers):
                tracker.apply(image, prediction, index, update_templates=False)
            end = time.perf_counter()
            cpu = time.process_time() - used
            row[:] = decoded - start, cut - decoded, searched - cut, end - start, cpu
        return rows * 1000

    def alone(self, calls: int) -> npt.NDArray[np.float64]:
        """Milliseconds of engine calls that follow each other at once."""
        times = np.empty(calls)
        for index in range(calls):
            start = time.perf_counter()
            self._search()
            times[index] = time.perf_counter() - start
        return times * 1000

    def edges(self, count: int) -> npt.NDArray[np.float64]:
        """Edges of the first target (count, 4), over the side of crops that miss it by steps."""
        tracker, box, found = self.trackers[0], self.boxes[0], []
        image = decode_compressed("jpeg", self.jpeg)
        for step in range(count):
            shift = (step / count - 0.5) * box.w
            tracker.box = Box(box.x + shift, box.y - shift, box.w, box.h)
            tracker.crop_search(image, self.crops[0])
            edges = self._search().edges[0]
            found.append(edges @ (np.arange(edges.shape[1]) / edges.shape[1]))
        return np.array(found)

    def _stop(
        self, depth: int, quality: npt.NDArray[np.float32], rows: npt.NDArray[np.intp]
    ) -> npt.NDArray[np.bool_]:
        return np.full(len(rows), depth == self.variant.answer_at)

    def _search(self) -> Prediction:
        if self.variant.answer_at:
            return self.engine.search(self.crops, self.memories, self._stop)
        if self.variant.cached:
            return self.engine.search(self.crops, self.memories)
        if self.variant.engine == "torch":
            from mixformerv2_ros.engines.torch_engine import TorchEngine

            assert isinstance(self.engine, TorchEngine)
            return join_predictions(
                [
                    self.engine.joint(templates, crop)
                    for templates, crop in zip(self.templates, self.crops, strict=True)
                ]
            )
        return self.engine.search(
            self.crops, list(map(self.engine.encode_templates, self.templates))
        )


class _PeerBench:
    """One of OpenCV's trackers per target on the same image; its whole work counts as engine."""

    def __init__(self, plan: Plan, variant: Variant) -> None:
        trackers = lab_module("evaluation.trackers", "--trackers")
        make = trackers.tracker_factory(
            trackers.parse_tracker(variant.engine, num_threads=plan.num_threads)
        )
        self.jpeg = camera_image(plan.width, plan.height)
        image = self._decode()
        self.trackers = [make() for _ in range(plan.targets)]
        for index, tracker in enumerate(self.trackers):
            tracker.start(image, _box(plan, index))

    def run(self, frames: int) -> npt.NDArray[np.float64]:
        """Milliseconds (frames, 5) of `frames` frames."""
        rows = np.empty((frames, len(PARTS)))
        for row in rows:
            used = time.process_time()
            start = time.perf_counter()
            image = self._decode()
            decoded = time.perf_counter()
            for tracker in self.trackers:
                tracker.update(image)
            end = time.perf_counter()
            cpu = time.process_time() - used
            row[:] = decoded - start, 0, end - decoded, end - start, cpu
        return rows * 1000

    def alone(self, calls: int) -> npt.NDArray[np.float64]:
        """Milliseconds of updates in one image that has been decoded."""
        image, times = self._decode(), np.empty(calls)
        for index in range(calls):
            start = time.perf_counter()
            for tracker in self.trackers:
                tracker.update(image)
            times[index] = time.perf_counter() - start
        return times * 1000

    def edges(self, count: int) -> None:
        """None: these trackers cut their own regions."""

    def _decode(self) -> npt.NDArray[np.uint8]:
        return np.asarray(cv2.imdecode(self.jpeg, cv2.IMREAD_COLOR), np.uint8)


def _box(plan: Plan, index: int) -> Box:
    """Targets in a row, so that each has its own crop."""
    size = 0.2 * plan.height
    left = (0.45 + 0.37 * index) % 0.8 * plan.width
    return Box(left, 0.4 * plan.height, 0.7 * size, 1.4 * size)


def camera_image(width: int, height: int) -> npt.NDArray[np.uint8]:
    """A JPEG with about the detail of a photograph."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    noise = rng.normal(0, 6, image.shape)
    noisy = np.clip(image + noise, 0, 255).astype(np.uint8)
    _, encoded = cv2.imencode(".jpg", noisy, [cv2.IMWRITE_JPEG_QUALITY, 90])
    return np.asarray(encoded, dtype=np.uint8)
