"""Searches of ONNX Runtime whose keys and values stay on the device.

Templates change every few hundred frames. Given anew with every call, the keys and values of preset
B would bring 6 MB per target to the device for every crop of 0.25 MB.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

OnnxMemory = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]
"""Keys and values of the templates, each (depth, 1, heads, tokens, channels)."""

HELD_BATCHES = 4
"""Combinations of targets whose keys and values are kept on the device: all of them together, and
those that are searched for elsewhere in the image."""


class BoundSearch:
    """Runs a search graph on a device; crops go there, answers come back.

    Attributes:
        uploads: How often keys and values have been brought to the device.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        device: str,
        join: Callable[[Sequence[OnnxMemory]], OnnxMemory],
    ) -> None:
        """Use a session.

        Args:
            session: The search graph, with an execution provider of the device.
            device: `cuda`, `cuda:N` or `cpu`.
            join: Makes one batch of the memories of several targets.
        """
        self.uploads = 0
        self._session = session
        kind, _, number = device.partition(":")
        self._device = (kind, int(number or 0))
        self._join = join
        self._held: OrderedDict[
            tuple[int, ...], tuple[list[OnnxMemory], ort.OrtValue, ort.OrtValue]
        ] = OrderedDict()

    def __call__(
        self, crops: npt.NDArray[np.uint8], memories: Sequence[OnnxMemory]
    ) -> list[npt.NDArray[np.float32]]:
        """The outputs of the graph for (B, S, S, 3) uint8 crops and B memories of one shape."""
        keys, values = self._on_device(memories)
        binding = self._session.io_binding()
        binding.bind_cpu_input("crops", crops)
        binding.bind_ortvalue_input("keys", keys)
        binding.bind_ortvalue_input("values", values)
        for output in self._session.get_outputs():
            binding.bind_output(output.name, "cpu")
        self._session.run_with_iobinding(binding)
        outputs: list[npt.NDArray[np.float32]] = binding.copy_outputs_to_cpu()
        return outputs

    def _on_device(self, memories: Sequence[OnnxMemory]) -> tuple[ort.OrtValue, ort.OrtValue]:
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
