"""The tracker behind the TraX protocol, through which the VOT toolkit runs trackers.

Needs the package vot-trax (the extra `trax`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mixformerv2_ros import __version__
from mixformerv2_ros.errors import EngineError, MixFormerError, SourceError
from mixformerv2_ros.io.images import read_image
from mixformerv2_ros.lab.datasets.vot import polygon_box
from mixformerv2_ros.lab.evaluation.trackers import FRAME_RATE
from mixformerv2_ros.tracking.boxes import Box
from mixformerv2_ros.tracking.frame import Frame
from mixformerv2_ros.tracking.pixels import Pixels, decode_compressed
from mixformerv2_ros.tracking.session import Session


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


def serve(session: Session) -> None:
    """Speak TraX on standard input and output, or on the socket named by TRAX_SOCKET, to the end.

    Any number of targets is followed at once. Regions come as rectangles or polygons, of which the
    smallest upright box is taken; replies are rectangles, in the order in which the targets came,
    each with the property `confidence`. Images come as paths, as pixels (RGB or grey) or as JPEG
    or PNG data. Coordinates are TraX's: pixels from 0, top-left corner. The reply to an
    initialisation repeats the given box with confidence 1.

    Raises:
        EngineError: vot-trax is not installed, or the protocol breaks off.
        MixFormerError: an image or a region cannot be used; the client is told the same line.
    """
    require_trax()
    import trax

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
            _answer(server, session)
        except MixFormerError as error:
            server.quit(str(error))
            raise
        server.quit()
    except trax.TraxException as error:
        raise EngineError(f"TraX: {error}") from None


def _answer(server: Any, session: Session) -> None:
    import trax

    frames = 0
    started = 0
    while True:
        request = server.wait()
        if request.type == trax.TraxStatus.QUIT:
            return
        if request.type == trax.TraxStatus.INITIALIZE:
            session.stop()
            started = 0
        frame = Frame(_pixels(request.image), round(frames * 1e9 / FRAME_RATE))
        frames += 1
        tracks = session.update(frame)
        for region, _ in request.objects or ():
            started += 1
            tracks.append(session.start(frame, _box(region), str(started)))
        server.status(
            [
                (trax.Rectangle.create(*track.box), {"confidence": track.confidence})
                for track in tracks
            ]
        )


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
