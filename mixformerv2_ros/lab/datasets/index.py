"""Annotations as arrays, cached on disk in NumPy's format.

A cache folder holds one file per clip (per annotation file for data sets of stills), written when
the clip is first used. The file name contains a hash of path, size and modification time of every
source, so that files of changed sources are not used. Files are loaded without pickle.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from mixformerv2_ros.errors import SourceError
from mixformerv2_ros.files import write_atomically
from mixformerv2_ros.lab.datasets.source import Clip

Rows = npt.NDArray[Any]
"""(N,) records `box` (4 float64), `visible` (bool) and `image` (path below the clip's folder)."""

VERSION = 1
"""Part of the hash; to be incremented when the meaning of the rows changes."""
CACHED_VIDEOS = 512
"""Annotations of videos that a process keeps in memory."""


@dataclass(frozen=True)
class VideoEntry:
    """A video whose annotation has not been read yet.

    Attributes:
        name: The clip's name.
        folder: Base folder of image paths.
        sources: Files and folders that the annotation depends on; some need not exist.
        read: Reads the annotation.
    """

    name: str
    folder: Path
    sources: tuple[Path, ...]
    read: Callable[[], Rows]


class Frames(Sequence[Path]):
    """Image files of a clip; paths are made on demand, since a clip has thousands."""

    def __init__(self, folder: Path, images: npt.NDArray[np.bytes_]) -> None:
        self.folder = folder
        self.images = images

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.images)

    @overload
    def __getitem__(self, index: int) -> Path: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Path]: ...
    def __getitem__(self, index: int | slice) -> Path | Sequence[Path]:
        """One path, or those of a slice."""
        if isinstance(index, slice):
            return Frames(self.folder, self.images[index])
        return self.folder / os.fsdecode(self.images[index])


class VideoDataset:
    """Videos, each read when it is first used. Implements `ClipDataset`."""

    def __init__(self, name: str, entries: Sequence[VideoEntry], cache: Path | None) -> None:
        """Make a data set of videos.

        Args:
            name: Name of the data set.
            entries: Its videos.
            cache: Folder of index files; None reads the sources in every process.
        """
        self._name = name
        self._entries = entries
        self._cache = cache

    @property
    def name(self) -> str:
        """Name for messages and logs."""
        return self._name

    def __len__(self) -> int:
        """Number of videos."""
        return len(self._entries)

    def clip(self, i: int) -> Clip:
        """Video number `i`.

        Raises:
            SourceError: its annotation is missing or malformed; names the file and line.
        """
        entry = self._entries[i]
        rows = _video_annotation(self._cache, entry)
        frames = Frames(entry.folder, rows["image"])
        return Clip(entry.name, frames, rows["box"], rows["visible"], is_image=False)


@functools.lru_cache(maxsize=CACHED_VIDEOS)
def _video_annotation(cache: Path | None, entry: VideoEntry) -> Rows:
    return cached(cache, entry.name, entry.sources, entry.read)


class StillDataset:
    """Boxes of stills, each of which is a clip of one frame. Implements `ClipDataset`."""

    def __init__(self, name: str, folder: Path, rows: Rows) -> None:
        """Make a data set of stills.

        Args:
            name: Name of the data set.
            folder: Base folder of image paths.
            rows: The boxes, all visible.
        """
        self._name = name
        self._folder = folder
        self._rows = rows

    @property
    def name(self) -> str:
        """Name for messages and logs."""
        return self._name

    def __len__(self) -> int:
        """Number of boxes."""
        return len(self._rows)

    def clip(self, i: int) -> Clip:
        """Box number `i`."""
        rows = self._rows[i : i + 1]
        frames = Frames(self._folder, rows["image"])
        name = f"{os.fsdecode(rows['image'][0])}#{i}"
        return Clip(name, frames, rows["box"], rows["visible"], is_image=True)


def make_rows(
    images: Collection[str], boxes: npt.NDArray[np.float64], visible: npt.NDArray[np.bool_]
) -> Rows:
    """Rows of an annotation."""
    names = np.array([os.fsencode(image) for image in images], dtype=np.bytes_)
    kind = [("box", "<f8", (4,)), ("visible", "?"), ("image", names.dtype)]
    rows = np.empty(len(names), dtype=kind)
    rows["box"], rows["visible"], rows["image"] = boxes, visible, names
    return rows


def video_rows(
    folder: Path,
    frames: Sequence[Path],
    boxes: npt.NDArray[np.float64],
    hidden: npt.NDArray[np.bool_] | None = None,
) -> Rows:
    """Rows of a video whose frames are in one folder.

    Args:
        folder: Base folder of image paths.
        frames: N image files.
        boxes: (N, 4) x, y, w, h in pixels; NaN in frames without a box.
        hidden: (N,) frames in which the target is not visible although it may have a box.
    """
    below = os.path.relpath(frames[0].parent, folder)
    images = [os.path.normpath(os.path.join(below, frame.name)) for frame in frames]
    visible = np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] > 0).all(axis=1)
    if hidden is not None:
        visible &= ~hidden
    return make_rows(images, boxes, np.asarray(visible))


def cached(
    cache: Path | None, name: str, sources: Sequence[Path], build: Callable[[], Rows]
) -> Rows:
    """Rows of an annotation, from the cache if it is up to date.

    Args:
        cache: Folder of index files; None always builds the rows.
        name: Name of the annotation, part of the file name.
        sources: Files and folders that the rows depend on; the cached rows are stale if one of them
            was modified, added or removed.
        build: Builds the rows.

    Raises:
        SourceError: the cache cannot be written, or whatever `build` raises.
    """
    if cache is None:
        return build()
    path = cache / f"{name}.{_signature(sources)}.npy"
    # A damaged file is replaced.
    with suppress(OSError, ValueError, EOFError):
        rows: Rows = np.load(path, mmap_mode="r", allow_pickle=False)
        if rows.dtype.names == ("box", "visible", "image"):
            return rows.view(np.ndarray)
    rows = build()
    _write(path, rows)
    for stale in cache.glob(f"{_escape(name)}.{'[0-9a-f]' * 20}.npy"):
        if stale != path:
            stale.unlink(missing_ok=True)
    return rows


def cache_folder(cache: Path | None, kind: str, root: Path) -> Path | None:
    """Folder of the index files of one data set."""
    if cache is None:
        return None
    place = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:8]
    return cache / f"{kind}-{place}"


def _signature(sources: Sequence[Path]) -> str:
    digest = hashlib.sha256(str(VERSION).encode())
    for source in sources:
        digest.update(os.fsencode(source))
        try:
            status = source.stat()
        except OSError:
            digest.update(b"absent")
        else:
            digest.update(f"{status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()[:20]


def _write(path: Path, rows: Rows) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SourceError(f"{path.parent} cannot be created: {error.strerror}") from None
    with write_atomically(path) as stream:  # other workers read the same folder
        np.save(stream, rows, allow_pickle=False)


def _escape(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)
