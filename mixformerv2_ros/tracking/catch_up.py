"""A target on its way from a past image to the newest."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from mixformerv2_ros.tracking.events import InitRequest, StreamImage
from mixformerv2_ros.tracking.image_buffer import ImageBuffer, subsample
from mixformerv2_ros.tracking.session import Session


@dataclass(eq=False)
class PendingInit:
    """An init box in a stream.

    Attributes:
        request: The init box.
        newest: Number of the newest image when it arrived.
        since_ns: Time of the stream's arrivals when the first image after it had come, or when it
            was looked at first; None before that.
    """

    request: InitRequest
    newest: int
    since_ns: int | None = None


class CatchUp:
    """A target on its way from a past image to the newest.

    In every round the images that have come meanwhile are searched, fewer in each, so that a model
    slower than the camera comes to an end as well.

    Attributes:
        pending: The init box that it started from.
        session: Tracks the target alone.
        start: The image of the box.
        size: Width and height of that image in pixels.
        time_ns: Stream time of the image that was searched last.
        todo: Images to search, which are kept even when the buffer lets go of them.
    """

    def __init__(
        self,
        pending: PendingInit,
        session: Session,
        start: StreamImage,
        size: tuple[int, int],
        time_ns: int,
        limit: int,
    ) -> None:
        self.pending = pending
        self.session = session
        self.start = start
        self.size = size
        self.time_ns = time_ns
        self._limit = limit
        self.todo: deque[StreamImage] = deque()
        self._done = start.number

    def has_arrived(self, buffer: ImageBuffer[StreamImage], before: int) -> bool:
        """Whether no image numbered below `before` is left to search; else `todo` has the next.

        To be called when it begins, so that it keeps the images that are buffered then.
        """
        if not self.todo and self._limit and (backlog := buffer.between(self._done, before)):
            self.todo.extend(subsample(backlog, self._limit))
            self._done = backlog[-1].number
            self._limit //= 2
        return not self.todo
