"""What page and server say to each other over the WebSocket.

The server sends pictures as binary messages (4 bytes of length, a JSON header of that length, a
JPEG) and everything else as JSON; the page sends JSON. Stamps are decimal strings of nanoseconds,
because numbers of JavaScript are exact up to 2^53 only. Boxes are x, y, w, h in pixels of the
original image, however small the picture is.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mixformerv2_ros.overlay import COLORS
from mixformerv2_ros.ros.parameters import NODE_PARAMETERS, Parameter
from mixformerv2_ros.ros.remote.tracker_view import Candidate
from mixformerv2_ros.ros.web.pictures import Picture
from mixformerv2_ros.text import printable
from mixformerv2_ros.tracking.boxes import Box
from mixformerv2_ros.tracking.session import Track

MAX_MESSAGE_BYTES = 4096
"""Longest message of a page."""
MAX_NAME = 64
"""Characters of a target's name and of a frame_id."""


@dataclass(frozen=True)
class DrawBox:
    """A box was drawn on the image of a stamp."""

    box: Box
    stamp_ns: int
    frame_id: str
    target_id: str


@dataclass(frozen=True)
class StopTarget:
    """A target is to be stopped; an empty name means all."""

    target_id: str


@dataclass(frozen=True)
class ChangeParameter:
    """A parameter is to be changed."""

    name: str
    value: float | int


@dataclass(frozen=True)
class Shown:
    """The last picture has been drawn; the page is ready for another one."""


Command = DrawBox | StopTarget | ChangeParameter | Shown


def sliders() -> tuple[Parameter, ...]:
    """Parameters that the page shows as sliders: thresholds that can be changed at runtime."""
    return tuple(
        p for p in NODE_PARAMETERS if p.live and p.name.endswith("threshold") and p.high == 1
    )


def read_command(text: str | bytes) -> Command:
    """Read a message of a page.

    Raises:
        ValueError: it is none; says what was expected and what came.
    """
    if isinstance(text, bytes):
        raise ValueError("expected JSON, got a binary message")
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(f"expected JSON, got {printable(text)}") from None
    kind = message.get("kind") if isinstance(message, dict) else None
    reader = _READERS.get(kind) if isinstance(kind, str) else None
    if reader is None:
        raise ValueError(f"expected kind {' | '.join(_READERS)}, got {printable(kind)}")
    return reader(message)


def hello(title: str) -> str:
    """The first message to a page."""
    ranges = [
        {"name": p.name, "text": p.text, "low": p.low, "high": p.high, "unit": p.unit}
        for p in sliders()
    ]
    colors = {state.name: "#{2:02x}{1:02x}{0:02x}".format(*bgr) for state, bgr in COLORS.items()}
    return _json({"kind": "hello", "title": title, "sliders": ranges, "colors": colors})


def state(status: str, said: str, tracks: Iterable[Track], diagnostics: Mapping[str, str]) -> str:
    """The state of the tracker.

    Args:
        status: Why no image comes, or the summary of the diagnostics.
        said: The answer to the page's last command.
        tracks: The last track of every target.
        diagnostics: The tracker's diagnostics by name.
    """
    return _json(
        {
            "kind": "state",
            "status": status,
            "said": said,
            "targets": [_target(track) for track in tracks],
            "parameters": {
                p.name: diagnostics[f"parameter {p.name}"]
                for p in sliders()
                if f"parameter {p.name}" in diagnostics
            },
            "diagnostics": {
                name: diagnostics[name]
                for name in ("rate (Hz)", "latency p95 (ms)", "image age p95 (ms)", "image")
                if name in diagnostics
            },
        }
    )


def picture(
    shown: Picture,
    stamp_ns: int,
    frame_id: str,
    tracks: Iterable[Track],
    candidates: Iterable[Candidate],
) -> bytes:
    """A picture with what was found in it.

    Args:
        shown: The picture.
        stamp_ns: Stamp of the image in nanoseconds.
        frame_id: Its coordinate frame.
        tracks: The last track of every target.
        candidates: Boxes of a detector.
    """
    header = _json(
        {
            "stamp": str(stamp_ns),
            "frame_id": frame_id,
            "width": shown.width,
            "height": shown.height,
            "targets": [_target(track) for track in tracks],
            "candidates": [
                {"box": list(c.box), "label": c.label, "stamp": str(c.stamp_ns)}
                for c in candidates
                if all(map(math.isfinite, c.box))
            ],
        }
    ).encode()
    return struct.pack(">I", len(header)) + header + shown.jpeg


def _target(track: Track) -> dict[str, Any]:
    numbers = (*track.box, track.confidence, *track.edge_std)
    finite = all(map(math.isfinite, numbers))
    return {
        "id": track.target_id,
        "state": track.state.name,
        "confidence": round(float(track.confidence), 4) if finite else 0.0,
        "box": [round(float(value), 2) for value in track.box] if finite else None,
        "edge_std": [round(float(value), 2) for value in track.edge_std] if finite else None,
    }


def _json(message: Mapping[str, Any]) -> str:
    return json.dumps(message, separators=(",", ":"), allow_nan=False)


def _draw(message: Mapping[str, Any]) -> DrawBox:
    box, stamp = message.get("box"), message.get("stamp")
    if not (isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))):
        raise ValueError(f"expected box x, y, w, h of finite numbers, got {printable(box)}")
    if not (isinstance(stamp, str) and len(stamp) <= 19 and stamp.isascii() and stamp.isdecimal()):
        raise ValueError(f"expected stamp in nanoseconds as digits, got {printable(stamp)}")
    return DrawBox(
        Box(*map(float, box)), int(stamp), _name(message, "frame_id"), _name(message, "target_id")
    )


def _stop(message: Mapping[str, Any]) -> StopTarget:
    return StopTarget(_name(message, "target_id"))


def _change(message: Mapping[str, Any]) -> ChangeParameter:
    name, value = message.get("name"), message.get("value")
    known = {p.name for p in sliders()}
    if name not in known:
        raise ValueError(f"expected parameter {' | '.join(sorted(known))}, got {printable(name)}")
    if not _is_number(value):
        raise ValueError(f"expected a number for {name}, got {printable(value)}")
    return ChangeParameter(str(name), value)  # type: ignore[arg-type]


def _shown(message: Mapping[str, Any]) -> Shown:
    return Shown()


_READERS: dict[str, Callable[[Mapping[str, Any]], Command]] = {
    "box": _draw,
    "stop": _stop,
    "parameter": _change,
    "shown": _shown,
}


def _name(message: Mapping[str, Any], key: str) -> str:
    name = message.get(key, "")
    if not isinstance(name, str) or len(name) > MAX_NAME or not name.isprintable():
        raise ValueError(
            f"expected {key} of up to {MAX_NAME} printable characters, got {printable(name)}"
        )
    return name


def _is_number(value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) <= 1e9
