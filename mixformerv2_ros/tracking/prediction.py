"""Tracks extrapolated from the time of their image to another time, such as that of publication.

A constant-velocity Kalman filter; process noise is a continuous white-noise acceleration, so that a
velocity changes by sqrt(q t) in a time t (Bar-Shalom, Li, Kirubarajan: Estimation with Applications
to Tracking and Navigation, 2001, section 6.2.2). Times are those of the images: the same tracks
give the same predictions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mixformerv2_ros.tracking.boxes import Box, iou
from mixformerv2_ros.tracking.frame import NS
from mixformerv2_ros.tracking.session import State, Track

Floats = npt.NDArray[np.float64]

MAX_GAP_NS = NS
"""A filter that has had no measurement for so long starts over."""

MIN_EDGE_VARIANCE = 1 / 12
"""Minimum variance of an edge in square pixels: that of rounding to a whole pixel."""

FIRST_SPEED = 5.0
"""Standard deviation of the velocity before a second measurement, in target sizes per second."""

MIN_SIDE = 1.0
"""Minimum side of a predicted box in pixels."""

# Centre x and y, width and height from left, top, right and bottom edge, and back.
_FROM_EDGES = np.array([[0.5, 0, 0.5, 0], [0, 0.5, 0, 0.5], [-1, 0, 1, 0], [0, -1, 0, 1]])
_TO_EDGES = np.linalg.inv(_FROM_EDGES)


@dataclass(frozen=True)
class PredictionSettings:
    """How tracks are extrapolated.

    Attributes:
        max_time_ns: Longest extrapolation; an image that is older gives no prediction.
        acceleration: Standard deviation by which a velocity changes within a second, in target
            sizes sqrt(w * h) per second.
    """

    max_time_ns: int = NS // 2
    acceleration: float = 8.0

    def covers(self, stamp_ns: int, now_ns: int) -> bool:
        """Whether `now_ns` is within reach of an image of time `stamp_ns`, and not before it.

        A stamp of 0 is no time.
        """
        return stamp_ns > 0 and 0 <= now_ns - stamp_ns <= self.max_time_ns


class ConstantVelocity:
    """Kalman filter of n coordinates that move with constant velocity.

    Attributes:
        time_ns: Time of the last measurement.
    """

    def __init__(
        self, position: Floats, covariance: Floats, time_ns: int, speed_std: float
    ) -> None:
        """Start at rest.

        Args:
            position: (n,) first measurement.
            covariance: (n, n) of it.
            time_ns: Time of it.
            speed_std: Standard deviation of the unknown velocity per coordinate and second.
        """
        n = len(position)
        self.time_ns = time_ns
        self._mean = np.concatenate([position, np.zeros(n)])
        self._covariance = np.zeros((2 * n, 2 * n))
        self._covariance[:n, :n] = covariance
        self._covariance[n:, n:] = np.eye(n) * speed_std**2

    def at(self, time_ns: int, acceleration: float) -> tuple[Floats, Floats]:
        """Position (n,) and covariance (n, n) at a time that is not before the measurement's.

        Args:
            time_ns: The time.
            acceleration: Standard deviation by which a velocity changes within a second.
        """
        mean, covariance = self._moved(time_ns, acceleration)
        n = len(mean) // 2
        return mean[:n], covariance[:n, :n]

    def update(
        self, position: Floats, covariance: Floats, time_ns: int, acceleration: float
    ) -> None:
        """Take a measurement (n,) with its covariance (n, n); arguments as those of `at`."""
        mean, prior = self._moved(time_ns, acceleration)
        n = len(position)
        gain = np.linalg.solve(prior[:n, :n] + covariance, prior[:n]).T
        rest = np.eye(2 * n)
        rest[:, :n] -= gain
        self.time_ns = time_ns
        self._mean = mean + gain @ (position - mean[:n])
        # Joseph's form stays symmetric and positive.
        self._covariance = rest @ prior @ rest.T + gain @ covariance @ gain.T

    def _moved(self, time_ns: int, acceleration: float) -> tuple[Floats, Floats]:
        n = len(self._mean) // 2
        t = (time_ns - self.time_ns) / NS
        move = np.eye(2 * n)
        move[:n, n:] = np.eye(n) * t
        noise = np.kron([[t**3 / 3, t**2 / 2], [t**2 / 2, t]], np.eye(n)) * acceleration**2
        return move @ self._mean, move @ self._covariance @ move.T + noise


class TrackPredictor:
    """Extrapolates the tracks of any number of targets by centre and size of their boxes."""

    def __init__(self) -> None:
        self._filters: dict[str, ConstantVelocity] = {}

    def update(self, tracks: Sequence[Track], settings: PredictionSettings) -> None:
        """Take the tracks of one image; a target that is not among them, or LOST, is forgotten.

        Edge variances are the measurement noise. A target starts over after a gap, a step back in
        time, or where its box does not overlap the predicted one: it was restarted.
        """
        before, self._filters = self._filters, {}
        for track in tracks:
            if track.state in (State.TRACKING, State.UNCERTAIN):
                known = before.get(track.target_id)
                self._filters[track.target_id] = _updated(known, track, settings)

    def predicted(self, track: Track, now_ns: int, settings: PredictionSettings) -> Track | None:
        """A track of the last `update` at another time.

        Returns:
            The track with `stamp_ns` at `now_ns` and the deviations of its edges then; None if the
            target is not tracked, or that time is out of reach (`PredictionSettings.covers`).
        """
        found = self._filters.get(track.target_id)
        if found is None or not settings.covers(track.stamp_ns, now_ns):
            return None
        position, covariance = found.at(now_ns, _acceleration(track, settings))
        cx, cy, w, h = map(float, position)
        w, h = max(w, MIN_SIDE), max(h, MIN_SIDE)
        left, top, right, bottom = np.sqrt(np.diag(_TO_EDGES @ covariance @ _TO_EDGES.T)).tolist()
        return replace(
            track,
            stamp_ns=now_ns,
            box=Box(cx - w / 2, cy - h / 2, w, h),
            edge_std=(left, top, right, bottom),
        )


def _updated(
    known: ConstantVelocity | None, track: Track, settings: PredictionSettings
) -> ConstantVelocity:
    box = track.box
    position = np.array([*box.center, box.w, box.h])
    variances = np.maximum(np.square(track.edge_std), MIN_EDGE_VARIANCE)
    covariance = _FROM_EDGES @ np.diag(variances) @ _FROM_EDGES.T
    if known is not None and 0 < track.stamp_ns - known.time_ns <= MAX_GAP_NS:
        acceleration = _acceleration(track, settings)
        (cx, cy, w, h), _ = known.at(track.stamp_ns, acceleration)
        if iou(Box(cx - w / 2, cy - h / 2, w, h), box) > 0:
            known.update(position, covariance, track.stamp_ns, acceleration)
            return known
    return ConstantVelocity(position, covariance, track.stamp_ns, FIRST_SPEED * _size(box))


def _acceleration(track: Track, settings: PredictionSettings) -> float:
    return settings.acceleration * _size(track.box)


def _size(box: Box) -> float:
    return float(np.sqrt(max(box.area, 1.0)))
