"""`mixformerv2 check-data`: counts, and every broken line and image of a training's data."""

from __future__ import annotations

import json

import pytest

torch = pytest.importorskip("torch")

from small_training import write_data_sets  # noqa: E402

from mixformerv2_ros.cli import main  # noqa: E402

NARROW = "{width: 32, heads: 2, depth: 1, bins: 16, template_size: 32, search_size: 64}"


@pytest.fixture
def stage(tmp_path):
    """Settings of a training on miniatures of two data sets."""
    write_data_sets(tmp_path / "data")
    (tmp_path / "data" / "got10k" / "LICENSE").write_text("\nCC BY-NC-SA 4.0\nmore\n")
    path = tmp_path / "config.yaml"
    path.write_text(
        f"preset: T\noutput: out\nmodel: {NARROW}\ndata:\n  sets:\n"
        f"  - {{kind: got10k, root: {tmp_path}/data/got10k, split: vottrain}}\n"
        f"  - {{kind: coco, root: {tmp_path}/data/coco, split: train}}\n"
        "  validation_sets:\n"
        f"  - {{kind: got10k, root: {tmp_path}/data/got10k, split: votval}}\n"
    )
    return path


def test_whole_data_is_counted(stage, capsys):
    assert main(["check-data", str(stage)]) == 0
    shown = capsys.readouterr().out
    assert f"got10k vottrain (training), {stage.parent}/data/got10k\n" in shown
    assert "4 clips, 32 boxes or frames, 32 with a visible target, 32 images read" in shown
    assert "licence: LICENSE: CC BY-NC-SA 4.0\n" in shown
    assert "1 clips, 1 boxes or frames, 1 with a visible target, 1 images read" in shown
    assert "licence: no LICENSE, COPYING or README in this folder" in shown
    assert "0 broken lines, boxes or clips, 0 of 49 images unreadable\n" in shown


def test_every_broken_line_and_image_is_named(stage, capsys):
    root = stage.parent / "data" / "got10k"
    lines = (root / "GOT-10k_Train_000001" / "groundtruth.txt").read_text().splitlines()
    lines[2], lines[5] = "1,2,three,4", "1,2,3"
    (root / "GOT-10k_Train_000001" / "groundtruth.txt").write_text("\n".join(lines))
    (root / "GOT-10k_Train_000004" / "00000002.jpg").write_bytes(b"no image")
    (root / "GOT-10k_Train_000005" / "00000007.jpg").write_bytes(b"")
    path = stage.parent / "data" / "coco" / "annotations" / "instances_train2017.json"
    tree = json.loads(path.read_text())
    tree["annotations"].append({**tree["annotations"][0], "bbox": [400, 3, 10, 10]})
    path.write_text(json.dumps(tree))
    (root / "GOT-10k_Train_000002" / "cover.label").write_text("8\n9\n8\nx\n8\n8\n8\n8\n")
    assert main(["check-data", str(stage)]) == 2
    shown = capsys.readouterr().out
    first = root / "GOT-10k_Train_000001" / "groundtruth.txt"
    assert f"  {first}, line 3: expected four numbers x,y,w,h, got '1,2,three,4'\n" in shown
    assert f"  {first}, line 6: expected four numbers x,y,w,h, got '1,2,3'\n" in shown
    assert "GOT-10k_Train_000004/00000002.jpg cannot be decoded" in shown
    assert "GOT-10k_Train_000005/00000007.jpg" in shown
    assert "expected a box within the image of 64x48, got 400,3,10,10" in shown
    for number, value in ((2, "9"), (4, "x")):
        assert f"cover.label, value {number}: expected 8 values 0 to 8, got '{value}'\n" in shown
    assert "5 broken lines, boxes or clips, 2 of 33 images unreadable\n" in shown


def test_permitted_unreadable_images_are_no_failure(stage, capsys):
    (stage.parent / "data/got10k/GOT-10k_Train_000001/00000002.jpg").write_bytes(b"")
    assert main(["check-data", str(stage), "data.max_unreadable=0.03"]) == 0
    assert "1 of 49 images unreadable (data.max_unreadable permits 0.03)" in capsys.readouterr().out


def test_a_recipe_needs_no_weights_to_be_checked(miniature_data, tmp_path, capsys):
    (tmp_path / "plain.yaml").write_text(
        f"preset: T\noutput: unused\nmodel: {NARROW}\ndata: {{folder: {miniature_data}}}\n"
        f"validation: {{clips: {{root: {miniature_data}}}}}\n"
    )
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "output: out\ninputs: {weights: absent.pth}\nstages:\n"
        "- {name: a, config: plain.yaml, settings: {init_from: $weights}}\n"
        "- {name: b, config: plain.yaml, settings: {init_from: $a}}\n"
    )
    assert main(["check-data", str(path)]) == 0
    shown = capsys.readouterr().out
    assert shown.count("folder stills (training)") == 1
    assert "24 images read" in shown
    assert "folder sequences (training)" in shown
    assert (
        "note: 2 clips of folder sequences (training) are also in folder (validation clips): "
        in (shown)
    )


def test_missing_folders_and_lists_are_named(stage, capsys):
    (stage.parent / "data" / "got10k" / "list.txt").unlink()
    assert main(["check-data", str(stage), "data.validation_sets=[]"]) == 2
    error = capsys.readouterr().err
    assert "data.sets needs data.validation_sets, got none" in error
    assert main(["check-data", str(stage)]) == 2
    assert "got10k/list.txt: expected a text file, found none" in capsys.readouterr().out


def test_every_broken_entry_of_coco_is_named(stage, capsys):
    path = stage.parent / "data" / "coco" / "annotations" / "instances_train2017.json"
    tree = json.loads(path.read_text())
    whole = tree["annotations"][0]
    count = len(tree["annotations"])
    tree["images"].append({"id": 7})
    tree["annotations"] += [{**whole, "bbox": [1, 2]}, {**whole, "image_id": [1]}, "none"]
    path.write_text(json.dumps(tree))
    assert main(["check-data", str(stage)]) == 2
    shown = capsys.readouterr().out
    assert f"{path}: images[{len(tree['images']) - 1}]: expected id and file_name" in shown
    for offset, words in enumerate(
        ("expected bbox of four", "expected image_id", "expected image_id")
    ):
        assert f"{path}: annotations[{count + offset}]: {words}" in shown
