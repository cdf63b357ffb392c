"""Messages out of a storage file that was cut off or damaged.

A recorder that is killed leaves an MCAP file without its index or a database whose pages end too
early; libraries refuse such files. The scanners here read what lies before the damage, record by
record, without an index.
"""

from __future__ import annotations

import mmap
import struct
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lz4.frame  # type: ignore[import-untyped]

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MCAP_MAGIC = b"\x89MCAP0\r\n"
SQLITE_MAGIC = b"SQLite format 3\0"


@dataclass(frozen=True)
class Recovered:
    """One message of a storage file.

    Attributes:
        topic: Name of the topic.
        msgtype: Name of the message type, such as `sensor_msgs/msg/Image`.
        definition: Message definition found in the file; empty if there is none.
        encoding: How the definition is written: `ros2msg`, `ros2idl`, or empty.
        record_ns: When the message was recorded, in nanoseconds.
        data: The serialized message.
    """

    topic: str
    msgtype: str
    definition: str
    encoding: str
    record_ns: int
    data: bytes


class Damage(Exception):
    """Where and why a scan had to stop; carries one clause for an error message."""


def scan(path: Path) -> Iterator[Recovered]:
    """Read the messages of an `.mcap` or `.db3` file in the order of the file.

    Raises:
        Damage: after the last message before the damage.
    """
    yield from _scan_mcap(path) if path.suffix == ".mcap" else _scan_sqlite(path)


# --- MCAP: a magic, then records of one opcode byte, a length and a body ------------------------

_LARGEST_CHUNK = 2**31 - 1
_FOOTER, _SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _DATA_END = 0x02, 0x03, 0x04, 0x05, 0x06, 0x0F


class _McapScan:
    """Schemas and channels seen so far in one file."""

    def __init__(self) -> None:
        self.schemas: dict[int, tuple[str, str, str]] = {}
        self.channels: dict[int, tuple[int, str]] = {}

    def records(self, data: memoryview, start: int = 0) -> Iterator[tuple[int, memoryview, bool]]:
        """Opcode, body and completeness of the records from `start`; only a chunk may be cut.

        A file (`start` > 0) must say itself where it ends, the content of a chunk just ends.
        """
        position = start
        while start or position < len(data):
            if position + 9 > len(data):
                raise Damage(f"is cut off after {len(data)} bytes")
            opcode = data[position]
            (length,) = struct.unpack_from("<Q", data, position + 1)
            body = data[position + 9 : position + 9 + length]
            if len(body) < length and opcode != _CHUNK:
                raise Damage(f"is cut off or damaged at byte {position} of {len(data)}")
            yield opcode, body, len(body) == length
            position += 9 + length

    def messages(self, opcode: int, body: memoryview, whole: bool) -> Iterator[Recovered]:
        """The messages of one record; remembers schemas and channels."""
        if opcode == _SCHEMA:
            (key,) = struct.unpack_from("<H", body)
            name, position = _text(body, 2)
            encoding, position = _text(body, position)
            self.schemas[key] = name, _text(body, position)[0], encoding
        elif opcode == _CHANNEL:
            key, schema = struct.unpack_from("<HH", body)
            self.channels[key] = schema, _text(body, 4)[0]
        elif opcode == _MESSAGE:
            channel, _, record_ns = struct.unpack_from("<HIQ", body)
            if channel not in self.channels:
                raise Damage(f"has a message on channel {channel}, which it does not declare")
            schema, topic = self.channels[channel]
            msgtype, definition, encoding = self.schemas.get(schema, ("", "", ""))
            yield Recovered(topic, msgtype, definition, encoding, record_ns, bytes(body[22:]))
        elif opcode == _CHUNK:
            content, damage = _chunk(body, whole)
            found: list[Recovered] = []
            try:
                for inner, inner_body, _ in self.records(content):
                    if inner != _CHUNK:
                        found.extend(self.messages(inner, inner_body, True))
            except Damage as error:
                damage = damage or error
            yield from sorted(found, key=lambda message: message.record_ns)
            if damage is not None:
                raise damage


def _scan_mcap(path: Path) -> Iterator[Recovered]:
    data = _map(path)
    if bytes(data[:8]) != MCAP_MAGIC:
        raise Damage("does not start like an MCAP file")
    state = _McapScan()
    in_data = True
    for opcode, body, whole in state.records(data, start=len(MCAP_MAGIC)):
        if opcode == _FOOTER:
            break
        in_data = in_data and opcode != _DATA_END
        try:
            if in_data:
                yield from state.messages(opcode, body, whole)
        except (struct.error, UnicodeDecodeError) as error:
            raise Damage(f"has a damaged record of kind {opcode:#x}: {error}") from error
    if in_data or bytes(data[-8:]) != MCAP_MAGIC:
        raise Damage("has a damaged index")


def _text(data: memoryview, position: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<I", data, position)
    end = position + 4 + length
    if end > len(data):
        raise Damage("has a damaged text")
    return str(data[position + 4 : end], "utf-8"), end


def _chunk(body: memoryview, whole: bool) -> tuple[memoryview, Damage | None]:
    """Content of a chunk as far as it can be had, and what is wrong with it."""
    _, _, size, checksum = struct.unpack_from("<QQQI", body)
    compression, position = _text(body, 28)
    packed = body[position + 8 :]
    damage = None if whole else Damage("is cut off within a chunk")
    limit = min(size, _LARGEST_CHUNK)
    content: bytes | memoryview
    try:
        if compression == "zstd":
            content = zstd.ZstdDecompressor().decompress(packed, limit)
        elif compression == "lz4":
            content = lz4.frame.LZ4FrameDecompressor().decompress(packed, limit)
        elif compression == "":
            content = packed
        else:
            raise Damage(f"has a chunk of unknown compression {compression!r}")
    except (zstd.ZstdError, RuntimeError) as error:
        return memoryview(b""), Damage(f"has a damaged chunk: {error}")
    if damage is None and len(content) != size:
        damage = Damage(f"has a damaged chunk: {len(content)} bytes instead of {size}")
    if damage is None and checksum and zlib.crc32(content) != checksum:
        return memoryview(b""), Damage("has a damaged chunk: its checksum differs")
    return memoryview(content), damage


# --- SQLite: pages of fixed size; the rows lie in the leaf pages of a table ---------------------

_LEAF = 0x0D
_WAL_MAGIC = (0x377F0682, 0x377F0683)


def _scan_sqlite(path: Path) -> Iterator[Recovered]:
    """Read the rows out of the pages themselves: the way to them may lie behind the damage.

    Recorders only append, so the rows' ids count up; the first id that is missing is the damage.
    """
    data = _map(path)
    if bytes(data[:16]) != SQLITE_MAGIC or len(data) < 100:
        raise Damage("does not start like an SQLite database")
    pages = _Pages(data, path)
    topics, definitions, rows = _tables(pages)
    expected = min(rows, default=1)
    for row_id in sorted(rows):
        if row_id != expected:
            raise Damage(f"lacks message {expected}")
        expected += 1
        _, (_, topic_id, record_ns, content) = pages.row(*rows[row_id])
        if topic_id not in topics:
            raise Damage(f"has a message on topic {topic_id}, which it does not declare")
        topic, msgtype = topics[topic_id]
        definition, encoding = definitions.get(msgtype, ("", ""))
        yield Recovered(topic, msgtype, definition, encoding, record_ns, content)
    if pages.damage:
        raise Damage(pages.damage)


def unfinished(path: Path) -> str:
    """Why a database is known to lack pages or was left open; empty if it is not.

    SQLite itself reads missing pages as zeros or ignores them, and rosbags ignores the log.

    Raises:
        OSError: the file cannot be read.
    """
    try:
        data = _map(path)
        if bytes(data[:16]) != SQLITE_MAGIC or len(data) < 100:
            raise Damage("does not start like an SQLite database")
        return _Pages(data, path).damage
    except Damage as error:
        return str(error)


def _tables(
    pages: _Pages,
) -> tuple[dict[int, tuple[str, str]], dict[str, tuple[str, str]], dict[int, tuple[int, int]]]:
    """Topics by id, message definitions by type, and where each message lies, by its id.

    Which table a page belongs to is told by the types of its values.
    """
    topics: dict[int, tuple[str, str]] = {}
    definitions: dict[str, tuple[str, str]] = {}
    rows: dict[int, tuple[int, int]] = {}
    for number in pages.leaves():
        try:
            for cell in pages.cells(number):
                row_id, values = pages.row(number, cell, whole=False)
                kinds = tuple(type(value) for value in values)
                if kinds == (type(None), int, int, bytes):
                    rows[row_id] = number, cell
                elif kinds[:4] == (type(None), str, str, str):
                    if values[3] == "cdr":
                        topics[row_id] = values[1], values[2]
                    elif values[2] in ("ros2msg", "ros2idl"):
                        _, values = pages.row(number, cell)
                        definitions[values[1]] = values[3], values[2]
        except Damage as error:
            # Rows that are lost with this page leave a gap in the ids.
            pages.damage = pages.damage or str(error)
    return topics, definitions, rows


class _Pages:
    """Pages of a database, those of its write-ahead log before those of its file.

    Attributes:
        damage: What is known to be missing; empty if nothing is.
    """

    def __init__(self, data: memoryview, path: Path) -> None:
        (size,) = struct.unpack_from(">H", data, 16)
        self.size = 65536 if size == 1 else size
        if self.size < 512 or self.size & (self.size - 1):
            raise Damage(f"has a damaged header: page size {size}")
        self.usable = self.size - data[20]
        self.data = data
        self.log: dict[int, memoryview] = {}
        changes, promised = struct.unpack_from(">II", data, 24)
        (valid_for,) = struct.unpack_from(">I", data, 92)
        self.count, rest = divmod(len(data), self.size)
        self.damage = ""
        if rest:
            self.damage = f"is cut off within page {self.count + 1}"
        elif promised != self.count and changes == valid_for:
            self.damage = f"was left unfinished: {self.count} pages instead of {promised}"
        wal = path.with_name(path.name + "-wal")
        if wal.is_file() and wal.stat().st_size > 32:
            self._read_log(memoryview(wal.read_bytes()))
            self.damage = self.damage or "was not closed by its recorder"

    def _read_log(self, data: memoryview) -> None:
        """Take the pages of every committed transaction in the write-ahead log."""
        magic, _, size = struct.unpack_from(">III", data)
        if magic not in _WAL_MAGIC or size != self.size:
            return
        pending: dict[int, memoryview] = {}
        for position in range(32, len(data) - 24 - size + 1, 24 + size):
            number, committed = struct.unpack_from(">II", data, position)
            if data[position + 8 : position + 16] != data[16:24]:
                break
            pending[number] = data[position + 24 : position + 24 + size]
            if committed:
                self.log.update(pending)
                self.count = max(self.count, committed)
                pending.clear()

    def page(self, number: int) -> memoryview:
        """Page `number`, counted from 1; shorter than a page, or empty, where the file ends."""
        if number in self.log:
            return self.log[number]
        return self.data[(number - 1) * self.size : number * self.size]

    def leaves(self) -> Iterator[int]:
        """Numbers of the pages that hold rows of a table."""
        for number in range(1, self.count + 1):
            page = self.page(number)
            start = 100 if number == 1 else 0
            if len(page) == self.size and page[start] == _LEAF:
                yield number

    def cells(self, number: int) -> list[int]:
        """Positions of the rows in a leaf page."""
        page = self.page(number)
        start = 100 if number == 1 else 0
        (count,) = struct.unpack_from(">H", page, start + 3)
        if start + 8 + 2 * count > self.size:
            raise Damage(f"has a damaged page {number}")
        return list(struct.unpack_from(f">{count}H", page, start + 8))

    def row(self, number: int, cell: int, whole: bool = True) -> tuple[int, list[Any]]:
        """Id and values of a row; unless `whole`, what lies beyond its page is left out."""
        page = self.page(number)
        try:
            size, position = _varint(page, cell)
            row_id, position = _varint(page, position)
            local = self._local(size)
            payload: bytes = bytes(page[position : position + local])
            if local < size and whole:
                payload = self._follow(page, position + local, payload, size)
            return row_id, _values(payload, whole)
        except (struct.error, IndexError, UnicodeDecodeError) as error:
            raise Damage(f"has a damaged page {number}: {error}") from error

    def _local(self, size: int) -> int:
        """Bytes of a row of `size` bytes that lie in its leaf page."""
        most = self.usable - 35
        if size <= most:
            return size
        least = (self.usable - 12) * 32 // 255 - 23
        local = least + (size - least) % (self.usable - 4)
        return local if local <= most else least

    def _follow(self, page: memoryview, position: int, payload: bytes, size: int) -> bytes:
        parts, missing = [payload], size - len(payload)
        (number,) = struct.unpack_from(">I", page, position)
        while missing:
            page = self.page(number) if number else memoryview(b"")
            part = page[4 : min(4 + missing, self.usable)]
            if len(part) < min(missing, self.usable - 4):
                raise Damage(f"is cut off or damaged: page {number} is not there")
            parts.append(bytes(part))
            missing -= len(part)
            (number,) = struct.unpack_from(">I", page)
        return b"".join(parts)


def _varint(data: memoryview | bytes, position: int) -> tuple[int, int]:
    """A number of SQLite's variable length, and the position after it."""
    value = 0
    for i in range(9):
        byte = data[position + i]
        if i == 8:
            return value << 8 | byte, position + 9
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            break
    return value, position + i + 1


def _values(payload: bytes, whole: bool) -> list[Any]:
    """Values of an SQLite record; a text or blob that is not all there is cut."""
    header, position = _varint(payload, 0)
    kinds = []
    while position < header:
        kind, position = _varint(payload, position)
        kinds.append(kind)
    values: list[Any] = []
    position = header
    for kind in kinds:
        if kind >= 12:
            size = (kind - 12) // 2
            part = payload[position : position + size]
            if whole and len(part) < size:
                raise IndexError(f"value of {size} bytes is cut")
            values.append(str(part, "utf-8", "replace") if kind % 2 else part)
        else:
            size = (0, 1, 2, 3, 4, 6, 8, 8, 0, 0)[kind]
            number = int.from_bytes(payload[position : position + size], "big", signed=True)
            values.append({0: None, 8: 0, 9: 1}.get(kind, number))
        position += size
    return values


def _map(path: Path) -> memoryview:
    """The bytes of a file; the mapping goes with the last view of it."""
    with path.open("rb") as file:
        if not path.stat().st_size:
            raise Damage("is empty")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
