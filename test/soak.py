"""Does the node grow? Feeds it over DDS for a while and weighs it: `make soak SECONDS=1800`.

Two listeners (`mixformerv2 echo`), a page that is looked at, a MAVLink camera with a ground
station, a detector, and a recorder, which writes images and tracks to a recording, take part; at
the end the recording must hold what was published.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from domains import own_domain
from nodes import TYPES, free_port, init_box
from peers import Peer
from processes import Command
from processes_weight import resident_megabytes
from ranging import track
from tornado.websocket import websocket_connect
from tqdm import tqdm
from waiting import wait_for

os.environ["MAVLINK20"] = "1"
from pymavlink import mavutil

from mixformerv2_ros.io.bag_writer import BagWriter
from mixformerv2_ros.ros.cyclonedds import qos_profiles as profiles
from mixformerv2_ros.ros.messages import detections_message, image_message
from mixformerv2_ros.ros.topics import DETECTOR, INITS, OUTPUTS
from mixformerv2_ros.tracking.boxes import Box

HEIGHT, WIDTH = 480, 640
USED = ("-p", "detector.reacquire:=true", "-p", "detector.correct_frames:=30")
"""Parameters with which the node works on detections."""
WARM_UP_S = 15.0
"""The buffer of recent images and the engine's arena fill up at first."""


def scene(index: int) -> np.ndarray:
    """A textured target on a textured ground; (HEIGHT, WIDTH, 3) uint8."""
    image = np.roll(GROUND, index, axis=1)
    x, y = 150 + 2 * index, 150 + index
    image[y : y + 90, x : x + 120] = TARGET
    return image


NOISE = np.random.default_rng(1)
GROUND = NOISE.integers(60, 120, (HEIGHT, WIDTH, 3), np.uint8)
TARGET = NOISE.integers(150, 255, (90, 120, 3), np.uint8)


class Looker:
    """Looks at the page and listens to the camera, in threads of its own, and counts what comes."""

    def __init__(self, page: str, camera_port: int) -> None:
        self.pictures = self.statuses = 0
        self._ended = threading.Event()
        self._page = page
        self._station = mavutil.mavlink_connection(
            f"udpout:127.0.0.1:{camera_port}", dialect="common"
        )
        works = (lambda: asyncio.run(self._look()), self._listen)
        self._threads = [threading.Thread(target=work) for work in works]

    def __enter__(self) -> Looker:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()
        self._station.close()

    async def _look(self) -> None:
        socket = await websocket_connect(f"ws{self._page.removeprefix('http')}socket")
        while not self._ended.is_set():
            message = await socket.read_message()
            if message is None:
                return
            if isinstance(message, bytes):
                self.pictures += 1
                await socket.write_message('{"kind": "shown"}')
        socket.close()

    def _listen(self) -> None:
        while not self._ended.is_set():
            self._station.mav.heartbeat_send(6, 8, 0, 0, 0)
            if self._station.recv_match(
                type="CAMERA_TRACKING_IMAGE_STATUS", blocking=True, timeout=1
            ):
                self.statuses += 1


class Recorder:
    """Writes the messages of two topics to a recording, in a thread of its own."""

    def __init__(self, folder: Path) -> None:
        self._peer = Peer("recorder")
        self._writer = BagWriter(folder)
        self.counts = {"/image": 0, "/track": 0}
        for topic, msgtype in (("/image", "sensor_msgs/msg/Image"), ("/track", OUTPUTS["track"])):
            self._peer.node.create_subscription(
                topic, msgtype, partial(self._write, topic, msgtype), profiles.reliable(30)
            )

    def __enter__(self) -> Recorder:
        self._peer.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._peer.__exit__(*error)
        self._writer.close()

    def _write(self, topic: str, msgtype: str, message: Any) -> None:
        if topic == "/image":  # of an hour of images only the headers fit on a disk
            message.height = message.width = message.step = 0
            message.data = message.data[:0]
        self.counts[topic] += 1
        self._writer.write(topic, msgtype, message, time.time_ns())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="after a warm-up of 15 s")
    parser.add_argument("--rate", type=float, default=30.0, help="images per second")
    parser.add_argument("--limit", type=float, default=5.0, help="MB that the node may grow")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        stack.enter_context(own_domain())
        return soak(args, Path(folder) / "recording", stack)


def soak(args: argparse.Namespace, recording: Path, stack: ExitStack) -> int:
    """Feed the node, then print what was weighed; 0 if nothing grew and nothing is missing."""
    frames = [scene(i) for i in range(60)]
    # Few images are kept, or a camera that stumbles would show as memory that comes and goes.
    node = stack.enter_context(Command("node", "-p", "buffer.frames:=10", *USED))
    node.wait_for_line("ready: model")
    page = stack.enter_context(Command("web", "/image", "--dds", "--port", 0))
    port = free_port()
    words = ("mavlink", "--dds", "--connection", f"udpin:127.0.0.1:{port}")
    ground = stack.enter_context(Command(*words))
    ground.wait_for_line("camera 1/100")
    address = page.wait_for_line("page: ").partition("page: ")[2]
    looker = stack.enter_context(Looker(address, port))
    listeners = [stack.enter_context(Command("echo", "/track")) for _ in range(2)]
    peer = stack.enter_context(Peer())
    camera = peer.node.create_publisher("/image", "sensor_msgs/msg/Image", profiles.reliable(2))
    starter = peer.node.create_publisher("/init_box", INITS["init_box"], profiles.reliable())
    peer.listen("/diagnostics", OUTPUTS["/diagnostics"])
    recorder = Recorder(recording)
    stack.enter_context(recorder)
    detector = peer.node.create_publisher("/detector", DETECTOR[1], profiles.reliable())
    wait_for(lambda: camera.subscription_count >= 3, "node, page and recorder")
    wait_for(lambda: starter.subscription_count, "a subscription to init_box")
    wait_for(lambda: len(peer.requested("/track")) == 5, "who listens to tracks")
    starter.publish(init_box((150, 150, 120, 90)))
    processes = {"node": node, "page": page, "MAVLink camera": ground}
    processes |= {"listener 1": listeners[0], "listener 2": listeners[1]}
    weights: dict[str, list[tuple[float, float]]] = {name: [] for name in processes}
    begin = time.monotonic()
    sent, heard = 0, [0, 0]
    with tqdm(total=round(WARM_UP_S + args.seconds), unit="s", disable=None) as bar:
        while (now := time.monotonic() - begin) < WARM_UP_S + args.seconds:
            pixels = frames[sent % len(frames)]
            stamp = time.time_ns()
            camera.publish(image_message(TYPES, pixels, "bgr8", stamp, "cam"))
            place = sent % len(frames)
            found = Box(150 + 2 * place, 150 + place, 120, 90)
            detector.publish(detections_message(TYPES, [track(box=found)], stamp, "cam"))
            sent += 1
            if now > len(weights["node"]):
                for name, each in processes.items():
                    weights[name].append((now, resident_megabytes(each.process.pid)))
                bar.update(len(weights["node"]) - bar.n)
                for index, each in enumerate(listeners):
                    heard[index] += each.output.count("---")
                    each.output.clear()
            time.sleep(max(0.0, begin + sent / args.rate - time.monotonic()))
    status = peer.heard["/diagnostics"][-1].status[0]
    values = {pair.key: pair.value for pair in status.values}
    processed = int(values["images processed"])
    wait_for(lambda: recorder.counts["/track"] >= processed, "the last tracks in the recording")
    for index, each in enumerate(listeners):
        each.end()
        heard[index] += each.output.count("---")
    for key in ("rate (Hz)", "latency p50 (ms)", "latency p95 (ms)", "image age p95 (ms)",
                "images received", "images dropped", "images lost (middleware)",
                "images not decodable", "images buffered"):  # fmt: skip
        print(f"{key:24} {values[key]}")
    print(f"{'images sent':24} {sent}; recorded {recorder.counts}; listeners heard {heard}")
    print(f"{'pictures on the page':24} {looker.pictures}; MAVLink status {looker.statuses}")
    grown = {name: growth(name, np.array(found)) for name, found in weights.items()}
    complete = recorder.counts["/track"] >= processed and min(heard) >= processed
    return 0 if complete and max(grown.values()) < args.limit else 1


def growth(name: str, weights: np.ndarray) -> float:
    """Megabytes that came on top from the first to the last third after the warm-up."""
    steady = weights[weights[:, 0] >= WARM_UP_S]
    third = max(1, len(steady) // 3)
    grew = float(np.median(steady[-third:, 1]) - np.median(steady[:third, 1]))
    marks = weights[:: max(1, len(weights) // 8)]
    shown = ", ".join(f"{at:.0f} s {weight:.1f}" for at, weight in marks)
    print(f"{name}: resident MB {shown}; grew {grew:.2f} MB")
    return grew


if __name__ == "__main__":
    sys.exit(main())
