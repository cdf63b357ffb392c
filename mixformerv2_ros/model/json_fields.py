"""JSON of unknown origin, field by field: what each must be, and one line on what it is instead."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from mixformerv2_ros.errors import BundleError
from mixformerv2_ros.text import printable

MAX_JSON_BYTES = 2**20
"""Longest file."""

MAX_TEXT = 500
"""Longest text, such as a name or a licence."""

MAX_LEVELS = 20
"""Deepest nesting of free-form facts."""


def read_json_object(path: Path) -> dict[str, Any]:
    """The content of a JSON file, which must be an object.

    Raises:
        BundleError: the file is absent, too long, or holds something else.
        OSError: it cannot be read.
    """
    if not path.is_file():
        raise BundleError(f"must hold {path.name}")
    if path.stat().st_size > MAX_JSON_BYTES:
        raise BundleError(
            f"{path.name} must be at most {MAX_JSON_BYTES} bytes, got {path.stat().st_size}"
        )
    try:
        data = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path.name} must be JSON: {printable(error)}") from error
    if not isinstance(data, dict):
        raise BundleError(f"{path.name} must be a JSON object, got {type(data).__name__}")
    return data


def json_object(data: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The object under `key`; BundleError if it is something else, as in all functions below."""
    value = data.get(key)
    if not isinstance(value, dict):
        raise BundleError(f"{key} must be a JSON object, got {printable(value)}")
    return value


def check_depth(value: object, key: str, levels: int = MAX_LEVELS) -> None:
    """Refuse facts so deeply nested that printing them would fail."""
    if levels == 0:
        raise BundleError(f"{key} must be nested at most {MAX_LEVELS} levels deep")
    if isinstance(value, dict | list):
        for child in value.values() if isinstance(value, dict) else value:
            check_depth(child, key, levels - 1)


def text_line(data: Mapping[str, Any], key: str) -> str:
    """The text under `key`: one line, not empty."""
    value = data.get(key)
    if not (isinstance(value, str) and 0 < len(value) <= MAX_TEXT and value.isprintable()):
        raise BundleError(
            f"{key} must be one line of 1 to {MAX_TEXT} printable characters, "
            f"got {printable(repr(value))}"
        )
    return value


def choice(data: Mapping[str, Any], key: str, choices: Collection[str]) -> str:
    """The text under `key`, one of `choices`."""
    value = data.get(key)
    if not (isinstance(value, str) and value in choices):
        raise BundleError(f"{key} must be one of {', '.join(choices)}, got {printable(value)}")
    return value


def check_digest(data: Mapping[str, Any]) -> None:
    """Refuse what is no SHA-256 under `sha256`."""
    value = data.get("sha256")
    if not (isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value)):
        raise BundleError(f"sha256 must be 64 hexadecimal digits, got {printable(value)}")


def number(data: Mapping[str, Any], key: str, low: float, high: float) -> float:
    """The number under `key`, from `low` to `high`."""
    value = data.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise BundleError(
            f"{key} must be a number from {low:g} to {high:g}, got {printable(value)}"
        )
    return value


def whole_number(data: Mapping[str, Any], key: str, low: float, high: float) -> int:
    """The whole number under `key`, from `low` to `high`."""
    value = number(data, key, low, high)
    if not isinstance(value, int):
        raise BundleError(f"{key} must be a whole number, got {value}")
    return value


def whole_numbers(data: Mapping[str, Any], key: str, low: float, high: float) -> tuple[int, ...]:
    """The whole numbers under `key`, each from `low` to `high`; empty where it is absent."""
    value = data.get(key, [])
    if not isinstance(value, list):
        raise BundleError(f"{key} must be a list of whole numbers, got {printable(value)}")
    return tuple(whole_number({key: item}, key, low, high) for item in value)
