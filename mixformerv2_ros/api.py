"""The tracker for Python programs: numpy images in, tracks out.

from mixformerv2_ros import Tracker

tracker = Tracker()
tracker.start(first_image, (x, y, w, h))
for image in images:
    (track,) = tracker.update(image)
    print(track.box, track.confidence, track.state.name)
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mixformerv2_ros.engines.loader import load_engine
from mixformerv2_ros.errors import BoxError, ImageError, ParameterError
from mixformerv2_ros.model.bundle import open_bundle
from mixformerv2_ros.ros.parameters import (
    check_keywords,
    engine_arguments,
    stream_rules,
    tracker_settings,
)
from mixformerv2_ros.tracking.boxes import Box
from mixformerv2_ros.tracking.events import (
    DEFAULT_TARGET,
    Event,
    InitRequest,
    Output,
    Step,
    StreamImage,
    raise_failure,
)
from mixformerv2_ros.tracking.frame import NS, Frame
from mixformerv2_ros.tracking.pixels import Pixels
from mixformerv2_ros.tracking.session import Track
from mixformerv2_ros.tracking.stream import Stream

Image = npt.NDArray[np.uint8]
Numbers = Sequence[float]


class Tracker:
    """Follows any number of targets through images that are handed over one by one.

    The same `Stream` as in the nodes and commands; the same images give the same boxes. Not
    thread-safe.

    Attributes:
        events: What happened in the last image besides its tracks: targets reset because the size
            of the images changed, an image dropped because of its time.
    """

    def __init__(
        self, model: str | Path | None = None, *, fps: float = 30.0, **parameters: Any
    ) -> None:
        """Load a model.

        Args:
            model: Folder of a model bundle; None for the one in the package. Crops are taken as
                specified in the bundle, unless a parameter overrides it.
            fps: Images per second, for durations, where `start` and `update` get no time.
            parameters: Tracker parameters with `_` for `.`, such as `engine="onnxruntime"`,
                `num_threads=1`, `template_update_interval=10` (docs/parameters.md).

        Raises:
            BundleError, EngineError: the model cannot be loaded.
            ParameterError: an unknown parameter, or a value out of range.
        """
        if not 0 < fps < 10_000:
            raise ParameterError(f"fps must be above 0 and below 10000, got {fps!r}")
        values = check_keywords(parameters)
        bundle = open_bundle(model)
        engine = load_engine(bundle, *engine_arguments(values))
        self.events: list[Event] = []
        self._stream = Stream(engine, tracker_settings(values, bundle), stream_rules(values))
        self._period_ns = round(NS / fps)
        self._time_ns = -self._period_ns

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the targets that are tracked."""
        return self._stream.targets

    def start(
        self,
        image: Image,
        box: Numbers | Mapping[str, Numbers] | None = None,
        *,
        xyxy: Numbers | Mapping[str, Numbers] | None = None,
        target_id: str = DEFAULT_TARGET,
        time: float | None = None,
    ) -> list[Track]:
        """Start a target, or several, on an image, in which the others are found as by `update`.

        Args:
            image: (H, W, 3) uint8 in OpenCV's order BGR, or (H, W) uint8 grey.
            box: x, y, w, h in pixels, top-left corner and size; or boxes by target id.
            xyxy: In place of `box`: x1, y1, x2, y2, two corners; or such by target id.
            target_id: Name of a single target; one of that name is replaced.
            time: Time of the image in seconds; by default one period after the image before.

        Returns:
            One track per target, those just started with confidence 1.

        Raises:
            BoxError: a box is malformed, or cannot be tracked in this image.
            ImageError: the image has another form, or is too small.
            ParameterError: a target's name or the time is none.
            EngineError: the engine failed.
        """
        boxes = _boxes(box, xyxy, target_id)
        frame = self._frame(image, time)
        outputs: list[Output] = []
        for name, one in boxes.items():
            outputs += self._stream.add_box(InitRequest(one, name))
        return self._process(frame, outputs)

    def update(self, image: Image, time: float | None = None) -> list[Track]:
        """Find the targets in the next image.

        Args:
            image: As for `start`.
            time: As for `start`.

        Returns:
            One track per target, in the order in which they were started. Empty while nothing is
            tracked, and for an image that was dropped (see `events`).

        Raises:
            ImageError: the image has another form.
            ParameterError: the time is none.
            EngineError: the engine failed.
        """
        return self._process(self._frame(image, time), [])

    def stop(self, target_id: str | None = None) -> None:
        """Stop one target, or all; an unknown name is no error."""
        self._stream.stop(target_id)

    def _frame(self, image: Image, time: float | None) -> Frame:
        pixels = _pixels(image)
        self._time_ns = self._time_ns + self._period_ns if time is None else _nanoseconds(time)
        return Frame(pixels, self._time_ns)

    def _process(self, frame: Frame, outputs: list[Output]) -> list[Track]:
        image = StreamImage(frame.stamp_ns, frame.stamp_ns, 0, decode=lambda: frame)
        outputs += self._stream.process(image)
        self.events = [output for output in outputs if isinstance(output, Event)]
        for event in self.events:
            raise_failure(event)
        # An image that was held belongs to the past by now; the last step is this image's.
        steps = [output for output in outputs if isinstance(output, Step)]
        return list(steps[-1].tracks) if steps else []


def _nanoseconds(time: Any) -> int:
    if not isinstance(time, numbers.Real) or not math.isfinite(time):
        raise ParameterError(f"time must be a finite number of seconds, got {time!r}")
    return round(float(time) * NS)


def _pixels(image: Any) -> Pixels:
    shape, kind = getattr(image, "shape", None), getattr(image, "dtype", None)
    if not isinstance(image, np.ndarray) or kind != np.uint8:
        came = type(image).__name__ if shape is None else f"{kind} of shape {shape}"
        raise ImageError(f"image must be a uint8 array (H, W, 3) BGR or (H, W) grey, got {came}")
    if image.ndim == 2:
        return Pixels.from_array(image, "mono8")
    if image.ndim == 3 and image.shape[2] == 3:
        return Pixels.from_array(image, "bgr8")
    raise ImageError(
        f"image must be a uint8 array (H, W, 3) BGR or (H, W) grey, got shape {image.shape}"
    )


def _boxes(box: Any, xyxy: Any, target_id: str) -> dict[str, Box]:
    if (box is None) == (xyxy is None):
        raise BoxError("either box (x, y, w, h) or xyxy (x1, y1, x2, y2) must be given")
    given, name, make = (
        (box, "x, y, w, h", Box) if xyxy is None else (xyxy, "x1, y1, x2, y2", Box.from_xyxy)
    )
    targets = given if isinstance(given, Mapping) else {target_id: given}
    found = {}
    for target, sides in targets.items():
        if not isinstance(target, str) or not target:
            raise ParameterError(f"target_id must be a non-empty str, got {target!r}")
        try:
            values = [float(side) for side in sides]
        except (TypeError, ValueError):
            values = []
        if len(values) != 4:
            raise BoxError(f"box must be four numbers {name}, got {sides!r}")
        found[target] = make(*values)
    return found
