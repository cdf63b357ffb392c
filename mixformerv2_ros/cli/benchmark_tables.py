"""The tables that `mixformerv2 benchmark` prints, and the comparisons in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mixformerv2_ros.cli.engine_benchmark import JOINT, Measurement


def compare(summaries: Sequence[dict[str, Any]], measurements: Sequence[Measurement]) -> None:
    """Add to the summaries what they are beside the joint forward, where that was measured.

    `over_joint` is the time of the engine over its, `alone_over_joint` the same for calls that
    follow each other at once; `edges_differ` the mean and the largest distance of box edges in the
    same crops, over the side of the crop.
    """
    joint = next((place for place, m in enumerate(measurements) if m.variant == JOINT), None)
    if joint is None:
        return
    reference, exact = summaries[joint]["milliseconds"], measurements[joint].edges
    for summary, measurement in zip(summaries, measurements, strict=True):
        ms = summary["milliseconds"]
        summary["over_joint"] = round(ms["engine"]["p50"] / reference["engine"]["p50"], 4)
        if "alone" in ms:
            summary["alone_over_joint"] = round(ms["alone"]["p50"] / reference["alone"]["p50"], 4)
        if measurement.edges is not None and exact is not None:
            distances = np.abs(measurement.edges - exact)
            summary["edges_differ"] = [round(float(distances.mean()), 6),
                                       round(float(distances.max()), 6)]  # fmt: skip


def joint_table(summaries: Sequence[dict[str, Any]]) -> str:
    """What `compare` found, one line per variant."""
    lines = [
        f"{'beside torch joint':24}{'engine':>8}{'over it':>9}{'fps':>8}{'alone':>9}{'over it':>9}"
        f"{'fps':>8}{'edges differ by':>17}{'at most':>9}"
    ]
    for summary in summaries:
        ms = summary["milliseconds"]
        line = f"{summary['variant']:24}" + _rate(ms["engine"]["p50"], summary["over_joint"], 8)
        if "alone" in ms:
            line += _rate(ms["alone"]["p50"], summary["alone_over_joint"], 9)
        else:
            line += f"{'–':>9}{'–':>9}{'–':>8}"
        if "edges_differ" in summary:
            mean, most = summary["edges_differ"]
            line += f"{mean:17.6f}{most:9.6f}"
        lines.append(line)
    return "\n".join(lines)


def _rate(ms: float, ratio: float, width: int) -> str:
    return f"{ms:{width}.3f}{ratio:9.3f}{1000 / ms:8.0f}"


def targets_table(runs: Sequence[dict[str, Any]]) -> str:
    """Engine time with several numbers of targets over that with the first number."""
    first = runs[0]
    head = f"{'engine ms, over ' + str(first['targets']):24}"
    lines = [head + "".join(f"{run['targets']:>20}" for run in runs)]
    parts = [part for part in ("engine", "alone") if part in first["variants"][0]["milliseconds"]]
    for place, summary in enumerate(first["variants"]):
        for part in parts:
            times = [run["variants"][place]["milliseconds"][part]["p50"] for run in runs]
            name = summary["variant"] + ("" if part == "engine" else " alone")
            lines.append(f"{name:24}" + "".join(f"{ms:12.3f}{ms / times[0]:8.2f}" for ms in times))
    return "\n".join(lines)


def exit_curves(
    summaries: Sequence[dict[str, Any]], measurements: Sequence[Measurement]
) -> list[dict[str, Any]]:
    """What answers at each exit cost beside full depth, per engine and precision.

    Returns:
        Per engine its `name`, `full_ms` of the search that asks at no exit, and `points`: the
        number of blocks (`at`), median milliseconds of the engine (`ms`) and these over `full_ms`
        (`of_full`).
    """
    curves = []
    for whole, summary in zip(measurements, summaries, strict=True):
        points = [
            (measured.variant.answer_at, other["milliseconds"]["engine"]["p50"])
            for measured, other in zip(measurements, summaries, strict=True)
            if measured.variant.answer_at
            and replace(measured.variant, answer_at=0) == whole.variant
        ]
        if points:
            full = summary["milliseconds"]["engine"]["p50"]
            curves.append(
                {
                    "name": whole.variant.label.removesuffix(" cached"),
                    "full_ms": full,
                    "points": [
                        {"at": at, "ms": ms, "of_full": round(ms / full, 4)} for at, ms in points
                    ],
                }
            )
    return curves


def exits_table(curves: Sequence[dict[str, Any]], depth: int) -> str:
    """Time by exit, one line per engine; shares are of full depth in one graph.

    Args:
        curves: See `exit_curves`.
        depth: Number of the model's blocks.
    """
    at = [point["at"] for point in curves[0]["points"]]
    heads = [f"{n} blocks ({n / depth:.2f})" for n in at[:-1]]
    lines = [
        f"{'engine ms, over full':24}"
        + "".join(f"{head:>19}" for head in [*heads, "all, by exits", "all, one graph"])
    ]
    for curve in curves:
        cells = "".join(f"{p['ms']:12.3f}{p['of_full']:7.2f}" for p in curve["points"])
        lines.append(f"{curve['name']:24}{cells}{curve['full_ms']:19.3f}")
    return "\n".join(lines)


def scaling_lines(curves: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Medians of engine and frame over each axis, one line per variant."""
    lines = []
    for axis, points in curves.items():
        name = "megapixels" if axis == "image" else axis
        lines.append(
            f"{name + ': engine, frame ms':30}" + "".join(f"{p['at']:>16.3g}" for p in points)
        )
        for label in points[0]:
            if label != "at":
                cells = "".join(f"{p[label][0]:8.2f}{p[label][1]:8.2f}" for p in points)
                lines.append(f"{label:30}{cells}")
    return lines


def speed_table(summaries: list[dict[str, Any]]) -> str:
    """Times of the parts of a frame, one line per variant."""
    head = (
        f"{'ms per frame':24}{'decode':>8}{'crop':>8}{'engine':>8}{'p95':>8}{'p99':>8}"
        f"{'frame':>8}{'p95':>8}{'p99':>8}{'fps':>8}{'cpu':>8}{'joule':>8}{'limit':>8}"
        f"{'peak MB':>9}"
    )
    lines = [head]
    for summary in summaries:
        ms = summary["milliseconds"]
        cells = [ms["decode"]["p50"], ms["crop"]["p50"]]
        cells += [ms["engine"][q] for q in ("p50", "p95", "p99")]
        cells += [ms["frame"][q] for q in ("p50", "p95", "p99")]
        lines.append(
            f"{summary['variant']:24}"
            + "".join(f"{cell:8.2f}" for cell in cells)
            + f"{summary['frames_per_second']:8.1f}{ms['cpu']['p50']:8.2f}"
            + _or_dash(summary["joules_per_frame"], "8.3f", "")
            + _or_dash(summary["percent_of_limit"], "6.0f", " %")
            + f"{summary['peak_megabytes']:9.0f}"
        )
    return "\n".join(lines)


def _or_dash(value: float | None, form: str, unit: str) -> str:
    return f"{'–':>8}" if value is None else format(value, form) + unit
