"""Rays of calibrated cameras, against OpenCV's projections."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ranging import FRAME, HEIGHT, WIDTH, K, camera_info

from mixformerv2_ros.errors import PoseError
from mixformerv2_ros.ros.pose.camera import Camera

PLUMB_BOB = (-0.32, 0.11, 0.0012, -0.0007, -0.02)
RATIONAL = (5.1, 2.3, 0.0004, -0.0003, 0.11, 5.4, 4.1, 0.62)
FISHEYE = (0.05, -0.012, 0.004, -0.0007)
ZERO = np.zeros(3)


def projected(points: np.ndarray, d: Any, model: str, k: np.ndarray = K) -> np.ndarray:
    """Pixels of points, counted from the corner of the corner pixel as this package does."""
    shaped = points.reshape(-1, 1, 3)
    if model == "equidistant":
        pixels, _ = cv2.fisheye.projectPoints(shaped, ZERO, ZERO, k, np.array(d))
    else:
        pixels, _ = cv2.projectPoints(shaped, ZERO, ZERO, k, np.array(d, np.float64))
    return pixels.reshape(-1, 2) + 0.5


def directions(most: float, count: int = 200) -> np.ndarray:
    """Unit rays up to an angle from the optical axis."""
    rng = np.random.default_rng(3)
    angle = most * np.sqrt(rng.random(count))
    around = rng.random(count) * 2 * np.pi
    return np.column_stack(
        [np.sin(angle) * np.cos(around), np.sin(angle) * np.sin(around), np.cos(angle)]
    )


@pytest.mark.parametrize(
    ("model", "d", "most"),
    [
        ("plumb_bob", (), 0.7),
        ("", (), 0.7),
        ("plumb_bob", (0, 0, 0, 0, 0), 0.7),
        ("plumb_bob", PLUMB_BOB[:4], 0.6),
        ("plumb_bob", PLUMB_BOB, 0.6),
        ("rational_polynomial", RATIONAL, 0.7),
        ("rational_polynomial", (*RATIONAL, 1e-4, 2e-4, -1e-4, 1e-4), 0.7),
        ("equidistant", FISHEYE, 1.5),
        ("equidistant", (), 1.2),
    ],
)
def test_rays_are_those_that_opencv_projects(model: str, d: Any, most: float) -> None:
    camera = Camera.from_message(camera_info(d=d, model=model))
    rays = directions(most)
    pixels = projected(rays, d if len(d) else np.zeros(4), model)
    np.testing.assert_allclose(camera.rays(pixels), rays, atol=5e-5)


def test_a_fisheye_sees_behind_its_own_plane() -> None:
    """OpenCV's inverse ends before 90 degrees; its projection does not, up to there."""
    camera = Camera.from_message(camera_info(model="fisheye", d=FISHEYE))
    angle = 1.9
    k1, k2, k3, k4 = FISHEYE
    t2 = angle**2
    distorted = angle * (1 + k1 * t2 + k2 * t2**2 + k3 * t2**3 + k4 * t2**4)
    bearing = camera.bearing(K[0, 0] * distorted + K[0, 2] + 0.5, K[1, 2] + 0.5)
    assert bearing.azimuth == pytest.approx(angle, abs=1e-4)
    assert bearing.ray[2] < 0
    assert camera.bearing(K[0, 2] + 0.5, K[1, 2] + 0.5).ray == pytest.approx([0, 0, 1])


def test_angles_are_to_the_right_and_upwards() -> None:
    camera = Camera.from_message(camera_info())
    right = camera.bearing(K[0, 2] + 0.5 + K[0, 0], K[1, 2] + 0.5)
    assert (right.azimuth, right.elevation) == pytest.approx((math.pi / 4, 0))
    above = camera.bearing(K[0, 2] + 0.5, K[1, 2] + 0.5 - K[1, 1])
    assert (above.azimuth, above.elevation) == pytest.approx((0, math.pi / 4))
    assert np.linalg.norm(above.ray) == pytest.approx(1)
    assert above.ray == pytest.approx([0, -math.sqrt(0.5), math.sqrt(0.5)])


@given(
    u=st.floats(0, WIDTH), v=st.floats(0, HEIGHT), x=st.integers(0, 100), y=st.integers(0, 100),
    binning=st.tuples(st.integers(1, 4), st.integers(1, 4)),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_a_part_of_the_sensor_or_a_binned_image_sees_the_same(
    u: float, v: float, x: int, y: int, binning: tuple[int, int]
) -> None:
    whole = Camera.from_message(camera_info(d=PLUMB_BOB))
    part = Camera.from_message(camera_info(d=PLUMB_BOB, binning=binning, roi=(x, y, 400, 300)))
    assert (part.width, part.height) == (400 // binning[0], 300 // binning[1])
    seen = part.bearing((u - x) / binning[0], (v - y) / binning[1]).ray
    np.testing.assert_allclose(seen, whole.bearing(u, v).ray, atol=1e-9)


def test_a_rectified_image_has_the_projection_matrix_and_no_distortion() -> None:
    p = np.array([[400.0, 0, 300, 0], [0, 400, 200, 0], [0, 0, 1, 0]])
    camera = Camera.from_message(camera_info(d=PLUMB_BOB, p=p), rectified=True)
    assert camera.bearing(700.5, 200.5).azimuth == pytest.approx(math.pi / 4)
    assert camera.frame_id == FRAME


def test_lists_and_tuples_serve_as_well() -> None:
    info = camera_info(d=PLUMB_BOB)
    fields = {name: getattr(info, name) for name in info.__dataclass_fields__}
    plain = SimpleNamespace(**{**fields, "k": info.k.tolist(), "d": tuple(info.d.tolist())})
    a, b = Camera.from_message(info), Camera.from_message(plain)
    np.testing.assert_array_equal(a.bearing(10, 20).ray, b.bearing(10, 20).ray)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"k": np.zeros((3, 3))}, "positive focal lengths, got fx 0, fy 0"),
        ({"k": np.full((3, 3), np.nan)}, "camera is not calibrated"),
        ({"k": K * [[-1], [1], [1]]}, "got fx -500, fy 510"),
        ({"k": K * [[1e303], [1], [1]]}, "0.001 to 1e\\+07 pixels, got fx 5e\\+305, fy 510"),
        ({"k": K * [[1], [1e-300], [1]]}, "0.001 to 1e\\+07 pixels, got fx 500, fy 5.1e-298"),
        (
            {"k": [[500, 0, 1e300], [0, 500, 0], [0, 0, 1]]},
            "point within 1e.* got cx 1e\\+300, cy 0",
        ),
        ({"k": [[500, 0, 0], [0, 500, np.nan], [0, 0, 1]]}, "point within 1e.* got cx 0, cy nan"),
        ({"d": (0.1, 0.2, 0.3)}, "plumb_bob requires 4, 5, 8, 12 or 14 coefficients, got 3"),
        ({"d": (np.nan,) * 5}, "distortion coefficients must be finite"),
        (
            {"d": (0.1,) * 5, "model": "kannala\n"},
            r"must be one of plumb_bob, .*got 'kannala\\\\n'",
        ),
        ({"d": (0.1,) * 5, "model": "equidistant"}, "requires 4 distortion coefficients, got 5"),
    ],
)
def test_a_calibration_that_is_none_is_refused_in_one_line(changes: Any, words: str) -> None:
    with pytest.raises(PoseError, match=words) as error:
        Camera.from_message(camera_info(**changes))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("model", "d"), [("plumb_bob", (-0.4, 0, 0, 0)), ("equidistant", (-0.3, 0, 0, 0))]
)
def test_a_pixel_that_the_lens_model_cannot_reach_has_no_ray(model: str, d: Any) -> None:
    """The distorted radius has a maximum; beyond it there is no solution, or a mirrored one."""
    camera = Camera.from_message(camera_info(d=d, model=model))
    with pytest.raises(PoseError, match=r"no ray for pixels \(2000.0, 100.0\)"):
        camera.bearing(2000, 100)
    with pytest.raises(PoseError, match="finite"):
        camera.bearing(math.nan, 0)


@pytest.mark.parametrize(("model", "count"), [("plumb_bob", 14), ("equidistant", 4)])
@pytest.mark.parametrize("value", [1e20, -1e20, 1e308, -1e308])
@pytest.mark.filterwarnings("error")
def test_a_lens_with_absurd_coefficients_has_no_ray(model: str, count: int, value: float) -> None:
    camera = Camera.from_message(camera_info(d=(value,) * count, model=model))
    with pytest.raises(PoseError, match="no ray for pixels"):
        camera.bearing(100, 100)


@pytest.mark.parametrize("u", [1e300, -1e8, math.inf])
@pytest.mark.filterwarnings("error")
def test_a_pixel_far_from_every_image_has_no_ray(u: float) -> None:
    with pytest.raises(PoseError, match="must be finite and at most 1e\\+07, got"):
        Camera.from_message(camera_info()).bearing(u, 100)
