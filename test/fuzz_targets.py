"""Readers of foreign bytes, as functions of these bytes, with sound examples of each.

A target returns whatever the bytes are: readers raise this package's errors in one line at most;
anything else is a finding. `fuzz.py` runs the targets.
"""

from __future__ import annotations

import os
import pickle
import signal
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from shutil import copytree

import cv2
import numpy as np
import yaml
from nodes import Remote
from ranging import track as a_track
from recordings import IMAGE_TOPIC, START_NS, RedEngine, picture, storage_file, write_bag

from mixformerv2_ros.errors import MixFormerError
from mixformerv2_ros.interfaces import typestore
from mixformerv2_ros.io.bag_reader import BagMessage, BagReader, Topic, scan
from mixformerv2_ros.io.damage import Damage
from mixformerv2_ros.io.images import decode_image_file
from mixformerv2_ros.model.architecture import expected_shapes
from mixformerv2_ros.model.bundle import open_bundle, read_weights, write_bundle
from mixformerv2_ros.model.checkpoints import load_checkpoint
from mixformerv2_ros.model.pickles import read_pickle
from mixformerv2_ros.model.spec import ModelSpec
from mixformerv2_ros.ros.cyclonedds.parameter_files import read_parameter_file
from mixformerv2_ros.ros.image_cdr import READERS
from mixformerv2_ros.ros.messages import (
    Level,
    Status,
    compressed_image_message,
    detections_message,
    diagnostics_message,
    image_frame,
    image_message,
    init_box_message,
    init_request,
    point_request,
    read_detections,
    read_track,
)
from mixformerv2_ros.ros.remote.tracker_view import TrackerView
from mixformerv2_ros.ros.replay import choose_image_topic, images
from mixformerv2_ros.ros.topics import INIT_POINT
from mixformerv2_ros.ros.web.protocol import read_command
from mixformerv2_ros.tracking.boxes import Box
from mixformerv2_ros.tracking.compressed import decode_compressed

TINY = ModelSpec(
    preset="custom", width=64, depth=1, heads=1, mlp_ratio=2.0, bins=8,
    template_size=32, search_size=48,
)  # fmt: skip
LIMIT = 10
"""Seconds that a process of its own may take."""
LONGEST = 2000
"""Characters of an error's line."""


@dataclass(frozen=True)
class Target:
    """A reader under test.

    Attributes:
        run: Reads some bytes; raises nothing but an AssertionError for a finding.
        examples: Sound inputs.
        forks: Whether every input has a process of its own, which a library needs that ends it.
    """

    run: Callable[[bytes], None]
    examples: Sequence[bytes]
    forks: bool = False


def known_inputs(name: str) -> list[bytes]:
    """What was found in a target before."""
    folder = Path(__file__).with_name("fuzz_corpus") / name
    return [path.read_bytes() for path in sorted(folder.glob("*"))]


def gives(function: Callable[[], object], *errors: type[Exception]) -> None:
    """Run a function that gives a result or one of `errors`, in one line."""
    try:
        function()
    except errors as error:
        text = str(error)
        assert text, "an error without text"
        assert "\n" not in text, repr(text[:300])
        assert len(text) < LONGEST, repr(text[:300])


def _tiny_bundle(path: Path) -> Path:
    weights = {name: np.full(size, 0.5, np.float32) for name, size in expected_shapes(TINY).items()}
    source = {"file": "a.pth", "sha256": None, "kind": "made by a test"}
    write_bundle(path, TINY, weights, name="Tiny", source=source, licence="none")
    return path


def _images(folder: Path) -> Target:
    def run(data: bytes) -> None:
        gives(lambda: decode_compressed("", data).rgb(), MixFormerError)
        array = np.frombuffer(data, np.uint8)
        gives(lambda: decode_image_file(array, Path("a.png")).rgb(), MixFormerError)

    suffixes = (".jpg", ".png", ".bmp", ".webp", ".ppm", ".tiff")
    bgr = picture(0)[::4, ::4, ::-1]
    sound = [cv2.imencode(suffix, bgr)[1].tobytes() for suffix in suffixes]
    return Target(run, [*sound, _animated(sound[1])])


def _animated(png: bytes) -> bytes:
    """A PNG as an animation of one picture."""
    chunks = b""
    size = struct.pack(">II", *struct.unpack_from(">II", png, 16))
    for kind, body in (
        (b"acTL", struct.pack(">II", 1, 0)),
        (b"fcTL", struct.pack(">I", 0) + size + struct.pack(">IIHHBB", 0, 0, 1, 30, 0, 0)),
    ):
        chunks += struct.pack(">I", len(body)) + kind + body
        chunks += struct.pack(">I", zlib.crc32(kind + body))
    return png[:33] + chunks + png[33:]


def _cdr(folder: Path) -> Target:
    store = typestore()
    small = np.ascontiguousarray(picture(0)[::16, ::16])
    jpeg = cv2.imencode(".jpg", small)[1].reshape(-1)
    types = store.types
    messages = [
        image_message(types, small, "rgb8", START_NS, "camera"),
        compressed_image_message(types, jpeg, "jpeg", START_NS, "camera"),
        init_box_message(types, Box(1, 2, 30, 40), "a", START_NS, "camera"),
    ]
    names = [message.__msgtype__ for message in messages]
    names += ["vision_msgs/msg/Detection2D", "mixformerv2_ros/msg/Track", INIT_POINT[1]]
    found = detections_message(types, [a_track(), a_track(target_id="b")], START_NS, "camera")
    names.append(found.__msgtype__)
    messages.append(found)
    reader = BagReader(write_bag(folder / "cdr", 1)).__enter__()

    def read(name: str, data: bytes) -> None:
        message = reader.deserialize(BagMessage(Topic("/a", name), START_NS, data))
        if name.startswith("sensor_msgs"):
            image_frame(message).pixels.rgb()
        elif name.endswith("Track"):
            read_track(message)
        elif name.endswith("Array"):
            read_detections(message)
        elif name == INIT_POINT[1]:
            point_request(message, 10.0)
        else:
            init_request(message)

    def run(data: bytes) -> None:
        for name in names:
            gives(lambda name=name: read(name, data), MixFormerError, ValueError)
        for read_live in READERS.values():
            gives(lambda r=read_live: image_frame(r(data)).pixels.rgb(), MixFormerError)

    sound = [bytes(store.serialize_cdr(message, message.__msgtype__)) for message in messages]
    return Target(run, sound)


def _recording(folder: Path, storage: str) -> Target:
    bag = write_bag(folder / storage, 3, storage=storage, compressed="jpeg")
    bare = Path(copytree(bag, folder / f"{storage}_bare"))
    (bare / "metadata.yaml").unlink()
    sound = storage_file(bag).read_bytes()

    def read(path: Path) -> None:
        with BagReader(path) as opened:
            for image in images(opened, choose_image_topic(opened, None)):
                gives(lambda image=image: image.decode().pixels.rgb(), MixFormerError)

    def run(data: bytes) -> None:
        for path in (bag, bare):
            storage_file(path).write_bytes(data)
            gives(lambda path=path: read(path), MixFormerError)
        gives(lambda: list(scan(storage_file(bare))), Damage)

    return Target(run, [sound])


def _metadata(folder: Path) -> Target:
    bag = write_bag(folder / "metadata", 2)
    file = bag / "metadata.yaml"
    sound = file.read_bytes()

    def read() -> None:
        with BagReader(bag) as opened:
            count = sum(1 for _ in opened.messages([IMAGE_TOPIC]))
        assert count == 2, f"{count} of 2 messages"

    def run(data: bytes) -> None:
        file.write_bytes(data)
        gives(read, MixFormerError)

    return Target(run, [sound])


def _checkpoints(folder: Path) -> Target:
    import torch

    weights = read_weights(open_bundle(_tiny_bundle(folder / "tiny")))
    net = {name: torch.from_numpy(np.array(value)) for name, value in weights.items()}
    file, sound = folder / "checkpoint.pth.tar", []
    for zipped in (True, False):
        torch.save({"net": net, "epoch": 3}, file, _use_new_zipfile_serialization=zipped)
        sound.append(file.read_bytes())

    def run(data: bytes) -> None:
        file.write_bytes(data)
        gives(lambda: load_checkpoint(file), MixFormerError)

    return Target(run, sound)


def _pickles(folder: Path) -> Target:
    tree = {"a": [1, 2.5, "x", b"y", None, True, (3, {4})], "b": {"c": 10**30}}
    zoo = [pickle.dumps(tree, protocol) for protocol in range(6)]
    zoo += [
        b"cos\nsystem\n(S'touch x'\ntR.",
        b"\x80\x02c__builtin__\neval\nX\x01\0\0\x001\x85R.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x01x\x85R.",
        b"((((((((llllllll.",
    ]

    def run(data: bytes) -> None:
        gives(lambda: read_pickle(BytesIO(data)), MixFormerError)

    return Target(run, zoo)


def _bundles(folder: Path) -> Target:
    path = _tiny_bundle(folder / "bundle")
    files = [path / "model.json", path / "model.safetensors"]
    sound = [file.read_bytes() for file in files]

    def run(data: bytes) -> None:
        for file, whole in zip(files, sound, strict=True):
            file.write_bytes(data)
            gives(lambda: read_weights(open_bundle(path)), MixFormerError)
            file.write_bytes(whole)

    # Of the weights the header: their content has a checksum.
    return Target(run, [sound[0], sound[1][:4000]])


def _parameters(folder: Path) -> Target:
    file = folder / "parameters.yaml"

    def run(data: bytes) -> None:
        file.write_bytes(data)
        gives(lambda: read_parameter_file(file, "/tracker"), MixFormerError)

    tree = {"/**": {"ros__parameters": {"lost": {"duration": 2}, "model": "a", "a.b": [1, 2.5]}}}
    anchors = b"a: &a [1, 2]\n/tracker: {ros__parameters: {b: *a}}\n"
    return Target(run, [yaml.safe_dump(tree).encode(), anchors])


def _page(folder: Path) -> Target:
    def run(data: bytes) -> None:
        text = data.decode("utf-8", "replace")
        gives(lambda: read_command(text), ValueError)

    return Target(
        run,
        [
            b'{"kind":"box","box":[1,2,3,4],"stamp":"7","frame_id":"a","target_id":"b"}',
            b'{"kind":"parameter","name":"lost.score_threshold","value":0.5}',
            b'{"kind":"stop","target_id":"a"}',
            b'{"kind":"shown"}',
        ],
    )


def _trax(folder: Path) -> Target:
    from mixformerv2_ros.cli.stream_log import StreamLog
    from mixformerv2_ros.lab.evaluation.trax_server import serve
    from mixformerv2_ros.ros.parameters import tracker_settings
    from mixformerv2_ros.tracking.stream import Stream

    image = folder / "trax.png"
    cv2.imwrite(str(image), picture(0)[..., ::-1])
    settings = tracker_settings({}, open_bundle())

    def session(data: bytes) -> None:
        (folder / "session").write_bytes(data)
        os.dup2(os.open(folder / "session", os.O_RDONLY), 0)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        stream = Stream(RedEngine(), settings)
        gives(lambda: serve(stream, StreamLog("trax")), MixFormerError)

    def run(data: bytes) -> None:
        child = os.fork()
        if child == 0:
            signal.alarm(LIMIT)
            code = 1
            try:
                session(data)
                code = 0
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        assert status == 0, f"session ended with wait status {status}"

    sound = (
        f'@@TRAX:initialize "file://{image}" "10,20,30,40"\n'
        f'@@TRAX:frame "file://{image}"\n@@TRAX:frame "{image}"\n@@TRAX:quit\n'
    ).encode()
    return Target(run, [sound, sound.replace(b"10,20,30,40", b"1,2,3,2,3,4,1,4")], forks=True)


def _mavlink(folder: Path) -> Target:
    from mixformerv2_ros.ros.mavlink.camera import Camera, CameraSettings, m

    sender = m.MAVLink(None, srcSystem=255)
    view = TrackerView(Remote())
    status = Status("tracker: tracker", "cpu", Level.OK, "ok", {"image": "640x480 bgr8"})
    view.receive_diagnostics(diagnostics_message(typestore().types, status, 1))
    ids = (
        *(m.MAV_CMD_CAMERA_TRACK_RECTANGLE, m.MAV_CMD_CAMERA_TRACK_POINT),
        *(m.MAV_CMD_REQUEST_MESSAGE, m.MAV_CMD_SET_MESSAGE_INTERVAL),
        m.MAV_CMD_GET_MESSAGE_INTERVAL,
    )
    parameters = (0.25, 0.25, 0.5, 0.5, 0.0, 0.0, 0.0)

    def run(data: bytes) -> None:
        answers = m.MAVLink(None, srcSystem=1)
        camera = Camera(view, CameraSettings(), lambda one: one.pack(answers), lambda *_: None)
        parser = m.MAVLink(None)
        parser.robust_parsing = True
        for message in parser.parse_buffer(data) or []:
            camera.receive(message)
        # The checksum keeps most damage out: what is in a command is damaged as well.
        for command in ids:
            seven = struct.unpack("<7f", data[:28].ljust(28, b"\0"))
            camera.receive(m.MAVLink_command_long_message(0, 0, command, 0, *seven))
        camera.send_due()

    commands = [m.MAVLink_command_long_message(1, 100, one, 0, *parameters) for one in ids]
    return Target(run, [bytes(command.pack(sender)) for command in commands])


TARGETS: dict[str, Callable[[Path], Target]] = {
    "images": _images,
    "cdr": _cdr,
    "mcap": partial(_recording, storage="mcap"),
    "sqlite3": partial(_recording, storage="sqlite3"),
    "metadata": _metadata,
    "checkpoints": _checkpoints,
    "pickles": _pickles,
    "bundles": _bundles,
    "parameters": _parameters,
    "page": _page,
    "mavlink": _mavlink,
    "trax": _trax,
}
"""Makers of the targets by name; each gets a folder for its files."""
