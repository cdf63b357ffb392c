"""Images of the network: what they show is what the network does."""

from __future__ import annotations

import itertools

import cv2
import golden
import numpy as np
import pytest
from recordings import published_settings, red_box, write_images, write_video

from mixformerv2_ros.cli import main
from mixformerv2_ros.errors import ParameterError
from mixformerv2_ros.lab.visualization.frames import parse_frames
from mixformerv2_ros.lab.visualization.sheet import (
    GAP,
    MAX_SIDE,
    add_axes,
    crop_extents,
    new_sheet,
)
from mixformerv2_ros.lab.visualization.templates import (
    DEPTH_PLOT,
    PLOT,
    TOP,
    Point,
    draw_confidence,
    draw_depth,
)
from mixformerv2_ros.lab.visualization.templates import (
    GAP as SPACE,
)
from mixformerv2_ros.model.architecture import expected_shapes
from mixformerv2_ros.tracking.session import State

torch = pytest.importorskip("torch")

from mixformerv2_ros.lab.visualization.attention import (  # noqa: E402
    AttentionEngine,
    AttentionRow,
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
    engine = AttentionEngine(model)
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


def test_reading_the_attention_changes_nothing(model, crops):
    templates, search = crops
    engine = AttentionEngine(model)
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
        row_attention(attention, AttentionRow(1, None)), attention[1].mean(axis=0), rtol=1e-6
    )
    np.testing.assert_array_equal(row_attention(attention, AttentionRow(0, 2)), attention[0, 2])


def test_distributions_have_the_mean_and_deviation_that_are_drawn():
    edges = np.zeros((4, 64), np.float32)
    edges[:, 16] = edges[:, 48] = 0.5
    for edge in edge_distributions(edges):
        assert edge.mean == pytest.approx(0.5)
        assert edge.std == pytest.approx(0.25)


# A name that would be a formula, and a broken one, if matplotlib took it for one.
NAME = "images $_{$"


def draw(*words):
    assert main(["visualize", *map(str, words)]) == 0


def read(path):
    image = cv2.imread(str(path))
    assert image is not None
    assert image.std() > 10
    return image


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("clip") / NAME, 32)


@pytest.mark.parametrize("kind", ["attention", "distribution"])
def test_sheets_differ_between_frames(kind, images, tmp_path):
    for frame in (1, 12):
        out = tmp_path / f"{frame}.png"
        draw(kind, images, "--box", BOX, "--frames", frame, "-o", out)
    first, second = read(tmp_path / "1.png"), read(tmp_path / "12.png")
    assert first.shape != second.shape or (first != second).any()


def test_attention_of_all_heads_is_a_taller_sheet(images, tmp_path):
    words = ("attention", images, "--box", BOX)
    draw(*words, "-o", tmp_path / "mean.png")
    draw(*words, "--layer", "2", "--head", "all", "-o", tmp_path / "all.png")
    assert read(tmp_path / "all.png").shape[0] > read(tmp_path / "mean.png").shape[0]


def test_frames_of_one_image_are_stacked(images, tmp_path):
    words = ("distribution", images, "--box", BOX)
    draw(*words, "--frames", "3", "-o", tmp_path / "one.png")
    draw(*words, "--frames", "3,7-8", "-o", tmp_path / "three.png")
    one, three = read(tmp_path / "one.png"), read(tmp_path / "three.png")
    assert three.shape == (3 * one.shape[0], *one.shape[1:])
    np.testing.assert_array_equal(three[: len(one)], one)


@pytest.mark.parametrize(
    ("words", "frames"), [(("attention", "--layer", "4"), 7), (("templates",), 7)]
)
def test_a_video_has_a_sheet_per_frame(words, frames, tmp_path):
    source = write_video(tmp_path / "clip.avi", 8)
    out = tmp_path / "sheets.mp4"
    draw(*words, source, "--box", BOX, "-o", out)
    assert int(cv2.VideoCapture(str(out)).get(cv2.CAP_PROP_FRAME_COUNT)) == frames


def test_the_confidence_and_what_happened_meanwhile():
    states = [State.TRACKING, State.UNCERTAIN, State.LOST, State.LOST]
    points = [Point(10 + i, 0.9 - 0.2 * i, state, 5) for i, state in enumerate(states)]
    axes = add_axes(new_sheet(400, 300, ""), 0, 0, 400, 300)
    draw_confidence(axes, points, published_settings(), changes=[12], taken=[10, 13])
    curve, dots, threshold, change = axes.lines
    np.testing.assert_allclose(curve.get_xydata(), [(p.index, p.confidence) for p in points])
    np.testing.assert_allclose(dots.get_xydata(), [(10, 0.9), (13, 0.3)])
    assert set(threshold.get_ydata()) == {published_settings().update_score_threshold}
    assert set(change.get_xdata()) == {12}
    assert [text.get_text() for text in axes.texts] == ["#1"]
    uncertain, lost = (
        sorted({x for path in shade.get_paths() for x, _ in path.vertices})
        for shade in axes.collections
    )
    assert uncertain == [10.5, 11.5]
    assert lost == [11.5, 12.5, 13.5]


def test_the_depth_of_every_frame_and_which_were_deep():
    points = [Point(10 + i, 0.9, State.TRACKING, depth) for i, depth in enumerate([5, 2, 3, 5])]
    axes = add_axes(new_sheet(400, 300, ""), 0, 0, 400, 100)
    draw_depth(axes, points, (2, 3, 5))
    early, deep = (
        {bar.get_x() + bar.get_width() / 2: bar.get_height() for bar in bars}
        for bars in axes.containers
    )
    assert early == {11: 2, 12: 3}
    assert deep == {10: 5, 13: 5}
    assert list(axes.get_yticks()) == [2, 3, 5]


@pytest.mark.parametrize(("words", "drawn"), [((), False), (("--exit-threshold", "0.7"), True)])
def test_depth_is_drawn_where_exits_may_answer(words, drawn, images, tmp_path):
    out = tmp_path / "templates.png"
    draw("templates", images, "--box", BOX, "--max-frames", "4", *words, "-o", out)
    below = read(out)[TOP + PLOT + SPACE :][:DEPTH_PLOT]
    # Bars of full depth are blue; the first frame is searched so.
    assert (below == [0xB2, 0x72, 0x00]).all(axis=2).any() == drawn


def test_a_sheet_that_no_viewer_shows_is_refused():
    new_sheet(800, MAX_SIDE, "")
    with pytest.raises(ParameterError, match="choose fewer frames or rows"):
        new_sheet(800, MAX_SIDE + 1, "")


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_crops_lie_side_by_side(count):
    *templates, search = crop_extents(count)
    assert search == (0, 1, 1, 0)
    for left, right, bottom, top in templates:
        assert right < 0  # left of the search region
        assert right - left == pytest.approx(0.5 - GAP)
        assert 0 <= top < bottom <= 1
    for a, b in itertools.combinations(templates, 2):
        assert a[1] <= b[0] or b[1] <= a[0] or a[2] <= b[3] or b[2] <= a[3]


def test_templates_over_a_run(images, tmp_path, capsys):
    out = tmp_path / "templates.png"
    draw("templates", images, "--box", BOX, "--template-update-interval", "10", "-o", out)
    assert "templates over 31 frames" in capsys.readouterr().out
    read(out)


def test_samples_of_a_stream(miniature_data, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(f"preset: T\ndata:\n  folder: {miniature_data}\noutput: nowhere\n")
    for first in (0, 4):
        out = tmp_path / f"{first}.png"
        draw("samples", config, "--count", "4", "--first", first, "-o", out)
    assert (read(tmp_path / "0.png") != read(tmp_path / "4.png")).any()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7", [7]),
        ("1,5-7", [1, 5, 6, 7]),
        ("0-9:4", [0, 4, 8]),
    ],
)
def test_lists_of_frames(text, expected):
    selection = parse_frames(text)
    assert [n for n in range(100) if n in selection] == expected
    assert (selection.first, selection.last) == (expected[0], expected[-1])


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


def test_attention_maps_are_computed_only_on_request(monkeypatch):
    """The plain path builds no attention map: its softmax stays inside the fused kernel."""
    model = MixFormerV2(S).eval()
    calls = []
    attention = type(model.backbone.blocks[0].attn)
    weights = attention.weights
    monkeypatch.setattr(
        attention, "weights", staticmethod(lambda q, k: calls.append(1) or weights(q, k))
    )
    with torch.no_grad():
        templates = torch.zeros(1, 2, 3, S.template_size, S.template_size)
        search = torch.zeros(1, 3, S.search_size, S.search_size)
        model(templates, search)
        model.search(search, *model.encode_templates(templates))
        assert calls == []
        model(templates, search, [])
        assert len(calls) == S.depth
