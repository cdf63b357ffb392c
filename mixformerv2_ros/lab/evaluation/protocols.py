"""What the benchmarks prescribe: the tracker's settings, and their toolkits' own figures."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from mixformerv2_ros.lab.evaluation.metrics import (
    Floats,
    center_distances,
    normalised_distances,
    normalised_precision,
    overlaps,
    precision,
    share_above,
    success_auc,
)

_PUBLISHED_INTERVALS = {"lasot": 200, "trackingnet": 25, "vot": 10, "tnl2k": 200}
_PUBLISHED_ONLINE_SIZES = {"lasot": 1, "got10k": 1, "trackingnet": 1, "vot": 1}
_PUBLISHED_FACTORS = {
    "B": {"lasot": 5.0, "trackingnet": 5.0, "got10k": 5.0},
    "S": {"lasot": 4.4, "trackingnet": 4.55, "got10k": 4.55},
}


def published_settings(dataset: str, preset: str) -> dict[str, Any]:
    """Values of `parameters.py` with which the authors' released code runs on a data set.

    Interval and number of online templates hold for every model; where the release has no entry
    for a data set it takes its fallback, 200 frames and 3 templates. Search factors were chosen
    for presets B and S, with 4.5 as the fallback; other models keep their own.

    Args:
        dataset: A key of `EVALUATION_SETS`; `folder` is no benchmark and has no protocol.
        preset: The model's preset.
    """
    if dataset == "folder":
        return {}
    interval = _PUBLISHED_INTERVALS.get(dataset, 200)
    if dataset == "got10k":
        interval = 10 if preset == "B" else 15
    values: dict[str, Any] = {
        "template_update.interval": interval,
        "template_update.online_size": _PUBLISHED_ONLINE_SIZES.get(dataset, 3),
    }
    if preset in _PUBLISHED_FACTORS:
        values["search_factor"] = _PUBLISHED_FACTORS[preset].get(dataset, 4.5)
    return values


def got10k_figures(
    results: Iterable[tuple[npt.ArrayLike, npt.ArrayLike, tuple[int, int] | None]],
) -> dict[str, float]:
    """AO, SR50 and SR75 exactly as the GOT-10k toolkit (0.1.3) computes them.

    The first frame of each sequence is left out, as are frames without a visible target (absent,
    or cover 0); the frames of all sequences are pooled; a success is an overlap > 0.5 or 0.75.
    Boxes and ground truth are confined to the image as the toolkit does it: the corner is clipped
    to [0, W] and [0, H], then the *unchanged* size to what remains on the right and below. A box
    that sticks out on the left is therefore moved in, not cut.

    Args:
        results: Per sequence predicted boxes (N, 4), ground truth (N, 4) with NaN where absent,
            and the size of its images; None confines nothing.
    """
    pooled = [np.zeros(0)]
    for predicted, truth, size in results:
        boxes = [np.asarray(each, dtype=np.float64)[1:] for each in (predicted, truth)]
        if size is not None:
            boxes = [_confined(each, size) for each in boxes]
        pooled.append(overlaps(boxes[0], boxes[1]))
    overlap = np.concatenate(pooled)
    present = overlap[~np.isnan(overlap)]
    return {
        "ao": float(present.mean()) if present.size else float("nan"),
        "sr50": share_above(overlap, 0.5),
        "sr75": share_above(overlap, 0.75),
    }


def _confined(boxes: Floats, size: tuple[int, int]) -> Floats:
    limit = np.array(size, dtype=np.float64)
    corner = np.clip(boxes[:, :2], 0.0, limit)
    return np.column_stack([corner, np.clip(boxes[:, 2:], 0.0, limit - corner)])


def lasot_figures(results: Iterable[tuple[npt.ArrayLike, npt.ArrayLike]]) -> dict[str, float]:
    """Success AUC, precision and normalised precision as the LaSOT toolkit computes them.

    As `metrics` defines them but for one thing: counts are divided by *all* frames of a sequence.
    A frame without target thus counts as a failure at every threshold, whatever the tracker says,
    and long absences lower the figures of every tracker alike.

    Args:
        results: Per sequence predicted boxes (N, 4) and ground truth (N, 4), NaN where absent.
    """
    rows = []
    for predicted, truth in results:
        overlap = overlaps(predicted, truth)
        share = float(np.mean(~np.isnan(overlap)))
        rows.append(
            [
                share * success_auc(overlap),
                share * precision(center_distances(predicted, truth)),
                share * normalised_precision(normalised_distances(predicted, truth)),
            ]
        )
    means = np.mean(rows, axis=0) if rows else np.full(3, np.nan)
    return dict(
        zip(("success_auc", "precision", "normalised_precision"), means.tolist(), strict=True)
    )
