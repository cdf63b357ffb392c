"""The report of an evaluation: one self-contained HTML page for people."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from collections.abc import Sequence as List
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mixformerv2_ros.errors import ImageError, ParameterError, SourceError
from mixformerv2_ros.files import write_file
from mixformerv2_ros.io.images import read_bgr
from mixformerv2_ros.lab.datasets.sequences import AnnotatedSequence
from mixformerv2_ros.lab.evaluation.analysis import (
    FAILED_BELOW,
    PIXEL_THRESHOLDS,
    CalibrationBin,
    Curves,
    Moment,
    TrackerRun,
    calibration,
    curves,
    flagged_spans,
    worst_moments,
)
from mixformerv2_ros.lab.evaluation.metrics import (
    NORMALISED_THRESHOLDS,
    PRECISION_PIXELS,
    SUCCESS_THRESHOLDS,
    Floats,
    OverallScores,
    overlaps,
)
from mixformerv2_ros.lab.evaluation.results import Result
from mixformerv2_ros.lab.evaluation.summary import Summary, summarise
from mixformerv2_ros.lab.reports.charts import (
    Bars,
    Guide,
    Line,
    Row,
    Trace,
    histogram,
    histogram_rows,
    line_chart,
    linear_axis,
    log_axis,
    round_step,
    series_class,
    timeline,
)
from mixformerv2_ros.lab.reports.page import jpeg_uri, number_cell, page
from mixformerv2_ros.machine import environment

WORST = 6
"""Number of worst moments shown."""

PICTURE_WIDTH = 320
"""Largest width of a picture in a strip, in pixels."""

_HERE = Path(__file__).resolve().parent

# Field of OverallScores, short name, form.
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
)
# Field of SequenceScores (fps apart), short name.
_PER_SEQUENCE = (
    ("success_auc", "AUC"),
    ("precision", "P20"),
    ("normalised_precision", "NP"),
    ("op50", "OP50"),
    ("op75", "OP75"),
    ("mean_overlap", "IoU"),
    ("fps", "fps"),
)
_DEFINITIONS = (
    (
        "AUC",
        "success AUC: mean over the overlap thresholds 0, 0.05 … 1 of the share of frames with "
        "IoU above the threshold; mean over sequences. A perfect tracker reaches 0.952.",
    ),
    ("P20", "precision: share of frames whose centre is at most 20 px away; mean over sequences."),
    (
        "NP",
        "normalised precision: centre distance in units of the target's width and height; mean "
        "over the thresholds 0, 0.01 … 0.5 of the share of frames within; mean over sequences.",
    ),
    ("OP50, OP75", "share of frames with IoU above 0.5, 0.75; mean over sequences."),
    ("SEQ50", "share of sequences whose mean IoU is above 0.5."),
    ("AO, SR50, SR75", "GOT-10k's average overlap and success rates, pooled over all frames."),
    ("fps", "frames per second inside the tracker, starts and image decoding not counted."),
    ("hit, miss", "a frame with IoU above 0.5; with IoU below 0.1 or without target."),
    (
        "LOST precision, recall",
        "share of the frames called LOST that are misses; share of the "
        "misses that were called LOST.",
    ),
    (
        "LT P, R, F",
        "long-term precision, recall and F as in the VOT-LT challenges, at the "
        "confidence threshold with the largest F.",
    ),
    (
        "Frames",
        "all frames with ground truth count, the first included; frames without target "
        "count in hit, miss and long-term figures only, which leave out the first frame.",
    ),
)


@dataclass(frozen=True, eq=False)
class _Entry:
    """One tracker of the report, with everything computed from it."""

    run: TrackerRun
    series: int
    ours: bool
    pairs: list[tuple[AnnotatedSequence, Result]]
    summary: Summary
    curves: Curves

    @property
    def label(self) -> str:
        return self.run.label

    @property
    def overall(self) -> OverallScores:
        return self.summary.overall


def write_report(
    path: Path,
    runs: Iterable[TrackerRun],
    sequences: List[AnnotatedSequence],
    *,
    command: str = "",
    dataset: str = "",
    focus: str | None = None,
    problems: List[str] = (),
) -> None:
    """Write the report of one or several trackers on the same sequences to `path`.

    Frames are read again for the few pictures shown; one that cannot be read is left out of them.

    Args:
        path: The HTML file.
        runs: What each tracker said (`analysis.read_run`, or from memory).
        sequences: The annotated sequences; a tracker may lack some of them. Those whose ground
            truth is withheld are left out.
        command: Command line that made the results, for the head.
        dataset: Name of the data set, for the head.
        focus: Label of the tracker that is looked at closely; by default the first of ours, else
            the best one.
        problems: Lines about what could not be evaluated, to be shown.

    Raises:
        ParameterError: there is no run, none is called `focus`, or all ground truth is withheld.
        SourceError: the file cannot be written.
    """
    sequences = [sequence for sequence in sequences if not sequence.withheld]
    if not sequences:
        raise ParameterError(f"{path}: a report needs sequences with published ground truth")
    entries = _entries(list(runs), sequences, focus)
    first = entries[0]
    ranked = sorted(entries, key=lambda each: -_or_least(each.overall.success_auc))
    title = f"{first.label} on {dataset}" if dataset else f"{first.label}: evaluation"
    body = "\n".join(
        [
            _head(first, ranked, sequences, command, dataset, problems),
            '<main id="main">',
            _overall_section(ranked),
            _plots_section(entries),
            _attributes_section(ranked, sequences),
            _sequences_section(first, ranked, sequences),
            _moments_section(first),
            _confidence_section(first, entries),
            _speed_section(entries),
            _runs_section(entries),
            "</main>",
        ]
    )
    write_file(
        path,
        page(title, body, _own("report.css")),
    )


def _entries(
    runs: list[TrackerRun], sequences: List[AnnotatedSequence], focus: str | None
) -> list[_Entry]:
    """Entries of all runs, that in focus first, the others by success AUC."""
    if not runs:
        raise ParameterError("a report needs the results of at least one tracker, got none")
    labels = [run.label for run in runs]
    if focus is not None and focus not in labels:
        raise ParameterError(f"focus must be one of {', '.join(labels)}, got {focus!r}")
    judged = []
    for run in runs:
        pairs = [(each, run.results[each.name]) for each in sequences if each.name in run.results]
        judged.append((run, pairs, summarise(pairs), curves(pairs)))
    judged.sort(key=lambda each: -_or_least(each[2].overall.success_auc))
    if focus is None:
        ours = [run.label for run in runs if _is_ours(run)]
        focus = ours[0] if ours else judged[0][0].label
    judged.sort(key=lambda each: each[0].label != focus)
    return [
        _Entry(run, number, _is_ours(run), pairs, summary, curve)
        for number, (run, pairs, summary, curve) in enumerate(judged)
    ]


def _is_ours(run: TrackerRun) -> bool:
    return bool(run.facts.get("config", {}).get("tracker") == "mixformer")


# Sections, in the order of the page


def _head(
    first: _Entry,
    ranked: List[_Entry],
    sequences: List[AnnotatedSequence],
    command: str,
    dataset: str,
    problems: List[str],
) -> str:
    overall = first.overall
    frames = sum(len(each) for each in sequences)
    place = ranked.index(first) + 1
    rank = f"{_ordinal(place)} of {len(ranked)} trackers" if len(ranked) > 1 else "mean of curve"
    tiles = [
        ("success AUC", overall.success_auc, ".3f", rank),
        ("precision", overall.precision, ".3f", f"centre within {PRECISION_PIXELS:g} px"),
        ("norm. precision", overall.normalised_precision, ".3f", "in units of the target's size"),
        ("average overlap", overall.ao, ".3f", f"SR50 {_text(overall.sr50, '.3f')}"),
        ("speed", first.summary.fps, ".1f", "frames per second"),
    ]
    shown = "".join(
        f'<div class="tile"><dt>{name}</dt><dd data-v="{value!r}">{_text(value, form)}</dd>'
        f'<dd class="soft">{escape(note)}</dd></div>'
        for name, value, form, note in tiles
    )
    where = f" of {escape(dataset)}" if dataset else ""
    lines = [
        f"{len(sequences)} sequences{where}, {frames:,} frames, one pass from the first box to the "
        "end, no restart.",
    ]
    facts = _fact_lines(first)
    notes = ""
    if problems:
        items = "".join(f"<li>{escape(each)}</li>" for each in problems)
        plural = "s" if len(problems) > 1 else ""
        notes = (
            f'<details class="problems"><summary>{len(problems)} problem{plural}: not everything '
            f"could be evaluated</summary><ul>{items}</ul></details>"
        )
    said = f'<p class="command"><code>{escape(command)}</code></p>' if command else ""
    return (
        '<header><div class="top"><div>'
        f'<p class="kicker">Tracking evaluation</p><h1>{escape(first.label)}</h1></div>'
        '<button id="theme" type="button" class="screen" hidden>light / dark</button></div>'
        f"<p>{' '.join(lines)}</p>{notes}"
        f'<dl class="tiles">{shown}</dl>'
        f'<dl class="facts">{facts}</dl>{said}</header>'
    )


def _fact_lines(entry: _Entry) -> str:
    config, versions = entry.run.facts.get("config", {}), entry.run.facts.get("versions", {})
    machine = entry.run.facts.get("machine", {})
    rows = []
    if "bundle" in config or "weights" in config:
        rows.append(("model", str(config.get("bundle", config.get("weights")))))
    if "weights_sha256" in config:
        rows.append(("weights", f"SHA-256 {str(config['weights_sha256'])[:12]}"))
    if "engine" in config:
        rows.append(("engine", f"{config['engine']} on {config.get('device', 'cpu')}"))
    if "num_threads" in config:
        rows.append(("threads", str(config["num_threads"])))
    known = [f"{name} {version}" for name, version in versions.items() if version]
    if known:
        rows.append(("versions", ", ".join(known)))
    if machine:
        rows.append(("machine", ", ".join(_machine(machine))))
    return "".join(f"<div><dt>{name}</dt><dd>{escape(text)}</dd></div>" for name, text in rows)


def _machine(machine: Mapping[str, Any]) -> list[str]:
    parts = [str(machine.get("processor", ""))]
    if machine.get("cores"):
        parts.append(f"{machine['cores']} cores")
    parts.append(str(machine.get("system", "")))
    return [part for part in parts if part]


def _overall_section(ranked: List[_Entry]) -> str:
    heads = "".join(f"<th>{short}</th>" for _, short, _ in _OVERALL)
    columns = {name: [_figure(each.overall, name) for each in ranked] for name, _, _ in _OVERALL}
    columns["fps"] = [each.summary.fps for each in ranked]
    forms = {name: form for name, _, form in _OVERALL} | {"fps": ".1f"}
    rows = []
    for number, entry in enumerate(ranked):
        cells = "".join(
            number_cell(
                int(values[number]) if forms[name] == "d" else values[number],
                forms[name],
                "" if name == "sequences" else _medal(values, number),
            )
            for name, values in columns.items()
        )
        rows.append(f"<tr>{_row_head(entry)}{cells}</tr>")
    note = "Best in bold, second underlined." if len(ranked) > 1 else ""
    counts = set(columns["sequences"])
    if len(counts) > 1:
        note += " Figures of trackers with fewer sequences are not comparable with the others."
    return (
        f'<section><h2 id="overall">Overall</h2><p class="soft">{note}</p>'
        '<div class="scroll"><table class="sortable" id="overall-table">'
        f'<thead><tr><th class="text" scope="col">tracker</th>{heads}<th>fps</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def _plots_section(entries: List[_Entry]) -> str:
    unit = linear_axis("share of frames", 0.0, 1.0)
    plots = [
        (
            "Success",
            "share of frames with IoU above a threshold",
            SUCCESS_THRESHOLDS,
            linear_axis("overlap threshold", 0.0, 1.0),
            lambda each: (each.curves.success, each.overall.success_auc),
            [],
            "AUC",
        ),
        (
            "Precision",
            "share of frames with the centre within a distance",
            PIXEL_THRESHOLDS,
            linear_axis("centre distance in pixels", 0.0, 50.0),
            lambda each: (each.curves.precision, each.overall.precision),
            [Guide(f"{PRECISION_PIXELS:g} px", x=PRECISION_PIXELS)],
            "P20",
        ),
        (
            "Normalised precision",
            "the same in units of the target's size",
            NORMALISED_THRESHOLDS,
            linear_axis("normalised centre distance", 0.0, 0.5),
            lambda each: (each.curves.normalised, each.overall.normalised_precision),
            [],
            "mean",
        ),
    ]
    figures = []
    for name, said, thresholds, axis, pick, guides, score in plots:
        lines = [
            Line(each.label, thresholds, pick(each)[0], each.series, strong=each.series == 0)
            for each in entries
        ]
        scores = {each.label: pick(each)[1] for each in entries}
        legend = _legend(entries, scores, score)
        figures.append(
            f'<figure class="card"><h3>{name}</h3><figcaption>{said}</figcaption>'
            f'<div class="plot">{line_chart(f"{name} plot", lines, axis, unit, guides)}</div>'
            f"{legend}</figure>"
        )
    return (
        '<section><h2 id="plots">Success and precision</h2>'
        '<p class="soft">Means over sequences; legends sorted by score.</p>'
        f'<div class="cards">{"".join(figures)}</div></section>'
    )


def _attributes_section(ranked: List[_Entry], sequences: List[AnnotatedSequence]) -> str:
    groups: dict[str, set[str]] = {}
    for sequence in sequences:
        for name in sequence.attributes:
            groups.setdefault(name, set()).add(sequence.name)
    if not groups:
        return ""
    rows = []
    for name in sorted(groups):
        values = []
        for entry in ranked:
            scores = [
                scores.success_auc
                for member, scores in entry.summary.sequences.items()
                if member in groups[name] and scores.frames
            ]
            values.append(float(np.mean(scores)) if scores else math.nan)
        cells = "".join(
            f'<td class="value">{_bar(value, 1.0, ".3f", _medal(values, number))}</td>'
            for number, value in enumerate(values)
        )
        rows.append(
            f'<tr><th scope="row">{escape(name)}</th>'
            f"{number_cell(len(groups[name]), 'd')}{cells}</tr>"
        )
    heads = "".join(f"<th>{_swatch(each)}{escape(each.label)}</th>" for each in ranked)
    return (
        '<section><h2 id="attributes">Attributes</h2>'
        '<p class="soft">Success AUC, mean over the sequences that have the attribute.</p>'
        '<div class="scroll"><table class="sortable wrap" id="attributes-table">'
        f'<thead><tr><th class="text">attribute</th><th>seqs</th>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def _sequences_section(
    first: _Entry, ranked: List[_Entry], sequences: List[AnnotatedSequence]
) -> str:
    trackers = [first, *(each for each in ranked if each is not first)]
    results = {sequence.name: result for sequence, result in first.pairs}
    top = max((v for e in ranked for v in e.summary.sequence_fps.values() if v == v), default=1.0)
    rows = []
    for sequence in sequences:
        cells = []
        table = [_sequence_figures(each, sequence.name) for each in trackers]
        for number in range(len(trackers)):
            spans = []
            for metric, _ in _PER_SEQUENCE:
                values = [figures.get(metric, math.nan) for figures in table]
                limit, form = (top, ".1f") if metric == "fps" else (1.0, ".3f")
                style = f"m m-{metric} {_medal(values, number)}"
                spans.append(_bar(values[number], limit, form, style))
            cells.append(f'<td class="value">{"".join(spans)}</td>')
        picture = _sequence_timeline(sequence, results.get(sequence.name))
        rows.append(
            f'<tr><th scope="row">{escape(sequence.name)}</th>'
            f'{number_cell(len(sequence), "d")}<td class="time">{picture}</td>{"".join(cells)}</tr>'
        )
    choices = "".join(
        f'<input type="radio" name="metric" id="m-{metric}"{" checked" if not number else ""}>'
        f'<label for="m-{metric}">{short}</label>'
        for number, (metric, short) in enumerate(_PER_SEQUENCE)
    )
    heads = "".join(f"<th>{_swatch(each)}{escape(each.label)}</th>" for each in trackers)
    return (
        '<section><h2 id="sequences">Sequences</h2>'
        '<p class="soft">Choose a metric; click a column to sort by it. The strip shows the '
        f"overlap of {escape(first.label)} from the first frame to the last: red where it is below "
        f"{FAILED_BELOW:g}, grey where the target is absent.</p>"
        f'<div class="choice" role="group" aria-label="Metric of the table">{choices}'
        '<div class="scroll"><table class="sortable wrap" id="sequences-table">'
        '<thead><tr><th class="text">sequence</th><th>frames</th>'
        '<th class="plain text">overlap</th>'
        f"{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></div></section>"
    )


def _sequence_figures(entry: _Entry, name: str) -> dict[str, float]:
    scores = entry.summary.sequences.get(name)
    if scores is None:
        return {}
    figures = {metric: _figure(scores, metric) for metric, _ in _PER_SEQUENCE if metric != "fps"}
    return {**figures, "fps": entry.summary.sequence_fps[name]}


def _sequence_timeline(sequence: AnnotatedSequence, result: Result | None) -> str:
    if result is None:
        return ""
    overlap = overlaps(result.boxes, sequence.boxes)
    return timeline(
        f"overlap over the frames of {sequence.name}",
        [Trace(overlap, "area")],
        _shades(overlap),
        height=22,
        columns=110,
    )


def _moments_section(first: _Entry) -> str:
    results = {sequence.name: result for sequence, result in first.pairs}
    blocks = []
    for moment in worst_moments(first.pairs, WORST):
        block = _moment(moment, results[moment.sequence.name])
        if block:
            blocks.append(block)
    if not blocks:
        return ""
    legend = (
        '<ul class="legend inline"><li><span class="key truth"></span>ground truth</li>'
        f'<li><span class="key said"></span>{escape(first.label)}</li>'
        f"<li>{_dash('s0 solid')}overlap (IoU)</li><li>{_dash('s1 dashed')}confidence</li>"
        '<li><span class="swatch failed"></span>overlap below 0.1</li>'
        '<li><span class="swatch absent"></span>target absent</li></ul>'
    )
    return (
        '<section><h2 id="worst">Worst moments</h2>'
        f'<p class="soft">The longest failure of {escape(first.label)} in each sequence, those '
        "with most failed frames first: the last good frame, the failure, and what came after.</p>"
        f"{legend}{''.join(blocks)}</section>"
    )


def _moment(moment: Moment, result: Result) -> str:
    sequence, overlap = moment.sequence, moment.overlap
    shown = moment.frames()
    window = _window(sequence, result, shown)
    pictures = []
    for index in shown:
        try:
            image = read_bgr(sequence.frames[index])
        except (ImageError, SourceError):
            continue  # the run itself would have named it
        pictures.append(_picture(sequence, result, overlap, index, image, window))
    if not pictures:
        return ""
    confidence = result.confidences
    known = np.isfinite(confidence).any()
    traces = [Trace(overlap, "iou")] + ([Trace(confidence, "confidence")] if known else [])
    chart = timeline(
        f"overlap and confidence over {sequence.name}",
        traces,
        _shades(overlap),
        shown,
        height=64,
    )
    return (
        f'<article class="card moment"><h3>{escape(sequence.name)}</h3>'
        f'<p class="soft">{_moment_story(moment, result)}</p>'
        f'<div class="strip">{"".join(pictures)}</div>'
        f'<div class="clock">{chart}<span>frame 1</span><span>{len(sequence)}</span></div>'
        "</article>"
    )


def _moment_story(moment: Moment, result: Result) -> str:
    low, high = moment.start + 1, moment.stop
    if not moment.failed:
        least = moment.overlap[moment.start]
        return f"Never below {FAILED_BELOW:g}; least overlap {least:.2f} at frame {low}."
    span = f"frames {low} to {high}" if high > low else f"frame {low}"
    end = "found again afterwards" if moment.recovered else "not found again"
    said = result.confidences[moment.start : moment.stop]
    surety = ""
    if np.isfinite(said).any():
        surety = f"; median confidence meanwhile {np.nanmedian(said):.2f}"
    lost = int(result.lost[moment.start : moment.stop].sum())
    called = f", {lost} of them called LOST" if lost else ""
    counted = f"{moment.failed} frame{'s' if moment.failed > 1 else ''}"
    return f"Overlap below {FAILED_BELOW:g} on {counted} ({span}){called}; {end}{surety}."


_Window = tuple[float, float, float, float]


def _window(sequence: AnnotatedSequence, result: Result, shown: List[int]) -> _Window:
    """Part of the picture (x, y, w, h) that holds all boxes of `shown` with room around them."""
    boxes = np.concatenate([sequence.boxes[shown], result.boxes[shown]])
    boxes = boxes[~np.isnan(boxes).any(axis=1)]
    low, high = boxes[:, :2].min(axis=0), (boxes[:, :2] + boxes[:, 2:]).max(axis=0)
    sides = np.sqrt(np.maximum(boxes[:, 2] * boxes[:, 3], 1.0))
    room = 1.2 * float(np.median(sides))
    size = np.maximum(high - low + 2 * room, 5 * room)
    # One shape for all strips keeps the page calm.
    width = max(float(size[0]), float(size[1]) * 4 / 3)
    middle = (low + high) / 2
    return float(middle[0] - width / 2), float(middle[1] - width * 3 / 8), width, width * 3 / 4


def _picture(
    sequence: AnnotatedSequence,
    result: Result,
    overlap: Floats,
    index: int,
    image: Any,
    window: _Window,
) -> str:
    x, y, width, height = _inside(window, image.shape[1], image.shape[0])
    part = image[y : y + height, x : x + width]
    scale = min(1.0, PICTURE_WIDTH / width)
    if scale < 1:
        part = cv2.resize(part, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    truth, said = sequence.boxes[index], result.boxes[index]
    present = not np.isnan(truth).any()
    rects = (_rect(truth, "truth") if present else "") + _rect(said, "said")
    confidence = result.confidences[index]
    badges = ""
    if np.isfinite(confidence):
        badges = f'<span class="badge">conf {confidence:.2f}</span>'
    if result.lost[index]:
        badges += '<span class="badge bad">LOST</span>'
    value = f"IoU {overlap[index]:.2f}" if present else "target absent"
    style = "good" if present and overlap[index] > 0.5 else "bad"
    if present and FAILED_BELOW <= overlap[index] <= 0.5:
        style = "soft"
    named = f"frame {index + 1} of {sequence.name}: {value}"
    return (
        f'<figure><div class="shot"><svg viewBox="{x} {y} {width} {height}" role="img" '
        f'aria-label="{escape(named)}">'
        f'<image href="{jpeg_uri(part)}" x="{x}" y="{y}" width="{width}" height="{height}" '
        f'preserveAspectRatio="none"/>{rects}</svg>{badges}</div>'
        f'<figcaption>#{index + 1} <span class="{style}">{value}</span></figcaption></figure>'
    )


def _inside(window: _Window, width: int, height: int) -> tuple[int, int, int, int]:
    """`window` in whole pixels, shrunk and shifted into a picture of the given size."""
    x, y, w, h = window
    across, down = min(round(w), width), min(round(h), height)
    left = min(max(round(x + (w - across) / 2), 0), width - across)
    top = min(max(round(y + (h - down) / 2), 0), height - down)
    return left, top, max(across, 1), max(down, 1)


def _rect(box: Floats, style: str) -> str:
    x, y, w, h = (float(value) for value in box)
    if w <= 0 or h <= 0:
        return ""
    place = f'x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}"'
    return f'<rect class="halo" {place}/><rect class="{style}" {place}/>'


def _confidence_section(first: _Entry, entries: List[_Entry]) -> str:
    sure = [entry for entry in entries if entry.summary.long_term is not None]
    table = _confidence_table(entries)
    if not sure:
        return (
            '<section><h2 id="confidence">Confidence</h2><p class="soft">None of these trackers '
            f"gives confidences.</p>{table}</section>"
        )
    chosen = first if first in sure else sure[0]
    bins = {entry.label: calibration(entry.pairs) for entry in sure}
    cards = _calibration_card(chosen, sure, bins) + _confidence_histogram(chosen, bins)
    cards += _bins_card(chosen, bins[chosen.label])
    return (
        '<section><h2 id="confidence">Confidence</h2>'
        f"<p>{_meaning(chosen, bins[chosen.label])}</p>"
        f'<div class="cards">{cards}</div>{table}</section>'
    )


def _meaning(entry: _Entry, bins: List[CalibrationBin]) -> str:
    """What a confidence of 0.5 means, in a sentence."""
    around = next((each for each in bins if each.low <= 0.5 < each.high), None)
    name = f"<strong>What does a confidence of 0.5 mean?</strong> {escape(entry.label)}"
    if around is None or not around.frames:
        seen = [each for each in bins if each.frames]
        return (
            f"{name} never says so here; its confidences lie between {seen[0].low:.2f} and "
            f"{seen[-1].high:.2f}."
        )
    low, median, high = around.quartiles
    return (
        f"{name} says {around.low:.2f} to {around.high:.2f} on {around.frames:,} frames; half of "
        f"them have an overlap above {median:.2f} (quartiles {low:.2f} and {high:.2f}), "
        f"{around.hits / around.frames:.0%} are hits and "
        f"{around.misses / around.frames:.0%} misses."
    )


def _calibration_card(
    chosen: _Entry, sure: List[_Entry], bins: Mapping[str, List[CalibrationBin]]
) -> str:
    lines = []
    low, high = 0.0, 1.0
    for entry in sure:
        found = [each for each in bins[entry.label] if each.frames]
        at = np.array([(each.low + each.high) / 2 for each in found])
        quartiles = np.array([each.quartiles for each in found]).reshape(-1, 3)
        strong = entry is chosen
        low = min(low, bins[entry.label][0].low)
        high = max(high, bins[entry.label][-1].high)
        lines.append(
            Line(
                entry.label,
                at,
                quartiles[:, 1],
                entry.series,
                strong,
                quartiles[:, 0] if strong else None,
                quartiles[:, 2] if strong else None,
                dots=True,
            )
        )
    chart = line_chart(
        "Median overlap by confidence",
        lines,
        linear_axis("confidence", low, high),
        linear_axis("overlap (IoU)", 0.0, 1.0),
        [Guide(), Guide("hit", y=0.5)],
    )
    items = "".join(
        f'<li data-series="{entry.series}" class="{series_class(entry.series)}">{_dash("")}'
        f'<span class="who{" ours" if entry is chosen else ""}">{escape(entry.label)}</span></li>'
        for entry in sure
    )
    return (
        '<figure class="card"><h3>Calibration</h3><figcaption>median overlap of the frames with a '
        f"confidence; band: quartiles of {escape(chosen.label)}</figcaption>"
        f'<div class="plot">{chart}</div><ul class="legend inline">{items}</ul></figure>'
    )


def _confidence_histogram(chosen: _Entry, bins: Mapping[str, List[CalibrationBin]]) -> str:
    mine = bins[chosen.label]
    edges = np.array([each.low for each in mine] + [mine[-1].high])
    frames = np.array([float(each.frames) for each in mine])
    hits = np.array([float(each.hits) for each in mine])
    misses = np.array([float(each.misses) for each in mine])
    step = round_step(max(float(frames.max()), 1.0) / 5)
    high = math.ceil(float(frames.max()) / step) * step
    chart = histogram(
        "Frames by confidence",
        edges,
        [
            Bars("misses", misses, "miss"),
            Bars("in between", frames - hits - misses, "middling"),
            Bars("hits", hits, "hit"),
        ],
        linear_axis("confidence", float(edges[0]), float(edges[-1])),
        linear_axis("frames", 0.0, high),
    )
    return (
        f'<figure class="card"><h3>Confidences of {escape(chosen.label)}</h3>'
        f"<figcaption>frames, first ones left out</figcaption>"
        f'<div class="plot">{chart}</div><ul class="legend inline">'
        '<li><span class="swatch hit"></span>hit: IoU above 0.5</li>'
        '<li><span class="swatch"></span>in between</li>'
        '<li><span class="swatch miss"></span>miss: IoU below 0.1 or absent</li></ul></figure>'
    )


def _bins_card(chosen: _Entry, bins: List[CalibrationBin]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{each.low:.2f} – {each.high:.2f}</th>{number_cell(each.frames, "d")}'
        f"{number_cell(each.quartiles[1], '.2f')}"
        f"{number_cell(each.hits / each.frames if each.frames else math.nan, '.0%')}"
        f"{number_cell(each.misses / each.frames if each.frames else math.nan, '.0%')}</tr>"
        for each in reversed(bins)
    )
    return (
        '<figure class="card"><h3>In numbers</h3>'
        f"<figcaption>what a confidence of {escape(chosen.label)} means</figcaption>"
        '<table class="small" id="calibration-table"><thead><tr><th>confidence</th><th>frames</th>'
        f"<th>median IoU</th><th>hits</th><th>misses</th></tr></thead><tbody>{rows}</tbody></table>"
        "</figure>"
    )


def _confidence_table(entries: List[_Entry]) -> str:
    heads = (
        "hit", "miss", "LOST frames", "LOST precision", "LOST recall",
        "LT P", "LT R", "LT F", "at",
    )  # fmt: skip
    rows = []
    for entry in entries:
        scores, term = entry.summary.confidence, entry.summary.long_term
        values = [scores.median_hit, scores.median_miss, scores.lost_frames]
        values += [scores.lost_precision, scores.lost_recall]
        values += (
            [term.precision, term.recall, term.f_score, term.threshold] if term else [math.nan] * 4
        )
        cells = "".join(
            number_cell(value, "d" if isinstance(value, int) else ".3f") for value in values
        )
        rows.append(f"<tr>{_row_head(entry)}{cells}</tr>")
    return (
        '<div class="scroll"><table class="sortable" id="confidence-table">'
        "<caption>Median confidence of hits and misses; the decision that the target is LOST; "
        "long-term (LT) precision, recall and F at the best confidence threshold.</caption>"
        f'<thead><tr><th class="text">tracker</th>{"".join(f"<th>{h}</th>" for h in heads)}</tr>'
        f"</thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _speed_section(entries: List[_Entry]) -> str:
    times = {}
    for entry in entries:
        parts = [result.seconds[1:] for _, result in entry.pairs]
        joined = np.concatenate([np.zeros(0), *parts]) * 1000
        known = joined[np.isfinite(joined) & (joined > 0)]
        if known.size:
            times[entry.label] = known
    if not times:
        return ""
    low = min(float(np.quantile(each, 0.002)) for each in times.values())
    high = max(float(np.quantile(each, 0.998)) for each in times.values())
    low, high = low / 1.15, max(high * 1.15, low * 1.5)
    edges = np.geomspace(low, high, 91)
    rows = []
    for entry in entries:
        if entry.label not in times:
            continue
        known = times[entry.label]
        median, late = (float(each) for each in np.quantile(known, [0.5, 0.95]))
        counts = np.histogram(np.clip(known, low, high), edges)[0].astype(np.float64)
        note = f"median {median:.3g} ms, 95 % below {late:.3g} ms, {entry.summary.fps:.1f} fps"
        rows.append(Row(entry.label, note, counts, median, entry.series))
    chart = histogram_rows(
        "Time per frame of each tracker", edges, rows, log_axis("milliseconds per frame", low, high)
    )
    return (
        '<section><h2 id="speed">Speed</h2>'
        '<p class="soft">Time per frame inside the tracker (conversion, crop, network); starts and '
        "image decoding are not counted. The tick marks the median.</p>"
        f'<figure class="card speed">{chart}</figure></section>'
    )


def _runs_section(entries: List[_Entry]) -> str:
    rows = []
    for entry in entries:
        facts = entry.run.facts
        config = {key: value for key, value in facts.get("config", {}).items() if value is not None}
        said = ", ".join(f"{key} {value}" for key, value in config.items()) or "not recorded"
        where = ", ".join(_machine(facts.get("machine", {}))) or "not recorded"
        rows.append(
            f'<tr>{_row_head(entry)}<td class="text fold"><code>{escape(said)}</code></td>'
            f'<td class="text fold">{escape(where)}</td></tr>'
        )
    terms = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(text)}</dd></div>" for name, text in _DEFINITIONS
    )
    version = environment()["versions"]["mixformerv2_ros"]
    return (
        '<section><h2 id="runs">What was run</h2><div class="scroll"><table class="wide">'
        '<thead><tr><th class="text">tracker</th><th class="text">configuration</th>'
        f'<th class="text">machine</th></tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
        f'<h2 id="terms">Definitions</h2><dl class="terms">{terms}</dl>'
        f'<footer class="soft">mixformerv2_ros {escape(str(version))}</footer></section>'
    )


# Pieces


def _legend(entries: List[_Entry], scores: Mapping[str, float], name: str) -> str:
    """Trackers with their scores by label, best first."""
    items = []
    for entry in sorted(entries, key=lambda each: -_or_least(scores[each.label])):
        ours = " ours" if entry.series == 0 else ""
        items.append(
            f'<li data-series="{entry.series}" class="{series_class(entry.series)}">{_dash("")}'
            f'<span class="score" data-v="{scores[entry.label]!r}" title="{name}">'
            f"{_text(scores[entry.label], '.3f')}</span>"
            f'<span class="who{ours}">{escape(entry.label)}</span></li>'
        )
    return f'<ul class="legend">{"".join(items)}</ul>'


def _dash(style: str) -> str:
    return (
        f'<svg class="{style}" width="26" height="8" aria-hidden="true">'
        '<path class="curve" d="M1 4H25"/></svg>'
    )


def _swatch(entry: _Entry) -> str:
    return f'<span class="swatch s{entry.series % 8}"></span>'


def _row_head(entry: _Entry) -> str:
    ours = ' class="ours"' if entry.series == 0 else ""
    return f'<th scope="row"{ours}>{_swatch(entry)}{escape(entry.label)}</th>'


def _bar(value: float, limit: float, form: str, style: str) -> str:
    """A number with a bar behind it, in full precision for the page's sorting."""
    if not math.isfinite(value):
        return f'<span class="{style}">–</span>'
    share = min(max(value / limit, 0.0), 1.0)
    return f'<span class="{style}" data-v="{value!r}" style="--v:{share:.0%}">{value:{form}}</span>'


def _shades(overlap: Floats) -> list[tuple[int, int, str]]:
    absent = [(*span, "absent") for span in flagged_spans(np.isnan(overlap))]
    return absent + [(*span, "failed") for span in flagged_spans(overlap < FAILED_BELOW)]


def _medal(values: List[float], number: int) -> str:
    """`best` or `second` among several distinct values, else nothing."""
    known = sorted({value for value in values if math.isfinite(value)}, reverse=True)
    if len(known) < 2 or values[number] not in known[:2]:
        return ""
    return "best" if values[number] == known[0] else "second"


def _figure(scores: Any, name: str) -> float:
    return float(getattr(scores, name))


def _text(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else "–"


def _ordinal(number: int) -> str:
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(number, 'th') }"


def _or_least(value: float) -> float:
    return value if math.isfinite(value) else -math.inf


def _own(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")
