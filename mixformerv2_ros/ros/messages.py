"""Tracks, boxes and images to ROS messages and back.

Nothing here knows where the message classes come from. Every function that makes a message takes
`types`, which gives the class of a name such as `sensor_msgs/msg/Image`; the classes of rclpy, of
the DDS node and of bags all take their fields by keyword. Functions that read a message look at
its fields only.

Inside the package a box is its top-left corner and size; messages of `vision_msgs` hold centres.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from mixformerv2_ros.errors import BoxError, ImageError
from mixformerv2_ros.tracking.boxes import Box, check_form
from mixformerv2_ros.tracking.compressed import decode_compressed
from mixformerv2_ros.tracking.detections import Detection, DetectionSet
from mixformerv2_ros.tracking.events import DEFAULT_TARGET, InitRequest
from mixformerv2_ros.tracking.frame import NS, Frame
from mixformerv2_ros.tracking.pixels import decode_image
from mixformerv2_ros.tracking.session import State, Track

Types = Callable[[str], Callable[..., Any]] | Mapping[str, type]
"""Gives the message class of a name such as `std_msgs/msg/Header`."""

CLASS_ID = "target"
"""Class of every detection: a tracker follows what it was shown, whatever it is."""

MAX_DETECTIONS = 256
"""Detections of one message that are looked at."""

MAX_COORDINATE = 1e6
"""Largest coordinate of a detection, in pixels."""

Floats = npt.NDArray[np.float64]


class Level(IntEnum):
    """How serious a diagnostic status is; values are those of `diagnostic_msgs`."""

    OK = 0
    WARN = 1
    ERROR = 2


@dataclass(frozen=True)
class Status:
    """Diagnostic status of a node.

    Attributes:
        name: Which part of which node.
        hardware_id: What it runs on; never empty, or monitors complain.
        level: How serious it is.
        summary: One line.
        values: Figures by their names.
    """

    name: str
    hardware_id: str
    level: Level
    summary: str
    values: Mapping[str, str]


def diagnostics_message(types: Types, status: Status, now_ns: int) -> Any:
    """Make a `diagnostic_msgs/msg/DiagnosticArray` with one status.

    Args:
        types: The message classes.
        status: What to report.
        now_ns: Time of the node's clock in nanoseconds.
    """
    cls = _class(types, "diagnostic_msgs/msg/DiagnosticStatus")
    values = [
        make_message(types, "diagnostic_msgs/msg/KeyValue", key=key, value=value)
        for key, value in status.values.items()
    ]
    report = cls(
        # A `byte` is a number to some libraries and `bytes` to rclpy; the constants know.
        level=(cls.OK, cls.WARN, cls.ERROR)[status.level],
        name=status.name,
        message=status.summary,
        hardware_id=status.hardware_id,
        values=values,
    )
    return make_message(
        types,
        "diagnostic_msgs/msg/DiagnosticArray",
        header=header_message(types, now_ns, ""),
        status=[report],
    )


def track_message(types: Types, track: Track, latency_ns: int = 0) -> Any:
    """Make a `mixformerv2_ros/msg/Track`.

    Args:
        types: The message classes.
        track: The track.
        latency_ns: Nanoseconds from the image's arrival to this message; 0 in a replay, so that
            a replay gives the same bytes every time.
    """
    return make_message(
        types,
        "mixformerv2_ros/msg/Track",
        header=header_message(types, track.stamp_ns, track.frame_id),
        target_id=track.target_id,
        state=int(track.state),
        box=_bounding_box(types, track.box),
        confidence=float(track.confidence),
        edge_std=np.array(track.edge_std, np.float32),
        template_age=_duration(types, track.template_age_ns),
        latency=_duration(types, latency_ns),
        depth=track.depth,
    )


def detections_message(types: Types, tracks: Iterable[Track], stamp_ns: int, frame_id: str) -> Any:
    """Make a `vision_msgs/msg/Detection2DArray` from the tracks of one image.

    A target that is LOST or IDLE gives no detection. `id` is the target's name, the score the
    confidence. The hypothesis' pose holds the box's centre in pixels (z 0, no rotation), and its
    covariance the variances of the centre in square pixels at [0] (x) and [7] (y): edges taken as
    independent, var(centre) = (std_left^2 + std_right^2) / 4.

    Args:
        types: The message classes.
        tracks: Tracks of that image, one per target.
        stamp_ns: Stamp of the image in nanoseconds.
        frame_id: Coordinate frame of the image.
    """
    seen = [track for track in tracks if track.state in (State.TRACKING, State.UNCERTAIN)]
    return make_message(
        types,
        "vision_msgs/msg/Detection2DArray",
        header=header_message(types, stamp_ns, frame_id),
        detections=[_detection(types, track) for track in seen],
    )


def image_message(
    types: Types, image: npt.NDArray[np.uint8], encoding: str, stamp_ns: int, frame_id: str
) -> Any:
    """Make a `sensor_msgs/msg/Image` from a contiguous HxW or HxWxC uint8 array."""
    return make_message(
        types,
        "sensor_msgs/msg/Image",
        header=header_message(types, stamp_ns, frame_id),
        height=image.shape[0],
        width=image.shape[1],
        encoding=encoding,
        is_bigendian=0,
        step=image.strides[0],
        data=image.reshape(-1),
    )


def compressed_image_message(
    types: Types, data: npt.NDArray[np.uint8], format: str, stamp_ns: int, frame_id: str
) -> Any:
    """Make a `sensor_msgs/msg/CompressedImage` from the bytes of a JPEG or PNG file."""
    return make_message(
        types,
        "sensor_msgs/msg/CompressedImage",
        header=header_message(types, stamp_ns, frame_id),
        format=format,
        data=data.reshape(-1),
    )


def header_message(types: Types, stamp_ns: int, frame_id: str) -> Any:
    """Make a `std_msgs/msg/Header`."""
    stamp = make_message(
        types, "builtin_interfaces/msg/Time", sec=stamp_ns // NS, nanosec=stamp_ns % NS
    )
    return make_message(types, "std_msgs/msg/Header", stamp=stamp, frame_id=frame_id)


def stamp_ns(message: Any) -> int:
    """Stamp in a message's header, in nanoseconds."""
    stamp = message.header.stamp
    return int(stamp.sec) * NS + int(stamp.nanosec)


def image_frame(message: Any, reduction: int = 1) -> Frame:
    """Wrap a `sensor_msgs/Image` (its data is not copied) or decode a `CompressedImage`.

    Args:
        message: The message.
        reduction: By how much a JPEG may be reduced, see `compressed.decode_compressed`.

    Raises:
        ImageError: the message does not hold an image that can be decoded, or no valid stamp.
    """
    if message.header.stamp.nanosec >= NS:
        raise ImageError(
            f"stamp must have less than {NS} nanoseconds, got {message.header.stamp.nanosec}"
        )
    if hasattr(message, "format"):
        pixels = decode_compressed(message.format, message.data, reduction)
    else:
        pixels = decode_image(
            message.height,
            message.width,
            message.encoding,
            message.is_bigendian,
            message.step,
            message.data,
        )
    return Frame(pixels, stamp_ns(message), message.header.frame_id)


def init_request(message: Any) -> InitRequest:
    """Read an `InitBox`, a `vision_msgs/Detection2D` or a `sensor_msgs/RegionOfInterest`.

    A stamp of zero, and a RegionOfInterest, which has none, mean the next image. The box is not
    checked: that needs its image.
    """
    if hasattr(message, "x_offset"):
        box = Box(*map(float, (message.x_offset, message.y_offset, message.width, message.height)))
        return InitRequest(box)
    if hasattr(message, "bbox"):
        center = message.bbox.center
        center = getattr(center, "position", center)  # vision_msgs before 4.0 had x, y here
        w, h = float(message.bbox.size_x), float(message.bbox.size_y)
        box = Box(center.x - w / 2, center.y - h / 2, w, h)
        name = getattr(message, "id", "")
    else:
        box = Box(*map(float, (message.x, message.y, message.w, message.h)))
        name = message.target_id
    return InitRequest(box, name or DEFAULT_TARGET, stamp_ns(message) or None)


def read_detections(message: Any) -> tuple[DetectionSet, int]:
    """Read a detector's `vision_msgs/msg/Detection2DArray`.

    Of the hypotheses of a detection the one with the highest score counts.

    Returns:
        The detections, and how many of the message were not usable: a box that is none (of no area,
        not finite), a score that is no number, or beyond the first `MAX_DETECTIONS`.
    """
    found = []
    for each in message.detections[:MAX_DETECTIONS]:
        try:
            box = check_form(init_request(each).box)
        except BoxError:
            continue
        scored = [(float(one.hypothesis.score), one.hypothesis.class_id) for one in each.results]
        score, class_id = max(scored, default=(1.0, ""))
        if math.isfinite(score) and max(map(abs, box)) < MAX_COORDINATE:
            found.append(Detection(box, class_id, score, each.id))
    unusable = len(message.detections) - len(found)
    return DetectionSet(stamp_ns(message), message.header.frame_id, tuple(found)), unusable


def point_request(message: Any, side: float) -> InitRequest:
    """Read a click, a `geometry_msgs/PointStamped`: x and y in pixels of the image of its stamp.

    The box is a square around it. A stamp of zero means the next image; z is ignored.

    Args:
        message: The message.
        side: Side of the box in pixels.
    """
    x, y = float(message.point.x), float(message.point.y)
    box = Box(x - side / 2, y - side / 2, side, side)
    return InitRequest(box, stamp_ns=stamp_ns(message) or None)


def init_box_message(types: Types, box: Box, target_id: str, stamp_ns: int, frame_id: str) -> Any:
    """Make a `mixformerv2_ros/msg/InitBox` for the image of that stamp."""
    return make_message(
        types,
        "mixformerv2_ros/msg/InitBox",
        header=header_message(types, stamp_ns, frame_id),
        target_id=target_id,
        **{name: float(value) for name, value in box._asdict().items()},
    )


def read_track(message: Any) -> Track:
    """Read a `mixformerv2_ros/msg/Track`; it does not say whether templates were updated.

    Raises:
        ValueError: the state is none of `State`, or no message can hold the stamp.
    """
    stamp = stamp_ns(message)
    if not 0 <= stamp < NS << 31:
        raise ValueError(f"stamp of a track must be 0 to 2^31 s, got {stamp / NS:.9g} s")
    center, size = message.box.center.position, (message.box.size_x, message.box.size_y)
    age = message.template_age
    left, top, right, bottom = map(float, message.edge_std)
    return Track(
        target_id=message.target_id,
        stamp_ns=stamp,
        frame_id=message.header.frame_id,
        box=Box(center.x - size[0] / 2, center.y - size[1] / 2, *size),
        confidence=float(message.confidence),
        edge_std=(left, top, right, bottom),
        state=State(message.state),
        template_age_ns=int(age.sec) * NS + int(age.nanosec),
        template_updated=False,
        depth=int(getattr(message, "depth", 0)),  # older recordings have none
    )


def make_message(types: Types, name: str, **fields: Any) -> Any:
    """Make a message of a name such as `std_msgs/msg/Header`."""
    return _class(types, name)(**fields)


def make_pose(types: Types, position: Floats, orientation: Floats) -> Any:
    """Make a `geometry_msgs/msg/Pose` from (3,) metres and a quaternion (4,) x, y, z, w."""
    return make_message(
        types,
        "geometry_msgs/msg/Pose",
        position=make_tuple(types, "geometry_msgs/msg/Point", "xyz", position),
        orientation=make_tuple(types, "geometry_msgs/msg/Quaternion", "xyzw", orientation),
    )


def make_tuple(types: Types, name: str, fields: str, values: Floats) -> Any:
    """Make a message of numbers such as `geometry_msgs/msg/Point`; `fields` as in `xyz`."""
    return make_message(types, name, **dict(zip(fields, map(float, values), strict=True)))


def _class(types: Types, name: str) -> Any:
    return types[name] if isinstance(types, Mapping) else types(name)


def _duration(types: Types, nanoseconds: int) -> Any:
    # Stamps may be decades apart, which the message cannot say.
    seconds = min(max(nanoseconds // NS, -(2**31)), 2**31 - 1)
    return make_message(
        types, "builtin_interfaces/msg/Duration", sec=seconds, nanosec=nanoseconds % NS
    )


def _bounding_box(types: Types, box: Box) -> Any:
    x, y = box.center
    position = make_message(types, "vision_msgs/msg/Point2D", x=float(x), y=float(y))
    center = make_message(types, "vision_msgs/msg/Pose2D", position=position, theta=0.0)
    return make_message(
        types,
        "vision_msgs/msg/BoundingBox2D",
        center=center,
        size_x=float(box.w),
        size_y=float(box.h),
    )


def _detection(types: Types, track: Track) -> Any:
    left, top, right, bottom = track.edge_std
    covariance = np.zeros(36, np.float64)
    covariance[0] = (left**2 + right**2) / 4
    covariance[7] = (top**2 + bottom**2) / 4
    x, y = track.box.center
    pose = make_pose(types, np.array([x, y, 0.0]), np.array([0.0, 0.0, 0.0, 1.0]))
    result = make_message(
        types,
        "vision_msgs/msg/ObjectHypothesisWithPose",
        hypothesis=make_message(
            types,
            "vision_msgs/msg/ObjectHypothesis",
            class_id=CLASS_ID,
            score=float(track.confidence),
        ),
        pose=make_message(
            types, "geometry_msgs/msg/PoseWithCovariance", pose=pose, covariance=covariance
        ),
    )
    return make_message(
        types,
        "vision_msgs/msg/Detection2D",
        header=header_message(types, track.stamp_ns, track.frame_id),
        results=[result],
        bbox=_bounding_box(types, track.box),
        id=track.target_id,
    )
