"""What the tracker asks of an inference engine.

The tracker hands over uint8 RGB crops and receives boxes, confidences and edge distributions. It
does not know which library computes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mixformerv2_ros.model.spec import ModelSpec

EDGES = ("left", "top", "right", "bottom")
"""Order of the four box edges wherever an axis of length 4 means edges."""

Memory = Any
"""Encoded templates of one target (keys and values per layer); its form is the engine's secret."""


@dataclass(frozen=True)
class Prediction:
    """Output of the network for a batch of B search crops.

    Attributes:
        boxes: (B, 4) float32, centre x, centre y, width, height over the side of the search crop.
        scores: (B,) float32 in [0, 1], confidence that the box holds the target.
        edges: (B, 4, bins) float32, a probability distribution per edge in the order of `EDGES`;
            bin i stands for coordinate i / bins of the crop's side.
    """

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    edges: npt.NDArray[np.float32]


class Engine(Protocol):
    """Runs one model. Not thread-safe: one thread at a time."""

    @property
    def spec(self) -> ModelSpec:
        """Architecture of the loaded model."""

    @property
    def name(self) -> str:
        """Short name of engine and device for logs and diagnostics, such as `onnxruntime/cpu`."""

    def encode_templates(self, templates: npt.NDArray[np.uint8]) -> Memory:
        """Encode the templates of one target.

        Args:
            templates: (1 + n, T, T, 3) uint8 RGB: the initial template, then n >= 1 online ones.

        Raises:
            EngineError: the engine failed; it may work the next time.
        """

    def search(self, crops: npt.NDArray[np.uint8], memories: Sequence[Memory]) -> Prediction:
        """Find the targets, each in its own crop.

        Args:
            crops: (B, S, S, 3) uint8 RGB.
            memories: B results of `encode_templates`.

        Raises:
            EngineError: the engine failed; it may work the next time.
        """


def search_separately(
    engine: Engine, crops: npt.NDArray[np.uint8], memories: Sequence[Memory]
) -> Prediction:
    """Search for targets one after the other: for memories that cannot form one batch."""
    answers = [engine.search(crops[i : i + 1], [memory]) for i, memory in enumerate(memories)]
    return Prediction(
        boxes=np.concatenate([answer.boxes for answer in answers]),
        scores=np.concatenate([answer.scores for answer in answers]),
        edges=np.concatenate([answer.edges for answer in answers]),
    )
