"""The option `--rerun` of the commands: what it takes, and what it needs."""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mixformerv2_ros.errors import InstallationError, SourceError
from mixformerv2_ros.io.partial import PartialOutput
from mixformerv2_ros.io.rerun_output import (
    CONNECT,
    VIEWER_SCHEMES,
    RerunOutput,
    viewer_address,
)
from mixformerv2_ros.ros.live.live_tracker import StepObserver
from mixformerv2_ros.ros.messages import Level

SUFFIX = ".rrd"


def add_rerun_argument(parser: argparse._ActionsContainer) -> None:
    """Declare `--rerun`; it gives a Path, or the text that names a viewer."""
    parser.add_argument(
        "--rerun",
        type=lambda text: text if is_viewer(text) else Path(text),
        metavar="F",
        help=f"write images, tracks, templates and search regions for the Rerun viewer: a file "
        f"(*{SUFFIX}), {CONNECT} for a viewer that runs on this machine, or the address of "
        "another one (rerun+http://HOST:PORT/proxy)",
    )


def is_viewer(text: object) -> bool:
    """Whether a value of `--rerun` names a viewer, not a file."""
    return isinstance(text, str) and (text == CONNECT or text.startswith(VIEWER_SCHEMES))


def check_rerun(destination: Path | str | None) -> None:
    """Refuse what cannot be used before anything is begun.

    Raises:
        InstallationError: rerun-sdk is not installed.
        SourceError: the file has another suffix, or no viewer accepts connections.
    """
    if destination is None:
        return
    if importlib.util.find_spec("rerun") is None:
        raise InstallationError(
            "--rerun requires rerun-sdk, which is not installed: pip install "
            "'mixformerv2_ros[rerun]'"
        )
    if isinstance(destination, str):
        viewer_address(destination)
    elif destination.suffix != SUFFIX:
        raise SourceError(f"--rerun must be *{SUFFIX} or {CONNECT}, got {destination}")


def open_rerun(
    destination: Path | str,
    name: str,
    *,
    is_clock: bool,
    live: bool = False,
    warn: Callable[[str], None] | None = None,
) -> RerunOutput:
    """Start Rerun's process, see `RerunOutput`; warnings go to stderr unless `warn` is given.

    Raises:
        SourceError: no viewer accepts connections.
    """
    if isinstance(destination, str):
        destination = viewer_address(destination)
    return RerunOutput(destination, name, is_clock=is_clock, live=live, warn=warn or _print_warning)


@contextmanager
def rerun_observer(
    destination: Path | str | None, name: str, log: Callable[[Level, str], None]
) -> Iterator[StepObserver | None]:
    """What a live tracker hands its steps to; the file is complete when the block has ended.

    Yields None where there is no destination.

    Raises:
        SourceError: no viewer accepts connections.
    """
    if destination is None:
        yield None
        return
    file = PartialOutput(destination) if isinstance(destination, Path) else None
    output = open_rerun(
        destination if file is None else file.target,
        name,
        is_clock=True,
        live=True,
        warn=lambda text: log(Level.WARN, text),
    )
    index = itertools.count()
    try:
        yield lambda step, session: output.write(next(index), step, session)
    finally:
        output.close()
        if file is not None and file.target.exists():
            file.publish()


def _print_warning(text: str) -> None:
    print(f"mixformerv2: {text}", file=sys.stderr)
