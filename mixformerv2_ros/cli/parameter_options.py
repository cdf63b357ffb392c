"""Tracker parameters as command-line options."""

from __future__ import annotations

import argparse

from mixformerv2_ros.ros.parameters import PARAMETERS, Value


def add_parameter_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare an option for every parameter."""
    engine = parser.add_argument_group("model and engine")
    tracker = parser.add_argument_group("tracker")
    for parameter in PARAMETERS:
        group = tracker if parameter.setting or parameter.stream else engine
        notes = [parameter.unit, parameter.range if not parameter.choices else ""]
        shown = parameter.default if parameter.default != "" else ""
        notes.append(f"default {shown}" if shown != "" else "")
        extra = ", ".join(note for note in notes if note)
        group.add_argument(
            parameter.option,
            dest=parameter.name,
            metavar="{" + ",".join(parameter.choices) + "}" if parameter.choices else "VALUE",
            help=parameter.text + (f" ({extra})" if extra else ""),
        )


def values_from_arguments(args: argparse.Namespace) -> dict[str, Value]:
    """The parameters that were given on the command line.

    Raises:
        ParameterError: a value of the wrong type or out of range.
    """
    given = {p: getattr(args, p.name) for p in PARAMETERS}
    return {p.name: p.parse(text) for p, text in given.items() if text is not None}
