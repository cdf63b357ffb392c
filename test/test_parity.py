"""One awkward stream through every driver: the same tracks."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from nodes import TYPES, Node, content, init_box
from recordings import (
    IMAGE_TOPIC,
    PERIOD_NS,
    START_NS,
    RedEngine,
    picture,
    published_settings,
    red_box,
    run_command,
)
from waiting import wait_for

from mixformerv2_ros.cli.stream_log import StreamLog
from mixformerv2_ros.io.bag_reader import BagReader
from mixformerv2_ros.io.bag_writer import BagWriter
from mixformerv2_ros.io.video import VideoSource
from mixformerv2_ros.lab.datasets.sequences import AnnotatedSequence
from mixformerv2_ros.lab.evaluation.run import run_sequence
from mixformerv2_ros.lab.evaluation.trackers import MixFormerTracker
from mixformerv2_ros.lab.visualization.observe import observe
from mixformerv2_ros.ros.messages import image_message
from mixformerv2_ros.tracking.boxes import Box
from mixformerv2_ros.tracking.session import State

INIT_BOX = "mixformerv2_ros/msg/InitBox"
LENGTH = 30
"""Images of the part that loops."""

FACTORS = ("--search-factor", "4.5", "--template-factor", "2")
"""Those of `TrackerSettings`, in place of the default bundle's."""


@dataclass(frozen=True)
class Sent:
    """An init box of a target, drawn on the frame of a stamp (0: the next image)."""

    name: str
    frame: int
    stamp_ns: int

    @property
    def message(self) -> Any:
        return init_box(red_box(self.frame), self.stamp_ns, self.name)


@dataclass(frozen=True)
class Shot:
    """An image; its frame_id is its place in the stream, by which its tracks are known."""

    frame: int
    stamp_ns: int
    broken: bool = False
    large: bool = False

    def message(self, place: int) -> Any:
        pixels = picture(self.frame)
        if self.large:
            pixels = cv2.resize(pixels, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
        message = image_message(TYPES, pixels, "rgb8", self.stamp_ns, str(place))
        if self.broken:
            message.encoding = "nothing"
        return message


def stamp(frame: int) -> int:
    return START_NS + frame * PERIOD_NS


def awkward() -> list[Sent | Shot]:
    """Two targets, a broken image, swapped neighbours, a late box, a loop, sizes, zero stamps."""
    first: list[Sent | Shot] = [Sent("a", 0, stamp(0))]
    first += [Shot(i, stamp(i)) for i in range(4)]
    first += [Shot(4, 0, broken=True)]
    first += [Shot(i, stamp(i)) for i in (5, 7, 6, 8, 9)]
    first += [Sent("b", 3, stamp(3))]  # drawn six images ago
    first += [Shot(i, stamp(i)) for i in range(10, LENGTH)]
    loop: list[Sent | Shot] = [Sent("a", 0, stamp(0))]  # before the image that it was drawn on
    loop += [Shot(i, stamp(i)) for i in range(12)]
    sizes: list[Sent | Shot] = [
        Shot(i, stamp(i), large=i in (12, 14, 15, 16)) for i in range(12, 17)
    ]
    zeros: list[Sent | Shot] = [Shot(i, 0) for i in range(17, 20)]
    zeros += [Sent("c", 20, 0), *(Shot(i, 0) for i in range(20, 26))]
    return [*first, *loop, *sizes, *zeros]


EVENTS = awkward()

Tracks = dict[tuple[int, str], tuple[Any, ...]]
"""All of a track but its latency, by the place of its image and the name of its target."""


def by_place(messages: list[Any]) -> Tracks:
    found = {}
    for message in messages:
        if message.state != State.IDLE:
            place = int(message.header.frame_id)
            assert (place, message.target_id) not in found
            found[place, message.target_id] = content(message)
    return found


def record_time(place: int) -> int:
    return START_NS + place * PERIOD_NS


@pytest.fixture(autouse=True)
def red(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mixformerv2_ros.cli.shared.load_engine", lambda *_: RedEngine())


@pytest.fixture
def replayed(tmp_path: Path) -> Tracks:
    """The awkward stream through `mixformerv2 replay`."""
    with BagWriter(tmp_path / "bag") as writer:
        for place, event in enumerate(EVENTS):
            if isinstance(event, Sent):
                writer.write("/init_box", INIT_BOX, event.message, record_time(place))
            else:
                image = event.message(place)
                writer.write(IMAGE_TOPIC, "sensor_msgs/msg/Image", image, record_time(place))
    assert run_command("replay", tmp_path / "bag", "-o", tmp_path / "out", *FACTORS) == 2
    with BagReader(tmp_path / "out") as reader:
        return by_place([reader.deserialize(m) for m in reader.messages(["/track"])])


def test_the_stream_is_as_awkward_as_it_should_be(
    replayed: Tracks, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which images are tracked in, by hand."""
    places = {name: [p for p, target in replayed if target == name] for name in ("a", "b", "c")}
    shots = {place: event for place, event in enumerate(EVENTS) if isinstance(event, Shot)}
    swapped = 8  # frame 6, which comes after frame 7
    assert EVENTS[swapped] == Shot(6, stamp(6))
    loop = next(p for p in shots if p > LENGTH and EVENTS[p] == Shot(0, stamp(0)))
    large = next(p for p in shots if EVENTS[p] == Shot(12, stamp(12), large=True))
    zeros = next(p for p in shots if EVENTS[p] == Shot(20, 0))
    tracked = {p for p in shots if p != swapped and not shots[p].broken}
    first = [p for p in tracked if p < loop]
    assert places["a"] == [*first, *(p for p in tracked if loop <= p < large), large + 1]
    assert places["b"] == [p for p in first if p >= 4]
    assert places["c"] == [p for p in tracked if p >= zeros]


def assert_same(live: Tracks, replayed: Tracks, compare: Callable[[tuple[Any, ...]], Any]) -> None:
    """A live node reports a target from when it has caught up; all else is as in a replay."""
    late = {key for key in replayed if key[1] == "b" and key not in live}
    assert live.keys() == replayed.keys() - late
    assert all(place < 20 for place, _ in late)
    for key, track in live.items():
        assert compare(track) == compare(replayed[key]), key


def test_the_live_node(replayed: Tracks) -> None:
    with Node() as node:
        for place, event in enumerate(EVENTS):
            node.desk.time_ns = record_time(place)
            if isinstance(event, Sent):
                node.tracker.receive_init(event.message)
                node.settle()
            else:
                node.feed(event.message(place))
        counts = node.counts
        assert (counts.bad, counts.late) == (1, 2)
        assert_same(by_place(node.desk.tracks), replayed, lambda track: track)


def test_the_node_on_dds(replayed: Tracks) -> None:
    pytest.importorskip("cyclonedds", reason="needs cyclonedds, which is not installed")
    from dds_nodes import Local
    from domains import own_domain
    from peers import Peer

    from mixformerv2_ros.ros.cyclonedds.qos_profiles import reliable

    with own_domain(), Peer() as peer, Local() as local:
        camera = peer.node.create_publisher("/image", "sensor_msgs/msg/Image", reliable())
        starter = peer.node.create_publisher("/init_box", INIT_BOX, reliable())
        peer.listen("/track", "mixformerv2_ros/msg/Track", reliable(1000))
        peer.wait_reliable("/image")
        wait_for(lambda: starter.subscription_count, "a subscription to init_box")
        tracker, received = local.tracking.tracker, 0
        for place, event in enumerate(EVENTS):
            if isinstance(event, Sent):
                # The second box of "a" starts on the image of the old pass, until that has ended.
                known = event.name in tracker.targets
                lines = len(local.lines)
                starter.publish(event.message)
                wait_for(
                    lambda n=lines, e=event, k=known: len(local.lines) > n if k
                    else e.name in tracker.targets,
                    f"the box of {event.name}",
                )  # fmt: skip
                continue
            received += 1
            camera.publish(event.message(place))
            wait_for(
                lambda n=received: tracker.statistics().counts.received == n and tracker.idle,
                f"image {place}",
            )
        counts = tracker.statistics().counts
        assert (counts.bad, counts.late) == (1, 2)
        processed = counts.processed
        wait_for(
            lambda: len({m.header.frame_id for m in peer.heard["/track"]}) == processed,
            "all tracks",
        )
        # Without stamps a template's age is a matter of arrival, which is real time here.
        assert_same(by_place(peer.heard["/track"]), replayed, lambda track: track[:-1])


# Files have no stamps to swap: a broken image, and another size

COUNT = 14
BROKEN, STRAY, LARGE = 4, 7, 11
"""Numbers of the broken image, of the single large one, and of the first of the last large ones."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "sequence" / "img"
    path.mkdir(parents=True)
    for i in range(COUNT):
        pixels = picture(i)[..., ::-1]
        if i == STRAY or i >= LARGE:
            pixels = cv2.resize(pixels, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
        cv2.imwrite(str(path / f"{i:04}.png"), pixels)
    broken = path / f"{BROKEN:04}.png"
    broken.write_bytes(broken.read_bytes()[:99])
    return path


@pytest.fixture
def tracked(folder: Path, tmp_path: Path) -> dict[int, tuple[Box, float]]:
    """Boxes and confidences of the files by `mixformerv2 track`."""
    table, box = tmp_path / "t.csv", ",".join(map(str, red_box(0)))
    assert run_command("track", folder, "--box", box, "--csv", table, *FACTORS) == 2
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {int(row["frame"]) for row in rows} == set(range(LARGE)) - {BROKEN, STRAY}
    return {
        int(row["frame"]): (Box(*(float(row[key]) for key in "xywh")), float(row["confidence"]))
        for row in rows
    }


def test_evaluate(folder: Path, tracked: dict[int, tuple[Box, float]]) -> None:
    truth = np.array([red_box(i) for i in range(COUNT)], np.float64)
    sequence = AnnotatedSequence("one", tuple(sorted(folder.iterdir())), truth)
    result = run_sequence(MixFormerTracker(RedEngine(), published_settings()), sequence)
    assert set(np.flatnonzero(result.skipped)) == {BROKEN}
    for index in range(COUNT):
        if index in tracked:
            box, confidence = tracked[index]
            assert tuple(result.boxes[index]) == pytest.approx(tuple(box), abs=1e-3)
            assert result.confidences[index] == pytest.approx(confidence, abs=1e-3)
        else:
            np.testing.assert_array_equal(result.boxes[index], result.boxes[index - 1])
            assert result.lost[index]


def test_visualize(folder: Path, tracked: dict[int, tuple[Box, float]]) -> None:
    log = StreamLog("visualize")
    with VideoSource(str(folder)) as source:
        seen = {
            moment.index: (moment.seen.box, moment.seen.confidence)
            for moment in observe(
                RedEngine(), published_settings(), source.frames(), red_box(0), log
            )
        }
    assert log.finish() == 2
    assert seen.keys() == tracked.keys() - {0}
    for index, (box, confidence) in seen.items():
        # Tables are written to a thousandth.
        assert tuple(box) == pytest.approx(tuple(tracked[index][0]), abs=1e-3)
        assert confidence == pytest.approx(tracked[index][1], abs=1e-3)


def test_replay_of_the_files(
    folder: Path, tracked: dict[int, tuple[Box, float]], tmp_path: Path
) -> None:
    """The same images as messages, the broken one with its broken bytes."""
    with BagWriter(tmp_path / "bag") as writer:
        for i, file in enumerate(sorted(folder.iterdir())):
            message = TYPES["sensor_msgs/msg/CompressedImage"](
                header=Shot(i, stamp(i)).message(i).header,
                format="png",
                data=np.frombuffer(file.read_bytes(), np.uint8),
            )
            writer.write("/image", "sensor_msgs/msg/CompressedImage", message, stamp(i))
    box, table = ",".join(map(str, red_box(0))), tmp_path / "r.csv"
    options = ("-o", tmp_path / "o", "--box", box, "--csv", table, *FACTORS)
    code = run_command("replay", tmp_path / "bag", *options)
    assert code == 2
    with table.open(newline="") as file:
        rows = {int(row["frame"]): row for row in csv.DictReader(file)}
    assert rows.keys() == tracked.keys()
    for index, row in rows.items():
        assert Box(*(float(row[key]) for key in "xywh")) == tracked[index][0]


def test_trax(folder: Path, tracked: dict[int, tuple[Box, float]]) -> None:
    trax = pytest.importorskip("trax", reason="needs vot-trax, which is not installed")
    from test_trax import SERVER, Run

    run = Run(code=SERVER.replace("test_evaluation", "recordings"))
    try:
        files = sorted(folder.iterdir())
        region = trax.Rectangle.create(*red_box(0))
        image = {"color": trax.FileImage.create(str(files[0]))}
        run.client.initialize(image, [(region, {})], {})
        last = (0.0, 0.0, 0.0, 0.0)
        for index, file in enumerate(files[1:], start=1):
            ((found, properties),) = run.frame(trax.FileImage.create(str(file)))[0]
            if index in tracked:
                assert found.bounds() == pytest.approx(tuple(tracked[index][0]), abs=1e-3)
                assert float(properties["confidence"]) == pytest.approx(tracked[index][1], abs=1e-3)
            else:
                assert (found.bounds(), float(properties["confidence"])) == (last, 0.0)
            last = found.bounds()
    finally:
        run.close()
