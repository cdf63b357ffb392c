"""Training settings, read from YAML into frozen dataclasses."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import yaml

from mixformerv2_ros.errors import ParameterError
from mixformerv2_ros.lab.datasets.read import SetConfig
from mixformerv2_ros.lab.training.sampling import SamplingConfig
from mixformerv2_ros.lab.training.synthetic import SyntheticConfig

Settings = TypeVar("Settings")


@dataclass(frozen=True)
class LossWeights:
    """Factors of the loss terms; a term with factor 0 is measured, but teaches nothing.

    Attributes:
        l1: Mean absolute error of the four edges, in crop sides (paper: 5).
        ciou: 1 - complete IoU (paper: 2).
        edge: Cross entropy of the edge distributions against the true edges (paper: none).
        foreground: Foreground classifier on the final search tokens (training only; paper: none).
        score: Binary cross entropy of the score (paper: 1, alone, in the score stage).
        kl: Divergence of the edge distributions from the teacher's (paper: 5).
        features: Mean squared difference of paired blocks' outputs (paper: 0.2, in the second
            stage).
    """

    l1: float = 5.0
    ciou: float = 2.0
    edge: float = 0.5
    foreground: float = 2.0
    score: float = 0.5
    kl: float = 0.0
    features: float = 0.0


@dataclass(frozen=True)
class ModelConfig:
    """How the network differs from its preset; 0 means: it does not.

    Attributes:
        width, depth, heads, mlp_ratio, bins, template_size, search_size: As in `ModelSpec`.
        head: Corner head of the network that stage `teacher` trains, `corner` or `corner_up`; its
            bins follow from the head (one to a patch and side, or four).
        head_channels: Channels of that head's first convolution.
    """

    width: int = 0
    depth: int = 0
    heads: int = 0
    mlp_ratio: float = 0.0
    bins: int = 0
    template_size: int = 0
    search_size: int = 0
    head: str = "corner_up"
    head_channels: int = 384


@dataclass(frozen=True)
class RemovalConfig:
    """Layers that fade out.

    Attributes:
        layers: Their numbers, from 0.
        epochs: Length of the fade-out; the stage must be at least as long.
    """

    layers: tuple[int, ...] = ()
    epochs: int = 40


@dataclass(frozen=True)
class ClipsConfig:
    """Held-out sequences that validation tracks through.

    Attributes:
        root: Folder of sequences; empty tracks none.
        layout: How they lie there, as in `mixformerv2 evaluate --dataset`.
        names: File with the names to take; empty takes all.
        frames: Only the first frames of each; 0 takes all.
    """

    root: str = ""
    layout: str = "plain"
    names: str = ""
    frames: int = 0


@dataclass(frozen=True)
class TrainConfig:
    """One training run: one stage of a recipe.

    Attributes:
        preset: Architecture, a name in `network.presets.PRESETS`.
        model: What differs from the preset.
        stage: What the run does, a name in `stages.STAGES`.
        data: Folder with `stills/` and `sequences/` for the synthetic world, or `drawn`: the world
            draws its pictures itself. Empty with `sets`.
        exclude: File with names of sequences in `data` that must not be trained on.
        world: How the synthetic world draws samples.
        sets: Data sets to train on instead of the world.
        validation_sets: The same for validation.
        sampling: How samples are drawn from data sets.
        output: Folder of checkpoints and log.
        start: Checkpoint to take the weights from; empty draws them from the seed.
        start_stage: The stage that must have made it: others are refused. `mae` for weights of a
            masked autoencoder; empty takes any.
        keep: Blocks of `start` that become this network's, in order; empty takes all.
        teacher: Checkpoint of the teacher; empty trains without one.
        feature_pairs: Block of this network and block of the teacher whose outputs are compared;
            empty takes four of each at equal distances.
        removal: Layers that fade out in stage `removal`.
        only: Train only parameters with this in their name, such as `score_head`; empty trains all.
        score_label: What the score is taught: `quality` of the box that it vouches for, or
            `presence` of the target (paper).
        seed: Seed of weights and of the sample stream.
        batch: Samples per step and process.
        steps: Steps of the whole run.
        epochs: Length in epochs instead of steps; 0 leaves it to `steps`.
        epoch_samples: Samples of one epoch, of all processes together.
        drop_epoch: Epochs after which the learning rate falls to a tenth; 0 never.
        warmup: Steps of linear warm-up.
        cooldown: Share of the steps, at the end, over which the rate falls linearly to zero.
        groups: `shape` decays matrices only and knows Muon; `name` is the published AdamW: two
            rates, told apart by "backbone" in a parameter's name, and decay on all of them.
        learning_rate: Rate of AdamW (with `name`: of what lies outside the backbone).
        backbone_learning_rate: Rate of the backbone with groups by `name`.
        matrix_learning_rate: Rate of Muon for the blocks' matrices; 0 gives them to AdamW.
        weight_decay: Decoupled weight decay.
        clip_norm: Largest norm of the gradient.
        drop_path: Stochastic depth of the last block; grows linearly from zero.
        average: Decay of the running average of weights, which is what gets shipped; 0 ships the
            weights themselves.
        identity_start: Strength of the attention blocks' start near identity (0 = off).
        device: `auto` (a GPU where there is one), `cpu`, `cuda` or `cuda:N`.
        precision: `fp32`, or `bf16` or `fp16` with automatic mixed precision.
        workers: Loader processes; does not change the samples.
        threads: Threads of the network; 0 leaves the choice to torch.
        validate_every: Steps between validations and checkpoints.
        validate_epochs: The same in epochs; 0 leaves it to `validate_every`.
        validation_samples: Samples of the validation stream.
        clips: Sequences that validation tracks through.
        loss: Factors of the loss terms.
    """

    preset: str
    output: str
    data: str = ""
    exclude: str = ""
    start: str = ""
    only: str = ""
    seed: int = 0
    batch: int = 64
    steps: int = 5000
    warmup: int = 200
    cooldown: float = 0.3
    learning_rate: float = 1e-3
    matrix_learning_rate: float = 0.0
    weight_decay: float = 0.02
    clip_norm: float = 1.0
    drop_path: float = 0.0
    average: float = 0.998
    identity_start: float = 0.0
    workers: int = 1
    threads: int = 0
    validate_every: int = 250
    validation_samples: int = 512
    loss: LossWeights = field(default_factory=LossWeights)
    world: SyntheticConfig = field(default_factory=SyntheticConfig)
    stage: str = "plain"
    model: ModelConfig = field(default_factory=ModelConfig)
    sets: tuple[SetConfig, ...] = ()
    validation_sets: tuple[SetConfig, ...] = ()
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    start_stage: str = ""
    keep: tuple[int, ...] = ()
    teacher: str = ""
    feature_pairs: tuple[tuple[int, ...], ...] = ()
    removal: RemovalConfig = field(default_factory=RemovalConfig)
    score_label: str = "quality"
    epochs: int = 0
    epoch_samples: int = 60_000
    drop_epoch: int = 0
    groups: str = "shape"
    backbone_learning_rate: float = 0.0
    device: str = "auto"
    precision: str = "fp32"
    validate_epochs: int = 0
    clips: ClipsConfig = field(default_factory=ClipsConfig)


PLACE = ("output", "device", "workers", "threads")
"""Settings of where and how a run runs, not of what comes out of it."""


def changed_settings(saved: Mapping[str, Any], config: TrainConfig) -> list[str]:
    """Names of settings that a saved run had otherwise, besides those of its place."""
    now = dataclasses.asdict(config)
    return [
        name
        for name, value in saved.items()
        if name in now and name not in PLACE and now[name] != value
    ]


def read_config(path: Path, overrides: list[str] | None = None) -> TrainConfig:
    """Read a YAML file; `overrides` are `name=value` or `section.name=value`.

    Raises:
        ParameterError: the file is missing or no YAML, a key is unknown, or a value has another
            type than the setting.
    """
    tree = read_yaml(path)
    override(tree, overrides or [])
    return fill(TrainConfig, tree, str(path))


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a table.

    Raises:
        ParameterError: the file is missing, no YAML, or no table.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ParameterError(f"{path}: expected a YAML file of settings: {reason}") from None
    if not isinstance(tree, dict):
        raise ParameterError(f"{path}: expected a table of settings, got {type(tree).__name__}")
    return tree


def override(tree: dict[str, Any], overrides: list[str]) -> None:
    """Change a table in place by `name=value` or `section.name=value`, values in YAML.

    Raises:
        ParameterError: there is no `=`, or a section is none.
    """
    for text in overrides:
        name, equals, value = text.partition("=")
        if not equals:
            raise ParameterError(f"expected name=value, got {text!r}")
        try:
            set_value(tree, name, yaml.safe_load(value) if value else "")
        except yaml.YAMLError:
            raise ParameterError(f"{name}: expected a value in YAML, got {value!r}") from None


def set_value(tree: dict[str, Any], name: str, value: Any) -> None:
    """Set `name` or `section.name` of a table in place.

    Raises:
        ParameterError: a section is none.
    """
    node = tree
    *parents, leaf = name.split(".")
    for parent in parents:
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise ParameterError(f"{name}: {parent} is no section")
    node[leaf] = value


def fill(kind: type[Settings], tree: dict[str, Any], where: str) -> Settings:
    """Make a dataclass of a table, sections and lists of sections included.

    Args:
        kind: The dataclass.
        tree: The table.
        where: What messages begin with.

    Raises:
        ParameterError: a key is unknown or missing, or a value has another type than the setting.
    """
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    types = get_type_hints(kind)
    values: dict[str, Any] = {}
    for key, value in tree.items():
        if key not in fields:
            known = ", ".join(fields)
            raise ParameterError(f"{where}: unknown setting {key!r}; expected one of {known}")
        values[key] = _convert(types[key], value, f"{where}: {key}")
    missing = [
        name
        for name, f in fields.items()
        if name not in values
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ParameterError(f"{where}: missing {', '.join(missing)}")
    return kind(**values)


def _convert(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise ParameterError(f"{where} must be a table, got {value!r}")
        return fill(kind, value, where)  # type: ignore[arg-type]
    if kind is Any:
        return value
    if get_origin(kind) is Mapping:
        if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
            raise ParameterError(f"{where} must be a table, got {value!r}")
        item = get_args(kind)[1]
        return {name: _convert(item, one, f"{where}.{name}") for name, one in value.items()}
    if get_origin(kind) is tuple:
        if not isinstance(value, (list, tuple)):
            raise ParameterError(f"{where} must be a list, got {value!r}")
        item = get_args(kind)[0]
        return tuple(_convert(item, one, f"{where}[{i}]") for i, one in enumerate(value))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind:
        raise ParameterError(f"{where} must be {kind.__name__}, got {value!r}")
    return value
