"""Data sets of training: miniature copies of every layout, whole and spoilt, and their index."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from mixformerv2_ros.errors import ParameterError, SourceError
from mixformerv2_ros.lab.datasets import got10k as got10k_module
from mixformerv2_ros.lab.datasets.source import ClipDataset
from mixformerv2_ros.lab.datasets.training_sets import TRAINING_SETS, SetConfig, read_set, read_sets

SPLIT = {
    "lasot": "train",
    "got10k": "train",
    "trackingnet": "train",
    "coco": "train",
    "folder": "sequences",
}


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def images(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        assert cv2.imwrite(str(folder / name), np.full((48, 64, 3), 90, np.uint8))


def truth(count: int, first: int = 1) -> str:
    """Boxes that tell which frame they belong to."""
    return "".join(f"{first + n},2,10,12\n" for n in range(count))


def lasot(root: Path) -> None:
    for name in ("airplane-1", "airplane-2", "airplane-10", "fox-3"):
        folder = root / name.partition("-")[0] / name
        images(folder / "img", [f"{n:08}.jpg" for n in range(1, 6)])
        write(folder / "groundtruth.txt", truth(4) + "9,9,0,0\n")
        write(folder / "full_occlusion.txt", "0,1,0,0,0\n")
        write(folder / "out_of_view.txt", "0,0,1,0,0\n")
    write(root / "testing_set.txt", "airplane-1\n")


def got10k(root: Path) -> None:
    names = [f"GOT-10k_Train_{number:06}" for number in range(1, 9)]
    for name in names:
        images(root / name, [f"{n:08}.jpg" for n in range(1, 5)])
        write(root / name / "groundtruth.txt", "1,2,10,12\n2,2,10,12\n3,2,10,12\n4,2,10,0\n")
        write(root / name / "absence.label", "0\n1\n0\n0\n")
        write(root / name / "cover.label", "8\n3\n0\n8\n")
    write(root / "list.txt", "\n".join(names) + "\n")
    write(root / "got10k_train_split.txt", "0\n6\n3\n4\n5\n")
    write(root / "got10k_val_split.txt", "1\n2\n7\n")
    write(root / "got10k_vot_exclude.txt", "GOT-10k_Train_000003\nGOT-10k_Train_000007\n")


def trackingnet(root: Path) -> None:
    for part in range(12):
        base = root / f"TRAIN_{part}"
        name = f"clip{part}_0"
        images(base / "frames" / name, [f"{n}.jpg" for n in range(12)])
        write(base / "anno" / f"{name}.txt", truth(11, first=0) + "11,2,-1,12\n")


def coco_tree() -> dict:
    images = [{"id": 7, "file_name": "000000000007.jpg"}, {"id": 9, "file_name": "09.jpg"}]
    boxes = [
        {"id": 1, "image_id": 7, "bbox": [1, 2, 30, 20.5], "iscrowd": 0},
        {"id": 2, "image_id": 7, "bbox": [1, 2, 30, 20], "iscrowd": 1},
        {"id": 3, "image_id": 9, "bbox": [5, 6, 7, 8], "iscrowd": 0},
        {"id": 4, "image_id": 9, "bbox": [5, 6, 0, 8], "iscrowd": 0},
    ]
    return {"images": images, "annotations": boxes}


def coco(root: Path) -> None:
    images(root / "train2017", ["000000000007.jpg", "09.jpg"])
    write(root / "annotations" / "instances_train2017.json", json.dumps(coco_tree()))


def folder(root: Path) -> None:
    sequences = root / "sequences"
    for name, file in (("walk", "groundtruth_rect.txt"), ("ride", "groundtruth.txt")):
        images(sequences / name / "img", ["1.png", "2.png", "10.png"])
        write(sequences / name / file, "1,2,10,12\nNaN,NaN,NaN,NaN\n3,2,10,12\n")
    images(sequences / "pair" / "img", ["1.png", "2.png"])
    for target in (1, 2):
        write(sequences / "pair" / f"groundtruth_rect.{target}.txt", truth(2, first=target))
    images(sequences / "vot" / "color", ["1.jpg", "2.jpg"])
    write(sequences / "vot" / "groundtruth.txt", "1,1,5,1,5,4,1,4\n0,0,9,9\n")
    images(sequences / "beside", ["1.jpg", "2.jpg"])
    write(sequences / "beside" / "groundtruth.txt", truth(2))
    lines = ["image,x,y,w,h,label"]
    names = [f"{number:02}.jpg" for number in range(40)]
    images(root / "stills" / "images", names)
    for name in names:
        lines += [f"{name},1,2,20,30,cat", f"{name},3,4,10,0,cat", f"{name},5,4.5,9,9,dog"]
    write(root / "stills" / "boxes.csv", "\n".join(lines) + "\n")


MINIATURES: dict[str, Callable[[Path], None]] = {
    "lasot": lasot,
    "got10k": got10k,
    "trackingnet": trackingnet,
    "coco": coco,
    "folder": folder,
}


def names(found: ClipDataset) -> list[str]:
    return [found.clip(i).name for i in range(len(found))]


def test_every_kind_has_a_miniature_that_can_be_read(tmp_path):
    assert set(MINIATURES) == set(TRAINING_SETS) == set(SPLIT)
    for kind, make in MINIATURES.items():
        make(tmp_path / kind)
        found = read_set(kind, tmp_path / kind, SPLIT[kind], tmp_path / "cache")
        assert kind in found.name
        for i in range(len(found)):
            clip = found.clip(i)
            assert clip.boxes.shape == (len(clip.frames), 4)
            assert clip.boxes.dtype == np.float64
            assert clip.visible.shape == (len(clip.frames),)
            assert clip.visible.dtype == bool
            assert clip.is_image is (kind == "coco")
            assert all(frame.is_file() for frame in clip.frames)
            assert (clip.boxes[clip.visible][:, 2:] > 0).all()


# Layouts, visibility, splits ----------------------------------------------------------------------


def test_lasot_hides_occluded_and_out_of_view_targets_but_keeps_their_boxes(tmp_path):
    lasot(tmp_path)
    clip = read_set("lasot", tmp_path, "train", None).clip(0)
    assert clip.visible.tolist() == [True, False, False, True, False]
    assert clip.boxes[:, 0].tolist() == [1, 2, 3, 4, 9]
    assert [frame.name for frame in clip.frames][::4] == ["00000001.jpg", "00000005.jpg"]


def test_lasot_trains_on_what_its_lists_say(tmp_path):
    lasot(tmp_path)
    found = read_set("lasot", tmp_path, "train", None)
    assert names(found) == ["airplane-2", "airplane-10", "fox-3"]
    write(tmp_path / "training_set.txt", "fox-3\nairplane-2\n")
    assert names(read_set("lasot", tmp_path, "train", None)) == ["fox-3", "airplane-2"]
    assert names(read_set("lasot", tmp_path, "train", None, ["fox-3"])) == ["airplane-2"]


def test_got10k_is_read_where_it_was_unpacked(tmp_path):
    got10k(tmp_path / "train")
    found, same = (
        read_set("got10k", root, "train", None) for root in (tmp_path, tmp_path / "train")
    )
    assert names(found) == names(same)
    assert found.clip(0).frames[0].is_file()


def test_got10k_hides_absent_and_covered_targets(tmp_path):
    got10k(tmp_path)
    found = read_set("got10k", tmp_path, "train", None)
    assert len(found) == 8
    assert found.clip(3).visible.tolist() == [True, False, False, False]


def test_got10k_vot_splits_follow_the_published_derivation(tmp_path):
    got10k(tmp_path)
    # Positions 0, 6, 3, 4, 5 without 3 and 7, the numbers in the excluded names.
    found = names(read_set("got10k", tmp_path, "vottrain", None))
    assert found == [f"GOT-10k_Train_{number:06}" for number in (1, 7, 5, 6)]
    found = names(read_set("got10k", tmp_path, "votval", None))
    assert found == [f"GOT-10k_Train_{number:06}" for number in (2, 3)]


def test_got10k_vot_splits_of_the_whole_set_must_have_the_published_size(tmp_path, monkeypatch):
    got10k(tmp_path)
    monkeypatch.setattr(got10k_module, "WHOLE", 8)
    with pytest.raises(SourceError, match=r"expected vottrain to have 7086 sequences .* got 4"):
        read_set("got10k", tmp_path, "vottrain", None)
    monkeypatch.setattr(got10k_module, "PUBLISHED", {"vottrain": 4, "votval": 2})
    assert len(read_set("got10k", tmp_path, "vottrain", None)) == 4


def test_trackingnet_has_twelve_parts_in_natural_order(tmp_path):
    trackingnet(tmp_path)
    found = read_set("trackingnet", tmp_path, "train", None)
    assert names(found) == [f"clip{part}_0" for part in range(12)]
    clip = found.clip(3)
    assert [frame.stem for frame in clip.frames] == [str(n) for n in range(12)]
    assert clip.visible.tolist() == [True] * 11 + [False]
    found = read_set("trackingnet", tmp_path, "TRAIN_2,TRAIN_11", None)
    assert names(found) == ["clip2_0", "clip11_0"]


def test_coco_gives_a_clip_per_object_but_no_crowds(tmp_path):
    coco(tmp_path)
    found = read_set("coco", tmp_path, "train", None)
    assert len(found) == 2
    assert found.clip(0).boxes.tolist() == [[1, 2, 30, 20.5]]
    assert found.clip(1).frames[0] == tmp_path / "train2017" / "09.jpg"
    (tmp_path / "train2017").rename(tmp_path / "moved")
    (tmp_path / "images").mkdir()
    (tmp_path / "moved").rename(tmp_path / "images" / "train2017")
    found = read_set("coco", tmp_path, "train", None, ["09.jpg"])
    assert [found.clip(i).frames[0].name for i in range(len(found))] == ["000000000007.jpg"]


def test_folder_takes_sequences_of_every_form(tmp_path):
    folder(tmp_path)
    found = read_set("folder", tmp_path, "sequences", None)
    assert names(found) == ["beside", "pair-1", "pair-2", "ride", "vot", "walk"]
    clips = {found.clip(i).name: found.clip(i) for i in range(len(found))}
    for name in ("ride", "walk"):
        assert clips[name].visible.tolist() == [True, False, True]
        assert [frame.stem for frame in clips[name].frames] == ["1", "2", "10"]
    assert clips["pair-2"].boxes[0].tolist() == [2, 2, 10, 12]
    assert clips["vot"].boxes[0].tolist() == [1, 1, 4, 3]
    assert clips["beside"].frames[1] == tmp_path / "sequences" / "beside" / "2.jpg"


def test_held_out_sequences_are_left_out(tmp_path):
    folder(tmp_path)
    held = tmp_path / "held_out.txt"
    held.write_text("walk  # kept for the evaluation\npair\n")
    config = SetConfig("folder", str(tmp_path), "sequences", 2.0, exclude=str(held))
    ((found, weight),) = read_sets([config])
    assert names(found) == ["beside", "ride", "vot"]
    assert weight == 2.0


def test_stills_are_split_by_image(tmp_path):
    folder(tmp_path)
    sets = {
        split: read_set("folder", tmp_path, split, tmp_path / "cache")
        for split in ("stills", "stills_train", "stills_val")
    }
    images = {
        split: [found.clip(i).frames[0].name for i in range(len(found))]
        for split, found in sets.items()
    }
    # Two usable boxes in each of forty images.
    assert {split: len(found) for split, found in sets.items()} == {
        "stills": 80,
        "stills_train": 76,
        "stills_val": 4,
    }
    assert set(images["stills_val"]) == {"00.jpg", "20.jpg"}
    assert not set(images["stills_val"]) & set(images["stills_train"])
    assert sets["stills"].clip(1).boxes.tolist() == [[5, 4.5, 9, 9]]
    found = read_set("folder", tmp_path, "stills_val", tmp_path / "cache", ["20.jpg"])
    assert len(found) == 2


def test_real_data(shared_data, tmp_path):
    held = ["Bolt", "Deer"]
    found = read_set("folder", shared_data, "sequences", tmp_path, held)
    all_names = names(found)
    assert len(all_names) == 27
    assert not set(held) & set(all_names)
    stills = read_set("folder", shared_data, "stills", tmp_path)
    assert len(stills) > 2535
    assert stills.clip(0).frames[0].is_file()


# Bad input ----------------------------------------------------------------------------------------


def remove(path: Path) -> None:
    for each in sorted(path.rglob("*"), reverse=True) if path.is_dir() else []:
        each.unlink() if each.is_file() else each.rmdir()
    path.rmdir() if path.is_dir() else path.unlink()


def spoil_coco(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        tree = coco_tree()
        change(tree)
        write(root / "annotations" / "instances_train2017.json", json.dumps(tree))

    return spoil


SPOILT = [
    (
        "lasot",
        lambda r: (r / "testing_set.txt").unlink(),
        "training_set.txt: expected this list or test",
    ),
    (
        "lasot",
        lambda r: write(r / "training_set.txt", "fox-4\n"),
        "fox/fox-4: expected a sequence of LaSOT",
    ),
    (
        "lasot",
        lambda r: write(r / "fox/fox-3/groundtruth.txt", "1,2,3,4\n1,2,x,4\n"),
        "fox-3/groundtruth.txt, line 2: expected four numbers x,y,w,h, got '1,2,x,4'",
    ),
    (
        "lasot",
        lambda r: write(r / "fox/fox-3/groundtruth.txt", truth(4)),
        "full_occlusion.txt: expected 4 values 0 or 1, got 5 values",
    ),
    (
        "lasot",
        lambda r: (r / "fox/fox-3/img/00000002.jpg").unlink(),
        "fox-3/groundtruth.txt: expected one line per frame, got 5 lines for 4 images",
    ),
    ("lasot", lambda r: (r / "fox/fox-3/out_of_view.txt").unlink(), "out_of_view.txt: expected a"),
    ("got10k", lambda r: (r / "list.txt").unlink(), "list.txt: expected a text file, found none"),
    (
        "got10k",
        lambda r: remove(r / "GOT-10k_Train_000005"),
        "GOT-10k_Train_000005: expected a sequence of GOT-10k",
    ),
    (
        "got10k",
        lambda r: write(r / "GOT-10k_Train_000005/cover.label", "8\n9\n0\n0\n"),
        "cover.label, value 2: expected 4 values 0 to 8, got '9'",
    ),
    (
        "got10k",
        lambda r: write(r / "GOT-10k_Train_000005/groundtruth.txt", "1,2,10,12\n"),
        "absence.label: expected 1 values 0 or 1, got 4 values",
    ),
    ("trackingnet", lambda r: remove(r / "TRAIN_7"), "TRAIN_7/anno: expected annotations"),
    (
        "trackingnet",
        lambda r: remove(r / "TRAIN_7/frames/clip7_0"),
        "TRAIN_7/frames/clip7_0: expected a folder of images",
    ),
    (
        "trackingnet",
        lambda r: write(r / "TRAIN_7/anno/clip7_0.txt", "1,2,3\n"),
        "TRAIN_7/anno/clip7_0.txt, line 1: expected four numbers",
    ),
    ("coco", lambda r: remove(r / "train2017"), "train2017: expected the images of COCO"),
    (
        "coco",
        lambda r: (r / "annotations/instances_train2017.json").unlink(),
        "instances_train2017.json: expected COCO's annotation, found none",
    ),
    (
        "coco",
        lambda r: write(r / "annotations/instances_train2017.json", '{\n"images": [\n'),
        "instances_train2017.json, line 3: expected JSON",
    ),
    ("coco", spoil_coco(lambda t: t.pop("images")), "expected an object with lists images and"),
    (
        "coco",
        spoil_coco(lambda t: t["images"][1].update(file_name="../a.jpg")),
        r"images\[1\]: file must be in the data's own folder, got \.\./a.jpg",
    ),
    ("coco", spoil_coco(lambda t: t["images"].append(3)), r"images\[2\]: expected id and file"),
    (
        "coco",
        spoil_coco(lambda t: t["annotations"][2].update(image_id=8)),
        r"annotations\[2\]: expected the id of an image, got 8",
    ),
    (
        "coco",
        spoil_coco(lambda t: t["annotations"][2].update(bbox=[1, 2, "x", 4])),
        r"annotations\[2\]: expected bbox of four finite numbers",
    ),
    ("coco", spoil_coco(lambda t: t["annotations"].append([])), r"annotations\[4\]: expected imag"),
    ("coco", spoil_coco(lambda t: t["annotations"].clear()), "expected clips of coco train, found"),
    ("folder", lambda r: remove(r / "sequences"), "sequences: expected a folder of sequences"),
    (
        "folder",
        lambda r: write(r / "sequences/walk/groundtruth_rect.txt", "1,2,3,4\n\n1,2,3,4\n"),
        "walk/groundtruth_rect.txt, line 2: expected four numbers",
    ),
    (
        "folder",
        lambda r: (r / "sequences/walk/groundtruth_rect.txt").unlink(),
        "walk/groundtruth_rect.txt: expected a text file, found none",
    ),
]


@pytest.mark.parametrize(("kind", "spoil", "message"), SPOILT)
def test_malformed_data_is_named_in_one_line(kind, spoil, message, tmp_path):
    MINIATURES[kind](tmp_path)
    spoil(tmp_path)
    with pytest.raises(SourceError, match=message) as caught:
        names(read_set(kind, tmp_path, SPLIT[kind], tmp_path / "cache"))
    assert str(tmp_path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("split", "file", "text", "message"),
    [
        ("vottrain", "got10k_train_split.txt", "0\n8\n", "line 2: expected a position .*0 to 7"),
        ("votval", "got10k_val_split.txt", "0\nx\n", "line 2: expected a position in list.txt"),
        ("votval", "got10k_vot_exclude.txt", "a\n", "line 1: expected a name such as GOT-10k_"),
    ],
)
def test_malformed_lists_of_got10k(split, file, text, message, tmp_path):
    got10k(tmp_path)
    write(tmp_path / file, text)
    with pytest.raises(SourceError, match=f"{file}, {message}"):
        read_set("got10k", tmp_path, split, None)
    (tmp_path / file).unlink()
    with pytest.raises(SourceError, match=f"{file}: expected a text file, found none"):
        read_set("got10k", tmp_path, split, None)


@pytest.mark.parametrize(
    ("line", "number"), [("00.jpg,1,2,x,4,cat", 2), ("00.jpg,1,2,nan,4,a", 2), ("00.jpg,1", 2)]
)
def test_malformed_stills(line, number, tmp_path):
    folder(tmp_path)
    write(tmp_path / "stills/boxes.csv", f"image,x,y,w,h,label\n{line}\n")
    with pytest.raises(SourceError, match=f"boxes.csv:{number}: expected image,x,y,w,h,label"):
        read_set("folder", tmp_path, "stills", None)
    (tmp_path / "stills/boxes.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(SourceError, match=r"boxes.csv: expected a text file, cannot read it"):
        read_set("folder", tmp_path, "stills", None)
    (tmp_path / "stills/boxes.csv").unlink()
    with pytest.raises(SourceError, match=r"boxes.csv: expected a list of boxes"):
        read_set("folder", tmp_path, "stills", None)


def test_unknown_words_and_folders_are_refused(tmp_path):
    with pytest.raises(ParameterError, match="kind of data set must be one of lasot, got10k"):
        read_set("otb", tmp_path, "train", None)
    for kind, make in MINIATURES.items():
        with pytest.raises(SourceError, match="nowhere: expected a folder with the data set"):
            read_set(kind, tmp_path / "nowhere", SPLIT[kind], None)
        make(tmp_path / kind)
        with pytest.raises(ParameterError, match=f"split of {kind} must be .* got 'TEST'"):
            read_set(kind, tmp_path / kind, "TEST", None)


# Index --------------------------------------------------------------------------------------------


def test_a_spoilt_sequence_is_met_only_when_it_is_drawn(tmp_path):
    lasot(tmp_path)
    (tmp_path / "fox" / "fox-3" / "groundtruth.txt").unlink()
    found = read_set("lasot", tmp_path, "train", tmp_path / "cache")
    assert found.clip(0).name == "airplane-2"
    assert not list((tmp_path / "cache").rglob("airplane-10*"))
    with pytest.raises(SourceError, match="fox-3"):
        found.clip(2)


def test_the_index_takes_the_place_of_the_sources(tmp_path):
    cache = tmp_path / "cache"

    def written() -> dict[Path, tuple[int, int]]:
        files = [file for file in cache.rglob("*") if file.is_file()]
        return {file: (file.stat().st_ino, file.stat().st_mtime_ns) for file in files}

    for kind, make in MINIATURES.items():
        root = tmp_path / kind
        make(root)
        first = read_set(kind, root, SPLIT[kind], cache)
        clips = [first.clip(i) for i in range(len(first))]
        before = written()
        again = read_set(kind, root, SPLIT[kind], cache)
        for clip, other in zip(clips, map(again.clip, range(len(again))), strict=True):
            assert clip.name == other.name
            assert list(clip.frames) == list(other.frames)
            np.testing.assert_array_equal(clip.boxes, other.boxes)
            np.testing.assert_array_equal(clip.visible, other.visible)
        assert before
        assert written() == before, "the index was not used"
    for file in written():
        np.load(file, allow_pickle=False)


@pytest.mark.parametrize("kind", list(MINIATURES))
def test_a_changed_source_makes_a_new_index(kind, tmp_path):
    MINIATURES[kind](tmp_path)
    split = "stills" if kind == "folder" else SPLIT[kind]
    source = {
        "lasot": "airplane/airplane-2/groundtruth.txt",
        "got10k": "GOT-10k_Train_000001/groundtruth.txt",
        "trackingnet": "TRAIN_0/anno/clip0_0.txt",
        "coco": "annotations/instances_train2017.json",
        "folder": "stills/boxes.csv",
    }[kind]
    cache = tmp_path / "cache"
    assert read_set(kind, tmp_path, split, cache).clip(0).boxes[0, 1] == 2
    files = sorted(cache.rglob("*.npy"))
    text = (tmp_path / source).read_text()
    changed = text.replace("[1, 2,", "[1, 3,").replace("1,2,", "1,3,").replace("0,2,", "0,3,")
    assert changed != text
    before = (tmp_path / source).stat()
    write(tmp_path / source, changed)
    # The same length, and a clock that might not have moved.
    os.utime(tmp_path / source, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert read_set(kind, tmp_path, split, cache).clip(0).boxes[0, 1] == 3
    after = sorted(cache.rglob("*.npy"))
    assert after != files
    assert len(after) == len(files)  # the stale file is gone


def test_added_images_and_labels_are_noticed(tmp_path):
    got10k(tmp_path)
    root = tmp_path / "GOT-10k_Train_000001"
    assert read_set("got10k", tmp_path, "train", tmp_path / "cache").clip(0).visible[0]
    (root / "cover.label").unlink()
    clip = read_set("got10k", tmp_path, "train", tmp_path / "cache").clip(0)
    assert clip.visible.tolist() == [True, False, True, False]
    images(root, ["00000005.jpg"])
    with pytest.raises(SourceError, match="got 4 lines for 5 images"):
        read_set("got10k", tmp_path, "train", tmp_path / "cache").clip(0)


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", b"no array at all", None])
def test_a_damaged_index_is_made_again(damage, tmp_path):
    coco(tmp_path)
    cache = tmp_path / "cache"
    read_set("coco", tmp_path, "train", cache)
    (file,) = cache.rglob("*.npy")
    if damage is None:
        np.save(file, np.zeros(4))
    else:
        file.write_bytes(damage)
    assert len(read_set("coco", tmp_path, "train", cache)) == 2
    assert np.load(file, allow_pickle=False).dtype.names == ("box", "visible", "image")


def test_an_index_with_a_pickle_is_not_executed(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    coco(tmp_path)
    cache = tmp_path / "cache"
    read_set("coco", tmp_path, "train", cache)
    (file,) = cache.rglob("*.npy")
    np.save(file, np.array([Bomb()], dtype=object), allow_pickle=True)
    assert len(read_set("coco", tmp_path, "train", cache)) == 2
    assert not (tmp_path / "executed").exists()


def test_an_index_that_cannot_be_written_is_said(tmp_path):
    coco(tmp_path)
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(SourceError, match=r"cache/.* cannot be created: Not a directory"):
        read_set("coco", tmp_path, "train", tmp_path / "cache")


@pytest.mark.parametrize("kind", list(MINIATURES))
def test_sets_travel_to_other_processes(kind, tmp_path):
    MINIATURES[kind](tmp_path)
    found = read_set(kind, tmp_path, SPLIT[kind], tmp_path / "cache")
    before = found.clip(1)
    other = pickle.loads(pickle.dumps(found))
    np.testing.assert_array_equal(other.clip(1).boxes, before.boxes)
    assert list(other.clip(1).frames) == list(before.frames)
