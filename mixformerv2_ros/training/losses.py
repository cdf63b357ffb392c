"""Losses of training without a teacher (paper, section 3.3; released code's forms)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def ciou(predicted: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Complete IoU and IoU of box pairs.

    Args:
        predicted: (B, 4) left, top, right, bottom in [0, 1]; sides may be negative early on.
        target: (B, 4), sides positive.

    Returns:
        CIoU (B,), clamped to [-1, 1], and IoU (B,). The aspect term counts only where IoU exceeds
        0.5 and its weight is constant for the gradient (Zheng et al., 2020, as released).
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
        alpha = (iou > 0.5) * aspect / (1 - iou + aspect)
    return (iou - distance - alpha * aspect).clamp(-1, 1), iou


def edge_cross_entropy(edge_logits: Tensor, edges: Tensor) -> Tensor:
    """Cross entropy of edge distributions against the two bins that enclose the true coordinate.

    The paper supervises distributions through their mean and a teacher only. Without a teacher
    nothing would keep their spread honest; this does (distribution focal loss, Li et al., 2020).

    Args:
        edge_logits: (B, 4, bins).
        edges: (B, 4) in [0, 1].

    Returns:
        (B,), mean over the four edges.
    """
    bins = edge_logits.shape[-1]
    position = (edges * bins).clamp(0, bins - 1)
    lower = position.floor().clamp(max=bins - 2)
    share = position - lower
    log_probability = edge_logits.log_softmax(dim=-1)
    index = lower.long().unsqueeze(-1)
    below = log_probability.gather(-1, index).squeeze(-1)
    above = log_probability.gather(-1, index + 1).squeeze(-1)
    return -((1 - share) * below + share * above).mean(dim=1)


def patch_coverage(edges: Tensor, side: int) -> Tensor:
    """Share of every search patch that the target's box covers.

    Args:
        edges: (B, 4) left, top, right, bottom in [0, 1].
        side: Patches per side.

    Returns:
        (B, side * side) in [0, 1], row by row.
    """
    grid = torch.arange(side, device=edges.device, dtype=edges.dtype)

    def overlap(low: Tensor, high: Tensor) -> Tensor:
        low, high = low[:, None] * side, high[:, None] * side
        return (torch.minimum(high, grid + 1) - torch.maximum(low, grid)).clamp(min=0)

    columns = overlap(edges[:, 0], edges[:, 2])
    rows = overlap(edges[:, 1], edges[:, 3])
    return (rows[:, :, None] * columns[:, None, :]).flatten(1)


def foreground_loss(logits: Tensor, edges: Tensor) -> Tensor:
    """Binary cross entropy of a per-token foreground classifier against the box on the patch grid.

    Args:
        logits: (B, search tokens).
        edges: (B, 4); all zero where the target is absent.
    """
    side = math.isqrt(logits.shape[1])
    return F.binary_cross_entropy_with_logits(logits, patch_coverage(edges, side))
