"""The other side of a DDS domain of its own on the loopback interface."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mixformerv2_ros.dds.names import NodeNames
from mixformerv2_ros.dds.node import Node, Publisher
from mixformerv2_ros.dds.qos import reliable
from mixformerv2_ros.messages import Level, stamp_ns

ROOT = Path(__file__).resolve().parents[1]

LOOPBACK = """<CycloneDDS><Domain>
<General><Interfaces><NetworkInterface name="lo"/></Interfaces>
<AllowMulticast>false</AllowMulticast></General>
<Discovery><ParticipantIndex>auto</ParticipantIndex>
<Peers><Peer Address="127.0.0.1"/></Peers></Discovery>
</Domain></CycloneDDS>"""


@contextlib.contextmanager
def own_domain() -> Iterator[int]:
    """A domain on the loopback interface that nobody else is likely to use."""
    # Domains above 100 have ports among those that the system hands out for anything.
    domain = random.SystemRandom().randrange(20, 100)
    before = {name: os.environ.get(name) for name in ("CYCLONEDDS_URI", "ROS_DOMAIN_ID")}
    os.environ.update(CYCLONEDDS_URI=LOOPBACK, ROS_DOMAIN_ID=str(domain))
    try:
        yield domain
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


class Peer:
    """A node that publishes and keeps what it hears; spins in a thread of its own."""

    def __init__(self, name: str = "peer") -> None:
        self.lines: list[str] = []
        self.heard: dict[str, list[Any]] = defaultdict(list)
        self.times: dict[str, list[float]] = defaultdict(list)
        self.node = Node(NodeNames(name), self._log)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self.node.spin, args=(self._ended.is_set,))

    def __enter__(self) -> Peer:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()
        self.node.close()

    def listen(self, topic: str, msgtype: str, qos: Any = None, auto: bool = False) -> Any:
        def keep(message: Any) -> None:
            self.times[topic].append(time.perf_counter())
            self.heard[topic].append(message)

        return self.node.subscribe(topic, msgtype, keep, qos or reliable(100), auto=auto)

    def stamps(self, topic: str) -> list[int]:
        return [stamp_ns(message) for message in self.heard[topic]]

    def publish_acknowledged(self, camera: Publisher, message: Any, answers: str) -> None:
        """Publish an image and wait for the answer that carries its stamp."""
        stamp = stamp_ns(message)
        assert camera.publish(message)
        wait_for(lambda: stamp in self.stamps(answers), f"an answer to the image of {stamp}")

    def wait_reliable(self, topic: str) -> None:
        """Wait until somebody subscribes to a topic of ours reliably, as `auto` ends up."""
        from mixformerv2_ros.dds.qos import is_reliable

        def found() -> bool:
            return any(is_reliable(e.qos) for e in self.node.subscriptions_of(topic))

        wait_for(found, f"a reliable subscription to {topic}")

    def _log(self, level: Level, text: str) -> None:
        self.lines.append(text)


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds:.0f} s in vain for {what}"
        time.sleep(0.002)


class Command:
    """`mixformerv2 ...` as a process of its own; ended with SIGTERM."""

    def __init__(self, *words: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mixformerv2_ros.cli", *map(str, words)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []
        self.output: list[str] = []
        self._threads = [
            threading.Thread(target=self._read, args=pair)
            for pair in ((self.process.stderr, self.lines), (self.process.stdout, self.output))
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Command:
        return self

    def __exit__(self, *error: object) -> None:
        self.end()

    def end(self) -> int:
        """Ask the process to end and return its exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            code = self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        for thread in self._threads:
            thread.join()
        return code

    def wait_for_line(self, words: str) -> str:
        wait_for(
            lambda: any(words in line for line in self.lines) or self.process.poll() is not None,
            f"{words!r} in the log",
        )
        found = [line for line in self.lines if words in line]
        assert found, f"ended with {self.process.poll()}: {self.lines}"
        return found[0]

    @staticmethod
    def _read(stream: Any, lines: list[str]) -> None:
        for line in stream:
            lines.append(line.rstrip("\n"))
