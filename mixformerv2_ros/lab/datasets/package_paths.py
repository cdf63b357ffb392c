"""Paths in settings files: of the user, or of a file that comes with the package."""

from __future__ import annotations

from pathlib import Path

import mixformerv2_ros

PREFIX = "package:"
"""`package:models/default` is that folder of the installed package, whatever the working folder."""


def settings_path(text: str) -> Path:
    """The path that a setting names; relative ones start from the working folder."""
    if text.startswith(PREFIX):
        return Path(mixformerv2_ros.__file__).parent / text.removeprefix(PREFIX)
    return Path(text)
