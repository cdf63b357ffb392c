"""pytest plugin: replay a recording in a test and compare its tracks with stored ones.

Installed with the package; in a test:

    def test_follows_the_person(bag_replay):
        replay = bag_replay("door.mcap", box=(691, 213, 30, 90))
        replay.assert_tracks("door.json", min_iou=0.9)

`pytest --update-tracks` writes the files instead of comparing with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
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
        update: Whether `assert_tracks` writes instead of comparing.
    """

    source: Path
    tracks: tuple[tuple[int, tuple[Track, ...]], ...]
    update: bool = False

    def assert_tracks(self, path: str | Path, min_iou: float = 0.9) -> None:
        """Fail with the first difference unless the tracks match the reference tracks in `path`.

        Args:
            path: JSON of tracks, written by `mixformerv2 replay --json` or `--update-tracks`.
            min_iou: Minimum IoU with the reference box.
        """
        from mixformerv2_ros.io.reference_tracks import Comparison
        from mixformerv2_ros.io.track_tables import JsonFile

        path = Path(path)
        if self.update:
            file = JsonFile(path, str(self.source))
            for frame, tracks in self.tracks:
                for track in tracks:
                    file.write(frame, track)
            file.close()
            return
        comparison = Comparison(path, min_iou)
        for frame, tracks in self.tracks:
            comparison.check(frame, tracks)
        comparison.finish()
        if comparison.difference is not None:
            pytest.fail(f"{self.source} against {path}: {comparison.difference}", pytrace=False)


@pytest.fixture
def bag_replay(request: pytest.FixtureRequest) -> Callable[..., Replay]:
    """Replay a recording: `bag_replay(bag, box=None, image_topic=None, model=None, **parameters)`.

    `box` is x, y, w, h in the first image (without it, the boxes recorded in the bag are tracked);
    `parameters` are those of `parameters.py` with `_` for `.`, such as
    `template_update_interval=10`. Bad input raises `mixformerv2_ros.errors.MixFormerError`.
    """
    update = bool(request.config.getoption("--update-tracks"))

    def run(
        bag: str | Path,
        box: Iterable[float] | None = None,
        image_topic: str | None = None,
        model: str | Path | None = None,
        **parameters: Any,
    ) -> Replay:
        from mixformerv2_ros.engines.loader import load_engine
        from mixformerv2_ros.io.bag_reader import BagReader
        from mixformerv2_ros.model.bundle import open_bundle
        from mixformerv2_ros.ros.parameters import (
            check_keywords,
            stream_rules,
            tracker_settings,
        )
        from mixformerv2_ros.ros.replay import (
            RecordedImage,
            Start,
            assign_images,
            choose_image_topic,
            images,
            recorded_starts,
            replay,
        )
        from mixformerv2_ros.tracking.boxes import Box
        from mixformerv2_ros.tracking.events import Step
        from mixformerv2_ros.tracking.stream import Stream

        values = check_keywords(parameters)
        bundle = open_bundle(model)
        engine = load_engine(
            bundle, str(values["engine"]), str(values["device"]), int(values["num_threads"])
        )
        stream = Stream(engine, tracker_settings(values, bundle), stream_rules(values))
        with BagReader(Path(bag)) as reader:
            topic = choose_image_topic(reader, image_topic)
            starts = recorded_starts(reader, []) if box is None else [Start(Box(*box), index=0)]
            starts = assign_images(reader, topic, starts)
            frames = []
            for output in replay(images(reader, topic), stream, starts):
                if isinstance(output, Step) and isinstance(output.image, RecordedImage):
                    frames.append((output.image.index, output.tracks))
        return Replay(Path(bag), tuple(frames), update)

    return run
