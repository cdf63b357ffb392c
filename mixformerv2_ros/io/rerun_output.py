"""Rerun in a process of its own.

The SDK blocks its caller while a viewer does not read, and a viewer may be suspended or out of
reach. A tracker must neither wait for it nor hang at its end.
"""

from __future__ import annotations

import multiprocessing
import operator
import queue
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import cv2
import numpy as np
import numpy.typing as npt

from mixformerv2_ros.errors import SourceError
from mixformerv2_ros.tracking.crop import CropWindow, crop_and_resize
from mixformerv2_ros.tracking.events import Step
from mixformerv2_ros.tracking.pixels import Pixels
from mixformerv2_ros.tracking.session import Session, Track
from mixformerv2_ros.tracking.tracker import search_shape

Image = npt.NDArray[np.uint8]

MAX_QUEUED = 8
"""Images that may wait for Rerun."""

STALL_S = 20.0
"""Time without progress after which Rerun is given up."""

LIVE_STALL_S = 5.0
"""The same at the end of a live node."""

CONNECT = "connect"
LOCAL_VIEWER = "rerun+http://127.0.0.1:9876/proxy"
VIEWER_SCHEMES = ("rerun+http://", "rerun+https://")

_JPEG_QUALITY = (cv2.IMWRITE_JPEG_QUALITY, 90)
_POLL_S = 1.0


@dataclass(frozen=True)
class TargetView:
    """What the network was shown of a target.

    Attributes:
        window: The search region in the image.
        search_region: JPEG of its crop.
        templates: JPEG of the templates side by side, the initial one first; None if they are
            those of the record before.
    """

    window: CropWindow
    search_region: bytes
    templates: bytes | None


@dataclass(frozen=True)
class RerunRecord:
    """One image with what was found in it.

    Attributes:
        index: Number of the image.
        time_ns: Time of the image.
        image: The image as JPEG.
        tracks: One track per target.
        views: What the network was shown, by target; a target that has just started has none.
    """

    index: int
    time_ns: int
    image: bytes
    tracks: tuple[Track, ...]
    views: dict[str, TargetView]


class RerunOutput:
    """Hands steps to Rerun's process; for one thread. A live tracker never waits for it.

    Attributes:
        dropped: Images that were not handed over because Rerun was busy.
    """

    def __init__(
        self,
        destination: Path | str,
        name: str,
        *,
        is_clock: bool,
        live: bool,
        warn: Callable[[str], None],
    ) -> None:
        """Start the process, which takes a second or two; nothing waits for it.

        Args:
            destination: File, or address of a viewer.
            name: Name of the recording.
            is_clock: Whether the times of images are those of a clock.
            live: Whether images are dropped while Rerun is busy; else `write` waits.
            warn: Takes a line about a viewer or file that could not be written to its end.
        """
        self.dropped = 0
        self._live = live
        self._stall_s = LIVE_STALL_S if live else STALL_S
        self._warn = warn
        self._templates: dict[str, list[Image]] = {}
        context = multiprocessing.get_context("spawn")
        self._queue: Any = context.Queue(MAX_QUEUED)
        self._failure, child = context.Pipe(duplex=False)
        self._process = context.Process(
            target=_serve,
            args=(self._queue, child, destination, name, is_clock),
            name="rerun",
            daemon=True,
        )
        self._process.start()
        child.close()
        self._ended = False

    def write(self, index: int, step: Step, session: Session) -> None:
        """Hand over one image with its tracks and what the network was shown.

        Args:
            index: Number of the image.
            step: The image and its tracks.
            session: What found them, still in the state after this image; a target that has moved
                on since is handed over without its crops.
        """
        if self._ended:
            return
        views, templates = {}, {}
        for track in step.tracks:
            if (view := self._view(step, track, session)) is not None:
                views[track.target_id], templates[track.target_id] = view
        time_ns = step.frame.stamp_ns if step.image.time_ns is None else step.image.time_ns
        image: Any = _Jpeg(step.frame.pixels.rgb)
        if self._put(RerunRecord(index, time_ns, image, step.tracks, views)):
            self._templates = templates

    def close(self) -> None:
        """Let Rerun finish, within limits, and end its process."""
        if not self._ended and self._put(None, wait=True):
            self._process.join(self._stall_s)
            if self._process.is_alive():
                self._give_up("Rerun did not finish")
            elif self._process.exitcode != 0:
                self._give_up("Rerun failed")
        self._ended = True
        self._process.kill()
        self._process.join()
        self._queue.cancel_join_thread()
        self._queue.close()
        if self.dropped:
            self._warn(f"Rerun: {self.dropped} images dropped, it was busy with those before")
            self.dropped = 0

    def _put(self, record: RerunRecord | None, wait: bool = False) -> bool:
        end = time.monotonic() + self._stall_s
        while self._process.is_alive():
            try:
                if self._live and not wait:
                    self._queue.put_nowait(record)
                else:
                    self._queue.put(record, timeout=_POLL_S)
                return True
            except queue.Full:
                if self._live and not wait:
                    self.dropped += 1
                    return False
                if time.monotonic() > end:
                    self._give_up(f"Rerun has taken no image for {self._stall_s:.0f} s")
                    return False
        self._give_up("Rerun ended")
        return False

    def _give_up(self, text: str) -> None:
        self._ended = True
        reason = ""
        try:
            if self._failure.poll():
                reason = f": {self._failure.recv()}"
        except EOFError:
            pass  # it ended without a reason
        self._warn(f"{text}{reason}; tracking goes on without it")

    def _view(
        self, step: Step, track: Track, session: Session
    ) -> tuple[TargetView, list[Image]] | None:
        if track.target_id not in session.targets:
            return None
        tracker = session.tracker(track.target_id)
        if tracker.box != track.box or tracker.observation is None:
            return None
        memory = tracker.templates
        crops = [memory.initial, *memory.online]
        before = self._templates.get(track.target_id, [])
        same = len(before) == len(crops) and all(map(operator.is_, before, crops))
        pixels, window, size = (
            step.frame.pixels,
            tracker.search_window,
            search_shape(session.engine),
        )
        view = TargetView(
            window,
            _Jpeg(lambda: _search_region(pixels, window, size)),  # type: ignore[arg-type]
            None if same else _Jpeg(lambda: np.hstack(crops)),  # type: ignore[arg-type]
        )
        return view, crops


class _Jpeg:
    """An RGB image that arrives as JPEG; it is encoded by the queue's thread, which pickles it."""

    def __init__(self, rgb: Callable[[], Image]) -> None:
        self._rgb = rgb

    def __reduce__(self) -> tuple[Any, ...]:
        bgr = cv2.cvtColor(self._rgb(), cv2.COLOR_RGB2BGR)
        return bytes, (cv2.imencode(".jpg", bgr, _JPEG_QUALITY)[1].tobytes(),)


def _search_region(pixels: Pixels, window: CropWindow, size: tuple[int, int, int]) -> Image:
    crop = np.empty(size, np.uint8)
    crop_and_resize(pixels, window, crop)
    return crop


def _serve(
    records: Any, failure: Connection, destination: Path | str, name: str, is_clock: bool
) -> None:
    """What Rerun's process does: log records until None comes or the tracker is gone."""
    # A terminal and a service manager signal all processes; the tracker ends this one.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    from mixformerv2_ros.io.rerun_log import RerunLog

    parent = multiprocessing.parent_process()
    try:
        log = RerunLog(destination, name, is_clock)
        while True:
            try:
                record = records.get(timeout=_POLL_S)
            except queue.Empty:
                if parent is None or parent.is_alive():
                    continue
                break
            if record is None:
                break
            log.write(record)
        log.close()
    except Exception as error:
        failure.send(f"{type(error).__name__}: {error}")
        raise SystemExit(1) from None


def viewer_address(text: str) -> str:
    """The address of a viewer that accepts connections.

    Args:
        text: `connect` for a viewer on this machine, or `rerun+http://HOST:PORT/proxy`.

    Raises:
        SourceError: the address is malformed, or nothing accepts connections there.
    """
    address = LOCAL_VIEWER if text == CONNECT else text
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if host is None or port is None:
        raise SourceError(f"address of a Rerun viewer must be like {LOCAL_VIEWER}, got {text!r}")
    try:
        socket.create_connection((host, port), timeout=5.0).close()
    except OSError as error:
        raise SourceError(
            f"no Rerun viewer on {host}:{port} ({error.strerror or error}); start one with: rerun"
        ) from None
    return address
