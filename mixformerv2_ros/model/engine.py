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
        depths: (B,) numbers of blocks run, each one of `ModelSpec.depths`.
        quality: (B,) float32 in [0, 1], the estimated IoU of each box, NaN at full depth, where
            nothing estimates it; None from a search without `stop`.
    """

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    edges: npt.NDArray[np.float32]
    depths: npt.NDArray[np.intp]
    quality: npt.NDArray[np.float32] | None = None


class Stop(Protocol):
    """Decides after each exit which targets are answered there."""

    def __call__(
        self, depth: int, quality: npt.NDArray[np.float32], rows: npt.NDArray[np.intp]
    ) -> npt.NDArray[np.bool_]:
        """Decide as soon as an exit has answered; may look at a clock.

        Args:
            depth: Number of blocks run so far, one of `ModelSpec.exits`.
            quality: (n,) estimates, in [0, 1], of the IoU of the boxes of this exit.
            rows: (n,) places in the batch of the n targets that have gone so far.

        Returns:
            (n,), True where this exit's answer is taken and no further block is run.
        """


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

    def search(
        self,
        crops: npt.NDArray[np.uint8],
        memories: Sequence[Memory],
        stop: Stop | None = None,
    ) -> Prediction:
        """Find the targets, each in its own crop.

        Args:
            crops: (B, S, S, 3) uint8 RGB.
            memories: B results of `encode_templates`.
            stop: Which targets to answer at which exit of the model; None: all at full depth.

        Raises:
            EngineError: the engine failed; it may work the next time.
        """


def search_separately(
    engine: Engine,
    crops: npt.NDArray[np.uint8],
    memories: Sequence[Memory],
    stop: Stop | None = None,
) -> Prediction:
    """Search for targets one after the other: for memories that cannot form one batch."""
    return join_predictions(
        [
            engine.search(crops[i : i + 1], [memory], None if stop is None else _of_row(stop, i))
            for i, memory in enumerate(memories)
        ]
    )


def join_predictions(answers: Sequence[Prediction]) -> Prediction:
    """Several answers as one batch."""
    qualities = [answer.quality for answer in answers if answer.quality is not None]
    return Prediction(
        boxes=np.concatenate([answer.boxes for answer in answers]),
        scores=np.concatenate([answer.scores for answer in answers]),
        edges=np.concatenate([answer.edges for answer in answers]),
        depths=np.concatenate([answer.depths for answer in answers]),
        quality=np.concatenate(qualities) if len(qualities) == len(answers) else None,
    )


def _of_row(stop: Stop, row: int) -> Stop:
    """`stop` for a batch of one that is one row of a larger batch."""
    return lambda depth, quality, rows: stop(depth, quality, rows + row)
