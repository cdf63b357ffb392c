"""The stages of the paper's training: what each needs, and how its network begins.

`plain` trains MixFormerV2 from ground truth, `teacher` a MixViT. `dense-to-sparse` gives the
student a MixViT's corner maps as targets, `removal` fades layers out, `extraction` takes the others
into a shallower network and trains it on, `mlp-reduction` does so with narrower MLPs, `score`
trains the score head alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from mixformerv2_ros.errors import CheckpointError, ParameterError
from mixformerv2_ros.lab.training import pruning
from mixformerv2_ros.lab.training.checkpoint_files import is_own, stage_of
from mixformerv2_ros.lab.training.config import TrainConfig
from mixformerv2_ros.lab.training.criterion import LABELS
from mixformerv2_ros.lab.training.mixvit import HEADS, MixViT, TeacherSpec, load_teacher
from mixformerv2_ros.lab.training.teachers import Pairs, Teacher, check_fit
from mixformerv2_ros.lab.training.training_model import (
    Batch,
    TeacherTrainingModel,
    TrainingModel,
    new_training_model,
)
from mixformerv2_ros.model.checkpoints import describe, preset_name
from mixformerv2_ros.model.presets import PRESETS
from mixformerv2_ros.model.spec import ModelSpec
from mixformerv2_ros.network.model import MixFormerV2, normalize

STAGES = (
    "plain",
    "teacher",
    "dense-to-sparse",
    "removal",
    "extraction",
    "mlp-reduction",
    "score",
)

MAE = "mae"
"""`start_stage` of weights that a masked autoencoder left."""

CALIBRATION_SAMPLES = 64
"""Samples from which the reduction of MLPs learns which hidden units matter."""

Draw = Callable[[int], Batch]
"""Gives a batch of so many samples."""

PRECISIONS: dict[str, torch.dtype | None] = {
    "fp32": None,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


def check_settings(config: TrainConfig) -> None:
    """Refuse settings that contradict each other or their stage, before anything is read.

    Raises:
        ParameterError: says what was expected and what came.
    """
    _one_of("stage", config.stage, STAGES)
    student_spec(config)
    _one_of("score_label", config.score_label, LABELS)
    _one_of("precision", config.precision, tuple(PRECISIONS))
    _one_of("groups", config.groups, ("shape", "name"))
    _one_of("model.head", config.model.head, HEADS)
    for name in ("batch", "steps", "epoch_samples", "validate_every", "validation_samples"):
        if getattr(config, name) < 1:
            raise ParameterError(f"{name} must be at least 1, got {getattr(config, name)}")
    if bool(config.sets) == bool(config.data):
        raise ParameterError(
            f"expected either data or sets, got {'both' if config.sets else 'neither'}"
        )
    if config.sets and not config.validation_sets:
        raise ParameterError("sets need validation_sets, got none")
    _check_stage(config)
    _check_losses(config)


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        names = ", ".join(one or "''" for one in known)
        raise ParameterError(f"{name} must be one of {names}, got {value!r}")


def _check_stage(config: TrainConfig) -> None:
    stage = config.stage
    needs = {
        "start": stage in ("removal", "extraction", "mlp-reduction", "score"),
        "teacher": stage == "dense-to-sparse",
        "removal.layers": stage == "removal",
        "keep": stage == "extraction",
    }
    may = {
        "start": stage != "teacher",
        "teacher": stage not in ("plain", "teacher", "score"),
    }
    given = {
        "start": config.start,
        "teacher": config.teacher,
        "removal.layers": config.removal.layers,
        "keep": config.keep,
    }
    for name, value in given.items():
        if needs[name] and not value:
            raise ParameterError(f"stage {stage} needs {name}, got none")
        if value and not needs[name] and not may.get(name, False):
            raise ParameterError(f"stage {stage} takes no {name}, got {value!r}")
    if config.start_stage not in ("", MAE, *STAGES):
        _one_of("start_stage", config.start_stage, ("", MAE, *STAGES))
    if config.start_stage in (MAE, "teacher") and stage not in ("plain", "dense-to-sparse"):
        raise ParameterError(
            f"stage {stage} starts from a MixFormerV2, got start_stage {config.start_stage}"
        )
    if config.only and stage == "score":
        raise ParameterError(f"stage score trains the score head only, got only {config.only!r}")
    if stage == "removal" and config.epochs and config.epochs < config.removal.epochs - 1:
        # The published fade reaches zero one epoch before its end.
        raise ParameterError(
            f"removal.epochs must be at most one more than epochs, or layers would be cut off "
            f"half faded; got {config.removal.epochs} with epochs {config.epochs}"
        )


def _check_losses(config: TrainConfig) -> None:
    weights = config.loss
    for name in ("kl", "features"):
        if getattr(weights, name) and not config.teacher:
            raise ParameterError(f"loss.{name} needs a teacher, got {getattr(weights, name)} alone")
    if config.teacher and not (weights.kl or weights.features):
        raise ParameterError("a teacher needs loss.kl or loss.features, got 0 for both")
    if config.stage == "teacher" and (weights.score or weights.foreground):
        raise ParameterError(
            "a MixViT has no score and no foreground classifier: expected loss.score and "
            f"loss.foreground 0, got {weights.score} and {weights.foreground}"
        )
    if config.stage == "score":
        others = [n for n in ("l1", "ciou", "edge", "foreground") if getattr(weights, n)]
        if others or not weights.score:
            raise ParameterError(
                "stage score takes loss.score alone, got "
                + (f"loss.{others[0]} {getattr(weights, others[0])}" if others else "loss.score 0")
            )


def student_spec(config: TrainConfig) -> ModelSpec:
    """The architecture of a run's MixFormerV2: its preset, changed.

    Raises:
        ParameterError: the changes make no sense.
    """
    _one_of("preset", config.preset, tuple(PRESETS))
    given = {
        name: getattr(config.model, name)
        for name in (
            *("width", "depth", "heads", "mlp_ratio", "bins", "template_size", "search_size"),
        )
        if getattr(config.model, name)
    }
    spec = replace(PRESETS[config.preset], preset="custom", **given)
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
    """The architecture of the MixViT that stage `teacher` trains.

    Raises:
        ParameterError: the changes make no sense.
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


def build_training_model(config: TrainConfig, draw: Draw) -> TrainingModel | TeacherTrainingModel:
    """Build a stage's network as it is before the first step, frozen where the stage says so.

    Args:
        config: The stage.
        draw: Gives samples of the stage's data, for surgery that looks at activations.

    Raises:
        CheckpointError: `start` cannot be read, is of another stage, or does not fit.
        ParameterError: a setting is impossible.
    """
    if config.stage == "teacher":
        return new_training_model(
            teacher_spec(config), config.drop_path, config.seed, config.identity_start
        )
    spec = student_spec(config)
    model = new_training_model(spec, config.drop_path, config.seed, config.identity_start)
    assert isinstance(model, TrainingModel)
    if config.start:
        # Networks built on the way must not move the generator that training draws from.
        with torch.random.fork_rng():
            _start(model, config, draw)
    _freeze(model, config)
    return model


def _freeze(model: TrainingModel, config: TrainConfig) -> None:
    only = "score_head" if config.stage == "score" else config.only
    for name, parameter in model.named_parameters():
        if only not in name:
            parameter.requires_grad_(False)
    # What no term of the loss reaches must not drift by weight decay.
    if not config.loss.score:
        model.network.score_head.requires_grad_(False)
    if not config.loss.foreground:
        model.foreground.requires_grad_(False)
    pruning.freeze_layers(model.network, config.removal.layers)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ParameterError(f"only must be part of a parameter's name, got {config.only!r}")


@dataclass(frozen=True)
class Source:
    """A MixFormerV2 read from a checkpoint.

    Attributes:
        network: The network, in eval mode.
        stage: The stage that made it; empty where the file does not say.
        faded: Layers that have been faded out.
        foreground: Weights of the foreground classifier, where there is one.
    """

    network: MixFormerV2
    stage: str = ""
    faded: tuple[int, ...] = ()
    foreground: Mapping[str, Tensor] = field(default_factory=dict)


def read_network(path: Path) -> Source:
    """Read a MixFormerV2 from a checkpoint of this trainer, of the release, or a state_dict.

    Raises:
        CheckpointError: the file cannot be read or holds another network.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:
        state = None  # an official container, which only `load_checkpoint` reads; or damaged
    if not is_own(state):
        return Source(pruning.load_network(path).eval())
    stage = stage_of(state)
    if stage == "teacher":
        raise CheckpointError(f"{path}: expected a MixFormerV2, got a checkpoint of stage teacher")
    marker = "foreground."
    return Source(
        network=pruning.load_network(path).eval(),
        stage=stage,
        faded=tuple(state["config"].get("removal", {}).get("layers", ())),
        foreground={
            name.removeprefix(marker): value
            for name, value in state["averaged"].items()
            if name.startswith(marker)
        },
    )


def _start(model: TrainingModel, config: TrainConfig, draw: Draw) -> None:
    path, wanted = Path(config.start), config.start_stage
    if wanted == MAE:
        pruning.init_from_mae(model.network, pruning.load_mae(path))
        return
    if wanted == "teacher":
        _start_from_teacher(model, path)
        return
    source = read_network(path)
    if source.stage:
        _check_stage_name(config, source.stage, str(path))
    _check_kept(config, source.network.spec.depth, source.faded, str(path))
    network = source.network
    if config.keep:
        network = pruning.extract_layers(network, config.keep)
    if config.stage == "mlp-reduction":
        batch = draw(CALIBRATION_SAMPLES)
        network = pruning.reduce_mlp(
            network,
            model.network.spec.mlp_ratio,
            normalize(batch.templates),
            normalize(batch.search),
        )
    _check_same(network.spec, model.network.spec, str(path))
    weights = network.state_dict()
    # The fixed tables belong to the size of the crops, not to the weights.
    weights |= {
        name: value
        for name, value in model.network.state_dict().items()
        if name.endswith(("pos_embed_t", "pos_embed_s"))
    }
    model.network.load_state_dict(weights)
    if source.foreground:
        model.foreground.load_state_dict(dict(source.foreground))


def _check_stage_name(config: TrainConfig, came: str, where: str) -> None:
    if config.start_stage and came != config.start_stage:
        raise CheckpointError(
            f"{where}: expected a checkpoint of stage {config.start_stage}, got one of stage {came}"
        )


def _check_kept(config: TrainConfig, depth: int, faded: Sequence[int], where: str) -> None:
    """What was faded out must be left out, and nothing else."""
    if not faded:
        return
    left = pruning.kept_layers(depth, faded)
    if config.keep != left:
        shown = pruning.printable_layers(config.keep) if config.keep else "all"
        raise CheckpointError(
            f"{where}: layers {pruning.printable_layers(faded)} were faded out, expected keep "
            f"{pruning.printable_layers(left)}, got {shown}"
        )


def _check_same(got: ModelSpec, expected: ModelSpec, where: str) -> None:
    """Refuse another architecture; crop sizes may differ."""
    same = replace(
        got,
        preset=expected.preset,
        template_size=expected.template_size,
        search_size=expected.search_size,
    )
    if same != expected:
        raise CheckpointError(
            f"{where}: expected architecture {describe(expected)}, got {describe(got)}"
        )


def _check_backbone(got: TeacherSpec, expected: ModelSpec, where: str) -> None:
    names = ("width", "depth", "heads", "mlp_ratio")
    wanted = {name: getattr(expected, name) for name in names}
    came = {name: getattr(got, name) for name in names}
    if wanted != came:
        raise CheckpointError(f"{where}: expected a backbone of {wanted}, got {came}")


def _start_from_teacher(model: TrainingModel, path: Path) -> None:
    """Take the backbone of a MixViT, which has all but the prediction tokens."""
    teacher = load_teacher(path)
    _check_backbone(teacher.spec, model.network.spec, str(path))
    weights = {
        name: value
        for name, value in teacher.backbone.state_dict().items()
        if not name.endswith(("pos_embed_t", "pos_embed_s"))
    }
    model.network.backbone.load_state_dict({**model.network.backbone.state_dict(), **weights})


def load_stage_teacher(config: TrainConfig) -> Teacher | None:
    """Load the teacher that a stage names, and make sure that it fits.

    Raises:
        CheckpointError: it cannot be read, is of another kind, or does not fit the student.
    """
    if not config.teacher:
        return None
    spec, path = student_spec(config), Path(config.teacher)
    network: MixViT | MixFormerV2
    if config.stage == "dense-to-sparse":
        network = load_teacher(path)
    else:
        source = read_network(path)
        if source.faded:
            raise CheckpointError(_half_teacher(str(path), source.faded))
        network = source.network
    pairs = feature_pairs(config, network.spec.depth)
    check_fit(network.spec, spec, pairs, str(path))
    return Teacher(network, pairs)


def feature_pairs(config: TrainConfig, teacher_depth: int) -> Pairs:
    """The blocks whose outputs a stage compares: those of the settings, or the published ones.

    Raises:
        ParameterError: a pair is none, or depths have no four blocks at equal distances.
    """
    if not config.loss.features:
        return ()
    if not config.feature_pairs:
        return pruning.feature_pairs(student_spec(config).depth, teacher_depth)
    if any(len(pair) != 2 for pair in config.feature_pairs):
        raise ParameterError(
            "feature_pairs must be pairs of a student's and a teacher's block, got "
            f"{[list(pair) for pair in config.feature_pairs]}"
        )
    return tuple((pair[0], pair[1]) for pair in config.feature_pairs)


def check_successor(config: TrainConfig, start: TrainConfig, where: str) -> None:
    """Refuse a stage that cannot begin where another ended, before either has run.

    Args:
        config: The later stage.
        start: The stage that it starts from.
        where: Names that stage in messages.

    Raises:
        CheckpointError: it cannot.
    """
    _check_stage_name(config, start.stage, where)
    if start.stage == "teacher":
        _check_backbone(teacher_spec(start), student_spec(config), where)
        return
    spec = student_spec(start)
    _check_kept(config, spec.depth, start.removal.layers, where)
    if config.keep:
        spec = replace(spec, depth=len(config.keep))
    if config.stage == "mlp-reduction":
        spec = replace(spec, mlp_ratio=student_spec(config).mlp_ratio)
    _check_same(spec, student_spec(config), where)


def check_stage_teacher(config: TrainConfig, teacher: TrainConfig, where: str) -> None:
    """Refuse a stage whose teacher, made by another stage, will not fit it.

    Raises:
        CheckpointError: it will not.
        ParameterError: a block to be compared does not exist.
    """
    dense = teacher.stage == "teacher"
    if dense != (config.stage == "dense-to-sparse"):
        wanted = "teacher" if config.stage == "dense-to-sparse" else "a MixFormerV2"
        raise CheckpointError(
            f"{where}: stage {config.stage} needs a teacher of stage {wanted}, got one of stage "
            f"{teacher.stage}"
        )
    if teacher.removal.layers:
        raise CheckpointError(_half_teacher(where, teacher.removal.layers))
    spec = teacher_spec(teacher) if dense else student_spec(teacher)
    check_fit(spec, student_spec(config), feature_pairs(config, spec.depth), where)


def _half_teacher(where: str, faded: Sequence[int]) -> str:
    return (
        f"{where}: expected a whole network as teacher, got one with layers "
        f"{pruning.printable_layers(faded)} faded out"
    )
