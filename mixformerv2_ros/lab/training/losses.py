"""Losses, with and without a teacher (paper, section 3.3; released code's forms).

Boxes are compared as edges: left, top, right, bottom over the side of the search crop. `L1`, `CIoU`
and the score's loss need ground truth only; `edge_kl` and `feature_loss` compare the student with
its teacher. The weights that the release adds them with are 5, 2, 5 and 0.2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mixformerv2_ros.errors import ParameterError
from mixformerv2_ros.lab.training.mixvit import TeacherSpec


def l1(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error over all 4 B edges of (B, 4) predicted and (B, 4) true ones."""
    return (predicted - target).abs().mean()


def ciou(predicted: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Complete IoU and IoU of box pairs.

    Args:
        predicted: (B, 4) left, top, right, bottom in [0, 1]; sides may be negative early on.
        target: (B, 4), sides positive.

    Returns:
        CIoU (B,), clamped to [-1, 1], and IoU (B,). The aspect term counts only where IoU exceeds
        0.5 and its weight is constant for the gradient (Zheng et al., 2020, as released). The loss
        is the mean of 1 - CIoU.
    """
    left_top = torch.maximum(predicted[:, :2], target[:, :2])
    right_bottom = torch.minimum(predicted[:, 2:], target[:, 2:])
    intersection = (right_bottom - left_top).clamp(min=0).prod(dim=1)
    size, size_true = predicted[:, 2:] - predicted[:, :2], target[:, 2:] - target[:, :2]
    union = size.prod(dim=1) + size_true.prod(dim=1) - intersection
    iou = intersection / union
    enclosing = torch.maximum(predicted[:, 2:], target[:, 2:]) - torch.minimum(
        predicted[:, :2], target[:, :2]
    )
    apart = (predicted[:, :2] + predicted[:, 2:] - target[:, :2] - target[:, 2:]) / 2
    distance = apart.square().sum(dim=1) / enclosing.square().sum(dim=1)
    aspect = (4 / math.pi**2) * (
        torch.atan(size_true[:, 0] / size_true[:, 1]) - torch.atan(size[:, 0] / size[:, 1])
    ).square()
    with torch.no_grad():
        # For equal boxes the weight would be 0 / 0; their term is 0 anyway.
        counts = (iou > 0.5) & (aspect > 0)
        alpha = torch.where(counts, aspect / (1 - iou + aspect), 0.0)
    return (iou - distance - alpha * aspect).clamp(-1, 1), iou


def edge_kl(student_logits: Tensor, teacher: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the student's edge distributions from the teacher's.

    Args:
        student_logits: (B, 4, bins).
        teacher: (B, 4, bins) probabilities: `mixvit.corner_marginals`, or the softmax of a
            MixFormerV2's logits. No temperature.

    Returns:
        KL(teacher || student), averaged over batch and edges.

    Raises:
        ParameterError: the shapes differ, such as the teacher's grid and the student's bins.
    """
    if student_logits.shape != teacher.shape:
        raise ParameterError(
            "student and teacher must have the same number of bins: expected logits of shape "
            f"{tuple(teacher.shape)}, got {tuple(student_logits.shape)}"
        )
    batch, edges, _ = student_logits.shape
    divergence = F.kl_div(student_logits.log_softmax(dim=-1), teacher, reduction="sum")
    return divergence / (batch * edges)


def feature_loss(
    student: Sequence[Tensor], teacher: Sequence[Tensor], pairs: Sequence[tuple[int, int]]
) -> Tensor:
    """Mean squared error between the outputs of paired blocks.

    Args:
        student: Block outputs (B, tokens, width), all tokens.
        teacher: Block outputs of the teacher.
        pairs: Student block and teacher block, from 0; see `pruning.feature_pairs`.

    Returns:
        The mean over pairs, samples, tokens and channels.

    Raises:
        ParameterError: paired outputs differ in shape, or a block does not exist.
    """
    losses = []
    for ours, theirs in pairs:
        if not (0 <= ours < len(student) and 0 <= theirs < len(teacher)):
            raise ParameterError(
                f"feature pairs must lie within {len(student)} blocks of the student and "
                f"{len(teacher)} of the teacher, got {ours} and {theirs}"
            )
        if student[ours].shape != teacher[theirs].shape:
            raise ParameterError(
                "features of student and teacher must have the same shape, "
                f"got {tuple(student[ours].shape)} and {tuple(teacher[theirs].shape)}"
            )
        losses.append(F.mse_loss(student[ours], teacher[theirs]))
    return torch.stack(losses).mean()


def feature_map_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of normalised features.

    Each token's channels are brought to mean 0 and variance 1 on both sides: what is taught is the
    pattern of the channels, not their scale.

    Args:
        student: (B, tokens, channels), from a linear layer on the search tokens.
        teacher: The same shape: the teacher's map, averaged to the tokens.

    Returns:
        The mean over samples, tokens and channels; 2 for unrelated features.

    Raises:
        ParameterError: the shapes differ.
    """
    if student.shape != teacher.shape:
        raise ParameterError(
            "search tokens and a tracker teacher's map must have one shape (samples, tokens, "
            f"channels), got {tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    channels = student.shape[-1:]
    return F.mse_loss(F.layer_norm(student, channels), F.layer_norm(teacher, channels))


def score_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross entropy of score logits (B,) against labels (B,) in [0, 1], batch mean."""
    return F.binary_cross_entropy_with_logits(logits, labels)


def resize_for_teacher(
    templates: Tensor, search: Tensor, spec: TeacherSpec
) -> tuple[Tensor, Tensor]:
    """Resize the student's inputs to the crop sizes of the teacher.

    The released S and B have 96 bins because their teacher saw 384-pixel search crops, four bins to
    a patch; inputs were resized bilinearly with aligned corners (SPEC 4.3).

    Args:
        templates: (B, K, 3, T, T), normalised.
        search: (B, 3, S, S), normalised.
        spec: The teacher; inputs of its sizes are returned unchanged.

    Returns:
        Templates and search with the teacher's sides.
    """
    batch, count = templates.shape[:2]
    if templates.shape[-1] != spec.template_size:
        resized = _resize(templates.flatten(0, 1), spec.template_size)
        templates = resized.unflatten(0, (batch, count))
    if search.shape[-1] != spec.search_size:
        search = _resize(search, spec.search_size)
    return templates, search


def _resize(crops: Tensor, side: int) -> Tensor:
    return F.interpolate(crops, size=(side, side), mode="bilinear", align_corners=True)


def edge_cross_entropy(edge_logits: Tensor, edges: Tensor) -> Tensor:
    """Cross entropy of edge distributions against the two bins that enclose the true coordinate.

    The paper supervises distributions only through their mean and a teacher. Without a teacher
    this loss calibrates their spread (distribution focal loss, Li et al., 2020).

    Args:
        edge_logits: (B, 4, bins).
        edges: (B, 4) in [0, 1].

    Returns:
        (B,), mean over the four edges.
    """
    lower, share = split_between_bins(edges, edge_logits.shape[-1])
    log_probability = edge_logits.log_softmax(dim=-1)
    index = lower.unsqueeze(-1)
    below = log_probability.gather(-1, index).squeeze(-1)
    above = log_probability.gather(-1, index + 1).squeeze(-1)
    return -((1 - share) * below + share * above).mean(dim=1)


def split_between_bins(edges: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """The lower of the two bins that enclose each coordinate, and the share of the upper one.

    Args:
        edges: Coordinates over the side of the search crop, of any shape; clamped to the bins.
        bins: Bins of a distribution; bin i stands for i / bins.

    Returns:
        Numbers of the lower bins (int64) and shares in [0, 1], both of the shape of `edges`.
    """
    position = (edges * bins).clamp(0, bins - 1)
    lower = position.floor().clamp(max=bins - 2)
    return lower.long(), position - lower


def patch_coverage(edges: Tensor, side: int) -> Tensor:
    """Share of every search patch that the target's box covers.

    Args:
        edges: (B, 4) left, top, right, bottom in [0, 1].
        side: Patches per side.

    Returns:
        (B, side * side) in [0, 1], in row-major order.
    """
    grid = torch.arange(side, device=edges.device, dtype=edges.dtype)

    def overlap(low: Tensor, high: Tensor) -> Tensor:
        low, high = low[:, None] * side, high[:, None] * side
        return (torch.minimum(high, grid + 1) - torch.maximum(low, grid)).clamp(min=0)

    columns = overlap(edges[:, 0], edges[:, 2])
    rows = overlap(edges[:, 1], edges[:, 3])
    return (rows[:, :, None] * columns[:, None, :]).flatten(1)


def foreground_loss(logits: Tensor, edges: Tensor) -> Tensor:
    """Binary cross entropy of the foreground classifier against the covered share of each patch.

    Args:
        logits: (B, search tokens).
        edges: (B, 4); all zero where the target is absent.
    """
    side = math.isqrt(logits.shape[1])
    return F.binary_cross_entropy_with_logits(logits, patch_coverage(edges, side))


def target_feature_loss(student: Tensor, teacher: Tensor, edges: Tensor) -> Tensor:
    """Mean squared difference of normalised search tokens, weighted towards the target.

    A token counts by the share of its patch that the target covers, and by a tenth of that beside
    the target (ours; of DyTrack's loss it is known that it is aware of the target).

    Args:
        student: (B, tokens, width), at an exit.
        teacher: The same shape, at full depth; no gradient flows there.
        edges: (B, 4) left, top, right, bottom in [0, 1]; all zero where the target is absent.
    """
    channels = student.shape[-1:]
    apart = F.layer_norm(student, channels) - F.layer_norm(teacher.detach(), channels)
    weight = 0.1 + 0.9 * patch_coverage(edges, math.isqrt(student.shape[1]))
    return (apart.square().mean(dim=-1) * weight).sum() / weight.sum()
