"""Which files a recording consists of.

The files in the folder count; metadata.yaml gives their order and shows which of them are missing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixformerv2_ros.text import natural_order
from mixformerv2_ros.yaml_text import YamlError, read_yaml_file

STORAGE_SUFFIXES = (".mcap", ".db3")
PACKED_SUFFIXES = (".zstd", ".zst")
"""What `ros2 bag record --compression-mode file` and the command `zstd` append to the name of a
storage file."""

_FOREIGN_SUFFIXES = (".bz2", ".gz", ".lz4", ".xz")
"""Compression that is not unpacked here."""

_LARGEST_GAP = 1000
"""Numbers that are further apart do not count the parts of one recording."""

METADATA = "metadata.yaml"


@dataclass(frozen=True)
class BagFiles:
    """The files of a recording.

    Attributes:
        files: Storage files, also compressed ones, in the order of recording.
        missing: Names of files that metadata.yaml lists and that are not there in any form.
        gaps: Without metadata.yaml: names of files that the numbers of the others lack in between.
        foreign: Names of files that are compressed in a way that is not read.
        unlisted: Those of `files` that metadata.yaml does not list, after those it does.
        message_count: Messages that metadata.yaml promises; None without one.
    """

    files: tuple[Path, ...]
    missing: tuple[str, ...] = ()
    gaps: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()
    unlisted: tuple[Path, ...] = ()
    message_count: int | None = None


def is_storage_file(path: Path) -> bool:
    """Whether a file is named as storage of a recording; a Mac's note `._x.mcap` is not."""
    return not path.name.startswith(".") and plain_name(path.name).lower().endswith(
        STORAGE_SUFFIXES
    )


def bag_files(path: Path) -> BagFiles:
    """The files of a recording that is a file or a folder.

    Raises:
        OSError: the folder cannot be read.
    """
    if path.is_file():
        return BagFiles((path,))
    # A compressed file beside the same one not compressed is the same part of the recording.
    present: dict[str, Path] = {}
    packed: dict[str, str] = {}
    for file in sorted(path.iterdir(), key=lambda file: len(file.name), reverse=True):
        if not file.is_file():  # nor are links that lead nowhere, and pipes
            continue
        if is_storage_file(file):
            present[plain_name(file.name)] = file
        elif file.suffix.lower() in _FOREIGN_SUFFIXES and is_storage_file(file.with_suffix("")):
            packed[file.stem] = file.name
    names = sorted(present, key=natural_order)
    foreign = tuple(sorted(packed[name] for name in packed if name not in present))
    listed, count = _metadata(path / METADATA)
    if not listed:
        files = tuple(present[name] for name in names)
        return BagFiles(files, gaps=_gaps([*present, *packed]), foreign=foreign)
    first = [present[name] for name in listed if name in present]
    unlisted = tuple(present[name] for name in names if name not in listed)
    missing = tuple(name for name in listed if name not in present and name not in packed)
    return BagFiles((*first, *unlisted), missing, (), foreign, unlisted, count)


def _gaps(names: list[str]) -> tuple[str, ...]:
    """Names between the first and the last number of files that differ in it alone."""
    found = [re.fullmatch(r"(.*_)([0-9]{1,9})(\.[^.]+)", name) for name in names]
    parts = [match.groups() for match in found if match is not None]
    if len(parts) < len(names) or len({(stem, suffix) for stem, _, suffix in parts}) != 1:
        return ()
    stem, _, suffix = parts[0]
    numbers = sorted(int(number) for _, number, _ in parts)
    if numbers[-1] - numbers[0] > _LARGEST_GAP:
        return ()
    between = range(numbers[0], numbers[-1])
    return tuple(f"{stem}{number}{suffix}" for number in between if number not in numbers)


def _metadata(path: Path) -> tuple[list[str], int | None]:
    """Names of the storage files, not compressed, and the number of messages.

    Nothing of a metadata.yaml that cannot be read: the files are the recording.
    """
    try:
        content = read_yaml_file(path)
    except (OSError, YamlError):
        return [], None
    about: Any = content.get("rosbag2_bagfile_information") if isinstance(content, dict) else None
    if not isinstance(about, dict):
        return [], None
    listed, count = about.get("relative_file_paths"), about.get("message_count")
    # Old recorders wrote paths; nothing leads out of the folder.
    names = (
        (re.split(r"[/\\]", str(name))[-1] for name in listed) if isinstance(listed, list) else ()
    )
    plain = dict.fromkeys(plain_name(name) for name in names)
    return [name for name in plain if name], count if isinstance(count, int) else None


def plain_name(name: str) -> str:
    """Name of a storage file without what compression appended to it."""
    suffix = next((s for s in PACKED_SUFFIXES if name.lower().endswith(s)), "")
    return name[: len(name) - len(suffix)]
