"""Outlines of objects: what is pasted is the object, and its box is the outline's."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("torch", reason="needs torch, which is not installed")

from mixformerv2_ros.errors import ImageError
from mixformerv2_ros.lab.datasets.annotated_images import read_stills
from mixformerv2_ros.lab.training.composites import (
    cut_out,
    opaque_bounds,
    paste,
    random_background,
    random_pose,
)
from mixformerv2_ros.lab.training.synthetic import SyntheticConfig, SyntheticDataset
from mixformerv2_ros.model.presets import T


@pytest.fixture
def stills(tmp_path: Path) -> Path:
    """Two images of one kind: a red disc on blue, with its outline, and a plain one."""
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    blue = np.full((120, 160, 3), (255, 0, 0), np.uint8)
    disc = cv2.circle(blue.copy(), (80, 60), 25, (0, 0, 255), -1)
    cv2.imwrite(str(tmp_path / "images" / "disc.png"), disc)
    cv2.imwrite(str(tmp_path / "images" / "green.png"), np.full_like(blue, (0, 120, 0)))
    outline = cv2.circle(np.zeros((51, 51), np.uint8), (25, 25), 25, 255, -1)
    cv2.imwrite(str(tmp_path / "masks" / "disc_1.png"), outline)
    (tmp_path / "boxes.csv").write_text(
        "image,x,y,w,h,label\n"
        "disc.png,5,5,20,20,thing\n"
        "disc.png,55,35,51,51,disc\n"
        "green.png,40,30,40,30,disc\n"
    )
    return tmp_path


def test_outlines_are_found_by_image_and_row(stills: Path) -> None:
    disc, green = read_stills(stills)
    assert [mask is not None for mask in disc.masks] == [False, True]
    assert green.masks == (None,)
    assert disc.masks[1].shape == (51, 51)


def test_a_damaged_outline_is_named(stills: Path) -> None:
    (stills / "masks" / "disc_1.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"disc_1\.png cannot be decoded"):
        read_stills(stills)


def test_what_is_pasted_is_the_object_without_its_surroundings(stills: Path) -> None:
    disc, green = read_stills(stills)
    rng = np.random.default_rng(3)
    for _ in range(20):
        canvas = random_background(green.image, T.search_size, rng)
        target = cut_out(disc, 1, rng)
        pose = random_pose(target.box, 32.0, rng.uniform(40, 88, 2), 1.0, rng)
        x1, y1, x2, y2 = opaque_bounds(paste(canvas, target, pose)).astype(int)
        pixels = canvas.astype(int)
        red, blue = pixels[..., 0] - pixels[..., 2], pixels[..., 2] - pixels[..., 0]
        assert (blue > 60).mean() < 0.01
        assert (red[y1:y2, x1:x2] > 60).mean() > 0.6


def test_another_of_the_kind_is_no_target(stills: Path) -> None:
    config = SyntheticConfig(
        clip=0,
        still=1,
        composite=0,
        negative_ratio=1,
        hard_negative_ratio=1,
        photometric=0,
        grey=0,
    )
    world = SyntheticDataset(read_stills(stills), [], T, config)
    samples = [world.sample(5, index) for index in range(60)]
    assert not any(sample.present for sample in samples)
    middle = T.search_size // 2
    # Red in the template, green where the target should be.
    swapped = [
        s for s in samples
        if s.templates[0][32, 32, 0] > 150 and s.search[middle, middle, 1] > 80
    ]  # fmt: skip
    assert swapped
