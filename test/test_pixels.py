"""Images as they come in messages: every encoding, any region, malformed input."""

from __future__ import annotations

import array
import struct
import zlib
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import exif_rotated

from mixformerv2_ros.errors import ImageError
from mixformerv2_ros.tracking.compressed import decode_compressed
from mixformerv2_ros.tracking.pixels import (
    ENCODINGS,
    MAX_PIXELS,
    Pixels,
    decode_image,
)

SUBSAMPLED = {"yuv422", "uyvy", "yuv422_yuy2", "yuyv", "nv12", "nv21"}


def pixel_bytes(encoding: str) -> int:
    """Bytes of a pixel in a row, worked out from the encoding's name."""
    if encoding.startswith("yuv") or encoding in ("uyvy", "yuyv"):
        return 2
    if encoding.startswith("nv"):
        return 1
    channels = {"rgb": 3, "bgr": 3, "rgba": 4, "bgra": 4}.get(encoding.rstrip("0123456789"), 1)
    if "UC" in encoding:
        channels = int(encoding[-1])
    return channels * (2 if "16" in encoding else 1)


def total_rows(encoding: str, height: int) -> int:
    """Rows of `step` bytes, chroma planes included."""
    return {"nv12": height * 3 // 2, "nv21": height * 3 // 2, "nv24": height * 3}.get(
        encoding, height
    )


def noise(encoding: str, width: int, height: int, padding: int = 0, seed: int = 0) -> tuple:
    """Random fields of an image message: arguments of `decode_image`."""
    step = width * pixel_bytes(encoding) + padding
    size = step * total_rows(encoding, height)
    data = np.random.default_rng(seed).integers(0, 256, size, np.uint8).tobytes()
    return height, width, encoding, 0, step, data


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_region_equals_crop_of_full_conversion(encoding: str, data: st.DataObject) -> None:
    """What makes it safe to convert only the region that the tracker looks at."""
    width, height = data.draw(st.integers(4, 40)), data.draw(st.integers(4, 40))
    if encoding in SUBSAMPLED:
        width, height = width // 2 * 2, height // 2 * 2
    padding = data.draw(st.sampled_from([0, 2, 6, 64]))
    seed = data.draw(st.integers(0, 1000))
    pixels = decode_image(*noise(encoding, width, height, padding, seed))
    x1, y1 = data.draw(st.integers(0, width)), data.draw(st.integers(0, height))
    x2, y2 = data.draw(st.integers(x1, width)), data.draw(st.integers(y1, height))

    region = pixels.rgb(x1, y1, x2, y2)

    full = pixels.rgb()
    assert full.shape == (height, width, 3)
    assert full.dtype == region.dtype == np.uint8
    assert region.flags.c_contiguous
    np.testing.assert_array_equal(region, full[y1:y2, x1:x2])


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_agrees_with_rosbags_image(encoding: str) -> None:
    """An independent implementation gives the same picture (16 bits: but for rounding)."""
    rosbags_image = pytest.importorskip("rosbags.image")
    if "UC" in encoding or encoding == "nv24":
        pytest.skip("rosbags-image does not convert this encoding to rgb8")
    height, width, _, _, step, data = noise(encoding, 24, 12)
    rows = total_rows(encoding, height)
    kind = "u2" if "16" in encoding else "u1"
    message = SimpleNamespace(
        height=rows,
        width=width,
        encoding=encoding,
        is_bigendian=0,
        step=step,
        data=np.frombuffer(data, np.uint8),
    )
    reference = rosbags_image.image_to_cvimage(message, "rgb8").astype(int)
    ours = decode_image(height, width, encoding, 0, step, data).rgb().astype(int)
    assert np.abs(ours - reference).max() <= (2 if kind == "u2" else 0)


def test_every_encoding_of_rosbags_image_is_ours_too() -> None:
    """No encoding needs a second decoder."""
    image = pytest.importorskip("rosbags.image.image")
    assert set(image.ENCODINGMAP) <= set(ENCODINGS)


@pytest.mark.parametrize(
    ("encoding", "order"),
    [
        ("rgb8", (0, 1, 2)),
        ("bgr8", (2, 1, 0)),
        ("8UC3", (2, 1, 0)),
        ("rgba8", (0, 1, 2)),
        ("bgra8", (2, 1, 0)),
    ],
)
def test_channel_order(encoding: str, order: tuple[int, ...]) -> None:
    pixel = [10, 20, 30, 40][: pixel_bytes(encoding)]
    pixels = decode_image(1, 1, encoding, 0, len(pixel), bytes(pixel))
    assert pixels.rgb()[0, 0].tolist() == [pixel[i] for i in order]


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(
    ("pattern", "corner"),
    [
        ("rggb", ("rg", "gb")),
        ("bggr", ("bg", "gr")),
        ("gbrg", ("gb", "rg")),
        ("grbg", ("gr", "bg")),
    ],
)
def test_bayer_pattern_is_ros_naming(pattern: str, corner: tuple[str, str], bits: int) -> None:
    """A mosaic of one plain colour comes back as that colour: OpenCV's names are shifted."""
    color = {"r": 200, "g": 100, "b": 30}
    tile = np.array([[color[letter] for letter in row] for row in corner], np.uint8)
    mosaic = np.tile(tile, (8, 8))
    data, step = mosaic.tobytes(), mosaic.shape[1]
    if bits == 16:
        data, step = (mosaic.astype("<u2") * 256 + 7).tobytes(), 2 * step
    pixels = decode_image(16, 16, f"bayer_{pattern}{bits}", 0, step, data)
    for region in (pixels.rgb(), pixels.rgb(3, 5, 8, 6)):
        assert np.unique(region.reshape(-1, 3), axis=0).tolist() == [[200, 100, 30]]


@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        ("uyvy", [90, 81, 240, 81]),
        ("yuv422", [90, 81, 240, 81]),
        ("yuyv", [81, 90, 81, 240]),
        ("yuv422_yuy2", [81, 90, 81, 240]),
        ("nv12", [81, 81, 81, 81, 90, 240]),
        ("nv21", [81, 81, 81, 81, 240, 90]),
        ("nv24", [81, 81, 81, 81, 90, 240, 90, 240, 90, 240, 90, 240]),
    ],
)
def test_yuv_red(encoding: str, data: list[int]) -> None:
    """Y 81, U 90, V 240 is pure red in BT.601 with limited range."""
    height = 1 if len(data) == 4 else 2
    rgb = decode_image(height, 2, encoding, 0, 2 * pixel_bytes(encoding), bytes(data)).rgb()
    assert np.abs(rgb.astype(int) - [255, 0, 0]).max() <= 2


@pytest.mark.parametrize("bigendian", [False, True])
@pytest.mark.parametrize("encoding", ["mono16", "16UC1"])
def test_16_bits_keep_the_high_byte(encoding: str, bigendian: bool) -> None:
    values = np.array([[0, 255, 256], [0x1234, 0xFEDC, 0xFFFF]], ">u2" if bigendian else "<u2")
    rgb = decode_image(2, 3, encoding, bigendian, 6, values.tobytes()).rgb()
    np.testing.assert_array_equal(rgb, np.repeat((values >> 8)[..., None], 3, axis=2))


WORDS = sorted(encoding for encoding in ENCODINGS if "16" in encoding)


@pytest.mark.parametrize("bigendian", [False, True])
@pytest.mark.parametrize("encoding", WORDS)
def test_12_of_16_bits_give_the_image_that_8_bits_give(encoding: str, bigendian: bool) -> None:
    """Every conversion but that of the words is the one of the 8-bit encoding."""
    size = pixel_bytes(encoding) // 2
    values = np.random.default_rng(7).integers(0, 4096, (24, 30 * size))
    words = values.astype(">u2" if bigendian else "<u2").tobytes()
    pixels = decode_image(24, 30, encoding, bigendian, 60 * size, words)
    assert (pixels.bits, pixels.measured_bits()) == (16, 12)
    named = {"16UC1": "mono8", "16UC3": "bgr8", "16UC4": "bgra8"}
    other = named.get(encoding, encoding.replace("16", "8"))
    expected = decode_image(24, 30, other, 0, 30 * size, (values >> 4).astype("u1").tobytes())
    np.testing.assert_array_equal(pixels.with_bits(12).rgb(), expected.rgb())
    region = (5, 3, 22, 17)
    np.testing.assert_array_equal(pixels.with_bits(12).rgb(*region), expected.rgb(*region))
    # Values beyond the used bits are white, not dark.
    assert pixels.with_bits(8).rgb().max() == 255
    assert pixels.bits == 16


@pytest.mark.parametrize(
    ("largest", "bits"), [(0, 8), (255, 8), (256, 10), (4095, 12), (65535, 16)]
)
def test_used_bits_are_measured(largest: int, bits: int) -> None:
    values = np.full((90, 120), largest, np.uint16)
    assert Pixels.from_array(values, "mono16").measured_bits() == bits


def test_a_few_defect_pixels_do_not_count_as_used_bits() -> None:
    values = np.full((480, 640), 4000, np.uint16)
    values[3:6, 3:6] = 65535
    assert Pixels.from_array(values, "mono16").measured_bits() == 12


def test_8_bit_images_have_8_bits_and_nothing_else_is_accepted() -> None:
    pixels = Pixels.from_array(picture())
    assert (pixels.bits, pixels.measured_bits()) == (8, 8)
    assert pixels.with_bits(12) is pixels
    for bits in (7, 17):
        with pytest.raises(ValueError, match=f"used bits must be 8 to 16, got {bits}"):
            pixels.with_bits(bits)


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview, lambda b: array.array("B", b)])
def test_buffers_are_viewed_not_copied(make) -> None:
    """A full rgb8 image shares its memory with the message, whatever holds the bytes."""
    data = make(bytes(range(64 * 3)))
    rgb = decode_image(8, 8, "rgb8", 0, 24, data).rgb()
    assert np.shares_memory(rgb, np.frombuffer(data, np.uint8))


def test_from_array_views_a_contiguous_array() -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 6, 3), np.uint8)
    pixels = Pixels.from_array(image, "rgb8")
    assert np.shares_memory(pixels.rgb(), image)
    assert (pixels.width, pixels.height, pixels.encoding) == (6, 8, "rgb8")


@pytest.mark.parametrize(
    ("encoding", "shape", "kind"),
    [
        ("bgr8", (5, 7, 3), "u1"),
        ("rgba8", (5, 7, 4), "u1"),
        ("bgra8", (5, 7, 4), "u1"),
        ("mono8", (5, 7), "u1"),
        ("mono16", (5, 7), "<u2"),
        ("mono16", (5, 7), ">u2"),
    ],
)
def test_from_array_other_forms(encoding: str, shape: tuple[int, ...], kind: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape).astype(kind)
    if encoding == "mono16":
        image = image * 255
        expected = np.repeat((image >> 8)[..., None], 3, axis=2)
    elif encoding == "mono8":
        expected = np.repeat(image[..., None], 3, axis=2)
    else:
        expected = image[..., [2, 1, 0] if encoding.startswith("bgr") else [0, 1, 2]]
    np.testing.assert_array_equal(Pixels.from_array(image, encoding).rgb(), expected)
    strided = np.repeat(image, 2, axis=1)[:, ::2]
    np.testing.assert_array_equal(Pixels.from_array(strided, encoding).rgb(), expected)


@pytest.mark.parametrize(
    ("shape", "kind", "encoding"),
    [
        ((4, 4), "u1", "rgb8"),
        ((4, 4, 3), "u1", "mono8"),
        ((4, 4, 3), "f4", "rgb8"),
        ((4, 4), "u1", "mono16"),
        ((4, 4), "u1", "nv12"),
        ((4,), "u1", "mono8"),
    ],
)
def test_from_array_refuses(shape: tuple[int, ...], kind: str, encoding: str) -> None:
    with pytest.raises(ImageError, match="array"):
        Pixels.from_array(np.zeros(shape, kind), encoding)


@pytest.mark.parametrize("region", [(-1, 0, 4, 4), (0, 0, 9, 4), (4, 0, 3, 4), (0, 0, 4, 7)])
def test_region_outside_the_image(region: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="region must lie in the 8x6 image"):
        decode_image(*noise("rgb8", 8, 6)).rgb(*region)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"height": 0}, "at least one pixel, got 8x0"),
        ({"width": 0}, "at least one pixel, got 0x6"),
        ({"step": 0}, "step of at least 24 bytes, got 0"),
        ({"step": 23}, "step of at least 24 bytes, got 23"),
        ({"data": b""}, "needs 144 bytes, got 0"),
        ({"data": bytes(143)}, "needs 144 bytes, got 143"),
        ({"height": 2**32 - 1}, "at most"),
        ({"width": 2**31, "height": 2**31, "step": 2**34}, "at most"),
        ({"encoding": "32FC1"}, "one of rgb8, .*got '32FC1'"),
        ({"encoding": ""}, "got ''"),
        ({"encoding": "nv12", "width": 7}, "even width and height, got 7x6"),
        ({"encoding": "nv12", "height": 5}, "even width and height, got 8x5"),
        ({"encoding": "yuyv", "width": 7}, "even width, got 7x6"),
        ({"encoding": "nv12", "step": 8, "data": bytes(48)}, "needs 72 bytes, got 48"),
    ],
)
def test_malformed_image(fields: dict, message: str) -> None:
    good = {
        "height": 6,
        "width": 8,
        "encoding": "rgb8",
        "is_bigendian": 0,
        "step": 24,
        "data": bytes(144),
    }
    with pytest.raises(ImageError, match=message) as caught:
        decode_image(**{**good, **fields})
    assert "\n" not in str(caught.value)


def encoded(image: np.ndarray, suffix: str) -> bytes:
    ok, data = cv2.imencode(suffix, image)
    assert ok
    return data.tobytes()


def picture(shape: tuple[int, ...] = (48, 64, 3), kind: str = "u1") -> np.ndarray:
    """A smooth image, so that JPEG changes it little; the first channel is the brightest."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    base = (2 * x + y)[..., None] / 4 + np.array([120, 60, 10, 200])
    base = base[..., : shape[2]] if len(shape) == 3 else base[..., 0]
    return (base * (256 if kind == "u2" else 1)).astype(kind)


@pytest.mark.parametrize(("suffix", "tolerance"), [(".png", 0), (".jpg", 6)])
@pytest.mark.parametrize(
    "tail", ["jpeg", "bgr8; jpeg compressed bgr8", "rgb8; png compressed bgr8"]
)
def test_compressed_color_is_rgb(suffix: str, tolerance: int, tail: str) -> None:
    """OpenCV decodes to BGR; the tracker must get RGB."""
    bgr = picture()
    pixels = decode_compressed(tail, encoded(bgr, suffix))
    region = pixels.rgb(5, 6, 40, 30).astype(int)
    assert np.abs(region - bgr[6:30, 5:40, ::-1]).max() <= tolerance


def test_compressed_as_rgb_is_swapped_back() -> None:
    """image_transport may hand RGB data to an encoder that takes it for BGR, and says so."""
    image = picture()
    pixels = decode_compressed("rgb8; png compressed rgb8", encoded(image, ".png"))
    np.testing.assert_array_equal(pixels.rgb(), image)


def test_compressed_grey_alpha_and_16_bits() -> None:
    grey = picture((48, 64))
    pixels = decode_compressed("jpeg", encoded(grey, ".jpg"))
    assert pixels.encoding == "mono8"
    assert np.abs(pixels.rgb().astype(int) - grey[..., None]).max() <= 6
    for image in (picture((48, 64), "u2"), picture((48, 64, 3), "u2")):
        rgb = decode_compressed("png", encoded(image, ".png")).rgb()
        high = (image >> 8).astype(np.uint8)
        high = high[..., ::-1] if high.ndim == 3 else np.repeat(high[..., None], 3, axis=2)
        np.testing.assert_array_equal(rgb, high)
    deep = decode_compressed("png", encoded(picture((48, 64), "u2") >> 4, ".png"))
    assert (deep.encoding, deep.measured_bits()) == ("mono16", 12)
    bgra = picture((48, 64, 4))
    rgb = decode_compressed("png", encoded(bgra, ".png")).rgb()
    np.testing.assert_array_equal(rgb, bgra[..., 2::-1])


def test_orientation_tag_is_ignored() -> None:
    """Boxes are drawn on the pixels as they are stored."""
    data = exif_rotated(encoded(picture(), ".jpg"))
    assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape == (64, 48, 3)
    pixels = decode_compressed("jpeg", data)
    assert (pixels.width, pixels.height) == (64, 48)


def png_claiming(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header claims any size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        checksum = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )


def jpeg_claiming(width: int, height: int) -> bytes:
    """A JPEG whose frame header claims any size."""
    data = bytearray(encoded(picture(), ".jpg"))
    start = data.index(b"\xff\xc0")
    data[start + 5 : start + 9] = struct.pack(">HH", height, width)
    return bytes(data)


@pytest.mark.parametrize(
    "data", [png_claiming(60000, 60000), jpeg_claiming(65000, 65000)], ids=["png", "jpeg"]
)
def test_decompression_bomb(data: bytes) -> None:
    with pytest.raises(ImageError, match=f"at most {MAX_PIXELS:,} pixels"):
        decode_compressed("", data)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("part", [0.02, 0.3, 0.9, 0.999])
def test_cut_off_image(suffix: str, part: float) -> None:
    """Also where the decoder alone would fill the rest with grey."""
    data = encoded(picture((480, 640, 3)), suffix)
    with pytest.raises(ImageError, match=r"cut off|no header"):
        decode_compressed("jpeg", data[: int(part * len(data))])


def test_cut_off_image_with_a_whole_thumbnail() -> None:
    """The end marker of a preview in the metadata is not the image's."""
    jpeg = encoded(picture((480, 640, 3)), ".jpg")
    thumbnail = encoded(picture((12, 16, 3)), ".jpg")
    body = b"Exif\0\0" + thumbnail
    data = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:-500]
    with pytest.raises(ImageError, match="cut off"):
        decode_compressed("jpeg", data)


def test_a_chunk_that_claims_more_than_there_is() -> None:
    """The decoder alone would reserve 3.4 GB for it."""
    data = bytearray(encoded(picture(), ".png"))
    at = data.index(b"IDAT")
    data[at - 4 : at] = b"\xcb\0\0\x99"
    with pytest.raises(ImageError, match="cut off"):
        decode_compressed("png", data)


def test_a_png_without_data() -> None:
    data = encoded(picture(), ".png").replace(b"IDAT", b"IDAt")
    with pytest.raises(ImageError, match="PNG image has no data"):
        decode_compressed("png", data)


def test_padding_after_the_end_is_allowed() -> None:
    data = encoded(picture(), ".jpg") + bytes(100)
    assert decode_compressed("jpeg", data).width == 64


@pytest.mark.parametrize(
    "data", [b"", b"\xff", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0"]
)
def test_not_an_image(data: bytes) -> None:
    with pytest.raises(ImageError):
        decode_compressed("jpeg", data)


def test_damaged_images() -> None:
    png = bytearray(encoded(picture(), ".png"))
    png[len(png) // 2] ^= 0xFF
    with pytest.raises(ImageError, match="damaged"):
        decode_compressed("png", png)
    with pytest.raises(ImageError, match="compressedDepth"):
        decode_compressed("16UC1; compressedDepth png", bytes(png))


@given(st.binary(max_size=200), st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"]))
@settings(max_examples=300, deadline=None)
def test_random_bytes_raise_only_image_errors(data: bytes, magic: bytes) -> None:
    with pytest.raises(ImageError):
        decode_compressed("jpeg", magic + data)
