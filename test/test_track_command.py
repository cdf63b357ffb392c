"""The commands `track`, `replay` and `video2bag`: what they read, write, refuse and survive."""

from __future__ import annotations

import csv
import json
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from recordings import (
    HEIGHT,
    IMAGE_TOPIC,
    PERIOD_NS,
    START_NS,
    WIDTH,
    RedEngine,
    picture,
    red_box,
    run_command,
    storage_file,
    write_bag,
    write_images,
    write_video,
)

from mixformerv2_ros.errors import BoxError, SourceError
from mixformerv2_ros.interrupt import INTERRUPTED
from mixformerv2_ros.io.bag_reader import BagReader
from mixformerv2_ros.io.bag_writer import PARTIAL_KEY
from mixformerv2_ros.io.video import VideoFile, VideoSource
from mixformerv2_ros.model.engine import Prediction
from mixformerv2_ros.ros.replay import choose_image_topic, images
from mixformerv2_ros.tracking.boxes import Box, iou

BOX = "20,30,24,18"


class ActingEngine(RedEngine):
    """Does something at a given search."""

    def __init__(self) -> None:
        self.count = 0
        self.at = -1
        self.action: Callable[[], None] = lambda: None

    def search(self, crops: np.ndarray, memories: Any, stop: object = None) -> Prediction:
        self.count += 1
        if self.count == self.at:
            self.action()
        return super().search(crops, memories)


@pytest.fixture(autouse=True)
def engine(monkeypatch: pytest.MonkeyPatch) -> ActingEngine:
    """Commands see red instead of loading a model."""
    made = ActingEngine()

    def load_engine(*args: object) -> ActingEngine:
        return made

    monkeypatch.setattr("mixformerv2_ros.cli.shared.load_engine", load_engine)
    return made


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def partial_reason(bag: Path) -> str | None:
    """Why a recording is not whole, by its metadata; None for one that is."""
    about = yaml.safe_load((bag / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    return (about.get("custom_data") or {}).get(PARTIAL_KEY)


def box(row: dict[str, str]) -> Box:
    return Box(*(float(row[key]) for key in "xywh"))


# --- track ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["video", "images"])
def test_track_follows_red_not_blue(tmp_path: Path, kind: str) -> None:
    """OpenCV decodes to BGR; were it taken for RGB, the engine would follow the blue box."""
    if kind == "video":
        source = write_video(tmp_path / "clip.avi", 30)
    else:
        source = write_images(tmp_path / "images", 30)
    table, tracks = tmp_path / "t.csv", tmp_path / "t.json"
    assert run_command("track", source, "--box", BOX, "--csv", table, "--json", tracks) == 0
    found = rows(table)
    assert [int(row["frame"]) for row in found] == list(range(30))
    for row in found:
        assert iou(box(row), red_box(int(row["frame"]))) > 0.8
    period = 50_000_000 if kind == "video" else 33_333_333
    stamps = [int(row["stamp_ns"]) for row in found]
    assert stamps == pytest.approx([i * period for i in range(30)], abs=20)
    assert len(json.loads(tracks.read_text())["tracks"]) == 30


def test_track_part_of_a_video(tmp_path: Path) -> None:
    source = write_images(tmp_path / "images", 20)
    start = ",".join(map(str, red_box(5)))
    arguments = ("--box", start, "--start-frame", 5, "--max-frames", 7, "--fps", 10)
    assert run_command("track", source, *arguments, "--csv", tmp_path / "t.csv") == 0
    found = rows(tmp_path / "t.csv")
    assert [int(row["frame"]) for row in found] == list(range(5, 12))
    assert int(found[0]["stamp_ns"]) == 500_000_000
    assert iou(box(found[-1]), red_box(11)) > 0.8


def test_track_prints_what_it_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_images(tmp_path / "images", 4)
    run_command("track", source, "--box", BOX, "--csv", tmp_path / "t.csv")
    out = capsys.readouterr()
    assert out.out == f"4 frames tracked (4 TRACKING): {tmp_path / 't.csv'}\n"
    assert out.err == ""


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_overlay_video(tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("mixformerv2_ros.overlay")
    source = write_images(tmp_path / "images", 10)
    run_command("track", source, "--box", BOX, "--video", tmp_path / f"o{suffix}")
    with VideoSource(str(tmp_path / f"o{suffix}")) as video:
        shown = [item.decode().pixels.rgb() for item in video.frames()]
        assert video.fps == pytest.approx(30)
    assert len(shown) == 10
    assert shown[0].shape == (HEIGHT, WIDTH, 3)
    difference = np.abs(shown[5].astype(int) - picture(5)).max(axis=2)
    x, y, w, h = map(int, red_box(5))
    # Something is drawn on the target's outline, and the picture itself keeps its colours.
    assert difference[y - 3 : y + 4, x : x + w].max() > 60
    assert np.median(difference) < 12
    assert shown[5][y + h // 2, x + w // 2, 0] > 150


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2,3", "four numbers x,y,w,h"),
        ("a,b,c,d", "four numbers x,y,w,h"),
        ("nan,0,5,5", "finite"),
        ("0,0,0,5", "must be positive"),
        ("0,0,-4,5", "must be positive"),
        ("500,0,5,5", "must overlap"),
    ],
)
@pytest.mark.parametrize("command", ["track", "replay"])
def test_bad_box_writes_nothing(tmp_path: Path, command: str, text: str, message: str) -> None:
    if command == "track":
        arguments = ("track", write_images(tmp_path / "images", 2))
    else:
        arguments = ("replay", write_bag(tmp_path / "bag", 2), "-o", tmp_path / "out")
    before = sorted(tmp_path.iterdir())
    files = ("--csv", tmp_path / "t.csv", "--json", tmp_path / "t.json")
    with pytest.raises(BoxError, match=message):
        run_command(*arguments, f"--box={text}", *files)
    assert sorted(tmp_path.iterdir()) == before


def test_track_source_that_is_none(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("no video")
    (tmp_path / "empty").mkdir()
    for source, message in (
        (tmp_path / "nothing.avi", "does not exist"),
        (text, "cannot be opened"),
        (tmp_path / "empty", "expected images"),
        ("73", "camera 73 cannot be opened"),
    ):
        with pytest.raises(SourceError, match=message):
            run_command("track", source, "--box", BOX)
    source = write_images(tmp_path / "images", 3)
    with pytest.raises(SourceError, match="has no frame 3"):
        run_command("track", source, "--box", BOX, "--start-frame", 3)


@pytest.mark.parametrize("command", ["track", "video2bag"])
def test_image_in_the_middle_is_broken(
    tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is skipped and named; the rest is done, and the exit code is 2."""
    source = write_images(tmp_path / "images", 6)
    (source / "4.png").write_bytes((source / "4.png").read_bytes()[:100])
    table, bag = tmp_path / "t.csv", tmp_path / "bag"
    arguments = ("--box", BOX, "--csv", table) if command == "track" else ("-o", bag)
    assert run_command(command, source, *arguments) == 2
    assert re.fullmatch(
        rf"mixformerv2 {command}: 1 image skipped, cannot be decoded; first: 4\.png: "
        r"image .*4\.png cannot be decoded: PNG image is cut off.*\n",
        capsys.readouterr().err,
    )
    if command == "track":
        assert [int(row["frame"]) for row in rows(table)] == [0, 1, 2, 4, 5]
    else:
        with BagReader(bag) as reader:
            assert len(list(images(reader, choose_image_topic(reader, None)))) == 5


def test_images_of_another_size_reset_the_target(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_images(tmp_path / "images", 6)
    for name in ("4.png", "5.png", "6.png"):
        cv2.imwrite(str(source / name), cv2.resize(cv2.imread(str(source / name)), (320, 240)))
    assert run_command("track", source, "--box", BOX, "--csv", tmp_path / "t.csv") == 0
    assert [int(row["frame"]) for row in rows(tmp_path / "t.csv")] == [0, 1, 2]
    assert capsys.readouterr().err == (
        "mixformerv2 track: image size changed from 160x120 to 320x240; targets reset: target\n"
    )


def test_outputs_are_not_overwritten(tmp_path: Path) -> None:
    source = write_images(tmp_path / "images", 2)
    table = tmp_path / "t.csv"
    table.write_text("precious")
    with pytest.raises(SourceError, match="exists, give --force"):
        run_command("track", source, "--box", BOX, "--csv", table)
    assert table.read_text() == "precious"
    assert run_command("track", source, "--box", BOX, "--csv", table, "--force") == 0
    assert len(rows(table)) == 2
    for files, message in (
        (("--csv", tmp_path / "a" / "t.csv"), "folder of output .* does not exist"),
        (("--csv", tmp_path / "x", "--json", tmp_path / "x"), "must be different"),
        (("--video", tmp_path / "t.gif"), "video must end in"),
        (("--csv", tmp_path, "--force"), "must be a file, got a folder"),
    ):
        with pytest.raises(SourceError, match=message):
            run_command("track", source, "--box", BOX, *files)


def test_video_that_ends_early_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_video(tmp_path / "clip.avi", 40)
    data = source.read_bytes()
    source.write_bytes(data[: len(data) // 2])
    code = run_command("track", source, "--box", BOX, "--csv", tmp_path / "t.csv")
    (table,) = tmp_path.glob("t*.csv")
    found = len(rows(table))
    assert 10 < found < 25
    with VideoSource(str(source)) as video:
        is_known = video.count is not None and video.count > found + 2
    error = capsys.readouterr().err
    assert (f"{found} of 40 frames could be read" in error) == is_known
    assert (code, table.name) == ((2, "t.partial.csv") if is_known else (0, "t.csv"))


def test_overlay_video_scales_frames_of_another_size(tmp_path: Path) -> None:
    video = VideoFile(tmp_path / "o.avi", 10)
    for size in ((60, 80), (30, 40), (60, 80)):
        video.write(np.zeros((*size, 3), np.uint8))
    video.close()
    with VideoSource(str(tmp_path / "o.avi")) as source:
        assert len(list(source.frames())) == 3


# --- replay --------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_replay(tmp_path: Path, storage: str, capsys: pytest.CaptureFixture[str]) -> None:
    bag = write_bag(tmp_path / "bag", 12)
    out = tmp_path / "out"
    arguments = ("--box", BOX, "--storage", storage, "--copy-images", "--csv", tmp_path / "t.csv")
    assert run_command("replay", bag, "-o", out, "--image-topic", IMAGE_TOPIC, *arguments) == 0
    assert capsys.readouterr().out == (
        f"12 frames tracked (12 TRACKING): {out}, {tmp_path / 't.csv'}\n"
    )
    assert storage_file(out).suffix == {"mcap": ".mcap", "sqlite3": ".db3"}[storage]
    with BagReader(out) as reader:
        assert sorted(reader.topics) == [IMAGE_TOPIC, "/detections", "/track"]
        copied = [image.message.data for image in images(reader, reader.topics[IMAGE_TOPIC])]
    with BagReader(bag) as reader:
        assert copied == [m.data for m in reader.messages([IMAGE_TOPIC])]
    assert [int(row["frame"]) for row in rows(tmp_path / "t.csv")] == list(range(12))


def test_replay_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", 12)
    contents = []
    for name in ("a", "b"):
        run_command("replay", bag, "-o", tmp_path / name / "out", "--box", BOX)
        contents.append(storage_file(tmp_path / name / "out").read_bytes())
    assert contents[0] == contents[1]


def test_replay_starts_where_it_is_told(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", 12)
    start = ",".join(map(str, red_box(4)))
    for name, option in (("a", ("--start-frame", 4)), ("b", ("--start-time", 3.5 * 0.05))):
        table = tmp_path / f"{name}.csv"
        arguments = ("--box", start, *option, "--max-frames", 5, "--csv", table)
        assert run_command("replay", bag, "-o", tmp_path / name, *arguments) == 0
        assert [int(row["frame"]) for row in rows(table)] == list(range(4, 9))


def test_replay_needs_a_box(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", 3)
    for arguments, message in (
        ((), "has no init boxes; give --box"),
        (("--start-frame", 1), "require --box"),
        (("--box", BOX, "--start-frame", 1, "--start-time", 1), "exclude each other"),
        (("--box", BOX, "--init-topic", "/roi"), "exclude each other"),
        (("--box", BOX, "--start-frame", 3), "belongs to image 3"),
        (("--box", BOX, "--start-time", 60), "belongs to an image recorded at"),
        (
            ("--box", BOX, "--image-topic", "/other"),
            f"on /other; image topics: {IMAGE_TOPIC}",
        ),
    ):
        with pytest.raises(SourceError, match=message):
            run_command("replay", bag, "-o", tmp_path / "out", *arguments)
        assert not (tmp_path / "out").exists()


def test_replay_of_a_damaged_bag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All that can be read is in every output, which state what is missing; then the error."""
    bag = write_bag(tmp_path / "bag", 30)
    file = storage_file(bag)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    out, table = tmp_path / "out", tmp_path / "t.csv"
    with pytest.raises(SourceError, match=r"is damaged after 1[345] messages") as caught:
        run_command("replay", bag, "-o", out, "--box", BOX, "--csv", table)
    assert "\n" not in str(caught.value)
    assert "is damaged" in (partial_reason(out) or "")
    done = len(rows(table))
    assert 13 <= done <= 15
    assert f"{done} frames tracked" in capsys.readouterr().out
    with BagReader(out) as reader:
        assert reader.topics["/track"].count == done
        assert len(list(reader.messages(["/track"]))) == done


def test_replay_does_not_destroy_its_source(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", 3)
    for out in (bag, tmp_path):
        with pytest.raises(SourceError):
            run_command("replay", bag, "-o", out, "--box", BOX, "--force")
    assert storage_file(bag).exists()
    run_command("replay", bag, "-o", tmp_path / "out", "--box", BOX)
    with pytest.raises(SourceError, match="give --force"):
        run_command("replay", bag, "-o", tmp_path / "out", "--box", BOX)
    assert run_command("replay", bag, "-o", tmp_path / "out", "--box", BOX, "--force") == 0


# --- Ctrl-C --------------------------------------------------------------------------------------


@pytest.fixture
def keyboard() -> Iterator[None]:
    """Ctrl-C as in a terminal: a shell that runs tests in the background has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("keyboard")
@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_ctrl_c_closes_everything(tmp_path: Path, engine: ActingEngine, storage: str) -> None:
    bag = write_bag(tmp_path / "bag", 12)
    engine.at, engine.action = 5, lambda: signal.raise_signal(signal.SIGINT)
    out, table, tracks = tmp_path / "out", tmp_path / "t.csv", tmp_path / "t.json"
    arguments = ("--box", BOX, "--storage", storage, "--csv", table, "--json", tracks)
    assert run_command("replay", bag, "-o", out, *arguments) == INTERRUPTED == 130
    assert not any(path.exists() for path in (out, table, tracks))
    out, table, tracks = (
        tmp_path / name for name in ("out.partial", "t.partial.csv", "t.partial.json")
    )
    assert json.loads(tracks.read_text())["complete"] is False
    assert partial_reason(out) == "interrupted"
    assert len(rows(table)) == len(json.loads(tracks.read_text())["tracks"]) == 6
    with BagReader(out) as reader:
        assert reader.topics["/track"].count == 6
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("keyboard")
def test_second_ctrl_c_interrupts_at_once(tmp_path: Path, engine: ActingEngine) -> None:
    """And still leaves a recording that can be read."""
    bag = write_bag(tmp_path / "bag", 12)

    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    engine.at, engine.action = 5, twice
    with pytest.raises(KeyboardInterrupt):
        run_command("replay", bag, "-o", tmp_path / "out", "--box", BOX)
    with BagReader(tmp_path / "out.partial") as reader:
        assert reader.topics["/track"].count == 5
    assert partial_reason(tmp_path / "out.partial") == "ended by an error"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("keyboard")
def test_ctrl_c_in_track(tmp_path: Path, engine: ActingEngine) -> None:
    source = write_images(tmp_path / "images", 12)
    engine.at, engine.action = 3, lambda: signal.raise_signal(signal.SIGINT)
    assert run_command("track", source, "--box", BOX, "--csv", tmp_path / "t.csv") == 130
    assert len(rows(tmp_path / "t.partial.csv")) == 4
    assert not (tmp_path / "t.csv").exists()


# --- video2bag -----------------------------------------------------------------------------------


@pytest.mark.parametrize("compressed", ["none", "png", "jpeg"])
@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_video2bag(tmp_path: Path, compressed: str, storage: str) -> None:
    source = write_images(tmp_path / "images", 6)
    arguments = ("--compressed", compressed, "--storage", storage, "--fps", 20)
    assert run_command("video2bag", source, "-o", tmp_path / "bag", *arguments) == 0
    with BagReader(tmp_path / "bag") as reader:
        topic = choose_image_topic(reader, None)
        assert topic.name == IMAGE_TOPIC + ("" if compressed == "none" else "/compressed")
        for i, image in enumerate(images(reader, topic)):
            frame = image.decode()
            assert frame.stamp_ns == image.arrival_ns == START_NS + i * PERIOD_NS
            assert frame.frame_id == "camera"
            difference = np.abs(frame.pixels.rgb().astype(int) - picture(i))
            # JPEG halves the resolution of colours, which shows at the targets' edges.
            assert np.median(difference) <= (2 if compressed == "jpeg" else 0)
            if compressed != "jpeg":
                assert difference.max() == 0
        assert i == 5


def test_video2bag_takes_the_videos_timing(tmp_path: Path) -> None:
    source = write_video(tmp_path / "clip.avi", 5, fps=8.0)
    options = ("--topic", "/cam", "--frame-id", "eye", "--start-stamp", 5.5)
    assert run_command("video2bag", source, "-o", tmp_path / "bag", *options) == 0
    with BagReader(tmp_path / "bag") as reader:
        found = [(i.stamp_ns, i.decode().frame_id) for i in images(reader, reader.topics["/cam"])]
    assert found == [(5_500_000_000 + i * 125_000_000, "eye") for i in range(5)]


def test_video2bag_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    source = write_images(tmp_path / "images", 4)
    contents = []
    for name in ("a", "b"):
        run_command("video2bag", source, "-o", tmp_path / name / "bag")
        contents.append(storage_file(tmp_path / name / "bag").read_bytes())
    assert contents[0] == contents[1]


def test_video2bag_refuses(tmp_path: Path) -> None:
    source = write_images(tmp_path / "images", 2)
    out = tmp_path / "bag"
    for arguments, message in (
        (("0", "-o", out), "must be a file or a folder, got camera 0"),
        ((tmp_path / "no.avi", "-o", out), "does not exist"),
        ((source, "-o", source), "must not replace its source"),
        ((source, "-o", tmp_path / "images"), "must not replace its source"),
    ):
        with pytest.raises(SourceError, match=message):
            run_command("video2bag", *arguments)
        assert not out.exists()


def test_video_to_bag_to_tracks(tmp_path: Path) -> None:
    """The way from a clip to a recording with tracks: the tracks are those of the clip."""
    source = write_images(tmp_path / "images", 15)
    run_command("video2bag", source, "-o", tmp_path / "bag", "--compressed", "png")
    arguments = ("-o", tmp_path / "out", "--csv", tmp_path / "a")
    run_command("replay", tmp_path / "bag", "--box", BOX, *arguments)
    run_command("track", source, "--box", BOX, "--csv", tmp_path / "b")
    assert [box(row) for row in rows(tmp_path / "a")] == [box(row) for row in rows(tmp_path / "b")]
