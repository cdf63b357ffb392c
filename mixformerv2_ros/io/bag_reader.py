"""Messages out of rosbag2 recordings: a folder, an `.mcap` or a `.db3` file.

Sound recordings are read with the `rosbags` library, in the order of their record times. What it
cannot read is scanned without an index, so that the messages before the damage are never lost.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rosbags.interfaces import Connection, MessageDefinitionFormat
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore

from mixformerv2_ros.errors import SourceError
from mixformerv2_ros.interfaces import typestore
from mixformerv2_ros.io.damage import Damage, Recovered
from mixformerv2_ros.io.mcap_recovery import scan_mcap
from mixformerv2_ros.io.sqlite_recovery import scan_sqlite, unfinished
from mixformerv2_ros.text import natural_order, printable

if TYPE_CHECKING:
    from rosbags.interfaces import Qos
    from rosbags.typesys.store import Typestore

STORAGE_SUFFIXES = (".mcap", ".db3")
_IDL_SEPARATOR = "=" * 80 + "\n"


class DamagedBagError(SourceError):
    """A recording that is cut off or damaged; everything before the damage has been read."""


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


class BagReader:
    """An open recording; use it as a context manager.

    Attributes:
        path: The folder or file.
        topics: The topics by name.
    """

    def __init__(self, path: Path) -> None:
        """Open the recording.

        Raises:
            SourceError: there is no recording at `path`.
        """
        self.path = path
        self.topics: dict[str, Topic] = {}
        self._stack = ExitStack()
        self._sources: list[Reader | Path] = []
        self._reasons: dict[Path, str] = {}
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
        readers = [source for source in self._sources if isinstance(source, Reader)]
        if len(readers) < len(self._sources):
            return None
        times = [(reader.start_time, reader.end_time) for reader in readers if reader.message_count]
        return max(t[1] for t in times) - min(t[0] for t in times) if times else 0

    def messages(self, topics: Collection[str]) -> Iterator[BagMessage]:
        """Read the messages of some topics in the order of their record times.

        Raises:
            DamagedBagError: after the last message before the damage.
        """
        for source in self._sources:
            yield from self._read(source, set(topics))

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
        if self.path.is_file():
            if self.path.suffix not in STORAGE_SUFFIXES:
                raise SourceError(
                    f"recording must be a rosbag2 folder, .mcap or .db3 file, got {self.path}"
                )
            self._open_file(self.path)
            self._check_readable()
            return
        files = _storage_files(self.path)
        reason = "metadata.yaml is missing"
        if (self.path / "metadata.yaml").is_file() and not any(map(_unfinished, files)):
            try:
                self._add_reader(Reader(self.path))
            except Exception as error:  # whatever rosbags trips over, the files are tried singly
                reason = printable(error, 200)
            else:
                return
        if not files:
            raise SourceError(
                f"folder {self.path} must hold a rosbag2 recording (.mcap or .db3): {reason}"
            )
        for file in files:
            self._open_file(file)
        self._check_readable()

    def _check_readable(self) -> None:
        for path, reason in self._reasons.items():
            if not self.topics:
                raise self._damaged(0, f"{path.name} {reason}")

    def _open_file(self, path: Path) -> None:
        reason = _unfinished(path)
        if not reason:
            try:
                self._add_reader(Reader(path))
            except Exception as error:  # rosbags raises what its parsers raise
                reason = f"cannot be read: {printable(error, 200)}"
            else:
                return
        self._add_scan(path, reason)

    def _add_reader(self, reader: Reader) -> None:
        reader.open()
        self._stack.callback(reader.close)
        self._sources.append(reader)
        for connection in reader.connections:
            self._add_topic(_topic(connection))

    def _add_scan(self, path: Path, reason: str) -> None:
        self._sources.append(path)
        self._reasons[path] = reason
        try:
            for found in scan(path):
                self._add_topic(Topic(found.topic, found.msgtype, found.definition, found.encoding))
        except Damage as error:
            self._reasons[path] = str(error)

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

    def _read(self, source: Reader | Path, topics: set[str]) -> Iterator[BagMessage]:
        if isinstance(source, Path):
            reason = f"{source.name} {self._reasons[source]}"
            yield from self._read_scan([source], topics, 0, reason)
            return
        connections = [c for c in source.connections if c.topic in topics]
        if not connections:
            return
        read = 0
        messages = source.messages(connections)
        while True:
            try:
                connection, record_ns, data = next(messages)
            except StopIteration:
                break
            except Exception as error:  # rosbags raises what its parsers raise
                reason = printable(error, 200)
                if source.compression_mode:
                    raise self._damaged(read, reason) from error
                # It gives up a whole chunk; the scan finds the messages before the damage in it.
                files = _storage_files(Path(str(source.path)))
                yield from self._read_scan(files, topics, read, reason)
                return
            read += 1
            yield BagMessage(self.topics[connection.topic], record_ns, data)
        promised = sum(connection.msgcount for connection in connections)
        if read < promised:
            raise self._damaged(read, f"its index promises {promised}")

    def _read_scan(
        self, files: list[Path], topics: set[str], skip: int, reason: str
    ) -> Iterator[BagMessage]:
        """Scan files whose index is no help; the first `skip` messages were read already."""
        read = 0
        for file in files:
            try:
                for found in scan(file):
                    if found.topic in topics:
                        read += 1
                        if read > skip:
                            topic = self.topics[found.topic]
                            yield BagMessage(topic, found.record_ns, found.data)
            except Damage as error:
                raise self._damaged(read, f"{file.name} {error}") from error
        if any(file.suffix == ".db3" for file in files):
            # Rows that are missing at the end of a database leave no trace in its pages.
            raise self._damaged(read, reason)

    def _damaged(self, read: int, reason: str) -> DamagedBagError:
        return DamagedBagError(f"recording {self.path} is damaged after {read} messages: {reason}")

    def _store(self, topic: Topic) -> Typestore:
        """Classes for the messages of a topic: those of the recording, else the known ones."""
        known = typestore()
        if not topic.definition:
            if topic.msgtype not in known.types:
                raise SourceError(
                    f"recording {self.path} lacks the definition of {printable(topic.msgtype)}"
                )
            return known
        try:
            return _parsed(topic.msgtype, topic.encoding, topic.definition)
        except Exception as error:  # rosbags raises what its parsers raise
            if topic.msgtype in known.types:
                return known
            raise SourceError(
                f"recording {self.path} holds a definition of {printable(topic.msgtype)} that "
                f"cannot be read: {printable(error)}"
            ) from error


def scan(path: Path) -> Iterator[Recovered]:
    """Read the messages of an `.mcap` or `.db3` file without an index, in the order of the file.

    Raises:
        Damage: after the last message before the damage.
        OSError: the file cannot be read.
    """
    yield from scan_mcap(path) if path.suffix == ".mcap" else scan_sqlite(path)


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


def _storage_files(path: Path) -> list[Path]:
    """The files of a recording in the order in which they were recorded."""
    if path.is_file():
        return [path]
    files = (file for file in path.iterdir() if file.suffix in STORAGE_SUFFIXES)
    return sorted(files, key=lambda file: natural_order(file.name))


def _unfinished(path: Path) -> str:
    return unfinished(path) if path.suffix == ".db3" else ""
