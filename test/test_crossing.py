"""Targets that look alike pass each other, and keep their ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import pytest
from recordings import RedEngine, published_settings

from mixformerv2_ros.model.engine import Prediction
from mixformerv2_ros.tracking.boxes import Box, iou
from mixformerv2_ros.tracking.crop import CropWindow, cover
from mixformerv2_ros.tracking.frame import NS, Frame
from mixformerv2_ros.tracking.pixels import Pixels
from mixformerv2_ros.tracking.session import Session, State, Track

WIDTH, HEIGHT = 640, 360
SETTINGS: dict[str, Any] = {
    "search_factor": 3.6,
    "lost_duration": 0.5,
    "separate_score_threshold": 0.7,
}
BIG, SMALL = 48, 40


class Largest(RedEngine):
    """Finds the largest red object in a crop, whichever target it is asked for."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def search(self, crops: np.ndarray, memories: Sequence[Any], stop: object = None) -> Prediction:
        self.calls.append(len(crops))
        answer = super().search(np.stack([self._largest(crop) for crop in crops]), memories)
        kept = 1 / SETTINGS["search_factor"]
        answer.boxes[answer.scores < 0.5] = (0.5, 0.5, kept, kept)  # where nothing is red
        return answer

    @staticmethod
    def _largest(crop: np.ndarray) -> np.ndarray:
        red = ((crop[..., 0] > 160) & (crop[..., 2] < 100)).astype(np.uint8)
        count, labels, stats, _ = cv2.connectedComponentsWithStats(red)
        if count == 1:
            return crop
        largest = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
        return np.where((labels == largest)[..., None], crop, 90).astype(np.uint8)


def frame(index: int, *boxes: Box) -> Frame:
    image = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    for box in boxes:
        x, y, w, h = map(int, box)
        image[y : y + h, x : x + w] = (230, 20, 20)
    return Frame(Pixels.from_array(image, "rgb8"), index * NS // 30, "camera")


def places(index: int) -> tuple[Box, Box]:
    """A large object moves to the right, a small one below it to the left."""
    return Box(100 + 8 * index, 110, BIG, BIG), Box(500 - 8 * index, 165, SMALL, SMALL)


def session_on(start: Frame, boxes: dict[str, Box], **settings: Any) -> tuple[Session, Largest]:
    engine = Largest()
    session = Session(engine, published_settings(**{**SETTINGS, **settings}))
    for name, box in boxes.items():
        session.start(start, box, name)
    return session, engine


def pass_by(order: Sequence[str], **settings: Any) -> tuple[dict[str, Track], Largest]:
    boxes = dict(zip(("big", "small"), places(0), strict=True))
    session, engine = session_on(
        frame(0, *places(0)), {name: boxes[name] for name in order}, **settings
    )
    for index in range(1, 50):
        tracks = session.update(frame(index, *places(index)))
        assert [track.target_id for track in tracks] == list(order)
    return {track.target_id: track for track in tracks}, engine


@pytest.mark.parametrize("order", [("big", "small"), ("small", "big")])
def test_two_of_a_kind_pass_each_other_and_keep_their_ids(order: Sequence[str]) -> None:
    tracks, engine = pass_by(order)
    for name, box in zip(("big", "small"), places(49), strict=True):
        assert iou(tracks[name].box, box) > 0.8
        assert tracks[name].state is State.TRACKING
    assert max(engine.calls) == 2


def test_with_a_threshold_of_one_they_stay_on_one_object() -> None:
    tracks, engine = pass_by(("big", "small"), separate_score_threshold=1.0)
    assert iou(tracks["small"].box, tracks["big"].box) > 0.8
    assert len(engine.calls) == 49


def test_one_object_under_two_names_is_searched_no_further() -> None:
    box = Box(200, 100, 40, 40)
    session, engine = session_on(frame(0, box), {"a": box, "b": box})
    for index in range(1, 20):
        a, b = session.update(frame(index, box))
        assert a.box == b.box
    assert engine.calls == [2] * 19


def test_where_one_hides_nothing_changes_and_after_a_second_nothing_is_tried() -> None:
    session, engine = session_on(
        frame(0, *places(0)), dict(zip(("big", "small"), places(0), strict=True))
    )
    index = 0
    while len(engine.calls) <= index:  # the first image in which both are on one object
        index += 1
        session.update(frame(index, *places(index)))
    large = places(index)[0]
    for later in range(index + 1, index + 60):
        engine.calls.clear()
        tracks = session.update(frame(later, large))
        assert {track.state for track in tracks} == {State.TRACKING}
        assert engine.calls == ([2, 2] if later - index < 30 else [2]) or later - index in (29, 30)
    assert iou(tracks[0].box, tracks[1].box) > 0.9


def test_a_lost_target_is_not_found_where_another_is_tracked() -> None:
    here, there, elsewhere = (Box(x, y, 40, 40) for x, y in ((60, 60), (500, 240), (300, 60)))
    session, _ = session_on(frame(0, here, there), {"a": here, "b": there})
    tracks = {}
    for index in range(1, 120):
        tracks = {t.target_id: t for t in session.update(frame(index, there))}
    assert tracks["a"].state is State.LOST
    # Alone it would have been taken for the one that is there; nor is that one a rival.
    for index in range(120, 240):
        tracks = {t.target_id: t for t in session.update(frame(index, there, elsewhere))}
    assert tracks["a"].state is State.TRACKING
    assert iou(tracks["a"].box, elsewhere) > 0.8
    assert iou(tracks["b"].box, there) > 0.8
    session.stop("b")
    session.start(frame(240, there, elsewhere), here, "c")
    for index in range(241, 360):
        tracks = {t.target_id: t for t in session.update(frame(index, there, elsewhere))}
    assert iou(tracks["c"].box, there) > 0.8


def test_a_covered_box_is_grey_and_the_rest_as_it_was() -> None:
    crop = np.full((100, 100, 3), 200, np.uint8)
    cover(crop, CropWindow(10, 20, 50), Box(15, 30, 10, 5))  # two pixels of the crop per pixel
    grey = np.zeros((100, 100), bool)
    grey[20:30, 10:30] = True
    assert (crop[grey] == (124, 116, 104)).all()
    assert (crop[~grey] == 200).all()
    before = crop.copy()
    cover(crop, CropWindow(10, 20, 50), Box(100, 100, 20, 20))
    cover(crop, CropWindow(10, 20, 50), Box(-50, -50, 20, 20))
    np.testing.assert_array_equal(crop, before)
