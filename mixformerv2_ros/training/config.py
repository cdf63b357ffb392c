"""Training settings, read from YAML into frozen dataclasses."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mixformerv2_ros.errors import ParameterError
from mixformerv2_ros.training.world import WorldConfig


@dataclass(frozen=True)
class LossWeights:
    """Factors of the loss terms.

    Attributes:
        l1: Mean absolute error of the four edges, in crop sides (paper: 5).
        ciou: 1 - complete IoU (paper: 2).
        edge: Cross entropy of the edge distributions.
        foreground: Foreground classifier on the final search tokens (training only).
        score: Binary cross entropy of the score.
    """

    l1: float = 5.0
    ciou: float = 2.0
    edge: float = 0.5
    foreground: float = 2.0
    score: float = 0.5


@dataclass(frozen=True)
class TrainConfig:
    """One training run.

    Attributes:
        preset: Architecture, a name in `network.presets.PRESETS`.
        data: Folder with `stills/` and `sequences/`.
        exclude: File with names of sequences that must not be trained on.
        output: Folder of checkpoints and log.
        start: Checkpoint of this trainer to take the weights from; empty draws them from the seed.
        only: Train only parameters with this in their name, such as `score_head`; empty trains all.
        seed: Seed of weights and of the sample stream.
        batch: Samples per step.
        steps: Steps of the whole run.
        warmup: Steps of linear warm-up.
        cooldown: Share of the steps, at the end, over which the rate falls linearly to zero.
        learning_rate: Rate of AdamW (embeddings, norms, biases, heads).
        matrix_learning_rate: Rate of Muon for the blocks' matrices; 0 gives them to AdamW.
        weight_decay: Decoupled weight decay.
        clip_norm: Largest norm of the gradient.
        drop_path: Stochastic depth of the last block; grows linearly from zero.
        average: Decay of the running average of weights, which is what gets shipped.
        identity_start: Strength of the attention blocks' start near identity (0 = off).
        workers: Loader processes; does not change the samples.
        threads: Threads of the network; 0 leaves the choice to torch.
        validate_every: Steps between validations and checkpoints.
        validation_samples: Samples of the validation stream.
        loss: Factors of the loss terms.
        world: How samples are drawn.
    """

    preset: str
    data: str
    output: str
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
    world: WorldConfig = field(default_factory=WorldConfig)


def read_config(path: Path, overrides: list[str] | None = None) -> TrainConfig:
    """Read a YAML file; `overrides` are `name=value` or `section.name=value`.

    Raises:
        ParameterError: the file is missing or no YAML, a key is unknown, or a value has another
            type than the setting.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ParameterError(f"{path}: expected a YAML file of settings: {reason}") from None
    if not isinstance(tree, dict):
        raise ParameterError(f"{path}: expected a table of settings, got {type(tree).__name__}")
    for text in overrides or []:
        name, equals, value = text.partition("=")
        if not equals:
            raise ParameterError(f"expected name=value, got {text!r}")
        node = tree
        *parents, leaf = name.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ParameterError(f"{name}: {parent} is no section")
        node[leaf] = yaml.safe_load(value)
    return _fill(TrainConfig, tree, str(path))


def _fill(kind: Any, tree: dict[str, Any], where: str) -> Any:
    fields = {f.name: f for f in dataclasses.fields(kind)}
    values: dict[str, Any] = {}
    for key, value in tree.items():
        if key not in fields:
            known = ", ".join(fields)
            raise ParameterError(f"{where}: unknown setting {key!r}; expected one of {known}")
        default = _default(fields[key])
        if dataclasses.is_dataclass(default):
            if not isinstance(value, dict):
                raise ParameterError(f"{where}: {key} must be a table, got {value!r}")
            values[key] = _fill(type(default), value, f"{where}: {key}")
            continue
        wanted = type(default) if default is not None else str
        if wanted is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if type(value) is not wanted:
            raise ParameterError(f"{where}: {key} must be {wanted.__name__}, got {value!r}")
        values[key] = value
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


def _default(entry: dataclasses.Field[Any]) -> Any:
    if entry.default_factory is not dataclasses.MISSING:
        return entry.default_factory()
    return None if entry.default is dataclasses.MISSING else entry.default
