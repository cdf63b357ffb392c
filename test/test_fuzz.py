"""Foreign bytes, damaged at random: every reader gives a result or one of this package's errors.

`make test` tries a few inputs, the same every time. `make fuzz SECONDS=...` tries others until the
time is over; what fails then belongs into this file as an `example`.
"""

from __future__ import annotations

import os
import pickle
import pickletools
import shutil
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from recordings import IMAGE_TOPIC, START_NS, picture, storage_file, write_bag

from mixformerv2_ros.errors import (
    BundleError,
    CheckpointError,
    ImageError,
    MixFormerError,
    ParameterError,
)
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
from mixformerv2_ros.ros.messages import (
    compressed_image_message,
    image_frame,
    image_message,
    init_request,
)
from mixformerv2_ros.ros.replay import choose_image_topic, images
from mixformerv2_ros.tracking.pixels import decode_compressed

FUZZING = "FUZZ" in os.environ
fuzz = settings(
    max_examples=1000 if FUZZING else 40,
    derandomize=not FUZZING,
    database=None,
    deadline=5000,
    suppress_health_check=list(HealthCheck),
)

Edit = tuple[str, float, bytes]


def damaged(data: bytes, edits: list[Edit]) -> bytes:
    """Apply edits at relative positions: bytes overwritten, inserted, left out, or the end cut."""
    for kind, place, piece in edits:
        at = int(place * len(data))
        if kind == "overwrite":
            data = data[:at] + piece + data[at + len(piece) :]
        elif kind == "insert":
            data = data[:at] + piece + data[at:]
        elif kind == "omit":
            data = data[:at] + data[at + len(piece) :]
        else:
            data = data[:at]
    return data


edits = st.lists(
    st.tuples(
        st.sampled_from(["overwrite", "overwrite", "insert", "omit", "cut"]),
        st.floats(0, 1, exclude_max=True),
        st.binary(min_size=1, max_size=9) | st.sampled_from([b"\xff" * 8, bytes(8), b"\x7f" * 4]),
    ),
    min_size=1,
    max_size=5,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def assert_one_line(error: Exception) -> None:
    assert str(error)
    assert "\n" not in str(error)
    assert len(str(error)) < 2000


def gives(function: Callable[[], object], *errors: type[Exception]) -> None:
    """Run a function that gives a result or one of `errors`, in one line."""
    try:
        function()
    except errors as error:
        assert_one_line(error)


# --- images --------------------------------------------------------------------------------------

IMAGES = {
    suffix: cv2.imencode(suffix, picture(0)[..., ::-1])[1].tobytes()
    for suffix in (".jpg", ".png", ".bmp", ".webp", ".ppm", ".tiff")
}


@fuzz
@given(edits=edits, suffix=st.sampled_from(list(IMAGES)))
def test_image_files(edits: list[Edit], suffix: str) -> None:
    data = damaged(IMAGES[suffix], edits)
    gives(lambda: decode_compressed("", data).rgb(), ImageError)
    array = np.frombuffer(data, np.uint8)
    gives(lambda: decode_image_file(array, Path(f"a{suffix}")).rgb(), ImageError)


@fuzz
@given(
    encoding=st.sampled_from(["rgb8", "mono16", "bayer_rggb8", "yuv422", "32FC1", "nv21", ""])
    | st.text(max_size=12),
    width=st.integers(0, 2**32 - 1) | st.integers(0, 40),
    height=st.integers(0, 2**32 - 1) | st.integers(0, 40),
    step=st.integers(0, 2**32 - 1) | st.integers(0, 200),
    data=st.binary(max_size=5000),
)
def test_image_messages(encoding: str, width: int, height: int, step: int, data: bytes) -> None:
    message = image_message(typestore().types, picture(0), "rgb8", START_NS, "camera")
    message.encoding, message.width, message.height = encoding, width, height
    message.step, message.data = step, np.frombuffer(data, np.uint8)
    gives(lambda: image_frame(message).pixels.rgb(), ImageError)


# --- messages and recordings ---------------------------------------------------------------------

types = typestore().types
IMAGE = image_message(types, picture(0), "rgb8", START_NS, "camera")
COMPRESSED = compressed_image_message(types, np.zeros(9, np.uint8), "jpeg", START_NS, "camera")


@pytest.fixture(scope="module")
def reader(folder: Path) -> Iterator[BagReader]:
    with BagReader(write_bag(folder / "messages", 1)) as opened:
        yield opened


@fuzz
@given(edits=edits, message=st.sampled_from([IMAGE, COMPRESSED]))
def test_messages_in_cdr(reader: BagReader, edits: list[Edit], message: object) -> None:
    msgtype = message.__msgtype__
    data = damaged(bytes(typestore().serialize_cdr(message, msgtype)), edits)
    recorded = BagMessage(Topic("/a", msgtype), START_NS, data)
    gives(lambda: image_frame(reader.deserialize(recorded)).pixels.rgb(), MixFormerError)


@fuzz
@given(
    data=st.binary(max_size=200),
    msgtype=st.sampled_from(
        [
            "mixformerv2_ros/msg/InitBox",
            "vision_msgs/msg/Detection2D",
            "sensor_msgs/msg/RegionOfInterest",
        ]
    ),
)
def test_init_boxes_in_cdr(reader: BagReader, data: bytes, msgtype: str) -> None:
    recorded = BagMessage(Topic("/a", msgtype), START_NS, b"\0\1\0\0" + data)
    gives(lambda: init_request(reader.deserialize(recorded)), MixFormerError)


def read_images(path: Path) -> None:
    with BagReader(path) as opened:
        for image in images(opened, choose_image_topic(opened, None)):
            gives(lambda image=image: image.decode().pixels.rgb(), ImageError)


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("metadata", [True, False])
def test_recordings(folder: Path, storage: str, metadata: bool) -> None:
    bag = write_bag(folder / f"{storage}{metadata}", 4, storage=storage, compressed="png")
    if not metadata:
        (bag / "metadata.yaml").unlink()
    file = storage_file(bag)
    sound = file.read_bytes()

    @fuzz
    @given(edits=edits)
    def check(edits: list[Edit]) -> None:
        file.write_bytes(damaged(sound, edits))
        gives(lambda: read_images(bag), MixFormerError)
        gives(lambda: list(scan(file)), Damage)

    check()


def test_metadata_of_recordings(folder: Path) -> None:
    """Whatever it says, the messages of the storage are there."""
    bag = write_bag(folder / "metadata", 3)
    file = bag / "metadata.yaml"
    sound = file.read_bytes()

    @fuzz
    @given(edits=edits)
    def check(edits: list[Edit]) -> None:
        file.write_bytes(damaged(sound, edits))
        count = 0

        def read() -> None:
            nonlocal count
            with BagReader(bag) as opened:
                for _ in opened.messages([IMAGE_TOPIC]):
                    count += 1

        gives(read, MixFormerError)
        assert count == 3

    check()


# --- checkpoints, bundles, parameter files -------------------------------------------------------

TINY = ModelSpec(
    preset="custom", width=64, depth=1, heads=1, mlp_ratio=2.0, bins=8,
    template_size=32, search_size=48,
)  # fmt: skip
WEIGHTS = {name: np.full(shape, 0.5, np.float32) for name, shape in expected_shapes(TINY).items()}
OPCODES = [opcode.code.encode("latin-1") for opcode in pickletools.opcodes]
ARGUMENTS = st.sampled_from(
    [
        b"",
        b"\0",
        b"\x01",
        b"\xff",
        bytes(4),
        b"\xff" * 4,
        b"\xff" * 8,
        b"\n",
        b"1\n",
        b"os\nsystem\n",
    ]
)


@fuzz
@given(program=st.lists(st.tuples(st.sampled_from(OPCODES), ARGUMENTS), max_size=30))
@example(program=[(b"c", b"os\nsystem\n"), (b"S", b"'touch x'\n"), (b"\x85", b""), (b"R", b"")])
@example(program=[(b"(", b"")] * 20 + [(b"l", b"")])
@example(program=[(b"]", b""), (b"q", b"\0"), (b"h", b"\0"), (b"a", b"")])
def test_pickles(program: list[tuple[bytes, bytes]]) -> None:
    data = b"\x80\x02" + b"".join(code + argument for code, argument in program) + b"."
    gives(lambda: read_pickle(BytesIO(data)), CheckpointError)


@fuzz
@given(edits=edits, protocol=st.sampled_from([0, 2, 4]))
def test_damaged_pickles(edits: list[Edit], protocol: int) -> None:
    tree = {"a": [1, 2.5, "x", b"y", None, True, (3, {4})], "b": {"c": 10**30}}
    data = damaged(pickle.dumps(tree, protocol), edits)
    gives(lambda: read_pickle(BytesIO(data)), CheckpointError)


@pytest.mark.parametrize("zipped", [True, False])
def test_checkpoints(folder: Path, zipped: bool) -> None:
    torch = pytest.importorskip("torch")
    file = folder / f"checkpoint{zipped}.pth.tar"
    net = {name: torch.from_numpy(value) for name, value in WEIGHTS.items()}
    torch.save({"net": net, "epoch": 3}, file, _use_new_zipfile_serialization=zipped)
    sound = file.read_bytes()

    @fuzz
    @given(edits=edits)
    def check(edits: list[Edit]) -> None:
        file.write_bytes(damaged(sound, edits))
        gives(lambda: load_checkpoint(file), CheckpointError)

    check()


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_bundles(folder: Path, name: str) -> None:
    source = {"file": "a.pth", "sha256": None, "kind": "made by a test"}
    path = folder / f"bundle_{name}"
    shutil.rmtree(path, ignore_errors=True)
    write_bundle(path, TINY, WEIGHTS, name="Tiny", source=source, licence="none")
    file = path / name
    # Of the weights the header: their content has a checksum.
    sound = file.read_bytes()

    @fuzz
    @given(edits=edits)
    def check(edits: list[Edit]) -> None:
        head = sound[:2000]
        file.write_bytes(damaged(head, edits) + sound[2000:])
        gives(lambda: read_weights(open_bundle(path)), BundleError)

    check()


words = st.sampled_from(
    ["/**", "/*", "tracker", "ros__parameters", "lost", "duration", "model", "a.b", ""]
)
trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | words | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=4),
    max_leaves=12,
)


@fuzz
@given(tree=trees, edits=edits, is_damaged=st.booleans())
def test_parameter_files(folder: Path, tree: object, edits: list[Edit], is_damaged: bool) -> None:
    text = yaml.safe_dump(tree).encode()
    file = folder / "parameters.yaml"
    file.write_bytes(damaged(text, edits) if is_damaged else text)

    def read() -> None:
        values = read_parameter_file(file, "/tracker")
        assert all(isinstance(name, str) for name in values)

    gives(read, ParameterError)
