"""Old names of options: an error that names the new one."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from mixformerv2_ros.errors import ParameterError


def add_renamed_option(parser: argparse.ArgumentParser, old: str, new: str) -> None:
    """Refuse the option `old` with a line that names `new`; it is not listed in the help.

    Parsing it raises ParameterError.
    """
    parser.add_argument(old, action=_Renamed, nargs="?", dest=new, help=argparse.SUPPRESS)


class _Renamed(argparse.Action):
    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> NoReturn:
        raise ParameterError(f"option {option_string} has been renamed to {self.dest}")
