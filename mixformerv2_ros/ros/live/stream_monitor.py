"""Logs why nothing is tracked: no image comes, none can be decoded, or no init box has come."""

from __future__ import annotations

from mixformerv2_ros.ros.live.middleware import ImageMiddleware
from mixformerv2_ros.ros.live.statistics import Counts, TrackerStatistics
from mixformerv2_ros.ros.messages import Level
from mixformerv2_ros.ros.topic_checks import no_image_reason
from mixformerv2_ros.ros.topics import INIT_POINT, INITS
from mixformerv2_ros.tracking.frame import NS

REPEAT_NS = 30 * NS
"""Time after which a line is logged again while its reason holds."""

LOST_NS = 10 * NS
"""Period over which images that have not arrived are counted."""

LOST_SHARE = 0.05
"""Share of them above which the log says so."""

INIT_BOX_NS = 5 * NS
"""Time with images but without an init box after which the log names the topics of init boxes."""

CLOCK_CHECKS = 5
"""Checks without simulated time after which the log names its topic."""


class StreamMonitor:
    """Looks at the statistics of a live tracker periodically. Not thread-safe."""

    def __init__(self, middleware: ImageMiddleware, timeout_s: float) -> None:
        """Begin with the next check.

        Args:
            middleware: The node.
            timeout_s: Time without an image after which the camera is stalled.
        """
        self._middleware = middleware
        self._timeout_s = timeout_s
        self._started_ns = 0
        self._checks = 0
        self._stalled = False
        self._asked = False
        self._logged = ""
        self._logged_ns = 0
        self._processed = self._bad = 0
        self._before = Counts()
        self._lost_ns: int | None = None
        self._images_ns = 0

    def reset(self) -> None:
        """Begin again with the next check, as after a reset of the tracker."""
        self._asked = False
        self._processed = self._bad = 0
        self._before, self._lost_ns = Counts(), None
        self._images_ns = 0

    def waited_s(self, statistics: TrackerStatistics, now_ns: int) -> float:
        """Seconds since the last image, or since the first check."""
        if statistics.since_image_s is not None:
            return statistics.since_image_s
        return max(0, now_ns - self._started_ns) / NS

    def check(
        self, statistics: TrackerStatistics, now_ns: int, undecodable: str, box_received: bool
    ) -> str:
        """Log what keeps the node from tracking.

        Args:
            statistics: The statistics now.
            now_ns: Time of the node's clock.
            undecodable: Why the last undecodable image could not be decoded.
            box_received: Whether an init box has come.

        Returns:
            Why no image is processed, for the diagnostics; empty if images are.
        """
        # Simulated time is zero until somebody publishes it.
        self._started_ns = self._started_ns or now_ns
        self._checks += 1
        if not now_ns and self._checks == CLOCK_CHECKS:
            self._middleware.log(
                Level.WARN, "use_sim_time is true, but no message has come on /clock"
            )
        self._check_lost(statistics.counts, now_ns)
        stalled = self.waited_s(statistics, now_ns) > self._timeout_s
        if self._stalled and not stalled and statistics.since_image_s is not None:
            self._middleware.log(Level.OK, "image stream resumed")
            self._logged = ""
        began, self._stalled = stalled and not self._stalled, stalled
        if stalled:
            return self._no_image(statistics, now_ns, began)
        counts = statistics.counts
        processed, bad = counts.processed - self._processed, counts.bad - self._bad
        self._processed, self._bad = counts.processed, counts.bad
        if bad > 0 and processed <= 0:
            topic = self._middleware.image_subscription().topic
            reason = f"no image on {topic} can be decoded: {undecodable}"
            self._warn(reason, now_ns)
            return reason
        if counts.processed and not box_received:
            self._images_ns = self._images_ns or now_ns
            if not self._asked and now_ns - self._images_ns >= INIT_BOX_NS:
                self._asked = True
                names = (*INITS, INIT_POINT[0])
                topics = ", ".join(self._middleware.full_topic(name) for name in names)
                self._middleware.log(Level.OK, f"no target: no init box received on {topics}")
        return ""

    def _check_lost(self, counts: Counts, now_ns: int) -> None:
        """Log how many images have not arrived, if they are many."""
        lost = max(counts.lost - self._before.lost, counts.missing - self._before.missing)
        received, last = counts.received - self._before.received, self._lost_ns
        if last is None or now_ns < last:
            self._lost_ns = now_ns
        elif now_ns - last >= LOST_NS:
            self._before, self._lost_ns = counts, now_ns
            if lost > LOST_SHARE * (received + lost):
                self._middleware.log(
                    Level.WARN,
                    f"{lost} of {received + lost} images have not arrived; larger receive buffers "
                    "may help: sysctl -w net.core.rmem_max=16777216",
                )

    def _no_image(self, statistics: TrackerStatistics, now_ns: int, began: bool) -> str:
        middleware, seconds = self._middleware, statistics.since_image_s
        requested = middleware.image_subscription()
        reason = no_image_reason(
            requested, middleware.image_publications(), middleware.image_topics()
        )
        if seconds is None:
            text = f"no image received: {reason}"
        else:
            text = f"camera stalled: no image for {seconds:.1f} s: {reason}"
        self._warn(reason, now_ns, text, began)
        return reason

    def _warn(self, reason: str, now_ns: int, text: str = "", now: bool = False) -> None:
        """Log a line if its reason is new, or has held for `REPEAT_NS`."""
        if now or reason != self._logged or now_ns - self._logged_ns >= REPEAT_NS:
            self._logged, self._logged_ns = reason, now_ns
            self._middleware.log(Level.WARN, text or reason)
