"""Engine on torch, for CPU and CUDA."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mixformerv2_ros.engines.cuda_graphs import SearchGraphs, TorchMemory
from mixformerv2_ros.engines.failures import engine_errors
from mixformerv2_ros.model.engine import Prediction, search_separately
from mixformerv2_ros.model.spec import ModelSpec
from mixformerv2_ros.network.backbone import PREDICTION_TOKENS
from mixformerv2_ros.network.model import MixFormerV2, Output, normalize

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""Number formats that torch runs the network in."""


class TorchEngine:
    """Runs the network with torch; a memory is the pair of key and value tensors.

    In fp16 and bf16 the heads stay in fp32, and so does what libraries compute within LayerNorm
    and softmax.
    """

    def __init__(
        self,
        model: MixFormerV2,
        device: str = "cpu",
        precision: str = "fp32",
        graphs: bool = False,
    ) -> None:
        """Take over a model: it is moved to the device and into the precision.

        Args:
            model: The network in fp32.
            device: `cpu`, `cuda` or `cuda:N`.
            precision: One of `DTYPES`.
            graphs: Search by recorded steps, see `cuda_graphs`; the first ones, for an initial and
                one online template, are recorded here.
        """
        self.device = torch.device(device)
        self.precision = precision
        self.model = model.to(self.device).eval()
        self.model.backbone.to(DTYPES[precision])
        self._graphs = None
        if graphs:
            with torch.inference_mode():
                self._graphs = SearchGraphs(self.model)
                self._graphs.prepare(2 * self.spec.template_tokens)

    @property
    def spec(self) -> ModelSpec:
        """Architecture of the loaded model."""
        return self.model.spec

    @property
    def name(self) -> str:
        """`torch/cpu` or `torch/cuda:0`; with the precision where it is not fp32."""
        suffix = "" if self.precision == "fp32" else f"/{self.precision}"
        return f"torch/{self.device}{suffix}"

    @engine_errors
    @torch.inference_mode()
    def encode_templates(self, templates: npt.NDArray[np.uint8]) -> TorchMemory:
        """Encode (1 + n, T, T, 3) uint8 RGB templates."""
        memory = self.model.encode_templates(self._load(templates)[None])
        if self._graphs is not None:
            self._graphs.prepare(memory[0].shape[3])
        return memory

    @engine_errors
    @torch.inference_mode()
    def search(self, crops: npt.NDArray[np.uint8], memories: Sequence[TorchMemory]) -> Prediction:
        """Find targets in (B, S, S, 3) uint8 RGB crops."""
        if self._graphs is not None:
            return self._graphs.search(crops, memories)
        if len({keys.shape for keys, _ in memories}) > 1:
            return search_separately(self, crops, memories)
        keys, values = memories[0] if len(memories) == 1 else _join(memories)
        return self._predict(self._search(crops, keys, values))

    @engine_errors
    @torch.inference_mode()
    def joint(self, templates: npt.NDArray[np.uint8], crop: npt.NDArray[np.uint8]) -> Prediction:
        """The same without a cache: all templates (1 + n, T, T, 3) and one crop in one pass."""
        tokens = self.model.backbone(self._load(templates)[None], self._load(crop)[None])
        return self._predict(self.model.heads(tokens[:, -PREDICTION_TOKENS:].float()))

    def _load(self, crops: npt.NDArray[np.uint8]) -> Tensor:
        images = normalize(torch.from_numpy(crops).to(self.device))
        return images.to(DTYPES[self.precision])

    def _search(
        self,
        crops: npt.NDArray[np.uint8],
        keys: Tensor,
        values: Tensor,
        attention: list[Tensor] | None = None,
    ) -> Output:
        tokens = self.model.backbone.search(self._load(crops), keys, values, attention)
        return self.model.heads(tokens.float())

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
