"""Messages into rosbag2 recordings that `ros2 bag play` and Foxglove open."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeVar

from rosbags.interfaces import (
    Connection,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import StoragePlugin, Writer

from mixformerv2_ros.errors import SourceError
from mixformerv2_ros.interfaces import typestore
from mixformerv2_ros.io.bag_reader import BagMessage, Topic
from mixformerv2_ros.text import printable

STORAGES = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}
"""Storage formats by the names that `ros2 bag` gives them."""

# Metadata of version 8 keeps the quality of service as text: Humble to Rolling read it, while
# Humble and Iron refuse version 9.
_VERSION: Literal[8] = 8

PARTIAL_KEY = "mixformerv2_ros.partial"
"""Entry of a recording's custom data, with the reason, where the recording is not whole."""

_FOREVER = QosTime(9223372036, 854775807)
RELIABLE_QOS = Qos(
    QosHistory.KEEP_LAST,
    10,
    QosReliability.RELIABLE,
    QosDurability.VOLATILE,
    _FOREVER,
    _FOREVER,
    QosLiveliness.AUTOMATIC,
    _FOREVER,
    False,
)
"""What topics are played with unless they say otherwise: reliable, volatile, the last 10."""

T = TypeVar("T")


class BagWriter:
    """A new recording; use it as a context manager.

    It is closed properly also when an error or Ctrl-C ends the block: what was written up to then
    can be read. The same messages give the same bytes.
    """

    def __init__(self, path: Path, storage: str = "mcap") -> None:
        """Create the recording's folder.

        Args:
            path: Folder of the recording; it must not exist.
            storage: One of `STORAGES`.

        Raises:
            SourceError: the recording cannot be created.
        """
        self.path = path
        self._connections: dict[str, Connection] = {}
        self._store = typestore()
        self._writer = self._try(
            lambda: Writer(path, version=_VERSION, storage_plugin=STORAGES[storage])
        )
        self._try(self._writer.open)

    def __enter__(self) -> BagWriter:
        """Return the recording, which is open already."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Finish the recording."""
        self.close()

    def close(self) -> None:
        """Write the index and the metadata."""
        self._try(self._writer.close)

    def mark_partial(self, reason: str) -> None:
        """State in the metadata that the recording is not whole, before it is closed."""
        self._writer.set_custom_data(PARTIAL_KEY, printable(reason, 200))

    def write(self, topic: str, msgtype: str, message: Any, record_ns: int) -> None:
        """Write a message of one of the classes in `interfaces.typestore()`.

        Raises:
            SourceError: the recording cannot be written, such as on a full disk.
        """
        connection = self._connections.get(topic)
        if connection is None:
            connection = self._connections[topic] = self._try(
                lambda: self._writer.add_connection(
                    topic, msgtype, typestore=self._store, offered_qos_profiles=[RELIABLE_QOS]
                )
            )
        # A stamp that does not fit its message, a name that is not Unicode.
        data = self._try(lambda: self._store.serialize_cdr(message, msgtype))
        self._try(lambda: self._writer.write(connection, record_ns, data))

    def copy(self, message: BagMessage) -> None:
        """Write a message of another recording as it is.

        Raises:
            SourceError: the recording cannot be written.
        """
        topic = message.topic
        connection = self._connections.get(topic.name)
        if connection is None:
            connection = self._connections[topic.name] = self._try(lambda: self._add_copied(topic))
        self._try(lambda: self._writer.write(connection, message.record_ns, message.data))

    def _add_copied(self, topic: Topic) -> Connection:
        if topic.msgtype in self._store.types:
            return self._writer.add_connection(
                topic.name,
                topic.msgtype,
                typestore=self._store,
                offered_qos_profiles=topic.qos[:1] or [RELIABLE_QOS],
            )
        raise SourceError(f"messages of {topic.msgtype} cannot be copied")

    def _try(self, action: Callable[[], T]) -> T:
        try:
            return action()
        except SourceError:
            raise
        except Exception as error:  # OSError, and what the storages make of it
            reason = printable(error, 300)
            raise SourceError(f"recording {self.path} cannot be written: {reason}") from error
