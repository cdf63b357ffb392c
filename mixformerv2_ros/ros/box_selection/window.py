"""The window that boxes are drawn in, based on Tk.

OpenCV's headless wheel has no windows. Tk comes with Python or as one small system package
(`python3-tk` on Debian and Ubuntu), and requires no library besides X.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mixformerv2_ros.errors import WindowError
from mixformerv2_ros.ros.box_selection.selector import Selector
from mixformerv2_ros.ros.box_selection.viewport import Viewport
from mixformerv2_ros.text import printable

if TYPE_CHECKING:
    import tkinter as tk

    Event = tk.Event[Any]

_POLL_MS = 5
_SCREEN_SHARE = 0.85
_SMALLEST = 640, 400
_DARK, _LIGHT, _BRIGHT = "#1c1c1c", "#e8e8e8", "#ffd23f"
_DRAWING, _DRAWN = "#ffd23f", "#50d23c"
_KEYS = {"Return": "enter", "KP_Enter": "enter", "Escape": "escape", "space": "space"}


class SelectionWindow:
    """An image, a box on it, and two lines of text."""

    def __init__(self, title: str) -> None:
        """Open the window.

        Args:
            title: Its title.

        Raises:
            WindowError: Tk is missing, or there is no display.
        """
        try:
            import tkinter
        except ImportError as error:
            raise WindowError(
                "Tk is not installed: install python3-tk (Debian, Ubuntu), python3-tkinter "
                f"(Fedora) or a Python with Tk ({error})"
            ) from error
        try:
            self._root = tkinter.Tk(className="mixformerv2")
        except tkinter.TclError as error:
            raise WindowError(f"cannot open a window: {printable(error)}") from error
        self._root.title(printable(title))
        self._root.configure(background=_DARK)
        font = ("TkDefaultFont", 11)
        self._help = tkinter.Label(self._root, bg=_DARK, fg=_LIGHT, font=font, anchor="w", padx=8)
        self._status = tkinter.Label(
            self._root, bg=_DARK, fg=_BRIGHT, font=font, anchor="w", padx=8
        )
        self._canvas = tkinter.Canvas(
            self._root, bg="black", highlightthickness=0, cursor="crosshair",
            width=_SMALLEST[0], height=_SMALLEST[1],
        )  # fmt: skip
        # The lines first, so that a small window cuts the image and not them.
        self._status.pack(side="bottom", fill="x")
        self._help.pack(side="bottom", fill="x")
        self._canvas.pack(side="top", fill="both", expand=True)
        self._photo = tkinter.PhotoImage()
        self._picture = self._canvas.create_image(0, 0, anchor="nw", image=self._photo)
        self._rectangle = self._canvas.create_rectangle(0, 0, 0, 0, width=2, state="hidden")
        self._viewport: Viewport | None = None

    def run(self, selector: Selector, stopped: Callable[[], bool]) -> None:
        """Show images until the selector is done or the window is closed.

        Args:
            selector: What is shown, and what mouse and keys do.
            stopped: Returns whether to close the window.

        Raises:
            MixFormerError: the image source has failed.
        """
        failures: list[BaseException] = []

        def guarded(action: Callable[..., None]) -> Callable[..., None]:
            """End the window when a callback raises; Tk would print it and go on."""

            def call(*args: Any) -> None:
                try:
                    action(*args)
                except BaseException as error:
                    failures.append(error)
                    self._root.quit()

            return call

        def place(action: Callable[[float, float], None]) -> Callable[..., None]:
            def act(event: Event) -> None:
                if self._viewport is not None:
                    action(*self._viewport.to_image(event.x, event.y))
                    self._draw(selector)

            return guarded(act)

        def press_key(event: Event) -> None:
            selector.key(_KEYS.get(event.keysym, event.keysym.lower()))
            self._draw(selector)

        def resize(event: Event) -> None:
            self._show(selector)

        def poll() -> None:
            if selector.done or stopped():
                self._root.quit()
                return
            if selector.tick():
                self._show(selector)
            self._draw(selector)
            self._root.after(_POLL_MS, guarded(poll))

        self._canvas.bind("<ButtonPress-1>", place(selector.press))
        self._canvas.bind("<B1-Motion>", place(selector.move))
        self._canvas.bind("<ButtonRelease-1>", place(selector.release))
        self._canvas.bind("<Configure>", guarded(resize))
        self._root.bind("<Key>", guarded(press_key))
        self._root.protocol("WM_DELETE_WINDOW", self._root.quit)
        self._root.after(0, guarded(poll))
        self._root.mainloop()
        if failures:
            raise failures[0]

    def close(self) -> None:
        """Close the window."""
        self._root.destroy()

    def _show(self, selector: Selector) -> None:
        """Show another image, or the same one in another size."""
        if selector.shown is None:
            return
        pixels = selector.shown.frame.pixels
        if self._viewport is None or (self._viewport.width, self._viewport.height) != (
            pixels.width,
            pixels.height,
        ):
            self._grow(pixels.width, pixels.height)
        area = self._canvas.winfo_width(), self._canvas.winfo_height()
        self._viewport = Viewport.fit(pixels.width, pixels.height, *(max(1, side) for side in area))
        self._photo.configure(data=self._viewport.picture(pixels))
        self._canvas.coords(self._picture, self._viewport.left, self._viewport.top)

    def _grow(self, width: int, height: int) -> None:
        """Make the window fit an image of a new size, as far as the screen allows."""
        most = self._root.winfo_screenwidth(), self._root.winfo_screenheight()
        scale = min(
            1.0, *(_SCREEN_SHARE * m / s for m, s in zip(most, (width, height), strict=True))
        )
        self._canvas.configure(
            width=max(_SMALLEST[0], round(width * scale)),
            height=max(_SMALLEST[1], round(height * scale)),
        )
        self._root.update_idletasks()

    def _draw(self, selector: Selector) -> None:
        """Draw the box and the lines."""
        if selector.box is None or self._viewport is None:
            self._canvas.itemconfigure(self._rectangle, state="hidden")
        else:
            self._canvas.coords(self._rectangle, *self._viewport.to_window(selector.box))
            color = _DRAWING if selector.drawing else _DRAWN
            self._canvas.itemconfigure(self._rectangle, state="normal", outline=color)
        for label, text in ((self._help, selector.help), (self._status, selector.status)):
            if label.cget("text") != text:
                label.configure(text=text)
