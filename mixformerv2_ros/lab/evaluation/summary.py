"""Figures of trackers over sequences: computed from results, laid out as tables and JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mixformerv2_ros.lab.datasets.sequences import AnnotatedSequence
from mixformerv2_ros.lab.evaluation.absences import AbsenceScores, absence_scores
from mixformerv2_ros.lab.evaluation.metrics import (
    ConfidenceScores,
    LongTermScores,
    OverallScores,
    SequenceScores,
    confidence_scores,
    long_term,
    overlaps,
    score_overall,
    score_sequence,
)
from mixformerv2_ros.lab.evaluation.protocols import got10k_figures, lasot_figures
from mixformerv2_ros.lab.evaluation.results import Result
from mixformerv2_ros.lab.evaluation.spread import Interval, difference, spread


@dataclass(frozen=True)
class Summary:
    """All figures of one tracker.

    Attributes:
        overall: Figures over all sequences.
        fps: Frames per second over all sequences: updates over the seconds that they took, first
            frames (starts) not counted; NaN without times.
        confidence: How well confidences and the LOST decision separate right from wrong.
        long_term: Long-term precision, recall and F; None from trackers without confidences.
        absences: Figures over the sequences in which the target is absent for a while; None where
            there are none.
        sequences: Figures per sequence, by name.
        sequence_fps: Frames per second per sequence, by name.
        toolkit: Figures as the data set's own toolkit computes them, where it differs; see
            `protocols`.
        depth: Mean number of blocks of the network over the frames that it was asked for the
            target; NaN where it is not known.
    """

    overall: OverallScores
    fps: float
    confidence: ConfidenceScores
    long_term: LongTermScores | None
    absences: AbsenceScores | None
    sequences: dict[str, SequenceScores]
    sequence_fps: dict[str, float]
    toolkit: dict[str, float] = field(default_factory=dict)
    depth: float = math.nan

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain dictionaries, for JSON."""
        return {
            "overall": {
                **dataclasses.asdict(self.overall),
                "fps": self.fps,
                "depth": self.depth,
            },
            "confidence": dataclasses.asdict(self.confidence),
            "long_term": dataclasses.asdict(self.long_term) if self.long_term else None,
            "absences": dataclasses.asdict(self.absences) if self.absences else None,
            "toolkit": self.toolkit,
            "sequences": {
                name: {**dataclasses.asdict(scores), "fps": self.sequence_fps[name]}
                for name, scores in self.sequences.items()
            },
        }


def summarise(
    results: Iterable[tuple[AnnotatedSequence, Result]], dataset: str = "folder"
) -> Summary:
    """Compute every figure from what one tracker said on each sequence.

    Of a sequence whose ground truth is withheld only the speed counts.

    Args:
        results: The sequences and what was said on them.
        dataset: A key of `EVALUATION_SETS`, for the figures of that data set's toolkit.
    """
    everything = list(results)
    pairs = [(each, result) for each, result in everything if not each.withheld]
    scores = {each.name: score_sequence(result.boxes, each.boxes) for each, result in pairs}
    overlap = [overlaps(result.boxes, each.boxes) for each, result in pairs]
    confidence = [result.confidences for _, result in pairs]
    known = bool(pairs) and all(np.isfinite(each[1:]).all() for each in confidence)
    return Summary(
        overall=score_overall(scores.values()),
        fps=_fps([result for _, result in everything]),
        confidence=confidence_scores(overlap, confidence, [result.lost for _, result in pairs]),
        long_term=long_term(overlap, confidence) if known else None,
        absences=absence_scores(overlap, confidence, known),
        sequences=scores,
        sequence_fps={each.name: _fps([result]) for each, result in everything},
        toolkit=_toolkit(pairs, dataset),
        depth=_depth([result for _, result in everything]),
    )


def _toolkit(pairs: list[tuple[AnnotatedSequence, Result]], dataset: str) -> dict[str, float]:
    if dataset == "got10k" and pairs:
        return got10k_figures((result.boxes, each.boxes, each.size) for each, result in pairs)
    if dataset == "lasot" and pairs:
        return lasot_figures((result.boxes, each.boxes) for each, result in pairs)
    return {}


def overall_table(summaries: Mapping[str, Summary]) -> str:
    """Table of the overall figures, one line per tracker, best success AUC first."""
    figures = ["AUC", "P20", "NP", "OP50", "OP75", "SEQ50", "AO", "SR50", "SR75"]
    header = ["tracker", "seqs", *figures, "fps"]
    rows = []
    for label, summary in sorted(
        summaries.items(), key=lambda item: -_low_nan(item[1].overall.success_auc)
    ):
        o = summary.overall
        shares = [o.success_auc, o.precision, o.normalised_precision, o.op50, o.op75]
        shares += [o.seq50, o.ao, o.sr50, o.sr75]
        speed = number_cell(summary.fps, ".1f")
        rows.append([label, str(o.sequences), *map(_share, shares), speed])
    return text_table(header, rows)


_TOOLKIT_COLUMNS = {
    **{"ao": "AO", "sr50": "SR50", "sr75": "SR75"},
    **{"success_auc": "AUC", "precision": "P20", "normalised_precision": "NP"},
}


def toolkit_table(summaries: Mapping[str, Summary]) -> str:
    """Table of the figures of the data set's own toolkit; empty where there are none."""
    names = next((list(each.toolkit) for each in summaries.values() if each.toolkit), [])
    if not names:
        return ""
    rows = [
        [label, *(_share(summary.toolkit.get(name, math.nan)) for name in names)]
        for label, summary in summaries.items()
    ]
    return text_table(["as its toolkit", *(_TOOLKIT_COLUMNS[name] for name in names)], rows)


def sequence_table(summaries: Mapping[str, Summary]) -> str:
    """Table of the success AUC per sequence, one column per tracker."""
    names = dict.fromkeys(name for each in summaries.values() for name in each.sequences)
    rows = []
    for name in names:
        found = (each.sequences.get(name) for each in summaries.values())
        rows.append([name, *(_share(one.success_auc) if one else "-" for one in found)])
    return text_table(["sequence", *summaries], rows)


def confidence_table(summaries: Mapping[str, Summary]) -> str:
    """Table of confidence figures, one line per tracker; see `metrics.ConfidenceScores`."""
    header = ["tracker", "conf-hit", "conf-miss", "LOST-P", "LOST-R", "LT-P", "LT-R", "LT-F"]
    rows = []
    for label, summary in summaries.items():
        c, lt = summary.confidence, summary.long_term
        values = [c.median_hit, c.median_miss, c.lost_precision, c.lost_recall]
        values += [lt.precision, lt.recall, lt.f_score] if lt else [math.nan] * 3
        rows.append([label, *map(_share, values)])
    return text_table(header, rows)


def absence_table(summaries: Mapping[str, Summary]) -> str:
    """Table of the sequences with absences, one line per tracker; empty where there are none.

    See `absences.AbsenceScores`.
    """
    rows = []
    for label, summary in summaries.items():
        if (a := summary.absences) is None:
            continue
        lt = a.long_term
        rows.append(
            [
                label,
                *(str(a.sequences), str(a.returns), _share(a.found), number_cell(a.frames, ".1f")),
                *map(_share, [lt.precision, lt.recall, lt.f_score] if lt else [math.nan] * 3),
            ]
        )
    columns = ["seqs", "returns", "found", "frames", "LT-P", "LT-R", "LT-F"]
    return text_table(["with absences", *columns], rows) if rows else ""


def spread_table(summaries: Mapping[str, Summary]) -> str:
    """Tables of how the success AUC spreads over sequences; see `evaluation.spread`.

    Of several trackers, a second table has the differences to the first.
    """
    rows = []
    for label, summary in summaries.items():
        s = spread(summary.sequences)
        lost = _share(s.lost) if s.sequences else "-"
        rows.append([label, *interval_cells(s.auc), _share(s.odd), _share(s.even), lost])
    columns = ["AUC", "95 % over sequences", "odd", "even", "lost"]
    tables = [text_table(["tracker", *columns], rows)]
    first, *others = summaries
    rows = []
    for label in others:
        d = difference(summaries[label].sequences, summaries[first].sequences)
        rows.append(
            [
                label,
                *interval_cells(d.auc, "+.3f"),
                *(number_cell(v, "+.3f") for v in (d.odd, d.even, d.lost)),
            ]
        )
    if rows:
        tables.append(text_table([f"less {first}", *columns], rows))
    return "\n\n".join(tables)


def interval_cells(interval: Interval, form: str = ".3f") -> tuple[str, str]:
    """Mean and interval as texts; dashes where there are none."""
    if math.isnan(interval.mean):
        return "-", "-"
    low, high = format(interval.low, form), format(interval.high, form)
    return format(interval.mean, form), f"{low} to {high}"


def _fps(results: list[Result]) -> float:
    # The first frame starts the tracker; frames that were skipped have no time.
    seconds = sum(float(np.nansum(result.seconds[1:])) for result in results)
    frames = sum(int(np.isfinite(result.seconds[1:]).sum()) for result in results)
    return frames / seconds if seconds > 0 else math.nan


def _depth(results: list[Result]) -> float:
    depths = np.concatenate([[], *(one.depths for one in results if one.depths is not None)])
    return float(depths[depths > 0].mean()) if depths.any() else math.nan


def _low_nan(value: float) -> float:
    return -math.inf if math.isnan(value) else value


def _share(value: float) -> str:
    return number_cell(value, ".3f")


def number_cell(value: float, form: str) -> str:
    """A number as text; a dash where there is none."""
    return "-" if math.isnan(value) else format(value, form)


def text_table(header: list[str], rows: list[list[str]]) -> str:
    """Lines of a table with aligned columns, the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [header, ["-" * width for width in widths], *rows]
    ]
    return "\n".join(lines)
