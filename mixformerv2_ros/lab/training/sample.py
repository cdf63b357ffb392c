"""One training sample, the same whichever data set it comes from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mixformerv2_ros.lab.datasets.annotated_images import Image


@dataclass(frozen=True)
class Sample:
    """One training sample.

    Attributes:
        templates: (2, T, T, 3) uint8 RGB, initial and online template.
        search: (S, S, 3) uint8 RGB.
        edges: (4,) float32 left, top, right, bottom of the target over the crop's side, clipped to
            [0, 1]; zeros if the target is absent.
        present: Whether the search region shows the target.
        unreadable: One message per unreadable image that was drawn before and left out.
    """

    templates: Image
    search: Image
    edges: npt.NDArray[np.float32]
    present: bool
    unreadable: tuple[str, ...] = ()
