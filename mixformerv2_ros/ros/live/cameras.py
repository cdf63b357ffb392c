"""Trackers of several cameras in one process, a node each.

Every camera has a node of its own, in a namespace of its own, with its own topics, parameters,
diagnostics and threads; what they share is the engine (`model.SharedModels`). A node that fails is
made anew after `RESTART_S`, as launch does with a process; the others do not notice.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mixformerv2_ros.errors import ParameterError
from mixformerv2_ros.ros.messages import Level
from mixformerv2_ros.text import MAX_ERROR, printable

RESTART_S = 2.0
"""Time until a camera's node that has failed is made anew."""

POLL_S = 0.1
"""Time between two looks at whether to end."""


@dataclass(frozen=True)
class Camera:
    """One camera.

    Attributes:
        namespace: Namespace of its node, such as `front` or `/drone/front`.
        image: Topic of its images; empty for `image` in that namespace.
    """

    namespace: str
    image: str = ""


def parse_cameras(texts: Sequence[str]) -> list[Camera]:
    """Read `front` or `front=/front_camera/image_raw`.

    Raises:
        ParameterError: a text is none of them, or two cameras have one namespace.
    """
    cameras = []
    for text in texts:
        namespace, separator, image = text.partition("=")
        if not namespace.strip("/") or bool(separator) != bool(image):
            raise ParameterError(
                f"camera must be NAMESPACE or NAMESPACE=TOPIC, got {printable(text)!r}"
            )
        cameras.append(Camera(namespace.strip("/"), image))
    names = [camera.namespace for camera in cameras]
    for name in names:
        if names.count(name) > 1:
            raise ParameterError(f"two cameras have the namespace {printable(name)!r}")
    return cameras


class CameraThread:
    """Runs one camera's node, and makes it anew when it has failed.

    Attributes:
        failure: What its first start raised; None if it has not failed.
    """

    def __init__(
        self,
        name: str,
        run: Callable[[CameraThread], None],
        log: Callable[[Level, str], None],
        stopped: Callable[[], bool],
    ) -> None:
        """Create the thread without starting it.

        Args:
            name: Name of the thread.
            run: Makes the node, reports `set_ready`, and spins the node until `is_closing`; raises
                what it has failed with.
            log: Writes a line to the node's log.
            stopped: Whether the process is to end.
        """
        self.failure: BaseException | None = None
        self._run = run
        self._log = log
        self._stopped = stopped
        self._ready = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._loop, name=name)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """End the node and the thread."""
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join()

    def is_closing(self) -> bool:
        """Whether the node is to end."""
        return self._closing.is_set() or self._stopped()

    @property
    def is_ready(self) -> bool:
        """Whether the node has started once."""
        return self._ready

    def set_ready(self) -> None:
        """The node runs: from now on it is made anew when it fails."""
        self._ready = True

    def _loop(self) -> None:
        while not self.is_closing():
            try:
                self._run(self)
            except BaseException as error:  # the thread's end would go unnoticed
                if not self._ready:
                    self.failure = error
                    return
                text = f"{type(error).__name__}: {printable(error, MAX_ERROR)}"
                self._log(Level.ERROR, f"node failed: {text}; made anew in {RESTART_S:g} s")
                self._pause()

    def _pause(self) -> None:
        """Wait for `RESTART_S`, or for the end."""
        for _ in range(round(RESTART_S / POLL_S)):
            if self.is_closing():
                return
            time.sleep(POLL_S)


def run_threads(threads: Sequence[CameraThread], stopped: Callable[[], bool]) -> None:
    """Run cameras until `stopped`.

    Raises:
        BaseException: what the first start of one of them raised; the others have ended then.
    """
    try:
        for thread in threads:
            thread.start()
            # One after the other: libraries that make types and contexts do not expect threads.
            while not (stopped() or thread.is_ready or thread.failure):
                time.sleep(POLL_S / 10)
            if thread.failure is not None:
                break
        while not stopped() and all(thread.failure is None for thread in threads):
            time.sleep(POLL_S)
    finally:
        for thread in threads:
            thread.close()
    for thread in threads:
        if thread.failure is not None:
            raise thread.failure
