"""A convolutional network from an ONNX file as a torch module: any batch, any device.

Small trackers are published as ONNX files for single pictures. The few operators that they are made
of are run here by torch, so that a teacher works on whole batches where the student trains.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import Tensor, nn

from mixformerv2_ros.errors import CheckpointError

Attributes = Mapping[str, Any]


class OnnxModule(nn.Module):
    """A graph whose inputs and outputs are pictures or maps, run on batches (B, C, H, W).

    Attributes:
        input_shapes, output_shapes: As the file declares them, with a batch of 1.
    """

    def __init__(self, path: Path) -> None:
        """Read the graph.

        Raises:
            CheckpointError: the file cannot be read, has inputs or outputs whose sizes are not
                fixed, needs an operator that is not known here, or cannot be run; names it.
        """
        super().__init__()
        if not path.is_file():
            raise CheckpointError(f"{path}: expected an ONNX file, found none")
        try:
            graph = onnx.load(str(path)).graph
        except Exception as error:  # protobuf's own types
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(f"{path}: expected an ONNX graph: {reason}") from None
        unknown = sorted({node.op_type for node in graph.node} - _OPERATORS.keys())
        if unknown:
            raise CheckpointError(
                f"{path}: expected a graph of {', '.join(_OPERATORS)}, got {', '.join(unknown)}"
            )
        constants = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
        inputs = [one for one in graph.input if one.name not in constants]
        self.input_shapes = _shapes(inputs, "inputs", path)
        self.output_shapes = _shapes(graph.output, "outputs", path)
        self._inputs = [one.name for one in inputs]
        self._outputs = [one.name for one in graph.output]
        # Shapes and bounds are numbers of the graph; on a GPU, reading them would wait for it.
        self._numbers: dict[str, Any] = {}
        self._buffer_names: dict[str, str] = {}
        for name, value in constants.items():
            if value.ndim == 0 or np.issubdtype(value.dtype, np.integer):
                self._numbers[name] = value.tolist()
                continue
            tensor = torch.from_numpy(value.copy())
            if tensor.ndim == 4:
                tensor = tensor.contiguous(memory_format=torch.channels_last)
            self._buffer_names[name] = f"constant_{len(self._buffer_names)}"
            self.register_buffer(self._buffer_names[name], tensor, persistent=False)
        self._nodes = [
            (
                _OPERATORS[node.op_type],
                list(node.input),
                node.output[0],
                {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute},
            )
            for node in graph.node
        ]
        self._check(path)

    def _check(self, path: Path) -> None:
        """Run one batch of zeros: operators are known by name, not by all of their forms."""
        try:
            with torch.no_grad():
                found = self(*map(torch.zeros, self.input_shapes))
            shapes = [tuple(one.shape) for one in found]
        except Exception as error:  # whatever torch makes of operands that do not go together
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(f"{path}: expected a graph that can be run: {reason}") from None
        if shapes != self.output_shapes:
            raise CheckpointError(
                f"{path}: expected a graph that gives {self.output_shapes}, got {shapes}"
            )

    def forward(self, *batches: Tensor) -> tuple[Tensor, ...]:
        """Run one batch (B, C, H, W) for each input; returns one for each output."""
        values: dict[str, Any] = {
            name: getattr(self, buffer) for name, buffer in self._buffer_names.items()
        }
        values |= self._numbers
        for name, batch in zip(self._inputs, batches, strict=True):
            # Convolutions of few channels are three times as fast in this order on a CPU.
            values[name] = batch.contiguous(memory_format=torch.channels_last)
        for operator, inputs, output, attributes in self._nodes:
            values[output] = operator([values.get(name) for name in inputs], attributes)
        return tuple(values[name] for name in self._outputs)


def _shapes(values: Sequence[Any], what: str, path: Path) -> list[tuple[int, ...]]:
    shapes = [tuple(d.dim_value for d in one.type.tensor_type.shape.dim) for one in values]
    if not shapes or any(len(one) != 4 or one[0] != 1 or 0 in one for one in shapes):
        raise CheckpointError(
            f"{path}: expected {what} of fixed shapes (1, channels, height, width), got {shapes}"
        )
    return shapes


def _conv(inputs: list[Any], attributes: Attributes) -> Tensor:
    top, left, bottom, right = attributes.get("pads", (0, 0, 0, 0))
    picture, weight = inputs[:2]
    bias = inputs[2] if len(inputs) > 2 else None
    if (top, left) != (bottom, right):
        picture, top, left = F.pad(picture, (left, right, top, bottom)), 0, 0
    return F.conv2d(
        picture,
        weight,
        bias,
        stride=tuple(attributes.get("strides", (1, 1))),
        padding=(top, left),
        dilation=tuple(attributes.get("dilations", (1, 1))),
        groups=attributes.get("group", 1),
    )


def _gemm(inputs: list[Any], attributes: Attributes) -> Tensor:
    left, right = inputs[:2]
    left = left.T if attributes.get("transA") else left
    right = right.T if attributes.get("transB") else right
    product: Tensor = attributes.get("alpha", 1.0) * (left @ right)
    return product + attributes.get("beta", 1.0) * inputs[2] if len(inputs) > 2 else product


def _hard_sigmoid(inputs: list[Any], attributes: Attributes) -> Tensor:
    slope, offset = attributes.get("alpha", 0.2), attributes.get("beta", 0.5)
    return (inputs[0] * slope + offset).clamp(0, 1)


def _reshape(inputs: list[Any], _: Attributes) -> Tensor:
    # Written for a batch of 1, which is the first dimension.
    value, shape = inputs
    return value.reshape(value.shape[0], *shape[1:])


def _clip(inputs: list[Any], attributes: Attributes) -> Tensor:
    # Bounds are attributes up to version 10 of ONNX, then inputs that may be left out.
    value, *bounds = inputs
    low, high = (*bounds, None, None)[:2]
    return value.clamp(attributes.get("min", low), attributes.get("max", high))


_OPERATORS: dict[str, Callable[[list[Any], Attributes], Tensor]] = {
    "Conv": _conv,
    "Relu": lambda inputs, _: F.relu(inputs[0]),
    "HardSwish": lambda inputs, _: F.hardswish(inputs[0]),
    "HardSigmoid": _hard_sigmoid,
    "Sigmoid": lambda inputs, _: inputs[0].sigmoid(),
    "Exp": lambda inputs, _: inputs[0].exp(),
    "Clip": _clip,
    "GlobalAveragePool": lambda inputs, _: inputs[0].mean(dim=(2, 3), keepdim=True),
    "Gemm": _gemm,
    "MatMul": lambda inputs, _: inputs[0] @ inputs[1],
    "Reshape": _reshape,
    "Transpose": lambda inputs, attributes: inputs[0].permute(*attributes["perm"]),
    "Mul": lambda inputs, _: inputs[0] * inputs[1],
    "Div": lambda inputs, _: inputs[0] / inputs[1],
    "Add": lambda inputs, _: inputs[0] + inputs[1],
}
"""Operators of MobileNet-like backbones and of NanoTrack's heads."""
