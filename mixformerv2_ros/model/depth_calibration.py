"""What is known of a bundle's exits: which threshold costs how much and keeps how much accuracy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from mixformerv2_ros.errors import BundleError, ParameterError
from mixformerv2_ros.model.json_fields import check_depth, json_object, number

CALIBRATION = "exit_calibration"
"""Its name in `model.json`."""


@dataclass(frozen=True)
class DepthPoint:
    """One threshold on the calibration's sequences.

    Attributes:
        threshold: IoU that an exit had to estimate for its box to be taken; 1 is full depth.
        depth: Mean number of blocks over that of full depth.
        success_auc: Mean success AUC over the sequences.
    """

    threshold: float
    depth: float
    success_auc: float


@dataclass(frozen=True)
class ExitsPoint:
    """A threshold for every exit on the calibration's sequences.

    Attributes:
        thresholds: One per exit, in their order; 1: this exit never answers.
        depth: See `DepthPoint`.
        success_auc: See `DepthPoint`.
    """

    thresholds: tuple[float, ...]
    depth: float
    success_auc: float


@dataclass(frozen=True)
class DepthCalibration:
    """A threshold, and the curve that it was chosen from.

    Attributes:
        threshold: The chosen one.
        curve: Points with ascending thresholds.
        source: What was tracked, such as the number of sequences; anything that JSON can hold.
        exits: A threshold for every exit that does better than the chosen one; None: nothing found.
    """

    threshold: float
    curve: tuple[DepthPoint, ...]
    source: Mapping[str, Any]
    exits: ExitsPoint | None = None

    @property
    def thresholds(self) -> tuple[float, ...]:
        """Those of `exits`; empty where all have the one threshold."""
        return () if self.exits is None else self.exits.thresholds

    def threshold_for(self, budget: float) -> float:
        """The highest threshold of the curve whose mean depth keeps to a budget.

        Towards the next point of the curve, depth is taken to be linear in the threshold.

        Args:
            budget: Mean number of blocks over that of full depth.

        Raises:
            ParameterError: every threshold goes deeper; names the least budget.
        """
        kept = [place for place, point in enumerate(self.curve) if point.depth <= budget]
        if not kept:
            least = rounded_up(min(point.depth for point in self.curve))
            raise ParameterError(
                f"exit.budget must be at least {least:.2f} with this bundle, got {budget:g}"
            )
        low = self.curve[kept[-1]]
        if low is self.curve[-1]:
            return low.threshold
        high = self.curve[kept[-1] + 1]
        share = (budget - low.depth) / (high.depth - low.depth)
        return low.threshold + share * (high.threshold - low.threshold)

    def facts(self) -> dict[str, Any]:
        """For `model.json`."""
        exits = {}
        if self.exits is not None:
            exits["exits"] = {
                "thresholds": list(self.exits.thresholds),
                "depth": round(self.exits.depth, 4),
                "success_auc": round(self.exits.success_auc, 4),
            }
        return {
            "threshold": self.threshold,
            **exits,
            "curve": [
                {
                    "threshold": point.threshold,
                    "depth": round(point.depth, 4),
                    "success_auc": round(point.success_auc, 4),
                }
                for point in self.curve
            ],
            "source": dict(self.source),
        }


def rounded_up(value: float) -> float:
    """To two decimals: a limit that is named can then be met."""
    return math.ceil(round(value * 100, 6)) / 100


def read_depth_calibration(data: Mapping[str, Any], exits: int | None = None) -> DepthCalibration:
    """Check and read what `DepthCalibration.facts` wrote, or a stranger.

    Args:
        data: It.
        exits: Number of exits of the model; None: any.

    Raises:
        BundleError: something is missing or is no such thing.
    """
    try:
        return _read(data, exits)
    except BundleError as error:
        raise BundleError(f"{CALIBRATION}.{error}") from error


def _read(data: Mapping[str, Any], exits: int | None) -> DepthCalibration:
    points = data.get("curve")
    if not isinstance(points, list) or not 1 <= len(points) <= 1000:
        raise BundleError("curve must be a list of 1 to 1000 points")
    curve = []
    for point in points:
        if not isinstance(point, dict):
            raise BundleError("curve must be a list of JSON objects")
        names = ("threshold", "depth", "success_auc")
        curve.append(DepthPoint(*(_share(point, "curve.", name) for name in names)))
    if any(high.threshold <= low.threshold for low, high in pairwise(curve)):
        raise BundleError("curve must have ascending thresholds")
    source = json_object(data, "source")
    check_depth(source, "source")
    threshold = _share(data, "", "threshold")
    return DepthCalibration(threshold, tuple(curve), source, _read_exits(data, exits))


def _read_exits(data: Mapping[str, Any], exits: int | None) -> ExitsPoint | None:
    if "exits" not in data:
        return None
    facts = json_object(data, "exits")
    given = facts.get("thresholds")
    if not isinstance(given, list) or not given or len(given) != (exits or len(given)):
        count = "a list" if exits is None else f"{exits} numbers"
        raise BundleError(f"exits.thresholds must be {count}, one per exit")
    thresholds = tuple(_share({"thresholds": one}, "exits.", "thresholds") for one in given)
    return ExitsPoint(
        thresholds, *(_share(facts, "exits.", name) for name in ("depth", "success_auc"))
    )


def _share(data: Mapping[str, Any], where: str, name: str) -> float:
    """A number from 0 to 1; an error names it with where it is."""
    return float(number({where + name: data.get(name)}, where + name, 0, 1))
