"""Text of unknown origin: fit for one line on a terminal, and in the order that people expect."""

from __future__ import annotations

import re
from collections.abc import Collection

MAX_ERROR = 10_000
"""Characters of an error's line, which may name a path of 4096."""


def printable(text: object, limit: int = 80) -> str:
    """Return `text` without control characters, at most `limit` characters long.

    Names in files come from strangers: a line break would split a message, an escape sequence would
    reach the terminal. Of containers only the type is told: they could be of any depth.
    """
    if isinstance(text, dict | list | tuple):
        text = type(text).__name__
    line = "".join(
        character if character.isprintable() else ascii(character)[1:-1]
        for character in str(text)[: limit + 1]
    )
    return line if len(line) <= limit else line[: limit - 3] + "..."


def natural_order(name: str) -> list[tuple[int, int, str]]:
    """Sort key that puts `img2` before `img10`, and numbers before words."""
    parts = re.findall(r"([0-9]+)|([^0-9]+)", name)
    return [(0, int(digits), "") if digits else (1, 0, text) for digits, text in parts]


def some(names: Collection[object], limit: int = 3) -> str:
    """Join the first `limit` names with commas and say how many more there are."""
    first = ", ".join(printable(name) for name, _ in zip(names, range(limit), strict=False))
    return first if len(names) <= limit else f"{first} and {len(names) - limit} more"
