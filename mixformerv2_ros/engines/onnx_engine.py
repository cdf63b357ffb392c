"""Engine on ONNX Runtime: what runs on robots. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from mixformerv2_ros.engines.failures import engine_errors
from mixformerv2_ros.errors import EngineError
from mixformerv2_ros.model.bundle import (
    SEARCH,
    TEMPLATE_ENCODER,
    Bundle,
    verify_graphs,
    verify_weights,
)
from mixformerv2_ros.model.engine import Prediction, search_separately
from mixformerv2_ros.model.spec import ModelSpec
from mixformerv2_ros.text import printable

OnnxMemory = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]

_ENDS = {
    TEMPLATE_ENCODER: (("templates",), ("keys", "values")),
    SEARCH: (("crops", "keys", "values"), ("boxes", "scores", "edges")),
}
"""Names of the inputs and outputs of the graphs."""

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxEngine:
    """Runs the two exported graphs; a memory is the pair of key and value arrays."""

    def __init__(self, bundle: Bundle, device: str = "cpu", num_threads: int = 0) -> None:
        """Load the graphs of a bundle.

        Args:
            bundle: A bundle with exported graphs.
            device: `cpu`, `cuda` or `cuda:N`.
            num_threads: Threads of one graph run; 0 takes one per physical core.

        Raises:
            EngineError: the graphs are missing or cannot be run here.
        """
        for name in (TEMPLATE_ENCODER, SEARCH):
            if not (bundle.path / name).is_file():
                raise EngineError(
                    f"{bundle.path} must hold {name}; write it with "
                    f"`mixformerv2 export {bundle.path}`"
                )
        kind, _, number = device.partition(":")
        provider = _PROVIDERS[kind]
        if provider not in ort.get_available_providers():
            raise EngineError(
                f"{device} is not available: this ONNX Runtime build has no {provider}"
            )
        verify_weights(bundle)
        verify_graphs(bundle)
        self._spec = bundle.spec
        self._device = device
        options = ort.SessionOptions()
        options.intra_op_num_threads = num_threads
        # Within a run, threads that spin between operators save a tenth of the time. Between frames
        # they would burn a core for nothing.
        options.add_session_config_entry("session.intra_op.allow_spinning", "1")
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.log_severity_level = 3
        try:
            self._encoder, self._search = (
                ort.InferenceSession(
                    str(bundle.path / name),
                    options,
                    providers=[(provider, {"device_id": number} if number else {})],
                )
                for name in (TEMPLATE_ENCODER, SEARCH)
            )
        except Exception as error:
            reason = " ".join(str(error).split())
            raise EngineError(f"{bundle.path}: ONNX Runtime cannot load it: {reason}") from None
        _check(self._encoder, TEMPLATE_ENCODER, "templates", bundle.spec.template_size)
        _check(self._search, SEARCH, "crops", bundle.spec.search_size)

    @property
    def spec(self) -> ModelSpec:
        """Architecture of the loaded model."""
        return self._spec

    @property
    def name(self) -> str:
        """`onnxruntime/cpu`, `onnxruntime/cuda` or `onnxruntime/cuda:N`."""
        return f"onnxruntime/{self._device}"

    @engine_errors
    def encode_templates(self, templates: npt.NDArray[np.uint8]) -> OnnxMemory:
        """Encode (1 + n, T, T, 3) uint8 RGB templates."""
        keys, values = self._encoder.run(None, {"templates": templates[None]})
        return keys, values

    @engine_errors
    def search(self, crops: npt.NDArray[np.uint8], memories: Sequence[OnnxMemory]) -> Prediction:
        """Find targets in (B, S, S, 3) uint8 RGB crops."""
        if len({keys.shape for keys, _ in memories}) > 1:
            return search_separately(self, crops, memories)
        keys, values = memories[0] if len(memories) == 1 else _join(memories)
        inputs: dict[str, Any] = {"crops": crops, "keys": keys, "values": values}
        boxes, scores, edges = self._search.run(None, inputs)
        return Prediction(boxes=boxes, scores=scores, edges=edges)


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


def _join(memories: Sequence[OnnxMemory]) -> OnnxMemory:
    keys, values = zip(*memories, strict=True)
    return np.concatenate(keys, axis=1), np.concatenate(values, axis=1)
