"""Data sets on disk: miniature copies of every published data set, whole and damaged."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from mixformerv2_ros.errors import ParameterError, SourceError
from mixformerv2_ros.lab.datasets.evaluation_sets import (
    EVALUATION_SETS,
    find_sequences,
    load_sequences,
)
from mixformerv2_ros.lab.datasets.sequences import AnnotatedSequence
from mixformerv2_ros.lab.datasets.uav123 import STARTS, SUB_SEQUENCES
from mixformerv2_ros.lab.datasets.vot import parse_region, polygon_box
from mixformerv2_ros.lab.evaluation.results import Result, write_result
from mixformerv2_ros.lab.evaluation.submission import write_submission

WIDTH, HEIGHT = 64, 48


def truth(frames: int, first: int = 0) -> np.ndarray:
    """Boxes that tell which frame they belong to."""
    rows = [(1 + number, 2, 10, 12) for number in range(first, first + frames)]
    return np.array(rows, dtype=float).reshape(-1, 4)


def images(folder: Path, numbers: range, form: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        picture = np.full((HEIGHT, WIDTH, 3), number % 256, np.uint8)
        assert cv2.imwrite(str(folder / form.format(number)), picture)


def lines(rows: np.ndarray, separator: str = ",") -> str:
    return "".join(separator.join(f"{value:g}" for value in row) + "\n" for row in rows)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def load(root: Path, dataset: str) -> dict[str, AnnotatedSequence]:
    sequences, problems = load_sequences(root, dataset)
    assert problems == []
    return {sequence.name: sequence for sequence in sequences}


def numbers(sequence: AnnotatedSequence) -> list[int]:
    return [int(frame.stem) for frame in sequence.frames]


def absent(sequence: AnnotatedSequence) -> list[int]:
    return np.flatnonzero(np.isnan(sequence.boxes).all(axis=1)).tolist()


# Miniatures, one function per data set; what they hold is checked below.


def folder(root: Path) -> None:
    images(root / "walk" / "img", range(1, 5), "{:05d}.jpg")
    write(root / "walk" / "groundtruth_rect.txt", "1,2,10,12\nNaN,NaN,NaN,NaN\n3,2,9,9\n4,2,9,9\n")


def otb(root: Path) -> None:
    images(root / "Basketball" / "img", range(1, 4), "{:04d}.jpg")
    write(root / "Basketball" / "groundtruth_rect.txt", lines(truth(3), "\t"))
    write(root / "anno" / "att" / "Basketball.txt", "1,1,0,1,1,0,0,0,0,1,0\n")
    images(root / "Football1" / "img", range(1, 82), "{:04d}.jpg")
    write(root / "Football1" / "groundtruth_rect.txt", lines(truth(74)))
    images(root / "David" / "img", range(1, 773), "{:04d}.jpg")
    write(root / "David" / "groundtruth_rect.txt", lines(truth(471)))
    images(root / "BlurCar1" / "img", range(247, 250), "{:04d}.jpg")
    write(root / "BlurCar1" / "groundtruth_rect.txt", "1\t2\t10\t12\n2 2 10 12\n3\t2\t10\t12\n")
    images(root / "Jogging" / "img", range(1, 3), "{:04d}.jpg")
    write(root / "Jogging" / "groundtruth_rect.1.txt", lines(truth(2)))
    write(root / "Jogging" / "groundtruth_rect.2.txt", lines(truth(2, 20)))
    images(root / "Human4" / "img", range(1, 3), "{:04d}.jpg")
    write(root / "Human4" / "groundtruth_rect.1.txt", "")
    write(root / "Human4" / "groundtruth_rect.2.txt", lines(truth(2)))


def lasot(root: Path) -> None:
    for name, frames, extra in (("cat-1", 4, 0), ("cat-20", 3, 0), ("monkey-17", 3, 2)):
        folder = root / name.split("-")[0] / name
        images(folder / "img", range(1, frames + extra + 1), "{:08d}.jpg")
        write(folder / "groundtruth.txt", lines(truth(frames)))
        write(folder / "full_occlusion.txt", ",".join("0" * frames))
        write(folder / "out_of_view.txt", ",".join("0" * (frames - 1) + "1") + "\n")
        write(folder / "nlp.txt", "a cat")
    write(root / "testing_set.txt", "cat-1\nmonkey-17\n")
    write(root / "annos" / "att" / "cat-1.txt", "0,1,0,0,0,1,0,0,1,0,0,0,1,0")


def got10k(root: Path) -> None:
    for name in ("GOT-10k_Val_000001", "GOT-10k_Val_000002"):
        images(root / name, range(1, 5), "{:08d}.jpg")
        write(root / name / "groundtruth.txt", lines(truth(4)))
        write(root / name / "absence.label", "0\n0\n1\n0\n")
        write(root / name / "cover.label", "8\n3\n0\n0\n")
        meta = "[METAINFO]\nurl: https://x\nobject_class: cat\nmotion_class: walking\n"
        meta += "major_class: animal\nresolution: (64, 48)\n"
        write(root / name / "meta_info.ini", meta)
    write(root / "list.txt", "GOT-10k_Val_000002\nGOT-10k_Val_000001\n")


def trackingnet(root: Path) -> None:
    for name, count in (("abc_0", 12), ("xyz-9_1", 3)):
        images(root / "TEST" / "frames" / name, range(count), "{}.jpg")
        write(root / "TEST" / "anno" / f"{name}.txt", "1,2,10,12\n")


def uav123(root: Path) -> None:
    images(root / "data_seq" / "UAV123" / "bike1", range(1, 4), "{:06d}.jpg")
    write(root / "anno" / "UAV123" / "bike1.txt", "1,2,10,12\nNaN,NaN,NaN,NaN\n3,2,9,9\n")
    write(root / "anno" / "UAV123" / "att" / "bike1.txt", "1,1,0,0,1,0,0,0,0,0,0,1\n")
    images(root / "data_seq" / "UAV123" / "bird1", range(770, 785), "{:06d}.jpg")
    write(root / "anno" / "UAV123" / "bird1_2.txt", lines(truth(5)))


def uav20l(root: Path) -> None:
    images(root / "data_seq" / "UAV123" / "bird1", range(1, 5), "{:06d}.jpg")
    write(root / "anno" / "UAV20L" / "bird1.txt", lines(truth(4)))


def tnl2k(root: Path) -> None:
    images(root / "advSamp_1" / "imgs", range(4), "{:05d}.png")
    write(root / "advSamp_1" / "groundtruth.txt", "1,2,10,12\n0,0,0,0\n3,2,9,9\n3,2,9,9\n")
    write(root / "advSamp_1" / "language.txt", "the man")


def nfs(root: Path, rate: int = 30, count: int = 3, annotated: int = 17) -> None:
    images(root / "ball" / str(rate) / "ball", range(1, count + 1), "{:05d}.jpg")
    rows = [f'0 {1 + i} 2 {11 + i} 14 {i} 0 0 {int(i > 0)} "a ball"\n' for i in range(annotated)]
    write(root / "ball" / str(rate) / "ball.txt", "".join(rows))


def nfs240(root: Path) -> None:
    nfs(root, 240, 17)


def vot(root: Path) -> None:
    images(root / "bag" / "color", range(1, 7), "{:08d}.jpg")
    regions = ["1,2,10,12", "40,50,50,60,40,70,30,60", "nan,nan,nan,nan", "0"]
    regions += ["m30,20,4,3,5,2,2,2,1"]  # rows ..../.XX./.XX. of a window 4 wide
    write(root / "bag" / "groundtruth.txt", "\n".join(regions) + "\n")
    write(root / "bag" / "sequence", "name=bag\nfps=30\nchannels.color=color/%08d.jpg\n")
    write(root / "bag" / "camera_motion.tag", "0\n1\n")
    write(root / "bag" / "occlusion.label", "0\n0\n0\n")
    images(root / "two", range(1, 3), "{:08d}.jpg")
    write(root / "two" / "groundtruth_a.txt", lines(truth(2)))
    write(root / "two" / "groundtruth_b.txt", lines(truth(2, 20)))
    write(root / "list.txt", "two\nbag\n")


MINIATURES: dict[str, Callable[[Path], None]] = {
    "folder": folder,
    "otb": otb,
    "lasot": lasot,
    "got10k": got10k,
    "trackingnet": trackingnet,
    "uav123": uav123,
    "uav20l": uav20l,
    "tnl2k": tnl2k,
    "nfs": nfs,
    "nfs240": nfs240,
    "vot": vot,
}


def test_every_data_set_has_a_miniature_that_can_be_read(tmp_path: Path) -> None:
    assert set(MINIATURES) == set(EVALUATION_SETS)
    for name, make in MINIATURES.items():
        root = tmp_path / name
        make(root)
        for sequence in load(root, name).values():
            assert sequence.boxes.shape == (len(sequence), 4)
            assert sequence.initial_box.area > 0
            assert all(frame.is_file() for frame in sequence.frames)


def test_own_sequences_may_be_beside_each_other_or_in_sequences(tmp_path: Path) -> None:
    folder(tmp_path)
    folder(tmp_path / "data" / "sequences")
    assert absent(load(tmp_path, "folder")["walk"]) == [1]
    assert absent(load(tmp_path / "data", "folder")["walk"]) == [1]
    with pytest.raises(ParameterError, match="dataset plain has been renamed to folder"):
        load(tmp_path, "plain")


def test_otb_has_its_special_cases(tmp_path: Path) -> None:
    otb(tmp_path)
    found = load(tmp_path, "otb")
    assert set(found) == {
        *("Basketball", "BlurCar1", "David", "Football1", "Human4", "Jogging-1", "Jogging-2"),
    }
    assert numbers(found["David"]) == list(range(300, 771))
    assert numbers(found["Football1"]) == list(range(1, 75))
    assert numbers(found["BlurCar1"]) == [247, 248, 249]
    np.testing.assert_array_equal(found["BlurCar1"].boxes, truth(3))
    np.testing.assert_array_equal(found["Jogging-2"].boxes, truth(2, 20))
    assert found["Basketball"].attributes == ("IV", "OPR", "OCC", "DEF", "BC")
    assert found["David"].attributes == ()


def test_otb_folders_that_were_cut_already_stay_as_they_are(tmp_path: Path) -> None:
    images(tmp_path / "David" / "img", range(1, 6), "{:04d}.jpg")
    write(tmp_path / "David" / "groundtruth_rect.txt", lines(truth(5)))
    assert numbers(load(tmp_path, "otb")["David"]) == [1, 2, 3, 4, 5]


def test_lasot(tmp_path: Path) -> None:
    lasot(tmp_path)
    found = load(tmp_path, "lasot")
    assert list(found) == ["cat-1", "monkey-17"]  # the testing set
    assert absent(found["cat-1"]) == [3]
    assert len(found["monkey-17"]) == 3
    assert found["cat-1"].attributes == ("POC", "ROT", "SV", "LR")
    (other,), _ = load_sequences(tmp_path, "lasot", ["cat-20"])
    assert other.name == "cat-20"


def test_got10k(tmp_path: Path) -> None:
    got10k(tmp_path)
    found = load(tmp_path, "got10k")
    assert list(found) == ["GOT-10k_Val_000002", "GOT-10k_Val_000001"]  # the order of the list
    one = found["GOT-10k_Val_000001"]
    assert absent(one) == [2, 3]
    assert one.size == (64, 48)
    assert one.attributes == ("major: animal", "motion: walking")
    assert not one.withheld


def test_got10k_test_part_has_only_first_boxes(tmp_path: Path) -> None:
    images(tmp_path / "GOT-10k_Test_000001", range(1, 4), "{:08d}.jpg")
    write(tmp_path / "GOT-10k_Test_000001" / "groundtruth.txt", "1,2,10,12\n")
    (sequence,) = load(tmp_path, "got10k").values()
    assert sequence.withheld
    assert absent(sequence) == [1, 2]


def test_trackingnet(tmp_path: Path) -> None:
    trackingnet(tmp_path)
    for root in (tmp_path, tmp_path / "TEST"):
        found = load(root, "trackingnet")
        assert numbers(found["abc_0"]) == list(range(12))
        assert all(each.withheld for each in found.values())


def test_uav123_sub_sequences_start_where_they_start(tmp_path: Path) -> None:
    uav123(tmp_path)
    found = load(tmp_path, "uav123")
    assert numbers(found["bird1_2"]) == [775, 776, 777, 778, 779]
    assert numbers(found["bike1"]) == [1, 2, 3]
    assert absent(found["bike1"]) == [1]
    assert found["bike1"].attributes == ("SV", "ARC", "FOC", "SOB")
    uav20l(tmp_path / "20l")
    assert numbers(load(tmp_path / "20l", "uav20l")["bird1"]) == [1, 2, 3, 4]


def test_uav123_table_is_increasing_and_starts_at_one() -> None:
    assert sum(map(len, STARTS.values())) == 51
    for starts in STARTS.values():
        assert starts[0] == 1
        assert list(starts) == sorted(set(starts))


def test_tnl2k(tmp_path: Path) -> None:
    tnl2k(tmp_path)
    assert absent(load(tmp_path, "tnl2k")["advSamp_1"]) == [1]


def test_nfs(tmp_path: Path) -> None:
    nfs(tmp_path)
    ball = load(tmp_path, "nfs")["ball"]
    np.testing.assert_array_equal(ball.boxes, [(1, 2, 10, 12), (9, 2, 10, 12), (17, 2, 10, 12)])
    nfs(tmp_path / "short", 30, 4)  # one image more than boxes
    assert len(load(tmp_path / "short", "nfs")["ball"]) == 3
    nfs(tmp_path / "long", 240, 16)  # one image less than lines
    assert len(load(tmp_path / "long", "nfs240")["ball"]) == 16


def test_vot_regions(tmp_path: Path) -> None:
    vot(tmp_path)
    found = load(tmp_path, "vot")
    assert list(found) == ["two.a", "two.b", "bag"]
    bag = found["bag"]
    assert bag.boxes[0].tolist() == [1, 2, 10, 12]
    assert bag.boxes[1].tolist() == [30, 50, 20, 20]
    assert bag.boxes[4].tolist() == [31, 21, 2, 2]
    assert absent(bag) == [2, 3, 5]  # none, none, and no line at all
    assert bag.attributes == ("camera_motion",)
    workspace = tmp_path / "workspace"
    vot(workspace / "sequences")
    assert list(load(workspace, "vot")) == ["two.a", "two.b", "bag"]


def test_vot_masks_against_drawing_them() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        width, height = rng.integers(1, 9, 2)
        mask = rng.random((height, width)) < rng.choice([0.05, 0.5, 0.95])
        changes = np.flatnonzero(np.diff(mask.ravel().astype(int))) + 1
        runs = np.diff([0, *changes, mask.size]).tolist()
        if mask.ravel()[0]:
            runs.insert(0, 0)
        text = "m" + ",".join(map(str, [7, 5, width, height, *runs]))
        box = parse_region(Path("x"), 1, text)
        rows, columns = np.nonzero(mask)
        if not rows.size:
            assert all(map(math.isnan, box))
            continue
        left, top = columns.min(), rows.min()
        size = (columns.max() - left + 1, rows.max() - top + 1)
        assert box == (7 + left, 5 + top, *size)


def test_polygons_lie_in_their_box_and_touch_its_sides() -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):
        points = rng.uniform(-50, 50, (int(rng.integers(3, 9)), 2))
        x, y, w, h = polygon_box(points.ravel())
        assert points.min(axis=0) == pytest.approx([x, y])
        assert points.max(axis=0) == pytest.approx([x + w, y + h])


# Spoilt copies: dataset, what goes wrong, what must be named.
SPOILT: list[tuple[str, Callable[[Path], object], str]] = [
    ("lasot", lambda r: (r / "cat/cat-1/out_of_view.txt").unlink(), "cat-1/out_of_view.txt: exp"),
    (
        "lasot",
        lambda r: write(r / "cat/cat-1/full_occlusion.txt", "0,0,2,0"),
        "full_occlusion.txt, value 3: expected 4 values 0 or 1, got '2'",
    ),
    (
        "lasot",
        lambda r: write(r / "annos/att/cat-1.txt", "1,0"),
        "att/cat-1.txt: expected 14 values 0 or 1, got 2 values",
    ),
    ("lasot", lambda r: write(r / "testing_set.txt", "cat-1\nmonkey-17\nox-3\n"), "CLASS/ox-3/gro"),
    ("got10k", lambda r: write(r / "list.txt", "GOT-10k_Val_000001\nx\n"), "x/groundtruth.txt"),
    (
        "got10k",
        lambda r: write(r / "GOT-10k_Val_000002/cover.label", "8\n9\n0\n0\n"),
        "cover.label, value 2: expected 4 values 0 to 8, got '9'",
    ),
    (
        "got10k",
        lambda r: write(r / "GOT-10k_Val_000002/meta_info.ini", "resolution: big\n"),
        "meta_info.ini: expected resolution: (WIDTH, HEIGHT), got 'big'",
    ),
    ("trackingnet", lambda r: (r / "TEST/anno/abc_0.txt").unlink(), "anno/abc_0.txt: expected a t"),
    (
        "trackingnet",
        lambda r: [f.unlink() for f in (r / "TEST/frames/abc_0").iterdir()],
        "frames/abc_0: expected images",
    ),
    (
        "uav123",
        lambda r: (r / "data_seq/UAV123/bird1/000777.jpg").unlink(),
        "bird1/000777.jpg: expected an image, found none",
    ),
    (
        "otb",
        lambda r: (r / "David/img/0400.jpg").unlink(),
        "David/groundtruth_rect.txt: expected one line per frame, got 471 lines for 470 images",
    ),
    ("otb", lambda r: (r / "Human4/groundtruth_rect.2.txt").unlink(), "Human4/groundtruth_rect.tx"),
    (
        "otb",
        lambda r: write(r / "Jogging/groundtruth_rect.2.txt", "1,2,10,12\n1,2,x,12\n"),
        "groundtruth_rect.2.txt, line 2: expected four numbers",
    ),
    (
        "vot",
        lambda r: write(r / "bag/groundtruth.txt", "1,2,10,12\n1,2,3\n"),
        "bag/groundtruth.txt, line 2: expected x,y,w,h, a polygon",
    ),
    (
        "vot",
        lambda r: write(r / "bag/groundtruth.txt", "1,2,10,12\nm0,0,2,2,0,5\n"),
        "groundtruth.txt, line 2: expected",
    ),
    ("vot", lambda r: write(r / "bag/groundtruth.txt", "0\n1,2,3,4\n"), "line 1: expected the box"),
    ("vot", lambda r: write(r / "list.txt", "two\nbag\nhen\n"), "sequence hen/groundtruth.txt"),
]


@pytest.mark.parametrize(("dataset", "spoil", "message"), SPOILT)
def test_what_is_missing_or_wrong_is_named_and_the_rest_read(
    tmp_path: Path, dataset: str, spoil: Callable[[Path], object], message: str
) -> None:
    MINIATURES[dataset](tmp_path)
    spoil(tmp_path)
    sequences, problems = load_sequences(tmp_path, dataset)
    assert sequences
    assert len(problems) == 1
    assert message in problems[0]
    assert "\n" not in problems[0]


@pytest.mark.parametrize(
    ("dataset", "spoil", "message"),
    [
        ("nfs", lambda r: (r / "ball/30/ball.txt").unlink(), "30/ball.txt: expected a text file"),
        ("nfs", lambda r: write(r / "ball/30/ball.txt", "0 1 2 x 4\n"), "ball.txt, line 1: expec"),
        ("tnl2k", lambda r: (r / "advSamp_1/groundtruth.txt").unlink(), "advSamp_1/groundtruth.t"),
        ("uav20l", lambda r: (r / "anno/UAV20L/bird1.txt").unlink(), "(anno/UAV20L/NAME.txt)"),
    ],
)
def test_nothing_readable_is_an_error_that_says_why(
    tmp_path: Path, dataset: str, spoil: Callable[[Path], object], message: str
) -> None:
    MINIATURES[dataset](tmp_path)
    spoil(tmp_path)
    with pytest.raises(SourceError) as caught:
        load_sequences(tmp_path, dataset)
    assert message in str(caught.value)


def test_names_come_in_natural_order(tmp_path: Path) -> None:
    for name in ("cat-10", "cat-2", "cat-1"):
        write(tmp_path / "cat" / name / "groundtruth.txt", "1,2,3,4\n")
    assert list(find_sequences(tmp_path, "lasot")) == ["cat-1", "cat-2", "cat-10"]


# Submissions


def packed(root: Path, dataset: str) -> dict[str, str]:
    sequences, _ = load_sequences(root, dataset)
    out = root / "out"
    out.mkdir()
    for sequence in sequences:
        count = len(sequence)
        boxes = np.tile([1.23456, 2, 10, 12], (count, 1)) + np.arange(count)[:, None]
        seconds, ones = np.full(count, 0.0125), np.ones(count)
        write_result(out, sequence.name, Result(boxes, seconds, ones, ones == 0))
    path = root / "submission.zip"
    write_submission(path, dataset, "ours", out, sequences)
    first = path.read_bytes()
    write_submission(path, dataset, "ours", out, sequences)
    assert path.read_bytes() == first
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


def test_got10k_submission(tmp_path: Path) -> None:
    got10k(tmp_path)
    files = packed(tmp_path, "got10k")
    folder = "GOT-10k_Val_000001"
    assert len(files) == 4
    boxes = files[f"{folder}/{folder}_001.txt"].splitlines()
    assert boxes[:2] == ["1.235,2.000,10.000,12.000", "2.235,3.000,11.000,13.000"]
    assert len(boxes) == 4
    assert files[f"{folder}/{folder}_time.txt"] == "0.01250000\n" * 4


def test_trackingnet_submission(tmp_path: Path) -> None:
    trackingnet(tmp_path)
    files = packed(tmp_path, "trackingnet")
    assert set(files) == {"abc_0.txt", "xyz-9_1.txt"}
    assert files["abc_0.txt"].splitlines()[0] == "1.23,2.00,10.00,12.00"
    assert len(files["abc_0.txt"].splitlines()) == 12


def test_lasot_submission(tmp_path: Path) -> None:
    lasot(tmp_path)
    files = packed(tmp_path, "lasot")
    assert set(files) == {f"ours_tracking_result/{name}.txt" for name in ("cat-1", "monkey-17")}
    assert len(files["ours_tracking_result/cat-1.txt"].splitlines()) == 4


def test_submissions_must_be_complete(tmp_path: Path) -> None:
    trackingnet(tmp_path)
    sequences, _ = load_sequences(tmp_path, "trackingnet")
    path = tmp_path / "submission.zip"
    with pytest.raises(SourceError, match=r"abc_0.txt: expected a text file, found none"):
        write_submission(path, "trackingnet", "ours", tmp_path / "out", sequences)
    assert [each.name for each in tmp_path.iterdir()] == ["TEST"]
    with pytest.raises(ParameterError, match=r"--submission requires --dataset .*got uav123"):
        write_submission(path, "uav123", "ours", tmp_path / "out", sequences)
    with pytest.raises(ParameterError, match=r"FILE.zip in an existing folder"):
        write_submission(tmp_path / "x.tar", "lasot", "ours", tmp_path / "out", sequences)


# The same folders through the readers of the got10k library


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("MPLBACKEND", "Agg")
    return pytest.importorskip("got10k.datasets", reason="needs the got10k package")


def compare(
    theirs: Any, ours: dict[str, AnnotatedSequence], rename: Callable[[str], str] = str
) -> None:
    assert len(theirs) == len(ours)
    for index, name in enumerate(theirs.seq_names):
        files, boxes = theirs[index][:2]
        sequence = ours[rename(name)]
        assert [str(frame) for frame in sequence.frames] == [str(Path(file)) for file in files]
        known = ~np.isnan(sequence.boxes).any(axis=1)
        np.testing.assert_allclose(sequence.boxes[known], np.reshape(boxes, (-1, 4))[known])


def test_otb_as_the_library_reads_it(tmp_path: Path, library: Any) -> None:
    otb(tmp_path)
    theirs = library.OTB(str(tmp_path), 2015, download=False)
    found = load(tmp_path, "otb")
    compare(theirs, found, lambda name: name.replace(".", "-"))


def test_nfs_as_the_library_reads_it(tmp_path: Path, library: Any) -> None:
    nfs(tmp_path, annotated=24)
    compare(library.NfS(str(tmp_path), fps=30), load(tmp_path, "nfs"))


def test_got10k_as_the_library_reads_it(tmp_path: Path, library: Any) -> None:
    got10k(tmp_path / "val")
    compare(library.GOT10k(str(tmp_path), "val"), load(tmp_path / "val", "got10k"))


def test_uav123_parts_are_those_of_the_library(library: Any) -> None:
    path = Path(library.__file__).parent / "uav123.json"
    table = json.loads(path.read_text())["UAV123"]
    assert len(table) == 123
    for name, entry in table.items():
        part = SUB_SEQUENCES.get(name, (name, 1))
        assert part == (entry["folder_name"], entry["start_frame"])
