"""MixViT, teacher of the first distillation stage: the backbone without tokens, and a corner head.

The head turns the grid of search tokens into two maps: the distribution of the top-left corner over
the whole crop, and that of the bottom-right corner (MixFormer, Cui et al., 2022 and 2023). Their
marginals are the distillation targets of MixFormerV2's four edge distributions.

Module and parameter names are those of the released checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixformerv2_ros.errors import CheckpointError
from mixformerv2_ros.model.architecture import (
    HEAD_CHANNELS,
    UNEXPECTED,
    compare_shapes,
    infer_backbone,
    tell_faults,
)
from mixformerv2_ros.model.checkpoints import Checkpoint, load_checkpoint
from mixformerv2_ros.model.spec import ModelSpec
from mixformerv2_ros.network.backbone import Backbone
from mixformerv2_ros.network.heads import edges_to_boxes
from mixformerv2_ros.text import printable

HEADS = ("corner", "corner_up")
"""Corner heads: plain (one cell per patch) and pyramid (four cells per patch and side)."""

_CORNERS = ("tl", "br")
_HEAD_DIVISOR = 8  # The head's last 3x3 convolution has this part of the first one's channels.
_FIRST_CONVOLUTION = "box_head.conv1_tl.0.weight"


@dataclass(frozen=True)
class TeacherSpec:
    """Architecture of a MixViT: everything that determines the shapes of its weights.

    Attributes:
        width: Channels per token.
        depth: Number of transformer blocks.
        heads: Attention heads per block.
        mlp_ratio: Hidden width of a block's MLP over `width`.
        head: `corner` (plain) or `corner_up` (pyramid).
        head_channels: Channels of the head's first convolution; halved three times after it.
        template_size: Side of a template crop in pixels.
        search_size: Side of a search crop in pixels.
    """

    width: int
    depth: int
    heads: int
    mlp_ratio: float
    head: str
    head_channels: int
    template_size: int
    search_size: int

    PATCH = ModelSpec.PATCH
    """Side of a patch in pixels."""

    @property
    def grid(self) -> int:
        """Cells per side of the corner maps: the number of bins that a student must have."""
        patches = self.search_size // self.PATCH
        return 4 * patches if self.head == "corner_up" else patches


@dataclass(frozen=True)
class TeacherOutput:
    """Output for a batch of B, with G cells per side of a corner map.

    Attributes:
        boxes: (B, 4) centre x, centre y, width, height over the side of the search crop.
        top_left: (B, G, G) probability of each cell, row (y) by column (x), to hold that corner.
        bottom_right: The same of the other corner.
        features: Output of each block, tokens of templates and search region, (B, tokens, width)
            each; empty unless requested.
    """

    boxes: Tensor
    top_left: Tensor
    bottom_right: Tensor
    features: tuple[Tensor, ...] = ()


class CornerHead(nn.ModuleDict):
    """Two independent convolutional branches, one score map per corner.

    The plain head is a chain of convolutions at the resolution of the patches. The pyramid head
    doubles the resolution twice on the way, adds the input to each level, and adds to the last map
    two that are computed at the lower resolutions.
    """

    def __init__(self, spec: TeacherSpec) -> None:
        super().__init__()
        self.pyramid = spec.head == "corner_up"
        width, c = spec.width, spec.head_channels
        for corner in _CORNERS:
            self[f"conv1_{corner}"] = _convolution(width, c)
            self[f"conv2_{corner}"] = _convolution(c, c // 2)
            self[f"conv3_{corner}"] = _convolution(c // 2, c // 4)
            self[f"conv4_{corner}"] = _convolution(c // 4, c // 8)
            self[f"conv5_{corner}"] = nn.Conv2d(c // 8, 1, kernel_size=1)
            if self.pyramid:
                self[f"adjust1_{corner}"] = _convolution(width, c // 2)
                self[f"adjust2_{corner}"] = _convolution(width, c // 4)
                self[f"adjust3_{corner}"] = nn.Sequential(
                    _convolution(c // 2, c // 4), _convolution(c // 4, c // 8),
                    _convolution(c // 8, 1),
                )  # fmt: skip
                self[f"adjust4_{corner}"] = nn.Sequential(
                    _convolution(c // 4, c // 8), _convolution(c // 8, 1)
                )

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Patches (B, width, P, P) -> probabilities of both corners, (B, G, G) each."""
        top_left, bottom_right = (
            scores.flatten(1).softmax(dim=1).reshape(scores[:, 0].shape)
            for scores in (self._scores(patches, corner) for corner in _CORNERS)
        )
        return top_left, bottom_right

    def _scores(self, x: Tensor, corner: str) -> Tensor:
        def layer(name: str, tokens: Tensor) -> Tensor:
            return self[f"{name}_{corner}"](tokens)

        b = layer("conv2", layer("conv1", x))
        if not self.pyramid:
            return layer("conv5", layer("conv4", layer("conv3", b)))
        c = layer("conv3", _enlarge(layer("adjust1", x), 2) + _enlarge(b, 2))
        e = layer("conv4", _enlarge(layer("adjust2", x), 4) + _enlarge(c, 2))
        return (
            layer("conv5", e) + _enlarge(layer("adjust3", b), 4) + _enlarge(layer("adjust4", c), 2)
        )


def _convolution(channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, out, kernel_size=3, padding=1), nn.BatchNorm2d(out), nn.ReLU()
    )


def _enlarge(maps: Tensor, factor: int) -> Tensor:
    return F.interpolate(maps, scale_factor=factor, mode="nearest")


def corner_marginals(top_left: Tensor, bottom_right: Tensor) -> Tensor:
    """Distributions of the four edges that two corner distributions imply.

    Args:
        top_left: (B, G, G) probabilities, row (y) by column (x).
        bottom_right: The same of the other corner.

    Returns:
        (B, 4, G) in the order left, top, right, bottom: a corner's x is distributed as the sum
        over rows, its y as the sum over columns (paper, section 3.3).
    """
    maps = (top_left.sum(1), top_left.sum(2), bottom_right.sum(1), bottom_right.sum(2))
    return torch.stack(maps, dim=1)


class MixViT(nn.Module):
    """Backbone and corner head; keys of its `state_dict` are those of the released checkpoints."""

    def __init__(self, spec: TeacherSpec, drop_path: float = 0.0) -> None:
        super().__init__()
        self.spec = spec
        self.backbone = Backbone(spec, drop_path, predicts=False)
        self.box_head = CornerHead(spec)

    def forward(self, templates: Tensor, search: Tensor, features: bool = False) -> TeacherOutput:
        """Joint pass: templates (B, K, 3, T, T) and search (B, 3, S, S), both normalised.

        `features` requests the outputs of all blocks.
        """
        outputs: list[Tensor] | None = [] if features else None
        tokens = self.backbone(templates, search, features=outputs)
        side = self.spec.search_size // self.spec.PATCH
        patches = tokens.transpose(1, 2).reshape(tokens.shape[0], -1, side, side)
        top_left, bottom_right = self.box_head(patches)
        positions = torch.arange(self.spec.grid, device=tokens.device) / self.spec.grid
        edges = (corner_marginals(top_left, bottom_right) * positions).sum(dim=2)
        return TeacherOutput(edges_to_boxes(edges), top_left, bottom_right, tuple(outputs or ()))


def load_teacher(path: str | Path, heads: int | None = None) -> MixViT:
    """Build a MixViT from a checkpoint file, in eval mode and without gradients.

    The architecture is inferred from names and shapes. Tensors that MixViT does not use are
    ignored: released files carry a class token, its position table, a norm and a classifier of the
    plain ViT, and a score module.

    Args:
        path: A file that `load_checkpoint` reads; nothing in it is executed.
        heads: Attention heads, which shapes do not show; without it the number that the
            file states, else one per 64 channels.

    Raises:
        CheckpointError: the file cannot be read, is no MixViT, or tensors are missing or of the
            wrong shape.
    """
    checkpoint = load_checkpoint(path)
    try:
        spec = _infer_teacher(checkpoint, heads)
        with torch.device("meta"):
            model = MixViT(spec)
        expected = {
            name: tuple(value.shape)
            for name, value in model.state_dict().items()
            if value.is_floating_point()
        }
        shapes = {name: value.shape for name, value in checkpoint.weights.items()}
        faults = compare_shapes(shapes, expected)
        faults.pop(UNEXPECTED, None)
        if faults:
            raise CheckpointError(
                f"weights must fit MixViT ({describe(spec)}): {tell_faults(faults)}"
            )
    except CheckpointError as error:
        raise CheckpointError(f"{printable(Path(path).name)}: {error}") from error
    model = MixViT(spec)
    # Not strict because of the integer counters of batch norms, which are not needed.
    model.load_state_dict(
        {name: torch.from_numpy(checkpoint.weights[name]) for name in expected}, strict=False
    )
    return model.eval().requires_grad_(False)


def _infer_teacher(checkpoint: Checkpoint, heads: int | None) -> TeacherSpec:
    shapes = {name: tuple(value.shape) for name, value in checkpoint.weights.items()}
    if _FIRST_CONVOLUTION not in shapes:
        raise CheckpointError(f"must be MixViT weights (a teacher), but lacks {_FIRST_CONVOLUTION}")
    backbone = infer_backbone(shapes)
    channels = shapes[_FIRST_CONVOLUTION][0] if shapes[_FIRST_CONVOLUTION] else 0
    if channels < _HEAD_DIVISOR:
        raise CheckpointError(
            f"{_FIRST_CONVOLUTION} must have at least {_HEAD_DIVISOR} output channels, "
            f"got {channels}"
        )
    heads = checkpoint.noted_heads(heads)
    heads = backbone.width // HEAD_CHANNELS if heads is None else heads
    if heads < 1 or backbone.width % heads:
        raise CheckpointError(
            f"attention heads must be given and divide the width {backbone.width}, got {heads}"
        )
    pyramid = any(name.startswith("box_head.adjust") for name in shapes)
    return TeacherSpec(
        width=backbone.width,
        depth=backbone.depth,
        heads=heads,
        mlp_ratio=backbone.mlp_ratio,
        head="corner_up" if pyramid else "corner",
        head_channels=channels,
        template_size=backbone.template_size,
        search_size=backbone.search_size,
    )


def describe(spec: TeacherSpec) -> str:
    """The architecture in one line."""
    head = "pyramid" if spec.head == "corner_up" else "plain"
    return (
        f"width {spec.width}, depth {spec.depth}, {spec.heads} heads, MLP ratio "
        f"{spec.mlp_ratio:g}, {head} corner head of {spec.head_channels} channels, "
        f"grid {spec.grid}, template {spec.template_size} px, search {spec.search_size} px"
    )
