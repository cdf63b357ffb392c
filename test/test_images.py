"""Image files are read by one reader: stored pixels, and an error that names the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from pictures import exif_rotated

from mixformerv2_ros.cli.entry import main
from mixformerv2_ros.errors import ImageError, SourceError
from mixformerv2_ros.io.bag_reader import BagReader
from mixformerv2_ros.io.images import list_images, read_bgr, read_image
from mixformerv2_ros.io.video import VideoSource
from mixformerv2_ros.lab.datasets.annotated_images import decode_clips, read_stills
from mixformerv2_ros.lab.datasets.folder import read_sequences
from mixformerv2_ros.lab.datasets.image_cache import ImageCache
from mixformerv2_ros.lab.evaluation.run import read_images

WIDTH, HEIGHT = 64, 48


def picture() -> np.ndarray:
    """(48, 64, 3) uint8 RGB, smooth, with a red corner at the top left of its stored pixels."""
    image = np.full((HEIGHT, WIDTH, 3), (20, 60, 100), np.uint8)
    image[: HEIGHT // 2, : WIDTH // 2] = (220, 30, 30)
    return image


def write_turned(path: Path) -> None:
    """Write the picture as a JPEG with orientation 6."""
    _, data = cv2.imencode(".jpg", picture()[..., ::-1])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(exif_rotated(data.tobytes()))
    assert cv2.imread(str(path)).shape == (WIDTH, HEIGHT, 3), "the tag has no effect"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder of stills and one of sequences whose only picture carries orientation 6."""
    write_turned(tmp_path / "stills" / "images" / "a.jpg")
    (tmp_path / "stills" / "boxes.csv").write_text("image,x,y,w,h,label\na.jpg,0,0,32,24,red\n")
    write_turned(tmp_path / "sequences" / "one" / "img" / "a.jpg")
    (tmp_path / "sequences" / "one" / "groundtruth_rect.txt").write_text("0,0,32,24\n")
    return tmp_path


def from_a_folder(path: Path) -> np.ndarray:
    with VideoSource(str(path.parent)) as source:
        return next(source.frames()).decode().pixels.rgb()


READERS: dict[str, Callable[[Path], np.ndarray]] = {
    "read_image": lambda path: read_image(path).rgb(),
    "read_bgr": lambda path: read_bgr(path)[..., ::-1],
    "image folder": from_a_folder,
    "evaluation": lambda path: next(read_images([path]))[..., ::-1],
    "training, decoded": lambda path: ImageCache(1.0, True).read(path),
    "training, files": lambda path: ImageCache(1.0, False).read(path),
    "stills": lambda path: read_stills(path.parents[1])[0].image,
    "sequences": lambda path: decode_clips(read_sequences(path.parents[2]))[0].images[0],
}


@pytest.mark.parametrize("reader", READERS)
def test_an_orientation_tag_is_ignored_everywhere(data: Path, reader: str) -> None:
    """Boxes are in stored pixels: the red box of `boxes.csv` is red."""
    path = data / "stills" / "images" / "a.jpg"
    image = READERS[reader](path)
    assert image.shape == (HEIGHT, WIDTH, 3)
    stored = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)[..., ::-1]
    np.testing.assert_array_equal(image, stored)
    red = image[2:22, 2:30].reshape(-1, 3).astype(int)
    assert (red[:, 0] - red[:, 1] > 150).all()


def test_other_formats(tmp_path: Path) -> None:
    for suffix in (".bmp", ".ppm", ".tif", ".png", ".webp"):
        path = tmp_path / f"a{suffix}"
        cv2.imwrite(str(path), picture()[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, 101])
        np.testing.assert_array_equal(read_image(path).rgb(), picture())


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("is_grey", [False, True])
def test_16_bits_of_a_file_are_kept(tmp_path: Path, suffix: str, is_grey: bool) -> None:
    """So that the used ones can be measured: 12 of 16 bits are nearly black otherwise."""
    path, shown = tmp_path / f"a{suffix}", picture()
    image = cv2.cvtColor(shown, cv2.COLOR_RGB2GRAY) if is_grey else shown[..., ::-1]
    cv2.imwrite(str(path), image.astype(np.uint16) << 4)
    pixels = read_image(path)
    assert pixels.encoding == ("mono16" if is_grey else "bgr16")
    assert (pixels.bits, pixels.measured_bits()) == (16, 12)
    expected = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) if is_grey else shown
    np.testing.assert_array_equal(pixels.with_bits(12).rgb(), expected)


def test_a_tiff_of_floats_is_named(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.tif"), np.full((20, 30, 3), 100, np.float32))
    with pytest.raises(ImageError, match="must have 8 or 16 bits, got float32"):
        read_image(tmp_path / "a.tif")


def test_a_recording_of_16_bit_images_has_the_used_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, shown = tmp_path / "images", picture()
    folder.mkdir()
    for i in range(3):
        cv2.imwrite(str(folder / f"{i}.png"), shown[..., ::-1].astype(np.uint16) << 4)
    assert main(["video2bag", str(folder), "-o", str(tmp_path / "bag")]) == 0
    assert "bgr16 images use 12 of 16 bits" in capsys.readouterr().err
    with BagReader(tmp_path / "bag") as reader:
        (topic,) = reader.topics
        for message in reader.messages([topic]):
            data = reader.deserialize(message).data
            np.testing.assert_array_equal(data.reshape(shown.shape), shown)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("b.bmp", b"BM", "not an image format supported by OpenCV"),
        ("b.jpg", b"", "not an image format supported by OpenCV"),
        ("b.jpg", b"no image", "not an image format supported by OpenCV"),
        ("b.jpg", b"\xff\xd8\xff\xe0\0\x10JFIF", "JPEG image is cut off after 10 bytes"),
        ("b.png", b"\x89PNG\r\n\x1a\n", "PNG image has no header"),
    ],
)
def test_a_file_that_is_no_image_is_named(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageError) as caught:
        read_image(tmp_path / name)
    assert str(caught.value).startswith(f"image {tmp_path / name} cannot be decoded: {message}")
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    for name, reason in (("gone.png", "No such file"), ("folder.png", "Is a directory")):
        with pytest.raises(SourceError, match=f"image .*{name} cannot be read: {reason}"):
            read_image(tmp_path / name)


def test_images_of_a_folder_in_natural_order(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"expected images \(\.jpg, .*\), found none"):
        list_images(tmp_path)
    for name in ("10.jpg", "9.JPG", "notes.txt", "1.png"):
        (tmp_path / name).touch()
    assert [path.name for path in list_images(tmp_path)] == ["1.png", "9.JPG", "10.jpg"]
    with pytest.raises(SourceError, match="x: expected a folder of images, found none"):
        list_images(tmp_path / "x")
