"""Crop geometry against the reference's vectors, and at the borders."""

from __future__ import annotations

import zlib

import golden
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixformerv2_ros.errors import BoxError, ImageError
from mixformerv2_ros.tracking.boxes import Box, check_box, clip_box, iou
from mixformerv2_ros.tracking.crop import (
    NEUTRAL,
    attenuate_background,
    crop_and_resize,
    crop_window,
)
from mixformerv2_ros.tracking.pixels import Pixels


@pytest.fixture(scope="module")
def vectors(shared_vectors):
    return np.load(shared_vectors / "geometry.npz", allow_pickle=False)


def test_crops_are_the_reference_ones(vectors):
    image = golden.image(240, 320, golden.IMAGE_SEED + 20)
    assert zlib.crc32(image.tobytes()) == int(vectors["image_crc32"])
    pixels = Pixels.from_array(image)
    compared = 0
    for row, sums, error in zip(
        vectors["crop_rows"],
        vectors["crop_crc32_raw_resized_rawH_rawW"],
        vectors["crop_error"],
        strict=True,
    ):
        factor, size, x, y, w, h, x1, y1, side, resize_factor = row
        raw_height, raw_width = sums[2:]
        # Rows where the reference raises, or where its slices wrap around outside of the image.
        if error or raw_height != side or raw_width != side:
            continue
        window = crop_window(Box(x, y, w, h), factor)
        assert window == (x1, y1, side)
        assert size / window.side == resize_factor
        crop = np.empty((int(size), int(size), 3), dtype=np.uint8)
        crop_and_resize(pixels, window, crop)
        assert zlib.crc32(crop.tobytes()) == sums[1], row
        compared += 1
    assert compared > 80


def test_clipping_is_the_reference_one(vectors):
    height, width, margin = vectors["clip_H_W_margin"]
    for before, after in zip(vectors["clip_in"], vectors["clip_out"], strict=True):
        assert clip_box(Box(*before), int(width), int(height), float(margin)) == tuple(after)


def test_a_window_outside_the_image_is_refused():
    pixels = Pixels.from_array(np.zeros((50, 60, 3), np.uint8))
    out = np.empty((16, 16, 3), np.uint8)
    for box in (Box(200, 10, 20, 20), Box(-100, 10, 20, 20), Box(10, 300, 5, 5)):
        with pytest.raises(BoxError, match="overlap the 60x50 image"):
            crop_and_resize(pixels, crop_window(box, 2.0), out)


def test_what_lies_outside_is_black():
    pixels = Pixels.from_array(np.full((40, 40, 3), 200, np.uint8))
    out = np.empty((40, 40, 3), np.uint8)
    crop_and_resize(pixels, crop_window(Box(-10, -10, 20, 20), 2.0), out)
    assert (out[:20] == 0).all()
    assert (out[:, :20] == 0).all()
    assert (out[20:, 20:] == 200).all()


@pytest.mark.parametrize(
    ("box", "words"),
    [
        (Box(float("nan"), 0, 5, 5), "finite"),
        (Box(0, 0, float("inf"), 5), "finite"),
        (Box(0, 0, 0, 5), "positive"),
        (Box(0, 0, 5, -1), "positive"),
        (Box(100, 0, 5, 5), "overlap the 100x80 image"),
        (Box(-5, 0, 5, 5), "overlap"),
        (Box(0, 80, 5, 5), "overlap"),
        (Box(-1e6, -1e6, 2e6, 2e6), "at most 4 times"),
    ],
)
def test_bad_boxes_are_named(box, words):
    with pytest.raises(BoxError, match=words):
        check_box(box, 100, 80)


def test_small_images_are_refused():
    with pytest.raises(ImageError, match="at least 10 px on each side, got 100x9"):
        check_box(Box(0, 0, 5, 5), 100, 9)


@pytest.mark.parametrize("text", ["", "1,2,3", "1,2,3,4,5", "a,b,c,d", "1;2;3;4"])
def test_unreadable_boxes_are_refused(text):
    with pytest.raises(BoxError, match="four numbers"):
        Box.parse(text)


def test_boxes_are_read():
    assert Box.parse("1, 2.5,3,4e1") == (1.0, 2.5, 3.0, 40.0)


sides = st.floats(allow_nan=True, allow_infinity=True)


@given(sides, sides, sides, sides, st.integers(10, 5000), st.integers(10, 5000))
def test_a_clipped_box_can_always_be_tracked_on(x, y, w, h, width, height):
    box = clip_box(Box(x, y, w, h), width, height)
    assert check_box(box, width, height) == box
    assert box.w >= 10
    assert box.h >= 10


def test_iou():
    assert iou(Box(0, 0, 10, 10), Box(0, 0, 10, 10)) == 1
    assert iou(Box(0, 0, 10, 10), Box(5, 0, 10, 10)) == pytest.approx(1 / 3)
    assert iou(Box(0, 0, 10, 10), Box(10, 0, 10, 10)) == 0
    assert iou(Box(0, 0, 0, 10), Box(0, 0, 10, 10)) == 0


def test_surroundings_fade_and_the_target_stays():
    crop = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    before = crop.copy()
    faded = attenuate_background(crop, (8.4, 3.6, 20.0, 40.0), 0.25)
    np.testing.assert_array_equal(crop, before)
    np.testing.assert_array_equal(faded[4:, 8:20], crop[4:, 8:20])
    around = np.ones((32, 32), bool)
    around[4:, 8:20] = False
    expected = NEUTRAL + 0.25 * (crop[around].astype(float) - NEUTRAL)
    np.testing.assert_allclose(faded[around], expected, atol=0.51)


def test_surroundings_with_all_contrast_are_left_alone():
    crop = np.zeros((16, 16, 3), np.uint8)
    assert attenuate_background(crop, (4, 4, 12, 12), 1.0) is crop


@given(st.lists(st.floats(-1e6, 1e6), min_size=4, max_size=4), st.floats(0, 1))
def test_any_corners_can_be_faded_around(corners, contrast):
    crop = np.full((16, 16, 3), 255, np.uint8)
    faded = attenuate_background(crop, corners, contrast)
    assert faded.shape == crop.shape
    assert (faded >= np.floor(NEUTRAL)).all()
