"""Losses with a teacher: against the golden vectors, and against other ways to compute them."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from small_training import MIXVIT_B, MIXVIT_L  # noqa: E402

from mixformerv2_ros.errors import ParameterError  # noqa: E402
from mixformerv2_ros.lab.training import losses  # noqa: E402
from mixformerv2_ros.lab.training.mixvit import corner_marginals  # noqa: E402
from mixformerv2_ros.network.heads import edges_to_boxes  # noqa: E402

RELATIVE = 1e-6


@pytest.fixture(scope="module")
def case(shared_vectors):
    with np.load(shared_vectors / "training.npz", allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def tensor(array):
    return torch.from_numpy(np.asarray(array))


def corners(boxes):
    """Boxes by centre and size -> edges."""
    return torch.cat([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], dim=1)


def status(case, stage: int):
    return json.loads(str(case[f"stage{stage}_status"]))


def terms(case):
    """Every term on the stored inputs."""
    predicted, box = corners(tensor(case["pred_cxcywh"])), tensor(case["gt_xywh"])
    true = torch.cat([box[:, :2], box[:, :2] + box[:, 2:]], dim=1).clamp(0, 1)
    complete, iou = losses.ciou(predicted, true)
    student = torch.stack([tensor(case[f"student_logit_{edge}"]) for edge in "ltrb"], dim=1)
    teacher = torch.stack([tensor(case[f"teacher_logit_{edge}"]) for edge in "ltrb"], dim=1)
    maps = [
        tensor(case[f"teacher_{c}_logits"]).softmax(1).reshape(-1, 72, 72) for c in ("tl", "br")
    ]
    features = [tensor(case[f"feat_{who}"]) for who in ("student", "teacher")]
    return {
        "l1": losses.l1(predicted, true),
        "ciou": (1 - complete).mean(),
        "iou": iou,
        "corners": losses.edge_kl(student, corner_marginals(*maps)),
        "edges": losses.edge_kl(student, teacher.softmax(-1)),
        "features": losses.feature_loss(*features, [(i, i) for i in range(4)]),
    }


def test_dense_to_sparse_losses_are_the_reference_ones(case):
    ours, theirs = terms(case), status(case, 1)
    assert ours["l1"].item() == pytest.approx(theirs["Loss/l1"], rel=RELATIVE)
    assert ours["ciou"].item() == pytest.approx(theirs["Loss/ciou"], rel=RELATIVE)
    assert ours["corners"].item() == pytest.approx(theirs["Loss/distill_logits"], rel=RELATIVE)
    assert ours["iou"].mean().item() == pytest.approx(theirs["IoU"], rel=RELATIVE)
    total = 5 * ours["l1"] + 2 * ours["ciou"] + 5 * ours["corners"]
    assert total.item() == pytest.approx(float(case["stage1_total"]), rel=RELATIVE)


def test_deep_to_shallow_losses_are_the_reference_ones(case):
    ours, theirs = terms(case), status(case, 2)
    assert ours["edges"].item() == pytest.approx(theirs["Loss/distill_corner_kl"], rel=RELATIVE)
    assert ours["features"].item() == pytest.approx(theirs["Loss/distill_feat"], rel=RELATIVE)
    total = 5 * ours["l1"] + 2 * ours["ciou"] + 5 * ours["edges"] + 0.2 * ours["features"]
    assert total.item() == pytest.approx(float(case["stage2_total"]), rel=RELATIVE)


def scalar_ciou(p, t):
    """The formula of SPEC 4.3 for one pair, in double precision."""
    width = max(0.0, min(p[2], t[2]) - max(p[0], t[0]))
    height = max(0.0, min(p[3], t[3]) - max(p[1], t[1]))
    area, true_area = (p[2] - p[0]) * (p[3] - p[1]), (t[2] - t[0]) * (t[3] - t[1])
    iou = width * height / (area + true_area - width * height)
    dx, dy = (p[0] + p[2] - t[0] - t[2]) / 2, (p[1] + p[3] - t[1] - t[3]) / 2
    across, down = max(p[2], t[2]) - min(p[0], t[0]), max(p[3], t[3]) - min(p[1], t[1])
    u = (dx * dx + dy * dy) / (across * across + down * down)
    angle = math.atan((t[2] - t[0]) / (t[3] - t[1])) - math.atan((p[2] - p[0]) / (p[3] - p[1]))
    v = 4 / math.pi**2 * angle * angle
    alpha = v / (1 - iou + v) if iou > 0.5 else 0.0
    return min(1.0, max(-1.0, iou - u - alpha * v))


def test_ciou_is_the_formula_box_by_box():
    rng = np.random.default_rng(3)
    true = np.sort(rng.random((200, 2, 2)), axis=1).reshape(200, 4)
    predicted = true + rng.normal(0, 0.08, (200, 4))  # Some overlap well, some are inside out.
    predicted[::7] = rng.random((29, 4))
    ours = losses.ciou(tensor(predicted), tensor(true))[0].numpy()
    expected = [scalar_ciou(p, t) for p, t in zip(predicted, true, strict=True)]
    np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-12)


def test_equal_boxes_have_no_loss_and_a_finite_gradient():
    box = torch.tensor([[0.2, 0.3, 0.6, 0.8]])
    predicted = box.clone().requires_grad_()
    complete, iou = losses.ciou(predicted, box)
    assert complete.item() == iou.item() == 1
    complete.sum().backward()
    assert predicted.grad.isfinite().all()


def test_l1_is_over_edges_not_over_centre_and_size():
    true = torch.tensor([[0.1, 0.2, 0.5, 0.6], [0.0, 0.0, 1.0, 1.0]])
    predicted = true + torch.tensor([0.1, 0.0, 0.0, 0.0])
    assert losses.l1(predicted, true).item() == pytest.approx(0.025)
    assert (edges_to_boxes(predicted) - edges_to_boxes(true)).abs().mean() > 0.03


def test_kl_is_torch_distributions_one():
    torch.manual_seed(0)
    student, teacher = torch.randn(5, 4, 24, dtype=torch.double), torch.randn(5, 4, 24).double()
    p, q = (torch.distributions.Categorical(logits=x) for x in (teacher, student))
    expected = torch.distributions.kl_divergence(p, q).mean()
    assert losses.edge_kl(student, teacher.softmax(-1)).item() == pytest.approx(expected.item())
    assert losses.edge_kl(student, student.softmax(-1)).item() == pytest.approx(0, abs=1e-12)


def test_kl_bears_cells_that_a_teacher_excludes():
    """A softmax over 5184 cells underflows to 0 in places; 0 log 0 counts as 0."""
    student = torch.zeros(1, 4, 4, requires_grad=True)
    teacher = torch.tensor([0.5, 0.5, 0.0, 0.0]).expand(1, 4, 4)
    loss = losses.edge_kl(student, teacher)
    assert loss.item() == pytest.approx(math.log(2))
    loss.backward()
    assert student.grad.isfinite().all()


def test_marginals_are_sums_over_rows_and_columns():
    top_left, bottom_right = torch.zeros(2, 2, 6, 6).unbind(0)
    top_left[:, 1, 2] = 1  # Row 1, column 2: left is 2, top is 1.
    bottom_right[:, 5, 4] = 1
    marginals = corner_marginals(top_left, bottom_right)
    assert marginals.argmax(-1).tolist() == [[2, 1, 4, 5]] * 2


def test_feature_loss_is_one_mean_over_everything():
    torch.manual_seed(0)
    student, teacher = torch.randn(8, 2, 5, 3), torch.randn(12, 2, 5, 3)
    pairs = [(1, 2), (3, 5), (5, 8), (7, 11)]
    expected = (student[[1, 3, 5, 7]] - teacher[[2, 5, 8, 11]]).square().mean()
    assert losses.feature_loss(student, teacher, pairs).item() == pytest.approx(expected.item())


def test_score_loss_is_the_cross_entropy():
    logits, labels = torch.tensor([0.3, -2.0, 1.5]), torch.tensor([1.0, 0.0, 0.0])
    p = 1 / (1 + np.exp(-logits.double().numpy()))
    expected = -np.mean([np.log(p[0]), np.log(1 - p[1]), np.log(1 - p[2])])
    assert losses.score_loss(logits, labels).item() == pytest.approx(expected)


def test_what_does_not_fit_is_refused_in_one_line():
    with pytest.raises(
        ParameterError, match=r"same number of bins.*\(2, 4, 72\), got \(2, 4, 96\)"
    ):
        losses.edge_kl(torch.zeros(2, 4, 96), torch.zeros(2, 4, 72))
    three, other = [torch.zeros(2, 5, 3)] * 3, [torch.zeros(2, 5, 3), torch.zeros(2, 1, 3)]
    with pytest.raises(ParameterError, match=r"3 blocks of the student and 2 .* got 3 and 0"):
        losses.feature_loss(three, other, [(0, 0), (3, 0)])
    with pytest.raises(ParameterError, match=r"same shape, got \(2, 5, 3\) and \(2, 1, 3\)"):
        losses.feature_loss(three, other, [(1, 1)])


def test_inputs_are_enlarged_to_the_teachers_sizes():
    ramp = torch.linspace(0, 1, 288).expand(2, 3, 288, 288)
    templates = torch.rand(2, 2, 3, 128, 128)
    same = losses.resize_for_teacher(templates, ramp, replace(MIXVIT_B, head="corner"))
    assert same[0] is templates
    assert same[1] is ramp
    large, search = losses.resize_for_teacher(templates, ramp, MIXVIT_L)
    assert large.shape == (2, 2, 3, 192, 192)
    assert torch.equal(large[1, 0, :, 0, 0], templates[1, 0, :, 0, 0])  # Corners are aligned.
    assert torch.equal(large[1, 1, :, -1, -1], templates[1, 1, :, -1, -1])
    torch.testing.assert_close(search, torch.linspace(0, 1, 384).expand(2, 3, 384, 384))
