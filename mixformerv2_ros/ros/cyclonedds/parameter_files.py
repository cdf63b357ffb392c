"""ROS parameter files: YAML with values below the names of nodes.

/**:                        # every node
ros__parameters:
lost: {duration: 2.0}
/drone/tracker:             # this node only
ros__parameters:
image_qos: reliable
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mixformerv2_ros.errors import ParameterError
from mixformerv2_ros.text import printable
from mixformerv2_ros.yaml_text import YamlError, read_yaml_file

KEY = "ros__parameters"
MAX_ENTRIES = 10_000
"""Maximum number of entries; a few lines of YAML can expand without end."""


def read_parameter_file(path: Path, node: str) -> dict[str, Any]:
    """Values of a file for a node, by name with dots; later entries take precedence.

    Args:
        path: The file.
        node: Full name of the node, such as `/drone/tracker`.

    Raises:
        ParameterError: the file cannot be read or is not a parameter file.
    """
    try:
        content = read_yaml_file(path)
    except (OSError, YamlError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ParameterError(f"parameter file {path} cannot be read: {reason}") from None
    if not isinstance(content, dict):
        raise ParameterError(f"parameter file {path} must map node names to {KEY}")
    values: dict[str, Any] = {}
    count = 0
    try:
        for pattern, name, value in _entries(content, "", path):
            count += 1
            if count > MAX_ENTRIES:
                raise ParameterError(f"parameter file {path} has more than {MAX_ENTRIES} entries")
            if _matches(pattern, node):
                values[name] = value
    except RecursionError:
        raise ParameterError(f"parameter file {path} refers to itself") from None
    return values


def _entries(content: dict[Any, Any], pattern: str, path: Path) -> Iterator[tuple[str, str, Any]]:
    """Pattern of the node, name of the parameter, and value of every entry."""
    for key, value in content.items():
        if key == KEY:
            if not isinstance(value, dict):
                raise ParameterError(f"{KEY} in {path} must map names to values")
            for name, inner in _flat(value, ""):
                yield pattern, name, inner
        elif isinstance(value, dict):
            yield from _entries(value, f"{pattern}/{key}".replace("//", "/"), path)
        else:
            raise ParameterError(
                f"parameter file {path} must have {KEY} below a node name, got {printable(key)!r}"
            )


def _flat(values: dict[Any, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _matches(pattern: str, node: str) -> bool:
    """Whether a key of a file means a node; a bare name means a node of the root namespace."""
    parts = (
        "(/[^/]+)*" if part == "**" else "/[^/]+" if part == "*" else "/" + re.escape(part)
        for part in pattern.strip("/").split("/")
    )
    return re.fullmatch("".join(parts), node) is not None
