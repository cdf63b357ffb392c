"""What all command lines share: numbers within a range, errors in one line."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import NoReturn, TypeVar

from mixformerv2_ros.errors import ParameterError
from mixformerv2_ros.text import printable

Number = TypeVar("Number", int, float)


class CommandParser(argparse.ArgumentParser):
    """Reports a malformed command line in one line, as every other bad input is.

    Attributes:
        examples: Command lines without `mixformerv2` that the help ends with.
    """

    examples: Sequence[str] = ()

    def parse_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def, override]
        """Parse a command line; `name=value` may also come after options."""
        found, extra = self.parse_known_args(args, namespace)
        settings = getattr(found, "settings", None)
        if settings is not None and all("=" in one and one[0] != "-" for one in extra):
            found.settings = [*settings, *extra]
        elif extra:
            self.error(f"unrecognized arguments: {' '.join(extra)}")
        return found

    def format_help(self) -> str:
        """The help, with the examples at its end."""
        lines = [f"  mixformerv2 {example}\n" for example in self.examples]
        return super().format_help() + ("\nexamples:\n" + "".join(lines) if lines else "")

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong as ParameterError, with the command that shows the options."""
        raise ParameterError(f"{printable(message, 400)}; see {self.prog} --help")


def ranged(kind: type[Number], low: Number, high: Number | None = None) -> Callable[[str], Number]:
    """The `type` of an argument that is a number from `low` to `high`.

    Args:
        kind: `int` or `float`.
        low: Smallest permitted value.
        high: Largest permitted value; None for what a C int holds, as some library has to.
    """
    largest = 2**31 - 1 if high is None else high
    noun = "a whole number" if kind is int else "a number"
    limits = f"of {low:.15g} or more" if high is None else f"from {low:.15g} to {high:.15g}"

    def parse(text: str) -> Number:
        try:
            value = kind(text)
        except ValueError:
            value = None
        # Not a number is in no range.
        if value is not None and low <= value <= largest:
            return value
        is_beyond = high is None and value is not None and value > largest
        expected = f"up to {largest}" if is_beyond else limits
        raise argparse.ArgumentTypeError(f"must be {noun} {expected}, got {printable(repr(text))}")

    return parse
