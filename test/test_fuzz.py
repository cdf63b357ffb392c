"""Foreign bytes, damaged at random: every reader gives a result or one of this package's errors.

`make test` tries a few inputs of every target of `fuzz_targets.py`, the same every time, and what
was found before; `make fuzz` tries ten thousand. Below stand inputs with a structure that damage
hardly ever makes.
"""

from __future__ import annotations

import pickletools
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import yaml
from fuzz_targets import TARGETS, gives, known_inputs
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from recordings import START_NS, picture

from mixformerv2_ros.errors import CheckpointError, ImageError, ParameterError
from mixformerv2_ros.interfaces import typestore
from mixformerv2_ros.model.pickles import read_pickle
from mixformerv2_ros.ros.cyclonedds.parameter_files import read_parameter_file
from mixformerv2_ros.ros.messages import image_frame, image_message

fuzz = settings(
    max_examples=40,
    derandomize=True,
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


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_bytes(name: str, tmp_path: Path) -> None:
    library = {"checkpoints": "torch", "mavlink": "pymavlink", "trax": "trax"}.get(name)
    if library:
        pytest.importorskip(library)
    target = TARGETS[name](tmp_path)
    for data in known_inputs(name):
        target.run(data)

    @fuzz
    @given(data=st.builds(damaged, st.sampled_from(target.examples), edits))
    def check(data: bytes) -> None:
        target.run(data)

    check()


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


words = st.sampled_from(
    ["/**", "/*", "tracker", "ros__parameters", "lost", "duration", "model", "a.b", ""]
)
trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | words | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=4),
    max_leaves=12,
)


@fuzz
@given(tree=trees)
def test_parameter_files(tmp_path_factory: pytest.TempPathFactory, tree: object) -> None:
    file = tmp_path_factory.getbasetemp() / "parameters.yaml"
    file.write_bytes(yaml.safe_dump(tree).encode())

    def read() -> None:
        values = read_parameter_file(file, "/tracker")
        assert all(isinstance(name, str) for name in values)

    gives(read, ParameterError)
