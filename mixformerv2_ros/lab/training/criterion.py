"""The criterion of a training step: the weighted sum of all loss terms."""

from __future__ import annotations

import torch
from torch import Tensor

from mixformerv2_ros.lab.training import losses
from mixformerv2_ros.lab.training.config import LossConfig
from mixformerv2_ros.lab.training.teachers import DistillationTargets
from mixformerv2_ros.lab.training.tracker_teacher import Lesson
from mixformerv2_ros.lab.training.training_model import Batch, ModelOutput
from mixformerv2_ros.network.heads import edges_to_boxes, expected_edges

LABELS = ("quality", "presence")

TRUSTED_ABOVE = 0.5
"""Overlap with the truth above which a tracker's edge distributions are taught."""


def total_loss(
    output: ModelOutput,
    batch: Batch,
    weights: LossConfig,
    targets: DistillationTargets | None = None,
    share: Tensor | None = None,
    lesson: Lesson | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Weighted sum of all terms, and each term for the log.

    Box losses are averaged over the samples with a target. The label of the score is the presence
    of the target (paper), or the quality of the predicted box: 0 if the target is absent, else a
    ramp from 0 at IoU 0.2 to 1 at IoU 0.7, which is 0.5 at IoU 0.45.

    Args:
        output: Output of the network.
        batch: Its input, with labels.
        weights: Weights of the terms.
        targets: Output of the teacher.
        share: With several processes, the number of targets in this process's batch over the mean
            of all processes; the mean over processes then equals that over all targets.
        lesson: Output of a tracker that teaches. Its edge distributions count where they are right:
            where the box of their means overlaps the true one by more than a half.

    Returns:
        The loss, and detached values by name, including `iou` and `loss`.
    """
    here = batch.present > 0.5
    some = bool(here.any())
    # Box losses of a batch without any target.
    nothing = output.boxes.sum() * 0
    terms, iou = _box_terms(output.boxes, output.edge_logits, batch, here, nothing)
    if share is not None:
        terms = {name: term * share for name, term in terms.items()}
    if output.foreground is not None:
        terms["foreground"] = losses.foreground_loss(output.foreground, batch.edges)
    if output.score_logits is not None:
        label = _score_label(weights, batch, here, iou)
        terms["score"] = losses.score_loss(output.score_logits, label)
    if lesson is not None and output.feature_map is not None:
        terms["feature_map"] = losses.feature_map_loss(output.feature_map, lesson.features)
    if lesson is not None and lesson.edges is not None:
        right = here & (overlap_of_means(lesson.edges, batch.edges) > TRUSTED_ABOVE)
        # Over all samples, of which each process has as many: as the divergence from a network.
        divergence = losses.edge_kl(output.edge_logits[right], lesson.edges[right])
        terms["kl"] = divergence * right.float().mean() if bool(right.any()) else nothing
        terms["trusted"] = right.sum() / here.sum().clamp(min=1)
    if targets is not None:
        terms["kl"] = losses.edge_kl(output.edge_logits, targets.edges)
        if targets.pairs:
            terms["features"] = losses.feature_loss(
                output.features, targets.features, targets.pairs
            )
    if output.exits and weights.exits:
        terms |= _exit_terms(output, batch, weights, here, nothing)
    used = [
        getattr(weights, name) * term for name, term in terms.items() if getattr(weights, name, 0.0)
    ]
    loss = nothing
    for number, term in enumerate(used):
        loss = term if number == 0 else loss + term
    values = {name: term.detach() for name, term in terms.items()}
    values["iou"] = iou.detach().mean() if some else nothing.detach()
    if share is not None:
        values["iou"] = values["iou"] * share
    values["loss"] = loss.detach()
    return loss, values


def _box_terms(
    boxes: Tensor, edge_logits: Tensor, batch: Batch, here: Tensor, nothing: Tensor
) -> tuple[dict[str, Tensor], Tensor]:
    """The terms of the boxes of samples with a target, and the IoU of each of them."""
    predicted, edges = boxes[here], batch.edges[here]
    corners = torch.cat(
        [predicted[:, :2] - predicted[:, 2:] / 2, predicted[:, :2] + predicted[:, 2:] / 2], dim=1
    )
    complete, iou = losses.ciou(corners, edges)
    if not len(edges):
        return dict.fromkeys(("l1", "ciou", "edge"), nothing), iou
    terms = {
        "l1": losses.l1(corners, edges),
        "ciou": (1 - complete).mean(),
        "edge": losses.edge_cross_entropy(edge_logits[here], edges).mean(),
    }
    return terms, iou


def _score_label(weights: LossConfig, batch: Batch, here: Tensor, iou: Tensor) -> Tensor:
    if weights.score_label != "quality":
        return batch.present
    label = torch.zeros_like(batch.present)
    label[here] = ((iou.detach() - 0.2) / 0.5).clamp(0, 1)
    return label


def _exit_terms(
    output: ModelOutput, batch: Batch, weights: LossConfig, here: Tensor, nothing: Tensor
) -> dict[str, Tensor]:
    """The mean over the exits of all that each is taught, and the IoU of each for the log."""
    final = output.edge_logits.detach().softmax(dim=-1)
    total, values = nothing, {}
    for depth, one, tokens in zip(
        output.exit_depths, output.exits, output.exit_tokens, strict=False
    ):
        boxes = edges_to_boxes(expected_edges(one.edge_logits))
        terms, iou = _box_terms(boxes, one.edge_logits, batch, here, nothing)
        terms["score"] = losses.score_loss(
            one.score_logits, _score_label(weights, batch, here, iou)
        )
        if weights.exit_kl and bool(here.any()):
            terms["exit_kl"] = losses.edge_kl(one.edge_logits[here], final[here])
        if weights.exit_features:
            terms["exit_features"] = losses.target_feature_loss(
                tokens, output.exit_tokens[-1], batch.edges
            )
        truth = torch.zeros_like(batch.present)
        truth[here] = iou.detach()
        terms["decision"] = (one.quality_logits.sigmoid() - truth).square().mean()
        total = total + torch.stack(
            [getattr(weights, name) * term for name, term in terms.items()]
        ).sum() / len(output.exits)
        values[f"iou_{depth}"] = iou.detach().mean() if len(iou) else nothing.detach()
        values[f"decision_{depth}"] = terms["decision"].detach()
    return {"exits": total, **values}


def overlap_of_means(distributions: Tensor, edges: Tensor) -> Tensor:
    """IoU of the boxes of the mean edges of (B, 4, bins) with true ones (B, 4), (B,).

    0 where the true box has no area.
    """
    bins = distributions.shape[-1]
    place = torch.arange(bins, device=edges.device, dtype=edges.dtype) / bins
    means = distributions @ place
    covered = torch.minimum(means[:, 2:], edges[:, 2:]) - torch.maximum(means[:, :2], edges[:, :2])
    intersection = covered.clamp(min=0).prod(dim=1)
    areas = [(e[:, 2:] - e[:, :2]).clamp(min=0).prod(dim=1) for e in (means, edges)]
    return intersection / (areas[0] + areas[1] - intersection).clamp(min=1e-9)
