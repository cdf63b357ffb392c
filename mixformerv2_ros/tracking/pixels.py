"""Images as they come in messages, converted to RGB only where needed.

A tracker looks at a small part of each image. `Pixels` therefore keeps a view of the message's
buffer and converts the region that is asked for. The result of a region equals the same crop of
the fully converted image, for every encoding: chroma-subsampled and Bayer data are read with the
alignment and the border that their conversion needs.

Conventions: results are 8-bit RGB. Of 16-bit data the 8 highest of the used bits are kept
(`value >> bits - 8`), depth images (`16UC1`) included; see `Pixels.with_bits`. `8UC3` and the like
are taken as BGR, as OpenCV's users write them. YUV is BT.601 with limited range, which is what
OpenCV's NV12 and YUY2 conversions use. Alpha is dropped. Orientation tags in compressed images are
ignored: pixels count as they are stored, like the boxes drawn on them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mixformerv2_ros.errors import ImageError

MAX_PIXELS = 100_000_000
"""Largest image that is decoded, in pixels; a header that claims more is taken for an attack."""

Bytes = npt.NDArray[np.uint8]
Planes = tuple[Bytes, ...]
Region = tuple[int, int, int, int]
"""x1, y1, x2, y2 in pixels; x2 and y2 exclusive."""


@dataclass(frozen=True)
class _Layout:
    """How one family of encodings lies in memory and becomes RGB.

    Attributes:
        pixel_bytes: Bytes of a pixel in a row of `step` bytes.
        rows: Rows of `step` bytes per two image rows: 2, or more where chroma planes follow.
        view: Splits (buffer, height, width, step, big endian) into planes, without a copy.
        convert: Converts a region of the planes to RGB.
        block: Width and height of the smallest block of pixels that can be converted alone.
        whole_blocks: Whether an image must consist of whole blocks.
        border: Pixels around a region that its conversion depends on.
        words: Whether the plane holds 16-bit words, which become bytes before the conversion.
        is_packed: Whether every pixel is converted by itself, channel by channel.
        code: OpenCV's code of that conversion; None for RGB.
    """

    pixel_bytes: int
    view: Callable[[Bytes, int, int, int, bool], Planes]
    convert: Callable[[Planes, Region], Bytes]
    rows: int = 2
    block: tuple[int, int] = (1, 1)
    whole_blocks: bool = True
    border: int = 0
    words: bool = False
    is_packed: bool = False
    code: int | None = None


class Pixels:
    """An image in the encoding it came in; a view, so its buffer must not change.

    Attributes:
        width: Width in pixels.
        height: Height in pixels.
        encoding: Name of the encoding, as in `sensor_msgs/image_encodings`; `bgr8`, `bgr16`,
            `mono8` or `mono16` for an image that came compressed.
        bits: Used bits of 16-bit data: larger values are white. 8 for other images.
    """

    __slots__ = ("_layout", "_planes", "bits", "encoding", "height", "width")

    def __init__(
        self, width: int, height: int, encoding: str, layout: _Layout, planes: Planes
    ) -> None:
        self.width = width
        self.height = height
        self.encoding = encoding
        self.bits = 16 if layout.words else 8
        self._layout = layout
        self._planes = planes

    @classmethod
    def from_array(cls, array: npt.NDArray[Any], encoding: str = "rgb8") -> Pixels:
        """Wrap an array: HxWx3 or HxWx4, or HxW (`mono8`, `mono16`), uint8 or uint16.

        A contiguous array is not copied.

        Raises:
            ImageError: the array's shape or type does not fit the encoding.
        """
        channels = {f"{name}{bits}": n for name, (n, _) in _COLOR.items() for bits in (8, 16)}
        if encoding not in channels:
            raise ImageError(
                f"array encoding must be one of {', '.join(channels)}, got {encoding!r}"
            )
        shape = array.shape if channels[encoding] > 1 else (*array.shape, 1)
        kind = "uint16" if encoding.endswith("16") else "uint8"
        if len(shape) != 3 or shape[2] != channels[encoding] or array.dtype.name != kind:
            raise ImageError(
                f"{encoding} needs an array of height x width x {channels[encoding]} {kind}, "
                f"got {'x'.join(map(str, array.shape))} {array.dtype.name}"
            )
        native = array.astype(array.dtype.newbyteorder("="), copy=False)
        data = np.ascontiguousarray(native).reshape(-1).view(np.uint8)
        bigendian = sys.byteorder == "big"
        step = shape[1] * channels[encoding] * array.itemsize
        return decode_image(shape[0], shape[1], encoding, bigendian, step, data)

    def with_bits(self, bits: int) -> Pixels:
        """The same image with another number of used bits, 8 to 16; 8-bit images stay as they are.

        Raises:
            ValueError: the number is out of range.
        """
        if not 8 <= bits <= 16:
            raise ValueError(f"used bits must be 8 to 16, got {bits}")
        if not self._layout.words:
            return self
        pixels = Pixels(self.width, self.height, self.encoding, self._layout, self._planes)
        pixels.bits = bits
        return pixels

    def measured_bits(self) -> int:
        """How many bits of 16-bit data are used: 8, 10, 12, 14 or 16; 8 for other images.

        The smallest number that all but a thousandth of the pixels keep to, so that a few defect
        pixels do not darken the image. A third of rows and columns is looked at.
        """
        if not self._layout.words:
            return 8
        sample = self._planes[0][::3, ::3]
        for bits in range(8, 16, 2):
            if np.count_nonzero(sample >> bits) <= sample.size // 1000:
                return bits
        return 16

    def rgb(self, x1: int = 0, y1: int = 0, x2: int | None = None, y2: int | None = None) -> Bytes:
        """Convert a region to RGB.

        Args:
            x1: Left column.
            y1: Top row.
            x2: Column after the last one; the image's width if None.
            y2: Row after the last one; the image's height if None.

        Returns:
            (y2 - y1, x2 - x1, 3) uint8 RGB, contiguous. It may share memory with the message:
            do not write into it.

        Raises:
            ValueError: the region does not lie in the image.
        """
        x2 = self.width if x2 is None else x2
        y2 = self.height if y2 is None else y2
        self._check(x1, y1, x2, y2)
        if x1 == x2 or y1 == y2:
            return np.empty((y2 - y1, x2 - x1, 3), np.uint8)
        left, right = self._span(x1, x2, self.width, self._layout.block[0])
        top, bottom = self._span(y1, y2, self.height, self._layout.block[1])
        planes, region = self._planes, (left, top, right, bottom)
        if self._layout.words:
            words = planes[0][top:bottom, left:right] >> (self.bits - 8)
            planes = (np.minimum(words, 255).astype(np.uint8),)
            region = (0, 0, right - left, bottom - top)
        converted = self._layout.convert(planes, region)
        return np.ascontiguousarray(converted[y1 - top : y2 - top, x1 - left : x2 - left])

    def stored(self, x1: int, y1: int, x2: int, y2: int) -> tuple[Bytes, int | None]:
        """A region before its conversion to RGB, as far as it can be resized like that.

        Resizing treats every channel by itself, so that of packed encodings (`bgr8`, `mono8`, ...)
        the resized region can be converted instead, with the same result.

        Args:
            x1: Left column.
            y1: Top row.
            x2: Column after the last one.
            y2: Row after the last one.

        Returns:
            (y2 - y1, x2 - x1) or (y2 - y1, x2 - x1, C) uint8, a view of the message where the
            encoding is packed, and OpenCV's code of the conversion to RGB; None where it is RGB.

        Raises:
            ValueError: the region does not lie in the image.
        """
        if not self._layout.is_packed:
            return self.rgb(x1, y1, x2, y2), None
        self._check(x1, y1, x2, y2)
        return self._planes[0][y1:y2, x1:x2], self._layout.code

    def _check(self, x1: int, y1: int, x2: int, y2: int) -> None:
        if not (0 <= x1 <= x2 <= self.width and 0 <= y1 <= y2 <= self.height):
            raise ValueError(
                f"region must lie in the {self.width}x{self.height} image, "
                f"got x {x1}..{x2}, y {y1}..{y2}"
            )

    def _span(self, start: int, stop: int, limit: int, block: int) -> tuple[int, int]:
        """Widen start..stop by the border and to whole blocks, within the image."""
        border = self._layout.border
        start = max(0, start - border) // block * block
        stop = min(limit, -(-(stop + border) // block) * block)
        return start, stop


class ReducedPixels(Pixels):
    """An image of which a reduced copy is at hand; in full it is decoded when it is asked for.

    All that `Pixels` offers is of the whole image.

    Attributes:
        reduced: The reduced copy, `ceil(width / reduction)` x `ceil(height / reduction)` pixels;
            each stands for `reduction` x `reduction` pixels of the image.
        reduction: 2, 4 or 8.
    """

    __slots__ = ("_decode", "_full", "reduced", "reduction")

    def __init__(
        self, width: int, height: int, reduced: Pixels, reduction: int, decode: Callable[[], Pixels]
    ) -> None:
        """Keep the reduced copy; `decode` gives the image in full, and is called once at most."""
        super().__init__(width, height, reduced.encoding, _LAYOUTS[reduced.encoding], ())
        self.reduced = reduced
        self.reduction = reduction
        self._decode = decode
        self._full: Pixels | None = None

    def rgb(self, x1: int = 0, y1: int = 0, x2: int | None = None, y2: int | None = None) -> Bytes:
        """See `Pixels.rgb`.

        Raises:
            ImageError: the image cannot be decoded in full.
        """
        return self._whole().rgb(x1, y1, x2, y2)

    def stored(self, x1: int, y1: int, x2: int, y2: int) -> tuple[Bytes, int | None]:
        """See `Pixels.stored`.

        Raises:
            ImageError: the image cannot be decoded in full.
        """
        return self._whole().stored(x1, y1, x2, y2)

    def _whole(self) -> Pixels:
        if self._full is None:
            self._full = self._decode()
        return self._full


def _packed_view(channels: int) -> Callable[[Bytes, int, int, int, bool], Planes]:
    def view(data: Bytes, height: int, width: int, step: int, bigendian: bool) -> Planes:
        rows = data[: height * step].reshape(height, step)[:, : width * channels]
        return (rows.reshape(height, width, channels) if channels > 1 else rows,)

    return view


def _word_view(channels: int) -> Callable[[Bytes, int, int, int, bool], Planes]:
    def view(data: Bytes, height: int, width: int, step: int, bigendian: bool) -> Planes:
        rows = data[: height * step].reshape(height, step)[:, : width * channels * 2]
        words: Any = rows.view(">u2" if bigendian else "<u2")
        return (words.reshape(height, width, channels) if channels > 1 else words,)

    return view


def _nv12_view(data: Bytes, height: int, width: int, step: int, bigendian: bool) -> Planes:
    rows = data[: height // 2 * 3 * step].reshape(height // 2 * 3, step)[:, :width]
    return rows[:height], rows[height:].reshape(height // 2, width // 2, 2)


def _nv24_view(data: Bytes, height: int, width: int, step: int, bigendian: bool) -> Planes:
    luma = data[: height * step].reshape(height, step)[:, :width]
    chroma = data[height * step : 3 * height * step].reshape(height, 2 * step)[:, : 2 * width]
    return luma, chroma.reshape(height, width, 2)


def _convert_packed(code: int | None) -> Callable[[Planes, Region], Bytes]:
    def convert(planes: Planes, region: Region) -> Bytes:
        x1, y1, x2, y2 = region
        crop = planes[0][y1:y2, x1:x2]
        return crop if code is None else _color(crop, code)

    return convert


def _convert_nv12(code: int) -> Callable[[Planes, Region], Bytes]:
    def convert(planes: Planes, region: Region) -> Bytes:
        x1, y1, x2, y2 = region
        luma = planes[0][y1:y2, x1:x2]
        chroma = planes[1][y1 // 2 : y2 // 2, x1 // 2 : x2 // 2]
        return np.asarray(cv2.cvtColorTwoPlane(luma, chroma, code), np.uint8)

    return convert


def _convert_nv24(planes: Planes, region: Region) -> Bytes:
    # OpenCV has no conversion for NV24. Every pixel written twice is YUY2 without subsampling, so
    # the arithmetic is that of the other YUV encodings.
    x1, y1, x2, y2 = region
    doubled = np.empty((y2 - y1, x2 - x1, 4), np.uint8)
    doubled[..., 0] = doubled[..., 2] = planes[0][y1:y2, x1:x2]
    doubled[..., 1::2] = planes[1][y1:y2, x1:x2]
    yuy2 = doubled.reshape(y2 - y1, 2 * (x2 - x1), 2)
    return _color(yuy2, cv2.COLOR_YUV2RGB_YUY2)[:, ::2]


def _color(image: Bytes, code: int) -> Bytes:
    if image.shape[:2] == (1, 1):
        # OpenCV 4.5, which ROS 2 Humble comes with, refuses a single pixel.
        return _color(np.repeat(image, 2, axis=1), code)[:, :1]
    return np.asarray(cv2.cvtColor(image, code), np.uint8)


_YUV = {
    "yuv422": cv2.COLOR_YUV2RGB_UYVY,
    "uyvy": cv2.COLOR_YUV2RGB_UYVY,
    "yuv422_yuy2": cv2.COLOR_YUV2RGB_YUY2,
    "yuyv": cv2.COLOR_YUV2RGB_YUY2,
}
_COLOR = {
    "rgb": (3, None),
    "bgr": (3, cv2.COLOR_BGR2RGB),
    "rgba": (4, cv2.COLOR_RGBA2RGB),
    "bgra": (4, cv2.COLOR_BGRA2RGB),
    "mono": (1, cv2.COLOR_GRAY2RGB),
}
# ROS names the top-left 2x2 pixels; OpenCV names the 2x2 block one row and one column further on.
_BAYER = {
    "bayer_rggb": cv2.COLOR_BayerBG2RGB,
    "bayer_bggr": cv2.COLOR_BayerRG2RGB,
    "bayer_gbrg": cv2.COLOR_BayerGR2RGB,
    "bayer_grbg": cv2.COLOR_BayerGB2RGB,
}


def _layouts() -> dict[str, _Layout]:
    layouts = {}
    for name, (channels, code) in _COLOR.items():
        convert = _convert_packed(code)
        layouts[f"{name}8"] = _Layout(
            channels, _packed_view(channels), convert, is_packed=True, code=code
        )
        layouts[f"{name}16"] = _Layout(2 * channels, _word_view(channels), convert, words=True)
    layouts["8UC1"] = layouts["mono8"]
    layouts["8UC3"], layouts["8UC4"] = layouts["bgr8"], layouts["bgra8"]
    layouts["16UC1"] = layouts["mono16"]
    layouts["16UC3"], layouts["16UC4"] = layouts["bgr16"], layouts["bgra16"]
    for name, code in _YUV.items():
        layouts[name] = _Layout(2, _packed_view(2), _convert_packed(code), block=(2, 1))
    for name, code in {"nv12": cv2.COLOR_YUV2RGB_NV12, "nv21": cv2.COLOR_YUV2RGB_NV21}.items():
        layouts[name] = _Layout(1, _nv12_view, _convert_nv12(code), rows=3, block=(2, 2))
    layouts["nv24"] = _Layout(1, _nv24_view, _convert_nv24, rows=6)
    for name, code in _BAYER.items():
        # A pixel is interpolated from its neighbours, and the outermost pixels of an image repeat
        # those next to them: a region needs two pixels around it.
        convert = _convert_packed(code)
        for suffix, size, view in (("8", 1, _packed_view(1)), ("16", 2, _word_view(1))):
            layouts[name + suffix] = _Layout(
                size, view, convert,
                block=(2, 2), whole_blocks=False, border=2, words=suffix == "16",
            )  # fmt: skip
    return layouts


_LAYOUTS = _layouts()

ENCODINGS = tuple(_LAYOUTS)
"""Names of the supported encodings."""


def decode_image(
    height: int, width: int, encoding: str, is_bigendian: bool | int, step: int, data: Any
) -> Pixels:
    """Wrap the fields of a `sensor_msgs/Image` without copying its data.

    Args:
        height: Rows of the image.
        width: Columns of the image.
        encoding: One of `ENCODINGS`.
        is_bigendian: Byte order of 16-bit data.
        step: Bytes from one row to the next.
        data: Anything with the buffer protocol that holds at least the rows, such as bytes,
            `array.array` or a uint8 array.

    Raises:
        ImageError: the fields do not describe an image, or its encoding is not supported.
    """
    layout = _LAYOUTS.get(encoding)
    if layout is None:
        raise ImageError(f"image encoding must be one of {', '.join(ENCODINGS)}, got {encoding!r}")
    check_size(width, height)
    if layout.whole_blocks and (width % layout.block[0] or height % layout.block[1]):
        sides = "an even width" + (" and height" if layout.block[1] > 1 else "")
        raise ImageError(f"{encoding} image must have {sides}, got {width}x{height}")
    row = width * layout.pixel_bytes
    if step < row:
        raise ImageError(
            f"{encoding} image of {width}x{height} needs a step of at least {row} bytes, got {step}"
        )
    buffer = np.frombuffer(data, np.uint8)
    expected = step * height * layout.rows // 2
    if buffer.size < expected:
        raise ImageError(
            f"{encoding} image of {width}x{height} with step {step} needs {expected} bytes, "
            f"got {buffer.size}"
        )
    planes = layout.view(buffer, height, width, step, bool(is_bigendian))
    return Pixels(width, height, encoding, layout, planes)


def check_size(width: int, height: int) -> None:
    """Refuse a size that no image has, or none that is decoded.

    Raises:
        ImageError: less than a pixel, or more than `MAX_PIXELS`.
    """
    if width < 1 or height < 1:
        raise ImageError(f"image must have at least one pixel, got {width}x{height}")
    if width * height > MAX_PIXELS:
        raise ImageError(f"image must have at most {MAX_PIXELS:,} pixels, got {width}x{height}")
