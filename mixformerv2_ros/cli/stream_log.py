"""What a command prints about the events of its stream."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator

from mixformerv2_ros.errors import BAD_INPUT, SourceError
from mixformerv2_ros.text import printable
from mixformerv2_ros.tracking.events import Event, EventKind, Output, Step

MAX_LINES = 5
"""Resets, targets found again and the like that are printed; further ones are only counted."""

_NOTED = (
    *(EventKind.RESET, EventKind.NO_TIME, EventKind.ENCODING, EventKind.BITS),
    EventKind.REACQUIRED,
)


class StreamLog:
    """Counts skipped images and keeps the events that a user should know of."""

    def __init__(self, command: str) -> None:
        """Log for `mixformerv2 COMMAND`."""
        self._command = command
        self._counts: Counter[EventKind] = Counter()
        self._first: dict[EventKind, str] = {}
        self._lines: list[str] = []
        self._more = 0

    def steps(self, outputs: Iterable[Output]) -> Iterator[Step]:
        """The steps among the outputs of a stream; events are taken in."""
        for output in outputs:
            if isinstance(output, Step):
                yield output
            else:
                self.add(output)

    def add(self, event: Event) -> None:
        """Take in an event."""
        name = "" if event.image is None else event.image.name
        if event.kind in _NOTED:
            line = f"{printable(name)}: {event.text}" if name else event.text
            if len(self._lines) < MAX_LINES:
                self._lines.append(line)
            else:
                self._more += 1
        elif event.image is not None:
            self._counts[event.kind] += 1
            self._first.setdefault(event.kind, f"{printable(name)}: {event.text}")

    @property
    def skipped(self) -> str:
        """How many images could not be decoded, as one clause; empty if none."""
        broken = self._counts[EventKind.UNDECODABLE]
        return f"{_images(broken)} skipped, cannot be decoded" if broken else ""

    def no_image(self, text: str) -> SourceError:
        """The error of a source none of whose images can be used, with the reason of the first."""
        first = self._first.pop(EventKind.UNDECODABLE, "")
        skipped = self.skipped
        self._counts.pop(EventKind.UNDECODABLE, None)
        return SourceError(f"{text}; {skipped}; first: {first}" if first else text)

    def finish(self) -> int:
        """Print what there is to tell on stderr.

        Returns:
            The exit code: 2 if an image could not be decoded, else 0.
        """
        lines = list(self._lines)
        if self._more:
            lines.append(f"{self._more} further resets or changes")
        late = self._counts[EventKind.LATE] + self._counts[EventKind.STRAY]
        if late:
            first = self._first.get(EventKind.LATE) or self._first[EventKind.STRAY]
            lines.append(f"{_images(late)} dropped; first: {first}")
        if self.skipped:
            lines.append(f"{self.skipped}; first: {self._first[EventKind.UNDECODABLE]}")
        for line in lines:
            print(f"mixformerv2 {self._command}: {line}", file=sys.stderr)
        return BAD_INPUT if self.skipped else 0


def _images(count: int) -> str:
    return f"{count} image{'s' * (count > 1)}"
