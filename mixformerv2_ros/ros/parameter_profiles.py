"""Parameter tables as text: parameter files in `config/`, tables in `docs/parameters.md`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mixformerv2_ros.ros.parameters import (
    NODE_PARAMETERS,
    PARAMETERS,
    POSE_PARAMETERS,
    Parameter,
    Value,
    check_values,
)


@dataclass(frozen=True)
class Profile:
    """A parameter file in `config/`.

    Attributes:
        title: Its purpose, one line.
        values: Values that differ from the defaults.
        parameters: The parameters of the node.
    """

    title: str
    values: Mapping[str, Value]
    parameters: tuple[Parameter, ...] = NODE_PARAMETERS

    def text(self) -> str:
        """The file."""
        return parameter_file(self.title, self.values, self.parameters)


PROFILES: dict[str, Profile] = {
    "tracker_cpu": Profile(
        "Tracker on a CPU: the default bundle of the package, unless model is set.",
        {"engine": "onnxruntime", "device": "cpu"},
    ),
    "tracker_gpu": Profile(
        "Tracker on a CUDA GPU; set model to a bundle of preset B, see docs/models.md.",
        {"device": "cuda", "precision": "fp16", "template_update.interval": 10},
    ),
    "target_pose": Profile(
        "Target pose node: poses in the frame map for Nav2, from depth images.",
        {"target_frame": "map"},
        POSE_PARAMETERS,
    ),
}
"""Parameter files in `config/` by name."""


def parameter_file(
    title: str, values: Mapping[str, Any], parameters: Sequence[Parameter] = NODE_PARAMETERS
) -> str:
    """A ROS parameter file (YAML) with all parameters of a node and their descriptions.

    Args:
        title: Its purpose, one line.
        values: Values that differ from the defaults.
        parameters: The parameters of the node.

    Raises:
        ParameterError: see `check_values`.
    """
    checked = check_values(values, parameters)
    lines = [f"# {title}", "/**:", "  ros__parameters:"]
    group = ""
    for p in parameters:
        head, _, name = p.name.rpartition(".")
        if head and head != group:
            lines.append(f"    {head}:")
        group = head
        indent = "      " if head else "    "
        notes = [p.unit, p.range, "" if p.live else "not at runtime"]
        extra = ", ".join(note for note in notes if note)
        lines.append(f"{indent}# {p.text}" + (f" ({extra})" if extra else ""))
        lines.append(f"{indent}{name or p.name}: {json.dumps(checked[p.name])}")
    return "\n".join(lines) + "\n"


def markdown_table(parameters: Sequence[Parameter] = PARAMETERS) -> str:
    """The table of parameters as in `docs/parameters.md`."""
    lines = [
        "| parameter | default | range | unit | at runtime | description |",
        "|---|---|---|---|---|---|",
    ]
    for p in parameters:
        shown = str(p.default).lower() if isinstance(p.default, bool) else p.default
        default = f"`{shown}`" if shown != "" else ""
        permitted = p.range.replace("|", "\\|")
        live = "yes" if p.live else "no"
        lines.append(f"| `{p.name}` | {default} | {permitted} | {p.unit} | {live} | {p.text} |")
    return "\n".join(lines)
