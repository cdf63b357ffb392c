"""The tracker behind the TraX protocol, through which the VOT toolkit runs trackers.

Needs the package vot-trax (the extra `trax`).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mixformerv2_ros import __version__
from mixformerv2_ros.cli.stream_log import StreamLog
from mixformerv2_ros.errors import EngineError, ImageError, MixFormerError, SourceError
from mixformerv2_ros.io.images import read_image
from mixformerv2_ros.lab.datasets.vot import polygon_box
from mixformerv2_ros.lab.evaluation.trackers import FRAME_RATE
from mixformerv2_ros.text import MAX_ERROR, printable
from mixformerv2_ros.tracking.boxes import Box
from mixformerv2_ros.tracking.compressed import decode_compressed
from mixformerv2_ros.tracking.events import InitRequest, Output, Step, StreamImage, raise_failure
from mixformerv2_ros.tracking.frame import Frame
from mixformerv2_ros.tracking.pixels import Pixels
from mixformerv2_ros.tracking.stream import Stream

SOCKET = "TRAX_SOCKET"
"""Variable of the environment with the port of a client that does not use standard input."""
END = b'\n@@TRAX:quit\n"\n@@TRAX:quit\n'
"""Ends a session wherever a client stopped, also within a quotation."""


def require_trax() -> None:
    """Check that the protocol's library is there.

    Raises:
        EngineError: it is not.
    """
    try:
        import trax  # noqa: F401
    except (ImportError, OSError) as error:
        raise EngineError(
            f"TraX needs the package vot-trax (pip install vot-trax), which does not load: {error}"
        ) from None


def serve(stream: Stream, log: StreamLog) -> None:
    """Speak TraX on standard input and output, or on the socket named by TRAX_SOCKET, to the end.

    Any number of targets is followed at once. Regions come as rectangles or polygons, of which the
    smallest upright box is taken; replies are rectangles, in the order in which the targets came,
    each with the property `confidence`. Images come as paths, as pixels (RGB or grey) or as JPEG
    or PNG data. Coordinates are TraX's: pixels from 0, top-left corner. The reply to an
    initialisation repeats the given box with confidence 1. An image that cannot be decoded is
    answered with the boxes before it and confidence 0.

    Args:
        stream: Gives engine, settings and rules; every initialisation restarts it.
        log: Takes the events.

    Raises:
        EngineError: vot-trax is not installed, or the protocol breaks off.
        MixFormerError: an image or a region cannot be used; the client is told the same line.
    """
    require_trax()
    import trax

    with _ended_input():
        _serve(trax, stream, log)


@contextmanager
def _ended_input() -> Iterator[None]:
    """Give the library standard input with an end that it understands.

    Where the client ends within a line, the library would wait for the rest for ever, busily.
    """
    if SOCKET in os.environ:
        yield
        return
    source = os.dup(0)
    for_library, ended = os.pipe()
    os.dup2(for_library, 0)
    os.close(for_library)
    # A daemon: it may wait for a client that says nothing any more.
    threading.Thread(target=_relay, args=(source, ended), name="trax", daemon=True).start()
    yield


def _relay(source: int, ended: int) -> None:
    with open(source, "rb", buffering=0) as said, open(ended, "wb", buffering=0) as out:
        try:
            while data := said.read(1 << 16):
                # The protocol is text; at a zero byte the library ends the process.
                out.write(data.replace(b"\0", b""))
            out.write(END)
        except BrokenPipeError:  # the session has ended
            return


def _serve(trax: Any, stream: Stream, log: StreamLog) -> None:
    try:
        server = trax.Server(
            [trax.Region.RECTANGLE, trax.Region.POLYGON],
            [trax.Image.PATH, trax.Image.MEMORY, trax.Image.BUFFER],
            tracker_name="MixFormerV2",
            tracker_description=f"mixformerv2_ros {__version__}",
            tracker_family="transformer",
            multiobject=True,
        )
        try:
            _answer(server, stream, log)
        except MixFormerError as error:
            server.quit(printable(error, MAX_ERROR))
            raise
        server.quit()
    except trax.TraxException as error:
        raise EngineError(f"TraX: {error}") from None


def _answer(server: Any, stream: Stream, log: StreamLog) -> None:
    import trax

    frames = started = 0
    reported: dict[str, tuple[Box, float]] = {}
    while True:
        request = server.wait()
        if request.type == trax.TraxStatus.QUIT:
            return
        if request.type == trax.TraxStatus.INITIALIZE:
            stream, started, reported = stream.restarted(), 0, {}
        stamp = round(frames * 1e9 / FRAME_RATE)
        image = StreamImage(stamp, stamp, 0, decode=_decoder(request.image, stamp))
        image.name = f"image {frames}"
        frames += 1
        outputs: list[Output] = []
        # What is not seen in this image is where it was, with confidence 0.
        reported = {name: (box, 0.0) for name, (box, _) in reported.items()}
        for region, _ in request.objects or ():
            started += 1
            box = _box(region)
            reported[str(started)] = (box, 0.0)
            outputs += stream.add_box(InitRequest(box, str(started)))
        for output in (*outputs, *stream.process(image)):
            if isinstance(output, Step):
                found = {track.target_id: (track.box, track.confidence) for track in output.tracks}
                reported.update(found)
                continue
            if request.objects and isinstance(output.error, ImageError):
                raise output.error
            raise_failure(output)
            log.add(output)
        server.status(
            [(trax.Rectangle.create(*box), {"confidence": c}) for box, c in reported.values()]
        )


def _decoder(images: dict[str, Any], stamp_ns: int) -> Callable[[], Frame]:
    def decode() -> Frame:
        try:
            return Frame(_pixels(images), stamp_ns)
        except SourceError as error:
            raise ImageError(printable(error, MAX_ERROR)) from error

    return decode


def _pixels(images: dict[str, Any]) -> Pixels:
    image: Any = images.get("color")
    kind = image.type() if image else "none"
    if kind == "path":
        return read_image(Path(image.path()))
    if kind == "buffer":
        return decode_compressed("", image.buffer())
    if kind == "memory":
        array = image.array()
        if array.shape[2] == 3:
            return Pixels.from_array(array, "rgb8")
        return Pixels.from_array(array[..., 0], "mono8" if array.itemsize == 1 else "mono16")
    raise SourceError(f"TraX: expected a color image as path, memory or buffer, got {kind}")


def _box(region: Any) -> Box:
    if region.type == "rectangle":
        return Box(*region.bounds())
    if region.type == "polygon":
        return Box(*polygon_box(value for point in region for value in point))
    raise SourceError(f"TraX: expected a rectangle or a polygon, got {region.type}")
