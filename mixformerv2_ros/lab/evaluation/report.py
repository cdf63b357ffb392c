"""The report of an evaluation: one self-contained HTML page for people."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bokeh.plotting import figure

from mixformerv2_ros.errors import ParameterError
from mixformerv2_ros.files import write_file
from mixformerv2_ros.lab.datasets.sequences import AnnotatedSequence
from mixformerv2_ros.lab.evaluation.analysis import (
    FAILED_BELOW,
    PIXEL_THRESHOLDS,
    CalibrationBin,
    FailureSegment,
    TrackerRun,
    calibration,
    curves,
    failure_segments,
)
from mixformerv2_ros.lab.evaluation.filmstrips import filmstrip
from mixformerv2_ros.lab.evaluation.metrics import (
    NORMALISED_THRESHOLDS,
    PRECISION_PIXELS,
    SUCCESS_THRESHOLDS,
    Floats,
)
from mixformerv2_ros.lab.evaluation.report_charts import (
    CalibratedTracker,
    FrameTimes,
    calibration_chart,
    confidence_histogram,
    failure_chart,
    speed_chart,
    threshold_chart,
    trade_off_chart,
)
from mixformerv2_ros.lab.evaluation.report_tables import (
    METRICS,
    Cell,
    Entry,
    attribute_rows,
    confidence_cells,
    descending,
    overall_rows,
    sequence_rows,
)
from mixformerv2_ros.lab.evaluation.results import Result
from mixformerv2_ros.lab.evaluation.summary import summarise
from mixformerv2_ros.lab.evaluation.trade_off import TradeOff, trade_offs
from mixformerv2_ros.lab.reports.charts import Series
from mixformerv2_ros.lab.reports.page import number, render_page
from mixformerv2_ros.machine import environment

SEGMENTS = 6
"""Number of failure segments shown."""


def write_report(
    path: Path,
    runs: Iterable[TrackerRun],
    sequences: Sequence[AnnotatedSequence],
    *,
    command: str,
    dataset: str,
    problems: Sequence[str],
) -> None:
    """Write the report of one or several trackers on the same sequences to `path`.

    The first of our trackers, else the best one, is looked at closely. Frames are read again for
    the few images shown; one that cannot be read is left out.

    Args:
        path: The HTML file.
        runs: Results of each tracker.
        sequences: The annotated sequences; a tracker may lack some of them. Those whose ground
            truth is withheld are left out.
        command: Command line that made the results; may be empty.
        dataset: Name of the data set.
        problems: Lines about what could not be evaluated, to be shown.

    Raises:
        ParameterError: there is no run, or all ground truth is withheld.
        SourceError: the file cannot be written.
    """
    sequences = [sequence for sequence in sequences if not sequence.withheld]
    if not sequences:
        raise ParameterError(f"{path}: a report needs sequences with published ground truth")
    entries = _entries(runs, sequences)
    ranked = sorted(entries, key=lambda each: descending(each.summary.overall.success_auc))
    charts: dict[str, figure] = {}
    page = render_page(
        "evaluation.html.j2",
        charts=charts,
        **_head(ranked, entries[0], sequences),
        focus=entries[0],
        entries=entries,
        ranked=ranked,
        dataset=dataset,
        command=command,
        problems=problems,
        overall=overall_rows(ranked),
        thresholds=_threshold_charts(entries, charts),
        trade_offs=_trade_offs(entries, charts),
        attributes=attribute_rows(ranked, sequences),
        metrics=[(name, short) for name, short, _ in METRICS],
        per_sequence=sequence_rows(entries, sequences),
        failed_below=FAILED_BELOW,
        segments=_segments(entries[0], charts),
        confidence=_confidence(entries, charts),
        confidence_scores=[(entry, confidence_cells(entry)) for entry in entries],
        has_speed=_speed_chart(entries, charts),
        configurations=[(entry, _configuration(entry)) for entry in entries],
        version=environment()["versions"]["mixformerv2_ros"],
    )
    write_file(path, page)


def _entries(runs: Iterable[TrackerRun], sequences: Sequence[AnnotatedSequence]) -> list[Entry]:
    """Entries of all runs: that in focus first, the others by success AUC."""
    measured = []
    for run in runs:
        pairs = [(each, run.results[each.name]) for each in sequences if each.name in run.results]
        measured.append((run, pairs, summarise(pairs), curves(pairs)))
    if not measured:
        raise ParameterError("a report needs the results of at least one tracker, got none")
    measured.sort(key=lambda each: descending(each[2].overall.success_auc))
    measured.sort(key=lambda each: each[0].facts.get("config", {}).get("tracker") != "mixformer")
    focus, *others = measured
    others.sort(key=lambda each: descending(each[2].overall.success_auc))
    return [Entry(each[0], index, *each[1:]) for index, each in enumerate([focus, *others])]


def _head(
    ranked: Sequence[Entry], focus: Entry, sequences: Sequence[AnnotatedSequence]
) -> dict[str, Any]:
    overall = focus.summary.overall
    place = ranked.index(focus) + 1
    rank = f"place {place} of {len(ranked)} trackers" if len(ranked) > 1 else "mean of the curve"
    return {
        "tiles": [
            ("success AUC", number(overall.success_auc), rank),
            ("precision", number(overall.precision), f"centre within {PRECISION_PIXELS:g} px"),
            ("norm. precision", number(overall.normalised_precision), "in units of target size"),
            ("average overlap", number(overall.ao), f"SR50 {number(overall.sr50)}"),
            ("speed", number(focus.summary.fps, ".1f"), "frames per second"),
        ],
        "sequence_count": len(sequences),
        "frame_count": sum(len(each) for each in sequences),
        "facts": _facts(focus),
    }


def _facts(entry: Entry) -> list[tuple[str, str]]:
    config, versions = entry.run.facts.get("config", {}), entry.run.facts.get("versions", {})
    facts = []
    if "bundle" in config or "weights" in config:
        facts.append(("model", str(config.get("bundle", config.get("weights")))))
    if "weights_sha256" in config:
        facts.append(("weights", f"SHA-256 {str(config['weights_sha256'])[:12]}"))
    if "engine" in config:
        facts.append(("engine", f"{config['engine']} on {config.get('device', 'cpu')}"))
    if "num_threads" in config:
        facts.append(("threads", str(config["num_threads"])))
    known = [f"{name} {version}" for name, version in versions.items() if version]
    facts.append(("versions", ", ".join(known)))
    facts.append(("machine", _machine(entry)))
    return [(name, text) for name, text in facts if text]


def _machine(entry: Entry) -> str:
    machine = entry.run.facts.get("machine", {})
    cores = f"{machine['cores']} cores" if machine.get("cores") else ""
    parts = [str(machine.get("processor", "")), cores, str(machine.get("system", ""))]
    return ", ".join(part for part in parts if part)


def _configuration(entry: Entry) -> tuple[str, str]:
    """Configuration and machine of a run as text."""
    config = entry.run.facts.get("config", {})
    text = ", ".join(f"{key} {value}" for key, value in config.items() if value is not None)
    return text or "not recorded", _machine(entry) or "not recorded"


def _threshold_charts(entries: Sequence[Entry], charts: dict[str, figure]) -> list[tuple[str, ...]]:
    """Draw the success and precision plots; returns title, text and name of each."""

    def draw(name: str, x_label: str, thresholds: Floats, curve: str, score: str) -> None:
        best = sorted(entries, key=lambda each: descending(getattr(each.summary.overall, score)))
        lines = [
            Series(
                each.label,
                getattr(each.curves, curve),
                each.series,
                number(getattr(each.summary.overall, score)),
                strong=each.series == 0,
            )
            for each in best
        ]
        guide = PRECISION_PIXELS if name == "precision" else None
        charts[name] = threshold_chart(thresholds, x_label, lines, guide)

    draw("success", "overlap threshold", SUCCESS_THRESHOLDS, "success", "success_auc")
    draw("precision", "centre distance in pixels", PIXEL_THRESHOLDS, "precision", "precision")
    draw(
        "normalised", "normalised centre distance", NORMALISED_THRESHOLDS, "normalised",
        "normalised_precision",
    )  # fmt: skip
    return [
        ("Success", "share of frames with IoU above a threshold; AUC", "success"),
        ("Precision", "share of frames with the centre within a distance; P20", "precision"),
        ("Normalised precision", "the same in units of the target's size; mean", "normalised"),
    ]


def _trade_offs(entries: Sequence[Entry], charts: dict[str, figure]) -> list[dict[str, Any]]:
    """Draw what thresholds of exits buy beside cuts at them, over time and over depth."""
    shown = []
    found = trade_offs(
        {entry.label: entry.summary for entry in entries},
        {entry.label: entry.run.facts.get("config", {}) for entry in entries},
    )
    for index, one in enumerate(found):
        names = f"trade_off_ms{index}", f"trade_off_depth{index}"
        charts[names[0]] = trade_off_chart(one, "ms", "milliseconds per frame")
        charts[names[1]] = trade_off_chart(one, "depth", "mean depth over the full one")
        shown.append({"model": one.model, "charts": names, "rows": _trade_off_rows(one)})
    return shown


def _trade_off_rows(one: TradeOff) -> list[tuple[str, list[Cell]]]:
    return [
        (
            point.name,
            [
                Cell(point.depth),
                Cell(point.ms, ".2f"),
                Cell(point.of_full),
                *map(Cell, (point.auc.mean, point.auc.low, point.auc.high)),
                *(Cell(v, "+.3f") for v in (point.gain.mean, point.gain.low, point.gain.high)),
                Cell(point.static_auc),
            ],
        )
        for point in (*one.dynamic, *one.static)
    ]


def _segments(focus: Entry, charts: dict[str, figure]) -> list[dict[str, Any]]:
    results = {sequence.name: result for sequence, result in focus.pairs}
    shown: list[dict[str, Any]] = []
    for segment in failure_segments(focus.pairs, SEGMENTS):
        result = results[segment.sequence.name]
        strip = filmstrip(segment, result)
        if not strip:
            continue
        name = f"segment{len(shown)}"
        charts[name] = failure_chart(segment, result, [frame.number - 1 for frame in strip])
        shown.append(
            {
                "name": segment.sequence.name,
                "text": _segment_text(segment, result),
                "strip": strip,
                "chart": name,
            }
        )
    return shown


def _segment_text(segment: FailureSegment, result: Result) -> str:
    low, high = segment.start + 1, segment.stop
    if not segment.failed:
        least = segment.overlap[segment.start]
        return f"Never below {FAILED_BELOW:g}; least overlap {least:.2f} at frame {low}."
    frames = f"{segment.failed} frame{'s' if segment.failed > 1 else ''}"
    span = f"frames {low} to {high}" if high > low else f"frame {low}"
    parts = [f"Overlap below {FAILED_BELOW:g} on {frames} ({span})"]
    lost = int(result.lost[segment.start : segment.stop].sum())
    if lost:
        parts.append(f"{lost} of them reported as LOST")
    parts.append("recovered afterwards" if segment.recovered else "not recovered")
    confidences = result.confidences[segment.start : segment.stop]
    if np.isfinite(confidences).any():
        parts.append(f"median confidence {np.nanmedian(confidences):.2f}")
    return "; ".join(parts) + "."


def _confidence(entries: Sequence[Entry], charts: dict[str, figure]) -> dict[str, Any] | None:
    """Calibration of the tracker in focus, else of the first one that gives confidences."""
    rated = [entry for entry in entries if entry.summary.long_term is not None]
    if not rated:
        return None
    chosen = rated[0]
    bins = {entry.series: calibration(entry.pairs) for entry in rated}
    charts["calibration"] = calibration_chart(
        [
            CalibratedTracker(each.label, each.series, each is chosen, bins[each.series])
            for each in rated
        ]
    )
    charts["confidences"] = confidence_histogram(bins[chosen.series])
    return {
        "entry": chosen,
        "meaning": _meaning(chosen.label, bins[chosen.series]),
        "bins": [
            {
                "range": f"{each.low:.2f} – {each.high:.2f}",
                "cells": [
                    Cell(each.frames, "d"),
                    Cell(each.quartiles[1], ".2f"),
                    Cell(each.hits / each.frames if each.frames else math.nan, ".0%"),
                    Cell(each.misses / each.frames if each.frames else math.nan, ".0%"),
                ],
            }
            for each in reversed(bins[chosen.series])
        ],
    }


def _meaning(label: str, bins: Sequence[CalibrationBin]) -> str:
    """What a confidence of 0.5 means, in a sentence."""
    middle = next((each for each in bins if each.low <= 0.5 < each.high), None)
    if middle is None or not middle.frames:
        found = [each for each in bins if each.frames]
        return (
            f"{label} reports none here; its confidences lie between {found[0].low:.2f} and "
            f"{found[-1].high:.2f}."
        )
    low, median, high = middle.quartiles
    return (
        f"{label} reports {middle.low:.2f} to {middle.high:.2f} on {middle.frames:,} frames; half "
        f"of them have an overlap above {median:.2f} (quartiles {low:.2f} and {high:.2f}), "
        f"{middle.hits / middle.frames:.0%} are hits and {middle.misses / middle.frames:.0%} "
        "misses."
    )


def _speed_chart(entries: Sequence[Entry], charts: dict[str, figure]) -> bool:
    """Draw the times per frame; returns whether any are known."""
    timings = []
    for entry in entries:
        seconds = np.concatenate([np.zeros(0), *(result.seconds[1:] for _, result in entry.pairs)])
        known = 1000 * seconds[np.isfinite(seconds) & (seconds > 0)]
        if known.size:
            timings.append(FrameTimes(entry.label, entry.series, entry.summary.fps, known))
    if timings:
        charts["speed"] = speed_chart(timings)
    return bool(timings)
