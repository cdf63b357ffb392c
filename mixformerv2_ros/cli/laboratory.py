"""Import of the laboratory by the commands; an installation may leave it out."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from mixformerv2_ros.errors import InstallationError

PACKAGE = "mixformerv2_ros.lab"


def lab_module(name: str, purpose: str, extra: str = "lab") -> ModuleType:
    """Import a module of the laboratory by its name below `mixformerv2_ros.lab`.

    By name, so that nothing that a robot runs imports the laboratory (see `.importlinter`).

    Args:
        name: Such as `cli.train`.
        purpose: What it is needed for, for the error.
        extra: Extra of setup.py that brings the module's libraries, for the error.

    Raises:
        InstallationError: the installation was made without the laboratory, or lacks a library
            that the module needs.
    """
    if importlib.util.find_spec(PACKAGE) is None:
        raise InstallationError(
            f"{purpose} requires {PACKAGE}, which this installation does not include "
            "(MIXFORMERV2_ROS_LAB=OFF)"
        )
    with libraries(purpose, f"pip install 'mixformerv2_ros[{extra}]'"):
        return importlib.import_module(f"{PACKAGE}.{name}")


@contextmanager
def libraries(purpose: str, remedy: str) -> Iterator[None]:
    """Name a library that an import inside does not find.

    Args:
        purpose: What needs it, for the error.
        remedy: How to get it, for the error.

    Raises:
        InstallationError: a module of another package is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("mixformerv2_ros"):
            raise
        raise InstallationError(
            f"{purpose} requires {error.name.partition('.')[0]}, which is not installed: {remedy}"
        ) from None
