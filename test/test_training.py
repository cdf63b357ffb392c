"""Training: the sample stream, the losses, and runs that resume bit for bit."""

from __future__ import annotations

import dataclasses
import math

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from small_training import changed  # noqa: E402

from mixformerv2_ros.errors import CheckpointError, ParameterError, SourceError  # noqa: E402
from mixformerv2_ros.lab.datasets.annotated_images import DecodedClip, Still, read_stills  # noqa: E402
from mixformerv2_ros.lab.training import augment, losses  # noqa: E402
from mixformerv2_ros.lab.training.checkpoint_files import LAST  # noqa: E402
from mixformerv2_ros.lab.training.composites import cut_out, paste_distractor_copy  # noqa: E402
from mixformerv2_ros.lab.training.config import LossConfig, TrainConfig  # noqa: E402
from mixformerv2_ros.lab.training.data_loaders import load_batches, load_synthetic  # noqa: E402
from mixformerv2_ros.lab.training.object_pool import ObjectPool, StillObject  # noqa: E402
from mixformerv2_ros.lab.training.optimizers import RunLength, learning_rate_factor  # noqa: E402
from mixformerv2_ros.lab.training.synthetic import (  # noqa: E402
    SyntheticConfig,
    SyntheticDataset,
    draw_offset,
)
from mixformerv2_ros.lab.training.trainer import train  # noqa: E402
from mixformerv2_ros.lab.training.training_run import TrainingRun  # noqa: E402
from mixformerv2_ros.model.checkpoints import load_checkpoint  # noqa: E402
from mixformerv2_ros.model.presets import T  # noqa: E402
from mixformerv2_ros.network.model import PIXEL_MEAN  # noqa: E402
from mixformerv2_ros.tracking.crop import NEUTRAL  # noqa: E402


@pytest.fixture(scope="module")
def config(miniature_data, tmp_path_factory):
    exclude = tmp_path_factory.mktemp("lists") / "held_out.txt"
    exclude.write_text("two\n")
    return changed(
        TrainConfig(preset="T", output=""),
        folder=str(miniature_data),
        exclude=str(exclude),
        batch_size=4,
        steps=6,
        warmup=2,
        workers=0,
        every=3,
        samples=8,
        matrix_learning_rate=0.02,
        mimetic_init=1.0,
        drop_path=0.1,
    )


@pytest.fixture(scope="module")
def world(config):
    return load_synthetic(config)[0]


def test_held_out_sequences_are_not_read(world):
    assert [clip.name for clip in world.pool.clips] == ["one"]
    # The frame without a target is left out.
    assert len(world.pool.clips[0].images) == 5


def test_samples_depend_on_seed_and_index_only(world):
    again = SyntheticDataset(world.pool.stills, world.pool.clips, world.spec, world.config)
    for index in (5, 3, 11):
        a, b = world.sample(1, index), again.sample(1, index)
        for left, right in zip(dataclasses.astuple(a), dataclasses.astuple(b), strict=True):
            np.testing.assert_array_equal(left, right)
    assert not np.array_equal(world.sample(1, 0).search, world.sample(2, 0).search)
    assert not np.array_equal(world.sample(1, 0).search, world.sample(1, 1).search)


def test_samples_are_what_the_network_takes(world):
    present = 0
    for index in range(80):
        sample = world.sample(0, index)
        assert sample.templates.shape == (2, T.template_size, T.template_size, 3)
        assert sample.search.shape == (T.search_size, T.search_size, 3)
        assert sample.templates.dtype == sample.search.dtype == np.uint8
        left, top, right, bottom = sample.edges
        if sample.present:
            assert 0 <= left < right <= 1
            assert 0 <= top < bottom <= 1
        else:
            assert (sample.edges == 0).all()
        present += sample.present
    assert 55 <= present <= 79


def test_boxes_lie_on_the_target(miniature_data):
    """A yellow disc on grey: in an unchanged crop, the box must enclose the disc exactly."""
    plain = SyntheticConfig(clip=1, still=0, composite=0, negative_ratio=0, photometric=0, grey=0)
    config = changed(TrainConfig(preset="T", output=""), folder=str(miniature_data))
    whole, _ = load_synthetic(config)
    world = SyntheticDataset([], whole.pool.clips, T, plain)
    checked = 0
    for index in range(40):
        sample = world.sample(0, index)
        rows, columns = np.nonzero(sample.search[:, :, 0].astype(int) > 150)
        if columns.min() == 0 or columns.max() == 127 or rows.min() == 0 or rows.max() == 127:
            continue
        found = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        # The disc's outline reaches half a pixel over its radius, scaled with the crop.
        np.testing.assert_allclose(sample.edges * 128, found, atol=2.5)
        checked += 1
    assert checked > 10


def test_templates_fade_around_the_target_alone(world):
    def draw(**changes):
        # One kind of sample at a time, and no chance in light: the streams stay the same.
        config = dataclasses.replace(world.config, photometric=0.0, grey=0.0, **changes)
        return SyntheticDataset(world.pool.stills, world.pool.clips, world.spec, config)

    neutral = np.round(NEUTRAL).astype(np.uint8)
    for kinds in ((1, 0, 0), (0, 1, 0), (0, 0, 1)):
        kind = dict(zip(("clip", "still", "composite"), kinds, strict=True))
        plain, fading = draw(**kind), draw(**kind, template_background_contrast=0.0)
        for index in range(20):
            one, other = plain.sample(3, index), fading.sample(3, index)
            np.testing.assert_array_equal(one.search, other.search)
            np.testing.assert_array_equal(one.edges, other.edges)
            for before, after in zip(one.templates, other.templates, strict=True):
                corners = after[[0, 0, -1, -1], [0, -1, 0, -1]]
                np.testing.assert_array_equal(corners, np.broadcast_to(neutral, (4, 3)))
                same = (after == before).all(axis=2)
                np.testing.assert_array_equal(same[30:34, 30:34], True)


def test_another_of_its_kind_is_the_target_of_another_video():
    """Clips by brightness: A_x and A_y share a source, B_z has none to share."""

    def clip(name, level):
        image = np.full((80, 80, 3), level, np.uint8)
        boxes = np.tile([30.0, 30.0, 20.0, 20.0], (2, 1))
        return DecodedClip(name, (image, image), boxes)

    clips = [clip("A_x_1", 40), clip("A_x_2", 80), clip("A_y_1", 120), clip("B_z", 200)]
    config = SyntheticConfig(
        still=0,
        composite=0,
        negative_ratio=1,
        hard_negative_ratio=1,
        photometric=0,
        grey=0,
        center_jitter=0,
    )
    world = SyntheticDataset([], clips, T, config)
    met = set()
    for index in range(60):
        sample = world.sample(0, index)
        assert not sample.present
        shown = sample.templates[0][32, 32, 0], sample.search[64, 64, 0]
        met.add(tuple(40 * round(level / 40) for level in shown))
    # What has no other video of its source is shown elsewhere: here outside of the image.
    assert met == {(40, 120), (80, 120), (120, 40), (120, 80), (200, 0)}


def test_clips_are_drawn_by_the_square_root_of_their_sources_size():
    image = np.zeros((40, 40, 3), np.uint8)
    boxes = np.tile([10.0, 10.0, 20.0, 20.0], (2, 1))
    names = ["A", *(f"B_{number}" for number in range(16))]
    pool = ObjectPool([], [DecodedClip(name, (image, image), boxes) for name in names])
    rng = np.random.default_rng(0)
    share = np.mean([pool.draw_clip(rng).name == "A" for _ in range(2000)])
    assert abs(share - 1 / 5) < 0.03


def test_most_targets_have_hardly_moved():
    config = SyntheticConfig(small_motion_prob=0.75, small_motion_std=0.2, center_jitter=1.0)
    rng = np.random.default_rng(0)
    offsets = np.abs([draw_offset(config, rng) for _ in range(4000)])
    assert offsets.max() <= 1
    # Three quarters have a standard deviation of 0.2, of which 2.5 are 0.5; a quarter is uniform.
    assert abs((offsets[:, 0] < 0.5).mean() - (0.75 * 0.988 + 0.25 * 0.5)) < 0.02


def test_a_copy_of_the_target_is_farther_from_the_middle_than_the_target(world):
    config = dataclasses.replace(world.config, clip=0, still=0, composite=1, negative_ratio=0)
    alone = SyntheticDataset(world.pool.stills, world.pool.clips, world.spec, config)
    copies = SyntheticDataset(
        world.pool.stills,
        world.pool.clips,
        world.spec,
        dataclasses.replace(config, distractor_copy_prob=1.0),
    )
    canvas = np.zeros((128, 128, 3), np.uint8)
    still = world.pool.stills[0]
    cutout = cut_out(still, 0, np.random.default_rng(0))
    center = np.array([60.0, 70.0])
    placed = 0
    for seed in range(30):
        image = canvas.copy()
        paste_distractor_copy(image, cutout, 20.0, center, 1.0, np.random.default_rng(seed))
        rows, columns = np.nonzero(image.any(axis=2))
        if not len(rows):
            continue
        if {rows.min(), columns.min()} & {0} or {rows.max(), columns.max()} & {127}:
            continue  # cut off by the border: its middle is not to be seen
        placed += 1
        middle = np.array([columns.min() + columns.max(), rows.min() + rows.max()]) / 2
        assert np.linalg.norm(middle - 64) > np.linalg.norm(center - 64) + 4
    assert placed > 8
    assert any(
        not np.array_equal(copies.sample(0, i).search, alone.sample(0, i).search) for i in range(9)
    )


def test_the_target_is_no_distractor_of_its_own(miniature_data):
    still = read_stills(miniature_data / "stills")[0]
    one = Still(still.image, still.boxes[:1], still.labels[:1], still.masks[:1])
    pool, rng = ObjectPool([one], []), np.random.default_rng(0)
    assert [pool.draw_distractor(StillObject(0, 0), rng) for _ in range(9)] == [None] * 9


def test_templates_fade_to_what_normalisation_takes_for_zero():
    np.testing.assert_allclose(NEUTRAL, 255 * np.array(PIXEL_MEAN), atol=1e-3)


def test_compression_changes_an_image_slightly():
    image = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    image = np.asarray(cv2.resize(image, (64, 64), interpolation=cv2.INTER_CUBIC), np.uint8)
    compressed = augment.compress(image, np.random.default_rng(1))
    assert compressed.shape == image.shape
    assert compressed.dtype == np.uint8
    difference = np.abs(compressed.astype(int) - image)
    assert difference.max() > 0
    assert difference.mean() < 15


def test_a_crop_matrix_maps_its_square_onto_the_crop():
    matrix = augment.crop_matrix((50, 40), 20, 100)
    corners = augment.warp_ellipse(np.array([40.0, 30.0, 20.0, 20.0]), matrix)
    np.testing.assert_allclose(corners, [0, 0, 100, 100], atol=1e-9)
    flipped = augment.crop_matrix((50, 40), 20, 100, flip=True)
    corners = augment.warp_ellipse(np.array([40.0, 30.0, 5.0, 20.0]), flipped)
    np.testing.assert_allclose(corners, [75, 0, 100, 100], atol=1e-9)


def test_an_unscaled_crop_is_a_copy():
    image = np.random.default_rng(0).integers(0, 255, (60, 60, 3), dtype=np.uint8)
    crop = augment.warp(image, augment.crop_matrix((30, 30), 20, 20), 20)
    np.testing.assert_array_equal(crop, image[20:40, 20:40])


def test_ciou_is_the_reference_one(shared_vectors):
    vectors = np.load(shared_vectors / "training.npz", allow_pickle=False)
    cx, cy, w, h = torch.from_numpy(vectors["pred_cxcywh"]).unbind(1)
    predicted = torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], dim=1)
    x, y, w, h = torch.from_numpy(vectors["gt_xywh"]).unbind(1)
    target = torch.stack([x, y, x + w, y + h], dim=1).clamp(0, 1)
    complete, iou = losses.ciou(predicted, target)
    np.testing.assert_allclose(iou, vectors["iou"], rtol=1e-5)
    assert float((1 - complete).mean()) == pytest.approx(float(vectors["ciou_mean"]), rel=1e-5)


def test_edge_cross_entropy_is_least_at_the_true_place():
    bins = 8
    edges = torch.full((1, 4), 0.3)  # Between bins 2 and 3, nearer to 2 (2.4).
    best = torch.full((1, 4, bins), -20.0)
    best[..., 2], best[..., 3] = math.log(0.6), math.log(0.4)
    entropy = -(0.6 * math.log(0.6) + 0.4 * math.log(0.4))
    assert float(losses.edge_cross_entropy(best, edges)) == pytest.approx(entropy, abs=1e-4)
    for shift in (-1, 1):
        assert losses.edge_cross_entropy(best.roll(shift, -1), edges) > entropy


def test_patch_coverage_counts_area():
    edges = torch.tensor([[0.25, 0.5, 0.625, 1.0], [0, 0, 0, 0]])
    coverage = losses.patch_coverage(edges, 4).reshape(2, 4, 4)
    expected = torch.zeros(4, 4)
    expected[2:, 1] = 1
    expected[2:, 2] = 0.5
    torch.testing.assert_close(coverage[0], expected)
    assert coverage[1].sum() == 0


def test_learning_rate_warms_up_and_cools_down(config):
    long = changed(config, warmup=10, cooldown=0.2)
    rates = [learning_rate_factor(step, long, RunLength(100, 10, 10)) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[50] == 1
    assert rates[99] == pytest.approx(0.05)
    assert max(rates) == 1


def test_the_published_rate_falls_to_a_tenth_after_400_of_500_epochs(config):
    published = changed(config, warmup=0, cooldown=0.0, drop_epoch=400)
    length = RunLength(500 * 234, 234, 1170)
    rates = [learning_rate_factor(e * 234, published, length) for e in (0, 399, 400, 499)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1])


def weights_of(path):
    return load_checkpoint(path).weights


def test_a_resumed_run_equals_an_unbroken_one(config, tmp_path):
    whole = train(changed(config, output=str(tmp_path / "whole")))
    parts = changed(config, output=str(tmp_path / "parts"))
    path = train(changed(parts, workers=1), seconds=0)
    assert torch.load(path, weights_only=True)["step"] == 1
    # What a kill in the middle of writing leaves behind.
    (tmp_path / "parts" / ".last.pth.tar.1a2b3c4d.partial").write_bytes(b"half a checkpoint")
    assert train(parts) == tmp_path / "parts" / LAST
    first, second = weights_of(whole), weights_of(path)
    assert first.keys() == second.keys()
    for key, value in first.items():
        np.testing.assert_array_equal(value, second[key], err_msg=key)


def test_training_reduces_the_loss(config):
    run = TrainingRun(changed(config, steps=60, warmup=5, learning_rate=1e-3))
    world, _ = load_synthetic(config)
    batch = next(load_batches(world, changed(config, batch_size=8), 0, 1))
    values = [run.advance(batch)["loss"] for _ in range(40)]
    assert values[-1] < 0.7 * values[0]


def test_a_checkpoint_of_another_architecture_is_refused(config, tmp_path):
    run = TrainingRun(config)
    path = tmp_path / LAST
    run.save(path)
    state = torch.load(path, weights_only=True)
    state["spec"]["depth"] = 9
    torch.save(state, path)
    with pytest.raises(CheckpointError, match="expected architecture"):
        run.restore(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match="expected a training checkpoint"):
        run.restore(path)


def test_a_malformed_list_of_boxes_names_its_line(tmp_path):
    (tmp_path / "boxes.csv").write_text("image,x,y,w,h,label\na.png,1,2,three,4,cat\n")
    with pytest.raises(SourceError, match=r"boxes.csv:2: expected image,x,y,w,h,label"):
        read_stills(tmp_path)


def test_an_unknown_preset_is_refused(config):
    with pytest.raises(ParameterError, match="preset must be one of S, B, XS, T"):
        TrainingRun(changed(config, preset="XL"))


def test_the_score_stage_changes_the_score_head_only(config, tmp_path):
    first = train(changed(config, output=str(tmp_path / "first"), steps=3))
    second = train(
        changed(
            config,
            output=str(tmp_path / "second"),
            init_from=str(first),
            trainable="score_head",
            loss=LossConfig(l1=0, ciou=0, edge=0, foreground=0, score=1),
        )
    )
    before, after = weights_of(first), weights_of(second)
    differ = {key for key in before if not np.array_equal(before[key], after[key])}
    assert differ
    assert all(key.startswith("score_head.") for key in differ)


def test_a_name_that_no_parameter_has_is_refused(config):
    with pytest.raises(ParameterError, match=r"optimizer.trainable must be part of"):
        TrainingRun(changed(config, trainable="scoring"))
