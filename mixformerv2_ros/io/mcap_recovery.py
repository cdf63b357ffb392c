"""Messages out of an MCAP file that was cut off or damaged.

A recorder that is killed leaves a file without its index, which readers refuse. Here its records
are read one after the other, by the `mcap` package, up to the damage; of a chunk that is cut, what
can be decompressed.
"""

from __future__ import annotations

import io
import mmap
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, cast

import lz4.frame  # type: ignore[import-untyped]
import zstandard
from mcap.data_stream import ReadDataStream
from mcap.exceptions import EndOfFile, InvalidMagic, McapError
from mcap.opcode import Opcode
from mcap.records import Channel, Chunk, DataEnd, McapRecord, Message, Schema
from mcap.stream_reader import MAGIC_SIZE, StreamReader

from mixformerv2_ros.io.damage import LARGEST, Damage, Recovered
from mixformerv2_ros.io.zstd import first_bytes

_DAMAGES = (McapError, struct.error, ValueError, OverflowError)
"""What the parsers of `mcap` raise on data that is not what it should be."""


def scan_mcap(path: Path) -> Iterator[Recovered]:
    """Read the messages of an `.mcap` file in the order of the file, of a chunk by record time.

    Raises:
        Damage: after the last message before the damage.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        if not path.stat().st_size:
            raise Damage("is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            yield from _scan(mapped)


def _scan(mapped: mmap.mmap) -> Iterator[Recovered]:
    messages = _Messages()
    source = _Bounded(mapped)
    start, ended = MAGIC_SIZE, False
    try:
        for record in _reader(source, validate_crcs=True).records:
            # What follows is an index of what has been read.
            ended = ended or isinstance(record, DataEnd)
            if not ended:
                yield from messages.of(record)
            start = source.position
    except InvalidMagic:
        # The same magic stands at both ends.
        raise Damage(
            "has a damaged index" if ended else "does not start like an MCAP file"
        ) from None
    except _DAMAGES as error:
        if ended:
            raise Damage("has a damaged index") from error
        chunk = _cut_chunk(mapped, start)
        if chunk is not None:
            with suppress(Damage):  # which means only that the chunk is too short
                yield from messages.of(chunk)
            raise Damage("is cut off within a chunk") from None
        where = f"at byte {start} of {len(mapped)}"
        if isinstance(error, EndOfFile):
            raise Damage(f"is cut off or damaged {where}") from None
        raise Damage(f"is damaged {where}: {error}") from error


class _Bounded:
    """A file for `mcap`, which reads as much as lengths in the file tell it to.

    It gives all that is asked for or nothing: `mcap` would take the rest of a file that is cut off
    for a whole record.

    Attributes:
        position: Bytes read so far.
    """

    def __init__(self, data: mmap.mmap | bytes) -> None:
        self._data = data
        self.position = 0

    def read(self, size: int) -> bytes:
        end = self.position + size
        if not 0 <= size <= LARGEST or end > len(self._data):
            raise EndOfFile
        piece = self._data[self.position : end]
        self.position = end
        return piece


def _reader(source: _Bounded, **options: bool) -> StreamReader:
    return StreamReader(
        cast("IO[bytes]", source), emit_chunks=True, record_size_limit=LARGEST, **options
    )


class _Messages:
    """Schemas and channels seen so far in one file, and the messages that they explain."""

    def __init__(self) -> None:
        self._schemas: dict[int, Schema] = {}
        self._channels: dict[int, Channel] = {}

    def of(self, record: McapRecord) -> Iterator[Recovered]:
        """The messages of one record.

        Raises:
            Damage: after the last message before the damage.
        """
        if isinstance(record, Schema):
            self._schemas[record.id] = record
        elif isinstance(record, Channel):
            self._channels[record.id] = record
        elif isinstance(record, Message):
            yield self._message(record)
        elif isinstance(record, Chunk):
            yield from self._chunk(record)

    def _message(self, record: Message) -> Recovered:
        channel = self._channels.get(record.channel_id)
        if channel is None:
            raise Damage(f"has a message on channel {record.channel_id}, which it does not declare")
        schema = self._schemas.get(channel.schema_id)
        known = (schema.name, str(schema.data, "utf-8"), schema.encoding) if schema else ("",) * 3
        return Recovered(channel.topic, *known, record.log_time, record.data)

    def _chunk(self, chunk: Chunk) -> Iterator[Recovered]:
        content, damage = _content(chunk)
        source, start = _Bounded(content), 0
        found: list[Recovered] = []
        try:
            for record in _reader(source, skip_magic=True).records:
                if not isinstance(record, Chunk):
                    found.extend(self.of(record))
                start = source.position
        except EndOfFile:  # a chunk has no end marker
            if start < len(content):
                damage = damage or "has a damaged chunk: a record is cut off"
        except _DAMAGES as error:
            damage = damage or f"has a damaged chunk: {error}"
        except Damage as error:
            damage = damage or str(error)
        yield from sorted(found, key=lambda message: message.record_ns)
        if damage:
            raise Damage(damage)


def _content(chunk: Chunk) -> tuple[bytes, str]:
    """Records in a chunk as far as they can be had, and what is wrong with them."""
    size = chunk.uncompressed_size
    if size > LARGEST:
        return b"", f"has a chunk of {size} bytes, which is more than {LARGEST}"
    try:
        if chunk.compression == "zstd":
            content = first_bytes(chunk.data, size)
        elif chunk.compression == "lz4":
            content = lz4.frame.LZ4FrameDecompressor().decompress(chunk.data, size)
        elif chunk.compression == "":
            content = chunk.data
        else:
            return b"", f"has a chunk of unknown compression {chunk.compression!r}"
    except (zstandard.ZstdError, RuntimeError) as error:
        return b"", f"has a damaged chunk: {error}"
    if len(content) != size:
        return content, f"has a damaged chunk: {len(content)} bytes instead of {size}"
    if chunk.uncompressed_crc and zlib.crc32(content) != chunk.uncompressed_crc:
        return b"", "has a damaged chunk: its checksum differs"
    return content, ""


def _cut_chunk(mapped: mmap.mmap, start: int) -> Chunk | None:
    """The chunk that begins at byte `start`, with what is left of it; None if there is none."""
    if len(mapped) < start + 9 or mapped[start] != Opcode.CHUNK:
        return None
    (length,) = struct.unpack_from("<Q", mapped, start + 1)
    if start + 9 + length <= len(mapped):
        return None
    rest = io.BytesIO(mapped[start + 9 : start + 9 + LARGEST])
    try:
        chunk: Chunk = Chunk.read(ReadDataStream(rest))
    except _DAMAGES:
        return None
    return chunk
