"""Where crops are written so that the engine need not copy them."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from mixformerv2_ros.model.engine import Engine


@runtime_checkable
class CropBuffers(Protocol):
    """What an engine may have besides `Engine`: memory that it reads crops from without a copy."""

    def crop_buffer(self, count: int) -> npt.NDArray[np.uint8]:
        """New memory for `count` crops, (count, S, S, 3) uint8 with any content.

        It may be written again as soon as a search with it has returned.
        """


def crop_buffer(engine: Engine, count: int) -> npt.NDArray[np.uint8]:
    """New memory for the crops of one search, the engine's own where it has such.

    Args:
        engine: The engine that will search them; others may, too.
        count: Number of crops.

    Returns:
        (count, S, S, 3) uint8 with any content.
    """
    if isinstance(engine, CropBuffers):
        return engine.crop_buffer(count)
    side = engine.spec.search_size
    return np.empty((count, side, side, 3), dtype=np.uint8)
