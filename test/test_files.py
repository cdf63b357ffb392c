"""Whole files are written whole or not at all."""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mixformerv2_ros.errors import SourceError
from mixformerv2_ros.files import (
    copy_file,
    write_atomically,
    write_file,
    write_folder_atomically,
    write_json,
)


@contextmanager
def small_disk() -> Iterator[None]:
    """No file may grow beyond 1,000 bytes, as if the disk were full.

    Not a fixture: pytest writes its own progress before a fixture is torn down, perhaps to a file.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    write_file(path, "größer\n")
    assert path.read_bytes() == "größer\n".encode()
    with path.open("rb") as old, write_atomically(path) as stream:
        stream.write(b"new")
        stream.flush()
        assert path.read_bytes() == old.read() == "größer\n".encode()
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["notes.txt"]


def test_content_is_on_the_disk_before_the_name_and_the_name_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a power cut demands: fsync of the file, rename, fsync of the folder."""
    path, done = tmp_path / "a", []
    fsync, replace = os.fsync, Path.replace

    def record_sync(descriptor: int) -> None:
        what = "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        done.append(f"sync {what} of {os.fstat(descriptor).st_size if what == 'file' else ''}")
        fsync(descriptor)

    def record_replace(self: Path, target: Path) -> Path:
        done.append(f"rename to {target.name}")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", record_sync)
    monkeypatch.setattr(Path, "replace", record_replace)
    write_file(path, b"12345")
    assert done == ["sync file of 5", "rename to a", "sync folder of "]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_permissions_are_those_of_the_umask(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write_file(tmp_path / "a", "text")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o666 & ~mask


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("x")])
def test_a_block_that_fails_changes_nothing(tmp_path: Path, error: BaseException) -> None:
    write_file(tmp_path / "a", "old")

    def fail() -> None:
        with write_atomically(tmp_path / "a") as stream:
            stream.write(b"half")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    write_file(tmp_path / "a", "old")
    error = r"a cannot be written: File too large$"
    with small_disk(), pytest.raises(SourceError, match=error):
        write_file(tmp_path / "a", bytes(5000))
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name, reason in (
        ("no/a", "No such file or directory"),
        ("file/a", "Not a directory"),
        (".", "Is a directory"),
    ):
        with pytest.raises(SourceError) as caught:
            write_file(tmp_path / name, "x")
        assert str(caught.value) == f"{tmp_path / name} cannot be written: {reason}"
    assert names(tmp_path) == ["file"]


def test_longest_names(tmp_path: Path) -> None:
    write_file(tmp_path / ("x" * 255), "x")
    assert names(tmp_path) == ["x" * 255]


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there" / "a")
    write_file(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there" / "a").read_text() == "text"


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    """`--json /dev/stdout`, and `/dev/null` stays what it is."""
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    write_file(pipe, "through")
    reader.join(60)
    assert read == ["through"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_json_is_json(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"größe": (1.5, math.nan), "b": {"c": [math.inf, "NaN"]}})

    def refuse(name: str) -> None:
        raise AssertionError(name)

    text = (tmp_path / "a.json").read_text("utf-8")
    assert json.loads(text, parse_constant=refuse) == {
        "größe": [1.5, None],
        "b": {"c": [None, "NaN"]},
    }
    assert text.startswith('{\n  "größe"')
    assert text.endswith("}\n")


@pytest.mark.parametrize("links", [True, False])
def test_a_copy_keeps_its_content_when_the_source_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    write_file(tmp_path / "best", "older")
    write_file(tmp_path / "last", "first")
    copy_file(tmp_path / "last", tmp_path / "best")
    assert (tmp_path / "best").samefile(tmp_path / "last") == links
    write_file(tmp_path / "last", "second")
    assert (tmp_path / "best").read_text() == "first"
    with pytest.raises(SourceError, match="best cannot be written: No such file"):
        copy_file(tmp_path / "gone", tmp_path / "best")
    assert (tmp_path / "best").read_text() == "first"
    assert names(tmp_path) == ["best", "last"]


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "parents" / "folder"

    def fail(error: BaseException) -> None:
        with write_folder_atomically(folder) as made:
            (made / "c").touch()
            raise error

    with pytest.raises(KeyboardInterrupt):
        fail(KeyboardInterrupt())
    assert names(tmp_path) == []
    for name in ("a", "b"):
        with write_folder_atomically(folder) as made:
            (made / name).touch()
        assert names(folder) == [name]
    with pytest.raises(RuntimeError, match="x"):
        fail(RuntimeError("x"))
    assert names(folder) == ["b"]
    assert names(folder.parent) == ["folder"]
