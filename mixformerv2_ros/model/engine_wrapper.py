"""An engine around another one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mixformerv2_ros.model.crop_buffers import crop_buffer
from mixformerv2_ros.model.engine import Engine, Memory, Prediction, Stop
from mixformerv2_ros.model.spec import ModelSpec


class EngineWrapper:
    """Passes everything on; whoever inherits changes what is done around it.

    Attributes:
        engine: The engine that does the work.
    """

    def __init__(self, engine: Engine) -> None:
        """Use `engine`."""
        self.engine = engine

    @property
    def spec(self) -> ModelSpec:
        """Architecture of the loaded model."""
        return self.engine.spec

    @property
    def name(self) -> str:
        """Name of the engine that runs now."""
        return self.engine.name

    def crop_buffer(self, count: int) -> npt.NDArray[np.uint8]:
        """Memory for `count` crops, of the engine."""
        return crop_buffer(self.engine, count)

    def encode_templates(self, templates: npt.NDArray[np.uint8]) -> Memory:
        """See `Engine.encode_templates`."""
        return self.engine.encode_templates(templates)

    def search(
        self,
        crops: npt.NDArray[np.uint8],
        memories: Sequence[Memory],
        stop: Stop | None = None,
    ) -> Prediction:
        """See `Engine.search`."""
        return self.engine.search(crops, memories, stop)
