"""`--rerun`: what a file holds when it is read back; viewers that are gone or do not read."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from domains import own_domain
from nodes import frame_stamp, image, init_box
from processes import Command
from recordings import (
    PERIOD_NS,
    START_NS,
    RedEngine,
    published_settings,
    red_box,
    run_command,
    write_bag,
    write_video,
)
from waiting import wait_for

from mixformerv2_ros.errors import InstallationError, SourceError
from mixformerv2_ros.io.rerun_output import RerunOutput
from mixformerv2_ros.io.video import VideoSource
from mixformerv2_ros.tracking.events import InitRequest, Step
from mixformerv2_ros.tracking.stream import Stream, track_one

pytest.importorskip("rerun", reason="needs rerun-sdk, which is not installed")

BOX = "20,30,24,18"
FRAMES = 6


@pytest.fixture
def red(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands see red instead of loading a model."""
    monkeypatch.setattr("mixformerv2_ros.cli.shared.load_engine", lambda *args: RedEngine())


def rows(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Rows of a file by entity, in the order of the frames; static ones first."""
    chunk = pytest.importorskip("rerun.chunk", reason="needs rerun-sdk 0.41 to read its files")
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for each in chunk.RrdReader(str(path)).stream():
        batch = each.to_record_batch()
        for name, kind in zip(batch.schema.names, batch.schema.types, strict=True):
            if str(kind).startswith(("timestamp", "duration")):  # Python has microseconds only
                times = batch.column(name).cast("int64")
                batch = batch.set_column(batch.schema.get_field_index(name), name, times)
        found[each.entity_path] += batch.to_pylist()
    for entity in found.values():
        entity.sort(key=lambda row: row.get("frame", -1))
    return found


def picture_in(row: dict[str, Any]) -> np.ndarray:
    (blob,) = row["EncodedImage:blob"]
    decoded = cv2.imdecode(np.frombuffer(bytes(blob), np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    return decoded


def test_a_video_is_read_back(tmp_path: Path, red: None) -> None:
    clip, file, table = tmp_path / "clip.avi", tmp_path / "a.rrd", tmp_path / "a.csv"
    write_video(clip, FRAMES)
    assert run_command("track", clip, "--box", BOX, "--rerun", file, "--csv", table) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.csv", "a.rrd", "clip.avi"]
    found = rows(file)
    frames = found["/image"]
    assert [row["frame"] for row in frames] == list(range(FRAMES))
    assert all(picture_in(row).shape == (120, 160, 3) for row in frames)
    # The target is where the frame shows it: red, which is BGR's last channel.
    x, y, w, h = map(int, red_box(3))
    assert picture_in(frames[3])[y + h // 2, x + w // 2, 2] > 150
    boxes = found["/image/targets/target/box"]
    assert len(boxes) == FRAMES
    expected = table.read_text().splitlines()[1:]
    for row, line in zip(boxes, expected, strict=True):
        left, top, width, height = map(float, line.split(",")[3:7])
        ((cx, cy),), ((hw, hh),) = row["Boxes2D:centers"], row["Boxes2D:half_sizes"]
        assert (cx - hw, cy - hh) == pytest.approx((left, top), abs=1e-3)
        assert (2 * hw, 2 * hh) == pytest.approx((width, height), abs=1e-3)
        assert row["Boxes2D:labels"][0].startswith("target ")
    confidence = [row["Scalars:scalars"] for row in found["/confidence/target"][1:]]
    assert confidence == [[1.0]] + [[pytest.approx(0.9)]] * (FRAMES - 1)
    deviations = [row["Scalars:scalars"] for row in found["/edge_std/target"][1:]]
    assert deviations[0] == [0] * 4
    assert all(len(row) == 4 and min(row) > 0 for row in deviations[1:])
    assert found["/edge_std/target"][0]["SeriesLines:names"][1] == "target top"
    # The first image starts the target and is not searched.
    regions = found["/search_region/target"]
    assert [row["frame"] for row in regions] == list(range(1, FRAMES))
    assert picture_in(regions[0]).shape == (128, 128, 3)
    assert len(found["/image/targets/target/search_region"]) == FRAMES - 1
    assert [picture_in(row).shape for row in found["/templates/target"]] == [(64, 128, 3)]
    assert [row["TextLog:text"] for row in found["/state/target"]] == [["TRACKING"]]


def test_the_blueprint_shows_every_entity(tmp_path: Path, red: None) -> None:
    clip, file = tmp_path / "clip.avi", tmp_path / "a.rrd"
    write_video(clip, 3)
    assert run_command("track", clip, "--box", BOX, "--rerun", file) == 0
    shown = subprocess.run(
        [sys.executable, "-m", "rerun", "rrd", "print", "-vvv", str(file)],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "Blueprint" in shown
    for origin in ("/image", "/confidence", "/edge_std", "/state", "/templates/target"):
        assert f"[{origin}]" in shown


def test_a_recording_has_the_stamps_of_its_images(tmp_path: Path, red: None) -> None:
    bags = [write_bag(tmp_path / name, 3) for name in ("one", "two")]
    folder = tmp_path / "rerun"
    options = ("--box", BOX, "-o", tmp_path / "out", "--rerun", folder)
    assert run_command("replay", *bags, *options) == 0
    assert sorted(p.name for p in folder.iterdir()) == ["one.rrd", "two.rrd"]
    stamps = [row["stamp"] for row in rows(folder / "two.rrd")["/image"]]
    assert stamps == [START_NS + i * PERIOD_NS for i in range(3)]


def test_what_cannot_be_used_is_one_line(
    tmp_path: Path, red: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = write_video(tmp_path / "clip.avi", 2)
    existing = tmp_path / "a.rrd"
    existing.write_bytes(b"mine")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nobody = f"rerun+http://127.0.0.1:{unused.getsockname()[1]}/proxy"
        for destination, words in {
            tmp_path / "a.txt": r"--rerun must be \*\.rrd or connect, got",
            existing: "exists, give --force",
            tmp_path / "missing" / "a.rrd": "folder of output .* does not exist",
            "rerun+http://somewhere": "address of a Rerun viewer must be like",
            nobody: "no Rerun viewer on 127.0.0.1:",
        }.items():
            with pytest.raises(SourceError, match=words):
                run_command("track", clip, "--box", BOX, "--rerun", destination)
    assert existing.read_bytes() == b"mine"
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "rerun" else find(name)
    )
    with pytest.raises(InstallationError, match=r"pip install 'mixformerv2_ros\[rerun\]'"):
        run_command("track", clip, "--box", BOX, "--rerun", tmp_path / "b.rrd")


def test_a_viewer_that_does_not_read_delays_nothing(tmp_path: Path) -> None:
    """It accepts the connection and then never answers, like one that is suspended."""
    clip, lines = write_video(tmp_path / "clip.avi", FRAMES), []
    with socket.socket() as viewer:
        viewer.bind(("127.0.0.1", 0))
        viewer.listen()
        address = f"rerun+http://127.0.0.1:{viewer.getsockname()[1]}/proxy"
        output = RerunOutput(address, "clip", is_clock=False, live=True, warn=lines.append)
        stream = Stream(RedEngine(), published_settings())
        with VideoSource(str(clip)) as source:
            for step in track_one(stream, source.frames(), InitRequest(red_box(0))):
                if isinstance(step, Step):
                    for index in range(40):  # more than may wait
                        output.write(index, step, stream.session)
        assert output.dropped > 0
        output.close()
    assert any(line.startswith("Rerun ") for line in lines), lines
    assert any("images dropped" in line for line in lines), lines


def test_rerun_is_imported_by_those_who_ask_for_it() -> None:
    names = "track, replay, node, replay_many"
    code = f"import sys; from mixformerv2_ros.cli import {names}; print('rerun' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_node_writes_a_file(tmp_path: Path) -> None:
    pytest.importorskip("cyclonedds", reason="needs cyclonedds, which is not installed")
    from peers import Peer

    from mixformerv2_ros.ros.cyclonedds.qos_profiles import reliable

    file = tmp_path / "live.rrd"
    with own_domain(), Peer() as peer:
        camera = peer.node.create_publisher("/image", "sensor_msgs/msg/Image", reliable())
        starter = peer.node.create_publisher("/init_box", "mixformerv2_ros/msg/InitBox", reliable())
        peer.listen("/detections", "vision_msgs/msg/Detection2DArray")
        with Command("node", "--rerun", file, "-p", "num_threads:=1") as node:
            node.wait_for_line("ready: model")
            peer.wait_reliable("/image")
            wait_for(lambda: starter.subscription_count, "a subscription to init_box")
            starter.publish(init_box(red_box(0), frame_stamp(0)))
            for index in range(3):
                peer.publish_acknowledged(camera, image(index), "/detections")
            assert node.end() == 0
    found = rows(file)
    assert [row["frame"] for row in found["/image"]] == [0, 1, 2]
    assert len(found["/image/targets/target/box"]) == 3
    assert not list(tmp_path.glob("*.partial*"))
