"""Files that hold tensors: PyTorch's two formats and safetensors.

A file of PyTorch is mapped, not read; its index, a pickle, describes tensors, and only those asked
for are copied out. No number in it is trusted: the index is checked against the bytes
that are there before anything is allocated. Safetensors files are read and checked by their own
library.
"""

from __future__ import annotations

import io
import stat
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, deserialize

from mixformerv2_ros.errors import CheckpointError
from mixformerv2_ros.model.pickles import (
    MAX_AXES,
    OpaqueObject,
    Pickle,
    Storage,
    Tensor,
    read_pickle,
)
from mixformerv2_ros.text import printable

Bytes = npt.NDArray[np.uint8]

MAX_INDEX_BYTES = 64 * 2**20
"""Longest pickle; that of an official checkpoint is under a megabyte."""

_ITEM_SIZES = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}
_FLOATS = {"float64": "f8", "float32": "f4", "float16": "f2", "bfloat16": "u2"}
_SAFETENSORS_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_LOCAL_HEADER = 30  # Bytes of a zip record's header before its name.


@dataclass(frozen=True)
class TensorFile:
    """An opened tensor file.

    Attributes:
        kind: What sort of file it is, in words.
        root: Its content: plain containers with `Tensor` and `OpaqueObject` entries.
        opaque: Names of the globals in its pickle that became opaque objects.
        byte_order: `<` or `>`, order of the bytes of an element.
        storage_bytes: Finds the bytes of a storage in the file.
    """

    kind: str
    root: object
    opaque: tuple[str, ...]
    byte_order: str
    storage_bytes: Callable[[Storage], Bytes]

    def read(self, name: str, tensor: Tensor) -> npt.NDArray[np.float32]:
        """Copy a float tensor out of the file, as float32; `name` is for messages.

        Raises:
            CheckpointError: the tensor is not of a float type, reaches beyond its storage, holds
                numbers that are not finite in float32, or its storage is damaged.
        """
        storage, shown = tensor.storage, printable(name)
        if not is_float(tensor):
            raise CheckpointError(f"tensor {shown} must be floating point, got {tensor.dtype}")
        item = _ITEM_SIZES[tensor.dtype]
        data = self.storage_bytes(storage)
        if storage.count * _ITEM_SIZES[storage.dtype] > len(data):
            raise CheckpointError(
                f"storage of tensor {shown} should hold {storage.count} elements of "
                f"{storage.dtype}, but has {len(data)} bytes"
            )
        count = len(data) // item
        last = tensor.offset + sum(
            (size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True)
        )
        # More elements than the storage has would repeat some (stride 0): no weight does, and a
        # few bytes could ask for any amount of memory.
        if 0 in tensor.shape or last >= count or prod(tensor.shape) > count:
            raise CheckpointError(
                f"tensor {shown} of shape {tensor.shape} must lie within its storage "
                f"of {count} elements"
            )
        strides = tuple(
            stride * item if size > 1 else item
            for size, stride in zip(tensor.shape, tensor.strides, strict=True)
        )
        elements = data[: count * item].view(self.byte_order + _FLOATS[tensor.dtype])
        view = np.lib.stride_tricks.as_strided(
            elements[tensor.offset :],
            tensor.shape,
            strides,
            writeable=False,
        )
        if tensor.dtype == "bfloat16":
            values = (view.astype(np.uint32) << 16).view(np.float32)
        else:
            with np.errstate(over="ignore", invalid="ignore"):
                values = np.array(view, dtype=np.float32, order="C")
        if not np.isfinite(values).all():
            raise CheckpointError(f"tensor {shown} must hold finite numbers, got NaN or infinity")
        return values


def is_float(tensor: Tensor) -> bool:
    """Tell whether the tensor's elements are floating-point numbers that can be read."""
    return tensor.dtype in _FLOATS


def open_tensor_file(path: Path) -> TensorFile:
    """Open a tensor file, in whichever of the formats it is.

    Raises:
        CheckpointError: the file is absent, not of these formats, cut off or damaged.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointError("must be a file")
        if status.st_size == 0:
            raise CheckpointError("is empty")
        data: Bytes = np.memmap(path, dtype=np.uint8, mode="r")
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror}") from error
    start = data[:64].tobytes()
    if start.startswith(b"PK\x03\x04"):
        return _open_zip(path, data)
    if start.startswith(b"\x80"):
        return _open_legacy(data)
    if start[8:9] == b"{":
        return _open_safetensors(data)
    raise CheckpointError(f"must be a PyTorch checkpoint or a safetensors file, {_guess(start)}")


def _guess(start: bytes) -> str:
    if start.lstrip().startswith(b"<"):
        return "but is a web page (a failed download?)"
    if start.startswith(b"version https://git-lfs"):
        return "but is a Git LFS pointer: the file itself was not downloaded"
    if start.startswith(b"\x1f\x8b"):
        return "but is gzip-compressed: unpack it first"
    return f"but starts with the bytes {start[:8].hex(' ')}"


def _open_zip(path: Path, data: Bytes) -> TensorFile:
    try:
        with zipfile.ZipFile(path) as archive:
            infos = {info.filename: info for info in archive.infolist()}
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
        raise CheckpointError("zip file is cut off or damaged: get it again") from error
    indexes = [name for name in infos if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(indexes) != 1:
        raise CheckpointError(
            f"zip file must hold one PyTorch checkpoint (data.pkl), got {len(indexes)}"
        )
    folder = indexes[0].removesuffix("data.pkl")
    if f"{folder}constants.pkl" in infos:
        raise CheckpointError("is a TorchScript program, expected the checkpoint it was made from")

    verified: dict[str, Bytes] = {}

    def record(name: str) -> Bytes:
        if name not in verified:
            if folder + name not in infos:
                raise CheckpointError(f"zip file lacks the record {printable(name)}")
            verified[name] = _zip_record(data, infos[folder + name])
        return verified[name]

    byte_order = "<"
    if f"{folder}byteorder" in infos and record("byteorder").tobytes() == b"big":
        byte_order = ">"
    content = _read_index(record("data.pkl"))
    return TensorFile(
        "PyTorch zip file",
        content.value,
        content.opaque,
        byte_order,
        lambda storage: record(f"data/{storage.key}"),
    )


def _zip_record(data: Bytes, info: zipfile.ZipInfo) -> Bytes:
    """Find a record in the file; verify its place, its size and its checksum."""
    name = printable(info.filename)
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
        raise CheckpointError(f"zip record {name} must be neither compressed nor encrypted")
    header = data[info.header_offset : info.header_offset + _LOCAL_HEADER].tobytes()
    if len(header) < _LOCAL_HEADER or not header.startswith(b"PK\x03\x04"):
        raise CheckpointError(f"offset of zip record {name} differs from the zip directory")
    name_length = int.from_bytes(header[26:28], "little")
    extra_length = int.from_bytes(header[28:30], "little")
    start = info.header_offset + _LOCAL_HEADER + name_length + extra_length
    content = data[start : start + info.file_size]
    if len(content) != info.file_size or info.compress_size != info.file_size:
        raise CheckpointError(f"size of zip record {name} differs from the zip directory")
    if zlib.crc32(content.data) != info.CRC:
        raise CheckpointError(f"zip record {name} is damaged (wrong checksum): get the file again")
    return content


def _read_index(content: Bytes) -> Pickle:
    if len(content) > MAX_INDEX_BYTES:
        raise CheckpointError(
            f"index must be at most {MAX_INDEX_BYTES} bytes, got {len(content)} bytes"
        )
    return read_pickle(io.BytesIO(content.tobytes()))


def _open_legacy(data: Bytes) -> TensorFile:
    """Open a file of five pickles (magic, protocol, system, content, keys) and then storages."""
    stream = io.BytesIO(data[:MAX_INDEX_BYTES].tobytes())
    if read_pickle(stream).value != _LEGACY_MAGIC:
        raise CheckpointError("must be written by torch.save, but is some other pickle")
    if read_pickle(stream).value != _LEGACY_PROTOCOL:
        raise CheckpointError("is of an unknown version of PyTorch's legacy format")
    system = read_pickle(stream).value
    big = isinstance(system, dict) and system.get("little_endian") is False
    content = read_pickle(stream)
    keys = read_pickle(stream).value
    if not isinstance(keys, list):
        raise CheckpointError("list of storages is damaged")
    places = _legacy_storages(data, stream.tell(), keys, content.storages, ">" if big else "<")

    def storage_bytes(storage: Storage) -> Bytes:
        if storage.key not in places:
            raise CheckpointError(f"file lacks the storage {printable(storage.key)}")
        return places[storage.key]

    return TensorFile(
        "PyTorch legacy file", content.value, content.opaque, ">" if big else "<", storage_bytes
    )


def _legacy_storages(
    data: Bytes, start: int, keys: list[object], storages: dict[str, Storage], byte_order: str
) -> dict[str, Bytes]:
    """Find each storage: an element count of eight bytes, then the elements, one after another."""
    places = {}
    for key in keys:
        storage = storages.get(key) if isinstance(key, str) else None
        if storage is None:
            raise CheckpointError("holds a storage of an unsupported element type")
        count = int.from_bytes(
            data[start : start + 8].tobytes(), "little" if byte_order == "<" else "big"
        )
        size = count * _ITEM_SIZES[storage.dtype]
        start += 8
        if count != storage.count or start + size > len(data):
            raise CheckpointError("storages are cut off or damaged: get the file again")
        places[storage.key] = data[start : start + size]
        start += size
    return places


def _open_safetensors(data: Bytes) -> TensorFile:
    try:
        entries = deserialize(data.tobytes())
    except SafetensorError as error:
        reason = printable(str(error).partition(": ")[2] or error, 200)
        raise CheckpointError(f"safetensors file is cut off or damaged: {reason}") from error
    places: dict[str, Bytes] = {}
    root: dict[str, object] = {}
    for name, entry in entries:
        shape, dtype = tuple(entry["shape"]), _SAFETENSORS_DTYPES.get(entry["dtype"])
        if dtype is None or len(shape) > MAX_AXES:
            root[name] = OpaqueObject("tensor")
            continue
        places[name] = np.frombuffer(entry["data"], np.uint8)
        strides = tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))
        root[name] = Tensor(Storage(name, dtype, prod(shape)), dtype, 0, shape, strides)
    return TensorFile("safetensors file", root, (), "<", lambda storage: places[storage.key])
