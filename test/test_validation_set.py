"""The validation set: what must not be trained on, and how much a mean over it is worth."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest

from mixformerv2_ros.cli import main
from mixformerv2_ros.errors import ParameterError
from mixformerv2_ros.lab.datasets.package_paths import settings_file
from mixformerv2_ros.lab.datasets.sequences import read_names
from mixformerv2_ros.lab.datasets.validation_set import (
    VALIDATION_LIST,
    refuse_validation_names,
    validation_names,
)
from mixformerv2_ros.lab.evaluation.metrics import SequenceScores
from mixformerv2_ros.lab.evaluation.spread import bootstrap, difference, spread


def scores(**auc):
    """Sequences whose mean overlap is their success AUC, ten frames each."""
    return {
        name: SequenceScores(
            frames=10, success_auc=value, precision=1.0, normalised_precision=1.0, op50=1.0,
            op75=1.0, mean_overlap=value,
        )
        for name, value in auc.items()
    }  # fmt: skip


def test_the_list_is_that_of_the_shared_sequences(shared_data):
    found = {path.name for kind in ("sequences", "validation") for path in
             (shared_data / kind).iterdir() if path.is_dir()}  # fmt: skip
    assert set(read_names(VALIDATION_LIST)) == found
    assert len(read_names(VALIDATION_LIST)) == 60


@pytest.mark.parametrize(
    ("name", "listed"),
    [
        ("Man", "Man"),
        ("man", "Man"),
        ("OTB100_Man", "Man"),
        ("otb-man-part2", "Man"),
        ("Jogging-2", "Jogging1"),
        ("uav123_group1_3", "uav_group1_1"),
        ("UAV20L-group1", "uav_group1_1"),
        ("uavdt_M1301", "uavdt_S1301"),
        ("vot2015_motocross1", "MotorRolling"),
        ("DAVIS2017_car-shadow", "davis_car_shadow"),
        ("tlp_CarChase2", "TLP_CarChase2"),
        ("04_pedestrian2", "tld_pedestrian2"),
        ("OTB_Panda", "tld_panda"),
        ("OTB-100_Man", "Man"),
        ("OTB-2013_Jogging-1", "Jogging1"),
        ("TB-50_Biker", "Biker"),
        ("VOT-ST2018_basketball", "Basketball"),
        ("UAV123@10fps_bike1", "uav_bike1"),
        ("UAV-123_car16", "uav_car16_2"),
        ("DAVIS-2016_car-shadow", "davis_car_shadow"),
        ("DTB-70_Gull2", "dtb_Gull2"),
        ("Temple-color-128_Skiing_ce", "Skiing"),
    ],
)
def test_a_validation_sequence_is_refused_under_any_of_its_names(name, listed):
    with pytest.raises(ParameterError, match=f"data: .*{name}") as caught:
        refuse_validation_names(["mot_PETS09_1", name], "data")
    assert listed in str(caught.value)
    assert "PETS09" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["car_2", "car-17", "bike_rack_1", "Human", "GOT-10k_Train_000001", "wtrack_man_3"]
)
def test_other_names_pass(name):
    refuse_validation_names([name], "data")


def test_every_listed_sequence_is_known_by_its_own_name():
    known = validation_names()
    for name in read_names(VALIDATION_LIST):
        assert known[name.lower()] == name


def test_a_training_on_a_validation_sequence_is_refused_by_name(miniature_data, tmp_path, capsys):
    pytest.importorskip("torch")
    data = tmp_path / "data"
    shutil.copytree(miniature_data, data)
    (data / "sequences" / "one").rename(data / "sequences" / "OTB_MotorRolling")
    settings = [f"data.folder={data}", f"output={tmp_path / 'out'}", "schedule.steps=1"]
    config = "config/training/scratch_t.yaml"
    assert main(["train", config, *settings, "data.exclude="]) == 2
    err = capsys.readouterr().err
    refusal = "got OTB_MotorRolling (the video of MotorRolling); move them away"
    assert err.splitlines()[-1].endswith(refusal)
    assert main(["check-data", config, *settings, "data.exclude="]) == 2
    assert f"{refusal}\n" in capsys.readouterr().out
    assert not (tmp_path / "out" / "last.pth.tar").exists()


def test_a_recipe_is_refused_before_its_first_stage(miniature_data, tmp_path):
    """For the data of a later one, too."""
    pytest.importorskip("torch")
    from mixformerv2_ros.lab.training.config_files import read_config
    from mixformerv2_ros.lab.training.data_check import check_inputs

    data = tmp_path / "data"
    shutil.copytree(miniature_data, data)
    settings = [f"data.folder={data}", f"output={tmp_path / 'out'}"]
    config = read_config(settings_file("scratch_t.yaml"), settings)
    check_inputs(config)
    (data / "sequences" / "one").rename(data / "sequences" / "VOT2016_bag")
    with pytest.raises(ParameterError, match=r"got VOT2016_bag \(the video of vot_bag\)"):
        check_inputs(config)


def test_so_is_a_folder_among_data_sets(miniature_data, tmp_path):
    pytest.importorskip("torch")
    from mixformerv2_ros.lab.datasets.training_sets import SetConfig, refuse_validation_sets

    data = tmp_path / "data"
    shutil.copytree(miniature_data, data)
    (data / "sequences" / "one").rename(data / "sequences" / "tld_car")
    sets = [
        SetConfig("folder", str(data), "stills"),
        SetConfig("folder", str(data), "sequences"),
    ]
    with pytest.raises(ParameterError, match=r"got tld_car; move them away"):
        refuse_validation_sets(sets)
    excluded = dataclasses.replace(sets[1], exclude=str(VALIDATION_LIST))
    refuse_validation_sets([sets[0], excluded])


def test_the_interval_of_a_mean_is_that_of_its_standard_error():
    values = np.random.default_rng(1).normal(0.6, 0.2, 400)
    found = bootstrap(values)
    error = 1.96 * values.std() / 20
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - error, abs=0.002)
    assert found.high == pytest.approx(values.mean() + error, abs=0.002)
    assert bootstrap(values) == found
    assert np.isnan(bootstrap(np.empty(0)).mean)


def test_halves_and_lost_sequences():
    found = spread(scores(a=0.2, b=0.6, c=0.8, d=0.3, e=0.299))
    assert found.odd == pytest.approx((0.2 + 0.8 + 0.299) / 3)
    assert found.even == pytest.approx(0.45)
    assert found.lost == pytest.approx(2 / 5)
    assert found.sequences == 5
    none = dataclasses.replace(scores(a=0.5)["a"], frames=0, mean_overlap=float("nan"))
    assert spread({**scores(b=0.5), "a": none}).sequences == 1


def test_a_difference_is_paired():
    rng = np.random.default_rng(2)
    hard = {f"s{i:02}": float(value) for i, value in enumerate(rng.uniform(0.1, 0.9, 60))}
    better = {name: value + 0.02 for name, value in hard.items()}
    found = difference(scores(**better, extra=1.0), scores(**hard))
    assert found.sequences == 60
    assert found.auc.low == pytest.approx(0.02)
    assert found.auc.high == pytest.approx(0.02)
    alone = spread(scores(**better))
    assert alone.auc.high - alone.auc.low > 0.05
    assert found.lost <= 0


def test_evaluate_prints_interval_halves_and_lost_share(shared_data, tmp_path, capsys):
    arguments = ["--root", str(shared_data / "sequences"), "--sequences", "Deer,vot_bag"]
    for label, offset in (("good", 0), ("bad", 400)):
        folder = tmp_path / label
        folder.mkdir()
        for name in ("Deer", "vot_bag"):
            truth = shared_data / "sequences" / name / "groundtruth_rect.txt"
            boxes = np.nan_to_num(np.loadtxt(truth, delimiter=","))
            boxes[1:, 0] += offset
            np.savetxt(folder / f"{name}.txt", boxes, delimiter=",", fmt="%.2f")
    folders = [str(tmp_path / label) for label in ("good", "bad")]
    assert main(["evaluate", *arguments, "--compare", *folders]) == 0
    lines = capsys.readouterr().out.splitlines()
    good, bad = ([line.split() for line in lines if line.startswith(label)] for label in
                 ("good", "bad"))  # fmt: skip
    assert good[-1][1] == "0.952"
    assert good[-1][-1] == "0.000"
    assert bad[-1][-1] == "+1.000"
    assert float(bad[-1][1]) < -0.9
    assert "95 % over sequences" in "\n".join(lines)
