"""Why no message comes on a topic."""

from __future__ import annotations

import pytest

from mixformerv2_ros.ros.qos import QosProfile, Reliability
from mixformerv2_ros.ros.topic_checks import (
    Publication,
    Requested,
    no_image_reason,
    subscribed_type_mismatch,
    type_mismatch,
)

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
RELIABLE, BEST_EFFORT = QosProfile(Reliability.RELIABLE), QosProfile(Reliability.BEST_EFFORT)


def test_no_publisher_names_the_image_topics() -> None:
    requested = Requested("/image", IMAGE, RELIABLE)
    topics = {"/b/image_raw": IMAGE, "/a/image_raw/compressed": COMPRESSED}
    assert no_image_reason(requested, [], {}) == "no publisher on /image; no image topics found"
    assert no_image_reason(requested, [], topics) == (
        "no publisher on /image; image topics: "
        f"/a/image_raw/compressed ({COMPRESSED}), /b/image_raw ({IMAGE})"
    )


@pytest.mark.parametrize(
    ("topic", "msgtype", "found", "advice"),
    [
        ("/a", IMAGE, {"/a/compressed": COMPRESSED}, "for /a/compressed set image_transport:=comp"),
        ("/a/compressed", COMPRESSED, {"/a": IMAGE}, "for /a set image_transport:=raw"),
    ],
)
def test_the_other_transport_is_advised(topic, msgtype, found, advice) -> None:
    assert advice in no_image_reason(Requested(topic, msgtype, RELIABLE), [], found)


@pytest.mark.parametrize(
    ("topic", "msgtype", "published", "advice"),
    [
        ("/a/compressed", IMAGE, COMPRESSED, "image_transport:=compressed and remap image:=/a"),
        ("/a", IMAGE, COMPRESSED, "image_transport:=compressed and remap image/compressed:=/a"),
        ("/a", COMPRESSED, IMAGE, "image_transport:=raw and remap image:=/a"),
        ("/a", IMAGE, "std_msgs/msg/String", f"images are {IMAGE} or {COMPRESSED}"),
    ],
)
def test_another_type_is_named_with_what_to_change(topic, msgtype, published, advice) -> None:
    reason = no_image_reason(
        Requested(topic, msgtype, RELIABLE), [Publication("/cam", published, RELIABLE)], {}
    )
    assert f"is published as {published}, this node subscribes to {msgtype}" in reason
    assert reason.endswith(advice)


@pytest.mark.parametrize("prefix", ["", "/_CREATED_BY_BARE_DDS_APP_/"])
def test_a_publisher_without_a_node_has_a_name_for_people(prefix: str) -> None:
    """Cyclone's Python and rclpy give such a node the same name, rclpy with a namespace."""
    silent = Publication(f"{prefix}_CREATED_BY_BARE_DDS_APP_", IMAGE, RELIABLE)
    assert no_image_reason(Requested("/image", IMAGE, RELIABLE), [silent], {}) == (
        "no message from a program that is no ROS node"
    )


def test_qos_and_silence_of_a_publisher() -> None:
    requested = Requested("/image", IMAGE, RELIABLE)
    sensor = Publication("/cam", IMAGE, BEST_EFFORT)
    assert "offers best effort, volatile" in no_image_reason(requested, [sensor], {})
    camera = Publication("/other", IMAGE, RELIABLE)
    assert no_image_reason(requested, [sensor, camera], {}) == "no message from /cam, /other"


def test_types_of_strangers_are_named_in_one_line() -> None:
    assert type_mismatch("/a", [IMAGE], IMAGE) == ""
    assert subscribed_type_mismatch("/a", [], IMAGE) == ""
    for line in (
        type_mismatch("/a", ["x\ny" * 90, IMAGE], IMAGE),
        subscribed_type_mismatch("/a", ["x\ny" * 90], IMAGE),
    ):
        assert line.isprintable()
        assert len(line) < 300
