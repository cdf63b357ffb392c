"""What tests of the live node share: a middleware that keeps what is published."""

from __future__ import annotations

import socket
import time
from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np
from recordings import PERIOD_NS, START_NS, RedEngine, picture

from mixformerv2_ros.interfaces import typestore
from mixformerv2_ros.model.bundle import open_bundle
from mixformerv2_ros.ros.live.live_tracker import LiveTracker
from mixformerv2_ros.ros.live.model import Model
from mixformerv2_ros.ros.messages import Level, header_message, image_message, stamp_ns
from mixformerv2_ros.ros.qos import QosProfile, Reliability
from mixformerv2_ros.ros.topic_checks import Publication, Requested
from mixformerv2_ros.ros.topics import DETECTIONS, TRACK

TYPES = typestore().types
BUNDLE = replace(
    open_bundle(),
    name="red",
    search_factor=4.5,
    template_factor=2.0,
    template_background_contrast=1.0,
)
"""The default bundle with factors of its own; `RedEngine` runs in place of its model."""


class Desk:
    """Keeps messages and log lines; its clock stands still unless it is moved."""

    types = TYPES

    def __init__(self) -> None:
        self.time_ns = 5_000_000_000
        self.published: dict[str, list[Any]] = defaultdict(list)
        self.lines: list[tuple[Level, str]] = []
        self.subscribed = {DETECTIONS}
        qos = QosProfile(Reliability.RELIABLE)
        self.requested = Requested("/image", "sensor_msgs/msg/Image", qos)
        self.publishers = [Publication("/camera", "sensor_msgs/msg/Image", qos)]
        self.topics: dict[str, str] = {}

    def now_ns(self) -> int:
        return self.time_ns

    def publish(self, topic: str, message: Any) -> None:
        self.published[topic].append(message)

    def has_subscribers(self, topic: str) -> bool:
        return topic in self.subscribed

    def image_subscription(self) -> Requested:
        return self.requested

    def image_publications(self) -> list[Publication]:
        return self.publishers

    def image_topics(self) -> dict[str, str]:
        return self.topics

    def full_topic(self, name: str) -> str:
        return f"/{name}"

    def log(self, level: Level, text: str) -> None:
        self.lines.append((level, text))

    @property
    def tracks(self) -> list[Any]:
        return self.published[TRACK]

    @property
    def texts(self) -> list[str]:
        return [text for _, text in self.lines]


class Remote:
    """Keeps what a tracker would be told from another process."""

    types = TYPES

    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []

    def publish(self, topic: str, message: Any) -> int:
        self.told.append((topic, message))
        return 1


def free_port() -> int:
    """A UDP port of this machine that nobody uses."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Node:
    """A live tracker on a desk, fed image by image."""

    def __init__(self, engine: Any = None, **values: Any) -> None:
        self.desk = Desk()
        model = Model(BUNDLE, engine or RedEngine())
        names = {name.replace("__", "."): value for name, value in values.items()}
        self.tracker = LiveTracker(model, names, self.desk, "/tracker")

    def __enter__(self) -> Node:
        self.tracker.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.tracker.close()

    @property
    def counts(self) -> Any:
        return self.tracker.statistics().counts

    def feed(self, *messages: Any) -> None:
        """Hand over images, each when the one before has been dealt with."""
        for message in messages:
            self.tracker.receive_image(message)
            self.settle()

    def settle(self) -> None:
        """Wait until the worker has nothing to do."""
        self.wait(lambda: self.tracker.idle or self.tracker.failure is not None)

    def wait(self, condition: Any, seconds: float = 60.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"nothing happened; log: {self.desk.texts}"
            time.sleep(0.001)


def image(index: int, *, stamp: int | None = None, picture_of: int | None = None) -> Any:
    """Image message of frame `index` of the moving target."""
    pixels = picture(index if picture_of is None else picture_of)
    return image_message(
        TYPES, pixels, "rgb8", frame_stamp(index) if stamp is None else stamp, "cam"
    )


def frame_stamp(index: int) -> int:
    return START_NS + index * PERIOD_NS


def init_box(box: Any, stamp: int = 0, target_id: str = "") -> Any:
    x, y, w, h = map(float, box)
    header = header_message(TYPES, stamp, "")
    cls = TYPES["mixformerv2_ros/msg/InitBox"]
    return cls(header=header, target_id=target_id, x=x, y=y, w=w, h=h)


def init_detection(box: Any, stamp: int = 0, target_id: str = "") -> Any:
    """The same as a `vision_msgs/Detection2D`."""
    x, y, w, h = map(float, box)
    point, pose, box_type, detection = (
        TYPES[f"vision_msgs/msg/{name}"]
        for name in ("Point2D", "Pose2D", "BoundingBox2D", "Detection2D")
    )
    center = pose(position=point(x=x + w / 2, y=y + h / 2), theta=0.0)
    return detection(
        header=header_message(TYPES, stamp, ""),
        results=[],
        bbox=box_type(center=center, size_x=w, size_y=h),
        id=target_id,
    )


def init_region(box: Any) -> Any:
    """The same as a `sensor_msgs/RegionOfInterest`, which has neither stamp nor name."""
    x, y, w, h = map(int, box)
    region = TYPES["sensor_msgs/msg/RegionOfInterest"]
    return region(x_offset=x, y_offset=y, height=h, width=w, do_rectify=False)


def init_point(box: Any, stamp: int = 0) -> Any:
    """A click on the centre of a box."""
    x, y, w, h = map(float, box)
    point = TYPES["geometry_msgs/msg/Point"](x=x + w / 2, y=y + h / 2, z=0.0)
    return TYPES["geometry_msgs/msg/PointStamped"](
        header=header_message(TYPES, stamp, ""), point=point
    )


def box_of(track: Any) -> tuple[float, float, float, float]:
    """Top-left corner and size of a track message's box."""
    center, box = track.box.center.position, track.box
    return center.x - box.size_x / 2, center.y - box.size_y / 2, box.size_x, box.size_y


def content(track: Any) -> tuple[Any, ...]:
    """All of a track message but the latency, which no two runs share."""
    return (
        stamp_ns(track),
        track.header.frame_id,
        track.target_id,
        track.state,
        box_of(track),
        track.confidence,
        tuple(np.asarray(track.edge_std).tolist()),
        (track.template_age.sec, track.template_age.nanosec),
    )
