"""A bundle is quantized with real frames, compared with the original, and refused if it differs."""

from __future__ import annotations

import json
import shutil

import cv2
import numpy as np
import pytest

from mixformerv2_ros.cli.entry import main
from mixformerv2_ros.engines.loader import load_engine
from mixformerv2_ros.engines.options import UnavailableError
from mixformerv2_ros.interfaces import typestore
from mixformerv2_ros.io.bag_writer import BagWriter
from mixformerv2_ros.model.bundle import DEFAULT_BUNDLE, GRAPHS, SEARCH, open_bundle
from mixformerv2_ros.ros.messages import image_message
from mixformerv2_ros.tracking.boxes import Box

pytest.importorskip("onnx")

from mixformerv2_ros.lab.quantization import Clip, agreeing, compare_engines, linear_layers


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    """A textured square that moves over a textured ground: 8 images."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("frames")
    ground = cv2.resize(rng.integers(0, 256, (15, 20, 3), dtype=np.uint8), (320, 240))
    target = cv2.resize(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8), (48, 48))
    for index in range(8):
        image = ground.copy()
        image[90:138, 100 + 4 * index : 148 + 4 * index] = target
        cv2.imwrite(str(folder / f"{index:03}.png"), image)
    return folder


# The package's smaller bundle, which is quantized in a fraction of the time of the default one.
TINY = DEFAULT_BUNDLE.with_name("tiny")
FORCED = ("--min-iou", "0.9999", "--force")


def quantize(frames, output, *words, bundle=TINY, precision="int8", box="100,90,48,48"):
    boxed = ["--box", box] if box else []
    return main(
        ["quantize", str(bundle), "-o", str(output), "--precision", precision,
         "--data", str(frames), *boxed, "--samples", "4", *words]
    )  # fmt: skip


@pytest.fixture(scope="module")
def quantized(frames, tmp_path_factory):
    output = tmp_path_factory.mktemp("bundles") / "int8"
    assert quantize(frames, output, *FORCED, bundle=DEFAULT_BUNDLE) == 0
    return open_bundle(output)


def test_the_bundle_records_how_it_was_made_and_how_it_agrees(quantized, capsys):
    assert quantized.inference_precision == "int8"
    record = json.loads((quantized.path / "model.json").read_text())["quantization"]
    assert record["precision"] == "int8"
    assert record["calibration"]["samples"] >= 4
    assert record["calibration"]["quantized"] == len(linear_layers(open_bundle()))
    assert record["calibration"]["float_layers"] == []
    assert 0.8 <= record["agreement"]["mean_iou"] < 0.9999
    assert record["agreement"]["frames"] == 7
    assert record["agreement"]["min_iou"] == 0.9999
    assert main(["info", str(quantized.path)]) == 0
    shown = capsys.readouterr().out
    assert "runs in        int8\n" in shown
    for name in ("calibration.samples", "agreement.mean_iou", "agreement.engine"):
        group, _, key = name.partition(".")
        assert f"{name} {record[group][key]}" in shown
    assert main(["info"]) == 0
    assert "quantized" not in capsys.readouterr().out


def test_a_recording_calibrates_as_its_images_do(frames, tmp_path):
    """The same images as messages of one of two topics give the same bundle."""
    types = typestore().types
    bag = tmp_path / "bag"
    with BagWriter(bag) as writer:
        for index, file in enumerate(sorted(frames.iterdir())):
            picture, stamp = cv2.imread(str(file)), 10**9 + index * 50_000_000
            for topic, image in (("/camera/image_raw", picture), ("/other", picture[::2, ::2])):
                shown = np.ascontiguousarray(image)
                message = image_message(types, shown, "bgr8", stamp, "camera")
                writer.write(topic, "sensor_msgs/msg/Image", message, stamp)
    assert quantize(bag, tmp_path / "none", *FORCED) == 2  # which topic?
    named = ("--image-topic", "/camera/image_raw")
    assert quantize(bag, tmp_path / "of_bag", *FORCED, *named) == 0
    assert quantize(frames, tmp_path / "of_images", *FORCED) == 0
    made, expected = (open_bundle(tmp_path / name) for name in ("of_bag", "of_images"))
    records = [
        json.loads((one.path / "model.json").read_text())["quantization"]
        for one in (made, expected)
    ]
    assert records[0]["calibration"].pop("data") == "bag"
    assert records[1]["calibration"].pop("data") == frames.name
    assert records[0]["calibration"] == records[1]["calibration"]
    assert records[0]["agreement"]["mean_iou"] == records[1]["agreement"]["mean_iou"]
    for graph in GRAPHS:
        assert (made.path / graph).read_bytes() == (expected.path / graph).read_bytes()


def test_engines_run_it_in_int8_and_agree(quantized):
    pytest.importorskip("openvino")
    with pytest.raises(UnavailableError, match=r"the graphs of .* are int8$"):
        load_engine(quantized, "openvino", precision="bf16")
    assert load_engine(quantized).name == "openvino/cpu/int8"
    rng = np.random.default_rng(1)
    t, s = quantized.spec.template_size, quantized.spec.search_size
    templates = rng.integers(0, 256, (2, t, t, 3), dtype=np.uint8)
    crop = rng.integers(0, 256, (1, s, s, 3), dtype=np.uint8)
    answers = {}
    for name, bundle in (
        ("onnxruntime", quantized),
        ("openvino", quantized),
        ("exact", open_bundle()),
    ):
        engine = load_engine(bundle, "onnxruntime" if name == "exact" else name)
        answers[name] = engine.search(crop, [engine.encode_templates(templates)]).boxes
    np.testing.assert_allclose(answers["onnxruntime"], answers["openvino"], atol=0.02)
    difference = np.abs(answers["openvino"] - answers["exact"]).max()
    assert 0 < difference < 0.1


def test_a_copy_that_disagrees_is_refused(frames, tmp_path, capsys):
    words = ["--min-iou", "0.9999", "--max-sensitivity", "1"]
    output = tmp_path / "int8"
    assert quantize(frames, output, *words) == 2
    shown = capsys.readouterr()
    assert "mean IoU must be at least 0.9999, got 0." in shown.err
    for row in ("mean IoU", "own tracks", "score", "size", "search step", "1 - mean IoU"):
        assert row in shown.out
    assert not output.exists()


def test_what_hurts_stays_in_floating_point(frames, tmp_path, capsys):
    assert quantize(frames, tmp_path / "none", "--max-sensitivity", "0") == 2
    assert "no layer costs at most" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "words", "expected"),
    [
        ({"precision": "int4"}, [], "--precision must be one of fp16, bf16, int8, got 'int4'"),
        ({"box": None}, [], "--box is required"),
        ({"frames": "nowhere"}, [], "expected a video, a recording or a folder"),
        ({}, ["--image-topic", "/camera"], "--image-topic requires a recording"),
        ({}, ["--frames", "1"], "--frames"),
        ({}, ["--min-iou", "1.5"], "--min-iou: must be a number from 0 to 1, got '1.5'"),
    ],
)
def test_wrong_words_are_one_line(frames, tmp_path, capsys, changes, words, expected):
    given = {"frames": frames} | changes
    assert quantize(given.pop("frames"), tmp_path / "out", *words, **given) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line
    assert not (tmp_path / "out").exists()


def test_a_quantized_bundle_is_no_source(quantized, frames, tmp_path, capsys):
    words = ["--precision", "int8", "--data", str(frames), "--box", "1,1,9,9"]
    assert main(["quantize", str(quantized.path), "-o", str(tmp_path / "x"), *words]) == 2
    assert "must be in fp32 to be quantized, got int8" in capsys.readouterr().err


def test_the_original_is_not_replaced(frames, tmp_path, capsys):
    path = shutil.copytree(TINY, tmp_path / "bundle")
    before = (path / SEARCH).read_bytes()
    assert quantize(frames, path, "--force", bundle=path) == 2
    assert "output must not replace its source" in capsys.readouterr().err
    assert (path / SEARCH).read_bytes() == before


def test_boxes_without_area_agree_on_that():
    exact = np.array([[0.3, 0.3, -0.02, 0.4], [0.3, 0.3, -0.02, 0.4], [0.0, 0.0, 2.0, 2.0]])
    other = np.array([[0.3, 0.3, -0.03, 0.4], [0.3, 0.3, 0.2, 0.4], [0.0, 0.0, 2.0, 1.0]])
    assert agreeing(exact, other).tolist() == [1.0, 0.0, 0.5]


def test_clips_whose_images_are_not_searched_do_not_count(frames):
    bundle = open_bundle(TINY)
    engine = load_engine(bundle, "onnxruntime", "cpu", 1)
    images = [cv2.imread(str(path)) for path in sorted(frames.iterdir())]
    box = Box(100.0, 90.0, 48.0, 48.0)
    # An image of another size is not searched.
    other = Clip("sizes", box, lambda: iter([images[0], images[1][:200]]))
    whole = Clip("whole", box, lambda: iter(images))
    agreement = compare_engines(engine, engine, bundle, [other, whole])
    assert agreement.frames == len(images) - 1
    assert agreement.mean_iou == 1.0
