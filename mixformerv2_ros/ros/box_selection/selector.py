"""Drawing a box, independent of the window.

The newest image is shown until the mouse button is pressed. From then on the image is frozen, so
that the box belongs to it and to its stamp, until the box is confirmed or discarded.
"""

from __future__ import annotations

from collections.abc import Callable

from mixformerv2_ros.errors import ImageError
from mixformerv2_ros.ros.box_selection.images import ImageSource, ShownImage
from mixformerv2_ros.tracking.boxes import MARGIN, Box
from mixformerv2_ros.tracking.frame import NS

MIN_SIDE = MARGIN
"""Minimum side of a box in pixels of the image; the tracker enlarges smaller boxes."""

Choose = Callable[[Box, ShownImage], str]
"""Takes a confirmed box and its image; returns a line for the user."""


class Selector:
    """Handles mouse and keys.

    Attributes:
        shown: The image that is shown; None before the first.
        box: The box being drawn, or drawn and not yet confirmed, in pixels of that image.
        paused: Whether the user has paused the images.
        message: Last message for the user, one line.
        done: Whether the window is to be closed.
    """

    def __init__(
        self, images: ImageSource, choose: Choose, *, once: bool, confirm: bool = True
    ) -> None:
        """Wait for an image.

        Args:
            images: Where images come from.
            choose: Takes the confirmed box.
            once: Close the window after the first box.
            confirm: Whether a box must be confirmed by a key.
        """
        self.shown: ShownImage | None = None
        self.box: Box | None = None
        self.paused = not images.live
        self.message = ""
        self.done = False
        self._images = images
        self._choose = choose
        self._once = once
        self._confirm = confirm
        self._corner: tuple[float, float] | None = None
        self._stepping = False

    @property
    def drawing(self) -> bool:
        """Whether the mouse button is pressed."""
        return self._corner is not None

    @property
    def frozen(self) -> bool:
        """Whether the image is frozen."""
        return self.paused or self.box is not None or self.drawing

    @property
    def help(self) -> str:
        """Available keys, one line."""
        if self.box is not None and not self.drawing:
            return "enter: confirm box    r: discard box    q: quit"
        more = "    right: next image" if self.paused and not self._images.live else ""
        pause = "resume" if self.paused else "pause"
        return f"draw a box around the target    space: {pause}{more}    q: quit"

    @property
    def status(self) -> str:
        """One line: the box, the last message, or the image."""
        if self.box is not None:
            return f"box {','.join(f'{round(value, 1):g}' for value in self.box)}"
        news = [text for text in (self.message, self._images.status()) if text]
        if news:
            return "    ".join(news)
        if self.shown is None:
            return "waiting for an image"
        stamp_s = self.shown.frame.stamp_ns / NS
        image = f"image at {stamp_s:.3f} s"
        if self.shown.index is not None:
            image = f"frame {self.shown.index}, {stamp_s:.3f} s"
        return f"paused at {image}" if self.paused else image

    def tick(self) -> bool:
        """Take the newest image unless frozen; returns whether there is a new one.

        Raises:
            MixFormerError: the image source has failed.
        """
        if self.frozen and self.shown is not None and not self._stepping:
            return False
        try:
            newest = self._images.take()
        except ImageError as error:
            self.message = f"cannot decode image: {error}"
            return False
        if newest is None:
            return False
        self.shown, self._stepping = newest, False
        return True

    def press(self, x: float, y: float) -> None:
        """Start a box at a pixel of the image."""
        if self.shown is not None:
            self._corner, self.box, self.message = (x, y), None, ""
            self._hold()

    def move(self, x: float, y: float) -> None:
        """Extend the box to a pixel of the image."""
        if self._corner is not None:
            left, top = min(x, self._corner[0]), min(y, self._corner[1])
            self.box = Box(left, top, abs(x - self._corner[0]), abs(y - self._corner[1]))

    def release(self, x: float, y: float) -> None:
        """Finish the box at a pixel of the image; one that is too small is discarded."""
        if self._corner is None:
            return
        self.move(x, y)
        self._corner = None
        if self.box is not None and min(self.box.w, self.box.h) < MIN_SIDE:
            size = f"{self.box.w:.0f}x{self.box.h:.0f}"
            self.box = None
            self.message = f"box must be at least {MIN_SIDE:.0f} px wide and high, got {size}"
        if not self._confirm:
            self._take()
        self._hold()

    def key(self, name: str) -> None:
        """Handle a key: `enter`, `space`, `right`, `escape` or a letter."""
        if name in ("q", "escape"):
            self.done = True
        elif name == "space":
            self.paused = not self.paused
            self.message = ""
        elif name == "r":
            self.box, self._corner, self.message = None, None, ""
        elif name == "right" and self.paused and self.box is None:
            self._stepping = True
            self._images.step()
        elif name == "enter":
            self._take()
        self._hold()

    def _take(self) -> None:
        """Pass on the confirmed box, if there is one."""
        if self.box is not None and self.shown is not None and not self.drawing:
            box = Box(*(round(value, 1) for value in self.box))
            self.message = self._choose(box, self.shown)
            self.box, self.done = None, self._once

    def _hold(self) -> None:
        self._images.hold(self.frozen)
