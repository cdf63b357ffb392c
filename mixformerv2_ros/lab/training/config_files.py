"""Settings from YAML files and from `name=value` on the command line, checked strictly."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from mixformerv2_ros.errors import ParameterError
from mixformerv2_ros.lab.training.config import TrainConfig
from mixformerv2_ros.lab.training.renamed_settings import RENAMED_VALUES, migrate, new_name
from mixformerv2_ros.yaml_text import YamlError, parse_yaml, read_yaml_file

Settings = TypeVar("Settings")

_EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")

PLACE = ("output", "runtime.device", "runtime.workers", "runtime.threads")
"""Settings that do not influence the result of a run."""


def read_config(path: Path, overrides: list[str] | None = None) -> TrainConfig:
    """Read a YAML file; `overrides` are `name=value` with dotted names.

    Raises:
        ParameterError: the file is missing, not YAML or a recipe, a name is unknown, or a value has
            the wrong type.
    """
    tree = read_yaml(path)
    if is_recipe(tree):
        raise ParameterError(f"{path}: expected the settings of one stage, got a recipe")
    override(tree, overrides or [])
    return train_config(tree, str(path))


def is_recipe(tree: Mapping[str, Any]) -> bool:
    """Whether the content of a settings file is a recipe."""
    return "stages" in tree


def train_config(tree: Mapping[str, Any], where: str) -> TrainConfig:
    """Make settings of a nested table.

    Args:
        tree: The table.
        where: Prefix of error messages, such as a file name.

    Raises:
        ParameterError: a name is unknown or was renamed, or a value has the wrong type.
    """
    for path, former in RENAMED_VALUES.items():
        value = get_value(tree, path)
        if isinstance(value, str) and value in former:
            raise ParameterError(f"{where}: {path}: {value} has been renamed to {former[value]}")
    return fill(TrainConfig, tree, where)


def changed_settings(saved: Mapping[str, Any], config: TrainConfig) -> list[str]:
    """Settings whose saved value differs, `PLACE` excepted, as `NAME OLD -> NEW`.

    Settings that a checkpoint does not hold did not exist when it was written.

    Args:
        saved: Settings as a checkpoint holds them.
        config: Settings now.
    """
    before, now = _flat(migrate(saved)), _flat(dataclasses.asdict(config))
    # Of a list, entries may have been added or removed.
    listed = [name for name in now if "[" in name and name.partition("[")[0] in _lists(before)]
    pairs = {
        name: (_shown(before.get(name)), _shown(now.get(name)))
        for name in dict.fromkeys([*before, *listed])
        if (name in now or "[" in name) and name not in PLACE
    }
    return [f"{name} {old} -> {new}" for name, (old, new) in pairs.items() if old != new]


def _lists(flat: Mapping[str, Any]) -> set[str]:
    return {name.partition("[")[0] for name in flat if "[" in name}


def _shown(value: Any) -> str:
    return "none" if value in (None, "") else str(value)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        ParameterError: the file is missing, not YAML, or holds something else.
    """
    try:
        tree = read_yaml_file(path)
    except (OSError, YamlError) as error:
        reason = " ".join(str(error).split())
        raise ParameterError(f"{path}: expected a YAML file of settings: {reason}") from None
    if not isinstance(tree, dict):
        raise ParameterError(f"{path}: expected a mapping of settings, got {type(tree).__name__}")
    return tree


def override(tree: dict[str, Any], overrides: list[str]) -> None:
    """Set dotted names of a nested table in place, from texts `name=value` with YAML values.

    Raises:
        ParameterError: a text has no `=`, or a group on the way is not a table.
    """
    for text in overrides:
        name, equals, value = text.partition("=")
        if not equals:
            raise ParameterError(f"expected name=value, got {text!r}")
        try:
            set_value(tree, name, parse_yaml(value) if value else "")
        except YamlError:
            raise ParameterError(f"{name}: expected a value in YAML, got {value!r}") from None


def get_value(tree: Mapping[str, Any], path: str) -> Any:
    """The value of a dotted name in a nested table; None if there is none."""
    node: Any = tree
    for part in path.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


def set_value(tree: dict[str, Any], name: str, value: Any) -> None:
    """Set a dotted name of a nested table in place.

    Raises:
        ParameterError: a group on the way is not a table.
    """
    node = tree
    *parents, leaf = name.split(".")
    for parent in parents:
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise ParameterError(f"{name}: {parent} is not a group of settings, but {node!r}")
    node[leaf] = value


def fill(kind: type[Settings], tree: Mapping[str, Any], where: str, path: str = "") -> Settings:
    """Make a dataclass of a table, nested dataclasses and lists of them included.

    Args:
        kind: The dataclass.
        tree: The table.
        where: Prefix of error messages.
        path: Dotted name of the table within the settings.

    Raises:
        ParameterError: a name is unknown, was renamed or is missing, or a value has the wrong type.
    """
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    types = get_type_hints(kind)
    values: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{path}.{key}" if path else str(key)
        is_group = key in fields and dataclasses.is_dataclass(types[key])
        now = new_name(name) if kind is TrainConfig or path else None
        if now and (key not in fields or (is_group and not isinstance(value, Mapping))):
            raise ParameterError(f"{where}: setting {name} has been renamed to {now}")
        if key not in fields:
            suggestion = _suggestion(key, fields, kind is TrainConfig or bool(path))
            raise ParameterError(f"{where}: unknown setting {name!r}; {suggestion}")
        values[key] = _convert(types[key], value, where, name)
    missing = [
        f"{path}.{name}" if path else name
        for name, f in fields.items()
        if name not in values
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ParameterError(f"{where}: missing {', '.join(missing)}")
    try:
        return kind(**values)
    except ParameterError as error:
        raise ParameterError(f"{where}: {path}.{error}" if path else f"{where}: {error}") from None


def _suggestion(key: object, fields: Mapping[str, object], in_training: bool) -> str:
    """The nearest name in the same group, else that in another group, else all of the group."""
    near = difflib.get_close_matches(str(key), fields, n=1)
    if not near and in_training:
        leaves = {name.rpartition(".")[2]: name for name in _dotted_names(TrainConfig)}
        near = [
            leaves[leaf] for leaf in difflib.get_close_matches(str(key), leaves, n=1, cutoff=0.8)
        ]
    return f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(fields)}"


def _dotted_names(kind: Any, prefix: str = "") -> list[str]:
    names = []
    for name, inner in get_type_hints(kind).items():
        if dataclasses.is_dataclass(inner):
            names += _dotted_names(inner, f"{prefix}{name}.")
        else:
            names.append(f"{prefix}{name}")
    return names


def _convert(kind: Any, value: Any, where: str, name: str) -> Any:
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise ParameterError(f"{where}: {name} must be a table, got {value!r}")
        return fill(kind, value, where, name)  # type: ignore[arg-type]
    if kind is Any:
        return value
    if get_origin(kind) is Mapping:
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise ParameterError(f"{where}: {name} must be a table, got {value!r}")
        item = get_args(kind)[1]
        return {key: _convert(item, one, where, f"{name}.{key}") for key, one in value.items()}
    if get_origin(kind) is tuple:
        if not isinstance(value, (list, tuple)):
            raise ParameterError(f"{where}: {name} must be a list, got {value!r}")
        item = get_args(kind)[0]
        return tuple(_convert(item, one, where, f"{name}[{i}]") for i, one in enumerate(value))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    # YAML takes 1e-3 for a text; its own form is 1.0e-3.
    if kind in (int, float) and isinstance(value, str) and _EXPONENT.fullmatch(value):
        number = float(value)
        value = int(number) if kind is int and number.is_integer() else number
    if type(value) is not kind:
        raise ParameterError(f"{where}: {name} must be {kind.__name__}, got {value!r}")
    return value


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted names and values of a nested table."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple) and any(isinstance(one, Mapping) for one in value):
            for number, entry in enumerate(value):
                found |= _flat(entry, f"{prefix}{name}[{number}].")
        else:
            found[f"{prefix}{name}"] = value
    return found
