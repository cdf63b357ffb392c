"""Engine on ONNX Runtime: what runs on robots. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from mixformerv2_ros.engines.failures import engine_errors
from mixformerv2_ros.engines.onnx_binding import BoundSearch, OnnxMemory
from mixformerv2_ros.engines.options import EngineOptions, UnavailableError, cache_folder
from mixformerv2_ros.errors import EngineError
from mixformerv2_ros.model.bundle import (
    GRAPHS,
    SEARCH,
    TEMPLATE_ENCODER,
    Bundle,
    verify_graphs,
    verify_weights,
)
from mixformerv2_ros.model.engine import Prediction, Stop, search_separately
from mixformerv2_ros.model.spec import ModelSpec
from mixformerv2_ros.text import printable

_ENDS = {
    TEMPLATE_ENCODER: (("templates",), ("keys", "values")),
    SEARCH: (("crops", "keys", "values"), ("boxes", "scores", "edges")),
}
"""Names of the inputs and outputs of the graphs."""


class OnnxEngine:
    """Runs the two exported graphs; a memory is the pair of key and value arrays."""

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
    def encode_templates(self, templates: npt.NDArray[np.uint8]) -> OnnxMemory:
        """Encode (1 + n, T, T, 3) uint8 RGB templates."""
        keys, values = self._encoder.run(None, {"templates": templates[None]})
        return keys, values

    @engine_errors
    def search(
        self,
        crops: npt.NDArray[np.uint8],
        memories: Sequence[OnnxMemory],
        stop: Stop | None = None,
    ) -> Prediction:
        """Find targets in (B, S, S, 3) uint8 RGB crops."""
        if len({keys.shape for keys, _ in memories}) > 1:
            return search_separately(self, crops, memories)
        boxes, scores, edges = self._run(crops, memories)
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


def check_graphs(
    bundle: Bundle,
    options: ort.SessionOptions | None = None,
    providers: Sequence[tuple[str, dict[str, Any]]] = (("CPUExecutionProvider", {}),),
) -> tuple[ort.InferenceSession, ort.InferenceSession]:
    """Load both graphs of a bundle after checking all that a stranger could have changed.

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
    for name in GRAPHS:
        if not (bundle.path / name).is_file():
            raise EngineError(
                f"{bundle.path} must hold {name}; write it with `mixformerv2 export {bundle.path}`"
            )
    verify_weights(bundle)
    verify_graphs(bundle)
    if options is None:
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
    try:
        encoder, search = (
            ort.InferenceSession(str(bundle.path / name), options, providers=list(providers))
            for name in GRAPHS
        )
    except Exception as error:
        reason = " ".join(str(error).split())
        raise EngineError(f"{bundle.path}: ONNX Runtime cannot load it: {reason}") from None
    _check(encoder, TEMPLATE_ENCODER, "templates", bundle.spec.template_size)
    _check(search, SEARCH, "crops", bundle.spec.search_size)
    return encoder, search


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
            f"{options.device} is not available: this ONNX Runtime build has no {names}"
        )
    able = [entry for entry in there if precision in entry[2]]
    if not able:
        possible = ", ".join(one for entry in there for one in entry[2])
        raise UnavailableError(
            f"precision {precision} is not available: ONNX Runtime on {options.device} runs this "
            f"bundle in {possible}"
        )
    if able[0][0] == "TensorrtExecutionProvider":
        cache.mkdir(parents=True, exist_ok=True)
        able += [entry for entry in there if entry not in able]
    return [(name, settings) for name, settings, _ in able]


def _check(session: ort.InferenceSession, name: str, images: str, size: int) -> None:
    """Compare the ends of a graph with the model.

    Raises:
        EngineError: they are others.
    """
    expected = _ENDS[name]
    ends = (session.get_inputs(), session.get_outputs())
    found = tuple(tuple(end.name for end in one) for one in ends)
    if found != expected:
        got = printable(str(found), 200)
        raise EngineError(f"{name} must have inputs and outputs {expected}, got {got}")
    image = session.get_inputs()[0]
    if image.type != "tensor(uint8)" or list(image.shape[-3:]) != [size, size, 3]:
        got = printable(f"{image.type} {image.shape}")
        raise EngineError(
            f"{images} of {name} must be uint8 of (..., {size}, {size}, 3), got {got}"
        )


def join_memories(memories: Sequence[OnnxMemory]) -> OnnxMemory:
    """Keys and values of several targets with equally many templates, as one batch."""
    if len(memories) == 1:
        return memories[0]
    keys, values = zip(*memories, strict=True)
    return np.concatenate(keys, axis=1), np.concatenate(values, axis=1)
