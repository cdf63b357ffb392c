"""Bundles: written whole or not at all, refused unless sound, described by `mixformerv2 info`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mixformerv2_ros.cli import main
from mixformerv2_ros.errors import BundleError
from mixformerv2_ros.model import bundle as bundles
from mixformerv2_ros.model.architecture import expected_shapes
from mixformerv2_ros.model.bundle import (
    SHIPPED_BUNDLES,
    open_bundle,
    read_weights,
    record_graphs,
    verify_graphs,
    verify_weights,
    write_bundle,
)
from mixformerv2_ros.model.flops import frame_macs, template_macs
from mixformerv2_ros.model.presets import B, S, T
from mixformerv2_ros.model.spec import ModelSpec
from mixformerv2_ros.text import printable, some

TINY = ModelSpec(
    preset="custom", width=64, depth=1, heads=1, mlp_ratio=2.0, bins=8,
    template_size=32, search_size=48,
)  # fmt: skip
SOURCE = {"file": "tiny.pth.tar", "sha256": "0123456789abcdef" * 4, "kind": "made by a test"}


def random_weights(spec: ModelSpec = TINY) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {
        name: rng.standard_normal(shape, dtype=np.float32)
        for name, shape in expected_shapes(spec).items()
    }


def write(folder: Path, **changes: Any) -> bundles.Bundle:
    arguments = {
        "spec": TINY, "weights": random_weights(), "name": "Tiny", "source": SOURCE,
        "licence": "Apache-2.0",
    }  # fmt: skip
    return write_bundle(folder, **{**arguments, **changes})


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    """A sound bundle that no test changes."""
    return write(tmp_path_factory.mktemp("sound") / "tiny").path


@pytest.fixture
def damaged(sound, tmp_path) -> Path:
    """A copy of it to be damaged."""
    folder = tmp_path / "damaged"
    folder.mkdir()
    for path in sound.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def edit(folder: Path, change: Callable[[dict], Any]) -> None:
    data = json.loads((folder / "model.json").read_text())
    change(data)
    (folder / "model.json").write_text(json.dumps(data))


def assert_refused(folder: Path, message: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(BundleError, match=message) as caught:
        open_bundle(folder)
    assert str(caught.value).isprintable()
    assert main(["info", str(folder)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("mixformerv2 info: bundle ")
    assert captured.err.count("\n") == 1


# Round trips.


def test_fp32_comes_back_exactly(tmp_path):
    weights = random_weights()
    written = write(
        tmp_path / "b", weights=weights, search_factor=5.0, template_factor=1.5,
        template_background_contrast=0.25,
        training={"steps": 3, "data": ["a"]}, notes={"x": None}, card="# Tiny\n",
    )  # fmt: skip
    opened = open_bundle(str(tmp_path / "b"))
    assert opened == written
    assert opened.spec == TINY
    assert (opened.name, opened.search_factor, opened.template_factor) == ("Tiny", 5.0, 1.5)
    assert opened.template_background_contrast == 0.25
    assert opened.precision == "fp32"
    assert opened.metadata["source"] == SOURCE
    assert opened.metadata["training"] == {"steps": 3, "data": ["a"]}
    assert opened.metadata["notes"] == {"x": None}
    assert opened.metadata["weights"]["sha256"].startswith(opened.checksum)
    assert len(opened.checksum) == 12
    assert opened.parameters == sum(value.size for value in weights.values())
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        "README.md", "b", "model.json", "model.safetensors",
    ]  # fmt: skip
    read = read_weights(opened)
    assert read.keys() == weights.keys()
    for name, value in weights.items():
        assert read[name].dtype == np.float32
        np.testing.assert_array_equal(read[name], value)


def test_fp16_is_rounded_once_and_half_the_size(tmp_path):
    weights = random_weights()
    half = write(tmp_path / "h", weights=weights, precision="fp16")
    full = write(tmp_path / "f", weights=weights)
    assert half.precision == "fp16"
    assert half.weights_path.stat().st_size < 0.6 * full.weights_path.stat().st_size
    for name, value in read_weights(half).items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, weights[name].astype(np.float16))


def test_equal_input_gives_equal_files(tmp_path):
    first, second = write(tmp_path / "1"), write(tmp_path / "2")
    for path in first.path.iterdir():
        assert path.read_bytes() == (second.path / path.name).read_bytes()


def test_weights_in_any_memory_layout(tmp_path):
    weights = {name: np.asfortranarray(value) for name, value in random_weights().items()}
    read = read_weights(write(tmp_path / "b", weights=weights))
    for name, value in random_weights().items():
        np.testing.assert_array_equal(read[name], value)


def test_relative_folders_and_permissions(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    old = os.umask(0o022)
    try:
        write(Path("new/b"))
    finally:
        os.umask(old)
    folder = tmp_path / "new" / "b"
    assert folder.stat().st_mode & 0o777 == 0o755
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o644}
    assert open_bundle("new/b").spec == TINY


# Writing: whole or nothing.


def test_a_name_stands_for_a_bundle_of_the_package_unless_a_folder_has_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in SHIPPED_BUNDLES:
        shipped = open_bundle(name)
        assert shipped.path == SHIPPED_BUNDLES[name]
        verify_weights(shipped)
        verify_graphs(shipped)
    assert open_bundle("tiny").parameters < open_bundle("default").parameters
    write(Path("tiny"))
    assert open_bundle("tiny").spec == TINY
    with pytest.raises(BundleError, match=r"bundle small: must be a folder, but does not exist"):
        open_bundle("small")


@pytest.mark.parametrize(("old", "contrast"), [({}, 1.0), ({"template_surroundings": 0.3}, 0.3)])
def test_older_bundles_open(tmp_path, old, contrast):
    """Those without the field, and those with its former name."""
    write(tmp_path / "b")
    path = tmp_path / "b" / "model.json"
    data = json.loads(path.read_text())
    del data["template_background_contrast"]
    path.write_text(json.dumps({**data, **old}))
    assert open_bundle(tmp_path / "b").template_background_contrast == contrast


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "int8"}, "precision must be one of fp32, fp16, got int8"),
        ({"name": ""}, "name must be one line"),
        ({"name": "two\nlines"}, r"name must be one line .* got 'two\\nlines'"),
        ({"name": "x" * 501}, "name must be one line"),
        ({"name": "\udcff"}, "expressible in JSON"),
        ({"licence": ""}, "licence must be one line"),
        ({"source": {"file": "x"}}, "kind must be one line"),
        ({"source": {**SOURCE, "sha256": "12"}}, "sha256 must be 64 hexadecimal digits, got 12"),
        ({"search_factor": 0.5}, "search_factor must be a number from 1 to 20, got 0.5"),
        ({"search_factor": float("nan")}, "expressible in JSON"),
        ({"template_factor": 21}, "template_factor must be a number from 1 to 20, got 21"),
        ({"template_background_contrast": -1}, "background_contrast must be a number from 0 to 1"),
        ({"training": {"x": {1, 2}}}, "expressible in JSON"),
        ({"spec": replace(TINY, heads=5)}, "width must be a multiple of heads"),
        ({"spec": replace(TINY, preset="S")}, "preset must be custom for these sizes, got S"),
        ({"spec": replace(TINY, depth=2)}, "must fit model.json, but differs in .* and 9 more"),
        ({"weights": {"a": np.ones(2, np.float32)}}, "must fit model.json, but differs in a, "),
        ({"weights": {}}, "must fit model.json"),
    ],
)  # fmt: skip
def test_bad_input_leaves_nothing_behind(tmp_path, changes, message):
    with pytest.raises(BundleError, match=message) as caught:
        write(tmp_path / "deep" / "er" / "b", **changes)
    assert str(caught.value).isprintable()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("precision", "value"), [("fp32", np.nan), ("fp32", -np.inf), ("fp16", 65520.0)]
)
def test_weights_that_the_precision_cannot_hold(tmp_path, precision, value):
    weights = random_weights()
    weights["box_head.layers.1.0.bias"][2] = value
    with pytest.raises(BundleError, match=f"finite in {precision}.*box_head.layers.1.0.bias"):
        write(tmp_path / "b", weights=weights, precision=precision)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stop", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("exists", [False, True])
def test_interrupted_writing_changes_nothing(tmp_path, monkeypatch, stop, exists):
    if exists:
        write(tmp_path / "b", name="first")
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}

    def fail(*_: object) -> None:
        raise stop

    monkeypatch.setattr(bundles, "file_sha256", fail)
    with pytest.raises((BundleError, KeyboardInterrupt)) as caught:
        write(tmp_path / "b", overwrite=True)
    if isinstance(stop, OSError):
        assert "No space left on device" in str(caught.value)
    after = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    assert after == before


def test_failure_of_the_last_step_brings_the_old_bundle_back(tmp_path, monkeypatch):
    write(tmp_path / "b", name="first")
    rename = Path.rename

    def fail_to_place(self: Path, target: Path) -> Path:
        if target.name == "b" and not self.name.endswith(".old"):
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_to_place)
    with pytest.raises(BundleError, match="Input/output error"):
        write(tmp_path / "b", name="second", overwrite=True)
    assert open_bundle(tmp_path / "b").name == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_overwriting_is_deliberate_and_complete(tmp_path):
    write(tmp_path / "b", name="first")
    (tmp_path / "b" / "search.onnx").write_bytes(b"graph of the first model")
    with pytest.raises(BundleError, match="exists already; use --force to overwrite it"):
        write(tmp_path / "b", name="second")
    assert open_bundle(tmp_path / "b").name == "first"
    write(tmp_path / "b", name="second", overwrite=True)
    assert open_bundle(tmp_path / "b").name == "second"
    assert not (tmp_path / "b" / "search.onnx").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_no_bundle_is_never_overwritten(tmp_path, overwrite):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    (tmp_path / "file").write_text("text")
    for name in ("home", "file", "file/b"):
        with pytest.raises(BundleError):
            write(tmp_path / name, overwrite=overwrite)
    assert (tmp_path / "home" / "letter.txt").read_text() == "dear"
    assert (tmp_path / "file").read_text() == "text"
    (tmp_path / "empty").mkdir()
    assert write(tmp_path / "empty", overwrite=overwrite).name == "Tiny"


# Opening: refuse what is not sound.


def put(key: str, value: object) -> Callable[[dict], None]:
    return lambda data: data.__setitem__(key, value)


def put_inside(outer: str, key: str, value: object) -> Callable[[dict], None]:
    return lambda data: data[outer].__setitem__(key, value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("format", 2), "format must be 1 .* got 2"),
        (put("format", None), "format must be 1 .* got None"),
        (put("format", [[[]]]), "format must be 1 .* got list"),
        (lambda data: data.pop("format"), "format must be 1"),
        *[
            (lambda data, key=key: data.pop(key), f"{key} must be .* got .?None")
            for key in (
                "name", "preset", "width", "depth", "heads", "mlp_ratio", "bins", "template_size",
                "search_size", "search_factor", "template_factor", "source",
                "licence", "created_by", "weights",
            )
        ],
        (lambda data: data.pop("score_pooling"), "score_pooling must be one of tokens, mean"),
        (put("width", "64"), "width must be a number from 16 to 4096, got 64"),
        (put("width", True), "width must be a number"),
        (put("width", 64.0), "width must be a whole number, got 64.0"),
        (put("width", 10**30), "width must be a number"),
        (put("depth", 65), "depth must be a number from 1 to 64, got 65"),
        (put("depth", -1), "depth must be a number"),
        (put("depth", 2), "differs in backbone.blocks.1"),
        (put("heads", 0), "heads must be a number"),
        (put("heads", 3), r"width must be a multiple of heads \(3\)"),
        (put("mlp_ratio", 1e999), "mlp_ratio must be a number"),
        (put("mlp_ratio", float("nan")), "mlp_ratio must be a number"),
        (put("mlp_ratio", 1), "differs in .*mlp"),
        (put("bins", 9), "differs in box_head"),
        (put("template_size", 33), "template_size must be a multiple of 16, got 33"),
        (put("template_size", 48), "differs in backbone.pos_embed_t$"),
        (put("search_size", 4096), "search_size must be a number from 16 to 2048, got 4096"),
        (put("preset", "B"), "preset must be custom for these sizes, got B"),
        (put("preset", ["S"]), "preset must be one line"),
        (put("score_pooling", "max"), "score_pooling must be one of tokens, mean, got max"),
        (put("name", "red \x1b[31m"), r"name must be one line"),
        (put("search_factor", None), "search_factor must be a number from 1 to 20, got None"),
        (put("source", "x"), "source must be a JSON object, got x"),
        (put("training", [1]), "training must be a JSON object, got list"),
        (put("notes", 1), "notes must be a JSON object, got 1"),
        (put_inside("source", "file", 3), "file must be one line"),
        (put_inside("source", "sha256", "G" * 64), "sha256 must be 64 hexadecimal digits"),
        (put_inside("weights", "sha256", None), "sha256 must be 64 hexadecimal digits"),
        (put_inside("weights", "file", "../x.safetensors"), "must lie in model.safetensors"),
        (put_inside("weights", "dtype", "int4"), "dtype must be one of fp32, fp16"),
        (put_inside("weights", "dtype", ["fp32"]), "dtype must be one of fp32, fp16"),
        (put_inside("weights", "dtype", "fp16"), "must hold fp16, got F32"),
    ],
)  # fmt: skip
def test_malformed_model_json(damaged, capsys, change, message):
    edit(damaged, change)
    assert_refused(damaged, message, capsys)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "model.json must be JSON"),
        (b"{", "model.json must be JSON"),
        (b"[]", "model.json must be a JSON object, got list"),
        (b"null", "model.json must be a JSON object, got NoneType"),
        (b"\xff\xfe\x00", "model.json must be JSON"),
        (b"[" * 1_000_000, "model.json must be JSON"),
        (b'{"format": ' + b"9" * 5000 + b"}", "model.json must be|format must be 1"),
        (b'{"x":"' + b"a" * 2**20 + b'"}', "model.json must be at most 1048576 bytes"),
    ],
    ids=["empty", "cut", "list", "null", "binary", "deep", "digits", "large"],
)
def test_model_json_that_is_no_object(damaged, capsys, content, message):
    (damaged / "model.json").write_bytes(content)
    assert_refused(damaged, message, capsys)


def test_deeply_nested_facts(damaged, capsys):
    text = (damaged / "model.json").read_text()
    nested = '{"a":' * 150 + "1" + "}" * 150
    (damaged / "model.json").write_text(text.replace('"notes": {}', f'"notes": {nested}'))
    assert_refused(damaged, "notes must be nested at most 20 levels deep", capsys)


def test_missing_files(damaged, tmp_path, capsys):
    weights = (damaged / "model.safetensors").read_bytes()
    (damaged / "model.safetensors").unlink()
    assert_refused(damaged, "must hold model.safetensors", capsys)
    (damaged / "model.safetensors").write_bytes(weights)
    (damaged / "model.json").unlink()
    assert_refused(damaged, "must hold model.json", capsys)
    os.mkfifo(damaged / "model.json")
    assert_refused(damaged, "must hold model.json", capsys)
    assert_refused(tmp_path / "absent", "must be a folder, but does not exist", capsys)
    (tmp_path / "file").write_text("")
    assert_refused(tmp_path / "file", "must be a folder, but is a file", capsys)


def test_weights_cut_off_or_of_another_model(damaged, capsys):
    path = damaged / "model.safetensors"
    content = path.read_bytes()
    for length in (0, 4, 8, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        assert_refused(damaged, "model.safetensors is damaged", capsys)
    weights = random_weights()
    save_file({**weights, "extra": np.ones(1, np.float32)}, path)
    assert_refused(damaged, "differs in extra", capsys)
    save_file({**weights, "backbone.pos_embed_t": np.ones((1, 4, 8), np.float32)}, path)
    assert_refused(damaged, "differs in backbone.pos_embed_t", capsys)
    save_file({**weights, "backbone.pos_embed_t": np.ones((1, 4, 64), np.float64)}, path)
    assert_refused(damaged, "must hold fp32, got F32, F64", capsys)


def test_changed_weights_are_noticed(damaged, capsys):
    path = damaged / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    bundle = open_bundle(damaged)
    with pytest.raises(BundleError, match=r"SHA-256 of model\.safetensors must be"):
        read_weights(bundle)
    assert main(["info", str(damaged)]) == 2
    assert "SHA-256 of model.safetensors must be" in capsys.readouterr().err


def test_weights_that_are_not_finite(damaged):
    path = damaged / "model.safetensors"
    weights = load_file(path)
    weights["box_head.layers.1.0.bias"] = np.full(8, np.inf, np.float32)
    save_file(weights, path)
    edit(damaged, put_inside("weights", "sha256", bundles.file_sha256(path)))
    with pytest.raises(BundleError, match=r"NaN or infinity in box_head.layers.1.0.bias"):
        read_weights(open_bundle(damaged))


def test_unknown_facts_are_kept(damaged):
    edit(damaged, put("colour", "blue"))
    assert open_bundle(damaged).metadata["colour"] == "blue"


# What a model costs, and the command.


def test_costs_are_those_of_the_specification():
    """Giga multiply-adds of SPEC section 1.9."""
    for spec, frame, update, needed, joint in (
        (S, 3.318, 1.504, 1.258, 4.822),
        (B, 20.606, 7.525, 6.744, 28.131),
    ):
        whole = template_macs(spec, skip_unused=False)
        whole_frame = frame_macs(spec, skip_unused=False)
        assert whole_frame / 1e9 == pytest.approx(frame, abs=5e-4)
        assert whole / 1e9 == pytest.approx(update, abs=5e-4)
        assert template_macs(spec) / 1e9 == pytest.approx(needed, abs=5e-4)
        assert (whole_frame + whole) / 1e9 == pytest.approx(joint, abs=5e-4)
    # More templates cost attention alone: of 200 queries in three blocks, of 4 in the last.
    assert frame_macs(S, online_templates=3) - frame_macs(S) == 2 * 2 * (3 * 200 + 4) * 49 * 768
    # Of 196 search tokens, the last block skips query, output, MLP, and attention to 298 keys.
    saved = 196 * (4 * 768**2 + 2 * 298 * 768)
    assert frame_macs(S, skip_unused=False) - frame_macs(S) == saved
    pooled = replace(S, score_pooling="mean")
    assert frame_macs(S) - frame_macs(pooled) == 3 * 768 * 769


def test_info_in_words(tmp_path, capsys):
    spec = T
    write(
        tmp_path / "t", spec=spec, weights=random_weights(spec), name="My T", precision="fp16",
        training={"step": 500, "config": {"batch": 48, "seed": 7, "data.folder": "mine",
        "init_from": "a.pth"}, "list": [1]}, notes={"limits": "small"},
    )  # fmt: skip
    assert main(["info", str(tmp_path / "t")]) == 0
    said = capsys.readouterr().out
    for part in (
        "My T (preset T)", "width 192, depth 4, 6 heads", "64 px, 16 tokens, factor 2",
        "128 px, 64 tokens, factor 4.5", "1,439,809", "fp16, SHA-256 ", "model.safetensors 2.8",
        "tiny.pth.tar (made by a test), SHA-256 0123", "Apache-2.0", "mixformerv2 export",
        "step 500; data mine; start a.pth; seed 7 (all settings: --json)", "limits small",
        "mixformerv2_ros ",
    ):  # fmt: skip
        assert part in said
    assert "48" not in said.partition("training  ")[2].splitlines()[0]


def test_info_in_json(sound, capsys):
    assert main(["info", str(sound), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["parameters"] == open_bundle(sound).parameters
    assert facts["macs_per_frame"] == frame_macs(TINY)
    assert facts["files"].keys() == {"model.json", "model.safetensors"}
    assert facts["onnx_graphs"] is False
    assert facts["source"] == SOURCE


def test_info_names_the_engines_whose_files_are_there(damaged, capsys):
    for name in ("template_encoder.onnx", "search.onnx"):
        (damaged / name).write_bytes(b"")
    record_graphs(open_bundle(damaged))
    assert main(["info", str(damaged)]) == 0
    assert "torch, onnxruntime" in capsys.readouterr().out


def test_info_of_a_source_without_checksum(tmp_path, capsys):
    write(tmp_path / "b", source={**SOURCE, "sha256": None})
    assert main(["info", str(tmp_path / "b")]) == 0
    assert "tiny.pth.tar (made by a test)\n" in capsys.readouterr().out


def test_text_of_strangers_fits_a_line():
    assert printable("plain") == "plain"
    assert printable("a\nb\x1b[0m\u202e") == "a\\nb\\x1b[0m\\u202e"
    assert printable("x" * 100, limit=10) == "xxxxxxx..."
    assert printable([1]) == "list"
    assert some(["a", "b", "c"]) == "a, b, c"
    assert some(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"
    assert some([]) == ""
