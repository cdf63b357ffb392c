"""Validation: losses on fixed samples, and tracking of held-out sequences."""

from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path

import numpy as np
import torch

from mixformerv2_ros.engines.torch_engine import TorchEngine
from mixformerv2_ros.errors import SourceError
from mixformerv2_ros.lab.datasets.evaluation_sets import load_sequences
from mixformerv2_ros.lab.datasets.sequences import AnnotatedSequence, read_names
from mixformerv2_ros.lab.evaluation.metrics import overlaps
from mixformerv2_ros.lab.evaluation.run import run_sequence
from mixformerv2_ros.lab.evaluation.trackers import MixFormerTracker
from mixformerv2_ros.lab.training.config import ClipsConfig, TrainConfig
from mixformerv2_ros.lab.training.criterion import total_loss
from mixformerv2_ros.lab.training.data_loaders import SampleDataset, SampleSource
from mixformerv2_ros.lab.training.distributed import DistributedContext
from mixformerv2_ros.lab.training.training_model import TeacherTrainingModel, TrainingModel
from mixformerv2_ros.tracking.settings import TrackerSettings

_SEED = 2**31
_BATCH = 64
_NEVER = 2**31


@torch.no_grad()
def validate(
    model: TrainingModel | TeacherTrainingModel,
    source: SampleSource,
    config: TrainConfig,
    context: DistributedContext | None = None,
) -> dict[str, float]:
    """Mean loss terms, mean IoU and median scores over fixed samples, split among processes.

    Scores are reported only by stages that train them.

    Args:
        model: Model in eval mode.
        source: Source of samples.
        config: Number of samples and loss weights.
        context: Process group; every process returns the same values.
    """
    context = context or DistributedContext()
    stream = SampleDataset(source, _SEED)
    starts = range(0, config.validation.samples, _BATCH)
    mine = starts[context.rank :: context.world_size]
    with context.failing_together():
        parts = [_validate_batch(model, stream, first, config, context) for first in mine]
    parts = [part for one in context.all_gather(parts) for part in one]
    total = sum(count for count, _, _ in parts)
    report = {
        name: sum(count * values[name] for count, values, _ in parts) / total
        for name in parts[0][1]
    }
    pairs = [pair for _, _, scores in parts for pair in scores]
    if pairs:
        report["score_present"] = float(np.median([s for s, here in pairs if here] or [math.nan]))
        report["score_absent"] = float(
            np.median([s for s, here in pairs if not here] or [math.nan])
        )
    return report


def _validate_batch(
    model: TrainingModel | TeacherTrainingModel,
    stream: SampleDataset,
    first: int,
    config: TrainConfig,
    context: DistributedContext,
) -> tuple[int, dict[str, float], list[tuple[float, bool]]]:
    """Number of samples, mean loss terms, and (score, target present) of each sample if scored."""
    indices = range(first, min(first + _BATCH, config.validation.samples))
    batch = stream.batch(indices).to(context.device)
    output = model(batch)
    _, values = total_loss(output, batch, config.loss)
    scored = output.score_logits is not None and config.loss.score > 0
    scores = output.score_logits.sigmoid().tolist() if scored else []
    return (
        len(indices),
        {name: float(value) for name, value in values.items()},
        list(zip(scores, (batch.present > 0.5).tolist(), strict=False)),
    )


def load_clips(config: ClipsConfig) -> list[AnnotatedSequence]:
    """Load the sequences to track in validation.

    Raises:
        MixFormerError: one is missing or malformed.
    """
    if not config.root:
        return []
    names = read_names(Path(config.names)) if config.names else None
    sequences, problems = load_sequences(Path(config.root), config.dataset, names)
    if problems:
        raise SourceError(problems[0])
    end = config.frames or None
    return [
        dataclasses.replace(one, frames=one.frames[:end], boxes=one.boxes[:end])
        for one in sequences
    ]


def validate_clips(
    model: TrainingModel | TeacherTrainingModel,
    clips: list[AnnotatedSequence],
    config: TrainConfig,
    context: DistributedContext | None = None,
) -> dict[str, float]:
    """Mean IoU of one-pass tracking over all clips, without their first frames.

    The template is not updated if this stage does not train the score, which selects templates. A
    MixViT is not tracked with; its result is empty.
    """
    context = context or DistributedContext()
    if not clips or isinstance(model, TeacherTrainingModel):
        return {}
    engine = TorchEngine(copy.deepcopy(model.network), str(context.device))
    factors = config.data.sampling if config.data.sets else config.data.synthetic
    settings = TrackerSettings(
        search_factor=factors.search_factor,
        template_factor=factors.template_factor,
        template_background_contrast=factors.template_background_contrast,
        update_interval=TrackerSettings.update_interval if config.loss.score else _NEVER,
    )
    found = []
    with context.failing_together():
        for clip in clips[context.rank :: context.world_size]:
            result = run_sequence(MixFormerTracker(engine, settings), clip)
            found.append(float(np.nanmean(overlaps(result.boxes, clip.boxes)[1:])))
    every = [one for part in context.all_gather(found) for one in part]
    return {"clips_iou": float(np.mean(every))}
