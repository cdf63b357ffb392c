"""Distances from registered depth images."""

from __future__ import annotations

import array
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ranging import depth_image

from mixformerv2_ros.errors import PoseError
from mixformerv2_ros.ros.pose.depth import depth_view, measure_depth
from mixformerv2_ros.ros.pose.samples import MAX_SAMPLES, inner_box, robust_median, sample_slices
from mixformerv2_ros.tracking.boxes import Box

BOX = Box(20, 10, 30, 40)


def scene(near: float = 2.0, far: float = 9.0) -> np.ndarray:
    depths = np.full((80, 100), far)
    depths[10:50, 20:50] = near
    return depths


@pytest.mark.parametrize("bigendian", [False, True])
@pytest.mark.parametrize("pad", [0, 1, 6])
def test_both_encodings_in_both_byte_orders(bigendian: bool, pad: int) -> None:
    metres = depth_image(scene().astype(np.float32), bigendian=bigendian, pad=pad)
    millimetres = depth_image((scene() * 1000).astype(np.uint16), bigendian=bigendian, pad=pad)
    for message in (metres, millimetres):
        found = measure_depth(message, BOX, 0.5)
        assert (found.value, found.std, found.share) == pytest.approx((2.0, 0.0, 1.0))


def test_the_view_shares_the_messages_memory() -> None:
    message = depth_image(scene().astype(np.float32), pad=2)
    assert np.shares_memory(depth_view(message), message.data)
    message.data = array.array("B", message.data.tobytes())
    assert measure_depth(message, BOX, 0.5).value == 2.0


def test_missing_distances_do_not_count() -> None:
    depths = scene().astype(np.float32)
    depths[10:50, 20:30] = np.nan
    depths[10:50, 30:35] = np.inf
    depths[10:20, 35:50] = 0
    depths[20:22, 35:50] = -1
    found = measure_depth(depth_image(depths), BOX, 0.2)
    assert found.value == 2.0
    assert found.share == pytest.approx(15 * 28 / (30 * 40))
    words = "at least 50 % of the depth pixels in the box must be valid, got 35 %"
    with pytest.raises(PoseError, match=words):
        measure_depth(depth_image(depths), BOX, 0.5)
    with pytest.raises(PoseError, match="got 0 %"):
        measure_depth(depth_image(np.zeros((80, 100), np.uint16)), BOX, 0.0)


def test_background_and_noise_do_not_move_it() -> None:
    rng = np.random.default_rng(0)
    depths = scene() + rng.normal(0, 0.02, (80, 100))
    depths[10:50, 20:32] = 9.0  # 40 % of the box is background
    found = measure_depth(depth_image(depths.astype(np.float32)), BOX, 0.5)
    assert found.value == pytest.approx(2.0, abs=0.05)
    clean = scene() + rng.normal(0, 0.02, (80, 100))
    spread = measure_depth(depth_image(clean.astype(np.float32)), BOX, 0.5).std
    assert spread == pytest.approx(0.02, rel=0.15)


def test_of_two_halves_the_nearer_one_is_the_target() -> None:
    assert robust_median(np.array([2.0, 2.0, 8.0, 8.0]), 4, 0.5).value == 2.0


@given(
    values=st.lists(st.floats(0.1, 50), min_size=3, max_size=60),
    outliers=st.lists(st.floats(0.1, 500), max_size=60),
)
@settings(max_examples=60, deadline=None)
def test_less_than_half_of_outliers_cannot_carry_it_away(
    values: list[float], outliers: list[float]
) -> None:
    bad = outliers[: len(values) - 1]
    found = robust_median(np.array(values + bad), len(values) + len(bad), 0.0)
    assert min(values) <= found.value <= max(values)


@given(
    x=st.floats(-200, 300), y=st.floats(-200, 300), w=st.floats(0.1, 5000), h=st.floats(0.1, 5000)
)
@settings(max_examples=100, deadline=None)
def test_samples_lie_in_the_image_and_are_bounded(x: float, y: float, w: float, h: float) -> None:
    try:
        rows, columns = sample_slices(Box(x, y, w, h), 1280, 720)
    except PoseError:
        assert x + w < 1 or y + h < 1 or x >= 1279 or y >= 719
        return
    looked_at = np.zeros((720, 1280), bool)[rows, columns].size
    assert 1 <= looked_at <= 1.2 * MAX_SAMPLES + 300
    assert 0 <= rows.start < rows.stop <= 720
    assert 0 <= columns.start < columns.stop <= 1280


def test_the_middle_of_a_box_in_another_resolution() -> None:
    assert inner_box(Box(100, 200, 40, 80), 0.5, (0.5, 0.25)) == Box(55, 55, 10, 10)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"encoding": "rgb8"}, r"encoded as one of 16UC1, mono16, 32FC1, got 'rgb8'"),
        ({"step": 100}, "with step 100 does not fit its 32000 bytes"),
        ({"height": 90}, "depth image of 100x90 with step 400 does not fit"),
        ({"width": 0}, "depth image of 0x80"),
        ({"data": np.zeros(0, np.uint8)}, "does not fit its 0 bytes"),
    ],
)
def test_a_message_that_holds_no_depth_image_is_refused(changes: Any, words: str) -> None:
    message = depth_image(scene().astype(np.float32))
    for name, value in changes.items():
        setattr(message, name, value)
    with pytest.raises(PoseError, match=words):
        measure_depth(message, BOX, 0.5)


def test_a_target_outside_of_the_depth_image_is_refused() -> None:
    with pytest.raises(PoseError, match="must lie inside the 100x80 depth image"):
        measure_depth(depth_image(scene()), Box(100, 10, 20, 20), 0.5)
