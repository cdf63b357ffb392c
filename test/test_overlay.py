"""Tracks drawn into images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mixformerv2_ros.overlay import COLORS, draw_tracks
from mixformerv2_ros.tracking.boxes import Box
from mixformerv2_ros.tracking.session import State, Track


def track(box, state=State.TRACKING, std=(4.0, 2.0, 4.0, 2.0)):
    return Track("person", 0, "camera", Box(*box), 0.87, std, state, 0, False, 4)


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("size", [(240, 320), (576, 768), (1080, 1920)])
def test_the_box_has_the_color_of_its_state(state, size):
    image = np.full((*size, 3), 40, np.uint8)
    draw_tracks(image, [track((100, 80, 60, 90), state)])
    edge = image[85:165, 97:104].reshape(-1, 3).astype(int)
    assert (np.abs(edge - COLORS[state]).sum(axis=1) < 60).any()
    # Nothing is drawn far away from the box.
    assert (image[-20:] == 40).all()


@pytest.mark.parametrize(
    "box",
    [
        (-50, -50, 100, 100),
        (290, 200, 100, 100),
        (0, 0, 320, 240),
        (500, 500, 10, 10),
        (-90, 0, 10, 10),
    ],
)
def test_boxes_at_and_beyond_the_border_are_survived(box):
    image = np.zeros((240, 320, 3), np.uint8)
    draw_tracks(image, [track(box, std=(30.0, 300.0, 3.0, 0.0))])
    assert image.any()


def test_uncertainty_is_drawn_to_both_sides_of_an_edge():
    certain, doubtful = np.zeros((2, 240, 320, 3), np.uint8)
    draw_tracks(certain, [track((100, 80, 60, 90), std=(0, 0, 0, 0))])
    draw_tracks(doubtful, [track((100, 80, 60, 90), std=(10, 0, 0, 0))])
    for x in (92, 108):
        assert not certain[120, x].any()
        assert doubtful[120, x].any()


def test_the_label_has_the_depth_where_exits_may_answer():
    plain, same, deeper = np.zeros((3, 240, 320, 3), np.uint8)
    draw_tracks(plain, [track((100, 80, 60, 90))])
    draw_tracks(same, [replace(track((100, 80, 60, 90)), depth=0)], full_depth=5)  # not searched
    draw_tracks(deeper, [track((100, 80, 60, 90))], full_depth=5)
    np.testing.assert_array_equal(plain, same)
    narrow, wide = (np.flatnonzero(one[:78].any(axis=(0, 2)))[-1] for one in (plain, deeper))
    assert wide > narrow + 10


def test_a_lost_box_is_dashed():
    image = np.zeros((240, 320, 3), np.uint8)
    draw_tracks(image, [track((100, 80, 60, 90), State.LOST)])
    edge = image[85:165, 100].any(axis=1)
    assert 0.2 < edge.mean() < 0.9
