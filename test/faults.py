"""What becomes of a running node when something goes wrong: `make faults`.

Every fault is brought about around `mixformerv2 node` with the default weights, over DDS, with
640x480 images at 30 Hz; what the node then does is measured and printed as a row of the table in
docs/reliability.md. Faults of files and disks are tests (`test_partial_outputs.py`), and so are
engines that fail (`test_engine_chain.py`).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from domains import own_domain
from nodes import TYPES, init_box
from peers import Peer
from processes import Command
from soak import scene
from waiting import wait_for

from mixformerv2_ros.ros.cyclonedds import qos_profiles as profiles
from mixformerv2_ros.ros.messages import image_message, stamp_ns
from mixformerv2_ros.ros.topics import COMMANDS, INITS, OUTPUTS, SET_PARAMETER
from mixformerv2_ros.tracking.session import State

IMAGE = "sensor_msgs/msg/Image"
PERIOD = 1 / 30
BOX = (150, 150, 120, 90)
FRAMES = [scene(i) for i in range(60)]


@dataclass
class Rig:
    """A node with a camera, a starter and somebody who listens.

    Attributes:
        node: The process.
        peer: Publishes and listens.
        camera: Publisher of the images.
        starter: Publisher of init boxes.
        sent: Stamp of every image that was sent.
        ended: Whether the node was ended on purpose.
    """

    node: Command
    peer: Peer
    camera: Any
    starter: Any
    sent: list[int] = field(default_factory=list)
    ended: bool = False

    @property
    def tracks(self) -> list[Any]:
        return self.peer.heard["/track"]

    def send(self, pixels: Any = None, encoding: str = "bgr8", stamp: int | None = None) -> None:
        """Send the next image of the scene, or another one."""
        # Back and forth, so that the target never jumps.
        place = abs(59 - len(self.sent) % 118)
        pixels = FRAMES[place] if pixels is None else pixels
        stamp = time.time_ns() if stamp is None else stamp
        self.camera.publish(image_message(TYPES, pixels, encoding, stamp, "cam"))
        self.sent.append(stamp)

    def run(self, seconds: float, each: Callable[[int], None] | None = None, **how: Any) -> float:
        """Send images at 30 Hz; the tracks per second that came back."""
        before, begin, index = len(self.tracks), time.monotonic(), 0
        while time.monotonic() < begin + seconds:
            self.send(**how)
            if each is not None:
                each(index)
            index += 1
            time.sleep(max(0.0, begin + index * PERIOD - time.monotonic()))
        return (len(self.tracks) - before) / (time.monotonic() - begin)

    def start(self) -> None:
        """Start the target on the next image, and wait until it is tracked."""
        place = abs(59 - len(self.sent) % 118)
        x, y, w, h = BOX
        self.starter.publish(init_box((x + 2 * place, y + place, w, h)))
        end = time.monotonic() + 30
        while not (self.tracks and self.tracks[-1].state == State.TRACKING):
            assert time.monotonic() < end, "the target was not started"
            self.run(PERIOD)

    def line(self, words: str) -> str:
        found = [line for line in self.node.lines if words in line]
        return found[-1].partition("]: ")[2] if found else ""

    def waits_for_line(self, words: str, seconds: float = 20) -> float:
        """Seconds until the log has a line with these words."""
        begin = time.monotonic()
        wait_for(lambda: self.line(words), f"{words!r} in the log", seconds)
        return time.monotonic() - begin


@contextmanager
def rig(*parameters: str, tracking: bool = True, qos: Any = None) -> Iterator[Rig]:
    words = [word for parameter in parameters for word in ("-p", parameter)]
    with Command("node", *words) as node, Peer() as peer:
        node.wait_for_line("ready: model")
        camera = peer.node.create_publisher("/image", IMAGE, qos or profiles.reliable(2))
        starter = peer.node.create_publisher("/init_box", INITS["init_box"], profiles.reliable(200))
        peer.listen("/track", OUTPUTS["track"])
        peer.listen("/diagnostics", OUTPUTS["/diagnostics"])
        one = Rig(node, peer, camera, starter)
        if tracking:
            wait_for(lambda: camera.subscription_count, "a subscription to the images")
            wait_for(lambda: starter.subscription_count, "a subscription to init_box")
            wait_for(lambda: len(peer.requested("/track")) == 1, "our subscription")
            one.start()
            one.run(0.5)
        yield one
        ended = node.process.poll()
        assert one.ended or ended is None, f"ended with {ended}: {node.lines[-1]}"


def camera_stops() -> str:
    with rig("image_timeout:=0.5", "diagnostics.period:=0.2") as one:
        begin = time.monotonic()
        wait_for(lambda: "stalled" in _status(one).message, "diagnostics of a stalled camera")
        noticed = time.monotonic() - begin
        time.sleep(max(0.0, 3 - noticed))
        before = len(one.tracks)
        one.run(0.5)
        again = one.tracks[before:]
        assert again[0].state == State.TRACKING
        assert stamp_ns(again[0]) >= one.sent[-len(again) - 2]
    return f"diagnostics after {noticed:.1f} s of 0.5 s; the first image after 3 s was tracked"


def size_changes() -> str:
    with rig() as one:
        small = np.ascontiguousarray(FRAMES[0][::2, ::2])
        before = len(one.tracks)
        one.send(small)
        one.run(0.3)
        assert {track.state for track in one.tracks[before:]} == {State.TRACKING}
        one.run(0.3, pixels=small)
        seconds = one.waits_for_line("targets reset")
        one.run(0.3)
        one.start()
    return f"one image changed nothing, two reset the target ({seconds:.2f} s); the next box worked"


def encoding_changes() -> str:
    with rig() as one:
        before = len(one.tracks)
        one.run(0.5, pixels=np.ascontiguousarray(FRAMES[0][..., ::-1]), encoding="rgb8")
        one.run(
            0.5, pixels=np.ascontiguousarray(FRAMES[0].mean(2).astype(np.uint8)), encoding="mono8"
        )
        states = {State(track.state).name for track in one.tracks[before:]}
        assert one.line("image encoding changed")
    return f"tracks went on ({', '.join(sorted(states))}), one line"


def clock_steps_back() -> str:
    with rig() as one:
        past = time.time_ns() - 10_000_000_000
        for index in range(3):
            one.send(stamp=past + round(index * PERIOD * 1e9))
        seconds = one.waits_for_line("targets reset")
        text = one.line("targets reset")
        assert "10." in text or "9.9" in text, text
    return f"reset after two images, {seconds:.2f} s; the line says by how much"


def clock_steps_forward() -> str:
    with rig() as one:
        before = len(one.tracks)
        begin = time.time_ns() + 3600 * 10**9
        for index in range(15):
            one.send(stamp=begin + round(index * PERIOD * 1e9))
            time.sleep(PERIOD)
        wait_for(lambda: stamp_ns(one.tracks[-1]) == one.sent[-1], "the last track")
        assert {track.state for track in one.tracks[before:]} == {State.TRACKING}
        assert not one.line("targets reset")
    return "an hour: the target was tracked on"


def two_publishers() -> str:
    with rig() as one, Peer("second_camera") as second:
        other = second.node.create_publisher("/image", IMAGE, profiles.reliable(2))
        wait_for(lambda: other.subscription_count, "a subscription to the second camera")
        before = len(one.tracks)

        def late(index: int) -> None:
            stamp = time.time_ns() - 100_000_000
            other.publish(image_message(TYPES, FRAMES[0], "bgr8", stamp, "cam"))

        one.run(2, late)
        one.waits_for_line("2 publishers")
        assert not one.line("targets reset")
        states = {track.state for track in one.tracks[before:]}
        assert State.IDLE not in states
    return "images 0.1 s late were dropped and counted; the line names both publishers"


def qos_mismatch() -> str:
    with rig("image_qos:=reliable", tracking=False, qos=profiles.sensor_data()) as one:
        begin = time.monotonic()
        wait_for(lambda: one.line("incompatible QoS on /image"), "a line on QoS")
        seconds = time.monotonic() - begin
    return f"a line names the policy after {seconds:.1f} s"


def sigterm_under_load() -> str:
    seconds = []
    for _ in range(5):
        with rig() as one:
            one.run(0.5)
            begin = time.monotonic()
            one.node.process.terminate()
            while one.node.process.poll() is None and time.monotonic() < begin + 30:
                one.send()
                time.sleep(0.005)
            seconds.append(time.monotonic() - begin)
            assert one.node.process.returncode == 0
            one.ended = True
    assert max(seconds) < 1, seconds
    return f"exit code 0 in {np.median(seconds):.2f} s (5 times, longest {max(seconds):.2f} s)"


def restart_under_load() -> str:
    with Peer() as peer:
        camera = peer.node.create_publisher("/image", IMAGE, profiles.reliable(2))
        starter = peer.node.create_publisher("/init_box", INITS["init_box"], profiles.reliable(9))
        peer.listen("/track", OUTPUTS["track"])
        times = []
        for _ in range(3):
            begin = time.monotonic()
            with Command("node") as node:
                one = Rig(node, peer, camera, starter)
                before = len(peer.heard["/track"])
                while len(peer.heard["/track"]) == before:
                    assert time.monotonic() < begin + 60, node.lines
                    one.run(PERIOD)
                times.append(time.monotonic() - begin)
                one.start()
    return f"{np.median(times):.1f} s from the start of the process to its first track (3 times)"


def parameters_at_50_hz() -> str:
    with rig() as one:
        topic = one.peer.node.create_publisher(
            "/set_parameter", COMMANDS[SET_PARAMETER], profiles.reliable(100)
        )
        wait_for(lambda: topic.subscription_count, "a subscription to set_parameter")
        calm, count = one.run(3), 0
        pair = TYPES[COMMANDS[SET_PARAMETER]]

        def change(index: int) -> None:
            nonlocal count
            for _ in range(2 if index % 3 else 1):
                count += 1
                topic.publish(pair("lost.duration", f"{1 + count % 5}"))

        begin, before = time.monotonic(), len(one.tracks)
        busy = one.run(5, change)
        rate = count / (time.monotonic() - begin)
        states = {track.state for track in one.tracks[before:]}
        assert states == {State.TRACKING}
    return f"{rate:.0f} changes a second: {busy:.1f} tracks a second, {calm:.1f} without"


def hundred_boxes_a_second() -> str:
    with rig() as one:
        calm, count = one.run(3), 0

        def ask(index: int) -> None:
            nonlocal count
            for _ in range(4 if index % 3 == 0 else 3):
                count += 1
                one.starter.publish(init_box((37 * count % 600, 5, 30, 30), 0, f"x{count}"))

        begin = time.monotonic()
        before = len(one.tracks)
        one.run(5, ask)
        rate = count / (time.monotonic() - begin)
        images = {stamp_ns(track) for track in one.tracks[before:]}
        lines = len(one.node.lines)
        one.run(3)
        names = {track.target_id for track in one.tracks[-50:]}
        assert "" not in names
    return (
        f"{rate:.0f} boxes a second: {len(images) / 5:.1f} images a second were tracked, "
        f"{calm:.1f} without; {len(names)} targets at most, {lines} lines in the log"
    )


def _status(one: Rig) -> Any:
    reports = one.peer.heard["/diagnostics"]
    return reports[-1].status[0] if reports else type("None", (), {"message": ""})


FAULTS: dict[str, tuple[str, Callable[[], str]]] = {
    "the camera stops for 3 s and returns": (
        "diagnostics say that it stalled; the target is tracked on", camera_stops),
    "images of another size": (
        "one is dropped; two in a row reset the targets, with a line", size_changes),
    "images in another encoding": ("the target is tracked on", encoding_changes),
    "the clock steps back by 10 s": ("reset, once the next image confirms it", clock_steps_back),
    "the clock steps forward by an hour": ("the target is tracked on", clock_steps_forward),
    "a second publisher with a late clock": (
        "its images are dropped, and both are named", two_publishers),
    "QoS that does not fit": ("a line that names the policy", qos_mismatch),
    "SIGTERM at 200 images a second": ("the end within a second", sigterm_under_load),
    "restart while the camera runs": ("it is there again by itself", restart_under_load),
    "parameters changed at 50 Hz": ("the target is tracked on", parameters_at_50_hz),
    "100 init boxes a second": (
        "the target is tracked on; what is refused is counted", hundred_boxes_a_second),
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="faults whose name holds this")
    args = parser.parse_args()
    failed = 0
    print("| fault | promise | measured |\n|---|---|---|")
    with own_domain():
        for name, (promise, fault) in FAULTS.items():
            if args.only not in name:
                continue
            try:
                measured = fault()
            except AssertionError as error:
                failed += 1
                measured = f"BROKEN: {' '.join(str(error).split())[:300]}"
            print(f"| {name} | {promise} | {measured} |", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
