"""Conditions that differ between templates and search region: light, turns, blur, weather."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from mixformerv2_ros.errors import ParameterError  # noqa: E402
from mixformerv2_ros.lab.datasets.annotated_images import DecodedClip, Still  # noqa: E402
from mixformerv2_ros.lab.training import augment  # noqa: E402
from mixformerv2_ros.lab.training.synthetic import SyntheticConfig, SyntheticDataset  # noqa: E402
from mixformerv2_ros.model.presets import PRESETS  # noqa: E402

SPEC = PRESETS["T"]
CONDITIONS = (
    *("relight_prob", "rotation_prob", "zoom_prob", "truncation_prob"),
    *("motion_blur_prob", "low_resolution_prob", "weather_prob"),
)
QUIET = {
    **{
        "negative_ratio": 0.0,
        "photometric": 0.0,
        "grey": 0.0,
        "scale_jitter": 0.0,
        "center_jitter": 0.3,
    },
    **{"clip": 1.0, "still": 0.0, "composite": 0.0},
}


def picture(width=300, height=240):
    """Noise of a low contrast, so that a picture is never mistaken for what lies beyond it."""
    return np.random.default_rng(7).integers(60, 90, (height, width, 3), dtype=np.uint8)


def ellipse_still():
    """A bright ellipse that fills its box, on a dark ground."""
    image = picture()
    y, x = np.mgrid[0:240, 0:300] + 0.5
    image[((x - 150) / 40) ** 2 + ((y - 120) / 20) ** 2 <= 1] = 255
    box = np.array([[110.0, 100.0, 80.0, 40.0]])
    return Still(image, box, ("ellipse",), (None,))


def world(thing, **changes):
    """Samples of that one thing, from three frames in which it does not move."""
    clip = DecodedClip("source_video_0", (thing.image,) * 3, np.repeat(thing.boxes, 3, axis=0))
    return SyntheticDataset([thing], [clip], SPEC, SyntheticConfig(**{**QUIET, **changes}))


def bright_edges(search):
    """Where the bright thing of a search region ends, over the side of the region."""
    bright = search.min(axis=2) > 180
    columns, rows = np.flatnonzero(bright.any(axis=0)), np.flatnonzero(bright.any(axis=1))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) / len(search)


def test_an_ellipse_is_enclosed_exactly_at_any_angle_and_scale():
    box = np.array([30.0, 50.0, 60.0, 20.0])
    turn = np.linspace(0, 2 * math.pi, 2000)
    outline = np.stack([60 + 30 * np.cos(turn), 60 + 10 * np.sin(turn)])
    for angle in (0.0, 0.4, 1.2, math.pi / 2, 3.0):
        for flip in (False, True):
            matrix = augment.crop_matrix((50.0, 55.0), 100.0, 128, angle, flip)
            moved = matrix[:, :2] @ outline + matrix[:, 2:]
            expected = [*moved.min(axis=1), *moved.max(axis=1)]
            np.testing.assert_allclose(augment.warp_ellipse(box, matrix), expected, atol=1e-3)
    straight = augment.crop_matrix((50.0, 55.0), 100.0, 128)
    # Not turned, it is the box itself: (30, 50) lies 30 and 45 px from the crop's corner (0, 5).
    expected = np.array([30.0, 45.0, 90.0, 65.0]) * 1.28
    np.testing.assert_allclose(augment.warp_ellipse(box, straight), expected, atol=1e-9)


@pytest.mark.parametrize("condition", ["rotation_prob", "zoom_prob", "truncation_prob"])
def test_the_box_follows_a_target_that_is_turned_scaled_or_cut_off(condition):
    source = world(ellipse_still(), **{condition: 1.0})
    before = world(ellipse_still())
    moved = 0
    for index in range(60):
        sample = source.sample(5, index)
        assert sample.present
        found = bright_edges(sample.search)
        inside = (found > 0.02) & (found < 0.98)
        np.testing.assert_allclose(found[inside], sample.edges[inside], atol=0.035)
        sides = sample.edges[2:] - sample.edges[:2]
        usual = before.sample(5, index).edges
        moved += bool(np.abs(sides - (usual[2:] - usual[:2])).max() > 0.03)
    assert moved > 20


def test_a_target_that_is_cut_off_ends_where_the_picture_does():
    source = world(ellipse_still(), truncation_prob=1.0)
    for index in range(30):
        sample = source.sample(6, index)
        left, top, right, bottom = sample.edges * SPEC.search_size
        dark = sample.search.max(axis=2) == 0
        ends = []
        for line, edge, step in (
            (dark.all(axis=0), left, -1),
            (dark.all(axis=0), right, 1),
            (dark.all(axis=1), top, -1),
            (dark.all(axis=1), bottom, 1),
        ):
            beyond = int(edge) + 3 * step
            ends.append(not 0 <= beyond < len(line) or bool(line[beyond]))
        assert any(ends)


def test_relighting_changes_the_light_by_much_and_at_times_of_a_part_only():
    image = np.full((64, 64, 3), 120, np.uint8)
    lit = [augment.relight(image, np.random.default_rng(seed)) for seed in range(60)]
    means = np.array([one.mean() for one in lit])
    assert means.min() < 70
    assert means.max() > 150
    partly = [np.ptp(one[..., 1].astype(int)) > 10 for one in lit]
    assert 10 < sum(partly) < 50
    assert all(one.shape == image.shape and one.dtype == np.uint8 for one in lit)


def test_motion_blur_smears_along_the_motion_and_not_across_it():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[::8] = stripes[1::8] = 200
    along = augment.motion_blur(stripes, np.array([15.0, 0.0]))
    across = augment.motion_blur(stripes, np.array([0.0, 15.0]))
    np.testing.assert_array_equal(along, stripes)
    assert across[16:48].std() < 0.35 * stripes[16:48].std()
    np.testing.assert_array_equal(augment.motion_blur(stripes, np.array([0.0, 1.5])), stripes)


def test_shrinking_leaves_few_pixels_and_the_mean():
    image = np.zeros((128, 128, 3), np.uint8)
    image[::2, ::2] = image[1::2, 1::2] = 200
    for seed in range(10):
        small = augment.reduce_resolution(image, np.random.default_rng(seed))
        assert small.std() < 0.5 * image.std()
        assert small.mean() == pytest.approx(image.mean(), abs=3)


def test_weather_hazes_and_adds_grain_or_streaks():
    image = picture(64, 64)
    found = [augment.add_weather(image, np.random.default_rng(seed)) for seed in range(20)]
    for one in found:
        assert one.dtype == np.uint8
        assert np.abs(one.astype(int) - image).mean() > 3


@pytest.mark.parametrize("condition", CONDITIONS)
def test_each_condition_changes_the_search_region_or_the_templates(condition):
    far = {"small_motion_prob": 0.0, "center_jitter": 1.0}
    plain = world(ellipse_still(), **far)
    changed = world(ellipse_still(), **far, **{condition: 1.0})
    pairs = [(plain.sample(1, i), changed.sample(1, i)) for i in range(12)]
    different = [
        not np.array_equal(a.search, b.search) or not np.array_equal(a.templates, b.templates)
        for a, b in pairs
    ]
    assert sum(different) > 6


def test_search_regions_and_templates_lie_in_lights_of_their_own():
    source = world(ellipse_still(), relight_prob=1.0)
    search_only, templates_only = 0, 0
    plain = world(ellipse_still())
    for index in range(40):
        sample, usual = source.sample(2, index), plain.sample(2, index)
        same_templates = np.array_equal(sample.templates, usual.templates)
        same_search = np.array_equal(sample.search, usual.search)
        search_only += same_templates and not same_search
        templates_only += same_search and not same_templates
    assert search_only > 10
    assert templates_only > 5


@pytest.mark.parametrize("kind", ["still", "composite"])
def test_photographs_and_composites_are_turned_too(kind):
    source = world(ellipse_still(), clip=0.0, **{kind: 1.0}, rotation_prob=1.0)
    heights = [np.diff(source.sample(3, index).edges[1::2])[0] for index in range(30)]
    assert max(heights) > 1.4 * min(heights)


def test_samples_are_functions_of_seed_and_index_with_all_conditions():
    source = world(ellipse_still(), **dict.fromkeys(CONDITIONS, 0.5))
    for index in (0, 3, 8):
        first, again = source.sample(4, index), source.sample(4, index)
        np.testing.assert_array_equal(first.search, again.search)
        np.testing.assert_array_equal(first.templates, again.templates)


@pytest.mark.parametrize("condition", CONDITIONS)
def test_a_share_outside_of_0_to_1_is_refused(condition):
    with pytest.raises(ParameterError, match=f"{condition} must be from 0 to 1, got 1.5"):
        SyntheticConfig(**{condition: 1.5})
