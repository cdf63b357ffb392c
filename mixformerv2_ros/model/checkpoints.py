"""Checkpoints: weights out of training files.

Numpy only: converting official weights needs no torch, and never runs code of the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from math import isfinite, prod
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mixformerv2_ros.errors import CheckpointError
from mixformerv2_ros.model.architecture import infer_spec
from mixformerv2_ros.model.pickles import OpaqueObject, Tensor
from mixformerv2_ros.model.spec import POOLINGS, ModelSpec
from mixformerv2_ros.model.tensor_files import is_float, open_tensor_file
from mixformerv2_ros.text import printable, some

Weights = dict[str, npt.NDArray[np.float32]]

Scalar = str | int | float | None

MAX_VALUES = 500_000_000
"""Most numbers read from one checkpoint; preset B has 59 million."""

MAX_FACTS, MAX_FACT = 200, 200
"""Most settings, and most characters of one, that are taken over from beside the weights."""

_TRAINING_KEY = "net"
_STATE_KEYS = (_TRAINING_KEY, "state_dict", "model")
_PREFIX = "module."


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds.

    Attributes:
        weights: The state_dict, as float32, without `module.` prefixes.
        kind: What sort of file it is, in words.
        opaque: Names of pickled classes and functions that became opaque objects.
        ignored: Names in the state_dict whose entry is not a float tensor.
        spec: What a trainer left beside the weights under `spec`, for what shapes do not show:
            `heads` and `score_pooling`. Not validated.
        training: Plain facts that a trainer left: `epoch`, `step`, and the settings under `config`.
        crops: How our trainer cut its crops: `search_factor`, `template_factor`,
            `template_background_contrast`. Empty in files of others. Not validated.
    """

    weights: Weights
    kind: str
    opaque: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    spec: Mapping[str, Scalar] = field(default_factory=dict)
    training: Mapping[str, Scalar | dict[str, Scalar]] = field(default_factory=dict)
    crops: Mapping[str, float] = field(default_factory=dict)

    def noted_heads(self, given: int | None = None) -> int | None:
        """Attention heads: those given, else those that the trainer noted in the file, if any."""
        noted = self.spec.get("heads")
        return noted if given is None and isinstance(noted, int) else given

    def infer_spec(self, heads: int | None = None, needs_score_head: bool = True) -> ModelSpec:
        """Find the architecture of this MixFormerV2; see the function `infer_spec`."""
        pooling = self.spec.get("score_pooling")
        return infer_spec(
            self.weights,
            self.noted_heads(heads),
            pooling if isinstance(pooling, str) and pooling in POOLINGS else POOLINGS[0],
            needs_score_head,
        )


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint without executing anything in it.

    Understood are PyTorch files (zip and legacy form) and safetensors; in them official training
    containers (the state_dict under `net`), containers with one `state_dict` or `model`, and bare
    state_dicts; in these, names with or without `module.` before them.

    Raises:
        CheckpointError: the file is absent, damaged, of another kind, or holds no weights; weights
            are not finite.
    """
    path = Path(path)
    try:
        return _load(path)
    except CheckpointError as error:
        raise CheckpointError(f"{printable(path.name)}: {error}") from error


def _load(path: Path) -> Checkpoint:
    file = open_tensor_file(path)
    where, state = _find_state(file.root)
    ignored = tuple(
        printable(name)
        for name, entry in state.items()
        if not (isinstance(entry, Tensor) and is_float(entry))
    )
    tensors = {
        name: entry
        for name, entry in state.items()
        if isinstance(entry, Tensor) and is_float(entry)
    }
    while tensors and all(name.startswith(_PREFIX) for name in tensors):
        tensors = {name.removeprefix(_PREFIX): entry for name, entry in tensors.items()}
    count = sum(prod(tensor.shape) for tensor in tensors.values())
    if count > MAX_VALUES:
        raise CheckpointError(f"must hold at most {MAX_VALUES} numbers, got {count}")
    beside = file.root if where and isinstance(file.root, dict) else {}
    training: dict[str, Scalar | dict[str, Scalar]] = {
        **_scalars({key: beside.get(key) for key in ("epoch", "step") if key in beside})
    }
    if config := _scalars(_flat(beside.get("config"))):
        training["config"] = config
    return Checkpoint(
        weights={name: file.read(name, tensor) for name, tensor in tensors.items()},
        kind=f"{file.kind}, {_describe(where)}",
        opaque=file.opaque,
        ignored=ignored,
        spec=_scalars(beside.get("spec")),
        training=training,
        crops=_crops(beside.get("config")),
    )


def _crops(config: object) -> dict[str, float]:
    """How training cut its crops, from the settings in a checkpoint of ours; else empty."""
    if not isinstance(config, dict):
        return {}
    # Up to version 0.1 the settings were not in groups, and two had other names.
    data = config.get("data")
    groups = data if isinstance(data, dict) else {**config, "synthetic": config.get("world")}
    section = _scalars(groups.get("sampling" if groups.get("sets") else "synthetic"))
    contrast = section.get("template_surroundings")
    noted = {
        "search_factor": section.get("search_factor"),
        "template_factor": section.get("template_factor"),
        "template_background_contrast": section.get("template_background_contrast", contrast),
    }
    return {name: float(one) for name, one in noted.items() if isinstance(one, int | float)}


def _flat(value: object, prefix: str = "", depth: int = 3) -> dict[str, object]:
    """Dotted names and values of a nested dict, of `depth` levels at most."""
    found: dict[str, object] = {}
    for name, entry in islice(value.items(), MAX_FACTS) if isinstance(value, dict) else ():
        if isinstance(entry, dict) and depth > 1:
            found |= _flat(entry, f"{prefix}{name}.", depth - 1)
        elif isinstance(entry, list | tuple) and depth > 1:
            for number, one in enumerate(entry[:MAX_FACTS]):
                found |= _flat(one, f"{prefix}{name}[{number}].", depth - 1)
        else:
            found[f"{prefix}{name}"] = entry
    return found


def _scalars(value: object) -> dict[str, Scalar]:
    """Keep of a dict what is plain; nested values of a hostile file could be endless."""
    if not isinstance(value, dict):
        return {}
    return {
        name: entry
        for name, entry in islice(value.items(), MAX_FACTS)
        if isinstance(name, str)
        and (
            entry is None
            or (isinstance(entry, str) and len(entry) <= MAX_FACT)
            or (isinstance(entry, int) and abs(entry) < 2**63)
            or (isinstance(entry, float) and isfinite(entry))
        )
    }


def _describe(where: str) -> str:
    if where == _TRAINING_KEY:
        return "training container"
    return f"container with {where}" if where else "bare state_dict"


def _find_state(root: object) -> tuple[str, dict[str, object]]:
    """Find the state_dict; return the key it lies under, empty for a bare one, and itself."""
    if isinstance(root, OpaqueObject):
        raise CheckpointError(
            f"must hold a state_dict, got a pickled object ({printable(root.name)})"
        )
    if not isinstance(root, dict):
        raise CheckpointError(f"must hold a dict of tensors, got {type(root).__name__}")
    if _is_state(root.get(_TRAINING_KEY)):
        return _TRAINING_KEY, root[_TRAINING_KEY]
    found = [key for key in _STATE_KEYS if _is_state(root.get(key))]
    if len(found) > 1:
        raise CheckpointError(f"must hold one state_dict, got several: {some(found)}")
    if not found and _is_state(root):
        return "", root
    if not found:
        objects = [key for key in _STATE_KEYS if isinstance(root.get(key), OpaqueObject)]
        if objects:
            raise CheckpointError(
                f"must hold a state_dict, got a pickled object under {some(objects)}"
            )
        raise CheckpointError(
            f"must hold a state_dict, itself or under {', '.join(_STATE_KEYS)}; "
            f"got {some(list(root)) or 'nothing'}"
        )
    return found[0], root[found[0]]


def _is_state(value: object) -> bool:
    return (
        isinstance(value, dict)
        and all(isinstance(name, str) for name in value)
        and any(isinstance(entry, Tensor) for entry in value.values())
    )
