"""Interface of data sets to train on: clips with one target each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class Clip:
    """One target: a video, or a still with one box.

    Attributes:
        name: Its name within the data set.
        frames: N image files in order of time.
        boxes: (N, 4) float64 x, y, w, h in pixels, as annotated; arbitrary, even NaN, in frames in
            which the target is not visible.
        visible: (N,) bool, whether the target is visible and its box has positive sides.
        is_image: Whether it is a still; N is 1.
    """

    name: str
    frames: Sequence[Path]
    boxes: npt.NDArray[np.float64]
    visible: npt.NDArray[np.bool_]
    is_image: bool


class ClipDataset(Protocol):
    """A data set of clips, read on demand."""

    @property
    def name(self) -> str:
        """Name for messages and logs."""

    def __len__(self) -> int:
        """Number of clips."""

    def clip(self, i: int) -> Clip:
        """Clip number `i`.

        Raises:
            SourceError: its annotation is missing or malformed; names the file and line.
        """
