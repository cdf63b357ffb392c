"""Recipes: stages that build on each other, checked before they run, continued when stopped."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

torch = pytest.importorskip("torch")

from small_training import TEACHER, save_backbone, save_mae, save_mixvit, write_data_sets  # noqa: E402

from mixformerv2_ros.cli import main  # noqa: E402
from mixformerv2_ros.engines.loader import load_engine  # noqa: E402
from mixformerv2_ros.errors import MixFormerError  # noqa: E402
from mixformerv2_ros.lab.training.config_files import is_recipe, read_config, read_yaml  # noqa: E402
from mixformerv2_ros.lab.training.initialization import (  # noqa: E402
    build_training_model,
    load_stage_teacher,
    read_network,
)
from mixformerv2_ros.lab.training.recipe import (  # noqa: E402
    choose_stage,
    read_recipe,
    run_recipe,
)
from mixformerv2_ros.lab.training.stages import check_settings  # noqa: E402
from mixformerv2_ros.lab.training.stand_ins import stand_ins  # noqa: E402
from mixformerv2_ros.lab.training.training_run import no_samples  # noqa: E402
from mixformerv2_ros.model.bundle import open_bundle  # noqa: E402
from mixformerv2_ros.model.checkpoints import load_checkpoint  # noqa: E402

FOLDER = Path(__file__).resolve().parents[1] / "config" / "training"

NARROW = "{width: 32, heads: 2, bins: 16, template_size: 32, search_size: 64, head_channels: 16}"
SHORT = [
    f"force.model={NARROW}",
    "force.schedule={epochs: 0, steps: 1, epoch_samples: 2}",
    "force.data.batch_size=2",
    "force.runtime={workers: 0, threads: 1}",
    "force.validation={samples: 4, every_epochs: 0}",
]


def two_stages(data, folder, **changes):
    """A recipe of two stages, the second of them with two seeds; `changes` replace its parts."""
    (folder / "plain.yaml").write_text(
        f"preset: T\noutput: unused\nmodel: {NARROW}\nschedule: {{steps: 2}}\n"
        f"data: {{folder: {data}, batch_size: 2}}\nvalidation: {{samples: 4, every: 2}}\n"
        "runtime: {workers: 0, threads: 1, device: cpu}\n"
    )
    tree = {
        "output": str(folder / "out"),
        "common": {"model": {"depth": 2}},
        "stages": [
            {"name": "first", "config": "plain.yaml"},
            {
                "name": "second",
                "config": "plain.yaml",
                "settings": {"init_from": "$first", "optimizer.learning_rate": 0.002},
                "seeds": [4, 5],
            },
        ],
        "tables": [
            {"title": "Both", "columns": ["one", "two"], "rows": {"all": ["first", "second"]}}
        ],
        **changes,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return path


def weights_of(path):
    return {name: value.tobytes() for name, value in load_checkpoint(path).weights.items()}


@pytest.mark.parametrize(
    ("name", "depth", "ratio"), [("recipe_b.yaml", 8, 4.0), ("recipe_s.yaml", 4, 1.0)]
)
def test_the_published_recipes_lead_to_a_bundle(name, depth, ratio, tmp_path, monkeypatch):
    """The whole chains in miniature, on the data sets and weights that the files name."""
    monkeypatch.chdir(tmp_path)
    write_data_sets(tmp_path / "data")
    (tmp_path / "weights").mkdir()
    save_mixvit(tmp_path / "weights" / "mixformer_vit_base_online.pth.tar", TEACHER)
    save_mae(tmp_path / "weights" / "mae_pretrain_vit_base.pth", 32, 12)
    # Sequences of eight frames are too short to be drawn from otherwise.
    short = ["force.data.sampling.min_frames=8", *SHORT]
    assert main(["train", str(FOLDER / name), "output=out", *short]) == 0
    bundle = open_bundle(tmp_path / "out" / "bundle")
    assert (bundle.spec.depth, bundle.spec.mlp_ratio, bundle.spec.bins) == (depth, ratio, 16)
    assert bundle.search_factor == (5.0 if depth == 8 else 4.5)
    stages = json.loads((tmp_path / "out" / "report.json").read_text())["stages"]
    assert [stage["name"] for stage in stages][-1] == "score"
    assert all(0 <= stage["validation_iou"] <= 1 for stage in stages)


def test_the_recipe_of_the_default_weights_leads_to_a_bundle(miniature_data, tmp_path):
    settings = [
        f"output={tmp_path / 'out'}",
        f"common.data.folder={miniature_data}",
        "force.data.exclude=''",
    ]
    assert main(["train", str(FOLDER / "recipe_t.yaml"), *settings, *SHORT]) == 0
    bundle = open_bundle(tmp_path / "out" / "bundle")
    assert (bundle.search_factor, bundle.template_background_contrast) == (3.6, 0.4)
    assert load_engine(bundle, "onnxruntime").name == "onnxruntime/cpu"


def test_the_recipe_of_preset_xs_leads_to_a_network_with_exits(
    miniature_data, tmp_path, monkeypatch
):
    """Trained together with all else, taught by a convolutional tracker where the files name it.

    Without its bundle, whose graphs would take longer than all else here.
    """
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights" / "nanotrackv2").mkdir(parents=True)
    save_backbone(tmp_path / "weights" / "nanotrackv2" / "nanotrack_backbone_sim.onnx")
    settings = ["output=out", f"common.data.folder={miniature_data}", "force.data.exclude=''"]
    words = [*settings, *SHORT, "force.runtime.precision=fp32", "bundle=''"]
    assert main(["train", str(FOLDER / "recipe_xs.yaml"), *words]) == 0
    trained = read_network(tmp_path / "out" / "score" / "last.pth.tar")
    assert trained.network.spec.exits == (2, 3)


def test_the_default_weights_become_shallow(miniature_data, tmp_path):
    settings = [
        f"output={tmp_path / 'out'}",
        f"common.data.folder={miniature_data}",
        "force.data.exclude=''",
        # The teacher and the start are of this size.
        *(setting for setting in SHORT if not setting.startswith("force.model")),
        "force.pruning.epochs=2",
    ]
    assert main(["train", str(FOLDER / "recipe_xs_shallow.yaml"), *settings]) == 0
    spec = open_bundle(tmp_path / "out" / "bundle").spec
    assert (spec.width, spec.depth, spec.exits) == (256, 2, ())


def test_train_says_how_its_checkpoint_becomes_a_bundle(miniature_data, tmp_path, capsys):
    path = two_stages(miniature_data, tmp_path).parent / "plain.yaml"
    crops = [
        "data.synthetic.search_factor=3.5",
        "data.synthetic.template_background_contrast=0.5",
    ]
    assert main(["train", str(path), f"output={tmp_path / 'run'}", *crops]) == 0
    words = capsys.readouterr().out.splitlines()[-1].partition("next: mixformerv2 ")[2].split()
    words[words.index("BUNDLE")] = str(tmp_path / "bundle")
    assert main(words) == 0
    bundle = open_bundle(tmp_path / "bundle")
    assert (bundle.search_factor, bundle.template_background_contrast) == (3.5, 0.5)
    assert main([*words, "--force", "--template-background-contrast", "1"]) == 0
    bundle = open_bundle(tmp_path / "bundle")
    assert (bundle.search_factor, bundle.template_background_contrast) == (3.5, 1.0)


def test_the_demo_runs_in_miniature(tmp_path):
    tree = read_yaml(FOLDER / "demo" / "recipe.yaml")
    for stage in tree["stages"]:
        stage["config"] = str((FOLDER / "demo" / stage["config"]).resolve())
        stage["seeds"] = stage.get("seeds", [])[:1]
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    settings = [f"output={tmp_path / 'out'}", *SHORT]
    settings.remove(f"force.model={NARROW}")
    assert main(["train", str(path), *settings, "force.model.width=32"]) == 0
    report = (tmp_path / "out" / "report.md").read_text()
    cells = re.findall(r"\| (\d\.\d{3}) +(?=\|)", report)
    assert len(cells) == 14 + 6 + 18
    assert open_bundle(tmp_path / "out" / "bundle").spec.mlp_ratio == 1.0


def test_a_stopped_recipe_continues(miniature_data, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = two_stages(miniature_data, tmp_path / "a")
    parts = two_stages(miniature_data, tmp_path / "b")
    assert run_recipe(*read_recipe(whole))
    # A stop within each stage, and one between two.
    for _ in range(5):
        asked = iter([False, True])
        if run_recipe(*read_recipe(parts), stop=lambda it=asked: next(it, True)):
            break
    assert run_recipe(*read_recipe(parts))
    for name in ("first", "second-seed4", "second-seed5"):
        first, second = (
            weights_of(tmp_path / side / "out" / name / "last.pth.tar") for side in "ab"
        )
        assert first == second, name
    assert (tmp_path / "a/out/report.json").read_text() == (
        tmp_path / "b/out/report.json"
    ).read_text()


def test_seeds_differ_and_build_on_their_own_kind(miniature_data, tmp_path):
    tree = yaml.safe_load(two_stages(miniature_data, tmp_path).read_text())
    tree["stages"].append(
        {
            "name": "third",
            "config": "plain.yaml",
            "settings": {"init_from": "$second"},
            "seeds": [5],
        }
    )
    tree["stages"].append(
        {"name": "last", "config": "plain.yaml", "settings": {"init_from": "$third"}}
    )
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    _, runs = read_recipe(tmp_path / "recipe.yaml")
    assert [(run.name, dict(run.needs)) for run in runs] == [
        ("first", {}),
        ("second-seed4", {"init_from": "first"}),
        ("second-seed5", {"init_from": "first"}),
        ("third-seed5", {"init_from": "second-seed5"}),
        ("last", {"init_from": "third-seed5"}),
    ]
    assert [run.config.seed for run in runs] == [0, 4, 5, 5, 0]
    assert runs[1].config.optimizer.learning_rate == 0.002
    assert runs[1].config.model.depth == 2


def test_the_report_shows_mean_and_range_of_seeds(miniature_data, tmp_path):
    path = two_stages(miniature_data, tmp_path)
    assert main(["train", str(path)]) == 0
    stages = json.loads((tmp_path / "out/report.json").read_text())["stages"]
    values = [stage["validation_iou"] for stage in stages]
    expected = f"{sum(values[1:]) / 2:.3f} ({min(values[1:]):.3f}-{max(values[1:]):.3f})"
    row = (tmp_path / "out/report.md").read_text().splitlines()[4]
    assert row.split("|")[2].strip() == f"{values[0]:.3f}"
    assert row.split("|")[3].strip() == expected


def stage(**changes):
    return {"stages": [{"name": "one", "config": "plain.yaml", **changes}]}


REFUSED = {
    "an unknown key": ({"stagse": []}, "unknown setting 'stagse'; did you mean 'stages'?"),
    "an unknown key in a stage": (
        stage(sets=3),
        "unknown setting 'stages[0].sets'; did you mean 'settings'?",
    ),
    "an unknown setting": (
        stage(settings={"lr": 1}),
        "stage one: plain.yaml: unknown setting 'lr'",
    ),
    "no such file": (stage(config="absent.yaml"), "absent.yaml: expected a YAML file"),
    "no such stage": (
        stage(settings={"init_from": "$zero"}),
        "init_from must be an input or an earlier stage (none), got $zero",
    ),
    "no such checkpoint": (
        stage(settings={"init_from": "zero.pth"}),
        "init_from: expected a checkpoint file, found none at zero.pth",
    ),
    "a name twice": (
        {"stages": stage()["stages"] * 2},
        "stages need unique names, got 'one'",
    ),
    "an unknown bundle": ({"bundle": "ten"}, "expected the name of a stage, got 'ten'"),
    "a row of another length": (
        {"tables": [{"title": "t", "columns": ["a"], "rows": {"r": ["first", "second"]}}]},
        "row 'r' needs 1 stages, got 2",
    ),
    "an architecture that does not follow": (
        {
            "stages": [
                {"name": "a", "config": "plain.yaml"},
                {
                    "name": "b",
                    "config": "plain.yaml",
                    "settings": {"init_from": "$a", "model": {"bins": 12}},
                },
            ]
        },
        "stage b: a: expected architecture",
    ),
    "a student of a student where a teacher is due": (
        {
            "stages": [
                {"name": "a", "config": "plain.yaml"},
                {
                    "name": "b",
                    "config": "plain.yaml",
                    "settings": {
                        "stage": "dense-to-sparse",
                        "distillation.teacher": "$a",
                        "loss.kl": 1.0,
                    },
                },
            ]
        },
        "a: stage dense-to-sparse needs a teacher of stage teacher, got one of stage plain",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_recipes_are_checked_before_the_first_step(case, miniature_data, tmp_path):
    changes, words = REFUSED[case]
    tables = {} if "tables" in changes or "stages" not in changes else {"tables": []}
    path = two_stages(miniature_data, tmp_path, **{**tables, **changes})
    with pytest.raises(MixFormerError, match=re.escape(words)) as caught:
        read_recipe(path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


ONE_STAGE = [["visualize", "samples"], ["train", "--profile", "--profile-steps", "3"]]


@pytest.mark.parametrize("words", ONE_STAGE)
@pytest.mark.parametrize("stage", [[], ["--stage", "nine"]])
def test_one_stage_of_a_recipe_must_be_named(stage, words, capsys):
    assert main([*words, str(FOLDER / "recipe_t.yaml"), *stage]) == 2
    error = capsys.readouterr().err
    assert "a recipe needs --stage, one of scratch, wide, video, score; got " in error
    assert error.count("\n") == 1


def test_a_stage_needs_a_recipe(capsys):
    words = [
        "train",
        "--profile",
        "--profile-steps",
        "3",
        str(FOLDER / "scratch_t.yaml"),
        "--stage",
        "wide",
    ]
    assert main(words) == 2
    assert "--stage wide needs a recipe, got the settings of one stage" in capsys.readouterr().err


def test_one_stage_of_a_recipe_is_drawn_and_profiled(miniature_data, tmp_path, capsys):
    path = two_stages(miniature_data, tmp_path)
    image = tmp_path / "samples.png"
    words = ["visualize", "samples", str(path), "--stage", "second", "-o", str(image)]
    assert main([*words, "--count", "4"]) == 0
    assert image.stat().st_size > 1000
    for stage, untrained in (("first", ""), ("second", "first")):
        words = ["train", "--profile", str(path), "--stage", stage, "--profile-steps", "2"]
        assert main([*words, "force.schedule.steps=9"]) == 0
        shown = capsys.readouterr().out
        assert "forward and backward" in shown
        line = f"not run yet, so untrained networks stand in for: {untrained}\n"
        assert shown.startswith(line) == bool(untrained)
    assert not (tmp_path / "out").exists()


def test_every_stage_of_the_published_chain_can_be_profiled_before_it_has_run(
    miniature_data, tmp_path
):
    """Chains of teachers and of pruned networks, of which no checkpoint exists."""
    path = FOLDER / "demo" / "recipe.yaml"
    tree = yaml.safe_load(path.read_text())
    for entry in tree["stages"]:
        run, runs = choose_stage(path, [f"output={tmp_path / 'out'}"], entry["name"])
        with stand_ins(run, runs) as (config, untrained):
            assert set(untrained) == set(run.needs.values())
            if config.stage != "mlp-reduction":
                build_training_model(config, no_samples)
            load_stage_teacher(config)
    assert not (tmp_path / "out").exists()


MISSING = {
    "a folder": (["force.data.folder=nowhere"], "nowhere: expected sequences/ or stills/"),
    "a list": (["force.data.exclude=none.txt"], "none.txt: expected a text file, found none"),
    "clips": (["force.validation.clips.root=gone"], "gone: expected a folder of sequences"),
    "weights": (["common.init_from=broken.pth"], "broken.pth: "),
    "a data set": (
        [
            "force.data.folder=",
            "force.data.sets=[{kind: coco, root: there, split: train}]",
            "force.data.validation_sets=[{kind: coco, root: there, split: val}]",
        ],
        "there: expected a folder with the data set coco, found none",
    ),
}


@pytest.mark.parametrize("case", MISSING)
def test_inputs_of_later_stages_are_checked_before_the_first(
    case, miniature_data, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.pth").write_bytes(b"no weights")
    changes, words = MISSING[case]
    tree = yaml.safe_load(two_stages(miniature_data, tmp_path).read_text())
    # Only the last stage has it.
    settings = {one.partition("=")[0].partition(".")[2]: one.partition("=")[2] for one in changes}
    last = {"name": "third", "config": "plain.yaml"}
    last["settings"] = {name: yaml.safe_load(value) or "" for name, value in settings.items()}
    tree["stages"].append(last)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    assert main(["train", "recipe.yaml"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"stage third: {words}" in error
    assert not list(tmp_path.glob("out/*/last.pth.tar"))


def test_the_shipped_settings_are_consistent():
    for path in FOLDER.rglob("*.yaml"):
        if not is_recipe(read_yaml(path)):
            check_settings(read_config(path))


def test_settings_of_the_package_are_found_by_name(tmp_path, monkeypatch, capsys):
    """From any folder; a file of the user's comes first."""
    monkeypatch.chdir(tmp_path)
    for name in ("finetune_t.yaml", "config/training/finetune_t.yaml"):
        assert main(["check-data", name, "data.folder=nowhere"]) == 2
        assert "nowhere" in capsys.readouterr().out
    (tmp_path / "finetune_t.yaml").write_text("own: 1\n")
    assert main(["check-data", "finetune_t.yaml"]) == 2
    assert "unknown setting" in capsys.readouterr().err
    for name in ("none.yaml", "../training/finetune_t.yaml"):
        assert main(["train", name]) == 2
        assert f"{name}: expected a YAML file of settings" in capsys.readouterr().err
