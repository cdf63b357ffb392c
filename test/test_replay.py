"""Recorded images through a session: where targets start, what is written, the same every time."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from recordings import (
    IMAGE_TOPIC,
    PERIOD_NS,
    START_NS,
    RedEngine,
    picture,
    published_settings,
    red_box,
    run_command,
    storage_file,
    write_bag,
    write_images,
)

from mixformerv2_ros.errors import (
    BoxError,
    MixFormerError,
    ParameterError,
    SourceError,
)
from mixformerv2_ros.interfaces import typestore
from mixformerv2_ros.io.bag_reader import BagReader, DamagedBagError
from mixformerv2_ros.io.bag_writer import BagWriter
from mixformerv2_ros.io.track_tables import CsvFile, JsonFile
from mixformerv2_ros.ros.messages import header_message, image_message, stamp_ns
from mixformerv2_ros.ros.replay import (
    DETECTIONS_TOPIC,
    TRACK_TOPIC,
    RecordedImage,
    Start,
    assign_images,
    choose_image_topic,
    images,
    recorded_starts,
    replay,
    write_step,
)
from mixformerv2_ros.tracking.boxes import Box, iou
from mixformerv2_ros.tracking.events import Event, EventKind, Output, Step
from mixformerv2_ros.tracking.session import State
from mixformerv2_ros.tracking.stream import Stream


def outputs_of(bag: Path, starts: Sequence[Start]) -> list[Output]:
    with BagReader(bag) as reader:
        topic = choose_image_topic(reader, None)
        starts = assign_images(reader, topic, starts)
        return list(
            replay(images(reader, topic), Stream(RedEngine(), published_settings()), starts)
        )


def run(bag: Path, starts: Sequence[Start]) -> list[Step]:
    return [output for output in outputs_of(bag, starts) if isinstance(output, Step)]


def index(step: Step) -> int:
    assert isinstance(step.image, RecordedImage)
    return step.image.index


@pytest.mark.parametrize("compressed", ["", "png"])
def test_target_is_followed_in_rgb(tmp_path: Path, compressed: str) -> None:
    """The engine sees red where the picture is red, raw or compressed."""
    bag = write_bag(tmp_path / "bag", 30, compressed=compressed)
    frames = run(bag, [Start(red_box(0), index=0)])
    assert [index(frame) for frame in frames] == list(range(30))
    for frame in frames:
        (track,) = frame.tracks
        assert iou(track.box, red_box(index(frame))) > 0.85
        assert track.stamp_ns == START_NS + index(frame) * PERIOD_NS
        assert track.frame_id == "camera"
    assert frames[0].tracks[0].box == red_box(0)
    assert frames[0].tracks[0].confidence == 1.0


def test_images_are_views_of_the_recorded_bytes(tmp_path: Path) -> None:
    """From the recording to the tracker no image is copied; only the crop is converted."""
    bag = write_bag(tmp_path / "bag", 2)
    with BagReader(bag) as reader:
        for image in images(reader, choose_image_topic(reader, None)):
            recorded = np.frombuffer(image.message.data, np.uint8)
            assert np.shares_memory(image.decode().pixels.rgb(), recorded)


def test_start_at_a_later_image(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", 20)
    at_index = run(bag, [Start(red_box(8), index=8)])
    at_time = run(bag, [Start(red_box(8), record_ns=START_NS + 8 * PERIOD_NS)])
    assert [index(f) for f in at_index] == [index(f) for f in at_time]
    assert at_index[0].image.index == 8


def init_box(stamp: int, box: Box, target_id: str = "") -> object:
    types = typestore().types
    return types["mixformerv2_ros/msg/InitBox"](
        header=header_message(types, stamp, "camera"),
        target_id=target_id,
        x=box.x,
        y=box.y,
        w=box.w,
        h=box.h,
    )


def write_bag_with_boxes(path: Path, boxes: dict[int, list[tuple[str, str, object]]]) -> Path:
    """20 images; before the image of each number come the given (topic, type, message)."""
    types = typestore().types
    with BagWriter(path) as writer:
        for i in range(20):
            stamp = START_NS + i * PERIOD_NS
            for topic, msgtype, message in boxes.get(i, ()):
                writer.write(topic, msgtype, message, stamp)
            image = image_message(types, picture(i), "rgb8", stamp, "camera")
            writer.write(IMAGE_TOPIC, "sensor_msgs/msg/Image", image, stamp + 1000)
    return path


def test_recorded_box_starts_at_its_image(tmp_path: Path) -> None:
    """A person draws for a while: the message comes six images after the one it is about."""
    message = init_box(START_NS + 5 * PERIOD_NS, red_box(5), "dog")
    bag = write_bag_with_boxes(
        tmp_path / "bag", {11: [("/init_box", "mixformerv2_ros/msg/InitBox", message)]}
    )
    with BagReader(bag) as reader:
        starts = recorded_starts(reader, [])
    frames = run(bag, starts)
    assert [index(frame) for frame in frames] == list(range(5, 20))
    assert frames[0].tracks[0].target_id == "dog"
    assert iou(frames[-1].tracks[0].box, red_box(19)) > 0.85


def test_box_without_stamp_starts_at_the_next_image(tmp_path: Path) -> None:
    roi = typestore().types["sensor_msgs/msg/RegionOfInterest"](
        x_offset=34, y_offset=37, width=24, height=18, do_rectify=False
    )
    bag = write_bag_with_boxes(
        tmp_path / "bag", {7: [("/roi", "sensor_msgs/msg/RegionOfInterest", roi)]}
    )
    with BagReader(bag) as reader:
        assert recorded_starts(reader, []) == []
        starts = recorded_starts(reader, ["roi"])
    assert index(run(bag, starts)[0]) == 7


def test_stamp_of_an_image_that_was_not_recorded(tmp_path: Path) -> None:
    """The next image serves, if it is not much later."""
    bag = write_bag(tmp_path / "bag", 10)
    near = Start(red_box(3), stamp_ns=START_NS + 2 * PERIOD_NS + 1)
    assert index(run(bag, [near])[0]) == 3
    early = Start(red_box(0), stamp_ns=START_NS - 10**9)
    with pytest.raises(SourceError, match="which is not in the recording"):
        run(bag, [early])


def test_several_targets_and_a_new_start(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", 20)
    frames = run(
        bag,
        [
            Start(red_box(2), "a", index=2),
            Start(red_box(5), "b", index=5),
            Start(red_box(9), "a", index=9),
        ],
    )
    names = {index(frame): [track.target_id for track in frame.tracks] for frame in frames}
    assert names[2] == names[4] == ["a"]
    assert sorted(names[5]) == sorted(names[19]) == ["a", "b"]
    restarted = {track.target_id: track for track in frames[9 - 2].tracks}
    assert restarted["a"].confidence == 1.0
    assert restarted["b"].confidence == pytest.approx(0.9)


@pytest.mark.parametrize("box", [Box(float("nan"), 0, 5, 5), Box(0, 0, 0, 5)])
def test_bad_box_is_found_before_the_first_frame(tmp_path: Path, box: Box) -> None:
    """Also when it would start later."""
    bag = write_bag(tmp_path / "bag", 6)
    with BagReader(bag) as reader:
        stream = Stream(RedEngine(), published_settings())
        recorded = images(reader, choose_image_topic(reader, None))
        starts = [Start(red_box(0), index=0), Start(box, "later", index=4)]
        with pytest.raises(BoxError, match="target later: box"):
            next(replay(recorded, stream, starts))


def test_start_beyond_the_end(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", 6)
    with pytest.raises(SourceError, match="belongs to image 6, which is not in the recording"):
        run(bag, [Start(red_box(0), index=6)])


def test_images_that_cannot_be_decoded_are_skipped(tmp_path: Path) -> None:
    types = typestore().types
    with BagWriter(tmp_path / "bag") as writer:
        for i in range(6):
            stamp = START_NS + i * PERIOD_NS
            encoding = "what" if i in (2, 3) else "rgb8"
            message = image_message(types, picture(i), encoding, stamp, "c")
            writer.write(IMAGE_TOPIC, "sensor_msgs/msg/Image", message, stamp)
    outputs = outputs_of(tmp_path / "bag", [Start(red_box(0), index=0)])
    assert [index(o) for o in outputs if isinstance(o, Step)] == [0, 1, 4, 5]
    broken = [o for o in outputs if isinstance(o, Event) and o.kind is EventKind.UNDECODABLE]
    assert [event.image.name for event in broken] == [f"image {i} of the recording" for i in (2, 3)]
    assert "image encoding must be" in broken[0].text


def test_a_box_of_the_second_pass_alone_belongs_to_it(tmp_path: Path) -> None:
    types, period = typestore().types, PERIOD_NS
    box = init_box(START_NS + 5 * period, red_box(5))
    with BagWriter(tmp_path / "bag") as writer:
        for number in range(2 * 15):
            i, record = number % 15, START_NS + number * period
            message = image_message(types, picture(i), "rgb8", START_NS + i * period, "c")
            writer.write(IMAGE_TOPIC, "sensor_msgs/msg/Image", message, record)
            if number == 22:
                writer.write("/init_box", "mixformerv2_ros/msg/InitBox", box, record + 1)
    with BagReader(tmp_path / "bag") as reader:
        starts = recorded_starts(reader, [])
    steps = run(tmp_path / "bag", starts)
    assert [index(step) for step in steps if step.tracks] == list(range(20, 30))


def test_a_box_is_checked_on_its_own_image(tmp_path: Path) -> None:
    """One that fits the large images of the end lies outside the small ones of the start."""
    types, period = typestore().types, PERIOD_NS
    with BagWriter(tmp_path / "bag") as writer:
        for i in range(20):
            pixels = picture(i)
            if i >= 10:
                pixels = np.kron(pixels, np.ones((2, 2, 1), np.uint8))
            message = image_message(types, pixels, "rgb8", START_NS + i * period, "c")
            writer.write(IMAGE_TOPIC, "sensor_msgs/msg/Image", message, START_NS + i * period)
    late = Start(Box(250, 180, 40, 40), "late", index=15)
    steps = run(tmp_path / "bag", [Start(red_box(0), index=0), late])
    tracked = {
        name: [index(s) for s in steps for t in s.tracks if t.target_id == name]
        for name in ("target", "late")
    }
    assert tracked == {"target": list(range(10)), "late": list(range(15, 20))}
    outside = Start(Box(500, 0, 5, 5), "late", index=4)
    with pytest.raises(BoxError, match="target late: box must overlap"):
        run(tmp_path / "bag", [Start(red_box(0), index=0), outside])


def test_boxes_of_a_recorded_loop_belong_to_their_own_pass(tmp_path: Path) -> None:
    types, period = typestore().types, PERIOD_NS
    box = init_box(START_NS + 2 * period, red_box(2))
    with BagWriter(tmp_path / "bag") as writer:
        for number in range(3 * 15):
            i, record = number % 15, START_NS + number * period
            message = image_message(types, picture(i), "rgb8", START_NS + i * period, "c")
            writer.write(IMAGE_TOPIC, "sensor_msgs/msg/Image", message, record)
            if i == 4:  # drawn two images later
                writer.write("/init_box", "mixformerv2_ros/msg/InitBox", box, record + 1)
    with BagReader(tmp_path / "bag") as reader:
        starts = recorded_starts(reader, [])
    steps = run(tmp_path / "bag", starts)
    tracked = {index(step) for step in steps if step.tracks}
    assert tracked == {i for i in range(45) if i % 15 >= 2}


def test_init_topic_that_is_none(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", 2)
    with (
        BagReader(bag) as reader,
        pytest.raises(SourceError, match=r"no boxes .* on /nothing; topics with boxes: none"),
    ):
        recorded_starts(reader, ["/nothing"])


def record(bag: Path, target: Path, storage: str = "mcap", copy: bool = False) -> Path:
    with BagWriter(target, storage) as writer:
        for frame in run(bag, [Start(red_box(0), index=0)]):
            write_step(writer, frame, copy)
    return target


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_output_bag(tmp_path: Path, storage: str) -> None:
    bag = write_bag(tmp_path / "bag", 15)
    out = record(bag, tmp_path / "out", storage, copy=True)
    with BagReader(out) as reader:
        assert {name: topic.msgtype for name, topic in reader.topics.items()} == {
            IMAGE_TOPIC: "sensor_msgs/msg/Image",
            TRACK_TOPIC: "mixformerv2_ros/msg/Track",
            DETECTIONS_TOPIC: "vision_msgs/msg/Detection2DArray",
        }
        for topic in reader.topics.values():
            assert topic.count == 15
            assert topic.definition
        for i, message in enumerate(reader.messages([TRACK_TOPIC])):
            track = reader.deserialize(message)
            assert stamp_ns(track) == START_NS + i * PERIOD_NS
            assert message.record_ns == stamp_ns(track) + 1000
            assert track.header.frame_id == "camera"
            assert track.state == State.TRACKING
            assert (track.latency.sec, track.latency.nanosec) == (0, 0)
        for message in reader.messages([DETECTIONS_TOPIC]):
            assert len(reader.deserialize(message).detections) == 1


def test_two_replays_give_the_same_bytes(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", 15)
    outs = [record(bag, tmp_path / str(i) / "out") for i in range(2)]
    contents = []
    for out in outs:
        with BagReader(out) as reader:
            messages = reader.messages([TRACK_TOPIC, DETECTIONS_TOPIC])
            contents.append([(m.topic.name, m.record_ns, m.data) for m in messages])
    assert len(contents[0]) == 30
    assert contents[0] == contents[1]
    assert storage_file(outs[0]).read_bytes() == storage_file(outs[1]).read_bytes()


def test_output_opens_in_an_independent_reader(tmp_path: Path) -> None:
    reader_module = pytest.importorskip("mcap.reader")
    decoder = pytest.importorskip("mcap_ros2.decoder")
    out = record(write_bag(tmp_path / "bag", 9), tmp_path / "out")
    with storage_file(out).open("rb") as file:
        reader = reader_module.make_reader(file, decoder_factories=[decoder.DecoderFactory()])
        tracks = [m for _, _, _, m in reader.iter_decoded_messages(topics=[TRACK_TOPIC])]
        arrays = [m for _, _, _, m in reader.iter_decoded_messages(topics=[DETECTIONS_TOPIC])]
    assert len(tracks) == len(arrays) == 9
    assert tracks[3].target_id == "target"
    assert list(tracks[3].edge_std) == pytest.approx(list(tracks[4].edge_std), rel=0.2)
    assert arrays[3].detections[0].results[0].hypothesis.score == pytest.approx(0.9)


def test_damaged_recording_is_replayed_up_to_the_damage(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", 30)
    file = storage_file(bag)
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    seen = []
    with BagReader(bag) as reader:
        stream = Stream(RedEngine(), published_settings())
        recorded = images(reader, choose_image_topic(reader, None))
        with pytest.raises(DamagedBagError):
            seen.extend(
                index(output)
                for output in replay(recorded, stream, [Start(red_box(0), index=0)])
                if isinstance(output, Step)
            )
    assert seen == list(range(len(seen)))
    assert 13 <= len(seen) <= 15


def test_lost_target_gives_tracks_without_detections(tmp_path: Path) -> None:
    """Without red in the picture the confidence is 0.01."""
    types = typestore().types
    with BagWriter(tmp_path / "bag") as writer:
        for i in range(60):
            rgb = picture(i) if i < 10 else np.full_like(picture(i), 90)
            stamp = START_NS + i * PERIOD_NS
            message = image_message(types, rgb, "rgb8", stamp, "camera")
            writer.write(IMAGE_TOPIC, "sensor_msgs/msg/Image", message, stamp)
    out = record(tmp_path / "bag", tmp_path / "out")
    with BagReader(out) as reader:
        states = [reader.deserialize(m).state for m in reader.messages([TRACK_TOPIC])]
        counts = [
            len(reader.deserialize(m).detections) for m in reader.messages([DETECTIONS_TOPIC])
        ]
    assert states[-1] == State.LOST
    assert counts == [0 if state == State.LOST else 1 for state in states]


# --- tables --------------------------------------------------------------------------------------


def test_tables_are_readable_after_every_track(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", 5)
    table, json_file = CsvFile(tmp_path / "t.csv"), JsonFile(tmp_path / "t.json", 'a "bag"')
    assert json.loads((tmp_path / "t.json").read_text()) == {
        "source": 'a "bag"',
        "tracks": [],
        "complete": False,
    }
    for n, frame in enumerate(run(bag, [Start(red_box(0), index=0)]), start=1):
        table.write(index(frame), frame.tracks[0])
        json_file.write(index(frame), frame.tracks[0])
        lines = (tmp_path / "t.csv").read_text().splitlines()
        assert len(lines) == 1 + n
        assert len(json.loads((tmp_path / "t.json").read_text())["tracks"]) == n
    table.close()
    json_file.close()
    assert lines[0] == (
        "frame,stamp_ns,target_id,x,y,w,h,confidence,std_left,std_top,std_right,std_bottom,"
        "state,template_updated,depth"
    )
    assert lines[1] == f"0,{START_NS},target,20.0,30.0,24.0,18.0,1.0,0.0,0.0,0.0,0.0,TRACKING,1,0"
    document = json.loads((tmp_path / "t.json").read_text())
    assert document["complete"] is True
    rows = document["tracks"]
    assert [row["frame"] for row in rows] == list(range(5))
    assert rows[0] == dict(
        zip(
            lines[0].split(","),
            [
                0,
                START_NS,
                "target",
                20.0,
                30.0,
                24.0,
                18.0,
                1.0,
                0.0,
                0.0,
                0.0,
                0.0,
                "TRACKING",
                1,
                0,
            ],
            strict=True,
        )
    )


def test_tables_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cannot be written"):
        CsvFile(tmp_path / "missing" / "t.csv")
    with pytest.raises(SourceError, match="cannot be written"):
        JsonFile(tmp_path / "missing" / "t.json", "bag")


# --- with a real model ---------------------------------------------------------------------------


def test_replay_with_the_default_bundle(tmp_path: Path, shared_data: Path) -> None:
    """A real clip through the real model, twice: the same bytes."""
    folder = tmp_path / "images"
    folder.mkdir()
    sequence = shared_data / "sequences" / "Crossing"
    for file in sorted((sequence / "img").iterdir())[:25]:
        shutil.copy(file, folder)
    truth = (sequence / "groundtruth_rect.txt").read_text().split()
    run_command("video2bag", folder, "-o", tmp_path / "bag", "--compressed", "png")
    contents = []
    for name in ("a", "b"):
        out, table = tmp_path / name / "out", tmp_path / f"{name}.csv"
        arguments = ("--box", truth[0], "--csv", table)
        run_command("replay", tmp_path / "bag", "-o", out, *arguments)
        contents.append(storage_file(out).read_bytes())
    assert contents[0] == contents[1]
    with table.open(newline="") as file:
        found = list(csv.DictReader(file))
    assert len(found) == 25
    tenth = Box(*(float(found[10][key]) for key in "xywh"))
    assert iou(tenth, Box.parse(truth[10])) > 0.2


def test_model_options_are_checked(tmp_path: Path) -> None:
    source = write_images(tmp_path / "images", 2)
    box = "20,30,24,18"
    with pytest.raises(MixFormerError):
        run_command("track", source, "--box", box, "--model", tmp_path / "none")
    with pytest.raises(ParameterError, match=r"template_update\.interval must be"):
        run_command("track", source, "--box", box, "--template-update-interval", 0)
