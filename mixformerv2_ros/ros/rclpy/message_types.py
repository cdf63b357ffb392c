"""The message classes of a ROS installation, as `messages` asks for them."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from functools import cache
from typing import Any

from rosidl_runtime_py.utilities import get_message

_IMAGE = "sensor_msgs/msg/Image"


@cache
def message_types(name: str) -> Callable[..., Any]:
    """What makes a message such as `sensor_msgs/msg/Image`; called with the fields by keyword."""
    return _image if name == _IMAGE else get_message(name)


def _image(**fields: Any) -> Any:
    # rclpy checks any other sequence of bytes element by element.
    pixels = fields.pop("data")
    message = get_message(_IMAGE)(**fields)
    message.data = array("B", pixels.tobytes())
    return message
