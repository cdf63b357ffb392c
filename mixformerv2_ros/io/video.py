"""Frames out of video files, cameras and image folders, and overlay videos."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
import numpy.typing as npt

from mixformerv2_ros.errors import ImageError, SourceError
from mixformerv2_ros.io.images import list_images, read_image
from mixformerv2_ros.text import printable
from mixformerv2_ros.tracking.events import StreamImage
from mixformerv2_ros.tracking.frame import Frame
from mixformerv2_ros.tracking.pixels import MAX_PIXELS, Pixels

CODECS = {".mp4": "mp4v", ".avi": "MJPG", ".mkv": "MJPG", ".webm": "VP80"}
"""Codec of an overlay video by its suffix; those that OpenCV's wheels can write."""

DEFAULT_FPS = 30.0

MAX_CAMERA = 9999
"""Largest camera number; OpenCV adds the number of a driver in steps of a hundred."""

_MIN_FPS, _MAX_FPS = 0.01, 1000.0
"""Frame rates of overlay videos; of faster ones, AVI loses frames."""
_MAX_TIME_BASE = 65535
"""Largest denominator of a frame's duration in MPEG-4."""


@dataclass(eq=False)
class VideoFrame(StreamImage):
    """A frame of a video, camera or image folder; its stamp is also its arrival.

    The stamp is the time since the start of a video, that of the day for a camera.

    Attributes:
        index: Number of the frame, from 0.
    """

    index: int = field(kw_only=True)


class VideoSource:
    """An open video file, camera or image folder; use it as a context manager.

    Attributes:
        name: What was opened, for messages.
        fps: Frames per second: of the file or camera, as given, else 30.
        count: Number of frames as far as known; the header of a video may be wrong.
        warning: What is wrong with a video that was read to its end; empty if nothing is.
        is_cut: Whether more frames are missing at its end than an inaccurate header explains.
        is_live: Whether it is a camera, which never ends.
    """

    def __init__(self, source: str, fps: float | None = None) -> None:
        """Open a source.

        Args:
            source: Path of a video file or of a folder of images, or the number of a camera.
            fps: Frames per second to use in place of the source's own timing.

        Raises:
            SourceError: it cannot be opened.
        """
        self.name = source
        self.warning = ""
        self.is_cut = False
        self._given_fps = fps
        self._files: list[Path] | None = None
        self._capture: cv2.VideoCapture | None = None
        self.is_live = source.isdecimal() and not Path(source).exists()
        path = Path(source)
        if path.is_dir():
            self._files = list_images(path)
            self.fps = fps or DEFAULT_FPS
            self.count: int | None = len(self._files)
            return
        if not self.is_live and not path.exists():
            raise SourceError(f"video {source} does not exist")
        kind = "camera" if self.is_live else "video"
        if self.is_live and len(source.lstrip("0")) > len(str(MAX_CAMERA)):
            got = printable(source)
            raise SourceError(f"camera number must be at most {MAX_CAMERA}, got {got}")
        _check_name(source)
        try:
            with _silent_libraries():
                capture = cv2.VideoCapture(int(source) if self.is_live else source)
        except cv2.error as error:
            raise SourceError(f"{kind} {source} cannot be opened: {error.err}") from error
        if not capture.isOpened():
            raise SourceError(f"{kind} {source} cannot be opened")
        width, height = (
            capture.get(side) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
        )
        if width * height > MAX_PIXELS:
            raise SourceError(
                f"{kind} {source} must have at most {MAX_PIXELS:,} pixels, got "
                f"{width:.0f}x{height:.0f}"
            )
        self._capture = capture
        own = capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps or (own if 0 < own < 1000 else DEFAULT_FPS)
        count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.count = int(count) if 0 < count < 1e9 and not self.is_live else None

    def __enter__(self) -> VideoSource:
        """Return the source, which is open already."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Release the source."""
        if self._capture is not None:
            self._capture.release()

    def frames(self) -> Iterator[VideoFrame]:
        """Read the frames, once.

        Raises:
            SourceError: a video has no frame that can be read.
        """
        if self._capture is None:
            return self._read_files()
        return self._read_capture(self._capture)

    def _read_files(self) -> Iterator[VideoFrame]:
        for index, file in enumerate(self._files or ()):
            stamp_ns = round(index * 1e9 / self.fps)
            decode = partial(_read_frame, file, stamp_ns)
            yield VideoFrame(
                stamp_ns, stamp_ns, 0,
                decode=decode, decode_reduced=decode, name=file.name, index=index,
            )  # fmt: skip

    def _read_capture(self, capture: cv2.VideoCapture) -> Iterator[VideoFrame]:
        index, stamp_ns = 0, -1
        while True:
            ok, image = capture.read()
            if not ok:
                break
            stamp_ns = self._stamp(capture, index, stamp_ns)
            # OpenCV decodes videos to BGR; grey cameras may give one channel.
            pixels = Pixels.from_array(image, "bgr8" if image.ndim == 3 else "mono8")
            frame = Frame(pixels, stamp_ns)
            yield VideoFrame(
                stamp_ns, stamp_ns, image.nbytes,
                decode=partial(_decoded, frame), name=f"frame {index}", index=index,
            )  # fmt: skip
            index += 1
        if index == 0:
            raise SourceError(f"video {self.name} has no frame that can be read")
        if self.count is not None and index < self.count:
            self.warning = f"video {self.name}: {index} of {self.count} frames could be read"
            # Headers may be off by a few frames.
            self.is_cut = index < self.count - max(2, self.count // 20)

    def _stamp(self, capture: cv2.VideoCapture, index: int, previous_ns: int) -> int:
        """Time of the frame just read in nanoseconds, later than that of the frame before."""
        if self.is_live:
            return time.time_ns()
        if self._given_fps is None:
            own = round(capture.get(cv2.CAP_PROP_POS_MSEC) * 1e6)
            if own > previous_ns and (own > 0 or index == 0):
                return own
        return max(round(index * 1e9 / self.fps), previous_ns + 1)


def _read_frame(path: Path, stamp_ns: int, reduction: int = 1) -> Frame:
    try:
        return Frame(read_image(path, reduction), stamp_ns)
    except SourceError as error:  # a file that cannot be read is as good as one that is broken
        raise ImageError(str(error)) from error


def _decoded(frame: Frame) -> Frame:
    return frame


class VideoFile:
    """A video file being written; it is created with its first frame.

    Frames of another size than the first are scaled to it.
    """

    def __init__(self, path: Path, fps: float) -> None:
        """Choose the file; its suffix (one of `CODECS`) chooses the codec.

        Raises:
            SourceError: the suffix is not known.
        """
        _check_name(path)
        if path.suffix.lower() not in CODECS:
            raise SourceError(f"video must end in {', '.join(CODECS)}, got {path}")
        self.path = path
        self._fps = _writable_fps(fps)
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)
        self._written = 0

    def open(self, width: int, height: int) -> cv2.VideoWriter:
        """Create the file for frames of this size in pixels.

        Raises:
            SourceError: the file cannot be created, or the codec cannot write such frames.
        """
        self._size = width, height
        codec = cv2.VideoWriter.fourcc(*CODECS[self.path.suffix.lower()])
        try:
            with _silent_libraries():
                self._writer = cv2.VideoWriter(str(self.path), codec, self._fps, self._size)
        except cv2.error as error:
            raise SourceError(f"video {self.path} cannot be written: {error.err}") from error
        if not self._writer.isOpened():
            raise SourceError(
                f"video {self.path} cannot be written: {width}x{height} at {self._fps:g} frames/s"
            )
        return self._writer

    def write(self, image: npt.NDArray[np.uint8]) -> None:
        """Append a (height, width, 3) uint8 BGR image.

        Raises:
            SourceError: the file cannot be created.
        """
        if self._writer is None:
            self._writer = self.open(image.shape[1], image.shape[0])
        if (image.shape[1], image.shape[0]) != self._size:
            image = np.asarray(cv2.resize(image, self._size), np.uint8)
        self._writer.write(image)
        self._written += 1

    def close(self) -> None:
        """Finish the file.

        Raises:
            SourceError: frames are missing in the file: OpenCV is silent about a full disk.
        """
        if self._writer is not None:
            with _silent_libraries():
                self._writer.release()
                count = cv2.VideoCapture(str(self.path)).get(cv2.CAP_PROP_FRAME_COUNT)
            self._writer = None
            # OpenCV does not open small WebM files again, though they are whole.
            if count < self._written and self.path.suffix.lower() != ".webm":
                raise SourceError(
                    f"video {self.path} cannot be written: {count:.0f} of {self._written} frames "
                    "can be read back; is the disk full?"
                )


def _check_name(path: object) -> None:
    """Refuse names that end the process inside of OpenCV.

    Raises:
        SourceError: the name is not UTF-8.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise SourceError(f"name of a video must be UTF-8, got {printable(path, 200)}") from None


def _writable_fps(fps: float) -> float:
    """The nearest frame rate whose fraction, as OpenCV makes one, every codec can write."""
    fps = min(max(fps, _MIN_FPS), _MAX_FPS)
    digits = next(d for d in (3, 2, 1) if fps * 10**d <= _MAX_TIME_BASE)
    return round(fps, digits)


@contextmanager
def _silent_libraries() -> Iterator[None]:
    """Drop what libraries print past Python: OpenCV, on files that it cannot open.

    Nothing else of this process may write to stderr meanwhile.
    """
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
