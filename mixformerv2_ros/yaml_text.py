"""YAML of unknown origin, within limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from mixformerv2_ros.text import printable

MAX_YAML_BYTES = 2**20
"""Maximum size of a YAML file in bytes: a metadata.yaml of 3000 splits has half of that."""


class YamlError(ValueError):
    """Text that is not YAML, or is too long or too deeply nested; the message is one clause."""


def parse_yaml(text: str | bytes) -> Any:
    """The content of a YAML document; aliases are shared, not copied.

    Raises:
        YamlError: the text is not YAML, longer than `MAX_YAML_BYTES`, or nested too deeply.
    """
    if len(text) > MAX_YAML_BYTES:
        raise YamlError(f"must be at most {MAX_YAML_BYTES} bytes")
    try:
        return yaml.safe_load(text)
    except RecursionError:
        raise YamlError("is nested too deeply") from None
    # A number or a date that Python cannot hold is a ValueError.
    except (yaml.YAMLError, ValueError) as error:
        raise YamlError(printable(" ".join(str(error).split()), 160)) from None


def read_yaml_file(path: Path) -> Any:
    """The content of a YAML file.

    Raises:
        OSError: the file cannot be read.
        YamlError: as `parse_yaml`.
    """
    with path.open("rb") as stream:
        return parse_yaml(stream.read(MAX_YAML_BYTES + 1))
