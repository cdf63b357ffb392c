"""Recordings as people have them: parts that disagree, are missing, compressed or damaged."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
import zstandard
from recordings import IMAGE_TOPIC, PERIOD_NS, START_NS, picture, storage_file
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from mixformerv2_ros.cli.entry import main
from mixformerv2_ros.interfaces import typestore
from mixformerv2_ros.io.bag_files import bag_files
from mixformerv2_ros.io.bag_reader import BagReader, DamagedBagError
from mixformerv2_ros.io.bag_writer import RELIABLE_QOS, STORAGES, BagWriter
from mixformerv2_ros.ros.messages import image_message

SPLITS, PER_SPLIT = 3, 4
ALL = list(range(SPLITS * PER_SPLIT))


def write_images(path: Path, numbers: Sequence[int], storage: str = "mcap") -> Path:
    """Record the images of these numbers; returns the storage file."""
    types = typestore().types
    with BagWriter(path, storage) as writer:
        for i in numbers:
            stamp = START_NS + i * PERIOD_NS
            message = image_message(types, picture(i), "rgb8", stamp, "camera")
            writer.write(IMAGE_TOPIC, "sensor_msgs/msg/Image", message, stamp)
    return storage_file(path)


def write_split(folder: Path, storage: str = "mcap") -> Path:
    """A recording in `SPLITS` files with its metadata.yaml, as recorders with a limit write it."""
    folder.mkdir()
    for k in range(SPLITS):
        part = folder.with_name(f"part{k}")
        file = write_images(part, ALL[k * PER_SPLIT :][:PER_SPLIT], storage)
        shutil.copy(file, folder / f"rec_{k}{file.suffix}")
        if not k:
            shutil.copy(part / "metadata.yaml", folder)

    def list_splits(about: dict[str, Any]) -> None:
        about["relative_file_paths"] = [f"rec_{k}{file.suffix}" for k in range(SPLITS)]
        about["message_count"] = len(ALL)

    edit_metadata(folder, list_splits)
    return folder


def edit_metadata(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    file = folder / "metadata.yaml"
    content = yaml.safe_load(file.read_text())
    edit(content["rosbag2_bagfile_information"])
    file.write_text(yaml.safe_dump(content))


def pack(file: Path, keep: float = 1.0) -> Path:
    """Compress a storage file as `--compression-mode file` does, or the first part of it."""
    packed = file.with_name(file.name + ".zstd")
    data = zstandard.compress(file.read_bytes())
    packed.write_bytes(data[: int(keep * len(data))])
    file.unlink()
    return packed


def read(path: Path) -> tuple[list[int], str]:
    """Numbers of the images of a recording, and the error after them."""
    numbers, error = [], ""
    with BagReader(path) as reader:
        try:
            for message in reader.messages([IMAGE_TOPIC]):
                stamp = reader.deserialize(message).header.stamp
                numbers.append((stamp.sec * 10**9 + stamp.nanosec - START_NS) // PERIOD_NS)
        except DamagedBagError as damage:
            error = str(damage)
    assert "\n" not in error
    return numbers, error


# --- parts that disagree -------------------------------------------------------------------------


def other_qos(about: dict[str, Any]) -> None:
    about["version"] = 5
    about["topics_with_message_count"][0]["topic_metadata"]["offered_qos_profiles"] = ""


def other_hash(about: dict[str, Any]) -> None:
    topic = about["topics_with_message_count"][0]["topic_metadata"]
    topic["type_description_hash"] = "RIHS01_" + "0" * 64


def other_counts(about: dict[str, Any]) -> None:
    about["message_count"] = 999
    about["topics_with_message_count"][0]["message_count"] = 999


def another_topic(about: dict[str, Any]) -> None:
    about["topics_with_message_count"][0]["topic_metadata"]["name"] = "/other"


def no_topics(about: dict[str, Any]) -> None:
    about["topics_with_message_count"] = []


def another_type(about: dict[str, Any]) -> None:
    about["topics_with_message_count"][0]["topic_metadata"]["type"] = "std_msgs/msg/String"


def another_format(about: dict[str, Any]) -> None:
    about["topics_with_message_count"][0]["topic_metadata"]["serialization_format"] = "proto"


def newer_version(about: dict[str, Any]) -> None:
    about["version"] = 77


def another_compression(about: dict[str, Any]) -> None:
    about["compression_mode"], about["compression_format"] = "MESSAGE", "lz4"


def file_compression(about: dict[str, Any]) -> None:
    about["compression_mode"], about["compression_format"] = "FILE", "zstd"


def old_path(about: dict[str, Any]) -> None:
    name = about["relative_file_paths"][0]
    about["relative_file_paths"] = [f"../somewhere/else/{name}"]


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize(
    "edit",
    [
        other_qos,
        other_hash,
        other_counts,
        another_topic,
        no_topics,
        another_type,
        another_format,
        newer_version,
        another_compression,
        file_compression,
        old_path,
    ],
)
def test_storage_is_the_truth(
    tmp_path: Path, storage: str, edit: Callable[[dict[str, Any]], None]
) -> None:
    write_images(tmp_path / "bag", ALL, storage)
    edit_metadata(tmp_path / "bag", edit)
    assert read(tmp_path / "bag") == (ALL, "")


@pytest.mark.parametrize(
    "content",
    ["", "[1, 2", "[]", "rosbag2_bagfile_information: 3", "a: " + "[" * 5000, "x: " + "9" * 5000],
)
def test_metadata_that_cannot_be_read(tmp_path: Path, content: str) -> None:
    write_images(tmp_path / "bag", ALL)
    (tmp_path / "bag" / "metadata.yaml").write_text(content)
    assert read(tmp_path / "bag") == (ALL, "")


def test_metadata_gives_the_order(tmp_path: Path) -> None:
    bag = write_split(tmp_path / "bag")
    (bag / "rec_0.mcap").rename(bag / "z.mcap")
    edit_metadata(bag, lambda about: about["relative_file_paths"].__setitem__(0, "z.mcap"))
    assert read(bag) == (ALL, "")


def test_renamed_files_are_no_missing_ones(tmp_path: Path) -> None:
    bag = write_split(tmp_path / "bag")
    for k in range(SPLITS):
        (bag / f"rec_{k}.mcap").rename(bag / f"flight_{k}.mcap")
    assert read(bag) == (ALL, "")
    with BagReader(bag) as reader:
        assert "does not list flight_0.mcap" in reader.note


def test_a_file_that_metadata_does_not_list(tmp_path: Path) -> None:
    """A recorder that was killed left it: it is read after those that are listed."""
    bag = write_split(tmp_path / "bag")
    edit_metadata(bag, lambda about: about["relative_file_paths"].pop())
    assert read(bag) == (ALL, "")
    with BagReader(bag) as reader:
        assert reader.note == "metadata.yaml does not list rec_2.mcap; read as well"


def test_notes_of_other_systems_are_not_storage(tmp_path: Path) -> None:
    write_images(tmp_path / "bag", ALL)
    (tmp_path / "bag" / "._bag.mcap").write_bytes(b"Mac OS X")
    (tmp_path / "bag" / ".DS_Store").write_bytes(b"x")
    assert read(tmp_path / "bag") == (ALL, "")


@pytest.mark.parametrize("storage", STORAGES)
def test_names_that_are_special_in_addresses(tmp_path: Path, storage: str) -> None:
    """`?`, `#` and `%41` mean something in the addresses by which databases are opened."""
    for name in ("what? now", "bag #2", "100%41", "Größe ☂"):
        write_images(tmp_path / "bag", ALL[:3], storage)
        folder = (tmp_path / "bag").rename(tmp_path / name)
        file = storage_file(folder)
        file.rename(folder / f"{name}{file.suffix.upper()}")
        (folder / "metadata.yaml").unlink()
        assert read(folder) == (ALL[:3], "")


# --- parts that are missing, compressed or damaged -----------------------------------------------


@pytest.mark.parametrize("storage", STORAGES)
def test_missing_split_is_named(tmp_path: Path, storage: str) -> None:
    bag = write_split(tmp_path / "bag", storage)
    name = bag_files(bag).files[1].name
    (bag / name).unlink()
    numbers, error = read(bag)
    assert numbers == ALL[:4] + ALL[8:]
    assert error == f"recording {bag} is incomplete: metadata.yaml lists {name}, not found"


def test_all_splits_are_missing(tmp_path: Path) -> None:
    bag = write_split(tmp_path / "bag")
    for file in bag.glob("*.mcap"):
        file.unlink()
    with pytest.raises(Exception, match=r"lists rec_0.mcap, rec_1.mcap, rec_2.mcap, not found"):
        BagReader(bag)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("packed", [(0,), (0, 1), (0, 1, 2), (2,)])
@pytest.mark.parametrize("metadata", [True, False])
def test_plain_and_compressed_splits_together(
    tmp_path: Path, storage: str, packed: tuple[int, ...], metadata: bool
) -> None:
    bag = write_split(tmp_path / "bag", storage)
    files = bag_files(bag).files
    for k in packed:
        pack(files[k])
    if not metadata:
        (bag / "metadata.yaml").unlink()
    assert read(bag) == (ALL, "")


def test_compressed_and_plain_file_are_one_part(tmp_path: Path) -> None:
    bag = write_split(tmp_path / "bag")
    plain = (bag / "rec_0.mcap").read_bytes()
    pack(bag / "rec_0.mcap")
    (bag / "rec_0.mcap").write_bytes(plain)
    assert read(bag) == (ALL, "")


@pytest.mark.parametrize("storage", STORAGES)
def test_compressed_file_by_itself(tmp_path: Path, storage: str) -> None:
    file = pack(write_images(tmp_path / "bag", ALL, storage))
    assert read(file) == (ALL, "")


def test_cut_compressed_split(tmp_path: Path) -> None:
    """What is before the cut and all other splits are read."""
    bag = write_split(tmp_path / "bag")
    pack(bag / "rec_1.mcap", keep=0.6)
    numbers, error = read(bag)
    assert numbers[:4] == ALL[:4]
    assert numbers[-4:] == ALL[8:]
    assert "rec_1.mcap.zstd is cut off" in error


@pytest.mark.parametrize("kind", ["folder", "link", "pipe"])
def test_a_split_that_is_no_file_is_missing(tmp_path: Path, kind: str) -> None:
    """What else is there is read; a pipe would be waited for."""
    bag = write_split(tmp_path / "bag")
    split = bag / "rec_1.mcap"
    split.unlink()
    if kind == "folder":
        split.mkdir()
    elif kind == "link":
        split.symlink_to("/no/such/file")
    else:
        os.mkfifo(split)
    numbers, error = read(bag)
    assert numbers == ALL[:4] + ALL[8:]
    assert "metadata.yaml lists rec_1.mcap, not found" in error


@pytest.mark.parametrize("storage", STORAGES)
def test_a_gap_in_the_numbers_is_named_without_metadata(tmp_path: Path, storage: str) -> None:
    bag = write_split(tmp_path / "bag", storage)
    (bag / "metadata.yaml").unlink()
    split = bag_files(bag).files[1]
    split.unlink()
    numbers, error = read(bag)
    assert numbers == ALL[:4] + ALL[8:]
    assert f"the numbers of the files lack {split.name}" in error


def test_files_of_other_names_are_no_gap(tmp_path: Path) -> None:
    bag = write_split(tmp_path / "bag")
    (bag / "metadata.yaml").unlink()
    (bag / "rec_2.mcap").rename(bag / "rec_20240101.mcap")
    assert read(bag) == (ALL, "")


@pytest.mark.parametrize("metadata", [True, False])
def test_split_compressed_with_another_program_is_named(tmp_path: Path, metadata: bool) -> None:
    bag = write_split(tmp_path / "bag")
    if not metadata:
        (bag / "metadata.yaml").unlink()
    (bag / "rec_2.mcap").rename(bag / "rec_2.mcap.gz")
    numbers, error = read(bag)
    assert numbers == ALL[:8]
    assert error == f"recording {bag} is incomplete: rec_2.mcap.gz must be decompressed first"


@pytest.mark.parametrize("suffix", [".mcap", ".mcap.zst"])
def test_zstd_under_another_name(tmp_path: Path, suffix: str) -> None:
    """As the command `zstd` names it, and as people rename it."""
    bag = write_split(tmp_path / "bag")
    pack(bag / "rec_1.mcap").rename(bag / f"rec_1{suffix}")
    assert read(bag) == (ALL, "")


def test_several_damaged_parts_are_all_named(tmp_path: Path) -> None:
    bag = write_split(tmp_path / "bag")
    (bag / "rec_0.mcap").write_bytes((bag / "rec_0.mcap").read_bytes()[:-1000])
    (bag / "rec_1.mcap").unlink()
    numbers, error = read(bag)
    assert numbers[-4:] == ALL[8:]
    assert "rec_0.mcap" in error
    assert "rec_1.mcap" in error


def test_exit_code_and_frames_of_an_incomplete_recording(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = write_split(tmp_path / "bag")
    (bag / "rec_1.mcap").unlink()
    command = ["replay", str(bag), "--box", "20,30,24,18", "-o", str(tmp_path / "out")]
    assert main(command) == 2
    output = capsys.readouterr()
    assert output.out.startswith("8 frames tracked")
    assert output.err.count("\n") == 1


# --- messages that are compressed one by one ------------------------------------------------------


def write_compressed_messages(path: Path, plugin: StoragePlugin) -> Path:
    store = typestore()
    writer = Writer(path, version=9, storage_plugin=plugin)
    writer.set_compression(CompressionMode.MESSAGE, CompressionFormat.ZSTD)
    with writer:
        msgtype = "sensor_msgs/msg/Image"
        connection = writer.add_connection(
            IMAGE_TOPIC, msgtype, typestore=store, offered_qos_profiles=[RELIABLE_QOS]
        )
        for i in ALL:
            stamp = START_NS + i * PERIOD_NS
            message = image_message(store.types, picture(i), "rgb8", stamp, "camera")
            writer.write(connection, stamp, store.serialize_cdr(message, msgtype))
    return path


@pytest.mark.parametrize("plugin", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_compressed_messages_are_recognized(tmp_path: Path, plugin: StoragePlugin) -> None:
    bag = write_compressed_messages(tmp_path / "bag", plugin)
    assert read(bag) == (ALL, "")
    assert read(storage_file(bag)) == (ALL, "")
    edit_metadata(bag, lambda about: about.update(compression_mode="", compression_format=""))
    assert read(bag) == (ALL, "")
    (bag / "metadata.yaml").unlink()
    assert read(bag) == (ALL, "")


def test_compressed_message_that_is_damaged_or_huge(tmp_path: Path) -> None:
    """It is counted and skipped; a few bytes do not take the memory."""
    store = typestore()
    msgtype = "sensor_msgs/msg/Image"
    bomb = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(2**30))
    with Writer(tmp_path / "bag", version=8) as writer:
        connection = writer.add_connection(IMAGE_TOPIC, msgtype, typestore=store)
        for i in ALL[:3]:
            stamp = START_NS + i * PERIOD_NS
            message = image_message(store.types, picture(i), "rgb8", stamp, "camera")
            data = bytes(store.serialize_cdr(message, msgtype))
            packed = zstandard.compress(data)
            writer.write(connection, stamp, [packed, packed[: len(packed) // 2], bomb][i])
    numbers, error = read(tmp_path / "bag")
    assert numbers == [0]
    assert "2 compressed messages that cannot be read; first: on /camera/image_raw" in error
