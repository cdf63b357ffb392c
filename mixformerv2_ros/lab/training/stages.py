"""The stages of the paper's training, and which settings each of them takes.

| stage | trains |
|---|---|
| `plain` | MixFormerV2 from ground truth |
| `teacher` | MixViT from ground truth |
| `dense-to-sparse` | a student that learns from a MixViT's corner maps |
| `pruning` | the remaining layers while the others decay to the identity |
| `deep-to-shallow` | a shallower student made of the remaining layers |
| `mlp-reduction` | a student with narrower MLPs |
| `score` | the score head alone |
| `exits` | the exits alone (`network.exits`); all else stays what it is |

Exits are trained together with all else in stage `plain`, with `loss.exits`.
"""

from __future__ import annotations

import math
from dataclasses import asdict, replace

import torch

from mixformerv2_ros.errors import ParameterError
from mixformerv2_ros.lab.training import pruning
from mixformerv2_ros.lab.training.config import TrainConfig
from mixformerv2_ros.lab.training.criterion import LABELS
from mixformerv2_ros.lab.training.mixvit import HEADS, TeacherSpec
from mixformerv2_ros.lab.training.teachers import Pairs
from mixformerv2_ros.model.architecture import preset_name
from mixformerv2_ros.model.presets import PRESETS
from mixformerv2_ros.model.spec import ModelSpec

STAGES = (
    "plain",
    "teacher",
    "dense-to-sparse",
    "pruning",
    "deep-to-shallow",
    "mlp-reduction",
    "score",
    "exits",
)

TRAINABLE = {"score": "score_head", "exits": "exits."}
"""Part of the names of the parameters that a stage trains, where it does not train all."""

MAE = "mae"
"""`init_stage` of the weights of a masked autoencoder."""

PRECISIONS: dict[str, torch.dtype | None] = {
    "fp32": None,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


def check_settings(config: TrainConfig) -> None:
    """Check that settings are consistent with each other and with the stage; reads no file.

    Raises:
        ParameterError: they are not.
    """
    _one_of("stage", config.stage, STAGES)
    student_spec(config)
    _one_of("loss.score_label", config.loss.score_label, LABELS)
    _one_of("runtime.precision", config.runtime.precision, tuple(PRECISIONS))
    _one_of("optimizer.param_groups", config.optimizer.param_groups, ("shape", "name"))
    _one_of("model.head", config.model.head, HEADS)
    counts = {
        "data.batch_size": config.data.batch_size,
        "schedule.steps": config.schedule.steps,
        "schedule.epoch_samples": config.schedule.epoch_samples,
        "validation.every": config.validation.every,
        "validation.samples": config.validation.samples,
    }
    for name, value in counts.items():
        if value < 1:
            raise ParameterError(f"{name} must be at least 1, got {value}")
    if not 0 <= config.data.max_unreadable < 1:
        raise ParameterError(
            f"data.max_unreadable must be 0 or more and below 1, got {config.data.max_unreadable}"
        )
    if bool(config.data.sets) == bool(config.data.folder):
        raise ParameterError(
            "expected either data.folder or data.sets, got "
            + ("both" if config.data.sets else "neither")
        )
    if config.data.sets and not config.data.validation_sets:
        raise ParameterError("data.sets needs data.validation_sets, got none")
    _check_stage(config)
    _check_losses(config)


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        names = ", ".join(one or "''" for one in known)
        raise ParameterError(f"{name} must be one of {names}, got {value!r}")


def _check_stage(config: TrainConfig) -> None:
    stage = config.stage
    needs = {
        "init_from": stage in ("pruning", "deep-to-shallow", "mlp-reduction", "score", "exits"),
        "distillation.teacher": stage == "dense-to-sparse",
        "pruning.layers": stage == "pruning",
        "pruning.keep_layers": stage == "deep-to-shallow",
    }
    may = {
        "init_from": stage != "teacher",
        "distillation.teacher": stage not in ("plain", "teacher", "score", "exits"),
    }
    given = {
        "init_from": config.init_from,
        "distillation.teacher": config.distillation.teacher,
        "pruning.layers": config.pruning.layers,
        "pruning.keep_layers": config.pruning.keep_layers,
    }
    for name, value in given.items():
        if needs[name] and not value:
            raise ParameterError(f"stage {stage} needs {name}, got none")
        if value and not needs[name] and not may.get(name, False):
            raise ParameterError(f"stage {stage} does not use {name}, got {value!r}")
    _one_of("init_stage", config.init_stage, ("", MAE, *STAGES))
    if config.init_stage in (MAE, "teacher") and stage not in ("plain", "dense-to-sparse"):
        raise ParameterError(
            f"stage {stage} starts from a MixFormerV2, got init_stage {config.init_stage}"
        )
    trainable = config.optimizer.trainable
    if trainable and stage in TRAINABLE:
        raise ParameterError(
            f"stage {stage} trains {TRAINABLE[stage]} only, got optimizer.trainable {trainable!r}"
        )
    if bool(config.model.exits) != bool(config.loss.exits) and stage != "score":
        raise ParameterError(
            f"model.exits and loss.exits need each other, got {list(config.model.exits)} and "
            f"{config.loss.exits:g}"
        )
    if stage == "exits" and not config.model.exits:
        raise ParameterError("stage exits needs model.exits, got none")
    epochs = config.schedule.epochs
    if stage == "pruning" and epochs and epochs < config.pruning.epochs - 1:
        # The published gamma reaches zero one epoch before its last.
        raise ParameterError(
            f"pruning.epochs must be at most schedule.epochs + 1 ({epochs + 1}), or gamma would "
            f"not reach 0; got {config.pruning.epochs}"
        )


def _check_losses(config: TrainConfig) -> None:
    weights, teacher = config.loss, config.distillation.teacher
    for name, value in asdict(weights).items():
        if name != "score_label" and not 0 <= value < math.inf:
            raise ParameterError(f"loss.{name} must be a finite number of 0 or more, got {value:g}")
    for name, other in (("kl", config.distillation.tracker.head), ("features", "")):
        value = getattr(weights, name)
        if value and not (teacher or other):
            raise ParameterError(f"loss.{name} {value} needs distillation.teacher, got none")
    if teacher and not (weights.kl or weights.features):
        raise ParameterError("distillation.teacher needs loss.kl or loss.features, got 0 for both")
    _check_tracker_teacher(config)
    if config.stage == "teacher" and (weights.score or weights.foreground):
        raise ParameterError(
            "a MixViT has no score and no foreground classifier: loss.score and loss.foreground "
            f"must be 0, got {weights.score} and {weights.foreground}"
        )
    if config.stage == "exits" and weights.exit_features:
        raise ParameterError(
            "stage exits leaves the search tokens as they are: loss.exit_features must be 0, got "
            f"{weights.exit_features:g}"
        )
    if config.stage == "score":
        others = [n for n in ("l1", "ciou", "edge", "foreground") if getattr(weights, n)]
        if others or not weights.score:
            raise ParameterError(
                "stage score takes loss.score alone, got "
                + (f"loss.{others[0]} {getattr(weights, others[0])}" if others else "loss.score 0")
            )


def _check_tracker_teacher(config: TrainConfig) -> None:
    given, weight = config.distillation.tracker, config.loss.feature_map
    if not given.backbone:
        if weight:
            raise ParameterError(
                f"loss.feature_map {weight} needs distillation.tracker.backbone, got none"
            )
        if given.head:
            raise ParameterError(
                "distillation.tracker.head needs distillation.tracker.backbone, got none"
            )
        return
    if given.head and config.distillation.teacher:
        raise ParameterError(
            "one teacher gives the edge distributions, got distillation.teacher and "
            "distillation.tracker.head"
        )
    if given.head and not config.loss.kl:
        raise ParameterError("distillation.tracker.head needs loss.kl, got 0")
    if not weight and not given.head:
        raise ParameterError(
            "distillation.tracker needs loss.feature_map, or a head and loss.kl; got neither"
        )
    if config.stage in ("teacher", "score", "exits"):
        raise ParameterError(
            f"stage {config.stage} does not use distillation.tracker, got {given.backbone!r}"
        )
    depth = student_spec(config).depth
    if not 0 <= given.block < depth:
        raise ParameterError(
            f"distillation.tracker.block must lie within {depth} blocks, from 0, got {given.block}"
        )


def student_spec(config: TrainConfig) -> ModelSpec:
    """Architecture of the MixFormerV2 of a run: its preset with the changes of `config.model`.

    Raises:
        ParameterError: the preset is unknown or the sizes are impossible.
    """
    _one_of("preset", config.preset, tuple(PRESETS))
    names = ("width", "depth", "heads", "mlp_ratio", "bins", "template_size", "search_size")
    changes = {name: value for name in names if (value := getattr(config.model, name))}
    exits = tuple(config.model.exits)
    spec = replace(PRESETS[config.preset], preset="custom", exits=exits, **changes)
    if list(spec.depths) != sorted(set(spec.depths)) or spec.depths[0] < 1:
        raise ParameterError(
            f"model.exits must ascend and lie after blocks 1 to {spec.depth - 1}, got {list(exits)}"
        )
    if spec.width % (4 * spec.heads):
        raise ParameterError(
            f"model.width must be a multiple of 4 and of the heads, got {spec.width} "
            f"with {spec.heads} heads"
        )
    for name in ("template_size", "search_size"):
        if getattr(spec, name) % spec.PATCH:
            raise ParameterError(
                f"model.{name} must be a multiple of {spec.PATCH}, got {getattr(spec, name)}"
            )
    return replace(spec, preset=preset_name(spec))


def teacher_spec(config: TrainConfig) -> TeacherSpec:
    """Architecture of the MixViT that stage `teacher` trains.

    Raises:
        ParameterError: the preset is unknown or the sizes are impossible.
    """
    spec = student_spec(config)
    return TeacherSpec(
        width=spec.width,
        depth=spec.depth,
        heads=spec.heads,
        mlp_ratio=spec.mlp_ratio,
        head=config.model.head,
        head_channels=config.model.head_channels,
        template_size=spec.template_size,
        search_size=spec.search_size,
    )


def feature_pairs(config: TrainConfig, teacher_depth: int) -> Pairs:
    """Pairs of blocks that the feature loss compares: those of the settings, or the default ones.

    Raises:
        ParameterError: an entry is not a pair, or a depth has no four blocks at equal distances.
    """
    pairs = config.distillation.feature_pairs
    if not config.loss.features:
        return ()
    if not pairs:
        return pruning.feature_pairs(student_spec(config).depth, teacher_depth)
    if any(len(pair) != 2 for pair in pairs):
        raise ParameterError(
            "distillation.feature_pairs must be pairs of a student block and a teacher block, got "
            f"{[list(pair) for pair in pairs]}"
        )
    return tuple((pair[0], pair[1]) for pair in pairs)
