"""The one writer of whole files: at any moment the old content or the new, also after a power cut.

Tables and recordings that grow while they are written are not whole files; they are flushed as
they grow.
"""

from __future__ import annotations

import errno
import json
import math
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from mixformerv2_ros.errors import SourceError


@contextmanager
def write_atomically(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes the place of `path` when the block ends, and vanishes if it fails.

    The new file has the permissions that the umask gives, as any new file has. A link is
    followed; a device or a pipe (`/dev/stdout`) is written to directly.

    Raises:
        SourceError: the file cannot be written; names `path`.
    """
    with _named(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if path.exists() and not path.is_file():
            with path.open("wb") as stream:
                yield stream
            return
        target = Path(os.path.realpath(path))
        with _temporary(target) as temporary:
            with temporary.open("xb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(target)
        _sync_folder(target.parent)


def write_file(path: Path, content: str | bytes) -> None:
    """Write a whole file, text as UTF-8.

    Raises:
        SourceError: the file cannot be written; names it.
    """
    with write_atomically(path) as stream:
        stream.write(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, content: Any) -> None:
    """Write a whole file of indented JSON; numbers that JSON lacks (NaN, infinity) become null.

    Raises:
        SourceError: the file cannot be written; names it.
    """
    text = json.dumps(_finite(content), indent=2, ensure_ascii=False, allow_nan=False)
    write_file(path, text + "\n")


def copy_file(source: Path, path: Path) -> None:
    """Let `path` have the content that `source` has now, as a second name of it where possible.

    Neither may be written to afterwards but by replacing it, as everything here does.

    Raises:
        SourceError: `source` cannot be read or `path` cannot be written.
    """
    with _named(path), _temporary(path) as temporary:
        try:
            os.link(source, temporary)
        except OSError:  # a file system without hard links
            with source.open("rb") as stream, write_atomically(path) as copy:
                shutil.copyfileobj(stream, copy)
            return
        temporary.replace(path)
        _sync_folder(path.parent)


@contextmanager
def write_folder_atomically(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `folder` when the block ends.

    If the block fails it vanishes, with parent folders that were made for it, and what was at
    `folder` before is there again.

    Raises:
        OSError: it cannot be written.
    """
    new_parents = [parent for parent in folder.parents if not parent.exists()]
    temporary = folder.with_name(f".{folder.name[:100]}.{secrets.token_hex(4)}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        replace_folder(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        for parent in new_parents:
            with suppress(OSError):  # Somebody else may have put something there by now.
                parent.rmdir()
        raise


def replace_file(new: Path, path: Path) -> None:
    """Let a finished file take the place of another one in the same folder.

    Raises:
        OSError: it cannot be written.
    """
    _sync(new)
    new.replace(path)
    _sync_folder(path.parent)


def replace_folder(new: Path, folder: Path) -> None:
    """Let a finished folder of files take the place of another one on the same file system.

    If that fails, what was at `folder` is there again.

    Raises:
        OSError: it cannot be written.
    """
    for file in new.iterdir():
        _sync(file)
    _sync_folder(new)
    old = folder.with_name(f".{folder.name[:100]}.{secrets.token_hex(4)}.old")
    if folder.exists():
        folder.rename(old)
    try:
        new.rename(folder)
    except BaseException:
        if old.exists():
            old.rename(folder)
        raise
    _sync_folder(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SourceError(f"{path} cannot be written: {error.strerror or error}") from error


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """A free name beside `path`, on the same file system; its file is removed in the end."""
    # Other processes may write the same file: the name is nobody else's.
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.partial")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Let the names in a folder survive a power cut."""
    try:
        _sync(folder)
    except OSError as error:
        # The file is there; some file systems do not sync folders, and one may write into a folder
        # that one may not read.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EACCES):
            raise


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
