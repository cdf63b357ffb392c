"""What one model with exits buys at several thresholds, beside static models cut at its exits.

A static model is the same one answering always at the same exit (`trackers.CutEngine`), or at full
depth. Where the curve of the thresholds lies above that of the cuts, deciding per frame pays.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mixformerv2_ros.errors import ParameterError
from mixformerv2_ros.lab.evaluation.spread import Interval, difference, spread
from mixformerv2_ros.lab.evaluation.summary import (
    Summary,
    interval_cells,
    number_cell,
    text_table,
)
from mixformerv2_ros.lab.evaluation.trackers import ExitChoice, TrackerSpec
from mixformerv2_ros.model.bundle import open_bundle


@dataclass(frozen=True)
class TradeOffPoint:
    """One threshold, or one cut.

    Attributes:
        name: Such as `threshold 0.8`, `cut 2` or `full depth`.
        exits: Which exits answered.
        depth: Mean number of blocks over that of full depth.
        ms: Mean milliseconds per frame inside the tracker.
        of_full: `ms` over that of full depth.
        auc: Success AUC with its interval over sequences.
        gain: By how much it exceeds that of full depth, sequence by sequence.
        static_auc: Success AUC of the cuts at the same milliseconds, linear between two of them;
            NaN for cuts, and below the cheapest.
    """

    name: str
    exits: ExitChoice
    depth: float
    ms: float
    of_full: float
    auc: Interval
    gain: Interval
    static_auc: float


@dataclass(frozen=True)
class TradeOff:
    """The curves of one model.

    Attributes:
        model: Its name.
        dynamic: Points of the thresholds, ascending.
        static: Points of the cuts, ascending; the last one is full depth where it was run.
    """

    model: str
    dynamic: tuple[TradeOffPoint, ...]
    static: tuple[TradeOffPoint, ...]

    @property
    def curve(self) -> tuple[TradeOffPoint, ...]:
        """Points of the dynamic curve: the thresholds, then full depth, which is threshold 1."""
        full = [point for point in self.static if point.name == FULL_DEPTH]
        return (*self.dynamic, *full)


FULL_DEPTH = "full depth"
"""Name of the point at which no exit answers."""


def parse_thresholds(option: str, text: str) -> tuple[float, ...]:
    """Thresholds of exits, separated by commas, ascending.

    Raises:
        ParameterError: they are no numbers from 0 to below 1; names the option.
    """
    try:
        values = sorted({float(word) for word in text.split(",")})
    except ValueError:
        values = []
    if not values or not 0 <= values[0] <= values[-1] < 1:
        raise ParameterError(
            f"{option} must be numbers from 0 to below 1, separated by commas, got {text!r}"
        )
    return tuple(values)


def exit_specs(spec: TrackerSpec, thresholds: Sequence[float]) -> list[TrackerSpec]:
    """The same tracker with every threshold, and cut at every exit and at full depth.

    Raises:
        ParameterError: the model has no exits.
    """
    bundle = open_bundle(spec.path)
    if not bundle.spec.exits:
        raise ParameterError(
            f"--exit-thresholds needs a bundle with exits, which {bundle.name} has not; stage "
            "`exits` of `mixformerv2 train` makes them"
        )
    choices = [*(ExitChoice(threshold=one) for one in thresholds)]
    choices += [ExitChoice(cut=depth) for depth in bundle.spec.depths]
    return [dataclasses.replace(spec, exits=choice) for choice in choices]


def trade_offs(
    summaries: Mapping[str, Summary], configs: Mapping[str, Mapping[str, Any]]
) -> list[TradeOff]:
    """Curves of the trackers among `summaries` that ran with an `ExitChoice`, one per model.

    Args:
        summaries: Figures by label.
        configs: What was run, see `run.configuration`; by label.
    """
    models: dict[tuple[Any, ...], dict[str, Summary]] = {}
    for label, summary in summaries.items():
        config = configs.get(label, {})
        if _choice(config) is not None:
            key = tuple(config.get(name) for name in ("bundle", "weights_sha256", "engine"))
            models.setdefault(key, {})[label] = summary
    return [_trade_off(str(key[0]), members, configs) for key, members in models.items()]


def _choice(config: Mapping[str, Any]) -> ExitChoice | None:
    """What `run.configuration` wrote; None of other runs, and of what somebody else wrote."""
    exits = config.get("exits")
    if not isinstance(exits, dict) or not isinstance(exits.get("depth"), int):
        return None
    threshold, cut = exits.get("threshold"), exits.get("cut")
    if isinstance(threshold, int | float):
        return ExitChoice(threshold=float(threshold))
    return ExitChoice(cut=cut) if isinstance(cut, int) else None


def _trade_off(
    model: str, members: Mapping[str, Summary], configs: Mapping[str, Mapping[str, Any]]
) -> TradeOff:
    depth = next(int(configs[label]["exits"]["depth"]) for label in members)
    choices = {label: _choice(configs[label]) or ExitChoice() for label in members}
    full = next((members[label] for label in members if choices[label].cut == depth), None)
    points = []
    for label, summary in members.items():
        choice, ms = choices[label], 1000 / summary.fps
        name = FULL_DEPTH if choice.cut == depth else f"cut {choice.cut}"
        if choice.threshold is not None:
            name = f"threshold {choice.threshold:g}"
        gain = Interval(math.nan, math.nan, math.nan)
        if full is not None and full is not summary:
            gain = difference(summary.sequences, full.sequences).auc
        points.append(
            TradeOffPoint(
                name=name,
                exits=choice,
                depth=summary.depth / depth,
                ms=ms,
                of_full=math.nan if full is None else ms * full.fps / 1000,
                auc=spread(summary.sequences).auc,
                gain=gain,
                static_auc=math.nan,
            )
        )
    static = sorted((one for one in points if one.exits.cut), key=lambda one: one.exits.cut)
    dynamic = sorted(
        (one for one in points if not one.exits.cut), key=lambda one: one.exits.threshold or 0.0
    )
    return TradeOff(
        model,
        tuple(dataclasses.replace(one, static_auc=_static_auc(static, one.ms)) for one in dynamic),
        tuple(static),
    )


def _static_auc(static: Iterable[TradeOffPoint], ms: float) -> float:
    """Success AUC of the cuts at a cost, of the most expensive one beyond it."""
    known = sorted((one.ms, one.auc.mean) for one in static if math.isfinite(one.ms))
    if not known or not ms >= known[0][0]:
        return math.nan
    costs, scores = zip(*known, strict=True)
    return float(np.interp(ms, costs, scores))


def trade_off_table(trade_off: TradeOff) -> str:
    """Table of one model, a line per threshold and per cut."""
    rows = [
        [
            one.name,
            number_cell(one.depth, ".3f"),
            number_cell(one.ms, ".2f"),
            number_cell(one.of_full, ".3f"),
            *interval_cells(one.auc),
            *interval_cells(one.gain, "+.3f"),
            number_cell(one.static_auc, ".3f"),
        ]
        for one in (*trade_off.dynamic, *trade_off.static)
    ]
    columns = ["depth", "ms", "of full", "AUC", "95 % over sequences", "less full", "95 %"]
    return text_table([f"exits of {trade_off.model}", *columns, "cuts at that ms"], rows)


def trade_off_facts(trade_off: TradeOff) -> dict[str, Any]:
    """Everything as plain dictionaries, for JSON."""
    return dataclasses.asdict(trade_off)
