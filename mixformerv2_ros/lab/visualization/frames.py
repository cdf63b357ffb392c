"""Frames of a source to be drawn: which, and where they come from."""

from __future__ import annotations

import itertools
from collections.abc import Container, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from mixformerv2_ros.errors import ParameterError, SourceError
from mixformerv2_ros.io.images import IMAGE_SUFFIXES, read_image
from mixformerv2_ros.io.video import VideoFrame, VideoSource
from mixformerv2_ros.text import printable
from mixformerv2_ros.tracking.frame import Frame

MAX_FRAME = 10**9


@dataclass(frozen=True)
class FrameSelection(Container[int]):
    """Numbers of frames.

    Attributes:
        ranges: The numbers; empty for all.
    """

    ranges: tuple[range, ...]

    def __contains__(self, index: object) -> bool:
        """Whether a frame is selected."""
        return not self.ranges or any(index in one for one in self.ranges)

    @property
    def first(self) -> int:
        """The lowest of them, 0 for all."""
        return min((one[0] for one in self.ranges), default=0)

    @property
    def last(self) -> int | None:
        """The highest of them, None for all."""
        return max((one[-1] for one in self.ranges), default=None)


def parse_frames(text: str) -> FrameSelection:
    """Read frame numbers such as `10,50-100` or `0-300:10` (every tenth).

    Raises:
        ParameterError: the text is something else.
    """
    ranges = []
    for part in text.split(","):
        numbers, _, step = part.partition(":")
        first, dash, last = numbers.partition("-")
        fields = [first, last if dash else first, step if ":" in part else "1"]
        if not all(f.strip().isdecimal() and int(f) <= MAX_FRAME for f in fields):
            raise ParameterError(
                f"--frames must be numbers and ranges such as 10,50-100 or 0-300:10, "
                f"got {printable(text)!r}"
            )
        start, end, stride = (int(field) for field in fields)
        if end < start or stride < 1:
            raise ParameterError(f"--frames has an empty range, {printable(part)!r}")
        ranges.append(range(start, end + 1, stride))
    return FrameSelection(tuple(ranges))


@dataclass(frozen=True)
class OpenedFrames:
    """An opened source.

    Attributes:
        frames: The start frame and those after it.
        fps: Frames per second.
        first: Number of the first frame that is searched.
        last: Number of the last one as far as known.
    """

    frames: Iterator[VideoFrame]
    fps: float
    first: int
    last: int | None


def open_frames(source: str, start: int, stack: ExitStack) -> OpenedFrames:
    """Open a video file, a folder of images, or one image.

    Args:
        source: What to open. One image is searched for the target that was drawn on it.
        start: Number of the frame that the target is started on.
        stack: Closes it.

    Raises:
        ParameterError: one image has no other frame to start on.
        SourceError, ImageError: it cannot be read, or ends before the start frame.
    """
    path = Path(source)
    if path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES:
        if start:
            raise ParameterError(f"--start-frame must be 0 for one image, got {start}")
        frame = Frame(read_image(path))
        # Searched in the very image that the target is drawn on.
        images = [VideoFrame(0, 0, 0, decode=lambda: frame, name=path.name, index=0) for _ in "ab"]
        return OpenedFrames(iter(images), 1.0, 0, 0)
    video = stack.enter_context(VideoSource(source))
    frames = itertools.islice(video.frames(), start, None)
    first = next(frames, None)
    if first is None:
        raise SourceError(f"{source} has no frame {start}")
    last = None if video.count is None else video.count - 1
    return OpenedFrames(itertools.chain([first], frames), video.fps, start + 1, last)
