"""Files from strangers take no more memory and time than their readers allow."""

from __future__ import annotations

import resource
import sqlite3
import struct
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import lz4.frame
import pytest
import zstandard
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter
from recordings import IMAGE_TOPIC, START_NS, storage_file, write_bag

from mixformerv2_ros.errors import SourceError
from mixformerv2_ros.io.bag_reader import BagReader
from mixformerv2_ros.io.images import read_image
from mixformerv2_ros.io.zstd import unpack_file
from mixformerv2_ros.ros.replay import images, recorded_starts
from mixformerv2_ros.yaml_text import YamlError, parse_yaml

PAGE = 4096


def read_in_little_memory(path: Path, megabytes: int = 150) -> str:
    """Read a recording in a process of its own; what it says, within memory beyond its start."""
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from mixformerv2_ros.errors import MixFormerError\n"
        "from mixformerv2_ros.io.bag_reader import BagReader\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n"
        "    with BagReader(Path(sys.argv[1])) as reader:\n"
        "        for message in reader.messages(list(reader.topics)):\n"
        "            pass\n"
        "except MixFormerError as error:\n"
        "    print(error)\n"
        "grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024\n"
        "assert grown < int(sys.argv[2]), grown\n"
    )
    command = [sys.executable, "-c", code, str(path), str(megabytes)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def hostile_database(path: Path, circle: bool) -> Path:
    """A recording of 200 long rows; in a circle, every page that they go on in leads to one."""
    with closing(sqlite3.connect(path)) as database:
        database.executescript(
            f"PRAGMA page_size={PAGE};"
            "CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT NOT NULL, type TEXT NOT NULL,"
            " serialization_format TEXT NOT NULL, offered_qos_profiles TEXT NOT NULL);"
            "CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER NOT NULL,"
            " timestamp INTEGER NOT NULL, data BLOB NOT NULL);"
        )
        database.execute(
            "INSERT INTO topics VALUES (1, ?, 'sensor_msgs/msg/Image', 'cdr', '')", [IMAGE_TOPIC]
        )
        for i in range(200):
            row = [START_NS + i, b"\0" * 40_000]
            database.execute(
                "INSERT INTO messages(topic_id, timestamp, data) VALUES (1, ?, ?)", row
            )
        database.commit()
    data = bytearray(path.read_bytes())
    chains = [n for n in range(2, len(data) // PAGE + 1) if data[(n - 1) * PAGE] == 0]
    if circle:
        for number in chains:
            struct.pack_into(">I", data, (number - 1) * PAGE, chains[0])
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("keep", [1.0, 0.9])
def test_circle_of_pages(tmp_path: Path, keep: float) -> None:
    """Of a whole file, which SQLite reads, and of one that is cut off, which is read by pages."""
    path = hostile_database(tmp_path / "bag.db3", circle=True)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data))])
    assert path.stat().st_size < 10_000_000
    read_in_little_memory(path)


def test_long_row_in_a_circle_of_pages(tmp_path: Path) -> None:
    """A row that announces 500 MB in a file of a few pages."""
    size = 500_000_000
    kinds = [0, 1, 6, *varint(2 * size + 12)]  # of id, topic, time and content
    payload = bytes([len(kinds) + 1, *kinds, 1]) + struct.pack(">Q", START_NS)
    whole = len(payload) + size
    least = (PAGE - 12) * 32 // 255 - 23
    local = least + (whole - least) % (PAGE - 4)
    local = local if local <= PAGE - 35 else least
    path = hostile_database(tmp_path / "bag.db3", circle=True)
    data = bytearray(path.read_bytes())
    pages = range(3, len(data) // PAGE)
    leaf = PAGE * next(n for n in pages if data[n * PAGE] == 0x0D)
    first = 1 + next(n for n in pages if data[n * PAGE] == 0)
    cell = bytes([*varint(whole), 1]) + payload.ljust(local, b"\0") + struct.pack(">I", first)
    place = PAGE - len(cell)
    data[leaf + 1 : leaf + PAGE] = bytes(PAGE - 1)
    struct.pack_into(">H", data, leaf + 3, 1)
    struct.pack_into(">H", data, leaf + 8, place)
    data[leaf + place : leaf + PAGE] = cell
    path.write_bytes(data[: -PAGE // 2])
    read_in_little_memory(path)


def varint(value: int) -> list[int]:
    digits = [value & 0x7F]
    while value := value >> 7:
        digits.insert(0, 0x80 | value & 0x7F)
    return digits


@pytest.mark.parametrize(
    "messages",
    [
        "CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER, timestamp INTEGER,"
        " data BLOB GENERATED ALWAYS AS (zeroblob(900000000)) VIRTUAL)",
        "CREATE VIEW messages AS WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n)"
        " SELECT id, 1 AS topic_id, id AS timestamp, x'00010000' AS data FROM n",
    ],
)
def test_database_that_computes_its_messages(tmp_path: Path, messages: str) -> None:
    path = tmp_path / "bag.db3"
    with closing(sqlite3.connect(path)) as database:
        database.execute(
            "CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT, type TEXT,"
            " serialization_format TEXT, offered_qos_profiles TEXT)"
        )
        database.execute("INSERT INTO topics VALUES (1, '/a', 'std_msgs/msg/Empty', 'cdr', '')")
        database.execute(messages)
        if "VIEW" not in messages:
            database.execute("INSERT INTO messages(topic_id, timestamp) VALUES (1, 1)")
        database.commit()
    reason = "holds no tables" if "VIEW" in messages else "computes its messages"
    assert reason in read_in_little_memory(path)


@pytest.mark.parametrize("compression", [CompressionType.ZSTD, CompressionType.LZ4])
def test_chunk_that_unpacks_to_more_than_it_announces(
    tmp_path: Path, compression: CompressionType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file with a sound index, whose chunk of 9 kB would take 268 MB."""
    bombs = {
        "zstandard.compress": zstandard.compress(bytes(2**28)),
        "lz4.frame.compress": lz4.frame.compress(bytes(2**28)),
    }
    for name, bomb in bombs.items():
        monkeypatch.setattr(name, lambda data, bomb=bomb: bomb)
    path = tmp_path / "bag.mcap"
    with path.open("wb") as stream:
        writer = McapWriter(stream, compression=compression)
        writer.start("ros2")
        schema = writer.register_schema("std_msgs/msg/String", "ros2msg", b"string data")
        channel = writer.register_channel("/a", "cdr", schema)
        writer.add_message(channel, START_NS, bytes(9_000), START_NS)
        writer.finish()
    assert path.stat().st_size < 2_000_000
    assert "damaged" in read_in_little_memory(path, 60)


def test_file_that_unpacks_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = tmp_path / "bag.mcap.zstd"
    packed.write_bytes(zstandard.compress(bytes(2**21)))
    monkeypatch.setattr("mixformerv2_ros.io.zstd._SMALLEST_LIMIT", 2**20)
    assert (
        unpack_file(packed, tmp_path / "out") == "cannot be decompressed: more than 1048576 bytes"
    )
    assert (tmp_path / "out").stat().st_size <= 2**20


def test_large_journal_is_not_read_into_memory(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", 4, storage="sqlite3")
    journal = Path(f"{storage_file(bag)}-journal")
    with journal.open("wb") as stream:
        stream.write(b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7")
        stream.truncate(2**33)
    text = read_in_little_memory(bag)
    assert "was not closed by its recorder" in text


@pytest.mark.parametrize(
    "text",
    ["[" * 20_000, "{a: " * 20_000, "- " * 20_000, "a" * (2**20 + 1), "a: &a [*a", "x: 1:99"],
)
def test_yaml_of_strangers(text: str) -> None:
    try:
        parse_yaml(text)
    except YamlError as error:
        assert "\n" not in str(error)  # noqa: PT017
        assert len(str(error)) < 200  # noqa: PT017


def test_definition_without_end_is_not_parsed(tmp_path: Path) -> None:
    with (tmp_path / "bag.mcap").open("wb") as stream:
        writer = McapWriter(stream)
        writer.start("ros2")
        schema = writer.register_schema("a/msg/B", "ros2msg", b"string a\n" * 100_000)
        channel = writer.register_channel("/a", "cdr", schema)
        writer.add_message(channel, START_NS, b"\0\1\0\0" + bytes(100), START_NS)
        writer.finish()
    with BagReader(tmp_path / "bag.mcap") as reader:
        (message,) = reader.messages(["/a"])
        with pytest.raises(SourceError, match="lacks the definition of a/msg/B"):
            reader.deserialize(message)


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_definition_without_a_field_of_an_image(tmp_path: Path, storage: str) -> None:
    file = storage_file(write_bag(tmp_path / "bag", 2, storage=storage))
    file.write_bytes(file.read_bytes().replace(b"Time stamp\n", b"Time swamp\n"))
    with BagReader(file) as reader:
        stamps = [image.stamp_ns for image in images(reader, reader.topics[IMAGE_TOPIC])]
    assert stamps[0] == START_NS
    assert len(stamps) == 2


def test_definition_without_a_field_of_a_box(tmp_path: Path) -> None:
    path = tmp_path / "bag.mcap"
    with path.open("wb") as stream:
        writer = McapWriter(stream)
        writer.start("ros2")
        name = "mixformerv2_ros/msg/InitBox"
        schema = writer.register_schema(name, "ros2msg", b"float64 x\nfloat64 y\n")
        channel = writer.register_channel("/init_box", "cdr", schema)
        writer.add_message(channel, START_NS, b"\0\1\0\0" + bytes(16), START_NS)
        writer.finish()
    with BagReader(path) as reader, pytest.raises(SourceError, match=f"defines {name} in a way"):
        recorded_starts(reader, [])


def test_image_file_without_end(tmp_path: Path) -> None:
    with (tmp_path / "a.jpg").open("wb") as stream:
        stream.truncate(2**40)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(SourceError, match="must be at most 536870912 bytes"):
        read_image(tmp_path / "a.jpg")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000
