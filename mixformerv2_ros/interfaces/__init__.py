"""ROS interface definitions for where no ROS is installed.

The definitions of this package are the files of `msg/`, the same that rosidl builds. They are
looked for in the package's data (wheel), beside the package (source checkout) and in the share
folder of a colcon install. Those of `vision_msgs`, which the `rosbags` library does not know, lie
in this folder.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from mixformerv2_ros.errors import SourceError

if TYPE_CHECKING:
    from rosbags.typesys.store import Typestore

PACKAGE = "mixformerv2_ros"
_HERE = Path(__file__).parent


def message_folder() -> Path:
    """Folder that holds the `.msg` files of this package.

    Raises:
        SourceError: the installation lacks them.
    """
    candidates = [
        _HERE / PACKAGE,
        _HERE.parents[1] / "msg",
        *(parent / "share" / PACKAGE / "msg" for parent in _HERE.parents),
    ]
    for folder in candidates:
        if (folder / "Track.msg").is_file():
            return folder
    raise SourceError(f"installation of {PACKAGE} lacks its message definitions (Track.msg)")


def definitions() -> Iterator[tuple[str, str]]:
    """Name and text of every interface of this package and of `vision_msgs` that it uses."""
    folders = {PACKAGE: message_folder(), "vision_msgs": _HERE / "vision_msgs"}
    for package, folder in folders.items():
        for file in sorted(folder.glob("*.msg")):
            yield f"{package}/msg/{file.stem}", file.read_text(encoding="utf-8")


def typestore() -> Typestore:
    """Message classes of ROS 2, `vision_msgs` and this package, with their CDR conversion.

    The store is shared: do not register types in it.
    """
    with _making:
        return _typestore()


_making = threading.Lock()
"""Threads that asked for it at once would get classes of their own, which are not each other's."""


@cache
def _typestore() -> Typestore:
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    store = get_typestore(Stores.LATEST)
    types = {}
    for name, text in definitions():
        types.update(get_types_from_msg(text, name))
    store.register(types)
    return store
