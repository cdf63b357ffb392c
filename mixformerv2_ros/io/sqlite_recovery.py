"""Messages out of an SQLite recording that was not closed, cut off or damaged.

SQLite itself reads what a killed recorder leaves, with its write-ahead log, and stops at damage.
A database that is cut off it does not read well: the inner pages of a table, which lead to its
rows, may lie behind the cut, so that thousands of messages before it are missed, or all; and a page
that is cut is filled with zeros without a word. Rows that it does not reach are read from the leaf
pages.
"""

from __future__ import annotations

import mmap
import sqlite3
import struct
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from mixformerv2_ros.io.damage import LARGEST, Damage, Recovered
from mixformerv2_ros.text import printable

SQLITE_MAGIC = b"SQLite format 3\0"
_JOURNAL_MAGIC = b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7"
_LOG_HEADER = 32

_Row = tuple[int, Any, Any, Any]
"""Id, topic's id, time and content of a message; in a damaged file of any type."""


def scan_sqlite(path: Path) -> Iterator[Recovered]:
    """Read the messages of a `.db3` file in the order in which they were recorded.

    Nothing is written beside the file; its folder may be read-only.

    Raises:
        Damage: after the last message before the damage.
        OSError: the file cannot be read.
    """
    _examine(path)  # what is no database is told better than by SQLite
    with closing(_connect(path)) as database:
        topics, definitions = _topics(database), _definitions(database)
        for number, topic_id, record_ns, data in _rows(database, path):
            if not isinstance(data, bytes) or not isinstance(record_ns, int):
                raise Damage(f"has a damaged message {number}")
            if topic_id not in topics:
                raise Damage(f"has a message on topic {topic_id}, which it does not declare")
            topic, msgtype = topics[topic_id]
            yield Recovered(topic, msgtype, *definitions.get(msgtype, ("", "")), record_ns, data)


def unfinished(path: Path) -> str:
    """Why a database lacks pages, was left open or holds no messages; empty if it is sound.

    Raises:
        OSError: the file cannot be read.
    """
    try:
        damage = _examine(path)[0]
        if not damage:
            _connect(path).close()
        return damage
    except Damage as error:
        return str(error)


def find_damage(path: Path) -> None:
    """Check the pages of a whole database, which takes as long as reading it.

    Raises:
        Damage: it is damaged.
    """
    with closing(_connect(path)) as database:
        try:
            (result,) = database.execute("PRAGMA quick_check(1)").fetchone()
        except sqlite3.Error as error:
            raise Damage(f"is damaged: {error}") from error
    if result != "ok":
        raise Damage(f"is damaged: {printable(result, 200)}")


def _examine(path: Path) -> tuple[str, bool]:
    """What `unfinished` says, and whether the file ends before its last page.

    Raises:
        Damage: it is no database.
    """
    with path.open("rb") as file:
        header = file.read(100)
    if not header:
        raise Damage("is empty")
    if header[:16] != SQLITE_MAGIC or len(header) < 100:
        raise Damage("does not start like an SQLite database")
    count, rest = divmod(path.stat().st_size, _page_size(header))
    changes, promised = struct.unpack_from(">II", header, 24)
    is_current = (changes,) == struct.unpack_from(">I", header, 92)
    log = path.with_name(path.name + "-wal")
    if log.is_file() and log.stat().st_size > _LOG_HEADER:
        return "was not closed by its recorder", False  # the log may hold what the file lacks
    if rest:
        return f"is cut off within page {count + 1}", True
    if promised != count and is_current:
        return f"was left unfinished: {count} pages instead of {promised}", count < promised
    return "was not closed by its recorder" if _must_roll_back(path) else "", False


def _must_roll_back(path: Path) -> bool:
    """Whether a journal holds a transaction that was not finished."""
    journal = path.with_name(path.name + "-journal")
    if not journal.is_file():
        return False
    with journal.open("rb") as file:
        return file.read(8) == _JOURNAL_MAGIC


# --- What SQLite reads ---------------------------------------------------------------------------


def _connect(path: Path) -> sqlite3.Connection:
    """Open a database with its write-ahead log, without writing or locking anything.

    Raises:
        Damage: SQLite finds no tables of a recording.
    """
    # What a journal would take back cannot be, read-only: the pages are read as they are. A log
    # needs an index in a file of its own, but not for a connection that has no others beside it.
    mode = "immutable=1" if _must_roll_back(path) else "vfs=unix-none"
    database = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&{mode}", uri=True)
    database.text_factory = lambda text: str(text, "utf-8", "replace")
    try:
        database.execute("PRAGMA locking_mode=EXCLUSIVE")
        database.execute("PRAGMA trusted_schema=OFF")
        database.execute("PRAGMA writable_schema=ON")  # else no file that is cut off is opened
        query = "SELECT name FROM sqlite_master WHERE type = 'table'"
        names = {name for (name,) in database.execute(query)}
        # Columns of a few bytes that give as much data as they like, and tables that programs fill.
        columns = "SELECT count(*) FROM pragma_table_xinfo(?) WHERE hidden"
        computed = any(
            database.execute(columns, [name]).fetchone()[0] for name in ("messages", "topics")
        )
    except sqlite3.Error as error:
        database.close()
        raise Damage(f"cannot be read: {error}") from error
    if not {"messages", "topics"} <= names:
        database.close()
        raise Damage("holds no tables of a recording")
    if computed:
        database.close()
        raise Damage("computes its messages instead of holding them")
    return database


def _topics(database: sqlite3.Connection) -> dict[int, tuple[str, str]]:
    """Name and type of each topic by its id, as far as they can be read."""
    topics = {}
    with suppress(sqlite3.Error):
        for number, name, msgtype in database.execute("SELECT id, name, type FROM topics"):
            topics[number] = str(name), str(msgtype)
    return topics


def _definitions(database: sqlite3.Connection) -> dict[str, tuple[str, str]]:
    """Definition and its encoding by message type; recorders before Iron stored none."""
    query = "SELECT topic_type, encoded_message_definition, encoding FROM message_definitions"
    definitions = {}
    with suppress(sqlite3.Error):
        for msgtype, text, encoding in database.execute(query):
            if encoding in ("ros2msg", "ros2idl"):
                definitions[str(msgtype)] = str(text), str(encoding)
    return definitions


def _rows(database: sqlite3.Connection, path: Path) -> Iterator[_Row]:
    """The rows that SQLite reads, then those that follow them in the pages of a damaged file.

    A recorder that is killed may have written pages of a transaction that it did not commit over
    others; SQLite then ends early without a word.
    """
    damage, is_cut = _examine(path)
    query = """
        SELECT id, topic_id, timestamp, CASE WHEN length(data) <= ? THEN data END
        FROM messages ORDER BY id
    """
    last = 0
    if not is_cut:
        try:
            for row in database.execute(query, [LARGEST]):
                yield row
                last = row[0]
        except sqlite3.Error as error:
            damage = damage or f"is damaged: {error}"
    if damage:
        yield from _rows_of_pages(path, last)
        raise Damage(damage)


# --- What lies in leaf pages; large rows go on in a chain of others -------------------------------

_LEAF = 0x0D
_INTEGER_BYTES = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}


def _rows_of_pages(path: Path, last: int) -> Iterator[_Row]:
    """The messages after number `last`, up to the first that is missing or damaged.

    Recorders only append, so that the numbers count up.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        pages = _Pages(mapped)
        places = pages.messages()
        last = last or min(places, default=1) - 1
        rest = len(mapped)
        while (last := last + 1) in places:
            row = pages.row(*places[last])
            if row is None:
                break
            rest -= len(row[3])
            if rest < 0:
                raise Damage("is damaged: its messages share pages")
            yield row


class _Pages:
    """Pages of a database file, counted from 1."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._size = _page_size(data[:100])
        self._usable = self._size - data[20]

    def messages(self) -> dict[int, tuple[int, int]]:
        """Page and position in it of each row that looks like a message, by its number."""
        places = {}
        for number in range(1, len(self._data) // self._size + 1):
            page = self._page(number)
            start = 100 if number == 1 else 0
            if page[start] != _LEAF:
                continue
            (count,) = struct.unpack_from(">H", page, start + 3)
            for cell in range(start + 8, min(start + 8 + 2 * count, self._size - 1), 2):
                (place,) = struct.unpack_from(">H", page, cell)
                row = self.row(number, place, whole=False)
                if row is not None:
                    places[row[0]] = number, place
        return places

    def row(self, number: int, place: int, whole: bool = True) -> _Row | None:
        """A row of the form of a message; None for any other, and for one that is not all there.

        Unless `whole`, only what lies in the leaf page itself is looked at, and the content is cut.
        """
        page = self._page(number)
        try:
            size, position = _varint(page, place)
            row_id, position = _varint(page, position)
            local = self._local(size)
            payload = page[position : position + local]
            if local < size and whole:
                payload += self._rest(page, position + local, size - local)
            header, at = _varint(payload, 0)
            kinds = []
            while at < header:
                kind, at = _varint(payload, at)
                kinds.append(kind)
            id_kind, topic_kind, time_kind, data_kind = kinds
            numbers: list[int] = []
            for kind in (topic_kind, time_kind):
                width = _INTEGER_BYTES.get(kind, 0)
                numbers.append(kind - 8 if not width else _integer(payload[at : at + width]))
                if not width and kind not in (8, 9):
                    return None
                at += width
            # The number is the row's own; even kinds from 12 on are bytes.
            if id_kind or data_kind < 12 or data_kind % 2:
                return None
            if whole and at + (data_kind - 12) // 2 != len(payload):
                return None
        except (struct.error, IndexError, ValueError):
            return None
        return row_id, numbers[0], numbers[1], payload[at:]

    def _page(self, number: int) -> bytes:
        """A page; shorter, or empty, where the file ends."""
        return self._data[(number - 1) * self._size : number * self._size] if number else b""

    def _local(self, size: int) -> int:
        """Bytes of a row of `size` bytes that lie in its leaf page."""
        most = self._usable - 35
        if size <= most:
            return size
        least = (self._usable - 12) * 32 // 255 - 23
        local = least + (size - least) % (self._usable - 4)
        return local if local <= most else least

    def _rest(self, page: bytes, position: int, missing: int) -> bytes:
        """The rest of a row, as far as it is there, in pages that lead from one to the next."""
        parts = []
        # A row is not longer than its file, though its pages may lead in a circle.
        while 0 < missing <= min(LARGEST, len(self._data)) and page:
            page = self._page(struct.unpack_from(">I", page, position)[0])
            parts.append(page[4 : min(4 + missing, self._usable)])
            missing, position = missing - len(parts[-1]), 0
        return b"".join(parts)


def _page_size(header: bytes) -> int:
    (size,) = struct.unpack_from(">H", header, 16)
    size = 65536 if size == 1 else size
    if size < 512 or size & (size - 1):
        raise Damage(f"has a damaged header: page size {size}")
    return int(size)


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """A number of SQLite's variable length, and the position after it."""
    value = 0
    for i in range(8):
        byte = data[position + i]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, position + i + 1
    return value << 8 | data[position + 8], position + 9


def _integer(data: bytes) -> int:
    return int.from_bytes(data, "big", signed=True)
