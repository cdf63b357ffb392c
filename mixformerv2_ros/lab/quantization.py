"""Quantization of the search step to int8, with calibration on real frames and a guard.

Static quantization by ONNX Runtime in the QDQ form, which ONNX Runtime and OpenVINO both run in
integers: weights of the linear layers per channel, their inputs per tensor with the range seen in
calibration. Softmax, LayerNorm, the products of attention, the patch embedding, both heads and the
template encoder (it runs once per change of a template) stay in floating point, and so do linear
layers that measuring shows to hurt.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

from mixformerv2_ros.engines.segments import whole_memory
from mixformerv2_ros.errors import SourceError
from mixformerv2_ros.lab.evaluation.metrics import overlaps
from mixformerv2_ros.lab.evaluation.trackers import Image, MixFormerTracker
from mixformerv2_ros.model.bundle import SEARCH, Bundle
from mixformerv2_ros.model.engine import Engine, Memory, Prediction, Stop
from mixformerv2_ros.model.engine_wrapper import EngineWrapper
from mixformerv2_ros.model.spec import ModelSpec
from mixformerv2_ros.ros.parameters import tracker_settings
from mixformerv2_ros.tracking.boxes import Box

Sample = dict[str, npt.NDArray[Any]]
"""One search step: `crops`, `keys` and `values` as the graph takes them."""

_RESHAPING = ("Cast", "Transpose", "Slice", "Identity")
"""Operators between a weight and the product that uses it."""


@dataclass(frozen=True)
class Clip:
    """A target in consecutive frames.

    Attributes:
        name: Where the frames come from.
        box: The target in the first frame, in pixels.
        frames: Opens them anew, (H, W, 3) uint8 BGR each.
    """

    name: str
    box: Box
    frames: Callable[[], Iterator[Image]]


@dataclass(frozen=True)
class Agreement:
    """How well an engine agrees with an exact one on real frames.

    Attributes:
        frames: Number of frames.
        mean_iou: Mean intersection over union of their boxes in the same crop with the same
            templates: those of the exact engine's track.
        worst_clip: Smallest such mean of a clip.
        score_difference: Mean absolute difference of the confidences there.
        own_track_iou: Mean intersection over union of their tracks, each engine following its own
            boxes. Differences of one frame move the crop of the next and decide which template is
            taken, so this is far smaller, and says little about the rounding.
    """

    frames: int
    mean_iou: float
    worst_clip: float
    score_difference: float
    own_track_iou: float


@dataclass(frozen=True)
class Layer:
    """A linear layer of the blocks.

    Attributes:
        node: Name of its node in the graph.
        weight: Name of its weight in the state_dict.
    """

    node: str
    weight: str


class _Recorder(EngineWrapper):
    """An engine that keeps a bounded number of its search steps, evenly spread."""

    def __init__(self, engine: Engine, limit: int) -> None:
        super().__init__(engine)
        self._limit = limit
        self._step = 1
        self._count = 0
        self.samples: list[Sample] = []

    def search(
        self,
        crops: npt.NDArray[np.uint8],
        memories: Sequence[Memory],
        stop: Stop | None = None,
    ) -> Prediction:
        if self._count % self._step == 0:
            keys, values = whole_memory(memories[0])
            self.samples.append({"crops": crops.copy(), "keys": keys, "values": values})
            if len(self.samples) == 2 * self._limit:
                del self.samples[1::2]
                self._step *= 2
        self._count += 1
        return super().search(crops, memories, stop)


def record_samples(
    engine: Engine, bundle: Bundle, clips: Sequence[Clip], count: int
) -> list[Sample]:
    """Track the clips and keep search steps, evenly spread over all frames.

    Args:
        engine: ONNX Runtime, whose memories are arrays.
        bundle: Its bundle.
        clips: What to track.
        count: How many steps to keep, where there are so many; less than twice as many are kept.

    Raises:
        SourceError: the clips have no frame after the first.
    """
    recorder = _Recorder(engine, count)
    for clip in clips:
        track(recorder, bundle, clip)
    if not recorder.samples:
        raise SourceError("calibration needs at least two frames, got fewer")
    return recorder.samples


def track(
    engine: Engine, bundle: Bundle, clip: Clip
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Boxes (N, 4), x, y, w, h in pixels, and confidences (N,) of all frames after the first."""
    tracker = MixFormerTracker(engine, tracker_settings({}, bundle))
    boxes, scores = [], []
    for index, image in enumerate(clip.frames()):
        if index == 0:
            tracker.start(image, clip.box)
            continue
        estimate = tracker.update(image)
        boxes.append([estimate.box.x, estimate.box.y, estimate.box.w, estimate.box.h])
        scores.append(estimate.confidence)
    return np.array(boxes, dtype=np.float64).reshape(-1, 4), np.array(scores)


class _Pair:
    """An exact engine that asks another one the same, and keeps what both answered."""

    def __init__(self, exact: Engine, other: Engine) -> None:
        self._engines = exact, other
        self.boxes: list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]] = []
        self.score_differences: list[float] = []

    @property
    def spec(self) -> ModelSpec:
        return self._engines[0].spec

    @property
    def name(self) -> str:
        return self._engines[0].name

    def encode_templates(self, templates: npt.NDArray[np.uint8]) -> Memory:
        return [engine.encode_templates(templates) for engine in self._engines]

    def search(
        self,
        crops: npt.NDArray[np.uint8],
        memories: Sequence[Memory],
        stop: Stop | None = None,
    ) -> Prediction:
        exact, other = (
            engine.search(crops, [memory[place] for memory in memories], stop)
            for place, engine in enumerate(self._engines)
        )
        self.boxes.append((_corners(exact.boxes), _corners(other.boxes)))
        self.score_differences.append(float(np.abs(exact.scores - other.scores).mean()))
        return exact


def compare_engines(
    exact: Engine, other: Engine, bundle: Bundle, clips: Sequence[Clip]
) -> Agreement:
    """Track all clips with both engines.

    Raises:
        SourceError: the clips have no frame after the first.
    """
    same_crop: list[npt.NDArray[np.float64]] = []
    own_tracks: list[npt.NDArray[np.float64]] = []
    differences: list[float] = []
    for clip in clips:
        pair = _Pair(exact, other)
        boxes, _ = track(pair, bundle, clip)
        # Of a target that leaves the image at once, nothing is searched.
        if pair.boxes:
            first, second = (np.concatenate(side) for side in zip(*pair.boxes, strict=True))
            same_crop.append(agreeing(first, second))
            own_tracks.append(overlaps(boxes, track(other, bundle, clip)[0]))
            differences += pair.score_differences
    if not same_crop:
        raise SourceError("comparison needs at least two frames, got fewer")
    joined = np.concatenate(same_crop)
    return Agreement(
        frames=len(joined),
        mean_iou=float(joined.mean()),
        worst_clip=min(float(one.mean()) for one in same_crop),
        score_difference=float(np.mean(differences)),
        own_track_iou=float(np.concatenate(own_tracks).mean()),
    )


def folded_graph(bundle: Bundle, folder: Path) -> Path:
    """Write the search step with its weights inside and constants folded; returns the file."""
    path = folder / "folded.onnx"
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3
    # From memory: of a file, ONNX Runtime would write references to weights that lie elsewhere.
    whole = onnx.load(bundle.path / SEARCH).SerializeToString()
    ort.InferenceSession(whole, options, providers=["CPUExecutionProvider"])
    return path


def linear_layers(bundle: Bundle) -> list[Layer]:
    """The linear layers of the blocks, in their order. Those of the heads are no part of it."""
    graph = onnx.load(bundle.path / SEARCH, load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    makers = {output: node for node in graph.node for output in node.output}

    def origin(name: str) -> str:
        while name not in weights:
            node = makers.get(name)
            if node is None or node.op_type not in _RESHAPING:
                return ""
            name = node.input[0]
        return name

    layers = []
    for node in graph.node:
        if node.op_type == "MatMul":
            name = origin(node.input[1]).removeprefix("network.").removesuffix(".F16")
            if name.startswith("backbone.blocks."):
                layers.append(Layer(node.name, name))
    return layers


def sensitivities(
    graph: Path, layers: Sequence[Layer], samples: Sequence[Sample]
) -> Iterator[float]:
    """What each layer costs alone: 1 - mean IoU of boxes with it in int8 and all in fp32.

    Both find the target in the same crops, so that one frame's difference is no other's.
    """
    exact = _boxes(graph, samples)
    with tempfile.TemporaryDirectory() as folder:
        for layer in layers:
            path = Path(folder) / "one.onnx"
            quantized_graph(graph, [layer], samples, path)
            yield 1 - float(agreeing(exact, _boxes(path, samples)).mean())


def agreeing(
    exact: npt.NDArray[np.float64], other: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Intersection over union of boxes (N, 4), x, y, w, h: (N,).

    Of a target that it does not see, a network may put the left edge right of the right one. Such a
    box overlaps nothing, not even itself: what agrees on that it has no area counts as 1.
    """
    empty = (exact[:, 2:] <= 0).any(axis=1) & (other[:, 2:] <= 0).any(axis=1)
    return np.where(empty, 1.0, overlaps(exact, other))


def _boxes(graph: Path, samples: Sequence[Sample]) -> npt.NDArray[np.float64]:
    """(N, 4) left, top, width, height over the side of the crop."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    return _corners(np.concatenate([session.run(["boxes"], sample)[0] for sample in samples]))


def _corners(boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Centre x, y, width, height -> left, top, width, height."""
    moved = boxes.astype(np.float64)
    moved[:, :2] -= moved[:, 2:] / 2
    return moved


def speed_up(
    first: Engine, second: Engine, samples: Sequence[Sample], bundle: Bundle, rounds: int = 7
) -> float:
    """Time of a search step of `first` over that of `second`: medians of alternating rounds."""
    size = bundle.spec.template_size
    templates = np.zeros((2, size, size, 3), np.uint8)
    crops = [sample["crops"] for sample in samples[:10]]
    memories = [engine.encode_templates(templates) for engine in (first, second)]
    times: list[list[float]] = [[], []]
    for round_ in range(rounds):
        for engine, memory, durations in zip((first, second), memories, times, strict=True):
            for crop in crops:
                begin = time.perf_counter()
                engine.search(crop, [memory])
                if round_:  # the first one warms up
                    durations.append(time.perf_counter() - begin)
    return float(np.median(times[0]) / np.median(times[1]))


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, samples: Sequence[Sample]) -> None:
        self._samples = iter(samples)

    def get_next(self) -> Sample | None:
        return next(self._samples, None)


def quantized_graph(
    graph: Path, layers: Sequence[Layer], samples: Sequence[Sample], path: Path
) -> None:
    """Write a graph with these layers in int8.

    Args:
        graph: From `folded_graph`.
        layers: The layers to quantize.
        samples: For the ranges of their inputs.
        path: Where to write.
    """
    logging.disable(logging.WARNING)  # It recommends preprocessing, which `folded_graph` is.
    try:
        quantize_static(
            graph,
            path,
            _Reader(samples),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["MatMul"],
            nodes_to_quantize=[layer.node for layer in layers],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"MatMulConstBOnly": True},
        )
    finally:
        logging.disable(logging.NOTSET)
