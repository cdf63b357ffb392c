"""A click starts a target."""

from __future__ import annotations

import math

import pytest
from nodes import Node, box_of, frame_stamp, image, init_point
from recordings import HEIGHT, red_box

from mixformerv2_ros.tracking.boxes import Box
from mixformerv2_ros.tracking.session import State


def test_a_click_starts_a_target_in_its_image() -> None:
    with Node() as node:
        node.feed(image(0), image(1))
        node.tracker.receive_point(init_point(red_box(2), frame_stamp(2)))
        node.feed(image(2))
        side = 0.15 * HEIGHT
        x, y = red_box(2).center
        assert box_of(node.desk.tracks[-1]) == pytest.approx(
            (x - side / 2, y - side / 2, side, side)
        )
        node.feed(image(3))
        assert node.desk.tracks[-1].state == State.TRACKING
        assert box_of(node.desk.tracks[-1]) == pytest.approx(red_box(3), abs=1)


def test_a_click_on_a_past_image_catches_up() -> None:
    with Node() as node:
        node.feed(*(image(i) for i in range(5)))
        node.tracker.receive_point(init_point(red_box(1), frame_stamp(1)))
        node.settle()
        node.feed(image(5))
        assert box_of(node.desk.tracks[-1]) == pytest.approx(red_box(5), abs=1)


def test_the_size_of_the_box_can_be_changed() -> None:
    with Node(init_point__size=0.2) as node:
        node.feed(image(0))
        node.tracker.set_values({"init_point.size": 0.5})
        node.tracker.receive_point(init_point(red_box(1)))
        node.feed(image(1))
        assert box_of(node.desk.tracks[-1])[2:] == pytest.approx((HEIGHT / 2, HEIGHT / 2))


@pytest.mark.parametrize(
    ("box", "words"),
    [
        (Box(math.nan, 0, 1, 1), "finite"),
        (Box(1e300, 0, 1, 1), ""),
        (Box(-500, 0, 1, 1), ""),
    ],
)
def test_a_click_that_is_none_is_rejected(box: Box, words: str) -> None:
    with Node() as node:
        node.feed(image(0))
        node.tracker.receive_point(init_point(box))
        node.feed(image(1))
        assert node.counts.rejected == 1
        assert not node.tracker.targets
        (line,) = [text for text in node.desk.texts if "rejected" in text]
        assert words in line


def test_a_click_before_the_first_image_is_rejected() -> None:
    with Node() as node:
        node.tracker.receive_point(init_point(red_box(0)))
        node.feed(image(0))
        assert not node.tracker.targets
        assert "init box of target rejected: no image has come that a click could be on" in (
            node.desk.texts
        )
