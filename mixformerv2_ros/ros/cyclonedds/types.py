"""DDS types of ROS 2 messages, serialized by the type store of `rosbags`.

Cyclone's own Python classes convert an image to a list of numbers, which takes longer than to track
in it. A type declared here has the name and the fields that ROS nodes expect, while its two methods
pass the bytes through; `interfaces.typestore()` converts them.

The methods are replaced on the class itself: a derived class would be another DDS type.
"""

from __future__ import annotations

import threading
from functools import cache
from typing import Any

from cyclonedds.idl import IdlStruct, make_idl_struct
from cyclonedds.idl import types as idl
from rosbags.interfaces import Nodetype

from mixformerv2_ros.errors import MiddlewareError
from mixformerv2_ros.interfaces import typestore
from mixformerv2_ros.text import printable

_BASE: dict[str, Any] = {
    "bool": bool,
    "byte": idl.byte,
    "octet": idl.byte,
    "char": idl.uint8,
    "float32": idl.float32,
    "float64": idl.float64,
    "string": str,
    "int8": idl.int8,
    "int16": idl.int16,
    "int32": idl.int32,
    "int64": idl.int64,
    "uint8": idl.uint8,
    "uint16": idl.uint16,
    "uint32": idl.uint32,
    "uint64": idl.uint64,
}


def type_name(msgtype: str) -> str:
    """Name of a ROS type on the wire, such as `sensor_msgs::msg::dds_::Image_`."""
    package, kind, name = msgtype.split("/")
    return f"{package}::{kind}::dds_::{name}_"


def message_type(name: str) -> str | None:
    """ROS type of a name on the wire; None if it is not that of a message."""
    parts = name.split("::")
    if len(parts) != 4 or parts[1:3] != ["msg", "dds_"] or not parts[3].endswith("_"):
        return None
    return f"{parts[0]}/msg/{parts[3][:-1]}"


def type_hash(msgtype: str) -> str:
    """The hash by which ROS 2 nodes compare definitions, such as `RIHS01_d31d...`."""
    return str(typestore().hash_rihs01(msgtype))


_declaring = threading.Lock()
"""Nodes in several threads must not declare a type twice: samples of one are not the other's."""


def dds_type(msgtype: str) -> type[IdlStruct]:
    """Type of a DDS topic; its samples hold the serialized message as `cdr`.

    Raises:
        MiddlewareError: the message or the type of one of its fields is unknown.
    """
    with _declaring:
        return _dds_type(msgtype)


@cache
def _dds_type(msgtype: str) -> type[IdlStruct]:
    cls = _declare(msgtype)

    def serialize(self: Any, *args: Any, **kwargs: Any) -> bytes:
        data: bytes = self.cdr
        return data

    def deserialize(cls: type[Any], data: bytes, *args: Any, **kwargs: Any) -> Any:
        return sample(msgtype, data)

    cls.serialize = serialize  # type: ignore[method-assign]
    cls.deserialize = classmethod(deserialize)  # type: ignore[assignment]
    return cls


def sample(msgtype: str, cdr: bytes) -> IdlStruct:
    """A sample of a type from the bytes of a message."""
    cls = dds_type(msgtype)
    made = cls.__new__(cls)
    made.cdr = cdr  # type: ignore[attr-defined]
    return made


def to_cdr(message: Any, msgtype: str) -> bytes:
    """Serialize a message of one of the classes in `interfaces.typestore()`."""
    return bytes(typestore().serialize_cdr(message, msgtype))


def from_cdr(cdr: bytes, msgtype: str) -> Any:
    """Deserialize a message; its arrays are views of the bytes.

    Raises:
        MiddlewareError: the bytes are not a message of that type.
    """
    try:
        # A memoryview, because rosbags slices off the header, which would copy bytes.
        return typestore().deserialize_cdr(memoryview(cdr), msgtype)  # type: ignore[arg-type]
    except Exception as error:  # generated code of rosbags raises many kinds
        raise MiddlewareError(f"cannot deserialize {msgtype}: {printable(error)}") from error


@cache
def _declare(msgtype: str) -> type[IdlStruct]:
    definition = typestore().fielddefs.get(msgtype)
    if definition is None:
        raise MiddlewareError(f"unknown message type {printable(msgtype)}")
    package, kind, name = msgtype.split("/")
    fields = {field: _field(node, msgtype) for field, node in definition[1]}
    return make_idl_struct(f"{name}_", f"{package}.{kind}.dds_.{name}_", fields)


def _field(node: Any, msgtype: str) -> Any:
    kind, value = node
    if kind == Nodetype.NAME:
        return _declare(value)
    if kind == Nodetype.BASE:
        if value[0] not in _BASE:
            raise MiddlewareError(f"unknown field type {value[0]} in {msgtype}")
        return _BASE[value[0]]
    inner, length = _field(value[0], msgtype), value[1]
    if kind == Nodetype.ARRAY:
        return idl.array[inner, length]  # type: ignore[misc]
    return idl.sequence[(inner, length) if length else inner]  # type: ignore[misc]
