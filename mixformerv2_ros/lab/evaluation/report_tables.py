"""Tables of the evaluation report: what stands in which cell, in the order of the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mixformerv2_ros.lab.datasets.sequences import AnnotatedSequence
from mixformerv2_ros.lab.evaluation.analysis import Curves, TrackerRun
from mixformerv2_ros.lab.evaluation.metrics import overlaps
from mixformerv2_ros.lab.evaluation.report_charts import overlap_strip
from mixformerv2_ros.lab.evaluation.results import Result
from mixformerv2_ros.lab.evaluation.summary import Summary
from mixformerv2_ros.lab.reports.charts import PALETTE
from mixformerv2_ros.lab.reports.page import png_uri

# Field of OverallScores (fps apart), short name, form.
_OVERALL = (
    ("sequences", "seqs", "d"),
    ("success_auc", "AUC", ".3f"),
    ("precision", "P20", ".3f"),
    ("normalised_precision", "NP", ".3f"),
    ("op50", "OP50", ".3f"),
    ("op75", "OP75", ".3f"),
    ("seq50", "SEQ50", ".3f"),
    ("ao", "AO", ".3f"),
    ("sr50", "SR50", ".3f"),
    ("sr75", "SR75", ".3f"),
    ("fps", "fps", ".1f"),
)
# Field of SequenceScores (fps apart), short name, form.
METRICS = (
    ("success_auc", "AUC", ".3f"),
    ("precision", "P20", ".3f"),
    ("normalised_precision", "NP", ".3f"),
    ("op50", "OP50", ".3f"),
    ("op75", "OP75", ".3f"),
    ("mean_overlap", "IoU", ".3f"),
    ("fps", "fps", ".1f"),
)


@dataclass(frozen=True, eq=False)
class Entry:
    """One tracker of the report, with everything computed from its results.

    Attributes:
        run: Its results.
        series: Its number, which chooses its colour; 0 is the tracker in focus.
        pairs: The sequences that it has results for, with these.
        summary: Its figures.
        curves: Its curves over thresholds.
    """

    run: TrackerRun
    series: int
    pairs: list[tuple[AnnotatedSequence, Result]]
    summary: Summary
    curves: Curves

    @property
    def label(self) -> str:
        """Name of the tracker."""
        return self.run.label

    @property
    def swatch(self) -> str:
        """CSS class of its colour."""
        return f"s{self.series % len(PALETTE)}"


@dataclass(frozen=True)
class Cell:
    """A number in a table, with full precision for the page's sorting.

    Attributes:
        value: The number, NaN where there is none.
        form: Format of its text.
        style: CSS classes: `best`, `second`, `m-METRIC`.
        share: Length of the bar behind it, in [0, 1].
    """

    value: float
    form: str = ".3f"
    style: str = ""
    share: float = 0.0


def overall_rows(ranked: Sequence[Entry]) -> dict[str, Any]:
    """Heads, rows (entry and cells), and whether all trackers have the same sequences."""
    columns = []
    for name, _, form in _OVERALL:
        values = [
            entry.summary.fps if name == "fps" else getattr(entry.summary.overall, name)
            for entry in ranked
        ]
        medals = [""] * len(values) if name == "sequences" else _medals(values)
        columns.append(
            [Cell(value, form, medal) for value, medal in zip(values, medals, strict=True)]
        )
    return {
        "heads": [short for _, short, _ in _OVERALL],
        "rows": list(zip(ranked, zip(*columns, strict=True), strict=True)),
        "comparable": len({entry.summary.overall.sequences for entry in ranked}) == 1,
    }


def attribute_rows(
    ranked: Sequence[Entry], sequences: Sequence[AnnotatedSequence]
) -> list[tuple[str, int, list[Cell]]]:
    """Name, number of sequences, and success AUC per tracker of each attribute."""
    groups: dict[str, set[str]] = {}
    for sequence in sequences:
        for name in sequence.attributes:
            groups.setdefault(name, set()).add(sequence.name)
    rows = []
    for name, members in sorted(groups.items()):
        values = []
        for entry in ranked:
            scores = [
                scores.success_auc
                for member, scores in entry.summary.sequences.items()
                if member in members and scores.frames
            ]
            values.append(float(np.mean(scores)) if scores else math.nan)
        rows.append((name, len(members), _bars(values, 1.0)))
    return rows


def sequence_rows(
    entries: Sequence[Entry], sequences: Sequence[AnnotatedSequence]
) -> list[dict[str, Any]]:
    """Per sequence its overlap strip, and per tracker a cell of every metric."""
    results = {sequence.name: result for sequence, result in entries[0].pairs}
    fastest = np.array([fps for each in entries for fps in each.summary.sequence_fps.values()])
    top = float(np.nanmax(fastest)) if np.isfinite(fastest).any() else 1.0
    rows = []
    for sequence in sequences:
        by_metric = []
        for metric, _, form in METRICS:
            values = [_sequence_figure(entry, sequence.name, metric) for entry in entries]
            limit = top if metric == "fps" else 1.0
            by_metric.append(_bars(values, limit, form, f"m-{metric}"))
        result = results.get(sequence.name)
        overlap = None if result is None else overlaps(result.boxes, sequence.boxes)
        rows.append(
            {
                "name": sequence.name,
                "frames": len(sequence),
                "strip": None if overlap is None else png_uri(overlap_strip(overlap)),
                "cells": list(zip(*by_metric, strict=True)),
            }
        )
    return rows


def _sequence_figure(entry: Entry, name: str, metric: str) -> float:
    if metric == "fps":
        return entry.summary.sequence_fps.get(name, math.nan)
    scores = entry.summary.sequences.get(name)
    return math.nan if scores is None else float(getattr(scores, metric))


def confidence_cells(entry: Entry) -> list[Cell]:
    """Median confidences, the LOST decision, and the long-term figures of one tracker."""
    scores, term = entry.summary.confidence, entry.summary.long_term
    long_term = [math.nan] * 4
    if term is not None:
        long_term = [term.precision, term.recall, term.f_score, term.threshold]
    return [
        Cell(scores.median_hit),
        Cell(scores.median_miss),
        Cell(scores.lost_frames, "d"),
        Cell(scores.lost_precision),
        Cell(scores.lost_recall),
        *map(Cell, long_term),
    ]


def _bars(values: Sequence[float], limit: float, form: str = ".3f", style: str = "") -> list[Cell]:
    """Cells with bars behind the numbers, the best two marked."""
    shares = [
        min(max(value / limit, 0.0), 1.0) if math.isfinite(value) else 0.0 for value in values
    ]
    return [
        Cell(value, form, f"{style} {medal}".strip(), share)
        for value, medal, share in zip(values, _medals(values), shares, strict=True)
    ]


def _medals(values: Sequence[float]) -> list[str]:
    """`best` and `second` among several distinct values, else nothing."""
    known = sorted({value for value in values if math.isfinite(value)}, reverse=True)
    if len(known) < 2:
        return [""] * len(values)
    names: Mapping[float, str] = {known[0]: "best", known[1]: "second"}
    return [names.get(value, "") for value in values]


def descending(value: float) -> float:
    """Key that sorts the largest value first and those that are not known last."""
    return -value if math.isfinite(value) else math.inf
