"""Recordings: sound ones of every form, damaged ones up to the damage, and what we write."""

from __future__ import annotations

import shutil
import sqlite3
import struct
import tracemalloc
from pathlib import Path

import lz4.frame
import numpy as np
import pytest
import zstandard
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter
from recordings import IMAGE_TOPIC, PERIOD_NS, START_NS, picture, storage_file, write_bag
from rosbags.highlevel import AnyReader
from rosbags.interfaces import QosReliability
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from mixformerv2_ros.errors import ImageError, MixFormerError, SourceError
from mixformerv2_ros.interfaces import typestore
from mixformerv2_ros.io import bag_reader
from mixformerv2_ros.io.bag_reader import BagMessage, BagReader, DamagedBagError, Topic, scan
from mixformerv2_ros.io.bag_writer import BagWriter
from mixformerv2_ros.io.damage import Damage, Recovered
from mixformerv2_ros.io.paths import check_output, remove_output
from mixformerv2_ros.ros.messages import image_message
from mixformerv2_ros.ros.replay import choose_image_topic, images
from mixformerv2_ros.text import natural_order

STORAGES = ["mcap", "sqlite3"]


def read(path: Path, check: bool = True) -> tuple[int, str]:
    """Number of images that can be read and decoded, and the error after them."""
    count = 0
    try:
        with BagReader(path) as reader:
            for image in images(reader, choose_image_topic(reader, None)):
                assert image.stamp_ns == START_NS + count * PERIOD_NS
                assert image.arrival_ns == image.stamp_ns + 1000
                rgb = image.decode().pixels.rgb()
                if check:
                    np.testing.assert_array_equal(rgb, picture(count))
                count += 1
    except MixFormerError as error:
        line = str(error)
    else:
        line = ""
    assert "\n" not in line
    return count, line


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("compressed", ["", "png"])
def test_round_trip(tmp_path: Path, storage: str, compressed: str) -> None:
    """Pictures, stamps and record times come back, from the folder and from its file."""
    bag = write_bag(tmp_path / "bag", 12, storage=storage, compressed=compressed)
    assert read(bag) == (12, "")
    assert read(storage_file(bag)) == (12, "")
    with BagReader(bag) as reader:
        topic = reader.topics[IMAGE_TOPIC]
        assert topic.count == 12
        assert reader.duration_ns == 11 * PERIOD_NS + 1


@pytest.mark.parametrize("storage", STORAGES)
def test_same_messages_give_same_bytes(tmp_path: Path, storage: str) -> None:
    files = [write_bag(tmp_path / str(i) / "bag", 5, storage=storage) for i in range(2)]
    first, second = (storage_file(bag).read_bytes() for bag in files)
    assert first == second
    assert (files[0] / "metadata.yaml").read_bytes() == (files[1] / "metadata.yaml").read_bytes()


def test_mcap_opens_with_an_independent_reader(tmp_path: Path) -> None:
    reader_module = pytest.importorskip("mcap.reader")
    decoder = pytest.importorskip("mcap_ros2.decoder")
    bag = write_bag(tmp_path / "bag", 7)
    with storage_file(bag).open("rb") as file:
        reader = reader_module.make_reader(file, decoder_factories=[decoder.DecoderFactory()])
        assert reader.get_header().profile == "ros2"
        assert reader.get_summary().statistics.message_count == 7
        for i, (schema, channel, message, decoded) in enumerate(reader.iter_decoded_messages()):
            assert schema.name == "sensor_msgs/msg/Image"
            assert "uint32 height" in schema.data.decode()
            assert channel.topic == IMAGE_TOPIC
            assert "offered_qos_profiles" in channel.metadata
            assert message.log_time == START_NS + i * PERIOD_NS + 1000
            assert bytes(decoded.data) == picture(i).tobytes()


@pytest.mark.parametrize("storage", STORAGES)
def test_metadata_is_what_rosbag2_reads(tmp_path: Path, storage: str) -> None:
    """Version 8 with the quality of service as text is read from Humble to Rolling."""
    from ruamel.yaml import YAML

    bag = write_bag(tmp_path / "bag", 3, storage=storage)
    info = YAML(typ="safe").load((bag / "metadata.yaml").read_text())
    info = info["rosbag2_bagfile_information"]
    assert (info["version"], info["storage_identifier"]) == (8, storage)
    (topic,) = info["topics_with_message_count"]
    assert topic["message_count"] == 3
    qos = YAML(typ="safe").load(topic["topic_metadata"]["offered_qos_profiles"])
    assert qos[0]["reliability"] == 1
    assert qos[0]["depth"] == 10
    assert topic["topic_metadata"]["type_description_hash"].startswith("RIHS01_")


def test_rosbags_reads_what_we_write(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", 3, storage="sqlite3")
    with AnyReader([bag]) as reader:
        (connection,) = reader.connections
        assert connection.ext.offered_qos_profiles[0].reliability is QosReliability.RELIABLE
        for i, (connection, _, data) in enumerate(reader.messages()):
            message = reader.deserialize(data, connection.msgtype)
            assert message.header.frame_id == "camera"
            assert message.data.tobytes() == picture(i).tobytes()


# --- recordings of other recorders ---------------------------------------------------------------


def write_foreign(path: Path, count: int, plugin: StoragePlugin, mode: CompressionMode) -> None:
    """A recording as other tools write it: compressed in one of the ways there are."""
    store = get_typestore(Stores.ROS2_HUMBLE)
    writer = Writer(path, version=9, storage_plugin=plugin)
    writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        msgtype = "sensor_msgs/msg/Image"
        connection = writer.add_connection(IMAGE_TOPIC, msgtype, typestore=store)
        for i in range(count):
            stamp = START_NS + i * PERIOD_NS
            message = image_message(store.types, picture(i), "rgb8", stamp, "camera")
            writer.write(connection, stamp + 1000, store.serialize_cdr(message, msgtype))


@pytest.mark.parametrize(
    ("plugin", "mode"),
    [
        (StoragePlugin.MCAP, CompressionMode.STORAGE),
        (StoragePlugin.MCAP, CompressionMode.MESSAGE),
        (StoragePlugin.MCAP, CompressionMode.FILE),
        (StoragePlugin.SQLITE3, CompressionMode.MESSAGE),
        (StoragePlugin.SQLITE3, CompressionMode.FILE),
    ],
)
def test_compressed_recordings(
    tmp_path: Path, plugin: StoragePlugin, mode: CompressionMode
) -> None:
    write_foreign(tmp_path / "bag", 20, plugin, mode)
    assert read(tmp_path / "bag") == (20, "")


def write_old_database(path: Path, count: int) -> Path:
    """A database as recorded before Iron: no message definitions, no schema table."""
    connection = sqlite3.connect(path)
    create_tables(connection, definitions=False)
    insert_images(connection, range(count))
    connection.commit()
    connection.close()
    return path


def create_tables(connection: sqlite3.Connection, definitions: bool) -> None:
    connection.executescript(
        "CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT NOT NULL, type TEXT NOT NULL,"
        " serialization_format TEXT NOT NULL, offered_qos_profiles TEXT NOT NULL);"
        "CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER NOT NULL,"
        " timestamp INTEGER NOT NULL, data BLOB NOT NULL);"
        "CREATE INDEX timestamp_idx ON messages (timestamp ASC);"
    )
    connection.execute(
        "INSERT INTO topics VALUES (1, ?, 'sensor_msgs/msg/Image', 'cdr', '')", [IMAGE_TOPIC]
    )
    connection.commit()


def insert_images(connection: sqlite3.Connection, numbers: range) -> None:
    store = typestore()
    for i in numbers:
        stamp = START_NS + i * PERIOD_NS
        message = image_message(store.types, picture(i), "rgb8", stamp, "camera")
        data = bytes(store.serialize_cdr(message, "sensor_msgs/msg/Image"))
        connection.execute(
            "INSERT INTO messages (topic_id, timestamp, data) VALUES (1, ?, ?)",
            [stamp + 1000, data],
        )


def test_recording_without_definitions(tmp_path: Path) -> None:
    assert read(write_old_database(tmp_path / "old.db3", 9)) == (9, "")


def test_split_recording_without_metadata(tmp_path: Path) -> None:
    """Files are read in natural order: bag_10 comes after bag_9."""
    folder = tmp_path / "bag"
    folder.mkdir()
    store = typestore()
    for i in range(12):
        with BagWriter(tmp_path / f"part{i}") as writer:
            stamp = START_NS + i * PERIOD_NS
            message = image_message(store.types, picture(i), "rgb8", stamp, "camera")
            writer.write(IMAGE_TOPIC, "sensor_msgs/msg/Image", message, stamp + 1000)
        shutil.copy(storage_file(tmp_path / f"part{i}"), folder / f"bag_{i}.mcap")
    assert read(folder) == (12, "")
    with BagReader(folder) as reader:
        assert reader.topics[IMAGE_TOPIC].count == 12


MAGIC = b"\x89MCAP0\r\n"


# --- damage --------------------------------------------------------------------------------------


def cut(bag: Path, target: Path, keep: float, metadata: bool) -> Path:
    """A copy of a recording whose storage file ends early."""
    target.mkdir()
    file = storage_file(bag)
    data = file.read_bytes()
    (target / file.name).write_bytes(data[: int(keep * len(data))])
    if metadata:
        shutil.copy(bag / "metadata.yaml", target)
    return target


@pytest.mark.parametrize("metadata", [True, False])
@pytest.mark.parametrize(
    ("storage", "compressed"), [("mcap", ""), ("mcap", "png"), ("sqlite3", "")]
)
def test_cut_off_recording(tmp_path: Path, storage: str, compressed: str, metadata: bool) -> None:
    """Nearly all frames before the cut are there, and never a damaged one among them."""
    total = 60
    bag = write_bag(tmp_path / "bag", total, storage=storage, compressed=compressed)
    for part in (0.25, 0.5, 0.75, 0.97, 0.9999):
        count, error = read(cut(bag, tmp_path / f"cut{part}", part, metadata))
        # A database keeps the heads of some large rows together in one page, after the rows.
        slack = 2 if storage == "mcap" else 10
        assert part * total - slack <= count <= total
        assert f"is damaged after {count} messages" in error


def test_cut_at_every_byte_of_a_small_recording(tmp_path: Path) -> None:
    """Wherever an MCAP file ends, the answer is a count and one line, never a traceback."""
    bag = write_bag(tmp_path / "bag", 3, compressed="png")
    data = storage_file(bag).read_bytes()
    file = tmp_path / "cut.mcap"
    counts = []
    for size in range(0, len(data), 23):
        file.write_bytes(data[:size])
        count, error = read(file)
        assert error
        counts.append(count)
    assert counts == sorted(counts)
    assert counts[-1] == 3


@pytest.mark.parametrize("compression", ["zstd", "lz4", ""])
def test_cut_off_chunk_of_a_foreign_recorder(tmp_path: Path, compression: str) -> None:
    """Frames within the chunk that is cut are recovered as well."""
    if compression == "lz4":
        store = typestore()
        file = tmp_path / "whole.mcap"
        msgtype = "sensor_msgs/msg/Image"
        writer = McapWriter(str(file), compression=CompressionType.LZ4, chunk_size=2**20)
        writer.start(profile="ros2")
        text = store.generate_msgdef(msgtype, ros_version=2)[0]
        schema = writer.register_schema(msgtype, "ros2msg", text.encode())
        channel = writer.register_channel(IMAGE_TOPIC, "cdr", schema)
        for i in range(40):
            stamp = START_NS + i * PERIOD_NS
            message = image_message(store.types, noisy(i), "rgb8", stamp, "camera")
            writer.add_message(
                channel, stamp + 1000, bytes(store.serialize_cdr(message, msgtype)), stamp
            )
        writer.finish()
    else:
        mode = CompressionMode.STORAGE if compression else CompressionMode.NONE
        write_noisy(tmp_path / "bag", 40, mode)
        file = storage_file(tmp_path / "bag")
    assert read(file, check=False) == (40, "")
    data = file.read_bytes()
    short = tmp_path / "cut.mcap"
    short.write_bytes(data[: len(data) // 2])
    count, error = read(short, check=False)
    assert 16 <= count <= 20
    assert "cut off" in error


def noisy(index: int) -> np.ndarray:
    """A frame that does not compress."""
    shape = picture(0).shape
    return np.random.default_rng(index).integers(0, 256, shape, np.uint8)


def write_noisy(path: Path, count: int, mode: CompressionMode) -> None:
    store = typestore()
    writer = Writer(path, version=8, storage_plugin=StoragePlugin.MCAP)
    writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        msgtype = "sensor_msgs/msg/Image"
        connection = writer.add_connection(IMAGE_TOPIC, msgtype, typestore=store)
        for i in range(count):
            stamp = START_NS + i * PERIOD_NS
            message = image_message(store.types, noisy(i), "rgb8", stamp, "camera")
            writer.write(connection, stamp + 1000, store.serialize_cdr(message, msgtype))


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("fill", [b"\x00", b"\xff", b"\x05"])
def test_overwritten_middle(tmp_path: Path, storage: str, fill: bytes) -> None:
    """What lies before the damage is read; nothing after it; one line says so.

    Within the pixels of a raw image no damage shows: rosbags writes MCAP without checksums.
    """
    total = 60
    bag = write_bag(
        tmp_path / "bag", total, storage=storage, compressed="png" if storage == "mcap" else ""
    )
    file = storage_file(bag)
    data = bytearray(file.read_bytes())
    start, size = len(data) // 2 // 4096 * 4096, 3 * 4096
    data[start : start + size] = fill * size
    file.write_bytes(data)
    count, error = read(bag, check=False)
    assert 22 <= count <= 31
    assert error


@pytest.mark.parametrize("journal", ["WAL", "MEMORY"])
def test_recorder_killed_while_writing_a_database(tmp_path: Path, journal: str) -> None:
    """The files of a database that is still open are what a killed recorder leaves."""
    connection = sqlite3.connect(tmp_path / "live.db3")
    connection.execute(f"PRAGMA journal_mode={journal}")
    connection.execute("PRAGMA synchronous=OFF")
    create_tables(connection, definitions=False)
    for start in range(0, 100, 10):
        insert_images(connection, range(start, start + 10))
        connection.commit()
    connection.execute("PRAGMA cache_size=10")
    insert_images(connection, range(100, 120))  # not committed
    folder = tmp_path / "killed"
    folder.mkdir()
    for file in tmp_path.glob("live.db3*"):
        shutil.copy(file, folder)
    connection.close()
    before = {file.name: file.stat().st_size for file in folder.iterdir()}

    count, error = read(folder)

    assert 95 <= count <= 120
    assert "damaged after" in error
    assert {file.name: file.stat().st_size for file in folder.iterdir()} == before


def database_cut_off(path: Path, count: int, keep: float) -> Path:
    """A cut database whose table has inner pages on two levels, most of them behind the cut."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA page_size=512")
    create_tables(connection, definitions=False)
    rows = [(i, START_NS + i, i.to_bytes(4, "big") * 150) for i in range(1, count + 1)]
    connection.executemany("INSERT INTO messages VALUES (?, 1, ?, ?)", rows)
    connection.commit()
    connection.close()
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    return path


@pytest.mark.parametrize("keep", [0.04, 0.3, 0.6, 0.95, 0.9999])
def test_messages_before_a_cut_whose_index_lies_behind_it(tmp_path: Path, keep: float) -> None:
    """SQLite alone misses up to all of them, and fills a page that is cut with zeros."""
    count = 3000
    found: list[Recovered] = []
    with pytest.raises(Damage, match=r"cut off within page|was left unfinished"):
        found.extend(scan(database_cut_off(tmp_path / "cut.db3", count, keep)))
    assert keep * count - 4 <= len(found) <= keep * count + 1
    for number, message in enumerate(found, start=1):
        assert message.data == number.to_bytes(4, "big") * 150
        assert (message.topic, message.record_ns) == (IMAGE_TOPIC, START_NS + number)


@pytest.mark.parametrize("journal", ["WAL", "DELETE"])
def test_nothing_is_written_beside_a_database(tmp_path: Path, journal: str) -> None:
    """Neither the log's index, nor what a journal would take back."""
    connection = sqlite3.connect(tmp_path / "live.db3")
    connection.execute(f"PRAGMA journal_mode={journal}")
    connection.execute("PRAGMA synchronous=OFF")
    create_tables(connection, definitions=False)
    insert_images(connection, range(30))
    connection.commit()
    connection.execute("PRAGMA cache_size=10")
    insert_images(connection, range(30, 60))  # not committed
    folder = tmp_path / "killed"
    folder.mkdir()
    for file in tmp_path.glob("live.db3*"):
        if not file.name.endswith("-shm"):  # as files are copied that are needed
            shutil.copy(file, folder)
    connection.close()
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert len(before) == 2
    found: list[int] = []
    with pytest.raises(Damage):
        found.extend(message.record_ns for message in scan(folder / "live.db3"))
    count, error = read(folder)
    assert 30 <= count <= 60
    assert "damaged after" in error
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def mcap_record(opcode: int, body: bytes, length: int | None = None) -> bytes:
    return bytes([opcode]) + struct.pack("<Q", len(body) if length is None else length) + body


def mcap_chunk(size: int, compression: bytes, content: bytes) -> bytes:
    head = struct.pack("<QQQI", 0, 0, size, 0) + struct.pack("<I", len(compression)) + compression
    return mcap_record(6, head + struct.pack("<Q", len(content)) + content)


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (mcap_record(5, b"", 2**63), "exceeds limit"),
        (mcap_record(5, b"", 2**29 + 1), "exceeds limit"),
        (mcap_record(3, struct.pack("<HI", 1, 2**32 - 1)), "damaged at byte 8"),
        (mcap_record(6, struct.pack("<QQQI", 0, 0, 9, 0) + struct.pack("<IQ", 0, 2**62)), "byte 8"),
        (mcap_chunk(2**40, b"", b""), "chunk of 1099511627776 bytes, which is more than 536870912"),
        (mcap_chunk(100, b"zstd", zstandard.compress(bytes(2**28))), "damaged chunk"),
        (mcap_chunk(100, b"lz4", lz4.frame.compress(bytes(2**28))), "damaged chunk"),
        (mcap_chunk(2**29, b"zstd", zstandard.compress(bytes(100))), "100 bytes instead of"),
        (mcap_chunk(9, b"rar", b"x"), "unknown compression 'rar'"),
        (mcap_record(5, b"short"), "damaged at byte 8"),
    ],
)
def test_a_hostile_file_does_not_take_the_memory(
    tmp_path: Path, records: bytes, message: str
) -> None:
    """Lengths in a file are believed within limits: of a record, a field and a chunk."""
    file = tmp_path / "hostile.mcap"
    file.write_bytes(MAGIC + records + bytes(100))
    tracemalloc.start()
    try:
        with pytest.raises(Damage, match=message):
            list(scan(file))
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()


def test_last_file_of_a_split_recording_is_cut(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", 10)
    whole = storage_file(bag)
    folder = tmp_path / "split"
    folder.mkdir()
    shutil.copy(whole, folder / "bag_0.mcap")
    store = typestore()
    with BagWriter(tmp_path / "second") as writer:
        for i in range(10, 20):
            stamp = START_NS + i * PERIOD_NS
            message = image_message(store.types, picture(i), "rgb8", stamp, "camera")
            writer.write(IMAGE_TOPIC, "sensor_msgs/msg/Image", message, stamp + 1000)
    data = storage_file(tmp_path / "second").read_bytes()
    (folder / "bag_1.mcap").write_bytes(data[: len(data) // 2])
    count, error = read(folder)
    assert 13 <= count <= 15
    assert "bag_1.mcap is cut off" in error


def test_metadata_that_is_no_yaml(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", 4)
    (bag / "metadata.yaml").write_text("rosbag2_bagfile_information: [1, 2")
    assert read(bag) == (4, "")


def test_index_that_is_damaged(tmp_path: Path) -> None:
    """Every message is there, but the file is not what was recorded."""
    bag = write_bag(tmp_path / "bag", 4)
    file = storage_file(bag)
    data = bytearray(file.read_bytes())
    data[-300:-100] = b"\xff" * 200
    file.write_bytes(data)
    count, error = read(bag)
    assert count == 4
    assert error


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("bag.mcap", b"", "bag.mcap is empty"),
        ("bag.db3", b"", "bag.db3 is empty"),
        ("bag.mcap", b"hello world", "does not start like an MCAP file"),
        ("bag.db3", b"hello world" * 20, "does not start like an SQLite database"),
        ("bag.db3", b"SQLite format 3\0" + bytes(4096), "page size 0"),
        ("bag.bag", b"#ROSBAG V2.0", "must be a rosbag2 folder, .mcap or .db3 file"),
        ("video.avi", b"RIFF", "must be a rosbag2 folder"),
    ],
)
def test_not_a_recording(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=message):
        BagReader(tmp_path / name)


def test_a_file_that_cannot_be_read_is_an_error_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bag.mcap").write_bytes(b"anything")

    def refuse(_: Path) -> bool:  # permissions do not keep root from reading
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(bag_reader, "_is_database", refuse)
    with pytest.raises(SourceError, match=rf"recording {tmp_path} cannot be read: Permission den"):
        BagReader(tmp_path)


@pytest.mark.parametrize("suffix", [".mcap", ".db3"])
def test_a_folder_with_a_storage_name_is_none(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"bag{suffix}").mkdir()
    with pytest.raises(SourceError, match=f"folder {tmp_path} must hold a rosbag2 recording"):
        BagReader(tmp_path)


def test_missing_and_empty(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="does not exist"):
        BagReader(tmp_path / "nothing")
    with pytest.raises(SourceError, match="must hold a rosbag2 recording"):
        BagReader(tmp_path)
    with BagWriter(tmp_path / "bag"):
        pass
    assert read(tmp_path / "bag") == (
        0,
        f"recording {tmp_path / 'bag'} must have images (sensor_msgs/msg/Image or "
        "sensor_msgs/msg/CompressedImage), got topics none",
    )


def test_message_that_is_not_of_its_type(tmp_path: Path) -> None:
    store = typestore()
    with Writer(tmp_path / "bag", version=8) as writer:
        connection = writer.add_connection(IMAGE_TOPIC, "sensor_msgs/msg/Image", typestore=store)
        writer.write(connection, START_NS + 1000, b"\0\1\0\0garbage")
    with BagReader(tmp_path / "bag") as reader:
        (image,) = images(reader, choose_image_topic(reader, None))
    with pytest.raises(ImageError) as raised:  # one image that is skipped, not the end
        image.decode()
    error = str(raised.value)
    assert "damaged message on /camera/image_raw" in error


def test_random_damage_never_escapes(tmp_path: Path) -> None:
    """Bytes changed anywhere give images, or one of our errors."""
    rng = np.random.default_rng(0)
    for storage in STORAGES:
        bag = write_bag(tmp_path / storage, 6, storage=storage, compressed="png")
        file = storage_file(bag)
        data = file.read_bytes()
        for _ in range(25):
            broken = bytearray(data)
            for position in rng.integers(0, len(data), rng.integers(1, 20)):
                broken[position] = rng.integers(0, 256)
            file.write_bytes(broken)
            try:
                with BagReader(bag) as reader:
                    for image in images(reader, choose_image_topic(reader, None)):
                        image.decode().pixels.rgb()
            except MixFormerError as error:
                assert str(error)  # noqa: PT017
            try:
                list(scan(file))
            except Damage as damage:
                assert str(damage)  # noqa: PT017


@pytest.mark.parametrize("headed", [True, False])
def test_definitions_in_idl(tmp_path: Path, headed: bool) -> None:
    """Recorders may embed IDL instead of .msg text."""
    idl = "module wind { module msg { struct Gust { double speed; }; }; };"
    text = "=" * 80 + "\nIDL: wind/msg/Gust\n" + idl if headed else idl
    topic = Topic("/gust", "wind/msg/Gust", text, "ros2idl")
    data = b"\0\1\0\0" + np.array([2.5]).tobytes()
    with BagReader(write_bag(tmp_path / "bag", 1)) as reader:
        assert reader.deserialize(BagMessage(topic, 0, data)).speed == 2.5
        nonsense = Topic("/gust", "wind/msg/Gale", "module {", "ros2idl")
        with pytest.raises(SourceError, match="definition of wind/msg/Gale that cannot be read"):
            reader.deserialize(BagMessage(nonsense, 0, data))


# --- topics and outputs --------------------------------------------------------------------------


def test_choose_image_topic(tmp_path: Path) -> None:
    store = typestore()
    with BagWriter(tmp_path / "bag") as writer:
        for topic in ("/left", "/right"):
            message = image_message(store.types, picture(0), "rgb8", START_NS, "camera")
            writer.write(topic, "sensor_msgs/msg/Image", message, START_NS)
    with BagReader(tmp_path / "bag") as reader:
        assert choose_image_topic(reader, "/right").name == "/right"
        assert choose_image_topic(reader, "left").name == "/left"
        with pytest.raises(SourceError, match="no images on /middle; image topics: /left, /right"):
            choose_image_topic(reader, "/middle")
        with pytest.raises(SourceError, match="give --image-topic: /left, /right"):
            choose_image_topic(reader, None)


def test_copied_messages_are_the_same_bytes(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", 3)
    with BagReader(bag) as reader:
        with BagWriter(tmp_path / "copy", "sqlite3") as writer:
            for message in reader.messages([IMAGE_TOPIC]):
                writer.copy(message)
        originals = [(m.record_ns, m.data) for m in reader.messages([IMAGE_TOPIC])]
    with BagReader(tmp_path / "copy") as reader:
        assert [(m.record_ns, m.data) for m in reader.messages([IMAGE_TOPIC])] == originals


def test_writer_closes_after_an_error(tmp_path: Path) -> None:
    store = typestore()
    message = image_message(store.types, picture(0), "rgb8", START_NS, "camera")
    with pytest.raises(RuntimeError, match="stop"), BagWriter(tmp_path / "bag") as writer:  # noqa: PT012
        writer.write(IMAGE_TOPIC, "sensor_msgs/msg/Image", message, START_NS + 1000)
        raise RuntimeError("stop")
    assert read(tmp_path / "bag") == (1, "")


def test_writer_says_what_it_cannot_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SourceError, match="cannot be written"):
        BagWriter(tmp_path / "file")
    with pytest.raises(SourceError, match="cannot be written"):
        BagWriter(tmp_path / "file" / "bag")


def test_check_output(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", 1)
    check_output(tmp_path / "new", force=False)
    with pytest.raises(SourceError, match="exists, give --force"):
        check_output(bag, force=False)
    check_output(bag, force=True)
    with pytest.raises(SourceError, match="must not replace its source"):
        check_output(bag, force=True, source=bag)
    with pytest.raises(SourceError, match="must not replace its source"):
        check_output(bag, force=True, source=storage_file(bag))
    (bag / "thesis.txt").write_text("precious")
    with pytest.raises(SourceError, match="folder without a recording; remove it first"):
        check_output(bag, force=True)
    (bag / "thesis.txt").unlink()
    remove_output(bag)
    assert not bag.exists()


def test_natural_order() -> None:
    names = ["bag_10.mcap", "bag_9.mcap", "bag.mcap", "bag_1.mcap", "9.mcap"]
    ordered = sorted(names, key=natural_order)
    assert ordered == [
        "9.mcap",
        "bag.mcap",
        "bag_1.mcap",
        "bag_9.mcap",
        "bag_10.mcap",
    ]


def test_damaged_is_a_source_error() -> None:
    assert issubclass(DamagedBagError, SourceError)
    assert Topic("/a", "x/msg/Y").count is None
