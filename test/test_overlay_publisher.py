"""The compressed overlay: size, rate, quality."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from nodes import Node, frame_stamp, image, init_box
from recordings import red_box

from mixformerv2_ros.errors import ParameterError
from mixformerv2_ros.ros.messages import stamp_ns
from mixformerv2_ros.ros.topics import DEBUG_IMAGE, DEBUG_IMAGE_COMPRESSED

GROUP = "debug_image.compressed."


def looked_at(**values: Any) -> Node:
    """A tracker at whose compressed overlay somebody looks, at any rate."""
    names = {f"{GROUP}{name}".replace(".", "__"): value for name, value in values.items()}
    node = Node(**{f"{GROUP}max_rate".replace(".", "__"): 0.0, **names})
    node.desk.subscribed.add(DEBUG_IMAGE_COMPRESSED)
    return node


def overlays(node: Node) -> list[Any]:
    return node.desk.published[DEBUG_IMAGE_COMPRESSED]


def decoded(message: Any) -> np.ndarray:
    assert message.format == "bgr8; jpeg compressed bgr8"
    found = cv2.imdecode(np.asarray(message.data), cv2.IMREAD_COLOR)
    assert found is not None
    return found


def test_it_is_scaled_down_with_its_boxes_and_carries_the_stamp() -> None:
    with looked_at(max_size=80, jpeg_quality=95) as node:
        node.tracker.receive_init(init_box(red_box(0)))
        node.feed(image(0), image(1))
        overlay = overlays(node)[1]
        assert stamp_ns(overlay) == frame_stamp(1)
        assert overlay.header.frame_id == "cam"
        seen = decoded(overlay).astype(int)
        assert seen.shape == (60, 80, 3)
        x, y, w, h = (side / 2 for side in red_box(1))
        edge = seen[round(y + h), round(x + w / 2)]
        assert edge[1] > edge[2] + 30  # the green line, where the target's lower edge is now
        assert not node.desk.published[DEBUG_IMAGE]


@pytest.mark.parametrize("size", [0, 160, 5000])
def test_images_that_are_small_enough_stay_as_they_are(size: int) -> None:
    with looked_at(max_size=size) as node:
        node.desk.subscribed.add(DEBUG_IMAGE)
        node.tracker.receive_init(init_box(red_box(0)))
        node.feed(image(0))
        (overlay,), (raw,) = overlays(node), node.desk.published[DEBUG_IMAGE]
        drawn = np.asarray(raw.data).reshape(120, 160, 3)
        difference = np.abs(decoded(overlay).astype(int) - drawn)
        assert difference.mean() < 5


def test_the_rate_is_limited_in_the_mean_and_can_be_changed() -> None:
    with looked_at(max_rate=10.0) as node:
        for index in range(30):
            node.desk.time_ns += 40_000_000
            node.feed(image(index))
        # 1.2 s of 25 Hz.
        assert len(overlays(node)) in (12, 13)
        node.tracker.set_values({f"{GROUP}max_rate": 0.0})
        node.feed(image(30), image(31))
        assert [stamp_ns(m) for m in overlays(node)[-2:]] == [frame_stamp(30), frame_stamp(31)]


def test_a_clock_that_steps_back_does_not_stop_it() -> None:
    with looked_at(max_rate=1.0) as node:
        node.feed(image(0))
        node.desk.time_ns -= 4_000_000_000
        # A change of the clock is believed when a second image confirms it.
        node.feed(image(1), image(2))
        assert len(overlays(node)) == 2


def test_the_quality_of_the_jpeg() -> None:
    with looked_at(jpeg_quality=95) as node:
        node.feed(image(0))
        node.tracker.set_values({f"{GROUP}jpeg_quality": 5})
        node.feed(image(1))
        fine, coarse = overlays(node)
        assert len(fine.data) > 1.5 * len(coarse.data)
        with pytest.raises(ParameterError, match="must be 1 to 100, got 0"):
            node.tracker.set_values({f"{GROUP}jpeg_quality": 0})


def test_nobody_looks() -> None:
    with Node() as node:
        node.feed(image(0))
        assert not overlays(node)
