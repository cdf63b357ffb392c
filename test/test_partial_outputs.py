"""Outputs are whole or say that they are not, and what was there before stays until then."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import resource
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from recordings import (
    PERIOD_NS,
    START_NS,
    RedEngine,
    picture,
    run_command,
    storage_file,
    write_bag,
    write_images,
    write_video,
)

from mixformerv2_ros.cli.entry import main
from mixformerv2_ros.errors import EngineError, SourceError
from mixformerv2_ros.interfaces import typestore
from mixformerv2_ros.io.bag_reader import BagReader, DamagedBagError
from mixformerv2_ros.io.bag_writer import PARTIAL_KEY, STORAGES, BagWriter
from mixformerv2_ros.io.video import CODECS, VideoFile, VideoSource
from mixformerv2_ros.model.engine import Prediction
from mixformerv2_ros.ros.messages import compressed_image_message

BOX = "20,30,24,18"
FRAMES = 12


class ActingEngine(RedEngine):
    """Does something at one frame."""

    def __init__(self) -> None:
        self.at, self.action, self.seen = -1, None, 0

    def search(self, crops: np.ndarray, memories: object, stop: object = None) -> Prediction:
        self.seen += 1
        if self.seen == self.at and self.action is not None:
            self.action()
        return super().search(crops, memories)


@pytest.fixture(autouse=True)
def engine(monkeypatch: pytest.MonkeyPatch) -> ActingEngine:
    """A small engine in place of the default bundle."""
    acting = ActingEngine()
    shared = importlib.import_module("mixformerv2_ros.cli.shared")
    monkeypatch.setattr(shared, "load_engine", lambda *_: acting)
    return acting


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file may grow beyond this, as if the disk were full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


def replay_arguments(folder: Path, storage: str = "mcap") -> list[object]:
    files = [f"--{kind}={folder / f't.{kind}'}" for kind in ("csv", "json")]
    files += [f"--video={folder / 't.mp4'}", "--copy-images", "--storage", storage]
    return [folder / "bag", "-o", folder / "out", "--box", BOX, *files]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file that is not of a partial output."""
    found = (p for p in folder.rglob("*") if p.is_file() and ".partial" not in str(p))
    return {str(p.relative_to(folder)): p.read_bytes() for p in found}


def partial_names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if ".partial" in path.name}


def raise_error() -> None:
    raise EngineError("the engine failed")


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("size", [3_000, 150_000, 0])
def test_a_failure_leaves_the_earlier_outputs(
    tmp_path: Path, engine: ActingEngine, storage: str, size: int
) -> None:
    """A full disk (after a few bytes; within the recording), or an engine that fails."""
    write_bag(tmp_path / "bag", FRAMES)
    assert run_command("replay", *replay_arguments(tmp_path, storage)) == 0
    before = contents(tmp_path)
    assert not partial_names(tmp_path)
    engine.seen, engine.at, engine.action = 0, 6, None if size else raise_error
    with largest_file(size or 2**40), pytest.raises((SourceError, EngineError)) as error:
        run_command("replay", *replay_arguments(tmp_path, storage), "--force")
    assert "\n" not in str(error.value)
    assert contents(tmp_path) == before
    engine.at = -1
    assert run_command("replay", *replay_arguments(tmp_path, storage), "--force") == 0
    assert contents(tmp_path) == before
    assert not partial_names(tmp_path)


def test_an_engine_that_fails_leaves_marked_outputs(tmp_path: Path, engine: ActingEngine) -> None:
    write_bag(tmp_path / "bag", FRAMES)
    engine.at, engine.action = 6, raise_error
    with pytest.raises(EngineError):
        run_command("replay", *replay_arguments(tmp_path))
    assert partial_names(tmp_path) == {"out.partial", "t.partial.csv", "t.partial.json"} | {
        "t.partial.mp4"
    }
    document = json.loads((tmp_path / "t.partial.json").read_text())
    assert (document["complete"], document["reason"]) == (False, "the engine failed")
    about = yaml.safe_load((tmp_path / "out.partial" / "metadata.yaml").read_text())
    marks = about["rosbag2_bagfile_information"]["custom_data"]
    assert marks == {PARTIAL_KEY: "the engine failed"}
    with VideoSource(str(tmp_path / "t.partial.mp4")) as video:
        assert len(list(video.frames())) == len(document["tracks"]) == 6


def test_a_video_that_cannot_be_written_is_found_first(tmp_path: Path) -> None:
    """Nothing is left, and nothing that was there is touched."""
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(3):
        assert cv2.imwrite(str(folder / f"{i}.png"), np.zeros((10, 9000, 3), np.uint8))
    table = tmp_path / "t.csv"
    table.write_text("earlier")
    before = set(tmp_path.iterdir())
    arguments = ("--box", "0,0,99,9", "--csv", table, "--video", tmp_path / "v.mp4", "--force")
    with pytest.raises(SourceError, match=r"v\.partial\.mp4 cannot be written: 9000x10"):
        run_command("track", folder, *arguments)
    assert table.read_text() == "earlier"
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("storage", STORAGES)
def test_killed(tmp_path: Path, engine: ActingEngine, storage: str) -> None:
    """What is left has a partial name and can be read as far as it was on the disk."""
    write_bag(tmp_path / "bag", 60)
    engine.at, engine.action = 55, lambda: os.kill(os.getpid(), signal.SIGKILL)
    child = multiprocessing.get_context("fork").Process(
        target=run_command, args=("replay", *replay_arguments(tmp_path, storage))
    )
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    assert set(contents(tmp_path)) == {"bag/bag.mcap", "bag/metadata.yaml"}
    assert len(json.loads((tmp_path / "t.partial.json").read_text())["tracks"]) == 55
    count = 0
    with BagReader(tmp_path / "out.partial" / "out") as reader:  # noqa: SIM117
        with pytest.raises(DamagedBagError):  # noqa: PT012
            for _ in reader.messages(list(reader.topics)):
                count += 1
    assert count > 30
    engine.at = -1
    assert run_command("replay", *replay_arguments(tmp_path, storage)) == 0
    assert not partial_names(tmp_path)


def test_foreign_files_are_never_removed(tmp_path: Path) -> None:
    write_bag(tmp_path / "bag", 2)
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "thesis.txt").write_text("precious")
    with pytest.raises(SourceError, match=r"out\.partial is a folder without a recording"):
        run_command("replay", *replay_arguments(tmp_path), "--force")
    assert (tmp_path / "out.partial" / "thesis.txt").exists()


@pytest.mark.parametrize("size", [3_000, 150_000])
def test_full_disk_in_video2bag(tmp_path: Path, size: int) -> None:
    source = write_images(tmp_path / "images", FRAMES)
    assert run_command("video2bag", source, "-o", tmp_path / "bag") == 0
    before = storage_file(tmp_path / "bag").read_bytes()
    with largest_file(size), pytest.raises(SourceError, match="cannot be written"):
        run_command("video2bag", source, "-o", tmp_path / "bag", "--force")
    assert storage_file(tmp_path / "bag").read_bytes() == before


def test_skipped_images_are_stated_in_the_outputs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The source was read to its end: the outputs have their names, with a mark inside."""
    source = write_images(tmp_path / "images", FRAMES)
    (source / "7.png").write_bytes((source / "7.png").read_bytes()[:60])
    tracks = tmp_path / "t.json"
    assert run_command("track", source, "--box", BOX, "--json", tracks) == 2
    document = json.loads(tracks.read_text())
    assert document["complete"] is False
    assert document["reason"] == "1 image skipped, cannot be decoded"
    assert run_command("video2bag", source, "-o", tmp_path / "bag") == 2
    about = yaml.safe_load((tmp_path / "bag" / "metadata.yaml").read_text())
    assert PARTIAL_KEY in about["rosbag2_bagfile_information"]["custom_data"]
    assert capsys.readouterr().err.count("\n") == 2


def test_a_skipped_image_of_a_recording_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    types = typestore().types
    with BagWriter(tmp_path / "bag", "mcap") as writer:
        for index in range(FRAMES):
            data = cv2.imencode(".jpg", picture(index)[..., ::-1])[1].reshape(-1)
            stamp = START_NS + index * PERIOD_NS
            message = compressed_image_message(
                types, data[: 200 if index == 3 else None], "jpeg", stamp, "camera"
            )
            writer.write("/image/compressed", "sensor_msgs/msg/CompressedImage", message, stamp)
    assert run_command("replay", tmp_path / "bag", "--box", BOX, "-o", tmp_path / "out") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mixformerv2 replay: 1 image skipped, cannot be decoded; first: image 3")


def test_links_and_pipes_as_outputs(tmp_path: Path) -> None:
    source = write_images(tmp_path / "images", 3)
    (tmp_path / "real.csv").write_text("old")
    (tmp_path / "link.csv").symlink_to("real.csv")
    arguments = ("--box", BOX, "--force", "--csv")
    assert run_command("track", source, *arguments, tmp_path / "link.csv") == 0
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "real.csv").read_text().count("\n") == 4
    os.mkfifo(tmp_path / "pipe")
    with ThreadPoolExecutor() as pool:
        text = pool.submit((tmp_path / "pipe").read_text)
        assert run_command("track", source, *arguments, tmp_path / "pipe") == 0
        assert text.result(timeout=60) == (tmp_path / "real.csv").read_text()
    assert not partial_names(tmp_path)


@pytest.mark.parametrize("fps", [0.001, 23.976, 59.94, 66.667, 99.987, 211.222, 655.357, 9999.5])
@pytest.mark.parametrize("suffix", list(CODECS))
def test_frame_rates_of_overlay_videos(
    tmp_path: Path, suffix: str, fps: float, capfd: pytest.CaptureFixture[str]
) -> None:
    """Every codec takes every rate, to a thousandth of it, and no library prints a line."""
    video = VideoFile(tmp_path / f"v{suffix}", fps)
    for i in range(9):
        video.write(np.full((240, 320, 3), 20 * i, np.uint8))
    video.close()
    with VideoSource(str(tmp_path / f"v{suffix}")) as source:
        assert len(list(source.frames())) == 9
        assert source.fps == pytest.approx(min(max(fps, 0.01), 1000), rel=1e-3, abs=0.002) or (
            source.fps == 30
        )
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def quiet() -> Iterator[None]:
    """OpenCV as the command loads it; here it has been loaded before."""
    logging = cv2 if hasattr(cv2, "setLogLevel") else cv2.utils.logging  # until 4.6, and since
    level = logging.getLogLevel()
    logging.setLogLevel(0)  # LOG_LEVEL_SILENT
    yield
    logging.setLogLevel(level)


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize(
    "source",
    [
        lambda folder: "2147483648",
        lambda folder: "9" * 5000,
        lambda folder: "77",
        lambda folder: write(folder / "text.mp4", b"hello"),
        lambda folder: write(folder / "empty.mp4", b""),
        lambda folder: write(folder / "noise.avi", bytes(range(256)) * 99),
        lambda folder: write(folder / "cut.mkv", b"\x1a\x45\xdf\xa3" + bytes(500)),
        lambda folder: write(folder / "images" / "0.png", b"").parent,
        lambda folder: write(folder / "images" / "0.jpg", b"\xff\xd8\xff\xe0" + bytes(90)).parent,
        lambda folder: write(folder / "images" / "0.png", b"\x89PNG\r\n\x1a\n" + bytes(90)).parent,
        lambda folder: write(folder / "images" / "0.tif", b"II*\0" + bytes(90)).parent,
        lambda folder: write(folder / "images" / "0.webp", b"RIFF    WEBPVP8 ").parent,
        pytest.param(
            lambda folder: write(folder / "images" / "0.bmp", b"BM" + b"\xff" * 90).parent,
            marks=pytest.mark.skipif(
                cv2.__version__.startswith("4.6."),
                reason="OpenCV 4.6 prints a line of its own about this file",
            ),
        ),
        lambda folder: write(folder / "images" / "0.ppm", b"P6 99999999 99999999 255\n").parent,
    ],
)
def test_source_that_is_none_is_one_line(
    tmp_path: Path, source: Callable[[Path], object], capfd: pytest.CaptureFixture[str]
) -> None:
    for command in (["track", "--box", BOX], ["video2bag", "-o", str(tmp_path / "out")]):
        assert main([command[0], str(source(tmp_path)), *command[1:]]) == 2
        error = capfd.readouterr().err
        assert error.startswith(f"mixformerv2 {command[0]}: ")
        assert error.count("\n") == 1
        assert len(error) < 600


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return path


def test_names_that_are_no_text(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Folders of old machines: bytes that are not UTF-8."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9 1"))
    write_video(tmp_path / "clip.avi", 3)
    source = write_images(tmp_path / "images", 3)
    folder.mkdir()
    source = source.rename(folder / "images")
    clip = (tmp_path / "clip.avi").rename(folder / "clip.avi")
    assert main(["video2bag", str(source), "-o", str(folder / "bag")]) == 0
    outputs = ["-o", str(folder / "out"), "--csv", str(folder / "t.csv")]
    outputs += ["--json", str(folder / "t.json")]
    assert main(["replay", str(folder / "bag"), "--box", BOX, *outputs]) == 0
    assert json.loads((folder / "t.json").read_text())["complete"] is True
    assert capfd.readouterr().err == ""
    # OpenCV would end the process.
    for arguments in ([str(source), "--video", str(folder / "t.mp4")], [str(clip)]):
        assert main(["track", *arguments, "--box", BOX]) == 2
        assert "name of a video must be UTF-8" in capfd.readouterr().err


def test_recording_without_an_image_that_can_be_decoded_is_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    types, bag = typestore().types, tmp_path / "bag"
    with BagWriter(bag) as writer:
        for stamp in range(START_NS, START_NS + 3 * PERIOD_NS, PERIOD_NS):
            message = compressed_image_message(
                types, np.zeros(8, np.uint8), "jpeg", stamp, "camera"
            )
            writer.write("/images", "sensor_msgs/msg/CompressedImage", message, stamp)
    assert main(["replay", str(bag), "--box", BOX, "-o", str(tmp_path / "out")]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "3 images skipped, cannot be decoded; first: image 0 of the recording" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("topic", ["", "a b", "/a//b", "/1"])
def test_name_that_no_topic_has_is_one_line(
    topic: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = write_images(tmp_path / "images", 3)
    output = tmp_path / "bag"
    assert main(["video2bag", str(source), "-o", str(output), "--topic", topic]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert f"topic must consist of letters, digits, _ and /, got {topic!r}" in line
    assert not output.exists()


def test_stamp_beyond_its_message_is_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = write_images(tmp_path / "images", 3)
    options = ["--fps", "0.001", "--start-stamp", str(2**31 - 1), "-o", str(tmp_path / "bag")]
    assert main(["video2bag", str(source), *options]) == 2
    assert capfd.readouterr().err.count("\n") == 1
    assert partial_names(tmp_path) == {"bag.partial"}


@pytest.mark.parametrize("number", ["9" * 25, "9" * 400, "9" * 5000, "1e400", "-" + "9" * 30])
@pytest.mark.parametrize(
    "option",
    ["--start-frame", "--max-frames", "--fps", "--num-threads", "--search-factor", "--box"],
)
def test_numbers_beyond_all_limits_are_one_line(
    tmp_path: Path, option: str, number: str, capfd: pytest.CaptureFixture[str]
) -> None:
    source = write_images(tmp_path / "images", 2)
    value = ",".join([number] * 4) if option == "--box" else number
    assert main(["track", str(source), "--box", BOX, f"{option}={value}"]) == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1
    assert len(error) < 600
