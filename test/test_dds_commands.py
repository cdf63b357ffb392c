"""`play` as a camera and `echo` as a listener, in processes of their own."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from nodes import TYPES, frame_stamp, image, init_box
from recordings import PERIOD_NS, red_box, storage_file, write_bag

pytest.importorskip("cyclonedds", reason="needs cyclonedds, which is not installed")

from domains import own_domain
from peers import Peer
from processes import Command
from waiting import wait_for

from mixformerv2_ros.cli import main
from mixformerv2_ros.cli.echo import as_yaml
from mixformerv2_ros.io.bag_reader import BagReader
from mixformerv2_ros.io.bag_writer import BagWriter
from mixformerv2_ros.ros.cyclonedds import qos_profiles as profiles
from mixformerv2_ros.ros.messages import detections_message, stamp_ns, track_message
from mixformerv2_ros.ros.topics import INITS, OUTPUTS
from mixformerv2_ros.tracking.boxes import Box
from mixformerv2_ros.tracking.session import State, Track

IMAGE = "sensor_msgs/msg/Image"
TOPIC = "/camera/image_raw"


@pytest.fixture(autouse=True, scope="module")
def domain() -> Iterator[int]:
    with own_domain() as number:
        yield number


@pytest.fixture
def peer() -> Iterator[Peer]:
    with Peer() as node:
        yield node


def test_play_keeps_the_time_of_the_recording(tmp_path: Path, peer: Peer) -> None:
    bag = write_bag(tmp_path / "bag", 20)
    peer.listen(TOPIC, IMAGE)
    peer.listen("/clock", "rosgraph_msgs/msg/Clock")
    with Command("play", bag, "--rate", 2, "--clock", 50) as player:
        wait_for(lambda: len(peer.heard[TOPIC]) == 20, "the images")
        player.wait_for_line("played 20 messages")
        assert player.end() == 0
    assert peer.stamps(TOPIC) == [frame_stamp(i) for i in range(20)]
    took = peer.times[TOPIC][-1] - peer.times[TOPIC][0]
    assert took == pytest.approx(19 * PERIOD_NS / 1e9 / 2, abs=0.15)
    with BagReader(bag) as reader:
        first = next(reader.messages([TOPIC]))
        expected = reader.deserialize(first)
    assert bytes(peer.heard[TOPIC][0].data) == bytes(expected.data)
    clock = [m.clock.sec * 10**9 + m.clock.nanosec for m in peer.heard["/clock"]]
    assert clock == sorted(clock)
    assert len(clock) >= 20
    assert 0 <= clock[-1] - (frame_stamp(19) + 1000) < 10**9


def test_a_recording_goes_through_the_node_to_the_listener(tmp_path: Path, peer: Peer) -> None:
    """Camera, node and listener are three processes; the box is recorded after its image."""
    bag = tmp_path / "bag"
    with BagWriter(bag) as writer:
        for i in range(30):
            writer.write(TOPIC, IMAGE, image(i), frame_stamp(i))
            if i == 4:
                box = init_box(red_box(2), frame_stamp(2), "dog")
                writer.write("/init_box", INITS["init_box"], box, frame_stamp(4) + 1000)
    peer.listen("/track", OUTPUTS["track"])
    words = ("-p", "use_sim_time:=true", "-r", f"image:={TOPIC}")
    with Command("node", *words) as node, Command("echo", "/track", "--timeout", 60) as echo:
        node.wait_for_line("ready: model")
        wait_for(
            lambda: peer.node.participant.subscriptions_of("/init_box"),
            "a subscription to init_box",
        )
        with Command("play", bag, "--clock", "--rate", 0.5, "--wait", 30) as player:
            player.wait_for_line("played 31 messages")
        wait_for(lambda: frame_stamp(29) in peer.stamps("/track"), "the last track")
        wait_for(lambda: echo.output.count("---") == len(peer.heard["/track"]), "the echo")
        assert node.end() == 0
        assert echo.end() == 0
    tracks = {stamp_ns(track): track for track in peer.heard["/track"]}
    assert sorted(tracks) == peer.stamps("/track")
    assert [line for line in node.lines if "tracking dog" in line], node.lines
    last = tracks[frame_stamp(29)]
    assert (last.target_id, last.header.frame_id) == ("dog", "cam")
    read = list(yaml.safe_load_all("\n".join(echo.output)))[:-1]
    assert [document["target_id"] for document in read][-1] == "dog"


def test_play_loops_until_it_is_stopped(tmp_path: Path, peer: Peer) -> None:
    bag = write_bag(tmp_path / "bag", 3)
    peer.listen("/cam", IMAGE)
    with Command("play", bag, "--rate", 10, "--loop", "-r", f"{TOPIC}:=/cam") as player:
        wait_for(lambda: len(peer.heard["/cam"]) >= 7, "the images")
        player.process.send_signal(2)
        assert player.end() == 0
    assert peer.stamps("/cam")[:7] == [frame_stamp(i) for i in (0, 1, 2, 0, 1, 2, 0)]


def test_a_damaged_recording_is_played_up_to_the_damage(tmp_path: Path, peer: Peer) -> None:
    bag = write_bag(tmp_path / "bag", 8)
    file = storage_file(bag)
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    peer.listen(TOPIC, IMAGE)
    with Command("play", bag, "--rate", 10) as player:
        assert player.process.wait(60) == 2
        assert player.end() == 2
    assert "is damaged after" in player.lines[-1]
    wait_for(lambda: len(peer.heard[TOPIC]) >= 2, "the images before the damage")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--topics", "/nothing"], "has no topic /nothing; topics: /camera/image_raw"),
        (["--rate", "0"], "--rate: must be a number from 0.01 to 100, got '0'"),
        (["--rate", "nan"], "--rate: must be a number from 0.01 to 100, got 'nan'"),
        (["--clock", "0"], "--clock: must be a number from 1 to 1000, got '0'"),
        (["-r", "x"], "remapping rule must be FROM:=TO"),
    ],
)
def test_wrong_words_are_refused(
    tmp_path: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["play", str(write_bag(tmp_path / "bag", 1)), *words]) == 2
    assert said in capsys.readouterr().err


def test_play_needs_a_recording(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["play", str(tmp_path / "none")]) == 2
    assert "does not exist" in capsys.readouterr().err


def make_track(index: int) -> Track:
    std = (1.0, 2.0, 3.0, 4.0)
    box = Box(10, 20, 30, 40)
    return Track("dog", frame_stamp(index), "cam", box, 0.5, std, State.TRACKING, 0, False, 4)


def test_echo_prints_what_is_published(peer: Peer) -> None:
    publisher = peer.node.create_publisher("/drone/track", OUTPUTS["track"], profiles.reliable())
    with Command("echo", "track", "--namespace", "/drone", "-n", 2) as echo:
        peer.wait_reliable("/drone/track")
        for i in range(3):
            publisher.publish(track_message(TYPES, make_track(i), 7_000_000))
        assert echo.process.wait(60) == 0
        assert echo.end() == 0
    first, second, rest = yaml.safe_load_all("\n".join(echo.output))
    assert rest is None
    assert first["header"]["frame_id"] == "cam"
    assert first["box"]["center"]["position"] == {"x": 25.0, "y": 40.0}
    assert first["edge_std"] == [1.0, 2.0, 3.0, 4.0]
    assert first["latency"] == {"sec": 0, "nanosec": 7_000_000}
    assert first["state"] == 1
    assert second["header"]["stamp"]["nanosec"] == PERIOD_NS
    assert "TRACKING" not in first


def test_echo_names_what_is_published_instead(
    peer: Peer, capsys: pytest.CaptureFixture[str]
) -> None:
    peer.node.create_publisher("/there", IMAGE, profiles.reliable())
    assert main(["echo", "/nowhere", "--timeout", "0.5"]) == 2
    assert "no publisher on /nowhere; topics found: /there" in capsys.readouterr().err
    assert main(["echo", "/there", "--type", "no/msg/Type"]) == 2
    assert "unknown message type no/msg/Type" in capsys.readouterr().err


def test_long_arrays_are_cut_and_texts_are_harmless() -> None:
    message = image(0)
    message.header.frame_id = "a\x1b[31m\nb"
    text = as_yaml(message)
    assert len(text) < 1000
    assert "\x1b" not in text
    read = yaml.safe_load(text)
    assert len(read["data"]) == 41
    assert read["data"][39:] == [90, "... 57600 values"]
    assert read["header"]["frame_id"] == "a\x1b[31m\nb"
    tracks = [dataclasses.replace(make_track(0), confidence=1e-7)] * 2
    listed = yaml.safe_load(as_yaml(detections_message(TYPES, tracks, 0, "cam")))
    assert [d["id"] for d in listed["detections"]] == ["dog", "dog"]
    assert listed["detections"][1]["bbox"]["size_x"] == 30.0
    # A number, which YAML takes `1e-07` not for.
    assert listed["detections"][1]["results"][0]["hypothesis"]["score"] == 1e-7
