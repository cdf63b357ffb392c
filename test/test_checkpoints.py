"""Checkpoints: what is read, what is refused, and that nothing in a file is ever executed."""

from __future__ import annotations

import builtins
import copyreg
import io
import os
import pickle
import random
import subprocess
import sys
import types
import zipfile
from collections import OrderedDict
from contextlib import suppress
from dataclasses import asdict, replace
from math import prod
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from mixformerv2_ros.cli import main
from mixformerv2_ros.errors import CheckpointError
from mixformerv2_ros.model.architecture import expected_shapes, infer_spec, preset_name
from mixformerv2_ros.model.bundle import open_bundle, read_weights
from mixformerv2_ros.model.checkpoints import load_checkpoint
from mixformerv2_ros.model.pickles import read_pickle
from mixformerv2_ros.model.presets import PRESETS, B, S, T
from mixformerv2_ros.model.spec import ModelSpec

torch = pytest.importorskip("torch")

import golden  # noqa: E402

TINY = ModelSpec(
    preset="custom", width=64, depth=2, heads=1, mlp_ratio=2.0, bins=8,
    template_size=32, search_size=48,
)  # fmt: skip

FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


def formula_weights(spec: ModelSpec = TINY, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        name: rng.standard_normal(shape, dtype=np.float32)
        for name, shape in expected_shapes(spec).items()
    }


def weights_of(path: Path) -> dict[str, np.ndarray]:
    return load_checkpoint(path).weights


def as_torch(weights: dict[str, np.ndarray]) -> OrderedDict:
    return OrderedDict((name, torch.from_numpy(value.copy())) for name, value in weights.items())


def save(content: object, path: Path, zipped: bool = True) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def assert_same(read: dict[str, np.ndarray], written: dict[str, np.ndarray]) -> None:
    assert list(read) == list(written)
    for name, value in written.items():
        assert read[name].dtype == np.float32
        np.testing.assert_array_equal(read[name], value, err_msg=name)


@pytest.fixture
def reference_modules():
    """Classes of the reference's training code, which exist only while a container is saved."""
    modules = {}
    for name in ("lib", "lib.train", "lib.train.admin", "lib.train.admin.settings",
                 "lib.train.admin.local", "lib.train.admin.stats"):  # fmt: skip
        modules[name] = sys.modules[name] = types.ModuleType(name)
    for module, name in (("settings", "Settings"), ("local", "EnvironmentSettings"),
                         ("stats", "AverageMeter"), ("stats", "StatValue")):  # fmt: skip
        full = f"lib.train.admin.{module}"
        setattr(modules[full], name, type(name, (), {"__module__": full}))
    yield modules
    for name in modules:
        sys.modules.pop(name, None)


def official_container(modules: dict, weights: dict[str, np.ndarray]) -> dict:
    """A training container as the reference's trainer writes it."""
    settings = modules["lib.train.admin.settings"].Settings()
    settings.env = modules["lib.train.admin.local"].EnvironmentSettings()
    settings.env.lasot_dir = "/data/lasot"
    settings.device = torch.device("cpu")
    meter = modules["lib.train.admin.stats"].AverageMeter()
    meter.history = [modules["lib.train.admin.stats"].StatValue()]
    net = as_torch(weights)
    parameters = [torch.nn.Parameter(value.clone()) for value in net.values()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return {
        "epoch": 40,
        "actor_type": "MixFormerActor",
        "net_type": "MixFormer",
        "net": net,
        "net_info": None,
        "constructor": None,
        "optimizer": optimizer.state_dict(),
        "stats": OrderedDict(train=OrderedDict({"Loss/total": meter})),
        "settings": settings,
    }


# Names and shapes.


def test_expected_shapes_are_the_released_ones():
    for spec, tensors, parameters in ((S, 66, 16_228_897), (B, 114, 58_855_201)):
        shapes = expected_shapes(spec)
        assert len(shapes) == tensors
        assert sum(prod(shape) for shape in shapes.values()) == parameters
    shapes = expected_shapes(B)
    assert shapes["backbone.pos_embed_s"] == (1, 324, 768)
    assert shapes["backbone.blocks.7.attn.qkv.weight"] == (2304, 768)
    assert shapes["backbone.blocks.7.mlp.fc1.bias"] == (3072,)
    assert shapes["backbone.blocks.0.mlp.fc2.weight"] == (768, 3072)
    assert shapes["box_head.layers.1.1.weight"] == (96,)
    assert shapes["score_head.layers.1.weight"] == (1, 768)


@pytest.mark.parametrize("preset", PRESETS)
def test_expected_shapes_are_those_of_the_network(preset):
    from mixformerv2_ros.network.model import MixFormerV2

    spec = PRESETS[preset]
    state = MixFormerV2(spec).state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == expected_shapes(spec)


# Reading.


@FORMATS
def test_official_container(reference_modules, tmp_path, zipped):
    weights = formula_weights()
    path = save(
        official_container(reference_modules, weights),
        tmp_path / "MixFormer_ep0040.pth.tar",
        zipped,
    )
    for name in reference_modules:
        del sys.modules[name]
    checkpoint = load_checkpoint(path)
    assert_same(checkpoint.weights, weights)
    assert checkpoint.opaque == (
        "lib.train.admin.local.EnvironmentSettings",
        "lib.train.admin.settings.Settings",
        "lib.train.admin.stats.AverageMeter",
        "lib.train.admin.stats.StatValue",
    )
    assert checkpoint.training == {"epoch": 40}
    assert "training container" in checkpoint.kind
    assert not any(name.startswith("lib.train") for name in sys.modules)


@FORMATS
@pytest.mark.parametrize("key", [None, "net", "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_state_dicts_bare_or_contained_with_or_without_prefix(tmp_path, zipped, key, prefix):
    weights = formula_weights()
    state = OrderedDict((prefix + name, value) for name, value in as_torch(weights).items())
    path = save({key: state, "lr": 1e-4} if key else state, tmp_path / "c.pth", zipped)
    assert_same(weights_of(path), weights)


def test_state_dict_of_the_network_itself_with_its_metadata(tmp_path):
    from mixformerv2_ros.network.model import MixFormerV2

    model = MixFormerV2(TINY)
    state = model.state_dict()
    assert_same(
        weights_of(save(state, tmp_path / "c.pth")),
        {name: value.numpy() for name, value in state.items()},
    )
    parameters = OrderedDict(model.named_parameters())
    assert_same(
        weights_of(save(parameters, tmp_path / "p.pth")),
        {name: value.detach().numpy() for name, value in parameters.items()},
    )


@FORMATS
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_float_types_become_float32(tmp_path, zipped, dtype):
    state = {
        name: value.to(getattr(torch, dtype)) for name, value in as_torch(formula_weights()).items()
    }
    path = save(state, tmp_path / "c.pth", zipped)
    assert_same(weights_of(path), {name: value.float().numpy() for name, value in state.items()})


@FORMATS
def test_views_of_shared_storage(tmp_path, zipped):
    flat = torch.arange(60.0)
    state = {"a": flat[10:22].view(3, 4), "b": flat.view(6, 10).t(), "c": flat[59], "d": flat[::7]}
    read = weights_of(save(state, tmp_path / "c.pth", zipped))
    assert_same(read, {name: value.numpy() for name, value in state.items()})
    assert all(value.flags.c_contiguous and value.flags.writeable for value in read.values())


@FORMATS
def test_entries_that_are_no_float_tensors_are_named(tmp_path, zipped):
    state = {
        "a": torch.ones(2), "counter": torch.tensor(3), "mask": torch.ones(2, dtype=torch.bool),
        "z": torch.ones(1, dtype=torch.uint16), "n": 3,
    }  # fmt: skip
    checkpoint = load_checkpoint(save(state, tmp_path / "c.pth", zipped))
    assert list(checkpoint.weights) == ["a"]
    assert checkpoint.ignored == ("counter", "mask", "z", "n")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@FORMATS
def test_every_pickle_protocol(tmp_path, zipped, protocol):
    weights = formula_weights()
    path = tmp_path / "c.pth"
    torch.save(
        {
            "net": as_torch(weights),
            "x": {1, 2},
            "y": bytearray(b"1"),
            "z": frozenset("a"),
            "l": [1] * 3,
        },
        path,
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=zipped,
    )
    assert_same(weights_of(path), weights)


def test_safetensors(tmp_path):
    weights = formula_weights()
    save_file(weights, tmp_path / "m.safetensors", metadata={"format": "pt"})
    read = weights_of(tmp_path / "m.safetensors")
    assert_same({name: read[name] for name in weights}, weights)
    from safetensors.torch import save_file as save_torch

    state = {"a": torch.tensor([1.5, -2.25]).bfloat16(), "b": torch.tensor([[0.5]]).half()}
    save_torch(state, tmp_path / "h.safetensors")
    read = weights_of(tmp_path / "h.safetensors")
    np.testing.assert_array_equal(read["a"], np.float32([1.5, -2.25]))
    np.testing.assert_array_equal(read["b"], np.float32([[0.5]]))


def test_a_trainers_notes_beside_the_weights(tmp_path):
    spec = replace(TINY, heads=4, score_pooling="mean")
    state = {
        "net": as_torch(formula_weights()), "spec": asdict(spec), "step": 12,
        "config": {"batch": 48, "name": "t", "deep": [[1]], "far": float("inf")},
        "model": {"network.x": torch.ones(1)},
    }  # fmt: skip
    checkpoint = load_checkpoint(save(state, tmp_path / "c.pt"))
    # Names and shapes of the weights tell the exits.
    assert checkpoint.spec == {k: v for k, v in asdict(spec).items() if k != "exits"}
    assert checkpoint.training == {"step": 12, "config": {"batch": 48, "name": "t"}}
    assert main(["convert", str(tmp_path / "c.pt"), "-o", str(tmp_path / "b")]) == 0
    bundle = open_bundle(tmp_path / "b")
    assert bundle.spec == spec
    assert bundle.metadata["training"]["step"] == 12


def test_reading_needs_no_torch(tmp_path):
    path = save(as_torch(formula_weights()), tmp_path / "c.pth")
    code = (
        "import sys; from mixformerv2_ros.cli import main;"
        f"code = main(['convert', {str(path)!r}, '-o', {str(tmp_path / 'b')!r}]);"
        "sys.exit(code or 10 * ('torch' in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False,
        cwd=Path(__file__).resolve().parents[1],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


# Architecture.


@pytest.mark.parametrize("spec", [S, B, T, TINY], ids=lambda spec: spec.preset)
def test_architecture_is_inferred(spec):
    shapes = {name: np.broadcast_to(np.float32(0), s) for name, s in expected_shapes(spec).items()}
    assert infer_spec(shapes) == spec
    assert preset_name(spec) == spec.preset


def test_heads_and_score_pooling_can_be_given():
    weights = formula_weights()
    assert infer_spec(weights, heads=4, score_pooling="mean") == replace(
        TINY, heads=4, score_pooling="mean"
    )
    shapes = {name: np.empty(shape) for name, shape in expected_shapes(T).items()}
    assert infer_spec(shapes, heads=3) == replace(T, heads=3, preset="custom")
    for heads in (0, 5, -1):
        with pytest.raises(CheckpointError, match="heads must divide the width 64"):
            infer_spec(weights, heads=heads)
    odd = formula_weights(replace(TINY, width=80))
    with pytest.raises(CheckpointError, match="number of attention heads of width 80"):
        infer_spec(odd)
    assert infer_spec(odd, heads=5).heads == 5


def test_distillation_stage_shapes():
    student = replace(B, preset="custom", depth=12, bins=72)
    shapes = {
        name: np.broadcast_to(np.float32(0), s) for name, s in expected_shapes(student).items()
    }
    assert infer_spec(shapes) == student
    without = {name: value for name, value in shapes.items() if not name.startswith("score_head")}
    with pytest.raises(CheckpointError, match=r"score head .* distillation stage"):
        infer_spec(without)


def change(name: str, value: np.ndarray | None = None):
    def changed(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        rest = {key: entry for key, entry in weights.items() if key != name}
        return rest if value is None else {**rest, name: value}

    return changed


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (change("backbone.blocks.1.norm1.bias"), "missing backbone.blocks.1.norm1.bias"),
        (change("score_head.layers.1.bias"), "missing score_head.layers.1.bias"),
        (change("backbone.norm.weight", np.ones(64)), "unexpected backbone.norm.weight"),
        (change("box_head.layers.1.1.bias", np.ones(9)), r"wrong shape .* instead of \(8,\)"),
        (change("backbone.blocks.5.norm1.bias", np.ones(64)), "depth 6.* missing .* and 44 more"),
        (change("backbone.reg_tokens"), "lacks backbone.reg_tokens"),
        (change("backbone.pos_embed_t", np.ones((1, 5, 64))), "square of patches, got 5"),
        (change("backbone.pos_embed_s", np.ones(64)), "must have 3 axes"),
        (change("backbone.patch_embed.proj.weight", np.ones((64, 3, 8, 8))), "wrong shape of"),
        (change("backbone.patch_embed.proj.weight", np.ones((0, 3, 16, 16))), "must have 4 axes"),
        (change("box_head.layers.1.0.weight", np.float32(1)), "must have 2 axes"),
    ],
)  # fmt: skip
def test_weights_that_do_not_fit(damage, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        infer_spec(damage(formula_weights()))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["backbone.blocks.0.norm1.bias", "box_head.conv1_tl.0.weight"], "MixViT .*teacher"),
        (["backbone.stage0.patch_embed.proj.weight", "x"], "first MixFormer"),
        (["backbone.blocks.0.norm1.bias", "box_head.conv1_ctr.0.weight"], "OSTrack"),
        (["cls_token", "blocks.0.attn.qkv.weight"], "plain vision transformer"),
        (["mask_token", "cls_token", "decoder_blocks.0.attn.qkv.weight"], "masked autoencoder"),
        (["conv1.weight", "layer1.0.conv1.weight"], "ResNet"),
        (["b\x1b[31m.x", "y"], r"holds b\\x1b\[31m.x, y"),
        ([], "no float tensors"),
    ],
)
def test_other_architectures_are_named(names, message):
    with pytest.raises(CheckpointError, match=message):
        infer_spec({name: np.ones(1, np.float32) for name in names})


def test_the_teacher_is_told_apart(shared_vectors, tmp_path, capsys):
    with np.load(shared_vectors / "teacher_mixvit_b.npz", allow_pickle=False) as vectors:
        keys = [str(key) for key in vectors["corner_up_keys"]]
    path = save({"net": {key: torch.ones(1) for key in keys}}, tmp_path / "teacher.pth.tar")
    assert_refused(path, capsys, "teacher")


# Golden weights.


@pytest.mark.parametrize("spec", [S, B], ids=["S", "B"])
def test_golden_weights_come_through_exactly(shared_vectors, tmp_path, spec):
    with np.load(shared_vectors / f"net_{spec.preset}.npz", allow_pickle=False) as vectors:
        expected = float(vectors["check_sd_abs_sum64"])
    weights = golden.weights(expected_shapes(spec), spec.preset)
    path = save({"net": as_torch(weights), "epoch": 40}, tmp_path / "official.pth.tar")
    assert main(["convert", str(path), "-o", str(tmp_path / "bundle")]) == 0
    bundle = open_bundle(tmp_path / "bundle")
    assert bundle.spec == spec
    read = read_weights(bundle)
    total = sum(np.abs(read[name].astype(np.float64)).sum() for name in weights)
    assert total == pytest.approx(expected, rel=1e-9)
    assert_same({name: read[name] for name in weights}, weights)


# Refusals: one line, exit code 2, nothing written.


def assert_refused(path: Path, capsys: pytest.CaptureFixture, message: str = "") -> None:
    before = sorted(path.parent.rglob("*"))
    assert main(["convert", str(path), "-o", str(path.parent / "bundles" / "b")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("mixformerv2 convert: ")
    assert error.count("\n") == 1
    assert error.endswith("\n")
    assert error.isprintable() or error[:-1].isprintable()
    assert message in error
    assert sorted(path.parent.rglob("*")) == before


class Payload:
    """Pickles as a call."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced


def binary_text(text: str) -> bytes:
    return b"X" + len(text.encode()).to_bytes(4, "little") + text.encode()


def short_text(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode()


def payload_programs(marker: Path) -> dict[str, bytes]:
    """Pickle code that creates `marker`, by each of the ways that pickles can call something.

    Each leaves one value on the stack. `hostile` is a module made by the test.
    """
    command = binary_text(f"touch {marker}")
    marker_text = binary_text(str(marker))
    code = binary_text(f"open({str(marker)!r}, 'w').close()")
    system = b"\x8c\x02os\x8c\x06system\x93"
    return {
        "GLOBAL, REDUCE": b"cos\nsystem\n(" + command + b"tR",
        "STACK_GLOBAL, REDUCE": system + command + b"\x85R",
        "memoized": system + b"\x94q\xff0h\xff" + command + b"\x85R",
        "INST": b"(" + command + b"ios\nsystem\n",
        "OBJ": b"(cos\nsystem\n" + command + b"o",
        "eval": b"cbuiltins\neval\n" + code + b"\x85R",
        "exec in Python 2's spelling": b"c__builtin__\nexec\n" + code + b"\x85R",
        "NEWOBJ": b"chostile\nMade\n" + marker_text + b"\x85\x81",
        "NEWOBJ_EX": b"chostile\nMade\n" + marker_text + b"\x85}\x92",
        "BUILD": b"chostile\nStateful\n)\x81" + marker_text + b"b",
        "APPEND": b"chostile\nList\n)\x81" + marker_text + b"a",
        "APPENDS": b"chostile\nList\n)\x81(" + marker_text + b"e",
        "SETITEM": b"chostile\nDict\n)\x81" + marker_text + b"Ns",
        "SETITEMS": b"chostile\nDict\n)\x81(" + marker_text + b"Nu",
        "key of a dict": b"}chostile\nKey\n)\x81" + marker_text + b"bNs",
        "ADDITEMS": b"\x8f(chostile\nKey\n)\x81" + marker_text + b"b\x90",
        "EXT1": b"\x82\xf1" + command + b"\x85R",
        "EXT2": b"\x83\xf1\x00" + command + b"\x85R",
        "EXT4": b"\x84\xf1\x00\x00\x00" + command + b"\x85R",
        "attribute of an import": b"cbuiltins\ngetattr\ncimportlib\nimport_module\n"
        + binary_text("os") + b"\x85R" + binary_text("system") + b"\x86R" + command + b"\x85R",
        "argument of a permitted call": b"ctorch._utils\n_rebuild_parameter\n"
        + system + command + b"\x85R\x88}\x87R",
        "persistent id": binary_text("storage") + system + command + b"\x85R"
        + binary_text("0") + b"\x87Q",
        "state of a permitted class": b"ccollections\nOrderedDict\n)R"
        + system + command + b"\x85Rb",
    }  # fmt: skip


PAYLOADS = list(payload_programs(Path("marker")))


@pytest.fixture
def hostile_module():
    """A module whose classes write a file as soon as any of their methods runs."""

    def write(path: object) -> None:
        Path(str(path)).touch()

    class Made:
        def __new__(cls, path):
            write(path)
            return super().__new__(cls)

    class Stateful:
        def __setstate__(self, state):
            write(state)

    class List:
        def append(self, value):
            write(value)

        def extend(self, values):
            write(values[0])

    class Dict:
        def __setitem__(self, key, value):
            write(key)

    class Key:
        path: object = None

        def __setstate__(self, state):
            self.path = state

        def __hash__(self):
            write(self.path)
            return 0

    module = types.ModuleType("hostile")
    for kind in (Made, Stateful, List, Dict, Key):
        setattr(module, kind.__name__, kind)
        kind.__module__, kind.__qualname__ = "hostile", kind.__name__
    sys.modules["hostile"] = module
    copyreg.add_extension("os", "system", 0xF1)
    yield
    copyreg.remove_extension("os", "system", 0xF1)
    del sys.modules["hostile"]


class Credulous(pickle.Unpickler):
    """What a reader without protection does."""

    def persistent_load(self, identity: object) -> object:
        return identity


@pytest.mark.usefixtures("hostile_module")
@FORMATS
@pytest.mark.parametrize("name", PAYLOADS)
def test_hostile_pickles_do_not_run(tmp_path, zipped, name):
    marker = tmp_path / "marker"
    program = payload_programs(marker)[name]
    with suppress(Exception):  # The call happens first; that its result does not fit is no matter.
        Credulous(io.BytesIO(b"\x80\x02" + program + b".")).load()
    assert marker.exists(), "the payload must be a real one"
    marker.unlink()

    weights = formula_weights()
    path = save({"net": as_torch(weights)}, tmp_path / "c.pth", zipped)
    insert_program(path, program + b"0")
    checkpoint = load_checkpoint(path)
    assert not marker.exists()
    assert_same(checkpoint.weights, weights)


def insert_program(path: Path, program: bytes) -> None:
    """Put pickle code before the first steps of the main pickle of a checkpoint."""
    content = path.read_bytes()
    if not zipfile.is_zipfile(path):
        start = content.index(b"}q\x00X\x03\x00\x00\x00net")
        path.write_bytes(content[:start] + program + content[start:])
        return
    with zipfile.ZipFile(path) as archive:
        records = {info.filename: archive.read(info) for info in archive.infolist()}
    index = next(name for name in records if name.endswith("/data.pkl"))
    records[index] = records[index][:2] + program + records[index][2:]
    write_records(path, records)


def write_records(path: Path, records: dict[str, bytes], compression: int = 0) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in records.items():
            archive.writestr(name, data)
    return path


@FORMATS
@pytest.mark.parametrize("where", ["beside", "root", "inside", "key"])
def test_hostile_objects_in_torch_files_do_not_run(tmp_path, capsys, zipped, where):
    marker = tmp_path / "marker"
    evil = Payload(os.system, f"touch {marker}")
    nested = Payload(getattr, Payload(__import__, "os"), Payload(builtins.eval, "'system'"))
    weights = formula_weights()
    content = {
        "beside": {"net": as_torch(weights), "settings": evil, "more": [nested]},
        "root": evil,
        "inside": {"net": {**as_torch(weights), "x": evil}},
        "key": {"net": evil},
    }[where]
    path = save(content, tmp_path / "hostile.pth.tar", zipped)
    torch.load(path, weights_only=False)
    assert marker.exists(), "the payload must be a real one"
    marker.unlink()
    if where in ("beside", "inside"):
        assert_same(weights_of(path), weights)
        assert main(["convert", str(path), "-o", str(tmp_path / "b")]) == 0
        assert "posix.system" in capsys.readouterr().out
    else:
        assert_refused(path, capsys, "posix.system" if where == "root" else "pickled object")
    assert not marker.exists()


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, bytes]:
    """One sound checkpoint in each file format."""
    folder = tmp_path_factory.mktemp("files")
    content = {
        "net": as_torch(formula_weights(replace(TINY, depth=1))),
        "epoch": 1,
        "x": [{"a": 1.5}],
    }
    save(content, folder / "zip")
    save(content, folder / "legacy", zipped=False)
    save_file(formula_weights(), folder / "safetensors")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_truncated_files(files, tmp_path, kind):
    content = files[kind]
    rng = random.Random(3)
    lengths = {*range(0, 40), *(len(content) - 1 - i for i in range(40))}
    lengths |= {rng.randrange(len(content)) for _ in range(60)}
    path = tmp_path / "cut.pth"
    for length in sorted(lengths):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError) as caught:
            weights_of(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_truncated_file_through_the_command(files, tmp_path, capsys, kind):
    path = tmp_path / "cut.pth.tar"
    path.write_bytes(files[kind][: len(files[kind]) * 2 // 3])
    assert_refused(path, capsys, "cut.pth.tar: ")


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_mutated_files_raise_only_checkpoint_errors(files, tmp_path, kind):
    rng = random.Random(5)
    path = tmp_path / "mutated.pth"
    refusals = []
    for _ in range(150):
        content = bytearray(files[kind])
        # Half of the changes hit the index, which lies first or (directory of a zip file) last.
        for _ in range(rng.randint(1, 4)):
            place = rng.choice(
                [rng.randrange(9000), -1 - rng.randrange(3000), rng.randrange(len(content))]
            )
            content[place] = rng.randrange(256)
        path.write_bytes(content)
        try:
            infer_spec(weights_of(path))
        except CheckpointError as error:
            refusals.append(str(error))
    assert len(refusals) > 20
    assert all(message.isprintable() for message in refusals)


def test_mutated_pickles_raise_only_checkpoint_errors(files):
    with zipfile.ZipFile(io.BytesIO(files["zip"])) as archive:
        content = archive.read("zip/data.pkl")
    rng = random.Random(7)
    refused = 0
    for _ in range(1200):
        mutated = bytearray(content)
        for _ in range(rng.randint(1, 6)):
            change = rng.randrange(3)
            place = rng.randrange(len(mutated))
            if change == 0:
                mutated[place] = rng.randrange(256)
            elif change == 1:
                del mutated[place : place + rng.randrange(9)]
            else:
                mutated[place:place] = rng.randbytes(rng.randrange(9))
        try:
            read_pickle(io.BytesIO(mutated))
        except CheckpointError:
            refused += 1
    assert refused > 100


@pytest.mark.parametrize(
    "program",
    [
        b"\x8e" + (2**62).to_bytes(8, "little"),  # A string of exabytes.
        b"\x96" + (2**40).to_bytes(8, "little"),  # A bytearray of a terabyte.
        b"\x8b\xff\xff\xff\x7f",  # An integer of two gigabytes.
        b"\x95" + (2**60).to_bytes(8, "little"),  # A frame of exabytes.
        b"]r\xff\xff\xff\xff.",  # Memo entry four billion, which is harmless here.
        b"}" + b"\x85" * 200_000 + b"Ns.",  # A key that is nested too deeply to be hashed.
        b"}" + b"]" * 100_000 + b"." ,
        b"(" * 100_000 + b".",
        b"R.", b"b.", b"t.", b"0.", b"u.", b"h\x00.", b"Q.", b"\x93.", b"cx\ny", b"i\n\n.", b"",
        b"I" + b"9" * 5000 + b"\n.",
        b"S'\\e'\n.",
        b"V\\ud800\n.",
        b"N" * 2_000_001 + b".",
    ],
    ids=lambda program: program[:6].hex(),
)  # fmt: skip
@pytest.mark.filterwarnings("error")
def test_pathological_pickles_are_refused_or_read_at_once(program):
    with suppress(CheckpointError):
        read_pickle(io.BytesIO(b"\x80\x04" + program))


class Described:
    """A tensor as a file may claim it: arguments of torch's rebuild function."""

    def __init__(self, count: int, offset: int, shape: object, strides: object, key="0") -> None:
        self.storage = FakeStorage(count, key)
        self.rest = (offset, shape, strides, False, OrderedDict())

    def __reduce__(self):
        return torch._utils._rebuild_tensor_v2, (self.storage, *self.rest)  # noqa: SLF001


class FakeStorage:
    def __init__(self, count: int, key: str) -> None:
        self.identity = ("storage", torch.FloatStorage, key, "cpu", count)


class FakePickler(pickle.Pickler):
    def persistent_id(self, value: object) -> object:
        return value.identity if isinstance(value, FakeStorage) else None


def write_described(path: Path, root: object, storage: bytes = bytes(96), **how: int) -> Path:
    stream = io.BytesIO()
    FakePickler(stream, protocol=2).dump(root)
    records = {"a/data.pkl": stream.getvalue(), "a/data/0": storage, "a/version": b"3\n"}
    return write_records(path, records, **how)


def test_a_true_description_is_read(tmp_path):
    path = write_described(tmp_path / "c.pth", {"w": Described(24, 4, (2, 5), (10, 2))})
    assert weights_of(path)["w"].shape == (2, 5)
    path = write_described(tmp_path / "d.pth", {"w": Described(24, 0, (1, 24), (2**62, 1))})
    assert weights_of(path)["w"].shape == (1, 24)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (Described(24, 0, (5, 5), (5, 1)), "must lie within its storage"),
        (Described(24, 20, (5,), (1,)), "must lie within its storage"),
        (Described(24, 0, (3,), (12,)), "must lie within its storage"),
        (Described(24, 0, (2**40,), (0,)), "must hold at most"),
        (Described(24, 0, (25,), (0,)), "must lie within its storage"),
        (Described(24, 2**62, (1,), (1,)), "must lie within its storage"),
        (Described(24, 0, (0,), (1,)), "must lie within its storage"),
        (Described(25, 0, (24,), (1,)), "should hold 25 elements"),
        (Described(2**61, 0, (24,), (1,)), "should hold"),
        (Described(24, -1, (24,), (1,)), "must be MixFormerV2 weights"),
        (Described(24, 0, (-24,), (-1,)), "must be MixFormerV2 weights"),
        (Described(24, 0, (24, 1), (1,)), "must be MixFormerV2 weights"),
        (Described(24, 0, (24.0,), (1,)), "must be MixFormerV2 weights"),
        (Described(24, 0, "24", "1"), "must be MixFormerV2 weights"),
        (Described(24, 0, (1,) * 99, (1,) * 99), "must be MixFormerV2 weights"),
        (Described(24, 0, (24,), (1,), key="7"), "lacks the record data/7"),
        (Described(24, 0, (24,), (1,), key="../data.pkl"), "lacks the record data/../data.pkl"),
    ],
)
def test_lying_descriptions(tmp_path, capsys, tensor, message):
    root = {"w": tensor, "v": Described(24, 0, (24,), (1,))}
    assert_refused(write_described(tmp_path / "c.pth", root), capsys, message)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite(tmp_path, capsys, value):
    weights = formula_weights()
    weights["backbone.blocks.0.norm1.bias"][3] = value
    path = save(as_torch(weights), tmp_path / "c.pth")
    assert_refused(path, capsys, "backbone.blocks.0.norm1.bias must hold finite numbers")


def test_doubles_beyond_float32(tmp_path, capsys):
    path = save({"a": torch.tensor([1e300], dtype=torch.float64)}, tmp_path / "c.pth")
    assert_refused(path, capsys, "must hold finite numbers")


def test_compressed_records_are_refused(tmp_path, capsys):
    """A few megabytes can unpack to terabytes; torch never compresses."""
    root = {"w": Described(2**20, 0, (2**20,), (1,))}
    path = write_described(tmp_path / "c.pth", root, bytes(2**22), compression=zipfile.ZIP_DEFLATED)
    assert_refused(path, capsys, "neither compressed nor encrypted")


def test_damaged_records_are_refused(files, tmp_path, capsys):
    content = bytearray(files["zip"])
    content[len(content) // 2] ^= 1
    path = tmp_path / "c.pth"
    path.write_bytes(content)
    assert_refused(path, capsys, "wrong checksum")


def test_zip_files_that_are_something_else(tmp_path, capsys):
    np.savez(tmp_path / "a.npz", w=np.ones(3))
    assert_refused(tmp_path / "a.npz", capsys, "data.pkl")
    script = {"s/data.pkl": b"\x80\x02N.", "s/constants.pkl": b"\x80\x02).", "s/code/a.py": b""}
    assert_refused(write_records(tmp_path / "s.pt", script), capsys, "TorchScript")
    two = {"a/data.pkl": b"\x80\x02N.", "b/data.pkl": b"\x80\x02N."}
    assert_refused(write_records(tmp_path / "t.pt", two), capsys, "got 2")


@pytest.mark.parametrize("size", [2**31, 97])
def test_lying_sizes_of_records(tmp_path, capsys, size):
    path = write_described(tmp_path / "c.pth", {"w": Described(24, 0, (24,), (1,))})
    content = bytearray(path.read_bytes())
    directory = content.index(b"PK\x01\x02", content.index(b"PK\x01\x02") + 4)
    for field in (20, 24):  # Compressed and unpacked size of the second record.
        content[directory + field : directory + field + 4] = size.to_bytes(4, "little")
    path.write_bytes(content)
    assert_refused(path, capsys, "zip record a/data/0 ")


def test_lying_place_of_a_record(tmp_path, capsys):
    path = write_described(tmp_path / "c.pth", {"w": Described(24, 0, (24,), (1,))})
    content = bytearray(path.read_bytes())
    directory = content.index(b"PK\x01\x02", content.index(b"PK\x01\x02") + 4)
    content[directory + 42] ^= 1
    path.write_bytes(content)
    assert_refused(path, capsys, "a/data/0 differs from the zip directory")


def test_a_bare_hostile_pickle_does_not_run(tmp_path, capsys):
    marker = tmp_path / "marker"
    path = tmp_path / "c.pth.tar"
    path.write_bytes(pickle.dumps(Payload(os.system, f"touch {marker}")))
    assert_refused(path, capsys, "some other pickle")
    pickle.loads(path.read_bytes())
    assert marker.exists(), "the payload must be a real one"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS"),
        (b"\x1f\x8b\x08\x00", "gzip"),
        (b"hello, world", "must be a PyTorch checkpoint"),
        (pickle.dumps({"net": 1}), "some other pickle"),
        (b"PK\x03\x04" + b"\0" * 100, "cut off or damaged"),
        (b"\xff\xff\xff\xff\xff\xff\xff\x7f{}", "safetensors file is cut off or damaged"),
        (b"\x02\0\0\0\0\0\0\0{]", "safetensors file is cut off or damaged"),
        (b"\x08\0\0\0\0\0\0\0{\"a\": 1}", "safetensors file is cut off or damaged"),
    ],
    ids=["empty", "html", "lfs", "gzip", "text", "pickle", "zip", "long", "json", "entry"],
)  # fmt: skip
def test_files_that_are_no_checkpoints(tmp_path, capsys, content, message):
    path = tmp_path / "c.pth.tar"
    path.write_bytes(content)
    assert_refused(path, capsys, message)


def test_places_that_are_no_files(tmp_path, capsys):
    assert_refused(tmp_path / "absent.pth", capsys, "No such file")
    (tmp_path / "folder").mkdir()
    assert_refused(tmp_path / "folder", capsys, "must be a file")
    os.mkfifo(tmp_path / "pipe")
    assert_refused(tmp_path / "pipe", capsys, "must be a file")


@pytest.mark.parametrize(
    ("root", "message"),
    [
        ([1, 2], "must hold a dict of tensors, got list"),
        ({"epoch": 3}, "must hold a state_dict"),
        ({}, "got nothing"),
        ({"state_dict": {"a": torch.ones(1)}, "model": {"a": torch.ones(1)}}, "got several"),
        (torch.nn.Linear(2, 2), "got a pickled object (torch.nn.modules.linear.Linear)"),
        ({"model": torch.nn.Linear(2, 2)}, "pickled object under model"),
        ({"net": {"a\nb\x1b[2J": torch.ones(1)}}, r"holds a\nb\x1b[2J"),
    ],
    ids=["list", "no tensors", "nothing", "several", "module", "module inside", "escapes"],
)
def test_contents_that_are_no_state_dict(tmp_path, capsys, root, message):
    assert_refused(save(root, tmp_path / "c.pth"), capsys, message)


def test_wrong_architecture_through_the_command(tmp_path, capsys):
    weights = formula_weights()
    del weights["box_head.layers.0.0.bias"]
    assert_refused(
        save(as_torch(weights), tmp_path / "c.pth"), capsys, "missing box_head.layers.0.0"
    )


def test_existing_bundles_are_kept_unless_forced(tmp_path, capsys):
    first, second = formula_weights(seed=1), formula_weights(seed=2)
    save(as_torch(first), tmp_path / "1.pth")
    save(as_torch(second), tmp_path / "2.pth")
    out = str(tmp_path / "b")
    assert main(["convert", str(tmp_path / "1.pth"), "-o", out, "--name", "one"]) == 0
    assert main(["convert", str(tmp_path / "2.pth"), "-o", out]) == 2
    assert "exists already" in capsys.readouterr().err
    assert_same_content(read_weights(open_bundle(out)), first)
    assert main(["convert", str(tmp_path / "2.pth"), "-o", out, "--force"]) == 0
    assert_same_content(read_weights(open_bundle(out)), second)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.pth", "2.pth", "b"]


def assert_same_content(read: dict[str, np.ndarray], written: dict[str, np.ndarray]) -> None:
    assert_same({name: read[name] for name in written}, written)
    assert len(read) == len(written)


def test_what_convert_says(reference_modules, tmp_path, capsys):
    path = save(official_container(reference_modules, formula_weights(T)), tmp_path / "t.pth.tar")
    card = tmp_path / "card.md"
    card.write_text("# A model\n")
    arguments = [
        "convert", str(path), "-o", str(tmp_path / "new" / "t"), "--precision", "fp16",
        "--search-factor", "5", "--licence", "MIT", "--card", str(card),
    ]  # fmt: skip
    assert main(arguments) == 0
    said = capsys.readouterr().out
    for part in ("training container", "lib.train.admin.settings.Settings", "preset T", "depth 4",
                 "64 bins", "template 64 px", "search 128 px", "1,439,809", "fp16"):  # fmt: skip
        assert part in said
    bundle = open_bundle(tmp_path / "new" / "t")
    assert bundle.spec == T
    assert (bundle.search_factor, bundle.template_factor) == (5.0, 2.0)
    assert bundle.metadata["licence"] == "MIT"
    assert bundle.metadata["source"]["file"] == "t.pth.tar"
    assert (bundle.path / "README.md").read_text() == "# A model\n"
