"""Export of a bundle to ONNX graphs: template encoder, search step, and both per segment.

A model without exits has no segments, see `network.segments`. The heads of every exit are one more
graph, which is run for targets that are answered there.

The graphs take uint8 RGB crops, normalise them, and hold no weights of their own: every parameter
points into the bundle's `model.safetensors`, so that one copy of the weights serves both graphs and
torch. ONNX Runtime turns fp16 parameters into fp32 when it loads them.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import external_data_helper, helper
from torch import Tensor, nn

from mixformerv2_ros.engines.onnx_engine import (
    HEADS_ENDS,
    OnnxEngine,
    encoder_ends,
    search_ends,
)
from mixformerv2_ros.engines.torch_engine import TorchEngine
from mixformerv2_ros.errors import BundleError
from mixformerv2_ros.files import write_file
from mixformerv2_ros.model.bundle import (
    SEARCH,
    TEMPLATE_ENCODER,
    WEIGHTS,
    Bundle,
    exit_graphs,
    graph_names,
    read_weights,
    record_graphs,
    segment_graphs,
)
from mixformerv2_ros.model.engine import Engine, Stop
from mixformerv2_ros.network.model import MixFormerV2, normalize
from mixformerv2_ros.network.segments import (
    Answer,
    SegmentState,
    encode_segment,
    exit_answer,
    search_segment,
)

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


class SegmentEncoder(nn.Module):
    """Templates, or tokens of the segment before -> tokens, keys and values of a segment."""

    def __init__(self, network: MixFormerV2, number: int) -> None:
        super().__init__()
        self.network, self.number = network, number

    def forward(self, templates: Tensor) -> tuple[Tensor, ...]:
        """See `encode_segment`; the last segment leaves the tokens out."""
        start = templates if self.number else normalize(templates)
        encoded = encode_segment(self.network, self.number, start)
        return encoded[self.number == len(self.network.spec.exits) :]


class FirstSegment(nn.Module):
    """Crops (B, S, S, 3) uint8, keys and values -> the first exit's answer and a state."""

    def __init__(self, network: MixFormerV2) -> None:
        super().__init__()
        self.network = network

    def forward(self, crops: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, ...]:
        """See `search_segment`."""
        return _search(self.network, 0, normalize(crops), keys, values)


class NextSegment(nn.Module):
    """State, keys and values -> the decision of an exit, with the next state, or the last answer.

    Takes the tokens that the exit before read, `exit_tokens`, where the next exit recycles them.
    """

    def __init__(self, network: MixFormerV2, number: int) -> None:
        super().__init__()
        self.network, self.number = network, number

    def forward(
        self,
        search_tokens: Tensor,
        queries: Tensor,
        all_keys: Tensor,
        all_values: Tensor,
        keys: Tensor,
        values: Tensor,
        exit_tokens: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """See `search_segment`."""
        if exit_tokens is None:
            exit_tokens = search_tokens.new_empty(0)  # Nobody reads it.
        state = SegmentState(search_tokens, queries, all_keys, all_values, exit_tokens)
        return _search(self.network, self.number, state, keys, values)


class ExitHeads(nn.Module):
    """Tokens of an exit (B, 4, width) -> its boxes, scores and edge distributions."""

    def __init__(self, network: MixFormerV2, number: int) -> None:
        super().__init__()
        self.network, self.number = network, number

    def forward(self, exit_tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `exit_answer`."""
        answer = exit_answer(self.network, self.number, exit_tokens)
        return answer.boxes, answer.scores, answer.edges


def _search(
    network: MixFormerV2, number: int, start: Tensor | SegmentState, keys: Tensor, values: Tensor
) -> tuple[Tensor, ...]:
    found = search_segment(network, number, start, keys, values)
    if isinstance(found, Answer):
        return found.boxes, found.scores, found.edges
    return found.quality, *_state_tensors(found.state).values()


def _state_tensors(state: SegmentState) -> dict[str, Tensor]:
    """A state by the names that the graphs give its parts, in their order."""
    return {
        "search_tokens": state.tokens,
        "queries": state.queries,
        "all_keys": state.keys,
        "all_values": state.values,
        "exit_tokens": state.exit_tokens,
    }


@dataclass(frozen=True)
class Difference:
    """Largest absolute differences between ONNX Runtime and torch over the checked inputs.

    Attributes:
        boxes: Of the boxes.
        scores: Of the scores, and of the estimated IoU at exits.
        edges: Of the edge distributions.
    """

    boxes: float
    scores: float
    edges: float


def export_bundle(bundle: Bundle) -> Difference:
    """Write all graphs into the bundle's folder and compare them with torch.

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
    if spec.exits:
        _export_segments(bundle, network, example, crops)
    record_graphs(bundle)
    difference = compare(bundle, network)
    if not max(difference.boxes, difference.scores) <= TOLERANCE:
        for name in graph_names(spec):
            (bundle.path / name).unlink()
        record_graphs(bundle)
        raise BundleError(
            f"{bundle.path}: ONNX Runtime must agree with torch to {TOLERANCE:g}, got "
            f"{difference.boxes:.2g} on boxes and {difference.scores:.2g} on scores"
        )
    return difference


def _export_segments(
    bundle: Bundle, network: MixFormerV2, templates: Tensor, crops: Tensor
) -> None:
    """Write template encoder and search graph of every segment, and the heads of every exit."""
    names = segment_graphs(bundle.spec)
    batch, count, tokens, everything = (
        torch.export.Dim(name) for name in ("batch", "templates", "tokens", "all_tokens")
    )
    sizes = {
        "templates": {0: batch, 1: count},
        "tokens": {0: batch, 1: tokens},
        "crops": {0: batch},
        "keys": {1: batch, 3: tokens},
        "values": {1: batch, 3: tokens},
        "search_tokens": {0: batch},
        "all_keys": {0: batch, 2: everything},
        "all_values": {0: batch, 2: everything},
        "queries": {0: batch},
        "exit_tokens": {0: batch},
    }
    state: SegmentState | None = None
    given: dict[str, Tensor] = {"templates": templates, "crops": crops}
    for number, (encoder, search) in enumerate(names):
        inputs, outputs = encoder_ends(bundle.spec, number)
        tensors = tuple(given[name] for name in inputs)
        dynamic = {name: sizes[name] for name in inputs}
        _write(SegmentEncoder(network, number), tensors, dynamic, outputs, bundle, encoder)
        start = given["tokens"] if number else normalize(templates)
        given["tokens"], given["keys"], given["values"] = encode_segment(network, number, start)

        inputs, outputs = search_ends(bundle.spec, number)
        tensors = tuple(given[name] for name in inputs)
        dynamic = {name: sizes[name] for name in inputs}
        module = NextSegment(network, number) if number else FirstSegment(network)
        _write(module, tensors, dynamic, outputs, bundle, search)
        begin = normalize(crops) if state is None else state
        found = search_segment(network, number, begin, given["keys"], given["values"])
        if isinstance(found, Answer):
            break
        state = found.state
        given |= _state_tensors(state)
        inputs, outputs = HEADS_ENDS
        tensors, dynamic = (given["exit_tokens"],), {"exit_tokens": sizes["exit_tokens"]}
        heads = exit_graphs(bundle.spec)[number]
        _write(ExitHeads(network, number), tensors, dynamic, outputs, bundle, heads)


def compare(bundle: Bundle, network: MixFormerV2) -> Difference:
    """Run both engines on random crops, for 1 and 3 online templates and 1 and 2 targets.

    Of a model with exits also by segments: each target stopped at every exit and at full depth.
    """
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
            memories = [[engine.encode_templates(one) for one in templates] for engine in engines]
            for stop in (None, *map(_stop_from, spec.depths if spec.exits else ())):
                a, b = (
                    engine.search(crops, encoded, stop)
                    for engine, encoded in zip(engines, memories, strict=True)
                )
                scores = a.scores - b.scores
                if a.quality is not None and b.quality is not None:
                    scores = np.append(scores, np.nan_to_num(a.quality) - np.nan_to_num(b.quality))
                differences = (a.boxes - b.boxes, scores, a.edges - b.edges)
                worst = np.maximum(worst, [np.abs(d).max() for d in differences])
    return Difference(*(float(value) for value in worst))


def _stop_from(depth: int) -> Stop:
    """Answers the first target at `depth`, every other at the exit after."""
    return lambda reached, quality, rows: depth + rows <= reached


def _write(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    dynamic: dict[str, dict[int, torch.export.Dim]],
    outputs: Sequence[str],
    bundle: Bundle,
    name: str,
) -> None:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # The exporter warns of its own internals; what counts is compared with torch afterwards.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(),
            inputs,
            input_names=list(dynamic),
            output_names=list(outputs),
            dynamic_shapes=tuple(dynamic.values()),
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
