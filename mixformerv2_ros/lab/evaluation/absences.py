"""Targets that leave and return: sequences with an absence inserted, and how trackers cope.

Benchmarks of short sequences hardly ever let a target leave the image. `with_absence` makes any two
sequences into one in which it does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mixformerv2_ros.lab.datasets.sequences import AnnotatedSequence
from mixformerv2_ros.lab.evaluation.metrics import Floats, LongTermScores, long_term

FOUND_ABOVE = 0.5
"""Overlap above which a target that returned counts as found."""


def with_absence(
    sequence: AnnotatedSequence, other: AnnotatedSequence, frames: int
) -> AnnotatedSequence:
    """A sequence whose target is absent for some frames in the middle, and returns elsewhere.

    The first half, then `frames` frames of another scene, then the second half from its end
    backwards: the target returns where it is at the end of the sequence. The frames between are to
    be resized to the size of the others (`AnnotatedSequence.other_scene`).

    Args:
        sequence: Shows the target.
        other: The other scene; from its beginning, and again from there where it is too short.
        frames: Number of frames between.
    """
    half = len(sequence) // 2
    between = [other.frames[index % len(other)] for index in range(frames)]
    return replace(
        sequence,
        frames=[*sequence.frames[:half], *between, *reversed(sequence.frames[half:])],
        boxes=np.concatenate(
            [sequence.boxes[:half], np.full((frames, 4), np.nan), sequence.boxes[half:][::-1]]
        ),
        other_scene=range(half, half + frames),
    )


@dataclass(frozen=True)
class AbsenceScores:
    """Figures of one tracker over the sequences in which the target is absent for a while.

    Attributes:
        sequences: Number of these sequences.
        returns: How often a target returned: frames that show it after one that does not.
        found: Share of the returns after which the overlap was above 0.5 on some frame before the
            next absence.
        frames: Median number of frames until then, of those that were found; 0 if the first one
            was.
        long_term: Long-term precision, recall and F over these sequences; None from trackers
            without confidences.
    """

    sequences: int
    returns: int
    found: float
    frames: float
    long_term: LongTermScores | None


def absence_scores(
    overlap: Sequence[Floats], confidence: Sequence[Floats], with_long_term: bool = True
) -> AbsenceScores | None:
    """Judge how a tracker copes with absences; None where no target is ever absent.

    Args:
        overlap: Per sequence the result of `metrics.overlaps`, (N,), NaN where absent.
        confidence: Per sequence the confidences, (N,).
        with_long_term: Whether the confidences are known.
    """
    chosen = [i for i, each in enumerate(overlap) if np.isnan(each).any()]
    if not chosen:
        return None
    delays = [delay for i in chosen for delay in _delays(overlap[i])]
    found = [delay for delay in delays if delay is not None]
    return AbsenceScores(
        sequences=len(chosen),
        returns=len(delays),
        found=len(found) / len(delays) if delays else float("nan"),
        frames=float(np.median(found)) if found else float("nan"),
        long_term=long_term([overlap[i] for i in chosen], [confidence[i] for i in chosen])
        if with_long_term
        else None,
    )


def _delays(overlap: Floats) -> list[int | None]:
    """Per return of the target the frames until it was found; None where it was not."""
    absent = np.isnan(overlap)
    starts = np.flatnonzero(absent[:-1] & ~absent[1:]) + 1
    delays: list[int | None] = []
    for start in starts:
        ends = np.flatnonzero(absent[start:])
        span = overlap[start : start + ends[0]] if ends.size else overlap[start:]
        hits = np.flatnonzero(span > FOUND_ABOVE)
        delays.append(int(hits[0]) if hits.size else None)
    return delays
