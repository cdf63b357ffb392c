"""Sources of images to draw on."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from mixformerv2_ros.tracking.frame import NS, Frame


@dataclass(frozen=True)
class ShownImage:
    """An image to draw on.

    Attributes:
        frame: The image with its stamp.
        index: Number of the image in a file, from 0; None for a topic.
    """

    frame: Frame
    index: int | None = None


class ImageSource(Protocol):
    """A source of images. Its methods are called from the window's thread and must not block.

    Attributes:
        title: Title of the window.
        live: Whether images arrive by themselves (topic, camera); files can be paused.
    """

    title: str
    live: bool

    def take(self) -> ShownImage | None:
        """The newest image since the last call; None if there is none.

        Raises:
            ImageError: the newest image cannot be decoded; others may follow.
            MixFormerError: the source has failed.
        """

    def hold(self, held: bool) -> None:
        """Pause a file before its next image, or resume it; no effect on live sources."""

    def step(self) -> None:
        """Read one more image of a paused file."""

    def status(self) -> str:
        """State of the source or of the last box, one line; may be empty."""


class FileImages:
    """Images of a video, a folder, a recording or a camera, paced by their stamps.

    They are read and decoded in a thread. Use it as a context manager.
    """

    def __init__(self, title: str, live: bool, read: Callable[[], Iterator[ShownImage]]) -> None:
        """Start reading; a file is paused after its first image.

        Args:
            title: Title of the window.
            live: Whether it is a camera, which cannot be paused.
            read: Opens and reads the source, called in the thread.
        """
        self.title = title
        self.live = live
        self._read = read
        self._newest: deque[ShownImage] = deque(maxlen=1)
        self._failure: BaseException | None = None
        self._ended = False
        self._changed = threading.Condition()
        self._held = not live
        self._allowed = 1
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="images", daemon=True)
        self._thread.start()

    def __enter__(self) -> FileImages:
        """Return the source."""
        return self

    def __exit__(self, *error: object) -> None:
        """Stop reading; does not wait for a camera that blocks."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(1.0)

    def take(self) -> ShownImage | None:
        """The newest image since the last call; see `ImageSource`."""
        try:
            return self._newest.pop()
        except IndexError:
            if self._failure is not None:
                raise self._failure from None
            return None

    def hold(self, held: bool) -> None:
        """Pause before the next image, or resume; no effect on a camera."""
        with self._changed:
            self._held = held and not self.live
            self._changed.notify()

    def step(self) -> None:
        """Read one more image while paused."""
        with self._changed:
            self._allowed += 1
            self._changed.notify()

    def status(self) -> str:
        """Whether the end has been reached."""
        return f"end of {self.title}" if self._ended else ""

    def _run(self) -> None:
        due, before = time.monotonic(), 0
        try:
            for shown in self._read():
                with self._changed:
                    waits = self._held
                    self._changed.wait_for(self._may_go_on)
                    if self._closing:
                        return
                    self._allowed = max(0, self._allowed - 1)
                # Time spent paused does not count.
                due = time.monotonic() if waits else due + (shown.frame.stamp_ns - before) / NS
                before = shown.frame.stamp_ns
                if not self.live:
                    time.sleep(min(max(0.0, due - time.monotonic()), 1.0))
                self._newest.append(shown)
            self._ended = True
        except BaseException as error:  # raised again where the images are taken
            self._failure = error

    def _may_go_on(self) -> bool:
        return self._closing or not self._held or self._allowed > 0
