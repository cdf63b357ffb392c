"""Engine on OpenVINO: x86 and ARM CPUs, Intel GPUs and NPUs. Needs no torch."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov

from mixformerv2_ros.engines.failures import engine_errors
from mixformerv2_ros.engines.onnx_engine import (
    ANSWERS,
    check_graphs,
    join_memories,
    load_segments,
    search_ends,
)
from mixformerv2_ros.engines.options import EngineOptions, UnavailableError, cache_folder
from mixformerv2_ros.engines.segments import (
    LazyMemory,
    SegmentAnswer,
    SegmentEnd,
    search_by_segments,
    whole_memory,
)
from mixformerv2_ros.model.bundle import (
    SEARCH,
    TEMPLATE_ENCODER,
    Bundle,
    exit_graphs,
    has_exit_graphs,
    segment_graphs,
)
from mixformerv2_ros.model.engine import Prediction, Stop, search_separately
from mixformerv2_ros.model.spec import ModelSpec
from mixformerv2_ros.text import printable

OpenVinoMemory = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]
Memory = OpenVinoMemory | LazyMemory[OpenVinoMemory]
"""Encoded templates: of a model with exits a `LazyMemory`."""
State = dict[str, npt.NDArray[Any]]
"""What a segment hands to the next, by the names of the next one's inputs: views of its outputs."""

log = logging.getLogger(__package__)

_HINTS = {"fp32": "f32", "fp16": "f16", "bf16": "bf16", "int8": "f32"}
"""Number format of what a graph holds in floating point, by precision."""
_CAPABILITIES = {"fp32": "FP32", "fp16": "FP16", "bf16": "BF16", "int8": "INT8"}


@cache
def openvino_core() -> ov.Core:
    """The one `ov.Core` of this process.

    Every core gives its thread a signal stack of its own and takes back the one before it when it
    ends. Of two cores, the one that ends last takes back the stack of the one that ended before:
    memory that is gone, and the next signal ends the process (seen with OpenVINO 2026.4).
    """
    return ov.Core()


def openvino_precisions(device: str) -> tuple[str, ...]:
    """The precisions that a device of OpenVINO has on this machine.

    Args:
        device: `cpu`, `gpu`, `gpu:N` or `npu`.

    Raises:
        UnavailableError: OpenVINO does not find the device.
    """
    name = _openvino_name(device)
    there = openvino_core().available_devices
    if name not in there and f"{name}.0" not in there:
        found = ", ".join(one.lower().replace(".", ":") for one in there)
        raise UnavailableError(f"{device} is not available: OpenVINO found {printable(found)}")
    able = openvino_core().get_property(name, "OPTIMIZATION_CAPABILITIES")
    return tuple(precision for precision, word in _CAPABILITIES.items() if word in able)


def _openvino_name(device: str) -> str:
    return device.upper().replace(":", ".")


class OpenVinoEngine:
    """Runs the exported graphs; a memory holds pairs of key and value arrays.

    OpenVINO is fastest with fixed shapes, so a graph is compiled for every number of templates and
    of targets that occurs: when it occurs first, in tenths of a second, and from the cache after.

    Attributes:
        segment_runs: How often the search graph of each segment has been run.
    """

    def __init__(self, bundle: Bundle, options: EngineOptions) -> None:
        """Read the graphs of a bundle.

        Args:
            bundle: A bundle with exported graphs.
            options: Device `cpu`, `gpu`, `gpu:N` or `npu`; precision `auto` is the bundle's.

        Raises:
            BundleError, EngineError: the graphs are missing or not what they should be.
            UnavailableError: OpenVINO does not find the device, the device lacks the precision, or
                OpenVINO cannot read the graphs.
        """
        check_graphs(bundle)
        load_segments(bundle)
        self._spec = bundle.spec
        precision = options.precision
        if precision == "auto":
            precision = bundle.inference_precision
        if (precision == "int8") != (bundle.inference_precision == "int8"):
            remedy = "; `mixformerv2 quantize` makes int8 ones" if precision == "int8" else ""
            raise UnavailableError(
                f"precision {precision} is not available: the graphs of {bundle.path} are "
                f"{bundle.inference_precision}{remedy}"
            )
        self._options, self._precision = options, precision
        self._core = openvino_core()
        self._device = _openvino_name(options.device)
        able = openvino_precisions(options.device)
        if precision not in able:
            raise UnavailableError(
                f"precision {precision} is not available: OpenVINO's {options.device} has "
                f"{', '.join(able)}"
            )
        self._config: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
        }
        if self._device == "CPU":
            self._config["INFERENCE_NUM_THREADS"] = options.threads
            # Pinned threads would sit on the cores that the rest of the robot is using.
            self._config["ENABLE_CPU_PINNING"] = False
        self._cache: dict[str, Any] = {"CACHE_DIR": str(cache_folder("openvino"))}
        try:
            self._encoder, self._search = (
                self._core.read_model(bundle.path / name) for name in (TEMPLATE_ENCODER, SEARCH)
            )
            self._own_heads = has_exit_graphs(bundle)
            heads = exit_graphs(bundle.spec) if self._own_heads else ()
            self._segments = [
                [
                    self._core.read_model(bundle.path / name)
                    for name in (*pair, *heads[number : number + 1])
                ]
                for number, pair in enumerate(segment_graphs(bundle.spec))
            ]
        except Exception as error:
            reason = printable(" ".join(str(error).split()), 300)
            raise UnavailableError(f"OpenVINO cannot load {bundle.path}: {reason}") from None
        self._encoders: dict[int, ov.InferRequest] = {}
        self._searches: dict[tuple[int, int], _FixedRequest] = {}
        self._segment_encoders: dict[tuple[int, int], ov.InferRequest] = {}
        self._segment_requests: dict[tuple[str | int, ...], _FixedRequest] = {}
        self._by_segments = False
        self.segment_runs = [0] * len(bundle.spec.depths)

    @property
    def spec(self) -> ModelSpec:
        """Architecture of the loaded model."""
        return self._spec

    @property
    def name(self) -> str:
        """Such as `openvino/cpu`; with the precision where it is not fp32, `openvino/cpu/bf16`."""
        suffix = "" if self._precision == "fp32" else f"/{self._precision}"
        return f"openvino/{self._options.device}{suffix}"

    @engine_errors
    def encode_templates(self, templates: npt.NDArray[np.uint8]) -> Memory:
        """Encode (1 + n, T, T, 3) uint8 RGB templates.

        Those of a model with exits are encoded in the form that the last search needed; the rest
        follows when a search reaches it.
        """
        if not self._spec.exits:
            return self._encode(templates)
        memory = LazyMemory(templates, self._encode, self._encode_segment, self._spec.depths)
        memory.begin(self._by_segments)
        return memory

    def _encode(self, templates: npt.NDArray[np.uint8]) -> OpenVinoMemory:
        count, side = len(templates), self._spec.template_size
        request = self._encoders.get(count)
        if request is None:
            shapes = {"templates": (1, count, side, side, 3)}
            request = self._encoders[count] = self._compile(self._encoder, shapes)
        keys, values = self._run(request, {"templates": templates[None]})
        return keys, values

    @engine_errors
    def search(
        self,
        crops: npt.NDArray[np.uint8],
        memories: Sequence[Memory],
        stop: Stop | None = None,
    ) -> Prediction:
        """Find targets in (B, S, S, 3) uint8 RGB crops."""
        lazy = [memory for memory in memories if isinstance(memory, LazyMemory)]
        self._by_segments = stop is not None and bool(lazy)
        if stop is not None and lazy:
            unlike = len({len(memory.templates) for memory in lazy}) > 1
            if len(lazy) > 1 and (unlike or self._device == "CPU"):
                return search_separately(self, crops, lazy, stop)
            return self._search_by_segments(crops, lazy, stop)
        whole = [whole_memory(memory) for memory in memories]
        different = len({keys.shape for keys, _ in whole}) > 1
        # On a CPU, targets one after the other cost little more than a batch of them,
        # and none of them waits for a graph to be compiled when another one comes or goes.
        if len(memories) > 1 and (different or self._device == "CPU"):
            return search_separately(self, crops, memories)
        keys, values = join_memories(whole)
        kind = (len(crops), keys.shape[3])
        inputs: State = {"crops": crops, "keys": keys, "values": values}
        search = self._searches.get(kind)
        if search is None:
            shapes = {name: value.shape for name, value in inputs.items()}
            request = self._compile(self._search, shapes)
            search = self._searches[kind] = _FixedRequest(request, inputs, ANSWERS)
        boxes, scores, edges = (part.copy() for part in search(inputs).values())
        depths = np.full(len(boxes), self._spec.depth)
        return Prediction(boxes=boxes, scores=scores, edges=edges, depths=depths)

    def _encode_segment(
        self, number: int, start: npt.NDArray[Any]
    ) -> tuple[npt.NDArray[np.float32] | None, OpenVinoMemory]:
        name, value = ("tokens", start) if number else ("templates", start[None])
        key = (number, value.shape[1])
        request = self._segment_encoders.get(key)
        if request is None:
            model = self._segments[number][0]
            request = self._segment_encoders[key] = self._compile(model, {name: value.shape})
        *tokens, keys, values = self._run(request, {name: value})
        return (tokens[0] if tokens else None), (keys, values)

    def _search_by_segments(
        self,
        crops: npt.NDArray[np.uint8],
        memories: Sequence[LazyMemory[OpenVinoMemory]],
        stop: Stop,
    ) -> Prediction:
        def run(
            number: int,
            rows: npt.NDArray[np.intp],
            state: State | None,
            kept: npt.NDArray[np.intp] | None,
        ) -> SegmentEnd[State]:
            keys, values = join_memories([memories[row].segment(number) for row in rows])
            inputs: State = {"keys": keys, "values": values}
            if state is None:
                inputs["crops"] = crops
            else:
                expected = search_ends(self._spec, number, self._own_heads)[0]
                inputs |= {n: _rows(state[n], kept) for n in expected if n in state}
            names = search_ends(self._spec, number, self._own_heads)[1]
            found = self._infer("search", number, inputs, names)
            self.segment_runs[number] += 1
            if "quality" not in found:
                return SegmentEnd(None, None, _answer(found).rows)
            following: State = {
                name.removeprefix("next_"): value
                for name, value in found.items()
                if name.startswith("next_")
            }

            def answer(places: npt.NDArray[np.intp] | None) -> SegmentAnswer:
                if not self._own_heads:
                    return _answer(found).rows(places)
                some = {"exit_tokens": _rows(following["exit_tokens"], places)}
                return _answer(self._infer("heads", number, some, ANSWERS))

            return SegmentEnd(found["quality"].copy(), following, answer)

        return search_by_segments(self._spec, len(crops), stop, run)

    def _infer(
        self, kind: str, number: int, inputs: State, names: Sequence[str]
    ) -> dict[str, npt.NDArray[Any]]:
        """Outputs by name, see `_FixedRequest`."""
        sizes = inputs["keys"].shape[1::2] if "keys" in inputs else inputs["exit_tokens"].shape[:1]
        key = (kind, number, *sizes)
        request = self._segment_requests.get(key)
        if request is None:
            model = self._segments[number][1 if kind == "search" else 2]
            shapes = {name: value.shape for name, value in inputs.items()}
            request = _FixedRequest(self._compile(model, shapes), inputs, names)
            self._segment_requests[key] = request
        return request(inputs)

    def _compile(self, model: ov.Model, shapes: Mapping[str, tuple[int, ...]]) -> ov.InferRequest:
        fixed = model.clone()
        fixed.reshape({name: list(shape) for name, shape in shapes.items()})
        try:
            compiled = self._core.compile_model(fixed, self._device, self._config | self._cache)
        except Exception as error:
            # A cache that is damaged, of another version or on a full disk must not end the engine;
            # what fails without it too is a failure of the graph or the device.
            compiled = self._core.compile_model(fixed, self._device, self._config)
            if self._cache:
                reason = printable(" ".join(str(error).split()), 300)
                folder = self._cache["CACHE_DIR"]
                log.warning("graphs are not kept compiled in %s: %s", folder, reason)
            self._cache = {}
        return compiled.create_infer_request()

    @staticmethod
    def _run(
        request: ov.InferRequest, inputs: dict[str, npt.NDArray[Any]]
    ) -> list[npt.NDArray[np.float32]]:
        _check_inputs(request, inputs)
        results = request.infer(inputs, share_inputs=True)
        return list(results.values())


def _check_inputs(request: ov.InferRequest, inputs: Mapping[str, npt.NDArray[Any]]) -> None:
    """Given by name and without a copy, inputs must have the graph's very types and shapes.

    Raises:
        ValueError: they have not.
    """
    expected = {port.any_name: port for port in request.model_inputs}
    for name, value in inputs.items():
        port = expected[name]
        if tuple(port.shape) != value.shape or port.element_type.to_dtype() != value.dtype:
            raise ValueError(
                f"{name} must be {port.element_type.to_dtype()} {tuple(port.shape)}, got "
                f"{value.dtype} {value.shape}"
            )


class _FixedRequest:
    """A request for inputs of one set of shapes, whose tensors are set only when they change.

    To set and to fetch ten tensors for every segment of a small model takes a tenth of its time.
    """

    def __init__(
        self,
        request: ov.InferRequest,
        inputs: Mapping[str, npt.NDArray[Any]],
        outputs: Sequence[str],
    ) -> None:
        """Take over a request.

        Args:
            request: It, with all shapes fixed.
            inputs: An example of what is to come.
            outputs: Names of its outputs. By their places: of the names of a tensor, OpenVINO may
                tell another one.
        """
        _check_inputs(request, inputs)
        self._request = request
        self._outputs = dict(zip(outputs, request.model_outputs, strict=True))
        self._set: dict[str, npt.NDArray[Any]] = {}
        self._found: dict[str, npt.NDArray[Any]] = {}

    def __call__(self, inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Outputs by name: views into the memory of the request, which its next call writes to.

        An array that is given again is read again, without being copied.
        """
        for name, value in inputs.items():
            if self._set.get(name) is not value:
                value = np.ascontiguousarray(value)
                self._request.set_tensor(name, ov.Tensor(value, shared_memory=True))
                self._set[name] = value
        self._request.infer()
        if not self._found:
            self._found = {
                name: self._request.get_tensor(port).data for name, port in self._outputs.items()
            }
        return self._found


def _rows(value: npt.NDArray[Any], places: npt.NDArray[np.intp] | None) -> npt.NDArray[Any]:
    """The part of a batch in these places; None: all of it."""
    return value if places is None else value[places]


def _answer(found: Mapping[str, npt.NDArray[Any]]) -> SegmentAnswer:
    return SegmentAnswer(*(found[name] for name in ANSWERS))
