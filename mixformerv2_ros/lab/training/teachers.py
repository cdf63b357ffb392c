"""Teachers: frozen networks whose output is the distillation target of a student."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mixformerv2_ros.errors import CheckpointError, ParameterError
from mixformerv2_ros.lab.training.losses import resize_for_teacher
from mixformerv2_ros.lab.training.mixvit import MixViT, TeacherSpec, corner_marginals
from mixformerv2_ros.lab.training.mixvit import describe as describe_mixvit
from mixformerv2_ros.lab.training.training_model import Batch, mixed_precision
from mixformerv2_ros.model.architecture import describe
from mixformerv2_ros.model.spec import ModelSpec
from mixformerv2_ros.network.model import MixFormerV2, normalize

Pairs = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class DistillationTargets:
    """Output of a teacher for a batch of B.

    Attributes:
        edges: Edge distributions (B, 4, bins), order left, top, right, bottom.
        features: Output of each block; empty without `pairs`.
        pairs: Pairs (student block, teacher block) to compare.
    """

    edges: Tensor
    features: tuple[Tensor, ...] = ()
    pairs: Pairs = ()


class Teacher:
    """A frozen MixViT, of whose corner maps the marginals are the targets, or MixFormerV2."""

    def __init__(self, network: MixViT | MixFormerV2, pairs: Pairs = ()) -> None:
        self.network = network.eval().requires_grad_(False)
        self.pairs = pairs
        self.dtype: torch.dtype | None = None

    @torch.no_grad()
    def __call__(self, batch: Batch) -> DistillationTargets:
        """Run the teacher on the student's batch, resized for a MixViT of another crop size."""
        templates, search = normalize(batch.templates), normalize(batch.search)
        wanted = bool(self.pairs)
        with mixed_precision(search.device, self.dtype):
            if isinstance(self.network, MixViT):
                templates, search = resize_for_teacher(templates, search, self.network.spec)
                dense = self.network(templates, search, wanted)
                edges = corner_marginals(dense.top_left.float(), dense.bottom_right.float())
                features = dense.features
            else:
                sparse = self.network(templates, search, features=wanted)
                edges = sparse.edge_logits.float().softmax(dim=-1)
                features = sparse.features
        return DistillationTargets(
            edges, tuple(feature.float() for feature in features), self.pairs
        )


def check_fit(
    teacher: TeacherSpec | ModelSpec,
    student: ModelSpec,
    pairs: Sequence[tuple[int, int]],
    where: str,
) -> None:
    """Check that a teacher's distributions and features can be compared with the student's.

    Args:
        teacher: Its architecture.
        student: The student's architecture.
        pairs: Blocks of student and teacher to be compared.
        where: File of the teacher, for messages.

    Raises:
        CheckpointError: they cannot.
        ParameterError: a block to be compared does not exist.
    """
    if isinstance(teacher, TeacherSpec):
        bins, what = teacher.grid, describe_mixvit(teacher)
    else:
        bins, what = teacher.bins, describe(teacher)
    if bins != student.bins:
        raise CheckpointError(
            f"{where}: a student with {student.bins} bins needs a teacher with the same number, "
            f"got {bins} ({what})"
        )
    sizes = (student.template_size, student.search_size)
    if isinstance(teacher, TeacherSpec):
        if pairs:
            raise ParameterError(
                "loss.features needs a teacher with prediction tokens (a MixFormerV2), "
                f"got a MixViT in {where}"
            )
    elif sizes != (teacher.template_size, teacher.search_size):
        raise CheckpointError(
            f"{where}: expected a teacher for crops of {sizes[0]} and {sizes[1]} px, got {what}"
        )
    elif pairs and teacher.width != student.width:
        raise CheckpointError(
            f"{where}: the feature loss needs a teacher of width {student.width}, got {what}"
        )
    for ours, theirs in pairs:
        if not (0 <= ours < student.depth and 0 <= theirs < teacher.depth):
            raise ParameterError(
                f"distillation.feature_pairs must lie within {student.depth} blocks of the student "
                f"and {teacher.depth} of the teacher, got {ours} and {theirs}"
            )
