"""Parts that readers of annotated sequences share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mixformerv2_ros.lab.datasets.sequences import AnnotatedSequence, read_flags

Reader = Callable[[], AnnotatedSequence]
"""Reads one sequence; raises SourceError that names the file, and the line if there is one."""


@dataclass(frozen=True, eq=False)
class Annotation:
    """Unchecked annotation of a sequence; training also uses the boxes of hidden targets.

    Attributes:
        frames: Image files in order of time.
        boxes: (N, 4) float64 x, y, w, h in pixels, one row per line of the file.
        hidden: (N,) bool, frames in which the target is annotated as absent.
    """

    frames: list[Path]
    boxes: npt.NDArray[np.float64]
    hidden: npt.NDArray[np.bool_]

    def shown(self) -> npt.NDArray[np.float64]:
        """The boxes with NaN where the target is hidden."""
        return np.where(self.hidden[:, None], np.nan, self.boxes)


def folders_with(root: Path, *globs: str) -> list[Path]:
    """Folders that hold a file or folder that one of the globs, relative to `root`, matches."""
    return sorted({found.parent for glob in globs for found in root.glob(glob)})


def read_attributes(
    root: Path, folders: tuple[str, ...], name: str, columns: tuple[str, ...]
) -> tuple[str, ...]:
    """Attributes whose flag is set in `FOLDER/NAME.txt`; empty without such a file."""
    for folder in folders:
        path = root / folder / f"{name}.txt"
        if path.is_file():
            flags = read_flags(path, len(columns))
            return tuple(column for column, flag in zip(columns, flags, strict=True) if flag)
    return ()


def to_numbers(fields: list[str]) -> list[float]:
    """The fields as numbers; empty if one is not a number."""
    try:
        return [float(field) for field in fields]
    except ValueError:
        return []


def image_number(image: Path) -> int:
    """The number in an image's name; -1 if there is none."""
    return int(image.stem) if image.stem.isdigit() else -1
