"""pytest plugin: replay a recording in a test and compare its tracks with stored ones.

Installed with the package; in a test:

    def test_follows_the_person(bag_replay):
        replay = bag_replay("door.mcap", box=(691, 213, 30, 90))
        replay.assert_tracks("door.json", min_iou=0.9)

`pytest --update-tracks` writes the files instead of comparing with them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mixformerv2_ros.errors import MixFormerError, ParameterError, SourceError

if TYPE_CHECKING:
    from mixformerv2_ros.tracking.boxes import Box
    from mixformerv2_ros.tracking.session import Track


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare `--update-tracks`."""
    group = parser.getgroup("mixformerv2_ros")
    group.addoption(
        "--update-tracks",
        action="store_true",
        help="write the files that bag_replay(...).assert_tracks compares with",
    )


@dataclass(frozen=True)
class Replay:
    """The tracks of one replayed recording.

    Attributes:
        source: The recording.
        tracks: Frame number and tracks of every frame, in order.
        folder: Folder of the test file, which relative paths start from.
        update: Whether `assert_tracks` writes instead of comparing.
    """

    source: Path
    tracks: tuple[tuple[int, tuple[Track, ...]], ...]
    folder: Path = Path()
    update: bool = False

    def track(self, target_id: str = "target") -> list[Track | None]:
        """The track of one target in every frame; None in frames in which it was not tracked."""
        found = [
            next((track for track in tracks if track.target_id == target_id), None)
            for _, tracks in self.tracks
        ]
        if not any(found):
            names = sorted({track.target_id for _, tracks in self.tracks for track in tracks})
            pytest.fail(
                f"{self.source}: no track of target {target_id!r}, targets: "
                f"{', '.join(names) or 'none'}",
                pytrace=False,
            )
        return found

    def assert_tracks(self, path: str | Path, min_iou: float = 0.9) -> None:
        """Fail with the first difference unless the tracks match the reference tracks in `path`.

        Args:
            path: JSON of tracks, written by `mixformerv2 replay --json` or `--update-tracks`;
                relative to the folder of the test file.
            min_iou: Minimum IoU with the reference box.
        """
        from mixformerv2_ros.io.reference_tracks import Comparison
        from mixformerv2_ros.io.track_tables import JsonFile

        path = self.folder / path
        with _failing_in_one_line():
            if self.update:
                file = JsonFile(path, str(self.source))
                for frame, tracks in self.tracks:
                    for track in tracks:
                        file.write(frame, track)
                file.close()
                return
            if not path.exists():
                raise SourceError(f"{path} does not exist; write it with pytest --update-tracks")
            comparison = Comparison(path, min_iou)
            for frame, tracks in self.tracks:
                comparison.check(frame, tracks)
            comparison.finish()
        if comparison.difference is not None:
            pytest.fail(f"{self.source} against {path}: {comparison.difference}", pytrace=False)


@contextmanager
def _failing_in_one_line() -> Iterator[None]:
    """Let bad input fail the test with its message, without a traceback."""
    try:
        yield
    except MixFormerError as error:
        # Without `from None` pytest shows the message twice.
        raise pytest.fail.Exception(str(error), pytrace=False) from None


@pytest.fixture
def bag_replay(request: pytest.FixtureRequest) -> Callable[..., Replay]:
    """Replay a recording: `bag_replay("door.mcap", box=(x, y, w, h))`.

    Paths are relative to the folder of the test file. Arguments, all of them by name after the
    recording:

    - `box`: x, y, w, h in pixels, in the first image, that number `start_frame`, or the first one
      recorded `start_time` seconds after the first; without a box, those recorded in the bag, also
      on `init_topic` (a name or several), are tracked;
    - `image_topic`: only needed if there are several;
    - `max_frames`: maximum number of images to track;
    - `model`: folder of a bundle, or `tiny`; by default the default bundle;
    - parameters, with `_` for `.`, such as `template_update_interval=10`.

    Bad input fails the test with one line.
    """
    update = bool(request.config.getoption("--update-tracks"))
    folder = request.path.parent

    def run(bag: str | Path, **arguments: Any) -> Replay:
        with _failing_in_one_line():
            return Replay(Path(bag), _tracks(folder / bag, folder, **arguments), folder, update)

    return run


def _tracks(
    bag: Path,
    folder: Path,
    *,
    box: Iterable[float] | None = None,
    start_frame: int | None = None,
    start_time: float | None = None,
    init_topic: str | Iterable[str] = (),
    image_topic: str | None = None,
    max_frames: int | None = None,
    model: str | Path | None = None,
    **parameters: Any,
) -> tuple[tuple[int, tuple[Track, ...]], ...]:
    """Number and tracks of every image that was tracked."""
    from mixformerv2_ros.engines.loader import load_engine
    from mixformerv2_ros.io.bag_reader import BagReader
    from mixformerv2_ros.model.bundle import open_bundle
    from mixformerv2_ros.ros.parameters import (
        check_keywords,
        engine_arguments,
        stream_rules,
        tracker_settings,
    )
    from mixformerv2_ros.ros.replay import (
        RecordedImage,
        assign_images,
        choose_image_topic,
        choose_starts,
        images,
        replay,
    )
    from mixformerv2_ros.tracking.events import Step
    from mixformerv2_ros.tracking.stream import Stream

    given = None if box is None else _box(box)
    topics = [init_topic] if isinstance(init_topic, str) else list(init_topic)
    if given is None and (start_frame is not None or start_time is not None):
        raise ParameterError("start_frame and start_time require box")
    if start_frame is not None and start_time is not None:
        raise ParameterError("start_frame and start_time exclude each other")
    if given is not None and topics:
        raise ParameterError("box and init_topic exclude each other")
    if max_frames is not None and max_frames < 1:
        raise ParameterError(f"max_frames must be at least 1, got {max_frames}")
    values = check_keywords(parameters)
    bundle = open_bundle(None if model is None else folder / model)
    with BagReader(bag) as reader:
        topic = choose_image_topic(reader, image_topic)
        starts = choose_starts(reader, topic, given, start_frame, start_time, topics)
        if not starts:
            raise SourceError(f"recording {bag} has no init boxes; give box=(x, y, w, h)")
        starts = assign_images(reader, topic, starts)
        engine = load_engine(bundle, *engine_arguments(values))
        stream = Stream(engine, tracker_settings(values, bundle), stream_rules(values))
        steps = (
            (output.image.index, tuple(output.tracks))
            for output in replay(images(reader, topic), stream, starts)
            if isinstance(output, Step) and isinstance(output.image, RecordedImage)
        )
        return tuple(itertools.islice(steps, max_frames))


def _box(values: Iterable[float]) -> Box:
    from mixformerv2_ros.tracking.boxes import Box

    sides = list(values)
    if len(sides) != 4:
        raise ParameterError(f"box must be four numbers x, y, w, h, got {sides}")
    return Box(*map(float, sides))
