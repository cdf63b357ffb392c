"""A convolutional backbone as teacher: its map, its loss, trainings with it, what is refused."""

from __future__ import annotations

import dataclasses
import re

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from onnx import TensorProto, helper  # noqa: E402
from small_training import (  # noqa: E402
    BOXES,
    DISTILLED,
    changed,
    pruning_stage,
    save_backbone,
    small_config,
)

from mixformerv2_ros.errors import CheckpointError, ParameterError  # noqa: E402
from mixformerv2_ros.io.images import read_image  # noqa: E402
from mixformerv2_ros.lab.datasets.folder import find_folder  # noqa: E402
from mixformerv2_ros.lab.training import augment  # noqa: E402
from mixformerv2_ros.lab.training.config import LossConfig, TrackerTeacherConfig  # noqa: E402
from mixformerv2_ros.lab.training.criterion import overlap_of_means, total_loss  # noqa: E402
from mixformerv2_ros.lab.training.data_loaders import load_batches, load_synthetic  # noqa: E402
from mixformerv2_ros.lab.training.losses import feature_map_loss  # noqa: E402
from mixformerv2_ros.lab.training.onnx_module import OnnxModule  # noqa: E402
from mixformerv2_ros.lab.training.stages import check_settings, student_spec  # noqa: E402
from mixformerv2_ros.lab.training.tracker_teacher import Lesson, TrackerTeacher  # noqa: E402
from mixformerv2_ros.lab.training.trainer import train  # noqa: E402
from mixformerv2_ros.lab.training.training_model import Batch, ModelOutput, TrainingModel  # noqa: E402
from mixformerv2_ros.lab.training.training_run import TrainingRun  # noqa: E402

TAUGHT = dataclasses.replace(BOXES, feature_map=3.0)


@pytest.fixture
def backbone(tmp_path):
    return save_backbone(tmp_path / "backbone.onnx")


def read_sequence(folder):
    return find_folder(folder.parent)[folder.name]()


def ask(teacher, search):
    """The map of one crop, (tokens, channels)."""
    templates = torch.zeros(1, 2, 32, 32, 3, dtype=torch.uint8)
    lesson = teacher(templates, torch.from_numpy(np.ascontiguousarray(search))[None])
    assert (lesson.edges is None) == (teacher.head is None)
    return lesson.features[0].numpy()


def taught(data, output, path, **changes):
    head, block = changes.pop("head", ""), changes.pop("block", 1)
    teacher = TrackerTeacherConfig(str(path), str(head), block)
    return small_config(data, output, **{"loss": TAUGHT, "tracker": teacher, **changes})


def test_the_map_is_that_of_the_enlarged_crop_in_blue_green_red_ema_model_to_the_tokens(backbone):
    path, weights = backbone
    search = np.random.default_rng(1).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    teacher = TrackerTeacher(path, tokens=4)
    assert (teacher.side, teacher.channels) == (64, 6)
    found = ask(teacher, search)

    enlarged = cv2.resize(search.astype(np.float32), (64, 64), interpolation=cv2.INTER_LINEAR)
    blue_first = enlarged[:, :, [2, 1, 0]]
    expected = np.empty((4, 4, 6))
    for row in range(4):
        for column in range(4):
            cells = [
                np.einsum("ocyx,yxc->o", weights, blue_first[y : y + 8, x : x + 8])
                for y in (16 * row, 16 * row + 8)
                for x in (16 * column, 16 * column + 8)
            ]
            expected[row, column] = np.mean(cells, axis=0)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected.reshape(16, 6), atol=1e-3)


def test_cells_that_lie_across_the_border_of_two_tokens_count_for_both_by_their_area(backbone):
    path, _ = backbone
    search = np.random.default_rng(1).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    cells = ask(TrackerTeacher(path, tokens=8), search).reshape(8, 8, 6).astype(np.float64)
    # Each cell as 5 x 5 equal parts: 40 x 40 parts, of which a token of five has 8 x 8.
    parts = cells.repeat(5, axis=0).repeat(5, axis=1)
    expected = parts.reshape(5, 8, 5, 8, 6).mean(axis=(1, 3)).reshape(25, 6)
    np.testing.assert_allclose(ask(TrackerTeacher(path, tokens=5), search), expected, atol=1e-4)


def test_in_half_precision_the_teacher_says_nearly_the_same_in_float32(
    backbone, miniature_data, tmp_path
):
    run = TrainingRun(taught(miniature_data, tmp_path / "a", backbone[0], precision="bf16"))
    assert run.tracker_teacher.dtype is torch.bfloat16
    search = np.random.default_rng(1).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    found = ask(run.tracker_teacher, search)
    exact = ask(TrackerTeacher(backbone[0], tokens=4), search)
    assert found.dtype == np.float32
    assert 0 < np.linalg.norm(found - exact) < 0.02 * np.linalg.norm(exact)


def test_the_loss_ignores_scale_and_offset_of_a_token_and_is_two_for_unrelated_features():
    teacher = torch.randn(4, 500, 48, generator=torch.Generator().manual_seed(0))
    assert feature_map_loss(3 * teacher - 1, teacher) < 1e-6
    assert feature_map_loss(-teacher, teacher) == pytest.approx(4, abs=1e-3)
    other = torch.randn(4, 500, 48, generator=torch.Generator().manual_seed(1))
    assert feature_map_loss(other, teacher) == pytest.approx(2, abs=0.02)
    with pytest.raises(ParameterError, match=r"got \(4, 500, 48\) and \(4, 499, 48\)"):
        feature_map_loss(teacher, teacher[:, 1:])


@pytest.mark.parametrize("block", [0, 1, 3])
def test_it_is_the_search_tokens_of_the_named_block_that_are_compared(
    block, backbone, miniature_data, tmp_path
):
    spec = student_spec(taught(miniature_data, tmp_path / "out", backbone[0]))
    model = TrainingModel(spec, 0.0, channels=6, block=block)
    model.network.backbone.reset_parameters()
    rng = np.random.default_rng(2)
    templates = torch.from_numpy(rng.integers(0, 255, (2, 2, 32, 32, 3), dtype=np.uint8))
    search = torch.from_numpy(rng.integers(0, 255, (2, 64, 64, 3), dtype=np.uint8))
    batch = Batch(templates, search, torch.zeros(2, 4), torch.zeros(2))
    answer = model.train()(batch, features=True)
    # Two templates of 2 x 2 tokens, 4 x 4 search tokens, 4 prediction tokens.
    tokens = answer.features[block][:, 8:24]
    torch.testing.assert_close(answer.feature_map, model.feature_map(tokens))
    assert model.eval()(batch).feature_map is None


def test_a_training_learns_the_map_and_what_it_leaves_is_an_ordinary_network(
    backbone, miniature_data, tmp_path
):
    config = taught(
        miniature_data, tmp_path / "out", backbone[0], steps=40, learning_rate=0.01,
        backbone_learning_rate=0.01,
    )  # fmt: skip
    source, _ = load_synthetic(config)
    run = TrainingRun(config)
    values = [run.advance(batch) for batch in load_batches(source, config, 0, 40)]
    losses = [float(one["feature_map"]) for one in values]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    run.save(tmp_path / "last.pth.tar")
    state = torch.load(tmp_path / "last.pth.tar", weights_only=True)
    assert not [name for name in state["net"] if "feature_map" in name]
    # A stage that builds on it takes the network, with or without a teacher of its own.
    later = small_config(miniature_data, tmp_path / "b", init_from=str(tmp_path / "last.pth.tar"))
    begun = TrainingRun(later).model.network.state_dict()
    for name, value in state["net"].items():
        torch.testing.assert_close(begun[name], value, rtol=0, atol=0)


def test_a_taught_run_continues_bit_for_bit_whatever_the_number_of_workers(
    backbone, miniature_data, tmp_path
):
    whole = taught(miniature_data, tmp_path / "whole", backbone[0])
    parts = changed(whole, output=str(tmp_path / "parts"), workers=2)
    train(parts, stop=lambda: True)
    ends = [torch.load(train(config), weights_only=True)["model"] for config in (whole, parts)]
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_a_run_begun_without_a_teacher_does_not_continue_with_one(
    backbone, miniature_data, tmp_path
):
    train(small_config(miniature_data, tmp_path / "out", loss=BOXES, steps=2))
    with pytest.raises(CheckpointError, match=r"feature_map\.weight.*choose another output"):
        train(taught(miniature_data, tmp_path / "out", backbone[0]))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"loss": BOXES},
            "distillation.tracker needs loss.feature_map, or a head and loss.kl; got neither",
        ),
        (
            {"tracker": TrackerTeacherConfig()},
            "loss.feature_map 3.0 needs distillation.tracker.backbone, got none",
        ),
        ({"block": 4}, "distillation.tracker.block must lie within 4 blocks, from 0, got 4"),
        ({"block": -1}, "distillation.tracker.block must lie within 4 blocks, from 0, got -1"),
        ({"stage": "teacher"}, "stage teacher does not use distillation.tracker"),
        ({"head": "h.onnx"}, "distillation.tracker.head needs loss.kl, got 0"),
        (
            {"tracker": TrackerTeacherConfig(head="h.onnx"), "loss": BOXES},
            "distillation.tracker.head needs distillation.tracker.backbone, got none",
        ),
        (
            {"head": "h.onnx", "loss": DISTILLED, "stage": "dense-to-sparse", "teacher": "t.pth"},
            "one teacher gives the edge distributions",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    changes, expected, backbone, miniature_data, tmp_path
):
    with pytest.raises(ParameterError, match=re.escape(expected)):
        check_settings(taught(miniature_data, tmp_path / "out", backbone[0], **changes))


def test_a_tracker_teacher_teaches_beside_another_teacher(backbone, miniature_data, tmp_path):
    plain = train(small_config(miniature_data, tmp_path / "plain", loss=BOXES))
    config = pruning_stage(
        miniature_data, tmp_path / "out", plain, init_stage="plain",
        tracker=TrackerTeacherConfig(str(backbone[0])),
        loss=dataclasses.replace(TAUGHT, kl=5.0, features=0.2),
    )  # fmt: skip
    source, _ = load_synthetic(config)
    values = TrainingRun(config).advance(next(iter(load_batches(source, config, 0, 1))))
    assert {"kl", "features", "feature_map"} <= values.keys()


def test_a_teacher_that_does_not_fit_is_refused_by_name(backbone, miniature_data, tmp_path):
    with pytest.raises(CheckpointError, match=r"none\.onnx: expected an ONNX file"):
        train(taught(miniature_data, tmp_path / "out", tmp_path / "none.onnx"))
    text = tmp_path / "text.onnx"
    text.write_text("no graph")
    with pytest.raises(CheckpointError, match=r"text\.onnx: expected an ONNX graph"):
        train(taught(miniature_data, tmp_path / "out", text))
    coarse, _ = save_backbone(tmp_path / "coarse.onnx", side=24)
    with pytest.raises(CheckpointError, match=r"coarse\.onnx.*4 x 4 search.*got 3 x 3"):
        train(taught(miniature_data, tmp_path / "out", coarse))


def save_graph(path, nodes, inputs, output, constants=()):
    """Write a graph of named float inputs and one output `y`."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in inputs],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, output)],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)]), path)
    return path


@pytest.mark.parametrize(
    ("node", "inputs", "output", "expected"),
    [
        (
            "Add",
            [("a", [1, 3, 8, 8]), ("b", [1, 3, 8, 8])],
            [1, 3, 8, 8],
            "a teacher's backbone maps",
        ),
        ("Relu", [("a", [1, 3, "h", 8])], [1, 3, "h", 8], "expected inputs of fixed shapes"),
        ("Sin", [("a", [1, 3, 8, 8])], [1, 3, 8, 8], "got Sin"),
        ("Relu", [("a", [1, 4, 8, 8])], [1, 4, 8, 8], "a teacher's backbone maps"),
        ("Relu", [("a", [1, 3, 8, 9])], [1, 3, 8, 9], "a teacher's backbone maps"),
    ],
)
def test_a_graph_that_gives_no_map_is_refused(node, inputs, output, expected, tmp_path):
    nodes = [helper.make_node(node, [name for name, _ in inputs], ["y"])]
    path = save_graph(tmp_path / "other.onnx", nodes, inputs, output)
    with pytest.raises(CheckpointError, match=r"other\.onnx: .*" + expected):
        TrackerTeacher(path, 4)


def runtime(path, picture):
    return onnxruntime.InferenceSession(str(path)).run(None, {"x": picture})[0]


def test_operators_compute_what_onnx_runtime_does(tmp_path):
    rng = np.random.default_rng(3)

    def constant(*shape):
        return rng.normal(size=shape).astype(np.float32)

    constants = [
        ("w", constant(8, 3, 3, 3)), ("b", constant(8)), ("d", constant(8, 1, 3, 3)),
        ("g", constant(4, 8)), ("gb", constant(4)), ("h", constant(4, 8)),
        ("flat", np.array([1, 8])), ("square", np.array([1, 8, 1, 1])), ("v", constant(8, 8)),
        ("low", np.float32(-0.4)), ("high", np.float32(0.9)), ("six", np.float32(6)),
    ]  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["1"], strides=[2, 2], pads=[0, 1, 1, 0]),
        helper.make_node("HardSwish", ["1"], ["2"]),
        helper.make_node("Conv", ["2", "d"], ["3"], group=8, pads=[2, 2, 2, 2], dilations=[2, 2]),
        helper.make_node("GlobalAveragePool", ["3"], ["4"]),
        helper.make_node("Reshape", ["4", "flat"], ["5"]),
        helper.make_node("Gemm", ["5", "g", "gb"], ["6"], transB=1, alpha=0.5, beta=2.0),
        helper.make_node("Relu", ["6"], ["7"]),
        helper.make_node("Gemm", ["7", "h"], ["8"]),
        helper.make_node("HardSigmoid", ["8"], ["9"], alpha=0.3),
        helper.make_node("Reshape", ["9", "square"], ["10"]),
        helper.make_node("Mul", ["3", "10"], ["11"]),
        helper.make_node("Add", ["11", "2"], ["12"]),
        helper.make_node("Transpose", ["12"], ["13"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["13", "v"], ["14"]),
        helper.make_node("Clip", ["14", "low", "high"], ["15"]),
        helper.make_node("Clip", ["15", "", "six"], ["16"]),
        helper.make_node("Div", ["16", "six"], ["17"]),
        helper.make_node("Sigmoid", ["17"], ["18"]),
        helper.make_node("Exp", ["18"], ["y"]),
    ]
    path = save_graph(
        tmp_path / "all.onnx", nodes, [("x", [1, 3, 17, 17])], [1, 8, 8, 8], constants
    )
    module = OnnxModule(path)
    pictures = constant(3, 3, 17, 17)
    found = module(torch.from_numpy(pictures))[0].numpy()
    expected = np.concatenate([runtime(path, one[None]) for one in pictures])
    assert found.shape == (3, 8, 8, 8)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tracker", ["nanotrackv1", "nanotrackv2"])
def test_nanotracks_backbone_is_that_of_onnx_runtime(tracker, shared_data):
    path = shared_data / "peers" / tracker / "nanotrack_backbone_sim.onnx"
    pictures = np.random.default_rng(4).uniform(0, 255, (2, 3, 255, 255)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(path))
    expected = np.concatenate([session.run(None, {"input": one[None]})[0] for one in pictures])
    found = OnnxModule(path)(torch.from_numpy(pictures))[0].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("tracker", ["nanotrackv1", "nanotrackv2"])
def test_so_is_its_head_which_has_two_inputs_and_outputs(tracker, shared_data):
    path = shared_data / "peers" / tracker / "nanotrack_head_sim.onnx"
    rng = np.random.default_rng(5)
    template, search = (rng.normal(size=(2, 48, n, n)).astype(np.float32) for n in (8, 16))
    session = onnxruntime.InferenceSession(str(path))
    found = OnnxModule(path)(torch.from_numpy(template), torch.from_numpy(search))
    for place in range(2):
        feed = {"input1": template[place : place + 1], "input2": search[place : place + 1]}
        for part, expected in zip(found, session.run(None, feed), strict=True):
            np.testing.assert_allclose(part[place].numpy(), expected[0], rtol=1e-3, atol=1e-3)


def test_a_graph_that_cannot_be_run_is_refused(tmp_path):
    """Its operators are known, but their operands do not go together, or give another shape."""
    nodes = [helper.make_node("MatMul", ["x", "v"], ["y"])]
    for rows, columns, expected in ((5, 8, "can be run: "), (8, 5, r"gives .*, got ")):
        constants = [("v", np.zeros((rows, columns), np.float32))]
        path = save_graph(
            tmp_path / "broken.onnx", nodes, [("x", [1, 3, 8, 8])], [1, 3, 8, 8], constants
        )
        message = rf"broken\.onnx: expected a graph that {expected}"
        with pytest.raises(CheckpointError, match=message) as caught:
            OnnxModule(path)
        assert "\n" not in str(caught.value)


@pytest.fixture
def head(tmp_path):
    """A head for `backbone`: 1 x 1 convolutions of the search region's map."""
    rng = np.random.default_rng(6)
    constants = [
        ("c", rng.normal(size=(2, 6, 1, 1)).astype(np.float32)),
        ("d", rng.normal(size=(4, 6, 1, 1)).astype(np.float32)),
        ("b", np.full(4, 2, np.float32)),
    ]
    nodes = [
        helper.make_node("Conv", ["search", "c"], ["logits"]),
        helper.make_node("Conv", ["search", "d", "b"], ["log"]),
        helper.make_node("Exp", ["log"], ["distances"]),
    ]
    return save_head(tmp_path / "head.onnx", nodes, constants)


def save_head(path, nodes, constants, channels=6):
    maps = [("template", [1, channels, 4, 4]), ("search", [1, channels, 8, 8])]
    made = [("logits", [1, 2, 8, 8]), ("distances", [1, 4, 8, 8])]
    graph = helper.make_graph(
        nodes,
        "head",
        *(
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in values]
            for values in (maps, made)
        ),
        [onnx.numpy_helper.from_array(value, name) for name, value in constants],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)]), path)
    return path


def test_cells_put_their_edges_where_they_see_them_with_the_weight_of_their_score(backbone, head):
    teacher = TrackerTeacher(backbone[0], tokens=4, head=head, bins=16)
    rng = np.random.default_rng(7)
    search = torch.from_numpy(rng.integers(0, 255, (3, 64, 64, 3), dtype=np.uint8))
    templates = torch.zeros(3, 2, 32, 32, 3, dtype=torch.uint8)
    found = teacher(templates, search).edges.numpy()
    assert found.shape == (3, 4, 16)
    np.testing.assert_allclose(found.sum(axis=2), 1, atol=1e-5)

    picture = search.numpy()[:, :, :, ::-1].transpose(0, 3, 1, 2).astype(np.float32)
    backbone_session = onnxruntime.InferenceSession(str(backbone[0]))
    head_session = onnxruntime.InferenceSession(str(head))
    for place in range(3):
        cells = backbone_session.run(None, {"input": picture[place : place + 1]})[0]
        feed = {"search": cells, "template": np.zeros((1, 6, 4, 4), np.float32)}
        given = {one.name for one in head_session.get_inputs()}
        logits, distances = head_session.run(None, {n: feed[n] for n in given})
        scores = 1 / (1 + np.exp(logits[0, 0] - logits[0, 1]))
        weights = scores**4 / (scores**4).sum()
        expected = np.zeros((4, 16))
        for row in range(8):
            for column in range(8):
                x, y = 32 + (column - 4) * 65 / 8, 32 + (row - 4) * 65 / 8
                left, top, right, bottom = distances[0, :, row, column]
                for edge, value in enumerate((x - left, y - top, x + right, y + bottom)):
                    at = min(max(value / 64 * 16, 0), 15)
                    low = min(int(at), 14)
                    expected[edge, low] += weights[row, column] * (1 - (at - low))
                    expected[edge, low + 1] += weights[row, column] * (at - low)
        np.testing.assert_allclose(found[place], expected, atol=1e-3)


def test_distributions_are_taught_where_they_are_right():
    bins = 16

    def sharp(*edges):
        return F.one_hot(torch.tensor(edges), bins).float()

    truth = torch.tensor([[4, 4, 8, 8], [4, 4, 8, 8], [0, 0, 0, 0]]) / bins
    seen = torch.stack([sharp(4, 4, 8, 9), sharp(9, 4, 13, 8), sharp(4, 4, 8, 8)])
    overlap = overlap_of_means(seen, truth)
    torch.testing.assert_close(overlap, torch.tensor([0.8, 0.0, 0.0]))

    logits = torch.zeros(3, 4, bins)
    answer = ModelOutput(torch.tensor([[0.4, 0.4, 0.3, 0.3]] * 3), logits)
    batch = Batch(torch.empty(3, 0), torch.empty(3, 0), truth, torch.tensor([1.0, 1.0, 0.0]))
    weights = LossConfig(l1=0, ciou=0, edge=0, foreground=0, score=0, kl=2.0)
    loss, values = total_loss(answer, batch, weights, lesson=Lesson(torch.empty(0), seen))
    # One of two present targets is trusted; the divergence of a sharp target from none is log 16.
    assert values["trusted"] == pytest.approx(0.5)
    assert loss == pytest.approx(2 * np.log(bins) / 3, rel=1e-5)
    wrong = Lesson(torch.empty(0), seen[[1, 1, 1]])
    assert total_loss(answer, batch, weights, lesson=wrong)[0] == 0


def test_a_training_learns_from_the_head_as_well(backbone, head, miniature_data, tmp_path):
    config = taught(
        miniature_data, tmp_path / "out", backbone[0], head=head,
        loss=dataclasses.replace(TAUGHT, kl=1.0),
    )  # fmt: skip
    source, _ = load_synthetic(config)
    values = TrainingRun(config).advance(next(iter(load_batches(source, config, 0, 1))))
    assert {"kl", "feature_map", "trusted"} <= values.keys()
    alone = taught(
        miniature_data, tmp_path / "b", backbone[0], head=head,
        loss=dataclasses.replace(TAUGHT, kl=1.0, feature_map=0.0),
    )  # fmt: skip
    assert TrainingRun(alone).model.feature_map is None


def test_a_head_for_another_backbone_is_refused(backbone, tmp_path):
    made = [("logits", 2), ("distances", 4)]
    nodes = [helper.make_node("Conv", ["search", f"{name}_w"], [name]) for name, _ in made]
    constants = [(f"{name}_w", np.zeros((count, 5, 1, 1), np.float32)) for name, count in made]
    other = save_head(tmp_path / "other.onnx", nodes, constants, channels=5)
    with pytest.raises(CheckpointError, match=r"other\.onnx: a head for this backbone maps \(1, 6"):
        TrackerTeacher(backbone[0], 4, other, 16)


def test_nanotrack_finds_real_targets_in_the_students_crops(shared_data):
    """Mean overlap of its mixed edges with the truth, on crops that the student sees."""
    peers = shared_data / "peers" / "nanotrackv2"
    teacher = TrackerTeacher(
        peers / "nanotrack_backbone_sim.onnx", 8, peers / "nanotrack_head_sim.onnx", 64
    )
    crops, truths = {"templates": [], "search": []}, []
    rng = np.random.default_rng(8)
    for name in ("Deer", "Crossing", "TLP_Drone1", "uav_car14", "Walking2", "David"):
        sequence = read_sequence(shared_data / "sequences" / name)
        for frame in (10, 20, 30):
            for kind, number, factor, side in (
                ("templates", 0, 2.0, 64), ("search", frame, 3.6, 128),
            ):  # fmt: skip
                x, y, w, h = sequence.boxes[number]
                size = np.sqrt(w * h)
                offset = rng.normal(size=2) * 0.2 * size if kind == "search" else (0, 0)
                middle = (x + w / 2 + offset[0], y + h / 2 + offset[1])
                matrix = augment.crop_matrix(middle, factor * size, side)
                crops[kind].append(
                    augment.warp(read_image(sequence.frames[number]).rgb(), matrix, side)
                )
            truths.append(augment.warp_ellipse(sequence.boxes[frame], matrix) / 128)
    templates, search = (torch.from_numpy(np.stack(crops[kind])) for kind in crops)
    lesson = teacher(templates[:, None].repeat(1, 2, 1, 1, 1), search)
    overlap = overlap_of_means(lesson.edges, torch.from_numpy(np.stack(truths)).float())
    assert overlap.mean() > 0.6
    assert (overlap > 0.5).float().mean() > 0.7


def test_nanotracks_backbone_teaches_preset_t(shared_data):
    path = shared_data / "peers" / "nanotrackv2" / "nanotrack_backbone_sim.onnx"
    teacher = TrackerTeacher(path, 8)
    assert (teacher.side, teacher.channels) == (255, 48)
    search = np.zeros((128, 128, 3), np.uint8)
    search[32:96, 48:80] = (200, 40, 40)
    found = ask(teacher, search).reshape(8, 8, 48)
    flipped = ask(teacher, search[:, ::-1]).reshape(8, 8, 48)
    inside, outside = found[3:5, 3:5].mean(axis=(0, 1)), found[0, 0]
    assert np.linalg.norm(inside - outside) > 0.2 * np.linalg.norm(outside)
    # The map lies on the crop as the tokens do: a mirrored crop has roughly a mirrored map.
    apart = np.linalg.norm(flipped[:, ::-1] - found) / np.linalg.norm(found - found.mean((0, 1)))
    assert apart < 0.5
