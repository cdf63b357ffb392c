"""Building the package as pip does, from a copy of the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def copy_sources(folder: Path) -> Path:
    """Copy the checkout, in which setuptools would leave its build folder behind."""
    source = folder / "source"
    skipped = shutil.ignore_patterns(".*", "build", "runs", "demo_out", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, ignore=skipped)
    return source


def build_wheel(source: Path, folder: Path, **environment: str) -> Path:
    """Build a wheel into `folder`, with changes to the environment; returns its path."""
    subprocess.run(
        [
            sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
            "--wheel-dir", str(folder), str(source),
        ],
        check=True, capture_output=True, env={**os.environ, **environment},
    )  # fmt: skip
    (wheel,) = folder.glob("*.whl")
    return wheel


def build_sdist(source: Path, folder: Path) -> Path:
    """Build the source distribution into `folder`; returns its path."""
    code = f"from setuptools import build_meta; build_meta.build_sdist({str(folder)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True)
    (archive,) = folder.glob("*.tar.gz")
    return archive
