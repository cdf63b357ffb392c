"""What the engines share of a search that may be answered at an exit.

`search_by_segments` runs a model segment by segment, asks after each exit which targets are
answered there, lets its heads answer those, and goes on with the others. `LazyMemory` encodes
templates as far as searches reach. What a segment is and what it hands to the next is described in
`network.segments`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

import numpy as np
import numpy.typing as npt

from mixformerv2_ros.model.engine import Prediction, Stop
from mixformerv2_ros.model.spec import ModelSpec

K = TypeVar("K")
"""Keys and values of a target's templates in the form of an engine, a pair with blocks first."""
Z = TypeVar("Z")
"""What a segment hands to the next, in the form of an engine."""


@dataclass(frozen=True)
class SegmentAnswer:
    """What heads answer on the host for n targets.

    Attributes:
        boxes: (n, 4), see `Prediction`; so are the others.
        scores: (n,).
        edges: (n, 4, bins).
    """

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    edges: npt.NDArray[np.float32]

    def rows(self, places: npt.NDArray[np.intp] | None) -> SegmentAnswer:
        """The answer for the targets in these places; None: all."""
        if places is None:
            return self
        return SegmentAnswer(self.boxes[places], self.scores[places], self.edges[places])


@dataclass(frozen=True)
class SegmentEnd(Generic[Z]):
    """Where a segment ends, for n targets.

    Attributes:
        quality: (n,), the estimated IoU of the boxes of its exit; None at full depth.
        state: What the next segment needs; None at full depth.
        answer: Answers the targets in some places (None: all n), until the next segment is run.
    """

    quality: npt.NDArray[np.float32] | None
    state: Z | None
    answer: Callable[[npt.NDArray[np.intp] | None], SegmentAnswer]


RunSegment = Callable[
    [int, npt.NDArray[np.intp], Z | None, npt.NDArray[np.intp] | None], SegmentEnd[Z]
]
"""Runs segment `number` for the targets in `rows` of the batch.

Gets number, rows, what the segment before handed on (None before the first) and the places among
the rows of that segment that are still running (None: all of them).
"""


def search_by_segments(spec: ModelSpec, count: int, stop: Stop, run: RunSegment[Z]) -> Prediction:
    """Search for `count` targets and let `stop` decide after every exit, see `Engine.search`.

    Raises:
        ValueError: `stop` returned another shape than it was given.
    """
    whole = Prediction(
        boxes=np.empty((count, 4), np.float32),
        scores=np.empty(count, np.float32),
        edges=np.empty((count, 4, spec.bins), np.float32),
        depths=np.empty(count, np.intp),
        quality=np.full(count, np.nan, np.float32),
    )
    assert whole.quality is not None
    rows = np.arange(count)
    state: Z | None = None
    kept: npt.NDArray[np.intp] | None = None
    for number, depth in enumerate(spec.depths):
        end = run(number, rows, state, kept)
        leaves = np.ones(len(rows), bool)
        if end.quality is not None:
            leaves = np.asarray(stop(depth, end.quality, rows), bool)
            if leaves.shape != rows.shape:
                raise ValueError(f"stop must return {rows.shape} decisions, got {leaves.shape}")
        answered = rows[leaves]
        if len(answered):
            answer = end.answer(None if len(answered) == len(rows) else np.flatnonzero(leaves))
            whole.boxes[answered] = answer.boxes
            whole.scores[answered] = answer.scores
            whole.edges[answered] = answer.edges
            whole.depths[answered] = depth
            if end.quality is not None:
                whole.quality[answered] = end.quality[leaves]
        if len(answered) == len(rows):
            break
        state = end.state
        kept = np.flatnonzero(~leaves) if len(answered) else None
        rows = rows[~leaves]
    return whole


class LazyMemory(Generic[K]):
    """Templates of one target, encoded for the segments that searches have reached.

    Attributes:
        templates: (1 + n, T, T, 3) uint8 RGB.
    """

    def __init__(
        self,
        templates: npt.NDArray[np.uint8],
        encode: Callable[[npt.NDArray[np.uint8]], K],
        encode_segment: Callable[[int, npt.NDArray[np.uint8] | Any], tuple[Any, K]],
        depths: Sequence[int],
    ) -> None:
        """Encode nothing yet.

        Args:
            templates: The templates; the memory keeps a copy.
            encode: Encodes them for a search without exits.
            encode_segment: Encodes them for a segment, the first from the templates, every other
                from the tokens of the one before; returns tokens for the next, keys and values.
            depths: Numbers of blocks after which segments end, `ModelSpec.depths`.
        """
        self.templates = templates.copy()
        self._encode, self._encode_segment = encode, encode_segment
        self._depths = tuple(depths)
        self._whole: K | None = None
        self._segments: list[K] = []
        self._parts: dict[int, K] = {}
        self._tokens: Any = self.templates

    def begin(self, by_segments: bool) -> None:
        """Encode what the next search needs in any case: the first segment, or the whole."""
        if by_segments:
            self.segment(0)
        else:
            self.whole()

    def whole(self) -> K:
        """Keys and values of all blocks, for a search without exits."""
        if self._whole is None:
            self._whole = self._encode(self.templates)
        return self._whole

    def segment(self, number: int) -> K:
        """Keys and values of the blocks of a segment: a part of the whole where that is encoded.

        The same objects until the whole is encoded, so that engines can keep them where they run.
        """
        if self._whole is not None:
            if number not in self._parts:
                first = self._depths[number - 1] if number else 0
                keys, values = cast(tuple[Any, Any], self._whole)
                last = self._depths[number]
                self._parts[number] = cast(K, (keys[first:last], values[first:last]))
            return self._parts[number]
        while len(self._segments) <= number:
            self._tokens, encoded = self._encode_segment(len(self._segments), self._tokens)
            self._segments.append(encoded)
        return self._segments[number]

    @property
    def encoded_segments(self) -> int:
        """For how many segments the templates are encoded."""
        return len(self._segments if self._whole is None else self._depths)


def whole_memory(memory: K | LazyMemory[K]) -> K:
    """Keys and values of all blocks, for a search without exits."""
    return memory.whole() if isinstance(memory, LazyMemory) else memory
