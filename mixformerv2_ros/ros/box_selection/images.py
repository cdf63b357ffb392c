"""What images to draw on come from."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from mixformerv2_ros.ros.messages import NS
from mixformerv2_ros.tracking.frame import Frame


@dataclass(frozen=True)
class ShownImage:
    """An image to draw on.

    Attributes:
        frame: The image with its stamp.
        index: Number of the image in a file, from 0; None for those of a topic.
    """

    frame: Frame
    index: int | None = None


class ImageSource(Protocol):
    """Where images come from. Its methods are called from the window's thread and return at once.

    Attributes:
        title: What it is, for the window's title.
        live: Whether images come by themselves; a file waits for whoever looks at it.
    """

    title: str
    live: bool

    def take(self) -> ShownImage | None:
        """The newest image since the last call; None if there is none.

        Raises:
            ImageError: the newest image cannot be decoded; there may be others after it.
            MixFormerError: no image will come any more.
        """

    def hold(self, held: bool) -> None:
        """Let a file stop before its next image, or go on; a topic goes on anyway."""

    def step(self) -> None:
        """Let a file that is held give one image more."""

    def status(self) -> str:
        """What is the matter, or what became of the last box, in a line; may be empty."""


class FileImages:
    """Images of a video, a folder, a recording or a camera, at the speed of their stamps.

    They are read and decoded in a thread of their own. Use it as a context manager.
    """

    def __init__(self, title: str, live: bool, read: Callable[[], Iterator[ShownImage]]) -> None:
        """Begin to read; a source that is not live waits after its first image.

        Args:
            title: What it is.
            live: Whether it is a camera, which does not wait.
            read: Opens the source and reads it, in the thread.
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
        """Return the source, which is being read already."""
        return self

    def __exit__(self, *error: object) -> None:
        """Stop reading; a camera that gives no image is not waited for."""
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
        """Stop before the next image, or go on; a camera goes on anyway."""
        with self._changed:
            self._held = held and not self.live
            self._changed.notify()

    def step(self) -> None:
        """Give one image although it is held."""
        with self._changed:
            self._allowed += 1
            self._changed.notify()

    def status(self) -> str:
        """Whether the end was reached."""
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
                # Time that was spent waiting for whoever looks does not count.
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
