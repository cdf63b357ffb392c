"""The report of a recipe: validation results of its runs as JSON and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixformerv2_ros.files import write_file, write_json

RESULTS = ("step", "validation_iou", "validation_clips_iou")
"""Columns of a run's log that a report has."""


@dataclass(frozen=True)
class Table:
    """A table of validation results in the report.

    Attributes:
        title: Title.
        columns: Headings of the columns after the first.
        rows: Name of a row -> one stage per column; an empty name leaves the cell empty.
    """

    title: str
    columns: tuple[str, ...]
    rows: Mapping[str, tuple[str, ...]]


def write_report(folder: Path, tables: Sequence[Table], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the results of all runs, `report.json`, and the tables of them, `report.md`.

    Args:
        folder: Of the recipe.
        tables: Of the recipe.
        rows: One per run: what it is, and its `RESULTS`.

    Raises:
        SourceError: the files cannot be written.
    """
    write_json(folder / "report.json", {"stages": list(rows)})
    write_file(folder / "report.md", report_text(tables, rows))


def report_text(tables: Sequence[Table], rows: Sequence[Mapping[str, Any]]) -> str:
    """The report in Markdown: the recipe's tables, then a list of all runs.

    Args:
        tables: Of the recipe.
        rows: One per run, as in `report.json`.
    """
    parts = []
    for table in tables:
        lines = [
            ["", *table.columns],
            *(
                [name, *(_results(rows, stage) if stage else "" for stage in stages)]
                for name, stages in table.rows.items()
            ),
        ]
        parts.append(f"{table.title}\n\n{_markdown(lines)}")
    headings = [
        "run",
        "stage",
        "layers",
        "MLP ratio",
        "from",
        "teacher",
        "seed",
        "steps",
        "IoU",
        "clips",
    ]
    lines = [
        headings,
        *(
            [
                row["name"], row["kind"], str(row["depth"]), f"{row['mlp_ratio']:g}",
                Path(row["from"]).name, Path(row["teacher"]).name, str(row["seed"]),
                f"{row['step']:g}", _number(row.get("validation_iou")),
                _number(row.get("validation_clips_iou")),
            ]
            for row in rows
        ),
    ]  # fmt: skip
    parts.append(f"All runs\n\n{_markdown(lines)}")
    parts.append(
        "IoU is the mean over the fixed validation samples; clips is the mean IoU of tracking on "
        "held-out sequences. With several seeds: mean (minimum-maximum)."
    )
    return "\n\n".join(parts) + "\n"


def _results(rows: Sequence[Mapping[str, Any]], stage: str) -> str:
    """IoU of a stage, and that on clips after a slash; with several seeds mean and range."""
    shown = []
    for name in RESULTS[1:]:
        values = [row[name] for row in rows if row["stage"] == stage and name in row]
        if len(values) > 1:
            mean = sum(values) / len(values)
            shown.append(f"{mean:.3f} ({min(values):.3f}-{max(values):.3f})")
        elif values:
            shown.append(_number(values[0]))
    return " / ".join(shown)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    rows = ["| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines]
    rows.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(rows)
