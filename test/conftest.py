"""Fixtures that more than one test module uses."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


def _shared_folder(name: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"needs {name} beside the checkout (../shared/{name}), which is absent")
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real sequences and stills; tests that use it are skipped where it is absent."""
    return _shared_folder("data")


@pytest.fixture(scope="session")
def shared_vectors() -> Path:
    """Folder of golden vectors; tests that use it are skipped where it is absent."""
    return _shared_folder("vectors")
