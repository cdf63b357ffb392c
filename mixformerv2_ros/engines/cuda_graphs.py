"""The search step of the torch engine over fixed buffers, recorded once as CUDA graphs.

Launched kernel by kernel, the search step of preset B keeps a GPU waiting for the CPU. A CUDA graph
launches all of it at once, but reads and writes the same addresses at every replay. Everything that
a step reads or writes therefore lies in buffers of this module:

- Every target takes a slot. Steps are recorded for 1, 2, 4 and 8 slots; the slots above the number
  of targets compute on what was left there, and nobody reads their answers. Targets come and go
  without a new recording.
- A slot holds the keys and values of its target's templates, and room behind them for those of the
  search tokens, which attention then reads as one sequence without joining them. They are copied
  only when a slot gets another target or other templates. One target's queries, keys and values are
  computed right where attention reads them.
- Crops travel from page-locked memory, answers into page-locked memory, both without blocking; the
  only wait is the one for the answers. Crops that lie elsewhere are copied there first
  (`TorchEngine.crop_buffer` gives out page-locked memory).

A recording belongs to one number of template tokens. The least recently used numbers are dropped
when there are more than `CACHED_COUNTS`.

On a device without CUDA the same steps run over the same buffers without a recording: for tests.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixformerv2_ros.model.engine import EDGES, Prediction
from mixformerv2_ros.network.backbone import PREDICTION_TOKENS
from mixformerv2_ros.network.heads import edges_to_boxes
from mixformerv2_ros.network.model import PIXEL_MEAN, PIXEL_STD, MixFormerV2

TorchMemory = tuple[Tensor, Tensor]
"""Keys and values of all blocks, each (depth, 1, heads, template tokens, channels)."""

STEP_SIZES = (1, 2, 4, 8)
"""Numbers of slots that a step is recorded for."""
CACHED_COUNTS = 4
"""Numbers of template tokens that recordings are kept for."""


def step_size(targets: int) -> int:
    """The smallest of `STEP_SIZES` that holds so many targets."""
    return next(size for size in STEP_SIZES if size >= targets)


def batches(counts: Sequence[int]) -> list[list[int]]:
    """Divide targets into batches for one step each.

    Args:
        counts: Template tokens of each target.

    Returns:
        Places of the targets of each batch: equal counts, at most `STEP_SIZES[-1]` targets, in
        their order.
    """
    groups: dict[int, list[int]] = {}
    for place, count in enumerate(counts):
        groups.setdefault(count, []).append(place)
    most = STEP_SIZES[-1]
    return [
        places[start : start + most]
        for places in groups.values()
        for start in range(0, len(places), most)
    ]


@dataclass
class Slots:
    """Keys and values of the targets for one number of template tokens, and the recorded steps.

    Attributes:
        template_tokens: That number, M.
        rows: (depth, slots, M + N, 3, heads, channels): per token its query, key and value;
            templates first. Queries are there of a single target alone.
        held: The memory that each slot holds.
        steps: Recorded steps by their size.
    """

    template_tokens: int
    rows: Tensor
    held: list[TorchMemory | None]
    steps: dict[int, Callable[[], None]] = field(default_factory=dict)

    def load(self, memories: Sequence[TorchMemory]) -> int:
        """Put memories into the first slots; return how many had to be copied."""
        copied = 0
        for place, memory in enumerate(memories):
            if self.held[place] is memory:
                continue
            for part, tensor in enumerate(memory, start=1):
                room = self.rows[:, place, : self.template_tokens, part]
                room.copy_(tensor[:, 0].transpose(1, 2))
            self.held[place] = memory
            copied += 1
        return copied


class SearchGraphs:
    """Searches up to eight targets per step, see the module.

    Attributes:
        recordings: How many steps have been recorded so far; stands still while targets come and
            go.
    """

    def __init__(self, model: MixFormerV2) -> None:
        """Allocate the buffers on the device of the model.

        Args:
            model: In eval mode; the backbone in the number format to run, the heads in fp32.
        """
        spec, backbone = model.spec, model.backbone
        weight, bias = backbone.patch_embed.proj.weight, backbone.patch_embed.proj.bias
        assert bias is not None
        self.recordings = 0
        self._model = model
        self._device, self._dtype = weight.device, weight.dtype
        self._cache: OrderedDict[int, Slots] = OrderedDict()
        self._on_gpu = self._device.type == "cuda"
        self._pool = torch.cuda.graph_pool_handle() if self._on_gpu else None
        slots, side, outputs = STEP_SIZES[-1], spec.search_size, 5 + len(EDGES) * spec.bins
        pixels = (slots, side, side, 3)
        self._host_crops = torch.zeros(pixels, dtype=torch.uint8, pin_memory=self._on_gpu)
        self._host_answers = torch.zeros(slots, outputs, pin_memory=self._on_gpu)
        with torch.inference_mode():
            place = self._device
            self._crops = torch.zeros(pixels, dtype=torch.uint8, device=place)
            self._answers = torch.zeros(slots, outputs, device=place)
            # (x / 255 - mean) / std in two steps over whole crops.
            self._offset = 255 * torch.tensor(PIXEL_MEAN, device=place)
            self._scale = 1 / (255 * torch.tensor(PIXEL_STD, device=place))
            # Rows of pixels as they lie in a crop. The rows of the prediction tokens stay zero, so
            # that the product leaves room for them in the sequence, and the table fills it.
            tokens = spec.search_tokens + PREDICTION_TOKENS
            self._patches = torch.zeros(
                slots, tokens, 3 * spec.PATCH**2, dtype=self._dtype, device=place
            )
            self._embedding = weight.permute(0, 2, 3, 1).flatten(1).contiguous()
            self._table = torch.cat(
                [backbone.get_parameter("pos_embed_s") + bias, backbone.prediction_tokens()], dim=1
            )
            self._box_of_edges = _box_of_edges(spec.bins).to(self._device)

    def prepare(self, template_tokens: int) -> None:
        """Record the steps of all sizes for a number of template tokens: not in the frame path."""
        slots = self._slots(template_tokens)
        for size in reversed(STEP_SIZES):
            if size not in slots.steps:
                slots.steps[size] = self._record(partial(self._step, slots, size))

    def search(self, crops: npt.NDArray[np.uint8], memories: Sequence[TorchMemory]) -> Prediction:
        """Find targets in (B, S, S, 3) uint8 RGB crops; any B, any numbers of templates.

        Raises:
            ValueError: the crops have another shape or type.
        """
        expected = (len(memories), *self._host_crops.shape[1:])
        if crops.shape != expected or crops.dtype != np.uint8:
            raise ValueError(
                f"crops must be uint8 {expected}, got {crops.dtype} {tuple(crops.shape)}"
            )
        answers = np.empty((len(memories), self._answers.shape[1]), np.float32)
        for places in batches([keys.shape[3] for keys, _ in memories]):
            answers[places] = self._run(crops, places, [memories[place] for place in places])
        return Prediction(
            boxes=answers[:, :4],
            scores=answers[:, 4],
            edges=answers[:, 5:].reshape(len(answers), len(EDGES), -1),
            depths=np.full(len(answers), self._model.spec.depth),
        )

    def _run(
        self,
        crops: npt.NDArray[np.uint8],
        places: Sequence[int],
        memories: Sequence[TorchMemory],
    ) -> npt.NDArray[np.float32]:
        count = len(memories)
        template_tokens = memories[0][0].shape[3]
        size = step_size(count)
        if size not in self._slots(template_tokens).steps:
            self.prepare(template_tokens)
        slots = self._slots(template_tokens)
        slots.load(memories)
        self._upload(crops, places)
        slots.steps[size]()
        self._host_answers[:count].copy_(self._answers[:count], non_blocking=True)
        if self._on_gpu:
            torch.cuda.current_stream(self._device).synchronize()
        return self._host_answers.numpy()[:count]

    def _upload(self, crops: npt.NDArray[np.uint8], places: Sequence[int]) -> None:
        first, count = places[0], len(places)
        # What cannot be written, torch does not share.
        shared = torch.from_numpy(crops) if crops.flags.writeable else None
        if shared is not None and shared.is_pinned():
            if list(places) == list(range(first, first + count)):
                self._crops[:count].copy_(shared[first : first + count], non_blocking=True)
                return
            for slot, place in enumerate(places):
                self._crops[slot].copy_(shared[place], non_blocking=True)
            return
        host = self._host_crops.numpy()
        # One crop travels while the next one is copied into page-locked memory.
        for slot, place in enumerate(places):
            host[slot] = crops[place]
            self._crops[slot].copy_(self._host_crops[slot], non_blocking=True)

    def _slots(self, template_tokens: int) -> Slots:
        """The slots for a number of template tokens; drops those that were used least recently."""
        slots = self._cache.get(template_tokens)
        if slots is None:
            while len(self._cache) >= CACHED_COUNTS:
                self._cache.popitem(last=False)
            spec, count = self._model.spec, STEP_SIZES[-1]
            tokens = template_tokens + self._patches.shape[1]
            channels = spec.width // spec.heads
            rows = torch.zeros(
                (spec.depth, count, tokens, 3, spec.heads, channels),
                dtype=self._dtype,
                device=self._device,
            )
            slots = self._cache[template_tokens] = Slots(template_tokens, rows, [None] * count)
        self._cache.move_to_end(template_tokens)
        return slots

    def _record(self, step: Callable[[], None]) -> Callable[[], None]:
        self.recordings += 1
        if not self._on_gpu:
            return step
        with torch.cuda.device(self._device):
            # Libraries choose and load kernels at the first runs, which cannot be recorded.
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(2):
                    step()
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            # Steps never run at the same time, so that they can share their working memory; other
            # threads of the process may use the GPU meanwhile.
            with torch.cuda.graph(
                graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"
            ):
                step()
        return graph.replay

    def _step(self, slots: Slots, size: int) -> None:
        """One search over the first `size` slots: crops, keys and values in, answers out."""
        first, last = slots.template_tokens, self._model.backbone.blocks[-1]
        tokens = self._embed(size)
        for block, rows in zip(self._model.backbone.blocks, slots.rows[:, :size], strict=True):
            q = _project(block.attn.qkv, block.norm1(tokens), rows[:, first:]).transpose(1, 2)
            _, k, v = rows.permute(2, 0, 3, 1, 4)
            if block is last:
                # Nobody reads what the search tokens become here.
                q, tokens = q[:, :, -PREDICTION_TOKENS:], tokens[:, -PREDICTION_TOKENS:]
            tokens = tokens + block.attn.proj(block.attn.attend(q, k, v))
            tokens = tokens + block.mlp(block.norm2(tokens))
        self._answer(tokens.float(), size)

    def _embed(self, size: int) -> Tensor:
        """Crops -> search and prediction tokens (size, N, width)."""
        patch = self._model.spec.PATCH
        side = self._crops.shape[1] // patch
        shape = (size, side, patch, side, patch, 3)
        pixels = torch.sub(self._crops[:size], self._offset).view(shape)
        patches = self._patches[:size, : side**2].view(size, side, side, patch, patch, 3)
        torch.mul(pixels.transpose(2, 3), self._scale, out=patches)
        return F.linear(self._patches[:size], self._embedding) + self._table

    def _answer(self, tokens: Tensor, size: int) -> None:
        """Final prediction tokens (size, 4, width) -> box, score and edges, in one tensor."""
        edges = self._model.box_head(tokens).softmax(dim=-1).flatten(1)
        scores = self._model.score_head(tokens).sigmoid()[:, None]
        boxes = edges @ self._box_of_edges
        torch.cat([boxes, scores, edges], dim=1, out=self._answers[:size])


def _project(layer: nn.Linear, tokens: Tensor, rows: Tensor) -> Tensor:
    """Write the keys and values of tokens (size, N, width) into rows; return their queries.

    Rows, (size, N, 3, heads, channels), are a view of a larger tensor, into which a product can be
    written for one target only. The queries are (size, N, heads, channels).
    """
    if len(tokens) == 1:
        torch.addmm(layer.bias, tokens[0], layer.weight.t(), out=rows[0].flatten(1))
        return rows[:, :, 0]
    parts: Tensor = layer(tokens).view(rows.shape)
    rows[:, :, 1:] = parts[:, :, 1:]
    return parts[:, :, 0]


def _box_of_edges(bins: int) -> Tensor:
    """The matrix (4 * bins, 4) that takes edge distributions to a box: it is linear in them."""
    positions = torch.arange(bins)[:, None] / bins
    means = torch.kron(torch.eye(len(EDGES)), positions)
    return edges_to_boxes(means)
