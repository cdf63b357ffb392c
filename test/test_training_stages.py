"""Every stage of the paper's training on miniature data, and what a stage refuses."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from small_training import (  # noqa: E402
    BOXES,
    DEEP,
    MODEL,
    TEACHER,
    changed,
    pruning_stage,
    reduction_stage,
    save_mixvit,
    score_stage,
    shallow_stage,
    small_config,
    tokens_stage,
)

from mixformerv2_ros.cli import main  # noqa: E402
from mixformerv2_ros.errors import CheckpointError, ParameterError  # noqa: E402
from mixformerv2_ros.lab.training.config import LossConfig, PruningConfig  # noqa: E402
from mixformerv2_ros.lab.training.data_loaders import (  # noqa: E402
    calibration_batch,
    load_batches,
    load_synthetic,
)
from mixformerv2_ros.lab.training.initialization import read_network  # noqa: E402
from mixformerv2_ros.lab.training.mixvit import load_teacher  # noqa: E402
from mixformerv2_ros.lab.training.trainer import train  # noqa: E402
from mixformerv2_ros.lab.training.training_run import TrainingRun  # noqa: E402
from mixformerv2_ros.model.bundle import open_bundle  # noqa: E402
from mixformerv2_ros.model.checkpoints import load_checkpoint  # noqa: E402
from mixformerv2_ros.network.model import normalize  # noqa: E402


@pytest.fixture(scope="module")
def chain(miniature_data, tmp_path_factory):
    """Checkpoints of all stages, each begun from the one before."""
    root = tmp_path_factory.mktemp("chain")
    paths = {}
    paths["teacher"] = train(
        small_config(miniature_data, root / "teacher", stage="teacher", loss=BOXES)
    )
    paths["tokens"] = train(tokens_stage(miniature_data, root / "tokens", paths["teacher"]))
    paths["pruning"] = train(pruning_stage(miniature_data, root / "pruning", paths["tokens"]))
    paths["shallow"] = train(
        shallow_stage(miniature_data, root / "shallow", paths["pruning"], paths["tokens"])
    )
    paths["reduction"] = train(
        reduction_stage(miniature_data, root / "reduction", paths["shallow"])
    )
    paths["score"] = train(score_stage(miniature_data, root / "score", paths["reduction"]))
    return paths


@pytest.fixture(scope="module")
def batch(miniature_data, tmp_path_factory):
    config = small_config(miniature_data, tmp_path_factory.mktemp("unused"))
    return calibration_batch(load_synthetic(config)[0], 8)


def weights_of(path):
    return load_checkpoint(path).weights


def test_the_chain_ends_in_a_bundle(chain, tmp_path):
    assert main(["convert", str(chain["score"]), "-o", str(tmp_path / "bundle")]) == 0
    spec = open_bundle(tmp_path / "bundle").spec
    assert (spec.depth, spec.mlp_ratio, spec.bins, spec.heads) == (2, 1.0, 16, 2)


def test_a_model_of_a_distillation_stage_has_no_score_head(chain, tmp_path, capsys):
    assert not any(name.startswith("score_head") for name in weights_of(chain["reduction"]))
    assert main(["convert", str(chain["reduction"]), "-o", str(tmp_path / "bundle")]) == 2
    assert "before the score head is trained" in capsys.readouterr().err


def test_the_teacher_that_was_trained_is_a_mixvit(chain):
    assert load_teacher(chain["teacher"]).spec == TEACHER


def test_the_student_begins_with_the_teachers_backbone(chain, miniature_data, tmp_path):
    run = TrainingRun(tokens_stage(miniature_data, tmp_path, chain["teacher"]))
    ours, theirs = run.model.network.backbone, load_teacher(chain["teacher"]).backbone
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=0, atol=0)


def test_removed_layers_rest_and_fade(chain, miniature_data, tmp_path, batch):
    config = pruning_stage(miniature_data, tmp_path, chain["tokens"])
    run = TrainingRun(config)
    gains = []
    for _ in range(4):
        run.advance(batch)
        gains.append(run.model.network.backbone.blocks[2].gamma)
    # Two steps to an epoch; the release counts epochs from 2.
    assert gains == pytest.approx([0.25, 0.25, 0, 0], abs=1e-6)
    assert [block.gamma for block in run.model.network.backbone.blocks] == [0, 1, 0, 1]
    before, after = weights_of(chain["tokens"]), run.model.network.state_dict()
    for name, value in before.items():
        changed = not np.array_equal(value, after[name].numpy())
        frozen = "blocks.0." in name or "blocks.2." in name or "pos_embed_" in name[:21]
        if frozen and "pos_embed_reg" not in name:
            assert not changed, name
        elif "blocks.1.attn" in name:
            assert changed, name


def test_taking_faded_layers_out_changes_nothing(chain, miniature_data, tmp_path, batch):
    faded = TrainingRun(pruning_stage(miniature_data, tmp_path / "a", chain["tokens"]))
    faded.restore(chain["pruning"])
    short = TrainingRun(
        shallow_stage(miniature_data, tmp_path / "b", chain["pruning"], chain["tokens"])
    )
    with torch.no_grad():
        expected = faded.ema_model.eval()(batch).boxes
        torch.testing.assert_close(short.ema_model.eval()(batch).boxes, expected)


def test_a_narrower_mlp_begins_near_the_wide_one(chain, miniature_data, tmp_path, batch):
    config = reduction_stage(miniature_data, tmp_path, chain["shallow"])
    world = load_synthetic(config)[0]
    run = TrainingRun(config, draw=lambda count: calibration_batch(world, count))
    assert run.model.network.backbone.blocks[0].mlp.fc1.out_features == 32
    wide = read_network(chain["shallow"]).network
    with torch.no_grad():
        expected = wide(normalize(batch.templates), normalize(batch.search)).boxes
        got = run.ema_model(batch).boxes
    assert (got - expected).abs().mean() < 0.02


def test_students_come_nearer_to_their_teachers(chain, miniature_data, tmp_path, batch):
    alone = LossConfig(l1=0, ciou=0, edge=0, foreground=0, score=0, kl=5.0, features=0.2)
    tokens = tokens_stage(
        miniature_data, tmp_path, chain["teacher"], steps=100,
        loss=dataclasses.replace(alone, features=0),
    )  # fmt: skip
    short = shallow_stage(
        miniature_data, tmp_path, chain["pruning"], chain["tokens"], steps=100, loss=alone
    )
    for config, names in ((tokens, ["kl"]), (short, ["kl", "features"])):
        run = TrainingRun(config)
        values = [run.advance(batch) for _ in range(25)]
        for name in names:
            assert values[-1][name] < 0.8 * values[0][name]


def test_the_score_stage_leaves_everything_else_as_it_was(chain):
    before, after = weights_of(chain["reduction"]), weights_of(chain["score"])
    for name, value in before.items():
        np.testing.assert_array_equal(value, after[name], err_msg=name)
    assert after.keys() - before.keys() == {n for n in after if n.startswith("score_head.")}


def test_what_is_frozen_drops_no_paths(chain, miniature_data, tmp_path, batch):
    """The released score stage scores tokens that stochastic depth has perturbed."""
    run = TrainingRun(score_stage(miniature_data, tmp_path, chain["reduction"], drop_path=0.9))
    assert run.model.training
    assert run.model.network.score_head.training
    with torch.no_grad():
        first, second = run.model(batch), run.model(batch)
    assert torch.equal(first.boxes, second.boxes)


def test_a_trained_score_tells_present_from_absent(chain, miniature_data, tmp_path):
    config = score_stage(miniature_data, tmp_path, chain["reduction"], steps=60)
    synthetic = dataclasses.replace(config.data.synthetic, negative_ratio=0.5)
    config = changed(config, synthetic=synthetic, batch_size=16)
    run = TrainingRun(config)
    losses = [
        float(run.advance(batch)["score"])
        for batch in load_batches(load_synthetic(config)[0], config, 0, 60)
    ]
    assert np.mean(losses[-10:]) < np.mean(losses[:10])


def test_official_files_start_a_stage_too(miniature_data, tmp_path):
    teacher = save_mixvit(tmp_path / "teacher.pth.tar")
    path = train(
        tokens_stage(
            miniature_data, tmp_path / "out", teacher, init_from="", init_stage="", steps=2
        )
    )
    assert read_network(path).stage == "dense-to-sparse"


def test_a_teacher_of_another_crop_size_sees_enlarged_crops(miniature_data, tmp_path, batch):
    large = dataclasses.replace(TEACHER, head="corner", template_size=128, search_size=256)
    teacher = save_mixvit(tmp_path / "teacher.pth.tar", large)
    run = TrainingRun(tokens_stage(miniature_data, tmp_path, teacher))
    targets = run.teacher(batch)
    assert targets.edges.shape == (8, 4, 16)
    torch.testing.assert_close(targets.edges.sum(-1), torch.ones(8, 4))


REFUSED = {
    "an unknown stage": ({"stage": "magic"}, "stage must be one of plain, teacher"),
    "an unknown preset": ({"preset": "XL"}, "preset must be one of S, B, XS, T, got 'XL'"),
    "no data": ({"folder": ""}, "expected either data.folder or data.sets, got neither"),
    "an unknown head": ({"model": dataclasses.replace(MODEL, head="round")}, "model.head must be"),
    "a width that heads do not divide": (
        {"model": dataclasses.replace(MODEL, width=34)},
        "model.width must be a multiple of 4 and of the heads, got 34",
    ),
    "a size that patches do not divide": (
        {"model": dataclasses.replace(MODEL, search_size=65)},
        "model.search_size must be a multiple of 16, got 65",
    ),
    "an unknown precision": (
        {"precision": "int8"},
        "precision must be one of fp32, bf16, fp16",
    ),
    "no such GPU": ({"device": "cuda:99"}, "cuda:99 is not available: "),
    "an unknown device": ({"device": "toaster"}, "device must be auto, cpu, cuda or cuda:N"),
    "an empty batch": ({"batch_size": 0}, "data.batch_size must be at least 1, got 0"),
    "a name that no parameter has": (
        {"trainable": "scoring"},
        "optimizer.trainable must be part of",
    ),
    "a plain stage with a teacher": (
        {"teacher": "t"},
        "plain does not use distillation.t",
    ),
    "layers to keep in a plain stage": (
        {"keep_layers": (1,)},
        "does not use pruning.keep_l",
    ),
    "distillation without a teacher": (
        {"loss": DEEP},
        "loss.kl 5.0 needs distillation.teacher, got none",
    ),
    "a stage without its start": ({"stage": "pruning"}, "stage pruning needs init_from"),
    "dense to sparse without a teacher": (
        {"stage": "dense-to-sparse"},
        "stage dense-to-sparse needs distillation.teacher, got none",
    ),
    "a teacher that scores": ({"stage": "teacher"}, "loss.score and loss.foreground must be 0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_settings_that_contradict_each_other_are_refused(case, miniature_data, tmp_path):
    changes, words = REFUSED[case]
    with pytest.raises(ParameterError, match=re.escape(words)) as caught:
        train(changed(small_config(miniature_data, tmp_path / "out"), **changes))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("out/*"))


def test_a_fade_that_would_be_cut_off_is_refused(chain, miniature_data, tmp_path):
    config = pruning_stage(
        miniature_data, tmp_path, chain["tokens"], pruning=PruningConfig((0,), 9)
    )
    with pytest.raises(ParameterError, match="or gamma would not reach 0; got 9"):
        train(config)


def test_layers_that_do_not_exist_are_refused(chain, miniature_data, tmp_path):
    config = pruning_stage(
        miniature_data, tmp_path, chain["tokens"], pruning=PruningConfig((1, 4), 3)
    )
    with pytest.raises(ParameterError, match="layers must be different numbers from 0 to 3, got 1"):
        train(config)


def test_the_score_stage_takes_its_own_loss_only(chain, miniature_data, tmp_path):
    config = score_stage(miniature_data, tmp_path, chain["reduction"], loss=LossConfig())
    with pytest.raises(ParameterError, match=r"takes loss.score alone, got loss.l1 5.0"):
        train(config)


def test_a_checkpoint_of_another_stage_is_refused(chain, miniature_data, tmp_path):
    config = shallow_stage(miniature_data, tmp_path, chain["tokens"], chain["tokens"])
    with pytest.raises(
        CheckpointError, match="checkpoint of stage pruning, got one of stage dense-to-sparse"
    ):
        train(config)
    with pytest.raises(CheckpointError, match="expected a MixFormerV2, got a checkpoint of stage"):
        train(pruning_stage(miniature_data, tmp_path, chain["teacher"]))


def test_a_run_of_another_stage_is_not_continued(chain, miniature_data):
    config = small_config(miniature_data, chain["score"].parent)
    with pytest.raises(CheckpointError, match="expected a run of stage plain, got one of stage sc"):
        train(config)


def test_layers_that_are_left_must_be_kept(chain, miniature_data, tmp_path):
    config = shallow_stage(
        miniature_data, tmp_path, chain["pruning"], chain["tokens"], keep_layers=(0, 1)
    )
    with pytest.raises(
        CheckpointError, match=r"layers 0, 2 were pruned, expected pruning.keep_layers 1, 3, got"
    ):
        train(config)


def test_another_architecture_is_refused(chain, miniature_data, tmp_path):
    config = pruning_stage(
        miniature_data, tmp_path, chain["tokens"], model=dataclasses.replace(MODEL, depth=3)
    )
    with pytest.raises(CheckpointError, match=r"expected architecture .*depth 3.* got .*depth 4"):
        train(config)


def test_bins_that_differ_are_refused(chain, miniature_data, tmp_path):
    config = tokens_stage(
        miniature_data, tmp_path, chain["teacher"], model=dataclasses.replace(MODEL, bins=12)
    )
    with pytest.raises(
        CheckpointError, match="student with 12 bins needs a teacher with the same number, got 16"
    ):
        train(config)
    assert not (tmp_path / "last.pth.tar").exists()


def test_a_teacher_of_another_width_or_size_is_refused(chain, miniature_data, tmp_path):
    wide = dataclasses.replace(MODEL, width=64)
    start = train(small_config(miniature_data, tmp_path / "wide", model=wide, steps=1))
    with pytest.raises(CheckpointError, match="feature loss needs a teacher of width 64, got"):
        train(
            pruning_stage(
                miniature_data,
                tmp_path / "x",
                start,
                init_stage="plain",
                model=wide,
                teacher=str(chain["tokens"]),
            )
        )
    large = dataclasses.replace(MODEL, search_size=96)
    with pytest.raises(CheckpointError, match="expected a teacher for crops of 32 and 96 px"):
        train(pruning_stage(miniature_data, tmp_path / "y", chain["tokens"], model=large))


def test_a_half_faded_teacher_is_refused(chain, miniature_data, tmp_path):
    config = shallow_stage(miniature_data, tmp_path, chain["pruning"], chain["pruning"])
    with pytest.raises(
        CheckpointError, match="expected a complete network as teacher, got one with l"
    ):
        train(config)


def test_feature_pairs_must_exist(chain, miniature_data, tmp_path):
    config = shallow_stage(
        miniature_data, tmp_path, chain["pruning"], chain["tokens"], feature_pairs=((0, 1), (2, 3))
    )
    with pytest.raises(ParameterError, match="feature_pairs must lie within 2 blocks of the stude"):
        train(config)


def test_a_file_that_is_no_checkpoint_is_refused(miniature_data, tmp_path):
    (tmp_path / "junk").write_bytes(b"nonsense")
    for start in ("junk", "absent"):
        with pytest.raises(CheckpointError):
            train(pruning_stage(miniature_data, tmp_path / "out", tmp_path / start))


def test_bad_settings_end_the_command_with_one_line(tmp_path, capsys):
    path = tmp_path / "config.yaml"
    path.write_text("preset: T\noutput: o\nteachers: 3\n")
    assert main(["train", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "unknown setting 'teachers'; did you mean 'distillation.teacher'?" in error
