"""The tracker node on DDS, as a process of its own and within this one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from nodes import BUNDLE, TYPES, content, frame_stamp, image, init_box
from recordings import RedEngine, red_box, run_command, write_bag

pytest.importorskip("cyclonedds", reason="needs cyclonedds, which is not installed")

from peers import Command, Peer, own_domain, wait_for

from mixformerv2_ros.bags.reader import BagReader
from mixformerv2_ros.bags.replay import images
from mixformerv2_ros.bags.writer import BagWriter
from mixformerv2_ros.dds import qos as profiles
from mixformerv2_ros.dds.names import NodeNames
from mixformerv2_ros.dds.node import Node
from mixformerv2_ros.dds.tracker_node import TrackerNode
from mixformerv2_ros.dds.types import dds_type, message_type, sample, type_hash, type_name
from mixformerv2_ros.inference.bundle import DEFAULT_BUNDLE
from mixformerv2_ros.live.middleware import IMAGES, INITS, OUTPUTS
from mixformerv2_ros.live.model import Model
from mixformerv2_ros.messages import header_message, image_message, stamp_ns
from mixformerv2_ros.tracking.session import State

needs_model = pytest.mark.skipif(
    not DEFAULT_BUNDLE.is_dir(), reason="the default bundle is not built yet"
)

IMAGE = "sensor_msgs/msg/Image"
TRACK = "mixformerv2_ros/msg/Track"
INIT_BOX = "mixformerv2_ros/msg/InitBox"
DIAGNOSTICS = "diagnostic_msgs/msg/DiagnosticArray"


@pytest.fixture(autouse=True, scope="module")
def domain() -> Iterator[int]:
    with own_domain() as number:
        yield number


@pytest.fixture
def peer() -> Iterator[Peer]:
    with Peer() as node:
        yield node


class Local:
    """The tracker node in this process, with an engine that sees red."""

    def __init__(self, *, names: NodeNames | None = None, sim_time: bool = False, **values: Any):
        self.lines: list[str] = []
        self.node = Node(names or NodeNames("tracker"), self._log, sim_time=sim_time)
        values = {name.replace("__", "."): value for name, value in values.items()}
        model = Model(BUNDLE, RedEngine())  # type: ignore[arg-type]
        self.tracking = TrackerNode(model, values, self.node)
        import threading

        self._ended = threading.Event()
        self._thread = threading.Thread(target=self.node.spin, args=(self._ended.is_set,))

    def __enter__(self) -> Local:
        self.tracking.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()
        self.tracking.__exit__(None, None, None)
        self.node.close()

    def _log(self, level: Any, text: str) -> None:
        self.lines.append(text)


def real_bag(folder: Path, shared_data: Path, count: int) -> tuple[Path, str]:
    """Real frames as a recording, and the target's box in the first one."""
    sequence = shared_data / "sequences" / "Crossing"
    first = (sequence / "groundtruth_rect.txt").read_text().split("\n")[0]
    box = ",".join(first.replace(",", " ").split())
    path = folder / "real"
    with BagWriter(path) as writer:
        for i, file in enumerate(sorted((sequence / "img").iterdir())[:count]):
            message = image_message(TYPES, cv2.imread(str(file)), "bgr8", frame_stamp(i), "cam")
            writer.write("/camera/image_raw", IMAGE, message, frame_stamp(i))
    return path, box


@needs_model
def test_a_process_tracks_what_a_replay_tracks(
    tmp_path: Path, shared_data: Path, peer: Peer
) -> None:
    """Real frames over DDS, none dropped: the same numbers as `mixformerv2 replay`, bit by bit."""
    bag, box = real_bag(tmp_path, shared_data, 20)
    assert run_command("replay", bag, "-o", tmp_path / "out", "--box", box) == 0
    with BagReader(tmp_path / "out") as reader:
        expected = [
            content(reader.deserialize(message)) for message in reader.messages(["/track"])
        ]
    camera = peer.node.advertise("/camera/image_raw", IMAGE, profiles.reliable())
    starter = peer.node.advertise("/init_box", INIT_BOX, profiles.reliable())
    peer.listen("/track", TRACK)
    peer.listen("/detections", OUTPUTS["detections"])
    with Command("node", "-r", "image:=/camera/image_raw", "-p", "num_threads:=1") as node:
        node.wait_for_line("ready: model")
        peer.wait_reliable("/camera/image_raw")
        wait_for(lambda: starter.subscribers, "a subscription to init_box")
        with BagReader(bag) as reader:
            messages = [entry.content for entry in images(reader, reader.topics["/camera/image_raw"])]
        x, y, w, h = map(float, box.split(","))
        starter.publish(init_box((x, y, w, h), frame_stamp(0)))
        for message in messages:
            peer.publish_acknowledged(camera, message, "/detections")
        assert node.end() == 0
    assert [content(message) for message in peer.heard["/track"]] == expected
    assert peer.stamps("/detections") == peer.stamps("/track")
    assert all(message.latency.nanosec > 0 for message in peer.heard["/track"])
