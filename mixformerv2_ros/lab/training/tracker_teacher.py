"""A small convolutional tracker as teacher, of its features and of its dense maps.

Small trackers are published as ONNX files that have seen far more pictures than a training here
will. NanoTrack is a backbone, run on a template and on a search region, and a head, which says of
each cell of the search region's map whether the target is there and how far its edges are. Both
teach:

- the backbone's map of the search crop, averaged to the student's tokens, is what a linear layer on
  the tokens of one block must give (`losses.feature_map_loss`);
- the head's dense maps become four edge distributions, as those of a MixViT do in the paper: each
  cell puts its four edges where it sees them, with the weight of its score. They are taught where
  they are right (`losses.edge_kl`).

The student itself is not changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixformerv2_ros.errors import CheckpointError
from mixformerv2_ros.lab.training.losses import split_between_bins
from mixformerv2_ros.lab.training.onnx_module import OnnxModule
from mixformerv2_ros.lab.training.training_model import mixed_precision

SHARPNESS = 4
"""Power of the scores with which cells are mixed: many cells far off have a small score each."""


@dataclass(frozen=True)
class Lesson:
    """What the tracker says about a batch of B.

    Attributes:
        features: (B, tokens, channels) in the order of the student's search tokens, row by row.
        edges: Edge distributions (B, 4, bins), order left, top, right, bottom; None without a head.
    """

    features: Tensor
    edges: Tensor | None = None


class TrackerTeacher(nn.Module):
    """NanoTrack's backbone, with or without its head, on the student's crops enlarged to its own.

    Attributes:
        channels: Channels of the backbone's map.
        side: Side of the search crops that the backbone takes, in pixels.
        dtype: Type of its arithmetic; None is float32. What it says is float32 always.
    """

    def __init__(
        self, backbone: Path, tokens: int, head: Path | None = None, bins: int = 0
    ) -> None:
        """Read the graphs and see whether they fit each other and the student.

        Args:
            backbone: File with input (1, 3, side, side), BGR, 0 to 255, and output
                (1, channels, cells, cells).
            tokens: The student's search tokens along one side; no more than `cells`.
            head: File with inputs (1, channels, k, k) and (1, channels, cells, cells), the maps of
                template and search region, and outputs (1, 2, cells, cells), logits of background
                and target, and (1, 4, cells, cells), distances from the cell to the left, top,
                right and bottom edge in pixels of the search crop. None teaches features only.
            bins: The student's bins per edge, for the head.

        Raises:
            CheckpointError: a file cannot be read or is no such graph; names it.
        """
        super().__init__()
        self.backbone = OnnxModule(backbone).requires_grad_(False).eval()
        shapes = (*self.backbone.input_shapes, *self.backbone.output_shapes)
        given, made = shapes[0], shapes[-1]
        if len(shapes) != 2 or given[1] != 3 or given[2] != given[3] or made[2] != made[3]:
            raise CheckpointError(
                f"{backbone}: a teacher's backbone maps one crop (1, 3, side, side) to one map "
                f"(1, channels, cells, cells), got {self.backbone.input_shapes} to "
                f"{self.backbone.output_shapes}"
            )
        self.side, self.channels, self._cells = given[2], made[1], made[2]
        if self._cells < tokens:
            raise CheckpointError(
                f"{backbone}: a student of {tokens} x {tokens} search tokens needs a map of at "
                f"least as many cells, got {self._cells} x {self._cells}"
            )
        self.average: Tensor
        self.register_buffer("average", _overlaps(self._cells, tokens), persistent=False)
        self.head = None if head is None else self._read_head(head)
        self._bins = bins
        self.dtype: torch.dtype | None = None

    def _read_head(self, path: Path) -> OnnxModule:
        head = OnnxModule(path).requires_grad_(False).eval()
        size = (self._cells, self._cells)
        inputs, outputs = head.input_shapes, head.output_shapes
        fits = (
            [shape[1] for shape in inputs] == [self.channels] * 2
            and inputs[0][2] == inputs[0][3]
            and inputs[1][2:] == size
            and outputs == [(1, 2, *size), (1, 4, *size)]
        )
        if not fits:
            raise CheckpointError(
                f"{path}: a head for this backbone maps (1, {self.channels}, k, k) and "
                f"{(1, self.channels, *size)} to {(1, 2, *size)} and {(1, 4, *size)}, "
                f"got {inputs} to {outputs}"
            )
        self._template_side = self.side * inputs[0][2] // self._cells
        return head

    @torch.no_grad()
    def forward(self, templates: Tensor, search: Tensor) -> Lesson:
        """Look at what the student looks at.

        Args:
            templates: (B, 2, T, T, 3) uint8 RGB; the head sees the first.
            search: (B, S, S, 3) uint8 RGB.
        """
        with mixed_precision(search.device, self.dtype):
            (cells,) = self.backbone(_enlarged(search, self.side))
        features = (self.average @ cells.float() @ self.average.T).flatten(2).transpose(1, 2)
        if self.head is None:
            return Lesson(features)
        with mixed_precision(search.device, self.dtype):
            (target,) = self.backbone(_enlarged(templates[:, 0], self._template_side))
            logits, distances = self.head(target, cells)
        return Lesson(features, self._distributions(logits.float(), distances.float()))

    def _distributions(self, logits: Tensor, distances: Tensor) -> Tensor:
        """Mix the edges that cells (B, 2 or 4, G, G) see into distributions (B, 4, bins)."""
        score = logits.softmax(dim=1)[:, 1].flatten(1) ** SHARPNESS
        weight = score / score.sum(dim=1, keepdim=True)
        step = (self.side + 1) / self._cells
        place = torch.arange(self._cells, device=logits.device) - self._cells // 2
        place = self.side / 2 + place * step
        x, y = place.expand(self._cells, -1), place[:, None].expand(-1, self._cells)
        left, top, right, bottom = distances.unbind(dim=1)
        edges = torch.stack([x - left, y - top, x + right, y + bottom], dim=1) / self.side
        lower, share = split_between_bins(edges.flatten(2), self._bins)
        mixed = torch.zeros(*edges.shape[:2], self._bins, device=logits.device)
        mixed.scatter_add_(2, lower, weight[:, None] * (1 - share))
        return mixed.scatter_add_(2, lower + 1, weight[:, None] * share)


def _enlarged(crops: Tensor, side: int) -> Tensor:
    """(B, S, S, 3) uint8 RGB -> (B, 3, side, side) float32 BGR, 0 to 255."""
    blue_first = crops.flip(-1).permute(0, 3, 1, 2).float()
    return F.interpolate(blue_first, size=(side, side), mode="bilinear")


def _overlaps(cells: int, tokens: int) -> Tensor:
    """Share of each of `tokens` equal parts of a line that each of `cells` parts covers.

    Returns:
        (tokens, cells); rows sum to 1.
    """
    starts, begins = torch.arange(tokens)[:, None] / tokens, torch.arange(cells)[None, :] / cells
    ends = torch.minimum(starts + 1 / tokens, begins + 1 / cells)
    return (ends - torch.maximum(starts, begins)).clamp(min=0) * tokens
