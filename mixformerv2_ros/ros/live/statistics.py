"""Statistics of a running tracker, and its diagnostic status."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from mixformerv2_ros.ros.messages import Level, Status
from mixformerv2_ros.text import printable
from mixformerv2_ros.tracking.depth import DepthFigures
from mixformerv2_ros.tracking.frame import NS
from mixformerv2_ros.tracking.session import State, Track

WINDOW = 150
WINDOW_NS = 5 * NS
"""Number of images, at most, and time over which rate and latencies are computed."""

MAX_AGE_MS = 3_600_000
"""Age above which stamps are not of this clock, as those of a recording that is played."""


@dataclass(frozen=True)
class Counts:
    """Events since the node was started or reset.

    Attributes:
        received: Images received.
        lost: Images that the middleware reports as lost before they arrived.
        missing: Images that have not arrived, by the gaps in the stamps.
        processed: Images that tracks were published for.
        dropped: Images replaced by newer ones before they were processed.
        late: Images dropped because they are older than the newest, or of another size or time
            than their neighbours.
        bad: Images that cannot be decoded.
        rejected: Init boxes that were rejected.
        failed: Images on which the engine failed.
        detections: Messages of an object detector received, while they are used.
        detections_unused: Of them, those that could not be used, or not whole.
    """

    received: int = 0
    lost: int = 0
    missing: int = 0
    processed: int = 0
    dropped: int = 0
    late: int = 0
    bad: int = 0
    rejected: int = 0
    failed: int = 0
    detections: int = 0
    detections_unused: int = 0


@dataclass(frozen=True)
class TrackerStatistics:
    """State of a running tracker at one time.

    Attributes:
        counts: Events so far.
        rate: Images processed per second, recently.
        latency_ms: Median and 95th percentile of the time from arrival to publication.
        engine_ms: Median and 95th percentile of the part of that time spent in the engine.
        other_ms: Median and 95th percentile of the rest.
        age_ms: Median and 95th percentile of the time from an image's stamp to its publication.
        since_image_s: Seconds since the last image; None before the first.
        image: Size and encoding of the last image; empty before the first.
        stamps_usable: Whether durations are taken from the stamps, not from arrival times.
        tracks: The last track of every target.
        buffered: Number of buffered images.
        buffered_bytes: Their size in bytes.
        depth: How deep the network looked lately, and whether in time.
        deadline_ms: Parameter `exit.deadline_ms`.
    """

    counts: Counts
    rate: float
    latency_ms: tuple[float, float]
    engine_ms: tuple[float, float]
    other_ms: tuple[float, float]
    age_ms: tuple[float, float]
    since_image_s: float | None
    image: str
    stamps_usable: bool
    tracks: tuple[Track, ...]
    buffered: int
    buffered_bytes: int
    depth: DepthFigures
    deadline_ms: float


class Timing:
    """Rate and latencies of the last `WINDOW` publications within `WINDOW_NS`."""

    def __init__(self) -> None:
        self._published: deque[tuple[int, int, int, int, int]] = deque(maxlen=WINDOW)

    def add(self, published_ns: int, latency_ns: int, age_ns: int, engine_ns: int = 0) -> None:
        """Add a publication; a clock that has stepped back clears the earlier ones.

        Args:
            published_ns: When.
            latency_ns: Time since the image's arrival.
            age_ns: Time since the image's stamp.
            engine_ns: Part of the latency that was spent in the engine.
        """
        if self._published and published_ns < self._published[-1][0]:
            self._published.clear()
        while self._published and published_ns - self._published[0][0] > WINDOW_NS:
            self._published.popleft()
        other_ns = max(0, latency_ns - engine_ns)
        self._published.append((published_ns, latency_ns, age_ns, engine_ns, other_ns))

    def rate(self, now_ns: int) -> float:
        """Publications per second; 0 with fewer than two in the window."""
        times = [entry[0] for entry in self._published if 0 <= now_ns - entry[0] <= WINDOW_NS]
        if len(times) < 2:
            return 0.0
        span = times[-1] - times[0]
        return (len(times) - 1) * NS / span if span > 0 else 0.0

    def latency_ms(self) -> tuple[float, float]:
        """Median and 95th percentile of the latency in milliseconds."""
        return self._percentiles(1)

    def age_ms(self) -> tuple[float, float]:
        """Median and 95th percentile of the images' age in milliseconds."""
        return self._percentiles(2)

    def engine_ms(self) -> tuple[float, float]:
        """Median and 95th percentile of the time in the engine in milliseconds."""
        return self._percentiles(3)

    def other_ms(self) -> tuple[float, float]:
        """Median and 95th percentile of the latency without the engine in milliseconds."""
        return self._percentiles(4)

    def _percentiles(self, column: int) -> tuple[float, float]:
        if not self._published:
            return 0.0, 0.0
        median, high = np.percentile([entry[column] for entry in self._published], (50, 95)) / 1e6
        return float(median), float(high)


def status(
    statistics: TrackerStatistics,
    before: Counts,
    model: dict[str, str],
    node: str,
    timeout_s: float,
    reason: str = "",
    parameters: Mapping[str, object] | None = None,
) -> Status:
    """Diagnostic status of a tracker.

    Args:
        statistics: The statistics now.
        before: The counts of the last status; increments since are reported.
        model: Entries about model and engine by name.
        node: Full name of the node.
        timeout_s: Seconds without an image after which the camera is stalled.
        reason: Why no image is processed; empty if images are.
        parameters: Those that can be changed at runtime, by name, with their current values.
    """
    counts = statistics.counts
    states = {track.state for track in statistics.tracks}
    level, summary = Level.OK, max(states, default=State.IDLE).name
    if statistics.since_image_s is None:
        level, summary = Level.WARN, "no image received"
    elif statistics.since_image_s > timeout_s:
        level, summary = (
            Level.WARN,
            f"camera stalled: no image for {statistics.since_image_s:.1f} s",
        )
    elif counts.failed > before.failed:
        level, summary = Level.ERROR, "engine failed"
    elif counts.bad > before.bad:
        level, summary = Level.WARN, f"{counts.bad - before.bad} images cannot be decoded"
    elif counts.lost > before.lost:
        level, summary = Level.WARN, f"{counts.lost - before.lost} images lost before they arrived"
    elif not statistics.stamps_usable:
        level, summary = Level.WARN, "image stamps are zero or stand still"
    elif shortfall := statistics.depth.shortfall(statistics.deadline_ms):
        level, summary = Level.WARN, shortfall
    elif State.LOST in states:
        level = Level.WARN
    values = {
        "state": max(states, default=State.IDLE).name,
        "image": statistics.image,
        "no image because": reason,
        "durations": "image stamps" if statistics.stamps_usable else "arrival times",
        "rate (Hz)": f"{statistics.rate:.1f}",
        "latency p50 (ms)": f"{statistics.latency_ms[0]:.1f}",
        "latency p95 (ms)": f"{statistics.latency_ms[1]:.1f}",
        "latency in engine p50 (ms)": f"{statistics.engine_ms[0]:.1f}",
        "latency in engine p95 (ms)": f"{statistics.engine_ms[1]:.1f}",
        "latency without engine p50 (ms)": f"{statistics.other_ms[0]:.2f}",
        "latency without engine p95 (ms)": f"{statistics.other_ms[1]:.2f}",
        **_ages(statistics.age_ms),
        "images received": str(counts.received),
        "images lost (middleware)": str(counts.lost),
        "images missing (gaps in stamps)": str(counts.missing),
        "images processed": str(counts.processed),
        "images dropped": str(counts.dropped),
        "images late or stray": str(counts.late),
        "images not decodable": str(counts.bad),
        "engine failures": str(counts.failed),
        "init boxes rejected": str(counts.rejected),
        "detection messages received": str(counts.detections),
        "detection messages not usable": str(counts.detections_unused),
        "images buffered": f"{statistics.buffered} ({statistics.buffered_bytes / 1e6:.1f} MB)",
    }
    if statistics.depth.depth:
        values["network depth (mean blocks)"] = f"{statistics.depth.depth:.2f}"
    if statistics.depth.on_time is not None:
        values["answered before the deadline"] = f"{100 * statistics.depth.on_time:.0f} %"
    for track in statistics.tracks:
        name = printable(track.target_id)
        values[f"target {name}"] = f"{track.state.name}, confidence {track.confidence:.2f}"
    for name, value in (parameters or {}).items():
        values[f"parameter {name}"] = str(value)
    return Status(
        f"{node.lstrip('/')}: tracker", model["engine"], level, summary, {**values, **model}
    )


def _ages(age_ms: tuple[float, float]) -> dict[str, str]:
    """Ages of the images; none where they would be the age of a recording."""
    if max(age_ms) > MAX_AGE_MS:
        return {}
    return {
        "image age p50 (ms)": f"{age_ms[0]:.1f}",
        "image age p95 (ms)": f"{age_ms[1]:.1f}",
    }


def lifecycle_status(node: str, state: str, failed: str, model: Mapping[str, str]) -> Status:
    """Diagnostic status of a tracker that is not active.

    Args:
        node: Full name of the node.
        state: Its lifecycle state.
        failed: Which transition failed last and why; empty if it did not.
        model: Entries about model and engine by name; empty while none is loaded.
    """
    return Status(
        f"{node.lstrip('/')}: tracker",
        model.get("engine", "no engine loaded"),
        Level.ERROR if failed else Level.OK,
        printable(failed, 500) if failed else state,
        {"lifecycle state": state, **model},
    )


def incremented(counts: Counts, **by: int) -> Counts:
    """Counts with some of them incremented."""
    return replace(counts, **{name: getattr(counts, name) + n for name, n in by.items()})
