"""Samples from data sets: frames, crops, labels, and a stream that depends on seed and index."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import pickle
import shutil
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from mixformerv2_ros.cli import main
from mixformerv2_ros.errors import ImageError, ParameterError, SourceError
from mixformerv2_ros.lab.datasets.image_cache import ImageCache
from mixformerv2_ros.lab.datasets.source import Clip
from mixformerv2_ros.lab.datasets.training_sets import read_set
from mixformerv2_ros.lab.training.crops import (
    AugmentedImage,
    Crop,
    brighten,
    crop_around,
    flip,
    jitter_box,
    label_edges,
    shows_image,
)
from mixformerv2_ros.lab.training.sampling import (
    Choice,
    SamplingConfig,
    TrackingDataset,
    centered_box,
    choose_causal,
    choose_trident,
)
from mixformerv2_ros.model.presets import S, T
from mixformerv2_ros.tracking.boxes import Box
from mixformerv2_ros.tracking.crop import NEUTRAL, CropWindow, crop_and_resize, crop_window
from mixformerv2_ros.tracking.pixels import Pixels

SMALL = SamplingConfig(min_frames=5, min_visible=3)


class Memory:
    """A data set that is given its clips."""

    def __init__(self, name: str, clips: list[Clip]) -> None:
        self.name = name
        self.clips = clips

    def __len__(self) -> int:
        return len(self.clips)

    def clip(self, i: int) -> Clip:
        return self.clips[i]


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    grid = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), np.uint8)
    return cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Six images of 160x120, stored without loss."""
    folder = tmp_path_factory.mktemp("images")
    paths = []
    for number in range(6):
        paths.append(folder / f"{number}.png")
        assert cv2.imwrite(str(paths[-1]), noise(120, 160, number))
    return paths


@pytest.fixture(scope="module")
def video(images):
    visible = np.array([True] * 4 + [False, True] * 4)
    frames = [images[n % 5] for n in range(12)]
    boxes = np.array([[40.0 + n, 30, 30, 24] for n in range(12)])
    return Clip("video", frames, boxes, visible, is_image=False)


@pytest.fixture(scope="module")
def still(images):
    return Clip("still", images[5:], np.array([[50.0, 40, 40, 30]]), np.array([True]), True)


@pytest.fixture(scope="module")
def sets(video, still):
    return [(Memory("videos", [video]), 1.0), (Memory("stills", [still]), 1.0)]


# Frames -------------------------------------------------------------------------------------------


def expect(found: Counter, expected: dict[Choice, float], draws: int) -> None:
    """Compare counts with probabilities: no impossible choice, and chi-squared as chance has it."""
    assert set(found) <= {choice for choice, p in expected.items() if p}
    chi = sum((found[c] - draws * p) ** 2 / (draws * p) for c, p in expected.items())
    freedom = len(expected) - 1
    # Seven standard deviations: the generator is seeded, so this does not come and go.
    assert chi < freedom + 7 * math.sqrt(2 * freedom)


def test_causal_choices_are_distributed_as_the_published_loop_has_them():
    visible = np.array([1, 0, 1, 1, 0, 1, 1, 0, 0, 1, 1], bool)
    gap = 4
    # With this gap every frame but the outermost two has a visible one on both sides, so that a
    # try fails on those only; what grows meanwhile changes the windows of the next try.
    seen = np.flatnonzero(visible)
    expected: dict[Choice, float] = Counter()
    weight, grown = 1.0, gap
    for _ in range(40):
        failed = 0.0
        for first in seen:
            before = [n for n in range(first - grown, first) if n >= 0 and visible[n]]
            after = [n for n in range(first + 1, first + grown) if n < len(visible) and visible[n]]
            share = weight / len(seen)
            if not before or not after:
                failed += share
            for online, search in itertools.product(before, after):
                choice = Choice(int(first), online, search)
                expected[choice] += share / (len(before) * len(after))
        weight, grown = failed, grown + 5
    assert sum(expected.values()) == pytest.approx(1, abs=1e-9)
    rng, draws = np.random.default_rng(0), 20_000
    found = Counter(choose_causal(visible, gap, rng) for _ in range(draws))
    expect(found, expected, draws)


def test_causal_windows_grow_until_they_hold_a_frame():
    visible = np.zeros(500, bool)
    visible[[10, 250, 490]] = True
    rng = np.random.default_rng(1)
    assert {choose_causal(visible, 1, rng) for _ in range(5)} == {Choice(250, 10, 490)}


def test_trident_choices_are_distributed_as_the_published_rule_has_them():
    visible = np.array([0, 1, 0, 0, 1, 1, 0, 1], bool)
    gap, seen = 3, [1, 4, 5, 7]
    expected: dict[Choice, float] = Counter()
    for first, search in itertools.product(seen, seen):
        window = range(search, search + gap) if first >= search else range(search - gap, search)
        inside = [n for n in window if 0 <= n < len(visible)]
        for online in inside:
            expected[Choice(first, online, search)] += 1 / 16 / len(inside)
    assert any(not visible[choice.online] for choice in expected)
    rng, draws = np.random.default_rng(2), 20_000
    expect(Counter(choose_trident(visible, gap, rng) for _ in range(draws)), expected, draws)


def test_short_and_hidden_videos_are_not_drawn(video, images):
    short = Clip("short", images, video.boxes[:6], np.ones(6, bool), False)
    hidden = Clip("hidden", video.frames, video.boxes, np.arange(12) < 6, False)
    source = Memory("videos", [short, hidden])
    with pytest.raises(SourceError, match="videos: expected videos of 12 frames or more with 7"):
        TrackingDataset([(source, 1)], T, SamplingConfig(min_frames=12), True).sample(0, 0)
    source.clips.append(video)
    sampler = TrackingDataset([(source, 1)], T, SamplingConfig(min_frames=12), True)
    rng = np.random.default_rng(0)
    assert {sampler.draw_clip(rng).name for _ in range(50)} == {"video"}
    # The published rule: at least 20 frames, and more than 2 * (1 + 2) visible ones.
    assert (SamplingConfig().min_frames, SamplingConfig().min_visible) == (20, 7)


def test_sets_are_drawn_by_weight_and_clips_uniformly(still):
    def named(name: str, count: int) -> Memory:
        return Memory(name, [dataclasses.replace(still, name=f"{name}{n}") for n in range(count)])

    sources = [(named("a", 2), 3.0), (named("b", 5), 1.0), (named("c", 1), 0.0)]
    sampler = TrackingDataset(sources, T, SamplingConfig(), True)
    rng = np.random.default_rng(3)
    found = Counter(sampler.draw_clip(rng).name for _ in range(8000))
    expect(found, {f"a{n}": 3 / 8 for n in range(2)} | {f"b{n}": 1 / 20 for n in range(5)}, 8000)


# Labels of presence -------------------------------------------------------------------------------


def test_half_of_the_score_stage_is_negative(sets):
    config = dataclasses.replace(SMALL, mode="trident_pro", negative_ratio=0.5)
    sampler = TrackingDataset(sets, T, config, True)
    samples = [sampler.sample(1, index) for index in range(400)]
    assert 150 < sum(sample.present for sample in samples) < 250
    for sample in samples:
        assert (sample.edges == 0).all() if not sample.present else (sample.edges > 0).any()
    assert all(
        TrackingDataset(sets, T, SMALL, True).sample(1, index).present for index in range(50)
    )


def test_negatives_of_a_video_are_its_hidden_frames_around_their_middle(sets, video, monkeypatch):
    sampler = TrackingDataset(sets, T, SMALL, True)
    read = []
    original = ImageCache.read
    monkeypatch.setattr(
        ImageCache, "read", lambda self, path: read.append(path) or original(self, path)
    )
    rng = np.random.default_rng(4)
    for _ in range(40):
        _, box = sampler.draw_negative(video, rng)
        assert box == Box(70, 52, 20, 15)
    hidden = {video.frames[n] for n in np.flatnonzero(~video.visible)}
    assert set(read) == hidden
    # Whole numbers: 101/8, 67/8 are cut off, and so are (W - w) / 2, (H - h) / 2.
    assert centered_box(101, 67) == Box(44, 29, 12, 8)


def test_negatives_without_hidden_frames_come_from_another_clip(still, video):
    other = dataclasses.replace(video, name="other", visible=np.ones(12, bool))
    # Another object of the same image may well be beside the target.
    neighbour = dataclasses.replace(still, name="neighbour", boxes=still.boxes + 5)
    source = Memory("mixed", [still, other, neighbour])
    sampler = TrackingDataset([(source, 1.0)], T, SMALL, True)
    rng = np.random.default_rng(5)
    boxes = [sampler.draw_negative(still, rng)[1] for _ in range(200)]
    # Any frame of it, with its own box.
    assert {tuple(box) for box in boxes} == {tuple(map(float, box)) for box in other.boxes}
    alone = TrackingDataset([(Memory("one", [still]), 1.0)], T, SMALL, True)
    with pytest.raises(SourceError, match="still: negative samples need other clips"):
        alone.draw_negative(still, rng)


# Jitter, crop, label ------------------------------------------------------------------------------


def test_jitter_has_the_published_distribution():
    rng, box = np.random.default_rng(6), Box(100, 50, 40, 90)
    drawn = np.array([jitter_box(box, rng, 4.5, 0.5) for _ in range(20_000)])
    stretch = np.log(drawn[:, 2:] / [40, 90])
    assert np.abs(stretch.mean(axis=0)).max() < 0.015
    np.testing.assert_allclose(stretch.std(axis=0), 0.5, atol=0.01)
    assert abs(np.corrcoef(stretch.T)[0, 1]) < 0.03  # each side for itself
    moved = drawn[:, :2] + drawn[:, 2:] / 2 - [120, 95]
    offset = moved / np.sqrt(drawn[:, 2] * drawn[:, 3])[:, None]  # of the new size
    assert np.abs(offset).max() <= 2.25
    for share in (0.1, 0.25, 0.5, 0.75, 0.9):
        np.testing.assert_allclose(
            np.quantile(offset, share, axis=0), 4.5 * (share - 0.5), atol=0.1
        )
    assert abs(np.corrcoef(offset.T)[0, 1]) < 0.03
    assert jitter_box(box, rng, 0.0, 0.0) == box


def test_label_follows_the_published_formula():
    rng = np.random.default_rng(7)
    for _ in range(200):
        target, around = (Box(*rng.uniform(1, 300, 4)) for _ in range(2))
        side, size = int(rng.integers(1, 900)), int(rng.choice([64, 112, 224, 288]))
        rf = size / side
        c_true = np.array([target.x + 0.5 * target.w, target.y + 0.5 * target.h])
        c_crop = np.array([around.x + 0.5 * around.w, around.y + 0.5 * around.h])
        center = (size - 1) / 2 + (c_true - c_crop) * rf
        wh = np.array([target.w, target.h]) * rf
        expected = np.concatenate([center - 0.5 * wh, center + 0.5 * wh]) / size
        np.testing.assert_allclose(label_edges(target, around, side, size), expected, rtol=1e-12)
    # Half a crop pixel off the mapping in use, by which a box maps its own middle to 0.5.
    edges = label_edges(around, around, side, 224)
    assert (edges[0] + edges[2]) / 2 == pytest.approx(0.5 - 0.5 / 224)


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("grey", [False, True])
def test_crops_equal_those_of_whole_transformed_images(flipped, grey):
    image = noise(90, 130)
    rng = np.random.default_rng(8)
    whole = image[:, ::-1] if flipped else image
    if grey:
        whole = np.repeat(
            cv2.cvtColor(np.ascontiguousarray(whole), cv2.COLOR_RGB2GRAY)[..., None], 3, 2
        )
    whole = Pixels.from_array(np.ascontiguousarray(whole))
    compared = 0
    for _ in range(150):
        box = Box(*rng.uniform(-20, 90, 2), *rng.uniform(3, 90, 2))
        around = jitter_box(box, rng, 4.5, 0.5)
        crop = crop_around(AugmentedImage(image, flipped, grey), around, box, 4.5, 64)
        if crop is None:
            continue
        expected = np.empty((64, 64, 3), np.uint8)
        crop_and_resize(whole, crop_window(around, 4.5), expected)
        np.testing.assert_array_equal(crop.image, expected)
        compared += 1
    assert compared > 60


def test_a_canvas_changes_nothing_and_is_left_clean():
    image = Pixels.from_array(noise(60, 80))
    canvas = np.zeros((200, 200, 3), np.uint8)
    rng = np.random.default_rng(9)
    for _ in range(200):
        side = int(rng.integers(2, 260))
        x, y = (int(v) for v in rng.integers(-side + 2, 55, 2))
        window = CropWindow(x, y, side)
        plain, other = np.empty((2, 32, 32, 3), np.uint8)
        crop_and_resize(image, window, plain)
        crop_and_resize(image, window, other, canvas)
        np.testing.assert_array_equal(plain, other)
        assert not canvas.any()


def test_rejection_agrees_with_a_mask():
    """The padding mask is resized like the crop, then down-sampled to patches (nearest)."""
    rng = np.random.default_rng(10)
    answers = Counter()
    width, height, size = 60, 50, 64
    for _ in range(600):
        side = int(rng.integers(1, 200))
        x, y = int(rng.integers(-side - 4, width + 4)), int(rng.integers(-side - 4, height + 4))
        mask = np.ones((side, side))
        x1, x2 = max(x, 0), min(x + side, width - 1)  # the reference's pad of one too many
        y1, y2 = max(y, 0), min(y + side, height - 1)
        if x1 < x2 and y1 < y2:
            mask[y1 - y : y2 - y, x1 - x : x2 - x] = 0
        resized = cv2.resize(mask, (size, size), interpolation=cv2.INTER_LINEAR) > 0
        expected = not resized[::16, ::16].all()
        assert shows_image(CropWindow(x, y, side), width, height, size) == expected
        answers[expected] += 1
    assert min(answers.values()) > 100


def test_unusable_boxes_give_no_crop():
    image = AugmentedImage(noise(60, 80))
    box = Box(10, 10, 20, 20)
    for around in (
        Box(10, 10, 0, 20),
        Box(10, 10, -5, 20),
        Box(500, 10, 20, 20),
        Box(0, 0, 1e5, 1e5),
        Box(math.nan, 0, 9, 9),
    ):
        if not math.isnan(around.x):
            assert crop_around(image, around, box, 2.0, 64) is None
    assert crop_around(image, box, box, 2.0, 64) is not None


def test_boxes_are_flipped_with_the_image():
    image = AugmentedImage(np.zeros((50, 101, 3), np.uint8), flipped=True)
    assert image.box(Box(0, 5, 10, 20)) == Box(91, 5, 10, 20)
    crop = Crop(noise(64, 64), np.array([0.1, 0.2, 0.4, 0.9]))
    other = flip(crop)
    np.testing.assert_array_equal(other.image, crop.image[:, ::-1])
    np.testing.assert_allclose(other.edges, [0.6, 0.2, 0.9, 0.9])


def test_brightness_is_the_published_step_to_rounding():
    image = noise(64, 64)
    rng = np.random.default_rng(11)
    for factor in (0.8, 1.0, 1.2, *rng.uniform(0.8, 1.2, 20)):
        published = np.clip(image.astype(np.float64) / 255 * factor, 0, 1)
        assert np.abs(brighten(image, factor) / 255.0 - published).max() <= 0.5 / 255 + 1e-9


# Samples ------------------------------------------------------------------------------------------


def oracle(sampler: TrackingDataset, clip: Clip, number: int, seed: int) -> dict[str, np.ndarray]:
    """A sample of validation, step by step on whole images: no views, canvas or cache."""
    rng = np.random.default_rng((seed, number))
    rng.random(), rng.integers(1)  # which set, which clip
    frames = choose_causal(clip.visible, 200, rng)
    rng.random()  # negative or not
    grey, flip = rng.random(2) < (0.05, 0.5)
    made = []
    for place, frame in enumerate(frames):
        image = cv2.cvtColor(cv2.imread(str(clip.frames[frame])), cv2.COLOR_BGR2RGB)
        x, y, w, h = clip.boxes[frame]
        if grey:
            image = np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
        if flip:
            image, x = np.ascontiguousarray(image[:, ::-1]), image.shape[1] - x - w
        factor, size, jw, jh, jx, jy = 2.0, sampler.spec.template_size, w, h, 0.0, 0.0
        if place == 2:
            factor, size = 4.5, sampler.spec.search_size
            jw, jh = np.array([w, h]) * np.exp(rng.standard_normal(2) * 0.5)
            jx, jy = (rng.random(2) - 0.5) * 4.5 * np.sqrt(jw * jh)
        cx, cy = x + w / 2 + jx, y + h / 2 + jy
        side = math.ceil(math.sqrt(jw * jh) * factor)
        out = np.empty((size, size, 3), np.uint8)
        around = Box(cx - jw / 2, cy - jh / 2, jw, jh)
        crop_and_resize(Pixels.from_array(image), crop_window(around, factor), out)
        middle = (size - 1) / 2 + (np.array([x + w / 2, y + h / 2]) - (cx, cy)) * size / side
        half = np.array([w, h]) / 2 * size / side
        made.append((out, np.concatenate([middle - half, middle + half]) / size))
    return {
        "templates": np.stack([made[0][0], made[1][0]]),
        "search": made[2][0],
        "edges": np.clip(made[2][1], 0, 1),
    }


def test_samples_equal_an_oracle(video):
    sampler = TrackingDataset([(Memory("videos", [video]), 1.0)], S, SMALL, train=False)
    for number in range(60):
        sample = sampler.sample(5, number)
        expected = oracle(sampler, video, number, 5)
        np.testing.assert_array_equal(sample.templates, expected["templates"])
        np.testing.assert_array_equal(sample.search, expected["search"])
        np.testing.assert_allclose(sample.edges, expected["edges"], atol=1e-6)
        assert sample.present


def test_samples_have_the_networks_form(sets):
    for train in (True, False):
        sample = TrackingDataset(sets, S, SMALL, train).sample(0, 0)
        assert sample.templates.shape == (2, 112, 112, 3)
        assert sample.search.shape == (224, 224, 3)
        assert sample.templates.dtype == sample.search.dtype == np.uint8
        assert sample.edges.dtype == np.float32
        left, top, right, bottom = sample.edges
        assert 0 <= left < right <= 1
        assert 0 <= top < bottom <= 1


def test_own_changes_are_made_in_training_only(still):
    """A still's templates are one crop; only what is its own can tell them apart."""
    source = [(Memory("stills", [still]), 1.0)]
    for train, differ in ((False, 0), (True, 100)):
        sampler = TrackingDataset(source, T, SamplingConfig(), train)
        samples = [sampler.sample(0, number) for number in range(100)]
        assert sum((s.templates[0] != s.templates[1]).any() for s in samples) >= 0.9 * differ
        assert differ or all((s.templates[0] == s.templates[1]).all() for s in samples)
    config = SamplingConfig(brightness=0.0)
    sampler = TrackingDataset(source, T, config, True)
    flips = [sampler.sample(0, n).templates for n in range(400)]
    same = [(a == b).all() for a, b in flips]
    assert all(one or (a == b[:, ::-1]).all() for one, (a, b) in zip(same, flips, strict=True))
    assert 160 < sum(same) < 240  # two rolls of a half
    grey = [(np.ptp(a, axis=2) == 0).all() for a, _ in flips]
    assert all(
        (np.ptp(b, axis=2) == 0).all() == one for one, (_, b) in zip(grey, flips, strict=True)
    )
    assert 6 < sum(grey) < 40  # one roll of 0.05


def same_samples(a, b) -> bool:
    return all(
        np.array_equal(x, y)
        for x, y in zip(dataclasses.astuple(a), dataclasses.astuple(b), strict=True)
    )


def test_a_sample_depends_on_seed_and_index_only(sets):
    config = dataclasses.replace(SMALL, mode="trident_pro", negative_ratio=0.5)
    sampler = TrackingDataset(sets, T, config, True)
    expected = [sampler.sample(1, index) for index in range(20)]
    for cached in (
        dataclasses.replace(config, cache_megabytes=0.1),
        dataclasses.replace(config, cache_megabytes=10, cache_decoded=False),
    ):
        again = pickle.loads(pickle.dumps(TrackingDataset(sets, T, cached, True)))
        for index in (17, 3, 3, 19):
            assert same_samples(again.sample(1, index), expected[index])
    assert not same_samples(sampler.sample(2, 0), expected[0])
    assert not same_samples(expected[1], expected[0])


def test_the_number_of_workers_does_not_change_the_stream(miniature_data, tmp_path):
    torch = pytest.importorskip("torch")

    class Stream(torch.utils.data.Dataset):
        def __getitem__(self, index):
            sample = sampler.sample(7, index)
            return sample.templates, sample.search, sample.edges, float(sample.present)

    cv2.setNumThreads(1)
    found = [
        (read_set("folder", miniature_data, split, tmp_path / "cache"), 1.0)
        for split in ("sequences", "stills")
    ]
    config = dataclasses.replace(SMALL, mode="trident_pro", negative_ratio=0.3)
    sampler = TrackingDataset(found, T, config, True)
    streams = []
    for workers, start in ((0, 0), (1, 0), (2, 0), (2, 8)):
        loader = torch.utils.data.DataLoader(
            Stream(), batch_size=4, sampler=range(start, 24), num_workers=workers
        )
        parts = zip(*loader, strict=True)
        streams.append([torch.cat([torch.as_tensor(b) for b in part]) for part in parts])
    whole, one, two, resumed = streams
    for a, b, c, d in zip(whole, one, two, resumed, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)
        assert torch.equal(a[8:], d)


def test_invalid_crops_are_drawn_again(still, images):
    outside = Clip("outside", images[:1], np.array([[400.0, 40, 40, 30]]), np.array([True]), True)
    empty = Clip("empty", images[:1], np.array([[np.nan] * 4]), np.array([False]), True)
    source = Memory("stills", [outside, still, empty])
    config = SamplingConfig(grey=0.0)
    sampler = TrackingDataset([(source, 1.0)], T, config, False)
    alone = TrackingDataset([(Memory("good", [still]), 1.0)], T, config, False)
    templates = {alone.sample(0, n).templates.tobytes() for n in range(40)}
    assert all(sampler.sample(0, n).templates.tobytes() in templates for n in range(30))
    source.clips.remove(still)
    with pytest.raises(SourceError, match="stills: 1000 samples in a row were rejected"):
        sampler.sample(0, 0)


def test_missing_and_damaged_images_are_named(still, tmp_path):
    for name, content, error, came in (
        ("gone.jpg", None, SourceError, "cannot be read: No such file"),
        ("x.jpg", b"text", ImageError, "cannot be decoded"),
    ):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        broken = dataclasses.replace(still, frames=[path])
        sampler = TrackingDataset([(Memory("stills", [broken]), 1.0)], T, SamplingConfig(), True)
        with pytest.raises(error, match=f"{name} {came}"):
            sampler.sample(0, 0)


@pytest.mark.parametrize(
    "settings",
    [
        {"mode": "forward"},
        {"negative_ratio": 1.5},
        {"grey": -0.1},
        {"max_gap": 0},
        {"search_factor": math.inf},
        {"search_scale_jitter": -1.0},
        {"min_visible": 2},
        {"cache_megabytes": math.nan},
    ],
)
def test_wrong_settings_are_refused(settings):
    (name,) = settings
    with pytest.raises(ParameterError, match=f"{name} must be"):
        SamplingConfig(**settings)


def test_wrong_weights_are_refused(sets):
    for weights in ([-1.0, 2.0], [0.0, 0.0], [math.nan, 1.0]):
        pairs = [(source, w) for (source, _), w in zip(sets, weights, strict=True)]
        with pytest.raises(ParameterError, match="weight"):
            TrackingDataset(pairs, T, SMALL, True)
    with pytest.raises(ParameterError, match="got none"):
        TrackingDataset([], T, SMALL, True)


# Memory -------------------------------------------------------------------------------------------


def test_the_image_cache_is_bounded_and_drops_what_was_used_least_recently(tmp_path):
    images = {name: noise(30, 40) for name in "abc"}
    for name, image in images.items():
        assert cv2.imwrite(str(tmp_path / f"{name}.png"), image[..., ::-1])
    cache = ImageCache(2 * images["a"].nbytes / 1e6, decoded=True)  # two of three
    for name in "abac":
        np.testing.assert_array_equal(cache.read(tmp_path / f"{name}.png"), images[name])
    for name in images:
        (tmp_path / f"{name}.png").unlink()
    for name in "ac":
        np.testing.assert_array_equal(cache.read(tmp_path / f"{name}.png"), images[name])
    with pytest.raises(SourceError, match="cannot be read"):
        cache.read(tmp_path / "b.png")
    copy = pickle.loads(pickle.dumps(cache))
    assert (copy.megabytes, copy.decoded) == (cache.megabytes, True)
    with pytest.raises(SourceError, match="cannot be read"):
        copy.read(tmp_path / "a.png")


def test_images_are_read_once_while_they_are_remembered(images, tmp_path):
    for decoded in (True, False):
        path = tmp_path / "image.jpg"
        shutil.copy(images[0], path)
        remembering, forgetting = ImageCache(1.0, decoded), ImageCache(0.0, decoded)
        for cache in (remembering, forgetting):
            np.testing.assert_array_equal(cache.read(path)[..., ::-1], cv2.imread(str(path)))
        path.unlink()
        assert remembering.read(path).shape == cv2.imread(str(images[0])).shape
        with pytest.raises(SourceError, match="cannot be read"):
            forgetting.read(path)


# Commands -----------------------------------------------------------------------------------------


@pytest.fixture
def config_file(miniature_data, tmp_path) -> Path:
    pytest.importorskip("torch")
    path = tmp_path / "sets.yaml"
    path.write_text(
        "preset: T\n"
        f"output: {tmp_path / 'run'}\n"
        "data:\n"
        "  sets:\n"
        f"    - {{kind: folder, root: {miniature_data}, split: sequences}}\n"
        f"    - {{kind: folder, root: {miniature_data}, split: stills_train, weight: 2}}\n"
        "  validation_sets:\n"
        f"    - {{kind: folder, root: {miniature_data}, split: stills_val}}\n"
        "  sampling: {min_frames: 5, min_visible: 3}\n"
    )
    return path


def test_visualize_shows_samples_of_data_sets(config_file, tmp_path, capsys):
    sheets = []
    for words in ([], ["data.sampling.mode=trident_pro", "data.sampling.negative_ratio=1.0"]):
        out = tmp_path / f"{len(words)}.png"
        line = ["visualize", "samples", str(config_file), *words, "--count", "4", "-o", str(out)]
        assert main(line) == 0, capsys.readouterr().err
        sheets.append(cv2.imread(str(out)))
    assert sheets[0].shape == sheets[1].shape
    assert (sheets[0] != sheets[1]).any()


def test_benchmark_of_generated_stills(tmp_path, capsys):
    pytest.importorskip("torch")
    out = tmp_path / "data.json"
    words = ["--rounds", "1", "--samples", "6", "--json", str(out)]
    assert main(["benchmark", "data", *words]) == 0
    shown = capsys.readouterr().out
    result = json.loads(out.read_text())
    assert [row["source"] for row in result["data"]] == [
        "640x480 JPEG in memory",
        "640x480 decoded in memory",
    ]
    for row in result["data"]:
        assert row["source"] in shown
        assert row["samples_per_cpu_second"] > 5
    assert result["machine"]["processor"] in shown


def test_benchmark_of_a_configuration(config_file, capsys):
    words = ["--rounds", "1", "--samples", "4"]
    assert main(["benchmark", "data", str(config_file), *words]) == 0
    assert "sets.yaml" in capsys.readouterr().out
    assert main(["benchmark", "data", "nowhere.yaml", *words]) == 2
    assert main(["benchmark", "nowhere", "nowhere.yaml"]) == 2
    assert main(["benchmark", "data", "--rounds", "0"]) == 2
    for line in capsys.readouterr().err.splitlines():
        assert line.startswith("mixformerv2 benchmark: ")


def test_templates_fade_around_the_target_alone(sets):
    plain = TrackingDataset(sets, T, SMALL, True)
    fading = TrackingDataset(
        sets, T, dataclasses.replace(SMALL, template_background_contrast=0.0), True
    )
    for number in range(20):
        one, other = plain.sample(3, number), fading.sample(3, number)
        np.testing.assert_array_equal(one.search, other.search)
        np.testing.assert_array_equal(one.edges, other.edges)
        for before, after in zip(one.templates, other.templates, strict=True):
            # A template is twice as large as its target, which lies in the middle.
            neutral = np.round(NEUTRAL).astype(np.uint8)
            np.testing.assert_array_equal(after[0], np.broadcast_to(neutral, after[0].shape))
            np.testing.assert_array_equal(after[30:34, 30:34], before[30:34, 30:34])
