"""The TraX command against the protocol's own client."""

from __future__ import annotations

import argparse
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from mixformerv2_ros.errors import EngineError, MixFormerError
from mixformerv2_ros.lab.cli import trax as command
from mixformerv2_ros.lab.evaluation import trax_server

trax = pytest.importorskip("trax", reason="needs vot-trax, the extra `trax`")
from trax.client import Client  # noqa: E402

WIDTH, HEIGHT, SIDE = 160, 120, 20

# A tracker that finds red squares stands in for the network: what is tested is the protocol, and
# swapped colours would make it lose the target.
SERVER = """
import sys
sys.path[:0] = {paths!r}
from test_evaluation import RedEngine
from mixformerv2_ros.errors import MixFormerError
from mixformerv2_ros.lab.evaluation.trax_server import serve
from mixformerv2_ros.cli.stream_log import StreamLog
from mixformerv2_ros.tracking.stream import Stream
from recordings import published_settings
try:
    serve(Stream(RedEngine(), published_settings()), StreamLog("trax"))
except MixFormerError as error:
    sys.exit(f"refused: {{error}}")
"""

COMMAND = """
import argparse, sys
sys.path[:0] = {paths!r}
from mixformerv2_ros.lab.cli import trax
parser = argparse.ArgumentParser()
trax.add_arguments(parser)
sys.exit(trax.run(parser.parse_args(["--num-threads", "1"])))
"""


def picture(*corners: tuple[int, int]) -> np.ndarray:
    """RGB: red squares of 20 pixels on grey."""
    image = np.full((HEIGHT, WIDTH, 3), 60, np.uint8)
    for x, y in corners:
        image[y : y + SIDE, x : x + SIDE] = (255, 0, 0)
    return image


def as_path(image: np.ndarray, folder: Path) -> Any:
    path = folder / f"{len(list(folder.iterdir()))}.png"
    assert cv2.imwrite(str(path), image[..., ::-1])
    return trax.FileImage.create(str(path))


def as_memory(image: np.ndarray, folder: Path) -> Any:
    return trax.MemoryImage.create(image)


def as_buffer(image: np.ndarray, folder: Path) -> Any:
    return trax.BufferImage.create(cv2.imencode(".png", image[..., ::-1])[1].tobytes())


class Run:
    """A server process and the client that talks to it."""

    def __init__(self, over_socket: bool = False, code: str = SERVER) -> None:
        here = Path(__file__).resolve().parent
        code = code.format(paths=[str(here), str(here.parent)])
        environment = dict(os.environ)
        stream: Any = None
        if over_socket:
            self.listener = socket.socket()
            self.listener.bind(("127.0.0.1", 0))
            self.listener.listen(1)
            stream = self.listener.fileno()
            environment["TRAX_SOCKET"] = str(self.listener.getsockname()[1])
        self.process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        )
        if stream is None:
            assert self.process.stdin
            assert self.process.stdout
            stream = (self.process.stdin.fileno(), self.process.stdout.fileno())
        # Without a log the client of vot-trax 4.0.2 does not start.
        self.client = Client(stream=stream, timeout=30, log=lambda message: None)

    def frame(self, image: Any) -> Any:
        return self.client.frame({"color": image}, {}, [])

    def stop(self) -> str:
        """Quit and return what the server wrote to stderr."""
        self.client.quit()
        return self.wait()

    def close(self) -> None:
        # A client that goes away without having quit logs through a logger that is freed already,
        # which ends the process.
        self.client.quit()
        self.process.kill()
        self.process.wait()

    def wait(self) -> str:
        assert self.process.stderr
        errors = self.process.stderr.read().decode()
        self.process.wait(30)
        return errors


@pytest.fixture
def run() -> Iterator[Run]:
    each = Run()
    yield each
    each.close()


def boxes(reply: Any) -> list[tuple[float, ...]]:
    return [region.bounds() for region, _ in reply[0]]


def test_hello(run: Run) -> None:
    client = run.client
    assert client.tracker_name == "MixFormerV2"
    assert set(client.image_formats) == {"path", "memory", "buffer"}
    assert set(client.region_formats) == {"rectangle", "polygon"}
    assert client.get("multiobject")
    assert run.stop() == ""
    assert run.process.returncode == 0


@pytest.mark.parametrize("send", [as_path, as_memory, as_buffer])
def test_follows_in_the_right_colours(run: Run, tmp_path: Path, send: Any) -> None:
    start = trax.Rectangle.create(30, 50, SIDE, SIDE)
    reply = run.client.initialize({"color": send(picture((30, 50)), tmp_path)}, [(start, {})], {})
    assert boxes(reply) == [(30, 50, SIDE, SIDE)]
    assert float(reply[0][0][1]["confidence"]) == 1
    for x in range(32, 60, 2):
        reply = run.frame(send(picture((x, 50)), tmp_path))
        np.testing.assert_allclose(boxes(reply), [(x, 50, SIDE, SIDE)], atol=1.5)
        assert float(reply[0][0][1]["confidence"]) == pytest.approx(0.9)
    # Blue: a server that took BGR for RGB would find it.
    reply = run.frame(send(picture((60, 50))[..., ::-1].copy(), tmp_path))
    assert float(reply[0][0][1]["confidence"]) == pytest.approx(0.05)
    assert run.stop() == ""


def test_grey_images_are_taken(run: Run) -> None:
    grey = np.full((HEIGHT, WIDTH), 60, np.uint8)
    region = trax.Rectangle.create(30, 50, SIDE, SIDE)
    run.client.initialize({"color": trax.MemoryImage.create(grey)}, [(region, {})], {})
    reply = run.frame(trax.MemoryImage.create(grey.astype(np.uint16) * 256))
    assert float(reply[0][0][1]["confidence"]) == pytest.approx(0.05)


def test_a_polygon_becomes_its_upright_box(run: Run, tmp_path: Path) -> None:
    corners = trax.Polygon.create([(40, 50), (50, 60), (40, 70), (30, 60)])
    image = {"color": as_memory(picture((30, 50)), tmp_path)}
    assert boxes(run.client.initialize(image, [(corners, {})], {})) == [(30, 50, 20, 20)]


def test_several_targets_and_a_new_start(run: Run, tmp_path: Path) -> None:
    image = {"color": as_memory(picture((20, 30), (100, 80)), tmp_path)}
    first, second = (trax.Rectangle.create(*xy, SIDE, SIDE) for xy in ((20, 30), (100, 80)))
    assert len(run.client.initialize(image, [(first, {}), (second, {})], {})[0]) == 2
    moved = {"color": as_memory(picture((22, 30), (98, 80)), tmp_path)}
    expected = [(22, 30, SIDE, SIDE), (98, 80, SIDE, SIDE)]
    np.testing.assert_allclose(boxes(run.frame(moved["color"])), expected, atol=1.5)
    again = run.client.initialize(moved, [(trax.Rectangle.create(98, 80, SIDE, SIDE), {})], {})
    assert boxes(again) == [(98, 80, SIDE, SIDE)]
    assert len(run.frame(moved["color"])[0]) == 1


def test_over_a_socket(tmp_path: Path) -> None:
    run = Run(over_socket=True)
    try:
        region = trax.Rectangle.create(30, 50, SIDE, SIDE)
        image = {"color": as_memory(picture((30, 50)), tmp_path)}
        assert len(run.client.initialize(image, [(region, {})], {})[0]) == 1
        run.stop()
        assert run.process.returncode == 0
    finally:
        run.close()


@pytest.mark.parametrize(
    ("path", "box", "message"),
    [
        ("absent.png", (30, 50, 20, 20), "absent.png cannot be read: No such file"),
        (None, (500, 500, 20, 20), "box"),
        (None, (30, 50, 0, 20), "box"),
    ],
)
def test_what_cannot_be_tracked_is_told_to_both_sides(
    run: Run, tmp_path: Path, path: str | None, box: tuple[int, ...], message: str
) -> None:
    image = as_memory(picture((30, 50)), tmp_path)
    if path is not None:
        image = trax.FileImage.create(str(tmp_path / path))
    with pytest.raises(trax.TraxException):
        run.client.initialize({"color": image}, [(trax.Rectangle.create(*box), {})], {})
    errors = run.wait()
    assert re.fullmatch(rf"refused: .*{message}.*\n", errors)
    assert run.process.returncode == 1


def test_a_client_that_dies_ends_the_server(run: Run) -> None:
    assert run.process.stdin
    os.close(os.dup(run.process.stdin.fileno()))
    run.process.stdin.close()
    errors = run.wait()
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    "said",
    [
        '@@TRAX:initialize "file:',
        "@@TR",
        '@@TRAX:initialize "a" "1',
        '@@TRAX:frame "\n\n',
        "\\",
        "@@TRAX:initialize \0fi\n",
    ],
)
def test_a_client_that_dies_within_a_line_ends_the_server(said: str) -> None:
    """The library alone would wait for the rest of the line for ever, and busily, or crash."""
    here = Path(__file__).resolve().parent
    code = SERVER.format(paths=[str(here), str(here.parent)])
    done = subprocess.run(
        [sys.executable, "-c", code], input=said, capture_output=True, text=True, timeout=60
    )
    assert "Traceback" not in done.stderr
    assert done.returncode >= 0


def test_the_package_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trax", None)
    with pytest.raises(EngineError, match="pip install vot-trax"):
        trax_server.require_trax()


def test_the_command_with_the_default_bundle(tmp_path: Path) -> None:
    """As the VOT toolkit starts it, through files of frames."""
    bundle = Path(__file__).resolve().parents[1] / "mixformerv2_ros" / "models" / "default"
    if not (bundle / "model.json").is_file():
        pytest.skip("needs the default bundle, which is absent")
    pytest.importorskip("onnxruntime", reason="needs ONNX Runtime to run the default bundle")
    run = Run(code=COMMAND)
    try:
        region = trax.Rectangle.create(30, 50, SIDE, SIDE)
        first = run.client.initialize(
            {"color": as_path(picture((30, 50)), tmp_path)}, [(region, {})], {}
        )
        assert boxes(first) == [(30, 50, SIDE, SIDE)]
        for x in (32, 34):
            ((box, properties),) = run.frame(as_path(picture((x, 50)), tmp_path))[0]
            assert np.isfinite(box.bounds()).all()
            assert 0 <= float(properties["confidence"]) <= 1
        assert run.stop() == ""
        assert run.process.returncode == 0
    finally:
        run.close()


def test_a_model_that_is_not_there_is_named_before_anything_is_said(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    with pytest.raises(MixFormerError, match="absent"):
        command.run(parser.parse_args(["--model", str(tmp_path / "absent")]))
