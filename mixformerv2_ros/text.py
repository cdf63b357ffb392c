"""Text of unknown origin, made fit for one line on a terminal."""

from __future__ import annotations

from collections.abc import Collection


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


def some(names: Collection[object], limit: int = 3) -> str:
    """Join the first `limit` names with commas and say how many more there are."""
    first = ", ".join(printable(name) for name, _ in zip(names, range(limit), strict=False))
    return first if len(names) <= limit else f"{first} and {len(names) - limit} more"
