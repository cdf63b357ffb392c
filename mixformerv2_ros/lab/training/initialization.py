"""The networks that a stage starts from: random or from a checkpoint, and its teacher.

What can be checked before an earlier stage has run is checked by `check_init` and `check_teacher`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from mixformerv2_ros.errors import CheckpointError, ParameterError
from mixformerv2_ros.lab.datasets.package_paths import settings_path
from mixformerv2_ros.lab.training import pruning
from mixformerv2_ros.lab.training.checkpoint_files import read_if_own, stage_of
from mixformerv2_ros.lab.training.config import TrainConfig
from mixformerv2_ros.lab.training.mixvit import MixViT, TeacherSpec, load_teacher
from mixformerv2_ros.lab.training.pretrained import init_from_mae, load_mae, load_network
from mixformerv2_ros.lab.training.stages import (
    MAE,
    TRAINABLE,
    feature_pairs,
    student_spec,
    teacher_spec,
)
from mixformerv2_ros.lab.training.teachers import Teacher, check_fit
from mixformerv2_ros.lab.training.tracker_teacher import TrackerTeacher
from mixformerv2_ros.lab.training.training_model import (
    Batch,
    TeacherTrainingModel,
    TrainingModel,
    new_training_model,
)
from mixformerv2_ros.model.architecture import describe
from mixformerv2_ros.model.bundle import WEIGHTS, open_bundle, read_weights
from mixformerv2_ros.model.checkpoints import load_checkpoint
from mixformerv2_ros.model.spec import ModelSpec
from mixformerv2_ros.network.model import MixFormerV2, normalize

log = logging.getLogger(__name__)

CROPS = ("search_factor", "template_factor", "template_background_contrast")
"""Settings of `data.sampling` and `data.synthetic` that the weights depend on."""

SIZES = ("template_size", "search_size")
"""Settings of `model` that the weights depend on just as much."""

CALIBRATION_SAMPLES = 64
"""Samples on which the MLP reduction measures the importance of hidden units."""

DrawBatch = Callable[[int], Batch]
"""Returns a batch of the given number of samples."""


@dataclass(frozen=True)
class TrainedNetwork:
    """A MixFormerV2 read from a checkpoint.

    Attributes:
        network: The network, in eval mode.
        stage: The stage that wrote it; empty if unknown.
        pruned: Layers whose gamma was decayed to 0.
        foreground: Weights of the foreground classifier; empty if there is none.
        crops: How its training cut its crops, by the names of `CROPS`; empty if unknown.
    """

    network: MixFormerV2
    stage: str = ""
    pruned: tuple[int, ...] = ()
    foreground: Mapping[str, Tensor] = field(default_factory=dict)
    crops: Mapping[str, float] = field(default_factory=dict)


def build_training_model(
    config: TrainConfig, draw: DrawBatch
) -> TrainingModel | TeacherTrainingModel:
    """Build the network of a stage as it is before the first step, with its parameters frozen.

    Args:
        config: The stage.
        draw: Draws samples of the stage's data, on which the MLP reduction measures activations.

    Raises:
        CheckpointError: `init_from` cannot be read, is of another stage, or does not fit.
        ParameterError: a setting is impossible.
    """
    spec = teacher_spec(config) if config.stage == "teacher" else student_spec(config)
    tracker = load_tracker_teacher(config)
    model = new_training_model(
        spec,
        config.model.drop_path,
        config.seed,
        config.model.mimetic_init,
        tracker.channels if tracker and config.loss.feature_map else 0,
        config.distillation.tracker.block,
    )
    if isinstance(model, TeacherTrainingModel):
        return model
    if config.init_from:
        # Networks built on the way must not advance the generator that training uses.
        with torch.random.fork_rng():
            _load_initial_weights(model, config, draw)
    _freeze(model, config)
    return model


def _freeze(model: TrainingModel, config: TrainConfig) -> None:
    trainable = TRAINABLE.get(config.stage, config.optimizer.trainable)
    for name, parameter in model.named_parameters():
        if trainable not in name:
            parameter.requires_grad_(False)
    # Without a gradient, weight decay alone would change these.
    if not config.loss.score:
        model.network.score_head.requires_grad_(False)
    if not config.loss.foreground:
        model.foreground.requires_grad_(False)
    pruning.freeze_layers(model.network, config.pruning.layers)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ParameterError(
            f"optimizer.trainable must be part of a parameter's name, got {trainable!r}"
        )


def read_network(path: Path) -> TrainedNetwork:
    """Read a MixFormerV2 from a bundle, a checkpoint of this trainer or of the release, or weights.

    Raises:
        CheckpointError: the file cannot be read or holds another network.
        BundleError: the bundle is damaged.
    """
    if path.is_dir():
        return _read_bundle(path)
    state = read_if_own(path)
    if state is None:
        return TrainedNetwork(load_network(path).eval())
    stage = stage_of(state)
    if stage == "teacher":
        raise CheckpointError(f"{path}: expected a MixFormerV2, got a checkpoint of stage teacher")
    prefix = "foreground."
    return TrainedNetwork(
        network=load_network(path).eval(),
        stage=stage,
        pruned=tuple(state["config"].get("pruning", {}).get("layers", ())),
        foreground={
            name.removeprefix(prefix): value
            for name, value in state["averaged"].items()
            if name.startswith(prefix)
        },
        crops=load_checkpoint(path).crops,
    )


def _read_bundle(folder: Path) -> TrainedNetwork:
    bundle = open_bundle(folder)
    network = MixFormerV2.from_weights(bundle.spec, read_weights(bundle)).eval()
    return TrainedNetwork(network, crops={name: getattr(bundle, name) for name in CROPS})


def _load_initial_weights(model: TrainingModel, config: TrainConfig, draw: DrawBatch) -> None:
    path = settings_path(config.init_from)
    if config.init_stage == MAE:
        init_from_mae(model.network, load_mae(path))
        return
    if config.init_stage == "teacher":
        _init_from_teacher(model, path)
        return
    found = read_network(path)
    if found.stage:
        _check_stage_name(config, found.stage, str(path))
    _check_crops(config, model.network.spec, found, path)
    _check_kept(config, found.network.spec.depth, found.pruned, str(path))
    network = found.network
    if network.spec.exits and _loses_exits(config):
        log.info("exits of %s are left out", path)
        network = pruning.without_exits(network)
    if config.pruning.keep_layers:
        network = pruning.extract_layers(network, config.pruning.keep_layers)
    if config.stage == "mlp-reduction":
        batch = draw(CALIBRATION_SAMPLES)
        network = pruning.reduce_mlp(
            network,
            model.network.spec.mlp_ratio,
            normalize(batch.templates),
            normalize(batch.search),
        )
    # A network may get exits; those that it has must stay.
    spec = model.network.spec
    gets_exits = not network.spec.exits
    _check_same(network.spec, replace(spec, exits=()) if gets_exits else spec, str(path))
    weights = network.state_dict()
    if gets_exits:
        weights |= _exit_heads(weights, spec.exits)
    # The fixed position tables depend on the size of the crops.
    weights |= {
        name: value
        for name, value in model.network.state_dict().items()
        if name.endswith(pruning.POSITION_TABLES) or name not in weights
    }
    model.network.load_state_dict(weights)
    if found.foreground:
        model.foreground.load_state_dict(dict(found.foreground))


def _check_crops(config: TrainConfig, spec: ModelSpec, start: TrainedNetwork, path: Path) -> None:
    """Refuse crops that differ from those of a bundle; of a checkpoint, log the differences.

    Stages may change the crops of the one before; who fine-tunes a bundle hardly means to.
    """
    group = "sampling" if config.data.sets else "synthetic"
    now = getattr(config.data, group)
    crops = {
        f"data.{group}.{name}": (value, getattr(now, name)) for name, value in start.crops.items()
    } | {
        f"model.{name}": (getattr(start.network.spec, name), getattr(spec, name)) for name in SIZES
    }
    different = {
        name: (old, new) for name, (old, new) in crops.items() if not math.isclose(old, new)
    }
    if not different:
        return
    texts = [f"{name} {old:g}, got {new:g}" for name, (old, new) in different.items()]
    if path.is_dir():
        raise ParameterError(
            f"{path}: expected the crops of this bundle: {'; '.join(texts)} (to change them, start "
            f"from {path / WEIGHTS})"
        )
    log.warning("crops differ from those of %s: %s", path, "; ".join(texts))


def _loses_exits(config: TrainConfig) -> bool:
    """Whether a stage makes a network shallower, so that exits of its start mean nothing in it."""
    return config.stage in ("pruning", "deep-to-shallow") and not config.model.exits


def _exit_heads(weights: Mapping[str, Tensor], exits: Sequence[int]) -> dict[str, Tensor]:
    """Box and score heads of new exits: the heads after the last block."""
    return {
        f"exits.{depth}.{name}": value
        for depth in exits
        for name, value in weights.items()
        if name.startswith(("box_head.", "score_head."))
    }


def _init_from_teacher(model: TrainingModel, path: Path) -> None:
    """Take the backbone of a MixViT, which has everything but the prediction tokens."""
    teacher = load_teacher(path)
    _check_backbone(teacher.spec, model.network.spec, str(path))
    weights = {
        name: value
        for name, value in teacher.backbone.state_dict().items()
        if not name.endswith(pruning.POSITION_TABLES)
    }
    model.network.backbone.load_state_dict({**model.network.backbone.state_dict(), **weights})


def load_tracker_teacher(config: TrainConfig) -> TrackerTeacher | None:
    """Read the tracker that teaches a stage and check that it fits; None if the stage has none.

    Raises:
        CheckpointError: it cannot be read or does not fit the student.
    """
    given = config.distillation.tracker
    if not given.backbone:
        return None
    spec = student_spec(config)
    head = Path(given.head) if given.head else None
    return TrackerTeacher(Path(given.backbone), spec.search_size // spec.PATCH, head, spec.bins)


def load_stage_teacher(config: TrainConfig) -> Teacher | None:
    """Load the teacher of a stage and check that it fits; None if the stage has none.

    Raises:
        CheckpointError: it cannot be read, is of another kind, or does not fit the student.
    """
    if not config.distillation.teacher:
        return None
    spec, path = student_spec(config), settings_path(config.distillation.teacher)
    network: MixViT | MixFormerV2
    if config.stage == "dense-to-sparse":
        network = load_teacher(path)
    else:
        found = read_network(path)
        _check_unpruned(found.pruned, str(path))
        network = found.network
    pairs = feature_pairs(config, network.spec.depth)
    check_fit(network.spec, spec, pairs, str(path))
    return Teacher(network, pairs)


def check_init(config: TrainConfig, earlier: TrainConfig, where: str) -> None:
    """Check that a stage can start from the result of another one, before either has run.

    Args:
        config: The later stage.
        earlier: The stage that it starts from.
        where: Name of that stage, for messages.

    Raises:
        CheckpointError: it cannot.
    """
    _check_stage_name(config, earlier.stage, where)
    if earlier.stage == "teacher":
        _check_backbone(teacher_spec(earlier), student_spec(config), where)
        return
    spec = student_spec(earlier)
    _check_kept(config, spec.depth, earlier.pruning.layers, where)
    if _loses_exits(config):
        spec = replace(spec, exits=())
    if config.pruning.keep_layers:
        spec = replace(spec, depth=len(config.pruning.keep_layers))
    if config.stage == "mlp-reduction":
        spec = replace(spec, mlp_ratio=student_spec(config).mlp_ratio)
    _check_same(spec, student_spec(config), where)


def check_teacher(config: TrainConfig, teacher: TrainConfig, where: str) -> None:
    """Check that the result of another stage can teach a stage, before either has run.

    Raises:
        CheckpointError: it cannot.
        ParameterError: a block to be compared does not exist.
    """
    dense = teacher.stage == "teacher"
    if dense != (config.stage == "dense-to-sparse"):
        wanted = "teacher" if config.stage == "dense-to-sparse" else "a MixFormerV2"
        raise CheckpointError(
            f"{where}: stage {config.stage} needs a teacher of stage {wanted}, got one of stage "
            f"{teacher.stage}"
        )
    _check_unpruned(teacher.pruning.layers, where)
    spec = teacher_spec(teacher) if dense else student_spec(teacher)
    check_fit(spec, student_spec(config), feature_pairs(config, spec.depth), where)


def _check_stage_name(config: TrainConfig, got: str, where: str) -> None:
    if config.init_stage and got != config.init_stage:
        raise CheckpointError(
            f"{where}: expected a checkpoint of stage {config.init_stage}, got one of stage {got}"
        )


def _check_kept(config: TrainConfig, depth: int, pruned: Sequence[int], where: str) -> None:
    """Layers that were pruned must be left out, and no others."""
    if not pruned:
        return
    kept, expected = config.pruning.keep_layers, pruning.kept_layers(depth, pruned)
    if kept != expected:
        raise CheckpointError(
            f"{where}: layers {pruning.printable_layers(pruned)} were pruned, expected "
            f"pruning.keep_layers {pruning.printable_layers(expected)}, got "
            f"{pruning.printable_layers(kept) if kept else 'all'}"
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
    def sizes(spec: TeacherSpec | ModelSpec) -> str:
        return (
            f"width {spec.width}, depth {spec.depth}, {spec.heads} heads, "
            f"MLP ratio {spec.mlp_ratio:g}"
        )

    if sizes(got) != sizes(expected):
        raise CheckpointError(
            f"{where}: expected a backbone of {sizes(expected)}, got {sizes(got)}"
        )


def _check_unpruned(pruned: Sequence[int], where: str) -> None:
    if pruned:
        raise CheckpointError(
            f"{where}: expected a complete network as teacher, got one with layers "
            f"{pruning.printable_layers(pruned)} pruned"
        )
