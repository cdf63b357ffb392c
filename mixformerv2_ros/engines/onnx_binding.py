"""Runs of ONNX Runtime whose inputs and outputs stay where they are.

Templates change every few hundred frames. Given anew with every call, the keys and values of preset
B would bring 6 MB per target to the device for every crop of 0.25 MB. On a CPU as well, binding a
dozen tensors anew for every segment of a small model takes longer than its smallest exit.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

OnnxMemory = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]
"""Keys and values of the templates, each (depth, 1, heads, tokens, channels)."""

HELD_BATCHES = 4
"""Combinations of targets whose keys and values are kept on the device: all of them together, and
those that are searched for elsewhere in the image."""


Device = tuple[str, int]
"""Kind, such as `cpu` or `cuda`, and number."""
Joining = Callable[[Sequence[OnnxMemory]], OnnxMemory]
"""Makes one batch of the memories of several targets."""


class HeldMemories:
    """Keys and values of the last few combinations of targets, on the device.

    Attributes:
        uploads: How often keys and values have been brought to the device.
    """

    def __init__(self, device: Device, join: Joining) -> None:
        """Hold nothing yet."""
        self.uploads = 0
        self._device, self._join = device, join
        self._held: OrderedDict[
            tuple[int, ...], tuple[list[OnnxMemory], ort.OrtValue, ort.OrtValue]
        ] = OrderedDict()

    def __call__(self, memories: Sequence[OnnxMemory]) -> tuple[ort.OrtValue, ort.OrtValue]:
        """Keys and values of memories of one shape; the same for the same memories."""
        # What is held is kept alive, so that its identity cannot become another memory's.
        name = tuple(map(id, memories))
        if name not in self._held:
            while len(self._held) >= HELD_BATCHES:
                self._held.popitem(last=False)
            keys, values = (
                ort.OrtValue.ortvalue_from_numpy(part, *self._device)
                for part in self._join(memories)
            )
            self._held[name] = (list(memories), keys, values)
            self.uploads += 1
        self._held.move_to_end(name)
        return self._held[name][1:]


class BoundSearch:
    """Runs a search graph on a device; crops go there, answers come back."""

    def __init__(self, session: ort.InferenceSession, device: str, join: Joining) -> None:
        """Use a session.

        Args:
            session: The search graph, with an execution provider of the device.
            device: `cuda`, `cuda:N` or `cpu`.
            join: Makes one batch of the memories of several targets.
        """
        self._session = session
        kind, _, number = device.partition(":")
        self._memories = HeldMemories((kind, int(number or 0)), join)

    @property
    def uploads(self) -> int:
        """How often keys and values have been brought to the device."""
        return self._memories.uploads

    def __call__(
        self, crops: npt.NDArray[np.uint8], memories: Sequence[OnnxMemory]
    ) -> list[npt.NDArray[np.float32]]:
        """The outputs of the graph for (B, S, S, 3) uint8 crops and B memories of one shape."""
        keys, values = self._memories(memories)
        binding = self._session.io_binding()
        binding.bind_cpu_input("crops", crops)
        binding.bind_ortvalue_input("keys", keys)
        binding.bind_ortvalue_input("values", values)
        for output in self._session.get_outputs():
            binding.bind_output(output.name, "cpu")
        self._session.run_with_iobinding(binding)
        outputs: list[npt.NDArray[np.float32]] = binding.copy_outputs_to_cpu()
        return outputs


@dataclass
class _Binding:
    """A binding for inputs of one set of shapes, and what is bound in it."""

    binding: ort.IOBinding
    inputs: dict[str, ort.OrtValue]
    outputs: dict[str, ort.OrtValue]


class BoundGraph:
    """Runs a graph whose outputs lie in the same memory every time, for every size of a batch.

    Outputs that the next graph takes, whose names begin with `next_`, stay on the device; all
    others come to the host. They hold until the next call.
    """

    def __init__(self, session: ort.InferenceSession, device: Device) -> None:
        """Use a session with an execution provider of the device."""
        self._session, self._device = session, device
        self._inputs = tuple(end.name for end in session.get_inputs())
        self._outputs = tuple(end.name for end in session.get_outputs())
        self._bindings: OrderedDict[tuple[tuple[int, ...], ...], _Binding] = OrderedDict()

    def __call__(
        self, given: Mapping[str, ort.OrtValue | npt.NDArray[Any]]
    ) -> dict[str, ort.OrtValue]:
        """Outputs by name. Of `given`, what is no input of the graph is left out.

        An array on the host is read before the call returns; an `OrtValue` that is given again and
        again is bound once.
        """
        parts = [given[name] for name in self._inputs]
        shapes = tuple(
            part.shape if isinstance(part, np.ndarray) else tuple(part.shape()) for part in parts
        )
        bound = self._bindings.get(shapes)
        if bound is None:
            while len(self._bindings) >= HELD_BATCHES:
                self._bindings.popitem(last=False)
            bound = self._bindings[shapes] = _Binding(self._session.io_binding(), {}, {})
        self._bindings.move_to_end(shapes)
        binding = bound.binding
        arrays = []  # Kept until the graph has been run.
        for name, part in zip(self._inputs, parts, strict=True):
            if isinstance(part, np.ndarray):
                arrays.append(np.ascontiguousarray(part))
                binding.bind_cpu_input(name, arrays[-1])
            elif bound.inputs.get(name) is not part:
                binding.bind_ortvalue_input(name, part)
                bound.inputs[name] = part
        if bound.outputs:
            self._session.run_with_iobinding(binding)
            return bound.outputs
        for name in self._outputs:
            binding.bind_output(name, *(self._device if name.startswith("next_") else ("cpu", 0)))
        self._session.run_with_iobinding(binding)
        bound.outputs = dict(zip(self._outputs, binding.get_outputs(), strict=True))
        for name, value in bound.outputs.items():
            binding.bind_ortvalue_output(name, value)
        return bound.outputs
