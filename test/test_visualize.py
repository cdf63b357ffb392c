"""Pictures of the network: what they show is what the network does."""

from __future__ import annotations

import cv2
import golden
import numpy as np
import pytest
from recordings import red_box, write_images, write_video

from mixformerv2_ros.cli import main
from mixformerv2_ros.errors import ParameterError
from mixformerv2_ros.lab.cli.visualize import parse_frames
from mixformerv2_ros.model.checkpoints import expected_shapes

torch = pytest.importorskip("torch")

from mixformerv2_ros.lab.visualization.attention import (  # noqa: E402
    Row,
    WatchingEngine,
    row_attention,
    split_maps,
)
from mixformerv2_ros.lab.visualization.distribution import edge_distributions  # noqa: E402
from mixformerv2_ros.model.presets import S, T  # noqa: E402
from mixformerv2_ros.network.model import MixFormerV2, normalize  # noqa: E402

BOX = ",".join(map(str, red_box(0)))


@pytest.fixture(scope="module")
def model():
    return MixFormerV2.from_weights(T, golden.weights(expected_shapes(T), "S"))


@pytest.fixture(scope="module")
def crops():
    rng = np.random.default_rng(0)
    templates = rng.integers(0, 256, (3, T.template_size, T.template_size, 3), dtype=np.uint8)
    search = rng.integers(0, 256, (1, T.search_size, T.search_size, 3), dtype=np.uint8)
    return templates, search


def test_attention_rows_are_distributions(model, crops):
    templates, search = crops
    engine = WatchingEngine(model)
    _, attention = engine.attend(search, engine.encode_templates(templates))
    keys = 3 * T.template_tokens + T.search_tokens + 4
    assert attention.shape == (T.depth, T.heads, 4, keys)
    np.testing.assert_allclose(attention.sum(axis=-1), 1, atol=1e-5)
    assert (attention >= 0).all()


def test_cached_and_joint_runs_show_the_same_maps(model, crops):
    templates, search = (normalize(torch.from_numpy(crop)) for crop in crops)
    cached, joint = [], []
    with torch.no_grad():
        model.search(search, *model.encode_templates(templates[None]), cached)
        model(templates[None], search, joint)
    assert len(cached) == len(joint) == T.depth
    for a, b in zip(cached, joint, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_watching_changes_nothing(model, crops):
    templates, search = crops
    engine = WatchingEngine(model)
    memory = engine.encode_templates(templates)
    watched, _ = engine.attend(search, memory)
    plain = engine.search(search, [memory])
    np.testing.assert_array_equal(watched.boxes, plain.boxes)
    np.testing.assert_array_equal(watched.scores, plain.scores)


def test_maps_lie_where_their_tokens_do():
    tokens = 2 * T.template_tokens + T.search_tokens + 4
    attention = np.arange(tokens, dtype=np.float32)
    maps = split_maps(attention, T)
    assert maps.templates.shape == (2, 4, 4)
    assert maps.templates[1, 0, 1] == T.template_tokens + 1
    assert maps.search.shape == (8, 8)
    assert maps.search[1, 2] == 2 * T.template_tokens + 8 + 2
    assert list(maps.tokens) == [tokens - 4, tokens - 3, tokens - 2, tokens - 1]


def test_the_mean_over_heads_is_the_mean():
    attention = np.random.default_rng(0).random((2, 3, 4, 5), dtype=np.float32)
    np.testing.assert_allclose(
        row_attention(attention, Row(1, None)), attention[1].mean(axis=0), rtol=1e-6
    )
    np.testing.assert_array_equal(row_attention(attention, Row(0, 2)), attention[0, 2])


def test_distributions_have_the_mean_and_deviation_that_are_drawn():
    edges = np.zeros((4, 64), np.float32)
    edges[:, 16] = edges[:, 48] = 0.5
    for edge in edge_distributions(edges):
        assert edge.mean == pytest.approx(0.5)
        assert edge.std == pytest.approx(0.25)


def draw(*words):
    assert main(["visualize", *map(str, words)]) == 0


def picture(path):
    image = cv2.imread(str(path))
    assert image is not None
    assert image.std() > 10
    return image


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("clip") / "images", 32)


@pytest.mark.parametrize("kind", ["attention", "distribution"])
def test_looks_differ_between_frames(kind, images, tmp_path):
    for frame in (1, 12):
        out = tmp_path / f"{frame}.png"
        draw(kind, images, "--box", BOX, "--frames", frame, "-o", out)
    first, second = picture(tmp_path / "1.png"), picture(tmp_path / "12.png")
    assert first.shape != second.shape or (first != second).any()


def test_attention_of_all_heads_is_a_taller_sheet(images, tmp_path):
    words = ("attention", images, "--box", BOX)
    draw(*words, "-o", tmp_path / "mean.png")
    draw(*words, "--layer", "2", "--head", "all", "-o", tmp_path / "all.png")
    assert picture(tmp_path / "all.png").shape[0] > picture(tmp_path / "mean.png").shape[0]


def test_a_video_has_a_picture_per_frame(tmp_path):
    source = write_video(tmp_path / "clip.avi", 8)
    out = tmp_path / "attention.mp4"
    draw("attention", source, "--box", BOX, "--layer", "4", "-o", out)
    assert int(cv2.VideoCapture(str(out)).get(cv2.CAP_PROP_FRAME_COUNT)) == 7


def test_templates_over_a_run(images, tmp_path, capsys):
    out = tmp_path / "templates.png"
    draw("templates", images, "--box", BOX, "--template-update-interval", "10", "-o", out)
    assert "templates over 31 frames" in capsys.readouterr().out
    picture(out)


def test_samples_of_a_stream(miniature_data, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(f"preset: T\ndata: {miniature_data}\noutput: nowhere\n")
    for first in (0, 4):
        out = tmp_path / f"{first}.png"
        draw("samples", config, "--count", "4", "--first", first, "-o", out)
    assert (picture(tmp_path / "0.png") != picture(tmp_path / "4.png")).any()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7", [7]),
        ("1,5-7", [1, 5, 6, 7]),
        ("0-9:4", [0, 4, 8]),
    ],
)
def test_lists_of_frames(text, expected):
    assert [n for one in parse_frames(text) for n in one] == expected


@pytest.mark.parametrize("text", ["", "a", "5-3", "1-9:0", "-1", "1,,2", "9" * 12])
def test_unreadable_lists_of_frames(text):
    with pytest.raises(ParameterError, match="--frames"):
        parse_frames(text)


@pytest.mark.parametrize(
    "words",
    [
        ["attention", "IMAGES", "--box", "1,2,3"],
        ["attention", "IMAGES", "--box", BOX, "--layer", "9"],
        ["attention", "IMAGES", "--box", BOX, "--head", "0"],
        ["attention", "IMAGES", "--box", BOX, "--frames", "900"],
        ["attention", "IMAGES", "--box", BOX, "--engine", "onnxruntime"],
        ["attention", "nowhere.avi", "--box", BOX],
        ["distribution", "IMAGES", "--box", BOX, "-o", "picture.gif"],
        ["templates", "IMAGES", "--box", "500,500,10,10"],
        ["samples", "nowhere.yaml"],
    ],
)
def test_bad_input_is_one_line(words, images, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["visualize", *(str(images) if w == "IMAGES" else w for w in words)]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_watching_preset_s_costs_nothing_when_not_asked():
    """The plain path builds no attention map: its softmax stays inside the fused kernel."""
    model = MixFormerV2(S).eval()
    calls = []
    original = type(model.backbone.blocks[0].attn).weights
    try:
        type(model.backbone.blocks[0].attn).weights = staticmethod(
            lambda q, k: calls.append(1) or original(q, k)
        )
        with torch.no_grad():
            templates = torch.zeros(1, 2, 3, S.template_size, S.template_size)
            search = torch.zeros(1, 3, S.search_size, S.search_size)
            model(templates, search)
            model.search(search, *model.encode_templates(templates))
            assert calls == []
            model(templates, search, [])
            assert len(calls) == S.depth
    finally:
        type(model.backbone.blocks[0].attn).weights = staticmethod(original)
