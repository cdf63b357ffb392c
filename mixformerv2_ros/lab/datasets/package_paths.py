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


def settings_file(text: str) -> Path:
    """A settings file: that of the user, else the one of that name that comes with the package.

    `finetune_t.yaml` and `config/training/finetune_t.yaml` are the same file of the package.
    """
    path = Path(text)
    if path.exists() or path.is_absolute():
        return path
    name = Path(text.removeprefix(f"{_SOURCE}/"))
    shipped = _shipped()
    if shipped is not None and ".." not in name.parts and (shipped / name).is_file():
        return shipped / name
    return path


def _shipped() -> Path | None:
    """Folder of the settings: in a wheel, in a source checkout, or in the share of a workspace."""
    package = Path(mixformerv2_ros.__file__).parent
    candidates = [
        package / "lab" / "settings",
        package.parent / _SOURCE,
        *(parent / "share" / package.name / _SOURCE for parent in package.parents),
    ]
    return next((folder for folder in candidates if folder.is_dir()), None)


_SOURCE = "config/training"
