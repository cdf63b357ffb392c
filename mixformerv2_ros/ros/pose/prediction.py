"""Poses extrapolated from the time of their image to the time of publication.

In the frame in which they are published: in a fixed frame the velocity is the target's own, however
the camera turns meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mixformerv2_ros.ros.pose.estimate import PoseEstimate
from mixformerv2_ros.tracking.prediction import MAX_GAP_NS, ConstantVelocity, PredictionSettings

FIRST_SPEED_M_S = 5.0
"""Standard deviation of the velocity before a second pose, in metres per second."""


@dataclass(frozen=True)
class PosePredictionSettings:
    """How poses and bearings are extrapolated.

    Attributes:
        boxes: Of the bearing.
        acceleration: Standard deviation by which a velocity changes within a second, in metres per
            second, of the pose.
    """

    boxes: PredictionSettings
    acceleration: float


class PosePredictor:
    """Extrapolates the positions of one target; their covariance is the measurement noise."""

    def __init__(self) -> None:
        self._filter: ConstantVelocity | None = None
        self._of = ("", "")

    def predicted(
        self, estimate: PoseEstimate, now_ns: int, settings: PosePredictionSettings
    ) -> PoseEstimate | None:
        """Take a pose and give it at another time.

        Starts over with another target or frame, after a gap and after a step back in time.

        Returns:
            The pose with `stamp_ns` at `now_ns`, its position and covariance then, and the
            orientation as it was; None if that time is out of reach, or numbers overflow.
        """
        position, covariance = estimate.position, estimate.covariance[:3, :3]
        stamp, of = estimate.stamp_ns, (estimate.target_id, estimate.frame_id)
        known = self._filter if of == self._of else None
        with np.errstate(over="ignore", invalid="ignore"):
            if known is not None and 0 < stamp - known.time_ns <= MAX_GAP_NS:
                known.update(position, covariance, stamp, settings.acceleration)
            else:
                known = ConstantVelocity(position, covariance, stamp, FIRST_SPEED_M_S)
            self._filter, self._of = known, of
            if not settings.boxes.covers(stamp, now_ns):
                return None
            position, spread = known.at(now_ns, settings.acceleration)
        if not (np.isfinite(position).all() and np.isfinite(spread).all()):
            self._filter = None
            return None
        both = estimate.covariance.copy()
        both[:3, :3] = spread
        return replace(estimate, stamp_ns=now_ns, position=position, covariance=both)
