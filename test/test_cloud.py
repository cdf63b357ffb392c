"""Positions from organised point clouds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ranging import cloud

from mixformerv2_ros.errors import PoseError
from mixformerv2_ros.ros.pose.cloud import cloud_view, measure_cloud
from mixformerv2_ros.tracking.boxes import Box

BOX = Box(20, 10, 30, 40)


def scene() -> np.ndarray:
    """A wall at 9 m with a target at 2 m before it, seen by a pinhole camera."""
    rows, columns = np.mgrid[0:80, 0:100]
    depth = np.full((80, 100), 9.0)
    depth[10:50, 20:50] = 2.0
    return np.stack([(columns - 50) / 90 * depth, (rows - 40) / 90 * depth, depth], axis=-1)


CENTER = np.array([(34.5 - 50) / 90 * 2, (29.5 - 40) / 90 * 2, 2.0])


@pytest.mark.parametrize("kind", ["f4", "f8"])
@pytest.mark.parametrize("bigendian", [False, True])
@pytest.mark.parametrize(("point_pad", "row_pad"), [(0, 0), (4, 0), (3, 5), (20, 64)])
def test_every_layout_gives_the_middle_of_the_target(
    kind: str, bigendian: bool, point_pad: int, row_pad: int
) -> None:
    message = cloud(scene(), kind=kind, bigendian=bigendian, point_pad=point_pad, row_pad=row_pad)
    found = measure_cloud(message, BOX, 0.5)
    np.testing.assert_allclose(found.position, CENTER, atol=1e-6)
    assert found.range.value == pytest.approx(np.linalg.norm(CENTER), rel=0.02)
    assert found.range.share == 1


def test_the_view_shares_the_messages_memory() -> None:
    message = cloud(scene(), row_pad=3)
    view = cloud_view(message)
    assert np.shares_memory(view, message.data)
    np.testing.assert_array_equal(view["z"], scene()[..., 2].astype(np.float32))


def test_missing_points_and_background_do_not_count() -> None:
    points = scene()
    points[10:50, 20:26] = np.nan
    points[10:50, 26:32] = 0  # some drivers say "none" with the origin
    points[10:50, 45:50] = points[60, 60]
    found = measure_cloud(cloud(points), BOX, 0.5)
    assert found.range.share == pytest.approx(18 / 30)
    assert found.position[2] == 2.0
    assert found.position[0] == pytest.approx((38 - 50) / 90 * 2, abs=0.01)
    with pytest.raises(PoseError, match=r"at least 70 % .* got 60 %"):
        measure_cloud(cloud(points), BOX, 0.7)


def test_a_spread_surface_reports_its_spread() -> None:
    points = scene()
    rng = np.random.default_rng(1)
    points *= (1 + rng.normal(0, 0.01, points.shape[:2]))[..., None]
    found = measure_cloud(cloud(points, kind="f8"), Box(40, 32, 10, 16), 0.5).range
    assert found.std == pytest.approx(0.02, rel=0.25)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"height": 1, "width": 8000}, "must be organised .* got 8000x1 points"),
        ({"row_step": 10}, "with point step 24 and row step 10 does not fit its"),
        ({"point_step": 8}, "with point step 8"),
        ({"data": np.zeros(10, np.uint8)}, "does not fit its 10 bytes"),
        ({"fields": []}, "must have the fields x, y and z of type FLOAT32 or FLOAT64"),
    ],
)
def test_a_message_that_holds_no_organised_cloud_is_refused(changes: Any, words: str) -> None:
    message = cloud(scene())
    for name, value in changes.items():
        setattr(message, name, value)
    with pytest.raises(PoseError, match=words) as error:
        measure_cloud(message, BOX, 0.5)
    assert "\n" not in str(error.value)


def test_coordinates_of_other_types_or_names_are_refused() -> None:
    for message in (cloud(scene(), kind="u1"), cloud(scene(), names="xyi")):
        with pytest.raises(PoseError, match="fields x, y and z"):
            measure_cloud(message, BOX, 0.5)
