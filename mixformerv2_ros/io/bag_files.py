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
PACKED_SUFFIX = ".zstd"
"""What `ros2 bag record --compression-mode file` appends to the name of a storage file."""

METADATA = "metadata.yaml"


@dataclass(frozen=True)
class BagFiles:
    """The files of a recording.

    Attributes:
        files: Storage files, also compressed ones, in the order of recording.
        missing: Names of files that metadata.yaml lists and that are not there in any form.
        unlisted: Those of `files` that metadata.yaml does not list, after those it does.
        message_count: Messages that metadata.yaml promises; None without one.
    """

    files: tuple[Path, ...]
    missing: tuple[str, ...] = ()
    unlisted: tuple[Path, ...] = ()
    message_count: int | None = None


def is_storage_file(path: Path) -> bool:
    """Whether a file is named as storage of a recording; a Mac's note `._x.mcap` is not."""
    return not path.name.startswith(".") and _plain_name(path.name).lower().endswith(
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
    for file in sorted(path.iterdir(), key=lambda file: len(file.name), reverse=True):
        if is_storage_file(file):
            present[_plain_name(file.name)] = file
    names = sorted(present, key=natural_order)
    listed, count = _metadata(path / METADATA)
    if not listed:
        return BagFiles(tuple(present[name] for name in names))
    first = [present[name] for name in listed if name in present]
    unlisted = tuple(present[name] for name in names if name not in listed)
    missing = tuple(name for name in listed if name not in present)
    return BagFiles((*first, *unlisted), missing, unlisted, count)


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
    plain = dict.fromkeys(_plain_name(name) for name in names)
    return [name for name in plain if name], count if isinstance(count, int) else None


def _plain_name(name: str) -> str:
    """Name of a storage file without what compression appended to it."""
    return name[: -len(PACKED_SUFFIX)] if name.lower().endswith(PACKED_SUFFIX) else name
