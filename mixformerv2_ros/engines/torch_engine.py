"""Engine on torch, for CPU and CUDA."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mixformerv2_ros.engines.cuda_graphs import SearchGraphs, TorchMemory
from mixformerv2_ros.engines.failures import engine_errors
from mixformerv2_ros.engines.segments import (
    LazyMemory,
    SegmentAnswer,
    SegmentEnd,
    search_by_segments,
    whole_memory,
)
from mixformerv2_ros.model.engine import Prediction, Stop, search_separately
from mixformerv2_ros.model.spec import ModelSpec
from mixformerv2_ros.network.backbone import PREDICTION_TOKENS
from mixformerv2_ros.network.model import MixFormerV2, Output, normalize
from mixformerv2_ros.network.segments import (
    Answer,
    SegmentState,
    encode_segment,
    exit_answer,
    search_segment,
)

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""Number formats that torch runs the network in."""

Memory = TorchMemory | LazyMemory[TorchMemory]
"""Encoded templates: of a model with exits a `LazyMemory`."""


class TorchEngine:
    """Runs the network with torch; a memory holds pairs of key and value tensors.

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
                one online template, are recorded here. A search with `stop` does without them.
        """
        self.device = torch.device(device)
        self.precision = precision
        self.model = model.to(self.device).eval()
        self.model.backbone.to(DTYPES[precision])
        self._by_segments = False
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

    def crop_buffer(self, count: int) -> npt.NDArray[np.uint8]:
        """Memory for `count` crops; for recorded steps, what the GPU reads without a copy."""
        side = self.spec.search_size
        pinned = self._graphs is not None and self.device.type == "cuda"
        return torch.empty((count, side, side, 3), dtype=torch.uint8, pin_memory=pinned).numpy()

    @engine_errors
    @torch.inference_mode()
    def encode_templates(self, templates: npt.NDArray[np.uint8]) -> Memory:
        """Encode (1 + n, T, T, 3) uint8 RGB templates.

        Those of a model with exits are encoded in the form that the last search needed; the rest
        follows when a search reaches it.
        """
        if not self.spec.exits:
            return self._encode(templates)
        memory = LazyMemory(templates, self._encode, self._encode_segment, self.spec.depths)
        memory.begin(self._by_segments)
        return memory

    @engine_errors
    @torch.inference_mode()
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
        if self._graphs is not None:
            return self._graphs.search(crops, whole)
        if len({keys.shape for keys, _ in whole}) > 1:
            return search_separately(self, crops, memories)
        keys, values = join_memories(whole)
        return self._predict(self._search(crops, keys, values))

    @engine_errors
    @torch.inference_mode()
    def joint(self, templates: npt.NDArray[np.uint8], crop: npt.NDArray[np.uint8]) -> Prediction:
        """The same without a cache: all templates (1 + n, T, T, 3) and one crop in one pass."""
        tokens = self.model.backbone(self._load(templates)[None], self._load(crop)[None])
        return self._predict(self.model.heads(tokens[:, -PREDICTION_TOKENS:].float()))

    def _encode(self, templates: npt.NDArray[np.uint8]) -> TorchMemory:
        memory = self.model.encode_templates(self._load(templates)[None])
        if self._graphs is not None:
            self._graphs.prepare(memory[0].shape[3])
        return memory

    def _encode_segment(
        self, number: int, templates: npt.NDArray[np.uint8] | Tensor
    ) -> tuple[Tensor, TorchMemory]:
        start = templates if isinstance(templates, Tensor) else self._load(templates)[None]
        tokens, keys, values = encode_segment(self.model, number, start)
        return tokens, (keys, values)

    def _search_by_segments(
        self,
        crops: npt.NDArray[np.uint8],
        memories: Sequence[LazyMemory[TorchMemory]],
        stop: Stop,
    ) -> Prediction:
        def run(
            number: int,
            rows: npt.NDArray[np.intp],
            state: SegmentState | None,
            kept: npt.NDArray[np.intp] | None,
        ) -> SegmentEnd[SegmentState]:
            start = self._load(crops) if state is None else state
            if isinstance(start, SegmentState) and kept is not None:
                start = start.rows(torch.from_numpy(kept).to(self.device))
            keys, values = join_memories([memories[row].segment(number) for row in rows])
            found = search_segment(self.model, number, start, keys, values)
            if isinstance(found, Answer):
                return SegmentEnd(None, None, _on_host(found).rows)
            tokens = found.state.exit_tokens

            def answer(places: npt.NDArray[np.intp] | None) -> SegmentAnswer:
                some = (
                    tokens if places is None else tokens[torch.from_numpy(places).to(self.device)]
                )
                return _on_host(exit_answer(self.model, number, some))

            return SegmentEnd(found.quality.cpu().numpy(), found.state, answer)

        return search_by_segments(self.spec, len(crops), stop, run)

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

    def _predict(self, output: Output) -> Prediction:
        return Prediction(
            boxes=output.boxes.cpu().numpy(),
            scores=output.score_logits.sigmoid().cpu().numpy(),
            edges=output.edge_logits.softmax(dim=-1).cpu().numpy(),
            depths=np.full(len(output.boxes), self.spec.depth),
        )


def _on_host(answer: Answer) -> SegmentAnswer:
    return SegmentAnswer(
        *(part.cpu().numpy() for part in (answer.boxes, answer.scores, answer.edges))
    )


def join_memories(memories: Sequence[TorchMemory]) -> TorchMemory:
    """Keys and values of several targets with equally many templates, as one batch."""
    if len(memories) == 1:
        return memories[0]
    keys, values = zip(*memories, strict=True)
    return torch.cat(keys, dim=1), torch.cat(values, dim=1)
