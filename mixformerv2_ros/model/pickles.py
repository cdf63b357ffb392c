"""Read pickles as data: nothing in them is called, imported or built.

A pickle is a program, and `pickle.Unpickler` runs it. The interpreter here walks the same opcodes
and keeps what a checkpoint is made of: numbers, strings, lists, tuples, dicts, and descriptions of
tensors. Everything else (any class, function, or object) becomes an `OpaqueObject`, whatever the
pickle asks to do with it. There is no place from which code of the pickle could be reached; that is
why this is not a subclass of `pickle.Unpickler`, which also allocates whatever size a short lying
pickle names, and sets attributes on the very functions that it was allowed to call.
"""

from __future__ import annotations

import pickletools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from mixformerv2_ros.errors import CheckpointError

MAX_OPCODES = 2_000_000
"""Longest program; a training checkpoint of preset B with its optimizer has about 50,000."""
MAX_NAME = 256
"""Longest name of a global that is reported, in characters."""
MAX_NAMES = 1000
"""Most names of globals that are reported."""
MAX_AXES = 8
"""Most axes of a tensor; weights have four at most."""

DTYPES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "UntypedStorage": "uint8",
}
"""Element types by the name of torch's storage class."""

_STORAGE_MODULES = ("torch", "torch.cuda", "torch.storage")
_DICTS = ("collections.OrderedDict", "collections.defaultdict")
_REBUILD_TENSOR = ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor")
_REBUILD_TENSOR_DTYPE = "torch._utils._rebuild_tensor_v3"
_REBUILD_PARAMETER = (
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
)
# Plain facts about tensors: kept out of the list of things that became opaque objects.
_FAMILIAR = {
    *_DICTS,
    *_REBUILD_TENSOR,
    _REBUILD_TENSOR_DTYPE,
    *_REBUILD_PARAMETER,
    "torch.Size",
    "torch.device",
    *(f"torch.{name}" for name in DTYPES.values()),
    *(f"{module}.{name}" for module in _STORAGE_MODULES for name in DTYPES),
    "torch.storage.TypedStorage",
}


@dataclass(frozen=True)
class Storage:
    """Where the elements of tensors lie, according to the pickle; not checked against the file.

    Attributes:
        key: Name of the storage in its file.
        dtype: Element type, one of the values of `DTYPES`.
        count: Number of elements.
    """

    key: str
    dtype: str
    count: int


@dataclass(frozen=True)
class Tensor:
    """A view of a storage, according to the pickle; not checked against the storage.

    Attributes:
        storage: The elements.
        dtype: Element type; an untyped storage is read as this one.
        offset: First element.
        shape: Size per axis.
        strides: Step per axis, in elements.
    """

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class OpaqueObject:
    """Stands for whatever a pickle wanted to import, call or build; see `name`."""

    name: str


@dataclass(frozen=True)
class Pickle:
    """The content of one pickle.

    Attributes:
        value: The unpickled value, made of plain containers, scalars, `Tensor` and
            `OpaqueObject`. Dicts hold only those items whose key is a string or an integer.
        opaque: Names (`module.name`) of all globals that became opaque objects, sorted.
        storages: All storages that tensors refer to, by key.
    """

    value: object
    opaque: tuple[str, ...]
    storages: dict[str, Storage]


def read_pickle(stream: BinaryIO) -> Pickle:
    """Read one pickle from `stream`, which is left behind it.

    `stream` must be of bounded length and in memory: the opcodes name lengths that are trusted as
    far as `stream.read` is.

    Raises:
        CheckpointError: the bytes are no complete pickle, or a program of more than `MAX_OPCODES`.
    """
    machine = _Machine()
    try:
        with warnings.catch_warnings():
            # Python would quote odd text literals of the file on the terminal.
            warnings.simplefilter("ignore", DeprecationWarning)
            for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
                if count == MAX_OPCODES:
                    raise CheckpointError(f"pickle must be at most {MAX_OPCODES} steps long")
                machine.step(opcode.name, argument)
    except CheckpointError:
        raise
    except (ValueError, TypeError, LookupError, OverflowError, MemoryError) as error:
        raise CheckpointError("pickle is cut off or damaged") from error
    return Pickle(machine.value, tuple(sorted(machine.opaque)), machine.storages)


class _Machine:
    """The stack machine that pickles are programs of, with all calls taken out."""

    def __init__(self) -> None:
        self.opaque: set[str] = set()
        self.storages: dict[str, Storage] = {}
        self.value: object = None
        self._stack: list[object] = []
        self._below_marks: list[list[object]] = []
        self._memo: dict[int, object] = {}

    def step(self, opcode: str, argument: object) -> None:
        """Execute one opcode; malformed programs raise LookupError, TypeError or ValueError."""
        push, pop = self._stack.append, self._stack.pop
        match opcode:
            case "BINPUT" | "LONG_BINPUT" | "PUT":
                self._memo[_integer(argument)] = self._stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = self._stack[-1]
            case "BINGET" | "LONG_BINGET" | "GET":
                push(self._memo[_integer(argument)])
            case _ if opcode in _LITERALS:
                push(argument)
            case _ if opcode in _CONSTANTS:
                push(_CONSTANTS[opcode])
            case "MARK":
                self._below_marks.append(self._stack)
                self._stack = []
            case "EMPTY_LIST":
                push([])
            case "EMPTY_DICT":
                push({})
            case "LIST" | "TUPLE" | "FROZENSET":
                items = self._pop_to_mark()
                self._stack.append(_COLLECTIONS[opcode](items))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                items = [pop() for _ in range(int(opcode[-1]))]
                push(tuple(reversed(items)))
            case "DICT":
                items = self._pop_to_mark()
                self._stack.append({})
                self._set_items(items)
            case "SETITEM":
                value, key = pop(), pop()
                self._set_items([key, value])
            case "SETITEMS":
                self._set_items(self._pop_to_mark())
            case "APPEND":
                self._extend([pop()])
            case "APPENDS":
                self._extend(self._pop_to_mark())
            case "ADDITEMS" | "POP_MARK":
                self._pop_to_mark()
            case "POP" if not self._stack:
                self._pop_to_mark()
            case "POP" | "BUILD":  # BUILD would set the state of an object; the state is dropped.
                pop()
            case "DUP":
                push(self._stack[-1])
            case "PROTO" | "FRAME" | "READONLY_BUFFER":
                pass
            case "GLOBAL":
                push(self._global(*str(argument).split(" ", 1)))
            case "STACK_GLOBAL":
                name, module = pop(), pop()
                push(self._global(module, name))
            case "EXT1" | "EXT2" | "EXT4":
                push(self._global("copyreg", f"extension {argument}"))
            case "REDUCE" | "NEWOBJ" | "NEWOBJ_EX":
                if opcode == "NEWOBJ_EX":
                    pop()  # keyword arguments
                arguments, function = pop(), pop()
                push(_stands_for(function, arguments))
            case "OBJ" | "INST":
                items = self._pop_to_mark()
                if opcode == "INST":
                    items = [self._global(*str(argument).split(" ", 1))]
                self._stack.append(_stands_for(items[0], ()))
            case "BINPERSID":
                storage = _storage(pop())
                if isinstance(storage, Storage):
                    self.storages.setdefault(storage.key, storage)
                push(storage)
            case "PERSID":
                push(OpaqueObject("storage"))
            case "STOP":
                self.value = pop()
            case _:
                raise ValueError(f"unknown opcode {opcode}")

    def _pop_to_mark(self) -> list[object]:
        items = self._stack
        self._stack = self._below_marks.pop()
        return items

    def _set_items(self, items: list[object]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict):
            return
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Other keys do not occur in checkpoints, and hashing them is dangerous: nested tuples
            # overflow the C stack, huge integers can be chosen to collide.
            if isinstance(key, str) or (isinstance(key, int) and -(2**63) <= key < 2**63):
                target[key] = value

    def _extend(self, items: list[object]) -> None:
        target = self._stack[-1]
        if isinstance(target, list):
            target.extend(items)

    def _global(self, module: object, name: object) -> OpaqueObject:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise TypeError("a global's name must be text")
        # A memoised long string could be joined millions of times.
        full = f"{module}.{name}" if len(module) + len(name) < MAX_NAME else "(a very long name)"
        if full not in _FAMILIAR and len(self.opaque) < MAX_NAMES:
            self.opaque.add(full)
        return OpaqueObject(full)


_CONSTANTS: dict[str, object] = {
    "NONE": None,
    "NEWTRUE": True,
    "NEWFALSE": False,
    "EMPTY_TUPLE": (),
    "EMPTY_SET": OpaqueObject("set"),
    "BYTEARRAY8": OpaqueObject("bytearray"),
    "NEXT_BUFFER": OpaqueObject("buffer"),
}
_COLLECTIONS: dict[str, Callable[[list[object]], object]] = {
    "LIST": list,
    "TUPLE": tuple,
    "FROZENSET": lambda items: OpaqueObject("set"),
}
_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
}


def _integer(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError("an integer is needed here")
    return value


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _stands_for(function: object, arguments: object) -> object:
    """Tell what `function(*arguments)` describes, without calling anything."""
    if not (isinstance(function, OpaqueObject) and isinstance(arguments, tuple)):
        return OpaqueObject("object")
    name = function.name
    if name in _DICTS:
        return {}  # Items follow as opcodes of their own.
    if name == "torch.Size" and len(arguments) == 1:
        return arguments[0]
    if name in _REBUILD_TENSOR and len(arguments) >= 4:
        return _tensor(arguments)
    if name == _REBUILD_TENSOR_DTYPE and len(arguments) >= 7:
        return _tensor(arguments, arguments[6])
    if name in _REBUILD_PARAMETER and arguments and isinstance(arguments[0], Tensor):
        return arguments[0]
    return OpaqueObject(name)


def _tensor(arguments: tuple[object, ...], dtype: object = None) -> Tensor | OpaqueObject:
    storage, offset, shape, strides = arguments[:4]
    if isinstance(dtype, OpaqueObject):
        dtype = dtype.name.removeprefix("torch.")
    elif isinstance(storage, Storage):
        dtype = storage.dtype
    if not (
        isinstance(storage, Storage)
        and isinstance(dtype, str)
        and _is_size(offset)
        and isinstance(shape, tuple)
        and isinstance(strides, tuple)
        and len(shape) == len(strides) <= MAX_AXES
        and all(_is_size(value) for value in (*shape, *strides))
    ):
        return OpaqueObject("tensor")
    return Tensor(storage, dtype, offset, shape, strides)  # type: ignore[arg-type]


def _storage(identity: object) -> Storage | OpaqueObject:
    """Read torch's persistent id: ("storage", class, key, device, count[, view])."""
    if isinstance(identity, tuple) and len(identity) in (5, 6) and identity[0] == "storage":
        _, kind, key, _, count, *view = identity
        module, _, name = (kind.name if isinstance(kind, OpaqueObject) else "").rpartition(".")
        known = module in _STORAGE_MODULES and name in DTYPES
        if known and isinstance(key, str) and _is_size(count) and view in ([], [None]):
            return Storage(key, DTYPES[name], count)
    return OpaqueObject("storage")
