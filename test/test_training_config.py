"""Settings of trainings: files, overrides, former names."""

from __future__ import annotations

import operator
import re

import pytest

pytest.importorskip("torch")

from mixformerv2_ros.errors import ParameterError
from mixformerv2_ros.lab.training.config import TrainConfig
from mixformerv2_ros.lab.training.config_files import read_config
from mixformerv2_ros.lab.training.renamed_settings import (
    RENAMED,
    RENAMED_IN_GROUPS,
    migrate,
)

BASE = "preset: T\noutput: o\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            BASE + "optimizer: {learning_rat: 1}\n",
            "'optimizer.learning_rat'; did you mean 'learning",
        ),
        (BASE + "ema_decay: 1\n", "'ema_decay'; did you mean 'optimizer.ema_decay'?"),
        (BASE + "loss: {batch_siz: 1}\n", "'loss.batch_siz'; did you mean 'data.batch_size'?"),
        (BASE + "fog: 1\n", "unknown setting 'fog'; expected one of preset, output, stage"),
        (BASE + "data: {batch_size: many}\n", "data.batch_size must be int, got 'many'"),
        (BASE + "data: {synthetic: 3}\n", "data.synthetic must be a table, got 3"),
        (BASE + "data: {synthetic: {fog: 1}}\n", "unknown setting 'data.synthetic.fog'"),
        (
            BASE + "data: {synthetic: {distractor_copy_prob: 2}}\n",
            "c.yaml: data.synthetic.distractor_copy_prob must be from 0 to 1, got 2",
        ),
        (
            BASE + "data: {synthetic: {clip: 0, still: 0, composite: 0}}\n",
            "not all 0, got 0, 0, 0",
        ),
        (BASE + "data: {synthetic: {max_gap: -1}}\n", "max_gap must be 0 or more, got -1"),
        (
            BASE + "data: {synthetic: {search_factor: 0.5}}\n",
            "search_factor must be from 1 to 20, got 0.5",
        ),
        ("preset: T\n", "missing output"),
        (BASE + "data: {sets: {}}\n", "data.sets must be a list"),
        (
            BASE + "data: {sets: [{kind: coco}]}\n",
            "c.yaml: missing data.sets[0].root, data.sets[0].split",
        ),
        (
            BASE + "pruning: {keep_layers: [1, two]}\n",
            "pruning.keep_layers[1] must be int, got 'two'",
        ),
        ("- 1\n- 2\n", "expected a mapping"),
        ("a: [1\n", "expected a YAML file"),
    ],
)
def test_wrong_settings_are_named(text, words, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ParameterError, match=re.escape(words)) as caught:
        read_config(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("average: 0.9\n", "setting average has been renamed to optimizer.ema_decay"),
        ("data: folder\n", "setting data has been renamed to data.folder"),
        ("teacher: t\n", "setting teacher has been renamed to distillation.teacher"),
        ("world: {near: 0.5}\n", "setting world has been renamed to data.synthetic"),
        (
            "data: {synthetic: {near: 0.5}}\n",
            "data.synthetic.near has been renamed to data.synthetic.small_motion_prob",
        ),
        ("stage: removal\n", "stage: removal has been renamed to pruning"),
        ("data: {folder: drawn}\n", "data.folder: drawn has been renamed to generated"),
    ],
)
def test_former_names_are_answered_with_the_new_ones(text, words, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(BASE + text)
    with pytest.raises(ParameterError, match=re.escape(words)) as caught:
        read_config(path)
    assert "\n" not in str(caught.value)


def test_former_settings_of_checkpoints_are_migrated():
    saved = {
        "preset": "T",
        "stage": "extraction",
        "start_stage": "removal",
        "data": "drawn",
        "world": {"near": 0.7, "gap": 9},
        "keep": (1, 3),
        "removal": {"layers": (), "epochs": 30},
        "drop_path": 0.1,
        "model": {"depth": 2},
        "loss": {"l1": 4.0},
        "score_label": "presence",
    }
    assert migrate(saved) == {
        "preset": "T",
        "stage": "deep-to-shallow",
        "init_stage": "pruning",
        "data": {"folder": "generated", "synthetic": {"small_motion_prob": 0.7, "max_gap": 9}},
        "pruning": {"keep_layers": (1, 3), "layers": (), "epochs": 30},
        "model": {"depth": 2, "drop_path": 0.1},
        "loss": {"l1": 4.0, "score_label": "presence"},
    }


def test_every_former_name_leads_to_a_setting():
    known = TrainConfig("T", "o")
    names = [*RENAMED.values()]
    names += [f"{group}.{new}" for group, one in RENAMED_IN_GROUPS.items() for new in one.values()]
    for name in names:
        assert operator.attrgetter(name)(known) is not None, name


def test_settings_can_be_overridden(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("preset: T\noutput: o\ndata: {folder: d}\n")
    config = read_config(
        path, ["data.batch_size=3", "data.synthetic.max_gap=7", "optimizer.learning_rate=1"]
    )
    assert (config.data.batch_size, config.data.synthetic.max_gap) == (3, 7)
    assert (config.data.folder, config.optimizer.learning_rate) == ("d", 1.0)
    with pytest.raises(ParameterError, match="expected name=value"):
        read_config(path, ["batch_size"])
    with pytest.raises(ParameterError, match=r"batch has been renamed to data.batch_size"):
        read_config(path, ["batch=3"])


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "1.0e-3", "0.001", "1.e-3"])
def test_numbers_may_be_typed_as_people_do(text, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(BASE + f"optimizer: {{learning_rate: {text}}}\nschedule: {{steps: 1e4}}\n")
    config = read_config(path, [f"optimizer.weight_decay={text}"])
    assert config.optimizer.learning_rate == config.optimizer.weight_decay == 0.001
    assert config.schedule.steps == 10_000
    with pytest.raises(ParameterError, match=re.escape("schedule.steps must be int, got 0.5")):
        read_config(path, ["schedule.steps=5e-1"])
