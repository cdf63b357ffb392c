"""Engine on ONNX Runtime: what runs on robots. Needs no torch."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from mixformerv2_ros.engines.failures import engine_errors
from mixformerv2_ros.engines.onnx_binding import (
    BoundGraph,
    BoundSearch,
    HeldMemories,
    OnnxMemory,
)
from mixformerv2_ros.engines.options import EngineOptions, UnavailableError, cache_folder
from mixformerv2_ros.engines.segments import (
    LazyMemory,
    SegmentAnswer,
    SegmentEnd,
    search_by_segments,
    whole_memory,
)
from mixformerv2_ros.errors import EngineError
from mixformerv2_ros.model.bundle import (
    GRAPHS,
    SEARCH,
    TEMPLATE_ENCODER,
    Bundle,
    exit_graphs,
    has_exit_graphs,
    needed_graphs,
    segment_graphs,
    verify_graphs,
    verify_weights,
)
from mixformerv2_ros.model.engine import Prediction, Stop, search_separately
from mixformerv2_ros.model.spec import ModelSpec
from mixformerv2_ros.text import printable

Memory = OnnxMemory | LazyMemory[OnnxMemory]
"""Encoded templates: of a model with exits a `LazyMemory`."""

log = logging.getLogger(__package__)

ANSWERS = ("boxes", "scores", "edges")
"""Outputs of every graph that answers."""
_STATE = ("search_tokens", "queries", "all_keys", "all_values")
_OLD_STATE = ("search_tokens", "all_keys", "all_values", "prediction_tokens")


def encoder_ends(spec: ModelSpec, number: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the inputs and outputs of a segment's template encoder."""
    tokens = ("next_tokens",) if number < len(spec.exits) else ()
    return ("tokens" if number else "templates",), (*tokens, "keys", "values")


def search_ends(
    spec: ModelSpec, number: int, own_heads: bool = True
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the inputs and outputs of a segment's search graph.

    A segment takes what the one before hands on under the same name after `next_`, see
    `network.segments.SegmentState`. Only exits take `exit_tokens`, to recycle them.

    Args:
        spec: The architecture.
        number: Which segment, counted from 0.
        own_heads: See `model.bundle.has_exit_graphs`.
    """
    if not own_heads:
        return _old_search_ends(spec, number)
    inputs: tuple[str, ...] = ("crops", "keys", "values")
    if number:
        recycled = ("exit_tokens",) if number < len(spec.exits) else ()
        inputs = (*_STATE, "keys", "values", *recycled)
    if number == len(spec.exits):
        return inputs, ANSWERS
    return inputs, ("quality", *(f"next_{name}" for name in (*_STATE, "exit_tokens")))


def _old_search_ends(spec: ModelSpec, number: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The same of bundles in which every segment answers."""
    last = len(spec.exits)

    def recycled(number: int) -> tuple[str, ...]:
        return ("recycled",) if 1 < number < last else ()

    inputs: tuple[str, ...] = ("crops", "keys", "values")
    if number:
        inputs = (*_OLD_STATE, "keys", "values", *recycled(number))
    if number == last:
        return inputs, ANSWERS
    following = (f"next_{name}" for name in (*_OLD_STATE, *recycled(number + 1)))
    return inputs, (*ANSWERS, "quality", *following)


HEADS_ENDS = (("exit_tokens",), ANSWERS)
"""Names of the inputs and outputs of the graph of an exit's heads."""


@dataclass(frozen=True)
class SegmentSessions:
    """Graphs of one segment.

    Attributes:
        encoder: Its template encoder.
        search: Its search graph.
        heads: That of the heads of its exit; None at full depth, and where `search` answers.
    """

    encoder: ort.InferenceSession
    search: ort.InferenceSession
    heads: ort.InferenceSession | None


@dataclass(frozen=True)
class _Segment:
    """The same, ready to be run; see `onnx_binding`."""

    encoder: ort.InferenceSession
    search: BoundGraph
    heads: BoundGraph | None
    memories: HeldMemories


class OnnxEngine:
    """Runs the exported graphs; a memory holds pairs of key and value arrays.

    The graphs of segments are loaded by the first search with `stop`. What one segment hands to the
    next stays on the device; only where some targets of a batch go on and others do not is it
    regrouped on the host.

    Attributes:
        segment_runs: How often the search graph of each segment has been run.
    """

    def __init__(self, bundle: Bundle, options: EngineOptions | None = None) -> None:
        """Load the graphs of a bundle.

        Args:
            bundle: A bundle with exported graphs.
            options: Device `cpu`, `cuda` or `cuda:N`; precision `auto` is that of the graphs.

        Raises:
            BundleError, EngineError: the graphs are missing or not what they should be.
            UnavailableError: this build of ONNX Runtime has no such device or precision.
        """
        options = options or EngineOptions()
        exact = "int8" if bundle.inference_precision == "int8" else "fp32"
        precision = exact if options.precision == "auto" else options.precision
        providers = _providers(options, precision, exact)
        self._spec = bundle.spec
        self._options = options
        self._precision = precision
        self._encoder, self._search = check_graphs(bundle, _session_options(options), providers)
        self._bound = None
        if options.device != "cpu":
            self._bound = BoundSearch(self._search, options.device, join_memories)
        self._load_segments = partial(load_segments, bundle, _session_options(options), providers)
        self._segments: list[_Segment] = []
        self._by_segments = False
        kind, _, number = options.device.partition(":")
        self._device = kind, int(number or 0)
        self.segment_runs = [0] * len(bundle.spec.depths)

    @property
    def spec(self) -> ModelSpec:
        """Architecture of the loaded model."""
        return self._spec

    @property
    def name(self) -> str:
        """Such as `onnxruntime/cpu` or `onnxruntime/cuda:0`, with a precision other than fp32."""
        suffix = "" if self._precision == "fp32" else f"/{self._precision}"
        return f"onnxruntime/{self._options.device}{suffix}"

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
            if len({len(memory.templates) for memory in lazy}) > 1:
                return search_separately(self, crops, memories, stop)
            return self._search_by_segments(crops, lazy, stop)
        whole = [whole_memory(memory) for memory in memories]
        if len({keys.shape for keys, _ in whole}) > 1:
            return search_separately(self, crops, memories)
        boxes, scores, edges = self._run(crops, whole)
        depths = np.full(len(boxes), self._spec.depth)
        return Prediction(boxes=boxes, scores=scores, edges=edges, depths=depths)

    def _run(
        self, crops: npt.NDArray[np.uint8], memories: Sequence[OnnxMemory]
    ) -> Sequence[npt.NDArray[np.float32]]:
        if self._bound is not None:
            return self._bound(crops, memories)
        keys, values = join_memories(memories)
        inputs: dict[str, Any] = {"crops": crops, "keys": keys, "values": values}
        outputs: Sequence[npt.NDArray[np.float32]] = self._search.run(None, inputs)
        return outputs

    def _encode(self, templates: npt.NDArray[np.uint8]) -> OnnxMemory:
        keys, values = self._encoder.run(None, {"templates": templates[None]})
        return keys, values

    def _encode_segment(
        self, number: int, start: npt.NDArray[Any]
    ) -> tuple[npt.NDArray[np.float32] | None, OnnxMemory]:
        encoder = self._segment(number).encoder
        inputs = {"tokens": start} if number else {"templates": start[None]}
        *tokens, keys, values = encoder.run(None, inputs)
        return (tokens[0] if tokens else None), (keys, values)

    def _segment(self, number: int) -> _Segment:
        if not self._segments:
            self._segments = [
                _Segment(
                    one.encoder,
                    BoundGraph(one.search, self._device),
                    None if one.heads is None else BoundGraph(one.heads, self._device),
                    HeldMemories(self._device, join_memories),
                )
                for one in self._load_segments()
            ]
        return self._segments[number]

    def _search_by_segments(
        self,
        crops: npt.NDArray[np.uint8],
        memories: Sequence[LazyMemory[OnnxMemory]],
        stop: Stop,
    ) -> Prediction:
        def run(
            number: int,
            rows: npt.NDArray[np.intp],
            state: dict[str, ort.OrtValue] | None,
            kept: npt.NDArray[np.intp] | None,
        ) -> SegmentEnd[dict[str, ort.OrtValue]]:
            segment = self._segment(number)
            keys, values = segment.memories([memories[row].segment(number) for row in rows])
            inputs: dict[str, ort.OrtValue | npt.NDArray[Any]] = {"keys": keys, "values": values}
            if state is None:
                inputs["crops"] = crops
            else:
                inputs |= {name: self._rows(value, kept) for name, value in state.items()}
            found = segment.search(inputs)
            self.segment_runs[number] += 1
            if "quality" not in found:
                return SegmentEnd(None, None, _answer(found).rows)
            following = {
                name.removeprefix("next_"): value
                for name, value in found.items()
                if name.startswith("next_")
            }

            def answer(places: npt.NDArray[np.intp] | None) -> SegmentAnswer:
                if segment.heads is None:
                    return _answer(found).rows(places)
                tokens = self._rows(following["exit_tokens"], places)
                return _answer(segment.heads({"exit_tokens": tokens}))

            return SegmentEnd(found["quality"].numpy().copy(), following, answer)

        return search_by_segments(self._spec, len(crops), stop, run)

    def _rows(self, value: ort.OrtValue, places: npt.NDArray[np.intp] | None) -> ort.OrtValue:
        """The part of a batch in these places, on the device; None: all of it."""
        if places is None:
            return value
        some = np.ascontiguousarray(value.numpy()[places])
        return ort.OrtValue.ortvalue_from_numpy(some, *self._device)


def _answer(found: Mapping[str, ort.OrtValue]) -> SegmentAnswer:
    return SegmentAnswer(*(found[name].numpy() for name in ANSWERS))


def check_graphs(
    bundle: Bundle,
    options: ort.SessionOptions | None = None,
    providers: Sequence[tuple[str, dict[str, Any]]] = (("CPUExecutionProvider", {}),),
) -> tuple[ort.InferenceSession, ort.InferenceSession]:
    """Load the graphs of a whole model after checking all that a stranger could have changed.

    ONNX Runtime refuses graphs that read files outside of their folder; libraries that do not must
    read a graph only after this.

    Args:
        bundle: A bundle.
        options: Options of the sessions; None: those for a look at the graphs alone.
        providers: Execution providers with their options.

    Raises:
        BundleError: a file does not have the checksum that the bundle names.
        EngineError: a graph is missing, cannot be loaded, or has other inputs or outputs.
    """
    for name in needed_graphs(bundle):
        if not (bundle.path / name).is_file():
            raise EngineError(
                f"{bundle.path} must hold {name}; write it with `mixformerv2 export {bundle.path}`"
            )
    verify_weights(bundle)
    verify_graphs(bundle)
    encoder, search = _sessions(bundle, GRAPHS, options, providers)
    sizes = bundle.spec.template_size, bundle.spec.search_size
    _check(encoder, TEMPLATE_ENCODER, ("templates",), ("keys", "values"), sizes[0])
    _check(search, SEARCH, ("crops", "keys", "values"), ANSWERS, sizes[1])
    return encoder, search


def load_segments(
    bundle: Bundle,
    options: ort.SessionOptions | None = None,
    providers: Sequence[tuple[str, dict[str, Any]]] = (("CPUExecutionProvider", {}),),
) -> list[SegmentSessions]:
    """Load the graphs of every segment, after `check_graphs`.

    Raises:
        EngineError: a graph cannot be loaded, or has other inputs or outputs.
    """
    spec, own_heads = bundle.spec, has_exit_graphs(bundle)
    heads = exit_graphs(spec) if own_heads else ()
    loaded = []
    for number, pair in enumerate(segment_graphs(spec)):
        leaving = heads[number : number + 1]
        encoder, search, *answering = _sessions(bundle, (*pair, *leaving), options, providers)
        sizes = (spec.template_size, spec.search_size) if number == 0 else (0, 0)
        _check(encoder, pair[0], *encoder_ends(spec, number), sizes[0])
        _check(search, pair[1], *search_ends(spec, number, own_heads), sizes[1])
        for name, session in zip(leaving, answering, strict=True):
            _check(session, name, *HEADS_ENDS, 0)
        loaded.append(SegmentSessions(encoder, search, answering[0] if answering else None))
    return loaded


def _sessions(
    bundle: Bundle,
    names: Sequence[str],
    options: ort.SessionOptions | None,
    providers: Sequence[tuple[str, dict[str, Any]]],
) -> tuple[ort.InferenceSession, ...]:
    if options is None:
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
    try:
        return tuple(
            ort.InferenceSession(str(bundle.path / name), options, providers=list(providers))
            for name in names
        )
    except Exception as error:
        reason = " ".join(str(error).split())
        raise EngineError(f"{bundle.path}: ONNX Runtime cannot load it: {reason}") from None


def _session_options(options: EngineOptions) -> ort.SessionOptions:
    session = ort.SessionOptions()
    session.intra_op_num_threads = options.threads
    # Within a run, threads that spin between operators save a tenth of the time. Between frames
    # they would burn a core for nothing.
    session.add_session_config_entry("session.intra_op.allow_spinning", str(int(options.spinning)))
    session.add_session_config_entry("session.force_spinning_stop", "1")
    session.log_severity_level = 3
    return session


def _providers(
    options: EngineOptions, precision: str, exact: str
) -> list[tuple[str, dict[str, Any]]]:
    """Execution providers for a device and precision, the preferred one first.

    Raises:
        UnavailableError: this build of ONNX Runtime has none.
    """
    kind, _, number = options.device.partition(":")
    found = ort.get_available_providers()
    gpu = {"device_id": number} if number else {}
    cache = cache_folder("tensorrt")
    tensorrt = gpu | {
        "trt_fp16_enable": str(precision == "fp16"),
        "trt_layer_norm_fp32_fallback": "True",
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": str(cache),
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(cache),
    }
    known: dict[str, list[tuple[str, dict[str, Any], tuple[str, ...]]]] = {
        "cpu": [("CPUExecutionProvider", {}, (exact,))],
        "cuda": [
            ("TensorrtExecutionProvider", tensorrt, ("fp16",)),
            ("CUDAExecutionProvider", gpu, (exact,)),
        ],
    }
    there = [entry for entry in known.get(kind, []) if entry[0] in found]
    if not there:
        names = " or ".join(entry[0] for entry in known.get(kind, [])) or "provider for it"
        raise UnavailableError(
            f"{options.device} is not available: this ONNX Runtime build has no {names}, it has "
            f"{', '.join(found)}"
        )
    able = [entry for entry in there if precision in entry[2]]
    if not able:
        possible = ", ".join(one for entry in there for one in entry[2])
        raise UnavailableError(
            f"precision {precision} is not available: ONNX Runtime on {options.device} runs this "
            f"bundle in {possible}"
        )
    if able[0][0] == "TensorrtExecutionProvider":
        try:
            cache.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            log.warning(
                "no cache of TensorRT engines in %s (%s); every start builds them",
                cache,
                error.strerror,
            )
            tensorrt |= {"trt_engine_cache_enable": "False", "trt_timing_cache_enable": "False"}
        able += [entry for entry in there if entry not in able]
    return [(name, settings) for name, settings, _ in able]


def _check(
    session: ort.InferenceSession,
    name: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    size: int,
) -> None:
    """Compare the ends of a graph with the model; `size` of its images, 0 where it takes none.

    Raises:
        EngineError: they are others.
    """
    expected = (tuple(inputs), tuple(outputs))
    ends = (session.get_inputs(), session.get_outputs())
    found = tuple(tuple(end.name for end in one) for one in ends)
    if found != expected:
        got = printable(str(found), 200)
        raise EngineError(f"{name} must have inputs and outputs {expected}, got {got}")
    image = session.get_inputs()[0]
    if size and (image.type != "tensor(uint8)" or list(image.shape[-3:]) != [size, size, 3]):
        got = printable(f"{image.type} {image.shape}")
        raise EngineError(
            f"{inputs[0]} of {name} must be uint8 of (..., {size}, {size}, 3), got {got}"
        )


def join_memories(memories: Sequence[OnnxMemory]) -> OnnxMemory:
    """Keys and values of several targets with equally many templates, as one batch."""
    if len(memories) == 1:
        return memories[0]
    keys, values = zip(*memories, strict=True)
    return np.concatenate(keys, axis=1), np.concatenate(values, axis=1)
