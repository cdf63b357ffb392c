"""Paths of outputs: what may be overwritten."""

from __future__ import annotations

import shutil
from pathlib import Path

from mixformerv2_ros.errors import SourceError


def check_output(path: Path, force: bool, source: Path | None = None) -> None:
    """Refuse an output that exists, unless `force`, and one that would destroy its source.

    Raises:
        SourceError: the output must not or cannot be written.
    """
    if source is not None and source.exists():
        inside = source.resolve()
        if path.resolve() in (inside, *inside.parents):
            raise SourceError(f"output must not replace its source, got {path}")
    if path.exists() and not force:
        raise SourceError(f"output {path} exists, give --force to overwrite it")
    if path.is_dir() and not _is_bag(path):
        raise SourceError(f"output {path} is a folder without a recording; remove it first")


def remove_output(path: Path) -> None:
    """Remove an output that `check_output` allowed to be overwritten."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _is_bag(folder: Path) -> bool:
    """Whether a folder holds nothing but the files of a recording."""
    suffixes = {".yaml", ".mcap", ".db3", ".db3-wal", ".db3-shm", ".db3-journal"}
    files = list(folder.iterdir())
    return any(file.name == "metadata.yaml" for file in files) and all(
        file.suffix in suffixes for file in files
    )
