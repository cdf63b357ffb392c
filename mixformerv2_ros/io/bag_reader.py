"""Messages out of rosbag2 recordings: a folder, an `.mcap` or a `.db3` file.

Every storage file is read by itself: its content is the recording, whatever is in metadata.yaml.
Sound files are read with the `rosbags` library, in the order of their record times. What it cannot
read is scanned without an index, so that the messages before the damage are never lost. Whole files
and single messages that are compressed are recognized by themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import TYPE_CHECKING, Any

import lz4.frame  # type: ignore[import-untyped]
from rosbags.interfaces import Connection, MessageDefinitionFormat, Nodetype
from rosbags.rosbag2 import Reader, storage_mcap
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore

from mixformerv2_ros.errors import SourceError
from mixformerv2_ros.interfaces import typestore
from mixformerv2_ros.io.bag_files import (
    METADATA,
    STORAGE_SUFFIXES,
    BagFiles,
    bag_files,
    is_storage_file,
    plain_name,
)
from mixformerv2_ros.io.damage import LARGEST, Damage, Recovered
from mixformerv2_ros.io.mcap_recovery import scan_mcap
from mixformerv2_ros.io.sqlite_recovery import find_damage, scan_sqlite, unfinished
from mixformerv2_ros.io.zstd import ZSTD_MAGIC, first_bytes, unpack_bytes, unpack_file
from mixformerv2_ros.text import printable, some

if TYPE_CHECKING:
    from rosbags.interfaces import Qos
    from rosbags.typesys.store import Typestore

MAX_DEFINITION = 2**18
"""Longest message definition in characters that is parsed."""
MAX_PROBLEMS = 4
"""Damaged files of one recording that are reported."""
_IDL_SEPARATOR = "=" * 80 + "\n"


class DamagedBagError(SourceError):
    """A recording that is damaged or lacks parts; all that is there has been read."""


@dataclass(frozen=True)
class Topic:
    """One topic of a recording.

    Attributes:
        name: Name of the topic.
        msgtype: Type of its messages, such as `sensor_msgs/msg/Image`.
        definition: Message definition found in the recording; empty if there is none.
        encoding: How the definition is written: `ros2msg`, `ros2idl`, or empty.
        count: Messages of the topic; None where the recording's index is lost.
        qos: Quality of service that the publishers offered, as far as recorded.
    """

    name: str
    msgtype: str
    definition: str = ""
    encoding: str = ""
    count: int | None = None
    qos: tuple[Qos, ...] = ()


@dataclass(frozen=True)
class BagMessage:
    """One recorded message.

    Attributes:
        topic: The topic that it was recorded on.
        record_ns: When it was recorded, in nanoseconds.
        data: The message in CDR.
    """

    topic: Topic
    record_ns: int
    data: bytes = field(repr=False)


@dataclass
class _Source:
    """A storage file.

    Attributes:
        name: Its name in the recording.
        path: Where it is read, unpacked.
        reader: What reads it by its index; None where it has to be scanned.
        damage: What is known to be wrong with it before it is read; empty if nothing is.
    """

    name: str
    path: Path
    reader: Reader | None = None
    damage: str = ""


class BagReader:
    """An open recording; use it as a context manager.

    Attributes:
        path: The folder or file.
        topics: The topics by name.
        note: What is odd about the recording but costs no message, as one line, or empty.
    """

    def __init__(self, path: Path) -> None:
        """Open the recording.

        Raises:
            SourceError: there is no recording at `path`.
        """
        self.path = path
        self.topics: dict[str, Topic] = {}
        self.note = ""
        self._stack = ExitStack()
        self._sources: list[_Source] = []
        self._incomplete: list[str] = []
        self._stores: dict[str, Typestore] = {}
        try:
            self._open()
        except OSError as error:
            self.close()
            raise SourceError(
                f"recording {path} cannot be read: {error.strerror or error}"
            ) from error
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> BagReader:
        """Return the recording, which is open already."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the recording."""
        self.close()

    def close(self) -> None:
        """Close the recording's files."""
        self._stack.close()

    def of_types(self, *msgtypes: str) -> list[Topic]:
        """The topics whose messages are of the given types, by name."""
        found = (topic for topic in self.topics.values() if topic.msgtype in msgtypes)
        return sorted(found, key=lambda topic: topic.name)

    @property
    def duration_ns(self) -> int | None:
        """Nanoseconds from the first to the last message; None where the index is lost."""
        readers = [source.reader for source in self._sources if source.reader is not None]
        if len(readers) < len(self._sources):
            return None
        times = [(reader.start_time, reader.end_time) for reader in readers if reader.message_count]
        return max(t[1] for t in times) - min(t[0] for t in times) if times else 0

    def messages(self, topics: Collection[str]) -> Iterator[BagMessage]:
        """Read the messages of some topics: file after file, each in the order of record times.

        Raises:
            DamagedBagError: after the last message that can be read.
        """
        wanted, count = set(topics), 0
        problems: list[str] = []
        for source in self._sources:
            unreadable = _Unreadable()
            try:
                for message in self._read(source, wanted):
                    unpacked = unreadable.unpack(message)
                    if unpacked is not None:
                        count += 1
                        yield unpacked
            except Damage as error:
                problems.append(f"damaged after {count} messages: {source.name} {error}")
            if unreadable.count:
                problems.append(f"damaged: {source.name} has {unreadable}")
        problems += [f"incomplete: {text}" for text in self._incomplete]
        if problems:
            raise DamagedBagError(f"recording {self.path} is {'; '.join(problems[:MAX_PROBLEMS])}")

    def deserialize(self, message: BagMessage) -> Any:
        """Decode a message; its arrays are views of the message's bytes.

        Raises:
            DamagedBagError: the bytes are not a message of the topic's type.
        """
        msgtype = message.topic.msgtype
        store = self._stores.get(msgtype)
        if store is None:
            store = self._stores[msgtype] = self._store(message.topic)
        try:
            # A memoryview, because rosbags slices off the header, which would copy bytes.
            return store.deserialize_cdr(memoryview(message.data), msgtype)
        except Exception as error:
            raise DamagedBagError(
                f"recording {self.path} holds a damaged message on {printable(message.topic.name)} "
                f"at {message.record_ns / 1e9:.3f} s: {printable(error)}"
            ) from error

    def _open(self) -> None:
        if not self.path.exists():
            raise SourceError(f"recording {self.path} does not exist")
        if self.path.is_file() and not is_storage_file(self.path):
            raise SourceError(
                f"recording must be a rosbag2 folder, .mcap or .db3 file, got {self.path}"
            )
        found = bag_files(self.path)
        if not found.files:
            lacks = "; ".join(_lacks(found))
            raise SourceError(
                f"folder {self.path} must hold a rosbag2 recording "
                f"({' or '.join(STORAGE_SUFFIXES)}){': ' if lacks else ''}{lacks}"
            )
        for file in found.files:
            try:
                self._open_file(file)
            except OSError as error:
                if len(found.files) == 1:
                    raise
                self._sources[-1].damage = f"cannot be read: {error.strerror or error}"
        self._compare(found)
        damages = [f"{s.name} {s.damage}" for s in self._sources if s.damage]
        if damages and not self.topics:
            raise DamagedBagError(
                f"recording {self.path} is damaged after 0 messages: {damages[0]}"
            )

    def _compare(self, found: BagFiles) -> None:
        """Set what is missing, and what is there without being listed."""
        self._incomplete = _lacks(found)
        if not found.unlisted:
            return
        names = some([file.name for file in found.unlisted])
        self.note = f"{METADATA} does not list {names}; read as well"
        counts = [0 if s.reader is None else s.reader.message_count for s in self._sources]
        if sum(counts) >= (found.message_count or 2**63):
            self._incomplete = []  # The files were renamed.

    def _open_file(self, path: Path) -> None:
        source = _Source(path.name, path)
        self._sources.append(source)
        if _is_packed(path):
            folder = Path(self._stack.enter_context(TemporaryDirectory()))
            source.path = folder / plain_name(path.name)
            source.damage = unpack_file(path, source.path)
        if not source.damage and _is_database(source.path):
            source.damage = unfinished(source.path)
        source.reader = None if source.damage else _open_reader(source.path)
        if source.reader is None:
            self._add_scan(source)
            return
        self._stack.callback(source.reader.close)
        for connection in source.reader.connections:
            self._add_topic(_topic(connection))

    def _add_scan(self, source: _Source) -> None:
        """Scan a file for its topics, which also finds what is wrong with it."""
        try:
            for found in scan(source.path):
                self._add_topic(Topic(found.topic, found.msgtype, found.definition, found.encoding))
            if _is_database(source.path):
                # SQLite may read less than there is without a word.
                find_damage(source.path)
        except Damage as error:
            source.damage = source.damage or str(error)

    def _add_topic(self, topic: Topic) -> None:
        known = self.topics.get(topic.name)
        if known is None:
            self.topics[topic.name] = topic
        elif known.count is not None:
            # Split recordings, and publishers that offer different qualities of service.
            count = None if topic.count is None else known.count + topic.count
            self.topics[topic.name] = Topic(
                known.name, known.msgtype, known.definition, known.encoding, count, known.qos
            )

    def _read(self, source: _Source, topics: set[str]) -> Iterator[BagMessage]:
        """The messages of one file, as they are stored.

        Raises:
            Damage: after the last message before the damage.
        """
        if source.reader is None:
            yield from self._scan(source, topics, 0)
            return
        connections = [c for c in source.reader.connections if c.topic in topics]
        if not connections:
            return
        read = 0
        # Rows of a damaged or hostile database may share pages.
        rest = source.path.stat().st_size if _is_database(source.path) else None
        messages = source.reader.messages(connections)
        while True:
            try:
                connection, record_ns, data = next(messages)
            except StopIteration:
                break
            except Exception as error:  # rosbags raises what its parsers raise
                # It gives up a whole chunk; the scan finds the messages before the damage in it.
                yield from self._scan(source, topics, read)
                raise Damage(f"cannot be read: {printable(error, 200)}") from error
            read += 1
            if rest is not None and (rest := rest - len(data)) < 0:
                raise Damage("is damaged: its messages share pages")
            yield BagMessage(self.topics[connection.topic], record_ns, data)
        promised = sum(connection.msgcount for connection in connections)
        if read < promised:
            raise Damage(f"has {read} messages of {promised} in its index")

    def _scan(self, source: _Source, topics: set[str], skip: int) -> Iterator[BagMessage]:
        """The messages of a file whose index is no help, but for the first `skip`.

        Raises:
            Damage: after the last message before the damage.
        """
        read = 0
        try:
            for found in scan(source.path):
                if found.topic in topics:
                    read += 1
                    if read > skip:
                        yield BagMessage(self.topics[found.topic], found.record_ns, found.data)
        except OSError as error:
            raise Damage(f"cannot be read: {error.strerror or error}") from error
        except Damage as error:
            # Of a compressed file, what is wrong with itself.
            raise Damage(source.damage or str(error)) from error
        if source.damage:
            # Rows that are missing at the end of a database leave no trace in its pages.
            raise Damage(source.damage)

    def _store(self, topic: Topic) -> Typestore:
        """Classes for the messages of a topic: those of the recording, else the known ones."""
        known = typestore()
        if not topic.definition or len(topic.definition) > MAX_DEFINITION:
            if topic.msgtype not in known.types:
                raise SourceError(
                    f"recording {self.path} lacks the definition of {printable(topic.msgtype)}"
                )
            return known
        try:
            recorded = _parsed(topic.msgtype, topic.encoding, topic.definition)
            # These have never changed: one that lacks a field was damaged or edited.
            lasting = topic.msgtype.startswith("sensor_msgs/") and topic.msgtype in known.types
            if lasting and not _has_fields_of(topic.msgtype, known, recorded):
                return known
            return recorded
        except Exception as error:  # rosbags raises what its parsers raise
            if topic.msgtype in known.types:
                return known
            raise SourceError(
                f"recording {self.path} holds a definition of {printable(topic.msgtype)} that "
                f"cannot be read: {printable(error)}"
            ) from error


class _Unreadable:
    """Unpacks messages that were compressed one by one, and counts those that cannot be.

    Attributes:
        count: Messages that cannot be unpacked.
    """

    def __init__(self) -> None:
        self.count = 0
        self._first = ""

    def unpack(self, message: BagMessage) -> BagMessage | None:
        if message.data[:4] != ZSTD_MAGIC:
            return message
        try:
            return replace(message, data=unpack_bytes(message.data))
        except Damage as error:
            topic, seconds = printable(message.topic.name), message.record_ns / 1e9
            self._first = self._first or f"on {topic} at {seconds:.3f} s: {error}"
            self.count += 1
            return None

    def __str__(self) -> str:
        return f"{self.count} compressed messages that cannot be read; first: {self._first}"


def _limit_decompression() -> None:
    """Let rosbags unpack a chunk of an MCAP file to the size that it announces, and not further.

    Eight kilobytes can be unpacked to hundreds of megabytes.
    """

    def bounded(unpack: Callable[[bytes, int], bytes]) -> Callable[[bytes, int], bytes]:
        def checked(data: bytes, size: int) -> bytes:
            if size > LARGEST:
                raise Damage(f"has a chunk of {size} bytes, which is more than {LARGEST}")
            # One more byte shows that there are more.
            return unpack(data, size + 1)

        return checked

    storage_mcap.DECOMPRESSORS["zstd"] = bounded(first_bytes)
    storage_mcap.DECOMPRESSORS["lz4"] = bounded(
        lambda data, size: lz4.frame.LZ4FrameDecompressor().decompress(data, size)
    )


_limit_decompression()


def _open_reader(path: Path) -> Reader | None:
    """What reads a sound file; None for any other."""
    try:
        reader = Reader(path)
        reader.open()
    except Exception:  # rosbags raises what its parsers raise; the caller scans the file instead
        return None
    return reader


def scan(path: Path) -> Iterator[Recovered]:
    """Read the messages of an `.mcap` or `.db3` file without an index, in the order of the file.

    Raises:
        Damage: after the last message before the damage.
        OSError: the file cannot be read.
    """
    yield from scan_sqlite(path) if _is_database(path) else scan_mcap(path)


@lru_cache(maxsize=16)
def _parsed(msgtype: str, encoding: str, definition: str) -> Typestore:
    """Classes made from a definition; kept, because making them takes longer than an image."""
    if encoding == "ros2msg":
        types = get_types_from_msg(definition, msgtype)
    elif definition.startswith(_IDL_SEPARATOR):
        # One part per type, each under a line `IDL: name`.
        types = {}
        for part in definition.split(_IDL_SEPARATOR)[1:]:
            types.update(get_types_from_idl(part.partition("\n")[2]))
    else:
        types = get_types_from_idl(definition)
    store = get_typestore(Stores.EMPTY)
    store.register(types)
    return store


def _has_fields_of(msgtype: str, known: Typestore, other: Typestore) -> bool:
    """Whether a type of `other` has all fields of the known one, and their types too."""
    if msgtype not in other.fielddefs:
        return False
    fields = dict(other.fielddefs[msgtype][1])
    return all(
        fields.get(name) == definition
        and (definition[0] != Nodetype.NAME or _has_fields_of(str(definition[1]), known, other))
        for name, definition in known.fielddefs[msgtype][1]
    )


def _topic(connection: Connection) -> Topic:
    encodings = {
        MessageDefinitionFormat.MSG: "ros2msg",
        MessageDefinitionFormat.IDL: "ros2idl",
    }
    return Topic(
        connection.topic,
        connection.msgtype,
        connection.msgdef.data,
        encodings.get(connection.msgdef.format, ""),
        connection.msgcount,
        tuple(getattr(connection.ext, "offered_qos_profiles", ())),
    )


def _lacks(found: BagFiles) -> list[str]:
    """What a recording lacks, one clause for each reason."""
    lacks = []
    if found.missing:
        lacks.append(f"{METADATA} lists {some(found.missing)}, not found")
    if found.gaps:
        lacks.append(f"the numbers of the files lack {some(found.gaps)}")
    if found.foreign:
        lacks.append(f"{some(found.foreign)} must be decompressed first")
    return lacks


def _is_packed(path: Path) -> bool:
    """Whether a whole file is compressed, by its name or by its start."""
    with path.open("rb") as file:
        return plain_name(path.name) != path.name or file.read(4) == ZSTD_MAGIC


def _is_database(path: Path) -> bool:
    return path.suffix.lower() == ".db3"
