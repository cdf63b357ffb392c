"""Engine on torch, for CPU and CUDA."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mixformerv2_ros.engines.failures import engine_errors
from mixformerv2_ros.model.engine import Prediction, search_separately
from mixformerv2_ros.model.spec import ModelSpec
from mixformerv2_ros.network.model import MixFormerV2, Output, normalize

TorchMemory = tuple[Tensor, Tensor]


class TorchEngine:
    """Runs the network with torch; a memory is the pair of key and value tensors."""

    def __init__(self, model: MixFormerV2, device: str = "cpu") -> None:
        self.device = torch.device(device)
        self.model = model.to(self.device).eval()

    @property
    def spec(self) -> ModelSpec:
        """Architecture of the loaded model."""
        return self.model.spec

    @property
    def name(self) -> str:
        """`torch/cpu` or `torch/cuda:0`."""
        return f"torch/{self.device}"

    @engine_errors
    @torch.inference_mode()
    def encode_templates(self, templates: npt.NDArray[np.uint8]) -> TorchMemory:
        """Encode (1 + n, T, T, 3) uint8 RGB templates."""
        return self.model.encode_templates(self._load(templates)[None])

    @engine_errors
    @torch.inference_mode()
    def search(self, crops: npt.NDArray[np.uint8], memories: Sequence[TorchMemory]) -> Prediction:
        """Find targets in (B, S, S, 3) uint8 RGB crops."""
        if len({keys.shape for keys, _ in memories}) > 1:
            return search_separately(self, crops, memories)
        keys, values = memories[0] if len(memories) == 1 else _join(memories)
        return self._predict(self.model.search(self._load(crops), keys, values))

    @engine_errors
    @torch.inference_mode()
    def joint(self, templates: npt.NDArray[np.uint8], crop: npt.NDArray[np.uint8]) -> Prediction:
        """The same without a cache: all templates (1 + n, T, T, 3) and one crop in one pass."""
        return self._predict(self.model(self._load(templates)[None], self._load(crop)[None]))

    def _load(self, crops: npt.NDArray[np.uint8]) -> Tensor:
        return normalize(torch.from_numpy(crops).to(self.device))

    @staticmethod
    def _predict(output: Output) -> Prediction:
        return Prediction(
            boxes=output.boxes.cpu().numpy(),
            scores=output.score_logits.sigmoid().cpu().numpy(),
            edges=output.edge_logits.softmax(dim=-1).cpu().numpy(),
        )


def _join(memories: Sequence[TorchMemory]) -> TorchMemory:
    keys, values = zip(*memories, strict=True)
    return torch.cat(keys, dim=1), torch.cat(values, dim=1)
