"""Tracks, boxes and images to messages and back, for any library's message classes."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mixformerv2_ros import interfaces
from mixformerv2_ros.errors import ImageError, SourceError
from mixformerv2_ros.interfaces import definitions, message_folder, typestore
from mixformerv2_ros.ros.messages import (
    compressed_image_message,
    detections_message,
    image_frame,
    image_message,
    init_request,
    stamp_ns,
    track_message,
)
from mixformerv2_ros.tracking.boxes import Box
from mixformerv2_ros.tracking.session import State, Track

STAMP = 1_700_000_000_123_456_789


def make_track(**changes: object) -> Track:
    fields = {
        "target_id": "dog",
        "stamp_ns": STAMP,
        "frame_id": "camera",
        "box": Box(10.0, 20.0, 30.0, 40.0),
        "confidence": 0.75,
        "edge_std": (1.0, 2.0, 3.0, 4.0),
        "state": State.TRACKING,
        "template_age_ns": 2_500_000_000,
        "template_updated": False,
        "depth": 3,
    }
    return Track(**{**fields, **changes})


def round_trip(message: object, msgtype: str) -> object:
    """What a subscriber gets."""
    store = typestore()
    return store.deserialize_cdr(bytes(store.serialize_cdr(message, msgtype)), msgtype)


def test_track_message() -> None:
    msgtype = "mixformerv2_ros/msg/Track"
    message = round_trip(track_message(typestore().types, make_track(), 7_000_000), msgtype)
    assert stamp_ns(message) == STAMP
    assert message.header.frame_id == "camera"
    assert message.target_id == "dog"
    assert message.state == message.TRACKING == State.TRACKING
    assert (message.box.center.position.x, message.box.center.position.y) == (25.0, 40.0)
    assert message.box.center.theta == 0.0
    assert (message.box.size_x, message.box.size_y) == (30.0, 40.0)
    assert message.confidence == 0.75
    assert message.edge_std.tolist() == [1.0, 2.0, 3.0, 4.0]
    assert (message.template_age.sec, message.template_age.nanosec) == (2, 500_000_000)
    assert (message.latency.sec, message.latency.nanosec) == (0, 7_000_000)


def test_states_are_those_of_the_message() -> None:
    cls = typestore().types["mixformerv2_ros/msg/Track"]
    assert {state.name: getattr(cls, state.name) for state in State} == {
        state.name: int(state) for state in State
    }


def test_detections_message() -> None:
    tracks = [
        make_track(),
        make_track(target_id="cat", state=State.UNCERTAIN, confidence=0.25),
        make_track(target_id="gone", state=State.LOST),
        make_track(target_id="none", state=State.IDLE),
    ]
    types = typestore().types
    message = round_trip(
        detections_message(types, tracks, STAMP, "camera"), "vision_msgs/msg/Detection2DArray"
    )
    assert stamp_ns(message) == STAMP
    assert [detection.id for detection in message.detections] == ["dog", "cat"]
    detection = message.detections[0]
    assert stamp_ns(detection) == STAMP
    assert detection.bbox.center.position.x == 25.0
    assert detection.bbox.size_y == 40.0
    (result,) = detection.results
    assert (result.hypothesis.class_id, result.hypothesis.score) == ("target", 0.75)
    assert (result.pose.pose.position.x, result.pose.pose.position.y) == (25.0, 40.0)
    assert result.pose.pose.orientation.w == 1.0
    covariance = result.pose.covariance.reshape(6, 6)
    # Independent edges: var((left + right) / 2) = (1 + 9) / 4, var((top + bottom) / 2) = 20 / 4.
    assert (covariance[0, 0], covariance[1, 1]) == (2.5, 5.0)
    assert np.count_nonzero(covariance) == 2


def test_detections_are_empty_when_lost() -> None:
    tracks = [make_track(state=State.LOST)]
    message = detections_message(typestore().types, tracks, STAMP, "camera")
    assert len(message.detections) == 0
    assert (stamp_ns(message), message.header.frame_id) == (STAMP, "camera")


def test_types_may_be_a_function_and_classes_take_keywords_only() -> None:
    """rclpy's classes know no positional fields; a lookup function serves them."""
    asked = []

    def lookup(name: str) -> type:
        asked.append(name)
        return lambda **fields: SimpleNamespace(name=name, **fields)

    message = track_message(lookup, make_track())
    assert message.name == "mixformerv2_ros/msg/Track"
    assert message.header.stamp.nanosec == 123_456_789
    assert "vision_msgs/msg/BoundingBox2D" in asked
    array = detections_message(lookup, [make_track()], STAMP, "camera")
    assert array.detections[0].results[0].pose.covariance.shape == (36,)


def test_fixed_arrays_have_the_types_that_rclpy_checks() -> None:
    message = track_message(typestore().types, make_track())
    assert message.edge_std.dtype == np.float32
    array = detections_message(typestore().types, [make_track()], STAMP, "camera")
    assert array.detections[0].results[0].pose.covariance.dtype == np.float64


def test_images_there_and_back() -> None:
    types = typestore().types
    rgb = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    message = round_trip(
        image_message(types, rgb, "rgb8", STAMP, "camera"), "sensor_msgs/msg/Image"
    )
    frame = image_frame(message)
    assert (frame.stamp_ns, frame.frame_id) == (STAMP, "camera")
    np.testing.assert_array_equal(frame.pixels.rgb(), rgb)
    assert np.shares_memory(frame.pixels.rgb(), message.data)

    import cv2

    _, png = cv2.imencode(".png", rgb[..., ::-1])
    message = compressed_image_message(types, png, "png", STAMP, "camera")
    message = round_trip(message, "sensor_msgs/msg/CompressedImage")
    np.testing.assert_array_equal(image_frame(message).pixels.rgb(), rgb)


def header(stamp: int = STAMP) -> SimpleNamespace:
    sec, nanosec = divmod(stamp, 10**9)
    return SimpleNamespace(stamp=SimpleNamespace(sec=sec, nanosec=nanosec), frame_id="camera")


def test_init_box() -> None:
    message = SimpleNamespace(header=header(), target_id="dog", x=1.5, y=2.0, w=3.0, h=4.0)
    request = init_request(message)
    assert request.box == Box(1.5, 2.0, 3.0, 4.0)
    assert (request.target_id, request.stamp_ns) == ("dog", STAMP)


def test_init_without_stamp_or_name() -> None:
    message = SimpleNamespace(header=header(0), target_id="", x=1, y=2, w=3, h=4)
    request = init_request(message)
    assert (request.target_id, request.stamp_ns) == ("target", None)


@pytest.mark.parametrize("nested", [True, False])
def test_init_detection(nested: bool) -> None:
    """vision_msgs 4 holds the centre in `position`, earlier ones hold it directly."""
    point = SimpleNamespace(x=25.0, y=40.0)
    bbox = SimpleNamespace(
        center=SimpleNamespace(position=point) if nested else point, size_x=30.0, size_y=40.0
    )
    request = init_request(SimpleNamespace(header=header(), bbox=bbox, id="dog"))
    assert request.box == Box(10.0, 20.0, 30.0, 40.0)
    assert (request.target_id, request.stamp_ns) == ("dog", STAMP)


def test_init_region_of_interest() -> None:
    cls = typestore().types["sensor_msgs/msg/RegionOfInterest"]
    message = cls(x_offset=1, y_offset=2, height=4, width=3, do_rectify=False)
    request = init_request(message)
    assert request.box == Box(1.0, 2.0, 3.0, 4.0)
    assert request.stamp_ns is None


# --- definitions ---------------------------------------------------------------------------------


def test_type_hashes() -> None:
    """The hash of Detection2DArray as rosidl generates it covers all that it is made of."""
    assert typestore().hash_rihs01("vision_msgs/msg/Detection2DArray") == (
        "RIHS01_214274120007f4a683866481336b70310268cfa107aebe9d594a6acf75bda968"
    )
    assert typestore().hash_rihs01("sensor_msgs/msg/Image") == (
        "RIHS01_d31d41a9a4c4bc8eae9be757b0beed306564f7526c88ea6a4588fb9582527d47"
    )


def test_every_field_of_our_messages_has_a_comment() -> None:
    for file in message_folder().glob("*.msg"):
        blocks = file.read_text().split("\n\n")
        assert all(block.startswith("#") for block in blocks), file


def test_definitions_hold_no_python_package_named_msg() -> None:
    """A `msg` package in our tree would hide the one that rosidl generates."""
    package = Path(interfaces.__file__).parents[1]
    for name in ("msg", "srv", "action"):
        assert not list(package.rglob(name))
    assert {name for name, _ in definitions()} >= {
        "mixformerv2_ros/msg/Track",
        "mixformerv2_ros/msg/InitBox",
        "vision_msgs/msg/Detection2DArray",
    }


def load_copy(folder: Path) -> object:
    """The interfaces module as if it were installed in `folder`."""
    folder.mkdir(parents=True)
    file = folder / "__init__.py"
    file.write_text(Path(interfaces.__file__).read_text())
    spec = importlib.util.spec_from_file_location("interfaces_copy", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "place",
    [
        "site-packages/mixformerv2_ros/interfaces/mixformerv2_ros",
        "msg",
        "share/mixformerv2_ros/msg",
    ],
)
def test_definitions_are_found_in_every_installation(tmp_path: Path, place: str) -> None:
    """A wheel's package data, a source checkout, the share folder of a colcon install."""
    package = "mixformerv2_ros" if place == "msg" else "site-packages/mixformerv2_ros"
    if place.startswith("share"):
        package = f"lib/python3.12/{package}"
    module = load_copy(tmp_path / package / "interfaces")
    with pytest.raises(SourceError, match="lacks its message definitions"):
        module.message_folder()
    target = tmp_path / place
    target.mkdir(parents=True)
    (target / "Track.msg").write_text("")
    assert module.message_folder() == target


def test_stamps_that_are_none_are_no_images():
    message = image_message(typestore().types, np.zeros((20, 20, 3), np.uint8), "rgb8", 0, "cam")
    message.header.stamp.nanosec = 2**32 - 1
    with pytest.raises(ImageError, match="less than 1000000000 nanoseconds, got 4294967295"):
        image_frame(message)


@pytest.mark.parametrize("nanoseconds", [2**62, -(2**62)])
def test_durations_stay_within_their_message(nanoseconds):
    track = Track(
        "t", 0, "", Box(1, 2, 3, 4), 0.5, (1, 1, 1, 1), State.TRACKING, nanoseconds, False, 4
    )
    message = track_message(typestore().types, track, nanoseconds)
    data = typestore().serialize_cdr(message, "mixformerv2_ros/msg/Track")
    read = typestore().deserialize_cdr(data, "mixformerv2_ros/msg/Track")
    assert abs(read.template_age.sec) >= 2**31 - 1
