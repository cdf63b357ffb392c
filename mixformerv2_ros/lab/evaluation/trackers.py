"""The trackers that an evaluation compares, behind one small protocol.

Ours (`mixformer`) and OpenCV's: `CSRT`, `KCF` (opencv-contrib), `MIL`, `Nano`, `ViT`. OpenCV's are
named in `TrackerSpec.kind`; those that need weights take a path to them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from mixformerv2_ros.engines.loader import load_engine
from mixformerv2_ros.errors import EngineError, ParameterError
from mixformerv2_ros.model.bundle import Bundle, open_bundle
from mixformerv2_ros.model.engine import Engine, Memory, Prediction, Stop
from mixformerv2_ros.model.engine_wrapper import EngineWrapper
from mixformerv2_ros.ros.parameters import tracker_settings
from mixformerv2_ros.tracking.boxes import Box
from mixformerv2_ros.tracking.events import InitRequest, Output, Step, StreamImage, raise_failure
from mixformerv2_ros.tracking.frame import Frame
from mixformerv2_ros.tracking.pixels import Pixels
from mixformerv2_ros.tracking.session import State, Track
from mixformerv2_ros.tracking.settings import TrackerSettings
from mixformerv2_ros.tracking.stream import Stream, StreamRules

Image = npt.NDArray[np.uint8]
"""(H, W, 3) uint8 BGR, as OpenCV reads it."""

FRAME_RATE = 30.0
"""Frames per second assumed for sequences, whose files carry no time; only spans that are given
in seconds (the LOST decision's duration) depend on it."""


class Estimate(NamedTuple):
    """Output of a tracker for one frame.

    Attributes:
        box: Where the target is, in pixels of the image.
        confidence: That it is there, larger is surer; NaN from trackers that give none.
        lost: Whether the tracker reports the target as lost.
        depth: Blocks of the network run for it; 0 from trackers without such blocks.
    """

    box: Box
    confidence: float
    lost: bool
    depth: int = 0


class OnePassTracker(Protocol):
    """Follows one target through one sequence."""

    def start(self, image: Image, box: Box) -> None:
        """Start on the target in the first frame."""

    def update(self, image: Image) -> Estimate:
        """Find the target in the next frame."""


TrackerFactory = Callable[[], OnePassTracker]
"""Gives a fresh tracker for each sequence."""


class MixFormerTracker:
    """Our tracker, through the same `Stream` that the nodes and the commands use."""

    def __init__(self, engine: Engine, settings: TrackerSettings) -> None:
        """Use `engine`, which may be shared with other trackers that run one after the other."""
        self._stream = Stream(engine, settings, StreamRules(buffer_images=2))
        self._count = 0
        self._box = Box(0.0, 0.0, 0.0, 0.0)

    def start(self, image: Image, box: Box) -> None:
        """Start on the target in the first frame.

        Raises:
            BoxError, EngineError: the box cannot be tracked, or the engine failed.
        """
        self._box = box
        self._process(image, self._stream.add_box(InitRequest(box)))

    def update(self, image: Image) -> Estimate:
        """Find the target in the next frame.

        Where the stream reports no track (it dropped the image, or reset the target because the
        size of the images changed), the last box is repeated and the target counts as lost.
        """
        tracks = self._process(image, [])
        if not tracks:
            return Estimate(self._box, 0.0, True)
        self._box = tracks[0].box
        (track,) = tracks
        return Estimate(track.box, track.confidence, track.state is State.LOST, track.depth)

    def _process(self, image: Image, outputs: list[Output]) -> tuple[Track, ...]:
        stamp = round(self._count * 1e9 / FRAME_RATE)
        self._count += 1
        frame = Frame(Pixels.from_array(image, "bgr8"), stamp)
        outputs += self._stream.process(
            StreamImage(stamp, stamp, image.nbytes, decode=lambda: frame)
        )
        tracks: tuple[Track, ...] = ()
        for output in outputs:
            if isinstance(output, Step):
                tracks = output.tracks
            else:
                raise_failure(output)
        return tracks


class OpenCVTracker:
    """One of OpenCV's trackers.

    They take whole pixels: the initial box is clipped to the image and rounded. Where `update`
    reports failure, or raises, the last box is kept and the target counts as lost.

    All of them repeat themselves exactly but MIL: its random features come from a generator inside
    OpenCV that cannot be seeded, so its boxes depend on how many MILs the process made before.
    """

    def __init__(self, tracker: Any, least_side: int = 1) -> None:
        """Wrap `tracker`, an object of OpenCV's `Tracker` interface.

        Sides of the initial box shorter than `least_side` pixels are widened to it.
        """
        self._tracker = tracker
        self._least_side = least_side
        self._box = Box(0.0, 0.0, 0.0, 0.0)

    def start(self, image: Image, box: Box) -> None:
        """Start on the target in the first frame.

        Raises:
            EngineError: OpenCV refuses the box.
        """
        self._box = box
        whole = whole_pixel_box(box, image.shape[1], image.shape[0], self._least_side)
        try:
            self._tracker.init(image, whole)
        except cv2.error as error:
            raise EngineError(
                f"OpenCV's tracker cannot start from box {whole}: {_one_line(error)}"
            ) from None

    def update(self, image: Image) -> Estimate:
        """Find the target in the next frame."""
        try:
            found, box = self._tracker.update(image)
        except cv2.error:
            # Several of them assert once the target has left the image: that is a lost target.
            return Estimate(self._box, math.nan, True)
        if found:
            self._box = Box(*map(float, box))
        score = getattr(self._tracker, "getTrackingScore", None)
        return Estimate(self._box, float(score()) if score else math.nan, not found)


def whole_pixel_box(box: Box, width: int, height: int, least: int = 1) -> tuple[int, int, int, int]:
    """Clip `box` to an image, round it to whole pixels, and widen sides shorter than `least`."""
    x, w = _whole_pixel_side(box.x, box.w, width, least)
    y, h = _whole_pixel_side(box.y, box.h, height, least)
    return x, y, w, h


def _whole_pixel_side(start: float, length: float, limit: int, least: int) -> tuple[int, int]:
    low, high = max(0.0, start), min(float(limit), start + length)
    size = max(least, round(high - low))
    # Nothing is added on the left but half of what a short side lacks.
    first = round(low - max(0.0, least - (high - low)) / 2)
    first = max(0, min(first, limit - least))
    return first, min(size, limit - first)


class CutEngine(EngineWrapper):
    """An engine whose every search is answered after the same number of blocks.

    What a static model that ends there would answer, at its cost and that of the exits before.
    """

    def __init__(self, engine: Engine, depth: int) -> None:
        """Let `engine` answer after `depth` blocks, one of `ModelSpec.depths`."""
        super().__init__(engine)
        self._cut = depth

    def search(
        self,
        crops: npt.NDArray[np.uint8],
        memories: Sequence[Memory],
        stop: Stop | None = None,
    ) -> Prediction:
        """See `Engine.search`; `stop` is not asked."""
        # At full depth, no exit is in the way.
        return self.engine.search(
            crops, memories, stop_at(self._cut) if self._cut < self.spec.depth else None
        )


def stop_at(end: int) -> Stop:
    """Goes through the exits and answers after `end` blocks."""
    return lambda depth, quality, rows: np.full(len(rows), depth == end)


@dataclass(frozen=True)
class ExitChoice:
    """Which exits answer, whatever the settings say: by a threshold, or always the same one.

    Attributes:
        threshold: See `TrackerSettings.exit_threshold`; None of a cut.
        cut: Number of blocks after which every search is answered, see `CutEngine`; 0 of a
            threshold.
    """

    threshold: float | None = None
    cut: int = 0

    def facts(self) -> dict[str, float]:
        """For `config.json`."""
        return {"cut": self.cut} if self.threshold is None else {"threshold": self.threshold}


@dataclass(frozen=True)
class TrackerSpec:
    """Which tracker to build; small and picklable, so that worker processes build their own.

    Attributes:
        kind: `mixformer` or a key of `OPENCV_TRACKERS`.
        path: Bundle or weights; None for the default bundle or for trackers without weights.
        engine: Engine for `mixformer`, as `load_engine` names them.
        device: Device of that engine, `cpu`, `cuda` or `cuda:N`.
        num_threads: Threads of one tracker; 0 leaves it to the engine.
        values: Parameters of `mixformer` that differ from `parameters.PARAMETERS`' defaults.
        exits: Which exits of the model answer; None: as `values` say.
    """

    kind: str
    path: Path | None = None
    engine: str = "auto"
    device: str = "cpu"
    num_threads: int = 1
    values: tuple[tuple[str, Any], ...] = ()
    exits: ExitChoice | None = None

    @property
    def label(self) -> str:
        """Name in tables and of the result folder: the kind, the weights and exits where given."""
        label = self.kind
        if self.path is not None:
            path = self.path.resolve()
            label += f"-{path.stem if path.is_file() else path.name}"
        for name, value in self.exits.facts().items() if self.exits else ():
            label += f"-{name}-{value:g}"
        return label


def parse_tracker(
    text: str, engine: str = "auto", device: str = "cpu", num_threads: int = 1
) -> TrackerSpec:
    """Read `KIND` or `KIND=PATH`, such as `KCF` or `Nano=weights/nanotrackv2`.

    The other arguments are those of `TrackerSpec`.

    Raises:
        ParameterError: the kind is unknown.
    """
    name, _, path = text.strip().partition("=")
    kinds = {kind.lower(): kind for kind in ("mixformer", *OPENCV_TRACKERS)}
    if name.lower() not in kinds:
        raise ParameterError(f"tracker must be one of {', '.join(kinds.values())}, got {name!r}")
    weights = Path(path) if path else None
    return TrackerSpec(kinds[name.lower()], weights, engine, device, num_threads)


@functools.lru_cache(maxsize=1)
def tracker_factory(spec: TrackerSpec) -> TrackerFactory:
    """Load what `spec` names, once, and return the function that makes trackers from it.

    Raises:
        BundleError: the bundle cannot be opened.
        EngineError: the engine, this OpenCV build, or the weights cannot do it.
    """
    if spec.kind == "mixformer":
        engine = _engine(spec.path, spec.engine, spec.device, spec.num_threads)
        settings = spec_settings(spec, open_bundle(spec.path))
        if spec.exits is not None:
            _load_segments(engine)
            if spec.exits.cut:
                engine = CutEngine(engine, spec.exits.cut)
        return lambda: MixFormerTracker(engine, settings)
    cv2.setNumThreads(spec.num_threads or -1)

    def make() -> OpenCVTracker:
        return OpenCVTracker(OPENCV_TRACKERS[spec.kind](spec.path), LEAST_SIDE.get(spec.kind, 1))

    make()  # what is missing shows now, not in the first sequence
    return make


def spec_settings(spec: TrackerSpec, bundle: Bundle) -> TrackerSettings:
    """Settings of the tracker `mixformer` that `spec` names.

    Raises:
        ParameterError: see `tracker_settings`.
    """
    settings = tracker_settings(dict(spec.values), bundle)
    if spec.exits is None:
        return settings
    threshold = 1.0 if spec.exits.threshold is None else spec.exits.threshold
    return replace(settings, exit_threshold=threshold, exit_thresholds=(), exit_deadline_ms=0.0)


# Specs of one bundle share it, so that several thresholds can take turns.
@functools.lru_cache(maxsize=1)
def _engine(path: Path | None, engine: str, device: str, num_threads: int) -> Engine:
    return load_engine(open_bundle(path), engine, device, num_threads)


def _load_segments(engine: Engine) -> None:
    """Search once at every exit, by all segments and without, so that no frame loads a graph."""
    size = engine.spec.template_size
    memory = engine.encode_templates(np.zeros((2, size, size, 3), np.uint8))
    crops = np.zeros((1, engine.spec.search_size, engine.spec.search_size, 3), np.uint8)
    for depth in engine.spec.exits:
        engine.search(crops, [memory], stop_at(depth))
    engine.search(crops, [memory], stop_at(engine.spec.depth))
    engine.search(crops, [memory])


def _weightless(name: str, path: Path | None) -> Any:
    if path is not None:
        raise EngineError(f"{name} takes no weights, got {path}")
    return _create(name)


def _nano(path: Path | None) -> Any:
    if path is None:
        raise EngineError("Nano needs weights: Nano=FOLDER with *backbone*.onnx and *head*.onnx")
    backbone, head = _weights(path, "*backbone*.onnx"), _weights(path, "*head*.onnx")
    return _create("Nano", backbone=backbone, neckhead=head)


def _vit(path: Path | None) -> Any:
    if path is None:
        raise EngineError("ViT needs weights: ViT=FILE.onnx, or a folder with one *.onnx")
    return _create("Vit", net=_weights(path, "*.onnx"))


OPENCV_TRACKERS: dict[str, Callable[[Path | None], Any]] = {
    "CSRT": functools.partial(_weightless, "CSRT"),
    "KCF": functools.partial(_weightless, "KCF"),
    "MIL": functools.partial(_weightless, "MIL"),
    "Nano": _nano,
    "ViT": _vit,
}
"""Kind -> function that makes OpenCV's tracker from the path to its weights."""

LEAST_SIDE = {"MIL": 5}
"""Kind -> shortest side of an initial box in pixels: from 4x4 down MIL's start never returns (it
looks for random features that a box so small cannot hold; OpenCV 4.14)."""


def _create(name: str, **weights: str) -> Any:
    """Call `cv2.Tracker<name>_create`, with its parameters object where weights are given."""
    create = getattr(cv2, f"Tracker{name}_create", None)
    if create is None:
        raise EngineError(
            f"OpenCV {cv2.__version__} as installed here has no Tracker{name} "
            "(CSRT and KCF come with opencv-contrib, Nano with 4.7, ViT with 4.9)"
        )
    if not weights:
        return create()
    parameters = getattr(cv2, f"Tracker{name}_Params")()
    for key, value in weights.items():
        setattr(parameters, key, value)
    try:
        return create(parameters)
    except cv2.error as error:
        files = ", ".join(weights.values())
        raise EngineError(f"OpenCV cannot load {files}: {_one_line(error)}") from None


def _weights(path: Path, pattern: str) -> str:
    """Return the one file that matches `pattern` in the folder `path`, or the file `path`."""
    found = [path] if path.is_file() else sorted(path.glob(pattern))
    if len(found) != 1:
        raise EngineError(f"{path}: expected one file {pattern}, found {len(found)}")
    return str(found[0])


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
