"""Publishes `track_predicted`: tracks extrapolated from their image to the time of publication."""

from __future__ import annotations

from mixformerv2_ros.ros.live.log_throttle import LogThrottle
from mixformerv2_ros.ros.live.middleware import Middleware
from mixformerv2_ros.ros.messages import Level, track_message
from mixformerv2_ros.ros.topics import TRACK_PREDICTED
from mixformerv2_ros.tracking.events import Step
from mixformerv2_ros.tracking.frame import NS
from mixformerv2_ros.tracking.prediction import PredictionSettings, TrackPredictor

NO_PREDICTION = "no prediction to now"


class PredictionPublisher:
    """Predictions of the tracks of a step, while somebody subscribes to them; the worker's alone.

    Attributes:
        settings: May be replaced at any time.
    """

    def __init__(self, middleware: Middleware, settings: PredictionSettings) -> None:
        self.settings = settings
        self._middleware = middleware
        self._predictor = TrackPredictor()
        self._throttle = LogThrottle(middleware.log)

    def publish(self, step: Step, stamps_usable: bool) -> None:
        """Publish the tracks of an image as they are now.

        Args:
            step: The image and its tracks.
            stamps_usable: Whether the stamps are times; without, nothing is published.
        """
        middleware, settings = self._middleware, self.settings
        if not middleware.has_subscribers(TRACK_PREDICTED):
            return
        if not stamps_usable:
            self._warn("image stamps are zero or stand still")
            return
        self._predictor.update(step.tracks, settings)
        now = middleware.now_ns()
        latency = max(0, now - step.image.arrival_ns)
        for track in step.tracks:
            if not settings.covers(track.stamp_ns, now):
                self._warn(too_old(settings.max_time_ns))
            elif (predicted := self._predictor.predicted(track, now, settings)) is not None:
                message = track_message(middleware.types, predicted, latency)
                middleware.publish(TRACK_PREDICTED, message)

    def _warn(self, reason: str) -> None:
        self._throttle.once(Level.WARN, f"{NO_PREDICTION}: {reason}")


def too_old(max_time_ns: int) -> str:
    """Why there is no prediction from images whose age is out of reach."""
    return (
        f"the age of the images by this node's clock is not within 0 and {max_time_ns / NS:g} s "
        "(predict.max_time)"
    )
