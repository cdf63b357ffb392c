"""Export of a bundle to two ONNX graphs: template encoder and search step.

The graphs take uint8 RGB crops, normalise them, and hold no weights of their own: every parameter
points into the bundle's `model.safetensors`, so that one copy of the weights serves both graphs and
torch. ONNX Runtime turns fp16 parameters into fp32 when it loads them.
"""

from __future__ import annotations

import json
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import external_data_helper, helper
from torch import Tensor, nn

from mixformerv2_ros.engines.onnx_engine import OnnxEngine
from mixformerv2_ros.engines.torch_engine import TorchEngine
from mixformerv2_ros.errors import BundleError
from mixformerv2_ros.files import write_file
from mixformerv2_ros.model.bundle import (
    SEARCH,
    TEMPLATE_ENCODER,
    WEIGHTS,
    Bundle,
    read_weights,
    record_graphs,
)
from mixformerv2_ros.model.engine import Engine
from mixformerv2_ros.network.model import MixFormerV2, normalize

OPSET = 18
TOLERANCE = 1e-4
"""Largest difference of boxes (normalised) and scores between ONNX Runtime and torch."""

_ONNX_TYPES = {"F32": onnx.TensorProto.FLOAT, "F16": onnx.TensorProto.FLOAT16}


class TemplateEncoder(nn.Module):
    """Graph 1: templates (B, K, T, T, 3) uint8 -> keys and values of all blocks."""

    def __init__(self, network: MixFormerV2) -> None:
        super().__init__()
        self.network = network

    def forward(self, templates: Tensor) -> tuple[Tensor, Tensor]:
        """See `Backbone.encode_templates`."""
        return self.network.encode_templates(normalize(templates))


class SearchStep(nn.Module):
    """Graph 2: crops (B, S, S, 3) uint8, keys and values -> boxes, scores, edge distributions."""

    def __init__(self, network: MixFormerV2) -> None:
        super().__init__()
        self.network = network

    def forward(self, crops: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what `Prediction` holds."""
        output = self.network.search(normalize(crops), keys, values)
        return output.boxes, output.score_logits.sigmoid(), output.edge_logits.softmax(dim=-1)


@dataclass(frozen=True)
class Difference:
    """Largest absolute differences between ONNX Runtime and torch over the checked inputs."""

    boxes: float
    scores: float
    edges: float


def export_bundle(bundle: Bundle) -> Difference:
    """Write both graphs into the bundle's folder and compare them with torch.

    Raises:
        BundleError: the graphs differ from torch by more than `TOLERANCE`; they are removed again.
    """
    network = MixFormerV2.from_weights(bundle.spec, read_weights(bundle))
    spec = bundle.spec
    batch, templates, tokens = (torch.export.Dim(name) for name in ("batch", "templates", "tokens"))
    # Sizes 2 and 3 here are examples: torch takes sizes 0 and 1 for constants.
    example = torch.zeros(2, 3, spec.template_size, spec.template_size, 3, dtype=torch.uint8)
    crops = torch.zeros(2, spec.search_size, spec.search_size, 3, dtype=torch.uint8)
    keys, values = network.encode_templates(normalize(example))
    _write(
        TemplateEncoder(network),
        (example,),
        {"templates": {0: batch, 1: templates}},
        ["keys", "values"],
        bundle,
        TEMPLATE_ENCODER,
    )
    _write(
        SearchStep(network),
        (crops, keys, values),
        {"crops": {0: batch}, "keys": {1: batch, 3: tokens}, "values": {1: batch, 3: tokens}},
        ["boxes", "scores", "edges"],
        bundle,
        SEARCH,
    )
    record_graphs(bundle)
    difference = compare(bundle, network)
    if not max(difference.boxes, difference.scores) <= TOLERANCE:
        for name in (TEMPLATE_ENCODER, SEARCH):
            (bundle.path / name).unlink()
        record_graphs(bundle)
        raise BundleError(
            f"{bundle.path}: ONNX Runtime must agree with torch to {TOLERANCE:g}, got "
            f"{difference.boxes:.2g} on boxes and {difference.scores:.2g} on scores"
        )
    return difference


def compare(bundle: Bundle, network: MixFormerV2) -> Difference:
    """Run both engines on random crops, for 1 and 3 online templates and 1 and 2 targets."""
    rng = np.random.default_rng(0)
    spec = bundle.spec
    engines: tuple[Engine, Engine] = (TorchEngine(network), OnnxEngine(bundle))
    worst = np.zeros(3)
    for online in (1, 3):
        for targets in (1, 2):
            shape = (targets, 1 + online, spec.template_size, spec.template_size, 3)
            templates = rng.integers(0, 256, shape, dtype=np.uint8)
            crops = rng.integers(
                0, 256, (targets, spec.search_size, spec.search_size, 3), dtype=np.uint8
            )
            a, b = (
                engine.search(crops, [engine.encode_templates(one) for one in templates])
                for engine in engines
            )
            differences = (a.boxes - b.boxes, a.scores - b.scores, a.edges - b.edges)
            worst = np.maximum(worst, [np.abs(d).max() for d in differences])
    return Difference(*(float(value) for value in worst))


def _write(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    dynamic: dict[str, dict[int, torch.export.Dim]],
    outputs: list[str],
    bundle: Bundle,
    name: str,
) -> None:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # The exporter warns of its own internals; what counts is compared with torch afterwards.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(),
            inputs,
            input_names=list(dynamic),
            output_names=outputs,
            dynamic_shapes=dynamic,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
            optimize=False,
        )
    assert program is not None
    model = program.model_proto
    _point_into_weights(model, bundle)
    _drop_traces(model)
    write_file(bundle.path / name, model.SerializeToString(deterministic=True))


def _point_into_weights(model: onnx.ModelProto, bundle: Bundle) -> None:
    """Replace every parameter's values by a reference into the safetensors file."""
    places = _tensor_places(bundle.weights_path)
    graph = model.graph
    casts = []
    for tensor in graph.initializer:
        key = tensor.name.removeprefix("network.")
        if key not in places:
            continue
        dtype, shape, offset, length = places[key]
        assert list(tensor.dims) == shape, f"{key}: {list(tensor.dims)} against {shape}"
        name = tensor.name
        tensor.Clear()
        tensor.dims.extend(shape)
        tensor.data_type = _ONNX_TYPES[dtype]
        tensor.name = name if dtype == "F32" else f"{name}.{dtype}"
        tensor.raw_data = b"\0"
        external_data_helper.set_external_data(tensor, WEIGHTS, offset=offset, length=length)
        tensor.ClearField("raw_data")
        if dtype != "F32":
            casts.append(helper.make_node("Cast", [tensor.name], [name], to=onnx.TensorProto.FLOAT))
    for cast in reversed(casts):
        graph.node.insert(0, cast)


def _tensor_places(path: Path) -> dict[str, tuple[str, list[int], int, int]]:
    """Where each tensor of a safetensors file lies: dtype, shape, offset and length in bytes."""
    with path.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(size))
    places = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            places[name] = (entry["dtype"], entry["shape"], 8 + size + begin, end - begin)
    return places


def _drop_traces(model: onnx.ModelProto) -> None:
    """Remove the exporter's notes: source paths of this machine and names of its internals."""
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in [*model.graph.value_info, *model.graph.input, *model.graph.output]:
        del value.metadata_props[:]
    for tensor in model.graph.initializer:
        del tensor.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.graph.value_info[:]
    for function in model.functions:
        del function.metadata_props[:]
