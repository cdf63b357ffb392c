"""Does the node grow? Feeds it over DDS for a while and weighs it: `make soak SECONDS=1800`."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from domains import own_domain
from nodes import TYPES, init_box
from peers import Peer
from processes import Command
from tqdm import tqdm
from waiting import wait_for

from mixformerv2_ros.ros.cyclonedds import qos_profiles as profiles
from mixformerv2_ros.ros.messages import image_message
from mixformerv2_ros.ros.topics import INITS, OUTPUTS

HEIGHT, WIDTH = 480, 640
WARM_UP_S = 15.0
"""The buffer of recent images and the engine's arena fill up at first."""


def resident_megabytes(process: int) -> float:
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"process {process} has no resident memory")


def scene(index: int) -> np.ndarray:
    """A textured target on a textured ground; (HEIGHT, WIDTH, 3) uint8."""
    image = np.roll(GROUND, index, axis=1)
    x, y = 150 + 2 * index, 150 + index
    image[y : y + 90, x : x + 120] = TARGET
    return image


NOISE = np.random.default_rng(1)
GROUND = NOISE.integers(60, 120, (HEIGHT, WIDTH, 3), np.uint8)
TARGET = NOISE.integers(150, 255, (90, 120, 3), np.uint8)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="after a warm-up of 15 s")
    parser.add_argument("--rate", type=float, default=30.0, help="images per second")
    parser.add_argument("--limit", type=float, default=5.0, help="MB that the node may grow")
    args = parser.parse_args()
    frames = [scene(i) for i in range(60)]
    # Few images are kept, or a camera that stumbles would show as memory that comes and goes.
    words = ("-p", "buffer.frames:=10")
    with own_domain(), Peer() as peer, Command("node", *words) as node:
        node.wait_for_line("ready: model")
        camera = peer.node.create_publisher("/image", "sensor_msgs/msg/Image", profiles.reliable(2))
        starter = peer.node.create_publisher("/init_box", INITS["init_box"], profiles.reliable())
        peer.listen("/track", OUTPUTS["track"])
        peer.listen("/diagnostics", OUTPUTS["/diagnostics"])
        peer.wait_reliable("/image")
        wait_for(lambda: starter.subscription_count, "a subscription to init_box")
        starter.publish(init_box((150, 150, 120, 90)))
        weights: list[tuple[float, float]] = []
        begin = time.monotonic()
        sent, tracks = 0, 0
        with tqdm(total=round(WARM_UP_S + args.seconds), unit="s", disable=None) as bar:
            while (now := time.monotonic() - begin) < WARM_UP_S + args.seconds:
                pixels = frames[sent % len(frames)]
                camera.publish(image_message(TYPES, pixels, "bgr8", time.time_ns(), "cam"))
                sent += 1
                tracks += len(peer.heard["/track"])
                peer.heard["/track"].clear()
                if now > len(weights):
                    weights.append((now, resident_megabytes(node.process.pid)))
                    bar.update(len(weights) - bar.n)
                time.sleep(max(0.0, begin + sent / args.rate - time.monotonic()))
        values = {pair.key: pair.value for pair in peer.heard["/diagnostics"][-1].status[0].values}
    steady = np.array([(at, weight) for at, weight in weights if at >= WARM_UP_S])
    third = max(1, len(steady) // 3)
    growth = np.median(steady[-third:, 1]) - np.median(steady[:third, 1])
    slope = np.polyfit(steady[:, 0], steady[:, 1], 1)[0] * 1800
    for key in ("rate (Hz)", "latency p50 (ms)", "latency p95 (ms)", "image age p95 (ms)",
                "images received", "images dropped", "images not decodable",
                "images buffered"):  # fmt: skip
        print(f"{key:20} {values[key]}")
    print(f"{'images sent':20} {sent}, {tracks} tracks")
    marks = weights[:: max(1, len(weights) // 12)]
    print("resident memory", ", ".join(f"{at:.0f} s {weight:.1f} MB" for at, weight in marks))
    print(
        f"grew {growth:.2f} MB in {args.seconds:.0f} s ({slope:.2f} MB in 30 minutes at that pace)"
    )
    return 0 if growth < args.limit else 1


if __name__ == "__main__":
    sys.exit(main())
