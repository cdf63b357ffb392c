"""What a report shows beyond the figures of `summary`: curves, calibration, and failures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mixformerv2_ros.errors import SourceError
from mixformerv2_ros.lab.datasets.sequences import AnnotatedSequence
from mixformerv2_ros.lab.evaluation.metrics import (
    NORMALISED_THRESHOLDS,
    Floats,
    center_distances,
    normalised_distances,
    overlaps,
    success_curve,
)
from mixformerv2_ros.lab.evaluation.results import Result, read_result

PIXEL_THRESHOLDS: Floats = np.arange(51, dtype=np.float64)
"""Thresholds of the precision curve in pixels: 0, 1 .. 50."""

FAILED_BELOW = 0.1
"""Overlap below which a frame counts as failed, as for the misses of `ConfidenceScores`."""


@dataclass(frozen=True, eq=False)
class TrackerRun:
    """Results of one tracker on a set of sequences.

    Attributes:
        label: Its name in the report.
        results: By name of the sequence.
        facts: What is known of the run: `config`, `versions` and `machine` as in `summary.json`.
    """

    label: str
    results: Mapping[str, Result]
    facts: Mapping[str, Any] = field(default_factory=dict)


def read_run(label: str, folder: Path, sequences: Iterable[AnnotatedSequence]) -> TrackerRun:
    """Read one tracker's folder of results; sequences whose result cannot be read are left out."""
    results = {}
    for sequence in sequences:
        try:
            results[sequence.name] = read_result(folder, sequence.name, len(sequence))
        except SourceError:
            continue  # `evaluate` has named it already
    return TrackerRun(label, results, run_facts(folder))


@dataclass(frozen=True, eq=False)
class Curves:
    """Means over sequences, at the thresholds of `metrics` and `PIXEL_THRESHOLDS`.

    Attributes:
        success: (21,) share of frames with overlap > threshold.
        precision: (51,) share of frames with centre distance <= threshold.
        normalised: (51,) share of frames with normalised distance <= threshold.
    """

    success: Floats
    precision: Floats
    normalised: Floats


def curves(results: Iterable[tuple[AnnotatedSequence, Result]]) -> Curves:
    """Curves of one tracker; NaN where no sequence has a frame with ground truth."""
    success, precise, normalised = [], [], []
    for sequence, result in results:
        overlap = overlaps(result.boxes, sequence.boxes)
        if np.isnan(overlap).all():
            continue
        success.append(success_curve(overlap))
        distance = center_distances(result.boxes, sequence.boxes)
        precise.append(share_within(distance, PIXEL_THRESHOLDS))
        scaled = normalised_distances(result.boxes, sequence.boxes)
        normalised.append(share_within(scaled, NORMALISED_THRESHOLDS))
    if not success:
        return Curves(np.full(21, np.nan), np.full(51, np.nan), np.full(51, np.nan))
    return Curves(*(np.mean(each, axis=0) for each in (success, precise, normalised)))


def share_within(distance: Floats, thresholds: Floats) -> Floats:
    """Share of frames with distance <= each threshold; frames with NaN do not count."""
    present = np.sort(distance[~np.isnan(distance)])
    return np.searchsorted(present, thresholds, side="right") / max(present.size, 1)


@dataclass(frozen=True)
class CalibrationBin:
    """Frames whose confidence lies in [low, high), the last bin including its end.

    Attributes:
        low: Least confidence.
        high: Largest.
        frames: How many there are.
        quartiles: 25 %, 50 % and 75 % quantile of their overlaps; NaN without frames.
        hits: Frames with overlap > 0.5.
        misses: Frames with overlap < 0.1 or without target.
    """

    low: float
    high: float
    frames: int
    quartiles: tuple[float, float, float]
    hits: int
    misses: int


def calibration(
    results: Iterable[tuple[AnnotatedSequence, Result]], count: int = 10
) -> list[CalibrationBin]:
    """Overlaps by confidence, pooled over all frames but the first ones.

    A frame without target has overlap 0 here, because whatever box is shown on it is wrong. Bins
    divide [0, 1] evenly, or the range of the confidences where some lie outside.

    Returns:
        `count` bins; none where the tracker gives no confidences.
    """
    pairs = list(results)
    if not pairs:
        return []
    overlap = np.concatenate([overlaps(r.boxes, s.boxes)[1:] for s, r in pairs])
    confidence = np.concatenate([r.confidences[1:] for _, r in pairs])
    given = np.isfinite(confidence)
    overlap, confidence = np.nan_to_num(overlap[given]), confidence[given]
    if not confidence.size:
        return []
    low, high = min(0.0, float(confidence.min())), max(1.0, float(confidence.max()))
    edges = np.linspace(low, high, count + 1)
    which = np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, count - 1)
    bins = []
    for index in range(count):
        inside = overlap[which == index]
        quartiles = np.quantile(inside, [0.25, 0.5, 0.75]) if inside.size else [np.nan] * 3
        bins.append(
            CalibrationBin(
                low=float(edges[index]),
                high=float(edges[index + 1]),
                frames=int(inside.size),
                quartiles=(float(quartiles[0]), float(quartiles[1]), float(quartiles[2])),
                hits=int((inside > 0.5).sum()),
                misses=int((inside < FAILED_BELOW).sum()),
            )
        )
    return bins


@dataclass(frozen=True, eq=False)
class FailureSegment:
    """The longest failure of a tracker in one sequence.

    Attributes:
        sequence: The sequence.
        overlap: (N,) overlaps of the whole sequence, NaN where the target is absent.
        start: First frame of the segment.
        stop: Frame after its last.
        failed: Number of frames in it with overlap below `FAILED_BELOW`; 0 where there is none in
            the whole sequence, and the segment is its frame with the least overlap.
    """

    sequence: AnnotatedSequence
    overlap: Floats
    start: int
    stop: int
    failed: int

    @property
    def recovered(self) -> bool:
        """Whether the tracker has the target again after the segment."""
        return bool(np.any(self.overlap[self.stop :] >= FAILED_BELOW))

    def frames(self, count: int = 5) -> list[int]:
        """Frames to show: the last good one, `count - 2` of the segment, the one after it."""
        good = np.flatnonzero(self.overlap[: self.start] > 0.5)
        before = int(good[-1]) if good.size else max(self.start - 1, 0)
        after = min(self.stop, len(self.sequence) - 1)
        inside = np.linspace(self.start, self.stop - 1, count - 2).round().astype(int)
        return sorted({before, *map(int, inside), after})


def failure_segments(
    results: Iterable[tuple[AnnotatedSequence, Result]], count: int
) -> list[FailureSegment]:
    """The longest failure of each sequence; those with most failed frames first.

    A failure is a run of frames with overlap below `FAILED_BELOW`; frames without target neither
    count nor end it. Sequences without one follow, by their least overlap.
    """
    segments = [_longest(each, overlaps(result.boxes, each.boxes)) for each, result in results]
    found = [segment for segment in segments if segment is not None]
    found.sort(key=lambda each: (-each.failed, float(np.nanmin(each.overlap))))
    return found[:count]


def _longest(sequence: AnnotatedSequence, overlap: Floats) -> FailureSegment | None:
    seen = np.flatnonzero(~np.isnan(overlap))
    if not seen.size:
        return None
    failed = overlap[seen] < FAILED_BELOW
    if not failed.any():
        least = int(np.nanargmin(overlap))
        return FailureSegment(sequence, overlap, least, least + 1, 0)
    start, stop = max(flagged_spans(failed), key=lambda span: span[1] - span[0])
    return FailureSegment(
        sequence, overlap, int(seen[start]), int(seen[stop - 1]) + 1, stop - start
    )


def flagged_spans(flags: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Ranges [start, stop) of frames in which `flags` is set."""
    changes = np.diff(np.concatenate([[0], flags.astype(np.int8), [0]]))
    starts, stops = np.flatnonzero(changes > 0), np.flatnonzero(changes < 0)
    return [(int(start), int(stop)) for start, stop in zip(starts, stops, strict=True)]


def run_facts(folder: Path) -> dict[str, Any]:
    """What our result files hold about a run; all of it is optional."""
    facts: dict[str, Any] = {}
    for name in ("config.json", "summary.json"):
        try:
            content = json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # published raw results come without
        if not isinstance(content, dict):
            continue
        found = content if name == "summary.json" else {"config": content}
        for key in ("config", "versions", "machine"):
            if isinstance(found.get(key), dict):
                facts[key] = found[key]
    return facts
