"""Collecting training data: every form of annotation, from repositories made here."""

from __future__ import annotations

import csv
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from mixformerv2_ros.lab.datasets.folder import find_folder

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def collect():
    sys.path.insert(0, str(ROOT / "training_data"))  # a script finds its neighbours there
    spec = importlib.util.spec_from_file_location("collect", ROOT / "training_data" / "collect.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["collect"] = module
    spec.loader.exec_module(module)
    return module


class Copies:
    """Fetched repositories: git directories named OWNER+NAME."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, repository: str, files: dict[str, bytes | str | np.ndarray]) -> None:
        work = self.folder / repository.replace("/", "+") / "repo"
        for name, content in files.items():
            path = work / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, np.ndarray):
                assert cv2.imwrite(str(path), content)
            elif isinstance(content, str):
                path.write_text(content)
            else:
                path.write_bytes(content)
        who = ["-c", "user.name=t", "-c", "user.email=t@t"]
        for command in (["init", "-q"], ["add", "-A"], [*who, "commit", "-qm", "t"]):
            subprocess.run(["git", "-C", str(work), *command], check=True)


@pytest.fixture
def copies(tmp_path):
    return Copies(tmp_path / "copies")


def read_sequence(folder):
    return find_folder(folder.parent)[folder.name]()


def picture(width=200, height=100, box=None):
    image = np.full((height, width, 3), 90, np.uint8)
    if box is not None:
        x, y, w, h = box
        image[y : y + h, x : x + w] = 250
    return image


def source(collect, form, **options):
    return collect.Source("some/where", form, "things", "MIT", options=options)


def stills(output):
    with (output / "stills" / "boxes.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def box_of(row):
    return [float(row[key]) for key in "xywh"]


BOX = (40, 20, 60, 30)


def test_boxes_of_all_forms_lie_on_their_things(collect, copies, tmp_path):
    coco = {
        "images": [{"id": 3, "file_name": "a.png"}],
        "categories": [{"id": 9, "name": "brick"}],
        "annotations": [
            {"image_id": 3, "category_id": 9, "bbox": list(BOX), "iscrowd": 0,
             "segmentation": [[40, 20, 100, 20, 100, 50, 99, 50]]},
            {"image_id": 3, "category_id": 9, "bbox": [0, 0, 50, 50], "iscrowd": 1},
        ],
    }  # fmt: skip
    voc = (
        "<annotation><object><name>brick</name><bndbox><xmin>40</xmin><ymin>20</ymin>"
        "<xmax>100</xmax><ymax>50</ymax></bndbox></object></annotation>"
    )
    copies.add(
        "some/where",
        {
            "coco/a.png": picture(box=BOX), "coco.json": json.dumps(coco),
            "voc/b.png": picture(box=BOX), "voc/b.xml": voc,
            "yolo/c.png": picture(box=BOX), "yolo/c.txt": "1 0.35 0.35 0.3 0.3\n",
            "yolo/d.png": picture(box=BOX), "yolo/d.txt": "1 0.2 0.2 0.5 0.2 0.5 0.5 0.2 0.5\n",
        },
    )  # fmt: skip
    sources = [
        source(collect, "coco", name="coco",
               sets=[{"annotations": "coco.json", "pictures": "coco"}]),
        source(collect, "voc", name="voc", sets=[{"annotations": "voc", "pictures": "voc"}]),
        source(collect, "yolo", name="yolo", labels=["x", "brick"],
               sets=[{"annotations": "yolo", "pictures": "yolo"}]),
    ]  # fmt: skip
    collect.collect(sources, copies.folder, tmp_path / "out")
    rows = stills(tmp_path / "out")
    assert len(rows) == 4
    for row in rows:
        assert row["label"] == "brick"
        assert box_of(row) == pytest.approx(BOX, abs=0.06)
    masks = sorted(path.name for path in (tmp_path / "out" / "stills" / "masks").iterdir())
    assert len(masks) == 2  # a triangle, and a polygon that fills its box
    triangle = cv2.imread(str(tmp_path / "out/stills/masks" / masks[0]), cv2.IMREAD_GRAYSCALE)
    assert triangle.shape == (48, 96)
    assert triangle[5, 80] == 255
    assert triangle[40, 10] == 0


def test_pictures_and_boxes_shrink_together(collect, copies, tmp_path):
    large = picture(1600, 800, tuple(8 * v for v in BOX))
    copies.add("some/where", {"c.png": large, "c.txt": "0 0.35 0.35 0.3 0.3\n"})
    one = source(collect, "yolo", sets=[{"annotations": ".", "pictures": "."}])
    for scale, side in ((1.0, 400), (0.5, 200)):
        output = tmp_path / str(scale)
        collect.collect([one], copies.folder, output, form=collect.Form(scale, 90))
        (row,) = stills(output)
        image = cv2.imread(str(output / "stills" / "images" / row["image"]))
        assert image.shape[1] == side
        assert box_of(row) == pytest.approx([v * side / 200 for v in BOX], abs=0.06)


def test_pictures_of_coco_are_taken_once_whatever_the_repository(collect, copies, tmp_path):
    for owner in ("a", "b"):
        copies.add(
            f"{owner}/coco",
            {"000000000139.png": picture(box=BOX), "000000000139.txt": "0 0.35 0.35 0.3 0.3\n"},
        )
    sources = [
        collect.Source(f"{owner}/coco", "yolo", "things", "MIT",
                       options={"sets": [{"annotations": ".", "pictures": "."}]})
        for owner in ("a", "b")
    ]  # fmt: skip
    collect.collect(sources, copies.folder, tmp_path / "out")
    assert len(stills(tmp_path / "out")) == 1


def test_boxes_that_are_tiny_or_the_whole_picture_are_left_out(collect, copies, tmp_path):
    lines = "0 0.5 0.5 0.98 0.98\n0 0.35 0.35 0.3 0.3\n0 0.5 0.5 0.02 0.02\n"
    copies.add("some/where", {"c.png": picture(box=BOX), "c.txt": lines})
    one = source(collect, "yolo", sets=[{"annotations": ".", "pictures": "."}])
    collect.collect([one], copies.folder, tmp_path / "out")
    (row,) = stills(tmp_path / "out")
    assert box_of(row) == pytest.approx(BOX, abs=0.06)


def test_other_stills_are_linked(collect, miniature_data, tmp_path):
    collect.collect([], tmp_path, tmp_path / "out", also=[miniature_data / "stills"])
    rows = stills(tmp_path / "out")
    assert len(rows) == 48
    assert all((tmp_path / "out/stills/images" / row["image"]).is_file() for row in rows)


def mot_files(frames=24):
    files, lines = {}, []
    for n in range(frames):
        files[f"train/V-1/img1/{n + 1:06}.png"] = picture(400, 200, (10 + 4 * n, 50, 40, 80))
        lines.append(f"{n + 1},1,{10 + 4 * n},50,40,80,1,1,1")
        lines.append(f"{n + 1},2,{300 - 4 * n},60,40,80,1,1,{0.1 if n % 4 == 1 else 0.9}")
        lines.append(f"{n + 1},3,5,5,40,80,0,8,1")
    files["train/V-1/gt/gt.txt"] = "\n".join(lines) + "\n"
    return files


def test_tracks_of_mot_share_their_frames_and_hidden_ones_are_left_out(collect, copies, tmp_path):
    copies.add("some/where", mot_files())
    one = source(collect, "mot", name="mot", grid=2)
    collect.collect([one], copies.folder, tmp_path / "out")
    sequences = tmp_path / "out" / "sequences"
    assert sorted(path.name for path in sequences.iterdir()) == ["mot_V1_001", "mot_V1_002"]
    first, second = (read_sequence(sequences / f"mot_V1_00{n}") for n in (1, 2))
    assert len(first) == 12
    assert len(second) == 6
    stored = {path.resolve() for one in (first, second) for path in one.frames}
    assert len(stored) == 12
    for path, (x, y, w, h) in zip(first.frames, first.boxes, strict=True):
        image = cv2.imread(str(path))
        bright = image[:, :, 0] > 200
        columns = np.flatnonzero(bright.any(axis=0))
        assert columns[0] == pytest.approx(x, abs=1)
        assert columns[-1] + 1 == pytest.approx(x + w, abs=1)
        assert (y, h) == (50, 80)


def test_a_window_around_a_small_target_is_all_that_is_stored(collect, copies, tmp_path):
    copies.add("some/where", mot_files())
    one = source(collect, "mot", name="mot", grid=2, window=3)
    collect.collect([one], copies.folder, tmp_path / "out")
    sequence = read_sequence(tmp_path / "out" / "sequences" / "mot_V1_001")
    for path, (x, _, w, _) in zip(sequence.frames, sequence.boxes, strict=True):
        image = cv2.imread(str(path))
        assert image.shape[1] <= 170
        columns = np.flatnonzero((image[:, :, 0] > 200).any(axis=0))
        assert columns[0] == pytest.approx(x, abs=1)
        assert columns[-1] + 1 == pytest.approx(x + w, abs=1)


def test_rows_of_zeros_are_frames_without_the_target(collect, copies, tmp_path):
    files = {f"img/{n:04}.png": picture(box=BOX) for n in range(20)}
    rows = ["0 0 0 0" if n < 5 else "40 20 60 30" for n in range(20)]
    copies.add("some/where", {**files, "gt.txt": "\n".join(rows) + "\n"})
    one = source(collect, "rows", name="hall", sets=[
        {"video": "cam1", "annotations": "gt.txt", "pictures": "img", "part": 100}])  # fmt: skip
    collect.collect([one], copies.folder, tmp_path / "out")
    (folder,) = (tmp_path / "out" / "sequences").iterdir()
    assert folder.name == "hall_cam1_00000"
    assert len(read_sequence(folder)) == 15


def test_regions_that_move_are_followed_until_they_meet_or_leave(collect, copies, tmp_path):
    files = {}
    for n in range(30):
        mask = np.zeros((100, 200), np.uint8)
        mask[20:50, 10 + 4 * n : 50 + 4 * n] = 255
        if n < 20:
            mask[60:90, 150 - 6 * n : max(0, 190 - 6 * n)] = 255
        files[f"in/in{n:03}.jpg"] = picture()
        files[f"gt/gt{n:03}.png"] = mask
    copies.add("some/where", files)
    one = source(collect, "motion", name="road", sets=[
        {"video": "a", "annotations": "gt", "pictures": "in", "shortest": 20}])  # fmt: skip
    collect.collect([one], copies.folder, tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out" / "sequences").iterdir())
    assert names == ["road_a000_0", "road_a001_0"]
    sequence = read_sequence(tmp_path / "out" / "sequences" / "road_a001_0")
    assert sequence.boxes[0].tolist() == [10, 20, 40, 30]
    assert sequence.boxes[-1].tolist() == [126, 20, 40, 30]


def test_one_of_all_altered_copies_of_a_picture_is_taken(collect, copies, tmp_path):
    for hashed in ("0a1b", "2c3d"):
        copies.add(
            "some/where",
            {
                f"a_jpg.rf.{hashed}.png": picture(box=BOX),
                f"a_jpg.rf.{hashed}.txt": "0 0.35 0.35 0.3 0.3\n",
            },
        )
    for originals, expected in ((True, 1), (False, 2)):
        one = source(collect, "yolo", originals=originals,
                     sets=[{"annotations": ".", "pictures": "."}])  # fmt: skip
        output = tmp_path / str(originals)
        collect.collect([one], copies.folder, output)
        assert len(stills(output)) == expected


def test_masks_of_a_video_become_boxes_where_the_target_is(collect, copies, tmp_path):
    files = {}
    for n in range(12):
        mask = np.zeros((100, 200), np.uint8)
        if n != 5:
            mask[20:50, 10 + n : 50 + n] = 255
        files[f"in/{n:03}.png"], files[f"gt/{n:03}.png"] = picture(), mask
    copies.add("some/where", files)
    one = source(collect, "masked", name="court", sets=[
        {"video": "a", "annotations": "gt", "pictures": "in"}])  # fmt: skip
    collect.collect([one], copies.folder, tmp_path / "out")
    sequence = read_sequence(tmp_path / "out" / "sequences" / "court_a_0")
    assert len(sequence) == 11
    assert sequence.boxes[-1].tolist() == [21, 20, 40, 30]


def test_clips_that_somebody_looked_at_and_refused_are_left_out(collect, copies, tmp_path):
    files = {f"img/{n:04}.png": picture(box=BOX) for n in range(40)}
    copies.add("some/where", {**files, "gt.txt": "40 20 60 30\n" * 40})
    one = source(collect, "rows", name="hall", left_out=["hall_cam1_00000"], sets=[
        {"video": "cam1", "annotations": "gt.txt", "pictures": "img", "part": 20}])  # fmt: skip
    collect.collect([one], copies.folder, tmp_path / "out")
    (folder,) = (tmp_path / "out" / "sequences").iterdir()
    assert folder.name == "hall_cam1_00020"


def coco_video(boxes, attributes):
    """Annotations of 20 frames in which each of `boxes` moves right by 4 pixels per frame."""
    return {
        "images": [{"id": n, "file_name": f"film-{n:04}_png.rf.{n:x}.png"} for n in range(20)],
        "categories": [{"id": 1, "name": "brick"}],
        "annotations": [
            {"image_id": n, "category_id": 1, "bbox": [x + 4 * n, y, w, h],
             "attributes": {"track_id": k, "occluded": n == 3, **attributes}}
            for n in range(20) for k, (x, y, w, h) in enumerate(boxes)
        ],
    }  # fmt: skip


def frames_of_film():
    return {f"in/film-{n:04}_png.rf.{n:x}.png": picture() for n in range(20)}


def test_boxes_with_identities_are_tracks_without_hidden_frames(collect, copies, tmp_path):
    listing = coco_video([(10, 20, 40, 30)], {})
    files = {f"in/{n:04}.png": picture() for n in range(20)}
    for number, image in enumerate(listing["images"]):
        image["file_name"] = f"frame_{number:06}.png"
    still = [one | {"bbox": [150, 60, 20, 20], "attributes": {"track_id": 9}}
             for one in listing["annotations"]]  # fmt: skip
    listing["annotations"] += still  # it does not move: it teaches nothing
    copies.add("some/where", {**files, "a.json": json.dumps(listing)})
    one = source(collect, "identified", name="town", sets=[
        {"video": "a", "annotations": "a.json", "pictures": "in"}])  # fmt: skip
    collect.collect([one], copies.folder, tmp_path / "out")
    (folder,) = (tmp_path / "out" / "sequences").iterdir()
    assert len(read_sequence(folder)) == 19
    assert read_sequence(folder).boxes[-1].tolist() == [86, 20, 40, 30]


def test_boxes_without_identities_are_linked_until_two_things_meet(collect, copies, tmp_path):
    for name, boxes, lengths in (
        ("apart", [(10, 10, 40, 30), (10, 60, 40, 30)], [20, 20]),
        ("near", [(10, 10, 40, 30), (20, 12, 40, 30)], []),
    ):
        listing = coco_video(boxes, {})
        copies.add(f"some/{name}", {**frames_of_film(), "a.json": json.dumps(listing)})
        one = collect.Source(f"some/{name}", "linked", "things", "MIT", options={
            "name": name, "boxes": "coco", "sets": [{"annotations": "a.json", "pictures": "in"}],
        })  # fmt: skip
        output = tmp_path / name
        collect.collect([one], copies.folder, output)
        folders = sorted((output / "sequences").iterdir())
        assert [len(read_sequence(folder)) for folder in folders] == lengths
        assert all(read_sequence(folder).boxes[-1][0] == 86 for folder in folders)


class Finder:
    """A tracker that finds the pattern it was given, wherever it is in the picture."""

    def init(self, image, box):
        x, y, self.w, self.h = box
        self.pattern = image[y : y + self.h, x : x + self.w].copy()

    def update(self, image):
        place = cv2.matchTemplate(image, self.pattern, cv2.TM_SQDIFF)
        x, y = cv2.minMaxLoc(place)[2]
        return True, (x, y, self.w, self.h)


class Stayer:
    """A tracker that stays where it began."""

    def init(self, image, box):
        self.box = box

    def update(self, image):
        return True, self.box


class Drifter(Finder):
    """A tracker that goes over to the corner in the eleventh frame, and stays there."""

    def init(self, image, box):
        super().init(image, box)
        self.count = 0
        self.lost = box[0] < 5

    def update(self, image):
        self.count += 1
        if self.lost or self.count > 10:
            return True, (0, 0, self.w, self.h)
        return super().update(image)


def scene(number, seed=0):
    """A textured square that moves over a textured, standing background."""
    rng = np.random.default_rng(seed)
    image = cv2.resize(rng.integers(60, 120, (12, 20, 3), dtype=np.uint8), (320, 192))
    thing = rng.integers(130, 255, (40, 40, 3), dtype=np.uint8)
    x, y = 60 + 5 * number, 70 + number
    image[y : y + 40, x : x + 40] = thing
    return image, (x, y, 40, 40)


def test_what_moves_against_a_standing_background_is_found(collect):
    frames = [scene(n)[0] for n in range(24)]
    ((x, y, w, h),) = collect.labels.moving_regions(frames, 0, 20)
    assert (x, y, w, h) == pytest.approx(scene(0)[1], abs=3)
    assert collect.labels.moving_regions(frames, 0, 60) == []
    # A camera that moves: everything differs from the median.
    street = np.random.default_rng(1).integers(0, 255, (192, 320, 3), dtype=np.uint8)
    shaken = [np.roll(street, 37 * n, axis=1) for n in range(24)]
    assert collect.labels.moving_regions(shaken, 0, 20) == []


def test_a_track_that_comes_back_to_its_start_is_kept(collect):
    frames, boxes = zip(*(scene(n) for n in range(24)), strict=True)
    found = collect.labels.agreed_track(frames, boxes[0], Finder)
    assert list(found) == list(range(24))
    for number, box in found.items():
        assert box == pytest.approx(boxes[number])


def test_a_track_that_drifts_is_kept_as_far_as_it_comes_back(collect):
    frames, boxes = zip(*(scene(n) for n in range(24)), strict=True)
    # A tracker that stays where it began agrees with itself, but has not gone anywhere.
    assert collect.labels.agreed_track(frames, boxes[0], Stayer) == {}
    found = collect.labels.agreed_track(frames, boxes[0], Drifter)
    # Of 24 frames it loses the target in the eleventh; with twelve it does not come back either.
    assert found == {}
    short = collect.labels.agreed_track(frames[:20], boxes[0], Drifter)
    assert list(short) == list(range(10))
    assert short[9] == pytest.approx(boxes[9])


def test_a_track_ends_where_its_target_is_gone(collect):
    frames, boxes = (list(each) for each in zip(*(scene(n) for n in range(24)), strict=True))
    empty = collect.labels.background_of(frames).astype(np.uint8)
    frames[15:] = [empty] * 9
    found = collect.labels.moving_part(dict(enumerate(boxes)), frames)
    assert list(found) == list(range(15))


def test_a_video_without_labels_is_labelled_or_left_out_by_name(
    collect, copies, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(collect.labels, "nanotrack", lambda folder: Finder)
    for name, frames in (
        ("moving", [scene(n)[0] for n in range(24)]),
        ("still", [scene(0)[0]] * 24),
    ):
        path = tmp_path / f"{name}.avi"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (320, 192))
        for frame in frames:
            writer.write(frame)
        writer.release()
    files = {f"{name}.avi": (tmp_path / f"{name}.avi").read_bytes() for name in ("moving", "still")}
    copies.add("some/where", files)
    one = source(collect, "video", name="cam", labeller="x", sets=[{"videos": "*.avi", "every": 1}])
    collect.collect([one], copies.folder, tmp_path / "out")
    assert "still.avi is left out: its labels agree nowhere" in capsys.readouterr().out
    (folder,) = (tmp_path / "out" / "sequences").iterdir()
    assert folder.name == "cam_moving_000"
    sequence = read_sequence(folder)
    assert len(sequence) == 24
    assert sequence.boxes[20] == pytest.approx(scene(20)[1], abs=4)


def test_marked_targets_are_labelled_also_where_the_camera_follows(
    collect, copies, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(collect.labels, "nanotrack", lambda folder: Finder)
    x, y, w, h = scene(2)[1]
    target = [x / 320, y / 192, (x + w) / 320, (y + h) / 192]
    nothing = [0.0, 0.0, 0.1, 0.1]  # of the standing background: it goes nowhere
    files = {f"moving/{n:02d}.png": scene(n)[0] for n in range(24)}
    copies.add("some/where", files | {"short/00.png": scene(0)[0], "a.avi": b""})
    one = source(collect, "marked", name="hand", labeller="x", sets=[
        {"pictures": "moving", "every": 2, "start": 2, "targets": [target, nothing]},
        {"pictures": "moving", "every": 1, "followed": True, "targets": [nothing]},
        {"pictures": "short", "targets": [target]},
        {"video": "a.avi", "targets": [target]}])  # fmt: skip
    collect.collect([one], copies.folder, tmp_path / "out")
    said = capsys.readouterr().out
    assert "moving, target 1 is left out: no agreement" in said
    assert "short is left out: no frames" in said
    assert "a is left out: no frames" in said
    folders = sorted((tmp_path / "out" / "sequences").iterdir())
    assert [folder.name for folder in folders] == ["hand_moving_00000", "hand_moving_00020"]
    still, moving = (read_sequence(folder) for folder in folders)
    assert len(still) == 24
    assert still.boxes[20] == pytest.approx([0, 0, 32, 19], abs=1)
    assert len(moving) == 11
    assert moving.boxes[10] == pytest.approx(scene(22)[1], abs=1)


def test_labelling_needs_a_tracker(collect, copies, tmp_path):
    copies.add("some/where", {"a.txt": ""})
    one = source(collect, "video", sets=[{"videos": "*.avi"}])
    with pytest.raises(collect.CollectError, match="some/where: needs --labeller"):
        collect.collect([one], copies.folder, tmp_path / "out")
    named = source(collect, "video", labeller=str(tmp_path), sets=[{"videos": "*.avi"}])
    with pytest.raises(collect.CollectError, match=r"nanotrack_backbone_sim\.onnx: expected"):
        collect.collect([named], copies.folder, tmp_path / "out")


def test_what_is_missing_or_unknown_is_named(collect, copies, tmp_path, monkeypatch, capsys):
    listing = tmp_path / "sources.yaml"
    monkeypatch.setattr(collect, "__file__", str(tmp_path / "collect.py"))
    for entry, expected in (
        ({"repository": "a/b", "form": "coco", "kind": "x"}, "a/b: missing 'licence'"),
        ({"repository": "a/b", "form": "paper", "kind": "x", "licence": "MIT"},
         "a/b: form must be one of coco, voc, yolo, mot, rows, masked, identified, linked,"),
        ({"repository": "a/b", "form": "coco", "kind": "x", "licence": "MIT"},
         "a/b: expected a copy in"),
    ):  # fmt: skip
        listing.write_text(yaml.safe_dump([entry]))
        assert collect.main([str(tmp_path / "none"), str(tmp_path / "out")]) == 2
        assert expected in capsys.readouterr().err


def test_files_that_the_copy_lacks_are_passed_over(collect, copies, tmp_path):
    """A snapshot lists its largest files without having them."""
    copies.add("some/where", {"c.png": picture(box=BOX), "c.txt": "0 0.35 0.35 0.3 0.3\n",
                              "big.bin": bytes(range(256)) * 40})  # fmt: skip
    work = copies.folder / "some+where" / "repo"
    blob = subprocess.run(["git", "-C", str(work), "rev-parse", "HEAD:big.bin"], check=True,
                          capture_output=True, text=True).stdout.strip()  # fmt: skip
    (work / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    one = source(collect, "yolo", sets=[{"annotations": ".", "pictures": "."}])
    collect.collect([one], copies.folder, tmp_path / "out")
    assert len(stills(tmp_path / "out")) == 1


def test_the_list_is_complete_and_names_no_benchmark_that_judges(collect):
    sources = collect.read_list(ROOT / "training_data" / "sources.yaml")
    assert len(sources) > 15
    assert all(len(one.commit) == 40 and one.licence and one.kind for one in sources)
    assert len({one.name for one in sources}) == len(sources)
