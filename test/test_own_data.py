"""docs/own_data.md from an empty folder, with the commands as written, in miniature."""

from __future__ import annotations

import dataclasses
import re
import shlex
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from recordings import picture, red_box  # noqa: E402
from small_training import changed, small_config  # noqa: E402

from mixformerv2_ros.cli import main  # noqa: E402
from mixformerv2_ros.engines.loader import load_engine  # noqa: E402
from mixformerv2_ros.errors import ParameterError  # noqa: E402
from mixformerv2_ros.lab.training.config_files import read_config  # noqa: E402
from mixformerv2_ros.lab.training.initialization import build_training_model  # noqa: E402
from mixformerv2_ros.lab.training.pruning import POSITION_TABLES  # noqa: E402
from mixformerv2_ros.lab.training.trainer import train  # noqa: E402
from mixformerv2_ros.lab.training.training_run import no_samples  # noqa: E402
from mixformerv2_ros.model.bundle import open_bundle, read_weights  # noqa: E402

REPOSITORY = Path(__file__).resolve().parents[1]
FINETUNE = REPOSITORY / "config" / "training" / "finetune_t.yaml"

SHORT = {
    "train": "schedule.steps=1 schedule.warmup=0 data.batch_size=2 validation.samples=2 "
    "validation.every=1 runtime.workers=0 runtime.threads=1",
    "visualize": "--count 4",
    "evaluate": "--workers 1",
}
"""What makes a command of the page quick."""


def write_sequence(folder: Path, first: int, truth: str, images: str = "img") -> None:
    (folder / images).mkdir(parents=True)
    lines = []
    for index in range(first, first + 6):
        image = picture(index)[..., ::-1]
        assert cv2.imwrite(str(folder / images / f"{index:04}.jpg"), image)
        lines.append(",".join(f"{value:g}" for value in red_box(index)))
    (folder / truth).write_text("\n".join(lines) + "\n")


def write_stills(folder: Path, count: int) -> None:
    (folder / "images").mkdir(parents=True)
    lines = ["image,x,y,w,h,label"]
    for index in range(count):
        assert cv2.imwrite(str(folder / "images" / f"{index}.jpg"), picture(index)[..., ::-1])
        lines.append(f"{index}.jpg,{','.join(f'{value:g}' for value in red_box(index))},red")
    (folder / "boxes.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """The working folder with nothing but own data in it."""
    monkeypatch.chdir(tmp_path)
    write_sequence(tmp_path / "my_data/sequences/walk_01", 0, "groundtruth.txt")
    write_sequence(tmp_path / "my_data/sequences/walk_02", 9, "groundtruth_rect.txt")
    write_sequence(tmp_path / "my_data/sequences/ride_01", 5, "groundtruth.txt", images=".")
    write_stills(tmp_path / "my_data/stills", 4)
    write_sequence(tmp_path / "held_out/walk_09", 12, "groundtruth.txt")
    return tmp_path


def commands() -> list[list[str]]:
    page = (REPOSITORY / "docs" / "own_data.md").read_text("utf-8")
    return [shlex.split(line) for line in re.findall(r"^    mixformerv2 (.+)$", page, re.MULTILINE)]


def test_the_page_from_an_empty_folder(empty, capsys):
    names = []
    for words in commands():
        command = [word.replace("REPO", str(REPOSITORY)) for word in words]
        command += SHORT.get(words[0], "").split()
        assert main(command) == 0, (command, capsys.readouterr().err)
        names.append(words[0])
    assert names == [
        *("check-data", "visualize", "evaluate", "train"),
        *("convert", "export", "evaluate"),
    ]
    bundle = open_bundle(empty / "mine")
    assert (bundle.search_factor, bundle.template_background_contrast) == (3.6, 0.4)
    assert load_engine(bundle).name == "onnxruntime/cpu"
    assert (empty / "samples.png").stat().st_size > 1000
    shown = capsys.readouterr().out
    # All three forms of a sequence were read, by the check as by the training.
    assert "folder sequences (training), my_data\n  3 clips, 18 boxes or frames" in shown


@pytest.mark.parametrize("part", ["sequences", "stills"])
def test_one_kind_of_data_suffices(part, empty):
    other = {"sequences": "stills", "stills": "sequences"}[part]
    shutil.rmtree(empty / "my_data" / other)
    words = ["train", str(FINETUNE), "data.folder=my_data", "output=out", *SHORT["train"].split()]
    assert main(words) == 0
    assert main(["check-data", str(FINETUNE), "data.folder=my_data"]) == 0


@pytest.mark.parametrize("name", ["img", "color"])
def test_a_sequence_of_the_folder_is_a_data_set_for_every_use(name, empty, capsys):
    write_sequence(empty / "more/sequences/a", 0, "groundtruth.txt", images=name)
    assert main(["evaluate", "--root", "more", "--dataset", "folder", "-o", "results"]) == 0
    settings = "data.sets=[{kind: folder, root: more, split: sequences}]"
    held = settings.replace("sets", "validation_sets")
    words = [str(FINETUNE), "data.folder=", settings, held]
    assert main(["check-data", *words]) == 0
    assert "folder sequences (training), more\n  1 clips, 6 boxes" in capsys.readouterr().out


def test_too_little_data_is_named(empty, capsys):
    shutil.rmtree(empty / "my_data" / "stills")
    for name in ("walk_02", "ride_01"):
        shutil.rmtree(empty / "my_data" / "sequences" / name)
    assert main(["train", str(FINETUNE), "data.folder=my_data", "output=out"]) == 2
    assert "expected at least two stills or two sequences" in capsys.readouterr().err


def test_weights_and_crops_are_those_of_the_bundle(tmp_path, miniature_data):
    config = read_config(FINETUNE, [f"data.folder={miniature_data}"])
    model = build_training_model(config, no_samples)
    expected = read_weights(open_bundle("tiny"))
    for name, value in model.network.state_dict().items():
        # Position tables are computed; the bundle has them in half precision.
        tolerance = 3e-4 if name.endswith(POSITION_TABLES) else 0
        np.testing.assert_allclose(value.numpy(), expected[name], rtol=0, atol=tolerance)
    other = read_config(FINETUNE, ["data.synthetic.search_factor=4"])
    with pytest.raises(ParameterError) as caught:
        build_training_model(other, no_samples)
    assert "expected the crops of this bundle: data.synthetic.search_factor 3.6, got 4 (to" in str(
        caught.value
    )
    larger = read_config(FINETUNE, [f"data.folder={miniature_data}", "model.search_size=160"])
    with pytest.raises(ParameterError, match=r"bundle: model\.search_size 128, got 160"):
        build_training_model(larger, no_samples)
    weights = changed(other, init_from=str(open_bundle("tiny").path / "model.safetensors"))
    build_training_model(weights, no_samples)


def test_other_crops_than_those_of_a_checkpoint_are_logged(tmp_path, miniature_data, caplog):
    path = train(small_config(miniature_data, tmp_path, steps=1, every=1))
    synthetic = small_config(miniature_data, tmp_path).data.synthetic
    later = small_config(
        miniature_data, tmp_path / "later", init_from=str(path),
        synthetic=dataclasses.replace(synthetic, search_factor=3.0),
    )  # fmt: skip
    with caplog.at_level("WARNING"):
        build_training_model(later, no_samples)
    assert "data.synthetic.search_factor 4, got 3" in caplog.text


@pytest.mark.parametrize("path", sorted(FINETUNE.parent.glob("*.yaml")), ids=lambda one: one.name)
def test_shipped_settings_name_nothing_in_a_checkout(path):
    text = path.read_text("utf-8")
    assert not re.search(r"\.\./|: mixformerv2_ros/", text)
