"""Training of exits on miniature data: what it changes, what it leaves, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from small_training import (  # noqa: E402
    MODEL,
    pruning_stage,
    shallow_stage,
    small_config,
    write_data_sets,
)

from mixformerv2_ros.cli import main  # noqa: E402
from mixformerv2_ros.errors import ParameterError  # noqa: E402
from mixformerv2_ros.lab.training import losses  # noqa: E402
from mixformerv2_ros.lab.training.config import LossConfig, TrainConfig  # noqa: E402
from mixformerv2_ros.lab.training.config_files import read_config  # noqa: E402
from mixformerv2_ros.lab.training.data_loaders import (  # noqa: E402
    calibration_batch,
    load_synthetic,
)
from mixformerv2_ros.lab.training.initialization import read_network  # noqa: E402
from mixformerv2_ros.lab.training.pruning import without_exits  # noqa: E402
from mixformerv2_ros.lab.training.stages import check_settings, student_spec  # noqa: E402
from mixformerv2_ros.lab.training.trainer import train  # noqa: E402
from mixformerv2_ros.lab.training.training_run import TrainingRun  # noqa: E402
from mixformerv2_ros.model.checkpoints import load_checkpoint  # noqa: E402

EXITS = replace(MODEL, exits=(2, 3))
ROOT = Path(__file__).resolve().parents[1]


def exits_stage(data: Path, output: Path, start: Path | None, **changes: object) -> TrainConfig:
    settings = {
        "stage": "exits",
        "model": EXITS,
        "init_from": "" if start is None else str(start),
        "loss": LossConfig(foreground=0.0, exits=1.0),
        **changes,
    }
    return small_config(data, output, **settings)


@pytest.fixture(scope="module")
def start(miniature_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(small_config(miniature_data, tmp_path_factory.mktemp("start"), steps=2))


@pytest.fixture(scope="module")
def trained(start: Path, miniature_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(exits_stage(miniature_data, tmp_path_factory.mktemp("exits"), start))


def weights_of(path: Path) -> dict[str, np.ndarray]:
    return load_checkpoint(path).weights


def test_the_stage_adds_exits_and_leaves_everything_else(start: Path, trained: Path) -> None:
    before, after = weights_of(start), weights_of(trained)
    for name, value in before.items():
        np.testing.assert_array_equal(value, after[name], err_msg=name)
    added = after.keys() - before.keys()
    assert added
    assert all(name.startswith(("exits.2.", "exits.3.")) for name in added)
    assert read_network(trained).network.spec.exits == (2, 3)


def test_exits_begin_with_the_heads_of_the_network_and_learn(
    start: Path, miniature_data: Path, tmp_path: Path
) -> None:
    """Boxes, estimates of their IoU and the final exit's distributions, on one batch."""
    config = exits_stage(miniature_data, tmp_path, start, learning_rate=3e-3)
    run = TrainingRun(config)
    first = run.model.network.state_dict()
    assert torch.equal(
        first["exits.2.box_head.layers.0.0.weight"], first["box_head.layers.0.0.weight"]
    )
    batch = calibration_batch(load_synthetic(config)[0], 8)
    values = [run.advance(batch) for _ in range(30)]
    assert values[-1]["exits"] < 0.8 * values[0]["exits"]
    for depth in EXITS.exits:
        assert values[-1][f"decision_{depth}"] < values[0][f"decision_{depth}"]


def test_joint_training_reaches_the_backbone(miniature_data: Path, tmp_path: Path) -> None:
    """By the exits alone: with no other loss, early blocks move and the last one does not."""
    alone = LossConfig(
        l1=0.0, ciou=0.0, edge=0.0, foreground=0.0, score=0.0, exits=1.0, exit_features=1.0
    )
    config = exits_stage(
        miniature_data, tmp_path, None, stage="plain", loss=alone, weight_decay=0.0
    )
    run = TrainingRun(config)
    before = {name: value.clone() for name, value in run.model.network.state_dict().items()}
    batch = calibration_batch(load_synthetic(config)[0], 4)
    run.advance(batch)
    after = run.model.network.state_dict()
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert "backbone.blocks.1.attn.qkv.weight" in moved
    assert not any(name.startswith("backbone.blocks.3.") for name in moved)


def test_search_tokens_on_the_target_count_most() -> None:
    torch.manual_seed(0)
    teacher = torch.randn(1, 16, 8)
    edges = torch.tensor([[0.0, 0.0, 0.25, 0.25]])
    on, beside = teacher.clone(), teacher.clone()
    on[0, 0], beside[0, 15] = -on[0, 0], -beside[0, 15]
    assert losses.target_feature_loss(teacher, teacher, edges) == 0
    differences = [float(losses.target_feature_loss(one, teacher, edges)) for one in (on, beside)]
    assert differences[0] > 3 * differences[1] > 0
    student = torch.randn(1, 16, 8, requires_grad=True)
    fixed = teacher.clone().requires_grad_()
    losses.target_feature_loss(student, fixed, edges).backward()
    assert student.grad is not None
    assert fixed.grad is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": MODEL}, "model.exits"),
        ({"model": replace(MODEL, exits=(4,))}, "model.exits must ascend and lie after blocks 1"),
        ({"model": replace(MODEL, exits=(3, 2))}, "model.exits must ascend"),
        ({"model": replace(MODEL, exits=(0,))}, "model.exits must ascend"),
        ({"loss": LossConfig(foreground=0.0)}, "model.exits and loss.exits need each other"),
        ({"loss": LossConfig(exits=1.0, exit_features=1.0)}, "loss.exit_features must be 0"),
        (
            {"loss": LossConfig(exits=-1.0)},
            "loss.exits must be a finite number of 0 or more, got -1",
        ),
        (
            {"loss": LossConfig(exits=1.0, exit_kl=float("nan"))},
            "loss.exit_kl must be a finite .* nan",
        ),
        ({"loss": LossConfig(exits=float("inf"))}, "loss.exits must be a finite .* got inf"),
        ({"trainable": "score_head"}, "stage exits trains exits. only"),
        ({"init_from": ""}, "init_from"),
    ],
)
def test_settings_that_contradict_each_other(
    changes: dict[str, object],
    message: str,
    start: Path,
    miniature_data: Path,
    tmp_path: Path,
) -> None:
    with pytest.raises(ParameterError, match=message) as found:
        TrainingRun(exits_stage(miniature_data, tmp_path, start, **changes))
    assert "\n" not in str(found.value)


PRESETS = [("s", (2,)), ("b", (2, 4, 6)), ("t", (2, 3)), ("xs", (2, 3))]


@pytest.mark.parametrize(("preset", "exits"), PRESETS)
def test_the_settings_of_each_preset(preset: str, exits: tuple[int, ...]) -> None:
    config = read_config(ROOT / f"config/training/exits_{preset}.yaml")
    check_settings(config)
    spec = student_spec(config)
    assert spec.exits == exits
    assert config.stage == "exits"


@pytest.mark.parametrize(("preset", "exits"), PRESETS)
def test_the_settings_of_each_preset_run_in_miniature(
    preset: str,
    exits: tuple[int, ...],
    miniature_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From a network without exits, with the data that the file names and little else changed."""
    monkeypatch.chdir(tmp_path)
    write_data_sets(tmp_path / "data")
    path = str(ROOT / f"config/training/exits_{preset}.yaml")
    words = ["runtime.workers=0", "runtime.threads=1", "data.batch_size=2", "schedule.steps=2",
             "schedule.epochs=0", "schedule.warmup=0", "validation.samples=4",
             "validation.every_epochs=0", "validation.every=2", "data.sampling.min_frames=8",
             "model.width=32", "model.heads=2", "model.bins=16", "model.template_size=32",
             "model.search_size=64"]  # fmt: skip
    if preset in ("t", "xs"):
        words += [f"data.folder={miniature_data}", "data.exclude="]
    plain = ["stage=plain", "init_from=", "model.exits=[]", "loss.exits=0", "output=start"]
    assert main(["train", path, *words, *plain]) == 0
    assert main(["train", path, *words, "init_from=start/last.pth.tar", "output=out"]) == 0
    trained = read_network(tmp_path / "out" / "last.pth.tar").network.spec
    assert trained.exits == exits
    before, after = (
        weights_of(tmp_path / "start/last.pth.tar"),
        weights_of(tmp_path / "out/last.pth.tar"),
    )
    for name, value in before.items():
        np.testing.assert_array_equal(value, after[name], err_msg=name)


def test_depth_pruning_leaves_exits_out(
    trained: Path, miniature_data: Path, tmp_path: Path
) -> None:
    config = pruning_stage(miniature_data, tmp_path / "pruning", trained, init_stage="exits")
    pruned = train(config)
    assert read_network(pruned).network.spec.exits == ()
    short = train(shallow_stage(miniature_data, tmp_path / "shallow", pruned, trained))
    spec = read_network(short).network.spec
    assert (spec.depth, spec.exits) == (2, ())


def test_exits_are_all_that_depth_pruning_leaves_out(trained: Path) -> None:
    whole = read_network(trained).network
    rest = without_exits(whole)
    weights = whole.state_dict()
    assert rest.spec == replace(whole.spec, exits=())
    for name, value in rest.state_dict().items():
        assert torch.equal(value, weights[name]), name
