"""The parameter tables as parameters of an rclpy node."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.exceptions import ParameterException
from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter

from mixformerv2_ros.errors import ParameterError
from mixformerv2_ros.ros.parameters import Parameter, Value, unknown_parameters

_LARGEST = 2**31 - 1

_OF_RCLPY = ("use_sim_time", "start_type_description_service")
_QOS_OVERRIDES = "qos_overrides."
"""Parameters that rclpy declares for itself."""


def descriptor(parameter: Parameter) -> ParameterDescriptor:
    """Descriptor of a parameter, for `ros2 param describe`."""
    unit = f" ({parameter.unit})" if parameter.unit else ""
    notes = [parameter.range if parameter.choices else ""]
    notes.append("" if parameter.live else "not changeable at runtime")
    made = ParameterDescriptor(
        description=parameter.text + unit,
        additional_constraints="; ".join(note for note in notes if note),
    )
    if (parameter.low, parameter.high) == (-math.inf, math.inf):
        return made
    if isinstance(parameter.default, float):
        low = float(max(parameter.low, -sys.float_info.max))
        high = float(min(parameter.high, sys.float_info.max))
        made.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
    else:
        low, high = max(parameter.low, -_LARGEST), min(parameter.high, _LARGEST)
        made.integer_range = [IntegerRange(from_value=int(low), to_value=int(high), step=1)]
    return made


def declare(node: Node, parameters: Sequence[Parameter]) -> None:
    """Declare parameters; values from files and the command line take effect.

    The node must have been created with `automatically_declare_parameters_from_overrides`: rclpy
    has no other way to ask for those values, of which it refuses integers for floats and ignores
    misspelt names. These are logged here.

    Raises:
        ParameterError: such a value has another type or is out of range.
    """
    table = {parameter.name: parameter for parameter in parameters}
    given = {
        name: value.value
        for name, value in node.get_parameters_by_prefix("").items()
        if name not in _OF_RCLPY and not name.startswith(_QOS_OVERRIDES)
    }
    for line in unknown_parameters(given, (*table, *_OF_RCLPY)):
        node.get_logger().warning(line)
    for name in given:
        node.undeclare_parameter(name)
    for name, parameter in table.items():
        value = parameter.check(given[name]) if name in given else parameter.default
        try:
            node.declare_parameter(name, value, descriptor(parameter), ignore_override=True)
        except ParameterException as error:
            raise ParameterError(" ".join(str(error).split())) from None


def values(node: Node, parameters: Sequence[Parameter]) -> dict[str, Value]:
    """The parameters of a node by name."""
    return {p.name: node.get_parameter(p.name).value for p in parameters}


def on_change(
    node: Node,
    parameters: Sequence[Parameter],
    check: Callable[[Mapping[str, Any]], None],
    apply: Callable[[Mapping[str, Any]], None],
) -> None:
    """Check parameter changes as a set, and apply those that are accepted.

    An integer for a float is converted.

    Args:
        node: The node.
        parameters: The parameters concerned; others are ignored.
        check: Gets the changes; raises ParameterError to reject them with its message. Must have
            no side effect: another callback may still reject them.
        apply: Gets the accepted changes.
    """
    names = {parameter.name for parameter in parameters}

    def own(changes: list[RosParameter]) -> dict[str, Any]:
        return {change.name: change.value for change in changes if change.name in names}

    def validate(changes: list[RosParameter]) -> SetParametersResult:
        try:
            check(own(changes))
        except ParameterError as error:
            return SetParametersResult(successful=False, reason=str(error))
        if not hasattr(node, "add_post_set_parameters_callback"):  # Humble
            apply(own(changes))
        return SetParametersResult(successful=True)

    def convert(changes: list[RosParameter]) -> list[RosParameter]:
        floats = {parameter.name for parameter in parameters if type(parameter.default) is float}
        return [
            RosParameter(change.name, value=float(change.value))
            if change.name in floats and type(change.value) is int
            else change
            for change in changes
        ]

    if hasattr(node, "add_pre_set_parameters_callback"):  # not in Humble
        node.add_pre_set_parameters_callback(convert)
    node.add_on_set_parameters_callback(validate)
    if hasattr(node, "add_post_set_parameters_callback"):
        node.add_post_set_parameters_callback(lambda changes: apply(own(changes)))
