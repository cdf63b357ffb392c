"""JPEGs decoded at reduced size: where they may be, and that boxes stay where they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from recordings import (
    IMAGE_TOPIC,
    PERIOD_NS,
    START_NS,
    RedEngine,
    picture,
    published_settings,
    red_box,
    run_command,
)

from mixformerv2_ros.errors import ImageError, ParameterError
from mixformerv2_ros.interfaces import typestore
from mixformerv2_ros.io.bag_reader import BagReader
from mixformerv2_ros.io.bag_writer import BagWriter
from mixformerv2_ros.ros.messages import compressed_image_message
from mixformerv2_ros.ros.parameters import check_values, stream_rules
from mixformerv2_ros.tracking.boxes import Box, iou
from mixformerv2_ros.tracking.compressed import decode_compressed
from mixformerv2_ros.tracking.crop import CropWindow, crop_and_resize
from mixformerv2_ros.tracking.events import EventKind, InitRequest, Output, Step, StreamImage
from mixformerv2_ros.tracking.frame import Frame
from mixformerv2_ros.tracking.pixels import Pixels, ReducedPixels
from mixformerv2_ros.tracking.stream import Stream, StreamRules

LARGE = 8
"""How many times as large the pictures are here."""


def smooth(height: int, width: int) -> np.ndarray:
    """RGB without detail that a smaller image could not have."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 31 + c) + np.cos(y / 23 - c) for c in range(3)]
    return np.clip(128 + 50 * np.stack(waves, axis=-1), 0, 255).astype(np.uint8)


def jpeg(image: np.ndarray) -> bytes:
    """RGB or grey as a JPEG."""
    bgr = image[..., ::-1] if image.ndim == 3 else image
    return bytes(cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 98])[1])


def large_picture(index: int) -> bytes:
    return jpeg(np.kron(picture(index), np.ones((LARGE, LARGE, 1), np.uint8)))


def large_box(index: int, factor: float = LARGE) -> Box:
    return Box(*(factor * value for value in red_box(index)))


@pytest.mark.parametrize("reduction", [2, 4, 8])
def test_all_but_the_reduced_copy_is_of_the_whole_image(reduction: int) -> None:
    image = smooth(241, 322)
    pixels = decode_compressed("jpeg", jpeg(image), reduction)
    assert isinstance(pixels, ReducedPixels)
    assert (pixels.width, pixels.height, pixels.encoding, pixels.bits) == (322, 241, "bgr8", 8)
    small = pixels.reduced
    assert (small.width, small.height) == (-(-322 // reduction), -(-241 // reduction))
    middle = image[reduction // 2 :: reduction, reduction // 2 :: reduction].astype(int)
    shown = small.rgb()[: len(middle), : middle.shape[1]].astype(int)
    assert np.abs(shown - middle).max() < 14
    full = decode_compressed("jpeg", jpeg(image))
    np.testing.assert_array_equal(pixels.rgb(), full.rgb())
    np.testing.assert_array_equal(pixels.rgb(3, 5, 90, 80), full.rgb(3, 5, 90, 80))


def test_grey_stays_grey_and_swapped_channels_stay_swapped() -> None:
    grey = decode_compressed("jpeg", jpeg(smooth(64, 96)[..., 0]), 2)
    assert isinstance(grey, ReducedPixels)
    assert (grey.encoding, grey.reduced.encoding) == ("mono8", "mono8")
    image = smooth(64, 96)
    swapped = decode_compressed("rgb8; jpeg compressed rgb8", jpeg(image), 2)
    assert isinstance(swapped, ReducedPixels)
    difference = swapped.reduced.rgb().astype(int) - image[1::2, 1::2, ::-1]
    assert np.abs(difference).max() < 14


def test_a_png_is_decoded_in_full() -> None:
    data = bytes(cv2.imencode(".png", smooth(64, 96))[1])
    assert type(decode_compressed("png", data, 4)) is Pixels


@pytest.mark.parametrize("reduction", [2, 4, 8])
@pytest.mark.parametrize("corner", [(100, 60), (-300, 60), (903, 411), (-5, -7)])
def test_a_crop_of_the_reduced_copy_is_that_of_the_image(
    reduction: int, corner: tuple[int, int]
) -> None:
    data = jpeg(smooth(900, 1400))
    window = CropWindow(*corner, 517)
    crops = np.empty((2, 64, 64, 3), np.uint8)
    for crop, image in zip(
        crops, (decode_compressed("", data), decode_compressed("", data, reduction)), strict=True
    ):
        crop_and_resize(image, window, crop)
    difference = np.abs(crops[0].astype(int) - crops[1])
    assert difference.mean() < 2.5
    assert np.percentile(difference, 90) < 8


def test_a_crop_with_more_pixels_than_the_copy_is_exact() -> None:
    data = jpeg(smooth(240, 320))
    crops = np.empty((2, 64, 64, 3), np.uint8)
    window = CropWindow(30, 40, 127)
    crop_and_resize(decode_compressed("", data), window, crops[0])
    crop_and_resize(decode_compressed("", data, 2), window, crops[1])
    np.testing.assert_array_equal(crops[0], crops[1])


class Camera:
    """Images of the moving target, and the reductions at which they were decoded."""

    def __init__(self) -> None:
        self.reductions: list[int] = []

    def image(self, index: int, data: bytes | None = None) -> StreamImage:
        """Frame `index`, enlarged."""
        stamp = START_NS + index * PERIOD_NS
        content = large_picture(index) if data is None else data

        def decode(reduction: int = 1) -> Frame:
            self.reductions.append(reduction)
            return Frame(decode_compressed("jpeg", content, reduction), stamp, "cam")

        return StreamImage(stamp, stamp, len(content), decode=decode, decode_reduced=decode)


def stream(reduction: int) -> Stream:
    rules = StreamRules(jpeg_reduction=reduction)
    return Stream(RedEngine(), published_settings(), rules)


def tracked(outputs: list[Output]) -> list[Box]:
    return [track.box for step in outputs if isinstance(step, Step) for track in step.tracks]


@pytest.mark.parametrize(("limit", "expected"), [(1, 1), (2, 2), (4, 4), (8, 4)])
def test_images_are_reduced_as_far_as_the_target_permits(limit: int, expected: int) -> None:
    """192 x 144 px: a search region of 749 px for 128, a template of 333 px for 64."""
    camera, following = Camera(), stream(limit)
    following.add_box(InitRequest(large_box(0)))
    for index in range(5):
        (box,) = tracked(following.process(camera.image(index)))
        assert iou(box, large_box(index)) > 0.9
    # A target may start anywhere in the first image.
    assert camera.reductions == [1] + 4 * [expected]


def test_the_smallest_target_decides_and_idle_images_are_as_small_as_permitted() -> None:
    camera, following = Camera(), stream(8)
    following.process(camera.image(0))
    following.add_box(InitRequest(large_box(1)))
    following.process(camera.image(1))
    following.process(camera.image(2))
    following.add_box(InitRequest(Box(700, 500, 40, 40), "small"))
    following.process(camera.image(3))
    following.process(camera.image(4))
    following.stop("small")
    following.process(camera.image(5))
    assert camera.reductions == [8, 1, 4, 1, 1, 4]


def test_a_broken_image_is_one_that_cannot_be_decoded_reduced_or_not() -> None:
    camera, following = Camera(), stream(8)
    following.add_box(InitRequest(large_box(0)))
    following.process(camera.image(0))
    data = large_picture(1)
    (event,) = following.process(camera.image(1, data[: len(data) // 2]))
    assert event.kind is EventKind.UNDECODABLE
    assert len(tracked(following.process(camera.image(2)))) == 1


def test_an_image_that_cannot_be_decoded_in_full_is_skipped() -> None:
    """As when memory runs out between the reduced copy and the whole image."""
    camera, following = Camera(), stream(8)
    following.add_box(InitRequest(large_box(0)))
    following.process(camera.image(0))
    far = np.full((960, 1280, 3), 90, np.uint8)
    x, y = map(round, large_box(0).center)
    far[y - 20 : y + 20, x - 20 : x + 20] = 230, 20, 20

    def decode(reduction: int) -> Frame:
        pixels = decode_compressed("jpeg", jpeg(far), reduction)
        assert isinstance(pixels, ReducedPixels)
        fails = ReducedPixels(pixels.width, pixels.height, pixels.reduced, reduction, fail)
        return Frame(fails, START_NS + PERIOD_NS, "cam")

    def fail() -> Pixels:
        raise ImageError("no memory")

    # The target is so small now that a template needs more pixels than the copy has.
    shrunk = camera.image(1)
    shrunk.decode_reduced = decode
    (event,) = following.process(shrunk)
    assert (event.kind, event.text) == (EventKind.UNDECODABLE, "no memory")
    assert len(tracked(following.process(camera.image(2)))) == 1


@pytest.mark.parametrize("value", [0, 3, 9])
def test_other_reductions_are_refused(value: int) -> None:
    with pytest.raises(ParameterError, match=r"^jpeg_reduction must be 1"):
        check_values({"jpeg_reduction": value})
    assert stream_rules(check_values({"jpeg_reduction": 4})).jpeg_reduction == 4


def test_a_replay_reduces_in_the_same_way_every_time(tmp_path: Path) -> None:
    types = typestore().types
    with BagWriter(tmp_path / "bag") as writer:
        for index in range(8):
            stamp = START_NS + index * PERIOD_NS
            data = np.frombuffer(large_picture(index), np.uint8)
            message = compressed_image_message(types, data, "jpeg", stamp, "camera")
            writer.write(IMAGE_TOPIC, "sensor_msgs/msg/CompressedImage", message, stamp)
    box = ",".join(str(value) for value in large_box(0))
    found: list[list[Any]] = []
    for number, reduction in enumerate((1, 8, 8)):
        out = tmp_path / f"out{number}"
        options = ("--num-threads", 1, "--jpeg-reduction", reduction)
        assert run_command("replay", tmp_path / "bag", "-o", out, "--box", box, *options) == 0
        with BagReader(out) as reader:
            found.append([bytes(message.data) for message in reader.messages(["/track"])])
    assert len(found[0]) == 8
    assert found[1] == found[2]
    assert found[0] != found[1]
