"""Evaluation: readers, trackers, one-pass runs, result files, and the command."""

from __future__ import annotations

import json
import math
import shutil
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from recordings import published_settings

from mixformerv2_ros.cli.arguments import CommandParser
from mixformerv2_ros.errors import (
    EngineError,
    ImageError,
    MixFormerError,
    ParameterError,
    SourceError,
)
from mixformerv2_ros.lab.cli import evaluate
from mixformerv2_ros.lab.datasets.evaluation_sets import load_sequences
from mixformerv2_ros.lab.datasets.folder import find_folder
from mixformerv2_ros.lab.datasets.sequences import (
    AnnotatedSequence,
    read_boxes,
    read_names,
)
from mixformerv2_ros.lab.evaluation import run, trackers
from mixformerv2_ros.lab.evaluation.absences import absence_scores, with_absence
from mixformerv2_ros.lab.evaluation.results import (
    Result,
    claim_folder,
    read_result,
    write_result,
)
from mixformerv2_ros.lab.evaluation.summary import (
    Summary,
    absence_table,
    overall_table,
    summarise,
)
from mixformerv2_ros.lab.evaluation.trackers import Estimate, TrackerSpec, parse_tracker
from mixformerv2_ros.machine import environment
from mixformerv2_ros.model.architecture import expected_shapes
from mixformerv2_ros.model.bundle import open_bundle, write_bundle
from mixformerv2_ros.model.engine import Prediction
from mixformerv2_ros.model.spec import ModelSpec
from mixformerv2_ros.tracking.boxes import Box, iou

WIDTH, HEIGHT, SIDE = 96, 72, 16


def scene(index: int) -> tuple[np.ndarray, Box]:
    """A textured square that moves over a smooth background."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(40, 120, WIDTH).astype(np.uint8)
    image = np.repeat(np.tile(ramp, (HEIGHT, 1))[..., None], 3, axis=2)
    x, y = 20 + 2 * index, 24 + index
    image[y : y + SIDE, x : x + SIDE] = rng.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
    return image, Box(x, y, SIDE, SIDE)


def write_images(folder: Path, frames: int, pattern: str = "{:05d}.jpg") -> list[Box]:
    folder.mkdir(parents=True, exist_ok=True)
    boxes = []
    for index in range(frames):
        image, box = scene(index)
        assert cv2.imwrite(str(folder / pattern.format(index + 1)), image)
        boxes.append(box)
    return boxes


def box_lines(boxes: list[Box], separator: str = ",") -> str:
    return "".join(separator.join(f"{value:g}" for value in box) + "\n" for box in boxes)


def write_plain(root: Path, name: str, frames: int = 6) -> Path:
    folder = root / name
    boxes = write_images(folder / "img", frames)
    (folder / "groundtruth_rect.txt").write_text(box_lines(boxes))
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three sequences of 6 frames."""
    folder = tmp_path / "sequences"
    for name in ("one", "two", "ten"):
        write_plain(folder, name)
    return folder


@pytest.fixture
def kcf() -> TrackerSpec:
    """OpenCV's fastest tracker, which comes with opencv-contrib only."""
    if not hasattr(cv2, "TrackerKCF_create"):
        pytest.skip("needs TrackerKCF, which this OpenCV build lacks")
    return TrackerSpec("KCF")


class Script:
    """A tracker that says what it was told to say, and counts its uses."""

    started = 0

    def __init__(self, say: Callable[[int, Box], Estimate]) -> None:
        self._say = say
        self._index = 0

    def start(self, image: np.ndarray, box: Box) -> None:
        assert image.shape == (HEIGHT, WIDTH, 3)
        Script.started += 1

    def update(self, image: np.ndarray) -> Estimate:
        self._index += 1
        return self._say(self._index, scene(self._index)[1])


def exact(index: int, box: Box) -> Estimate:
    return Estimate(box, 0.9, False)


def half(index: int, box: Box) -> Estimate:
    """IoU 0.5 on every frame; surer of the earlier ones."""
    return Estimate(Box(box.x, box.y, box.w / 2, box.h), 1 / index, False)


# Readers


def test_a_sequence_in_natural_order(tmp_path: Path) -> None:
    boxes = write_images(tmp_path / "walk" / "img", 12, "frame{}.jpg")
    (tmp_path / "walk" / "img" / "notes.txt").write_text("not an image")
    (tmp_path / "walk" / "groundtruth_rect.txt").write_text(box_lines(boxes))
    sequence = find_folder(tmp_path)["walk"]()
    assert sequence.name == "walk"
    assert len(sequence) == 12
    assert [path.stem for path in sequence.frames] == [f"frame{i}" for i in range(1, 13)]
    np.testing.assert_array_equal(sequence.boxes, np.array(boxes))
    assert sequence.initial_box == boxes[0]


@pytest.mark.parametrize("separator", [",", "\t", " ", ", ", "  ", ";"])
def test_boxes_with_any_separator(tmp_path: Path, separator: str) -> None:
    path = tmp_path / "boxes.txt"
    lines = [separator.join(row) for row in (["1", "2.5", "3", "-4"], ["NaN"] * 4, ["5"] * 4)]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join([*lines, "", ""]).encode())
    expected = [[1, 2.5, 3, -4], [math.nan] * 4, [5] * 4]
    np.testing.assert_array_equal(read_boxes(path), expected)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1,2,3", "expected four numbers x,y,w,h, got '1,2,3'"),
        ("1,2,3,4,5", "expected four numbers"),
        ("1,,2,3,4", "expected four numbers"),
        ("1,2,three,4", "expected four numbers"),
        ("", "expected four numbers"),
        ("1,2,NaN,4", "expected four finite numbers, or four NaN"),
        ("1,2,inf,4", "expected four finite numbers"),
    ],
)
def test_malformed_boxes_name_file_and_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "boxes.txt"
    path.write_text(f"1,2,3,4\n{line}\n5,6,7,8\n")
    with pytest.raises(SourceError) as caught:
        read_boxes(path)
    assert f"{path}, line 2: {message}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_results_may_not_hold_nan(tmp_path: Path) -> None:
    path = tmp_path / "boxes.txt"
    path.write_text("1,2,3,4\nNaN,NaN,NaN,NaN\n")
    with pytest.raises(SourceError, match="line 2: expected four finite numbers, got"):
        read_boxes(path, allow_absent=False)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "groundtruth_rect.txt").unlink(), "groundtruth_rect.txt: expected a text"),
        (lambda f: (f / "img" / "00003.jpg").unlink(), "one line per frame, got 6 lines for 5"),
        (lambda f: (f / "img").rename(f / "images"), "img: expected a folder of images"),
        (lambda f: [p.unlink() for p in (f / "img").iterdir()], "expected images"),
        (
            lambda f: (f / "groundtruth_rect.txt").write_text("NaN,NaN,NaN,NaN\n" * 6),
            "groundtruth_rect.txt, line 1: expected the box of a visible target",
        ),
        (
            lambda f: (f / "groundtruth_rect.txt").write_text("1,1,0,5\n" * 6),
            "line 1: expected the box of a visible target to start from, got 1,1,0,5",
        ),
        (lambda f: (f / "groundtruth_rect.txt").write_bytes(b"\xff\xfe\x00\x81" * 9), "cannot"),
    ],
)
def test_a_spoilt_sequence_is_named_and_the_rest_read(
    root: Path, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(root / "one")
    sequences, problems = load_sequences(root, names=["ten", "one", "two"])
    assert [sequence.name for sequence in sequences] == ["ten", "two"]
    assert len(problems) == 1
    assert message in problems[0]
    assert str(root / "one") in problems[0]


def test_names_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "held_out.txt"
    path.write_text("# held out\nBolt\n\n  Deer  # fast\n")
    assert read_names(path) == ["Bolt", "Deer"]
    path.write_text("# nothing\n")
    with pytest.raises(SourceError, match="found none"):
        read_names(path)


def test_roots_that_hold_nothing(tmp_path: Path, root: Path) -> None:
    with pytest.raises(SourceError, match="expected a folder of sequences"):
        load_sequences(tmp_path / "absent")
    with pytest.raises(SourceError, match=r"first problem: .*three/"):
        load_sequences(root, names=["three"])
    with pytest.raises(ParameterError, match="dataset must be one of folder, otb, lasot"):
        load_sequences(root, "mot")


# Running


def test_one_pass_over_a_sequence(root: Path) -> None:
    sequence = find_folder(root)["one"]()
    result = run.run_sequence(Script(half), sequence)
    assert result.boxes.shape == (6, 4)
    np.testing.assert_array_equal(result.boxes[0], sequence.boxes[0])
    np.testing.assert_array_equal(result.boxes[1:, 2], np.full(5, SIDE / 2))
    assert result.confidences.tolist() == [1, 1, 1 / 2, 1 / 3, 1 / 4, 1 / 5]
    assert (result.seconds >= 0).all()
    assert not result.lost.any()


def summary_of(make: Callable[[], Any], sequences: list[AnnotatedSequence]) -> Summary:
    return summarise([(each, run.run_sequence(make(), each)) for each in sequences])


def test_a_summary_of_all_sequences(root: Path) -> None:
    sequences, _ = load_sequences(root)
    summary = summary_of(lambda: Script(half), sequences)
    # First frame above 20 thresholds, the five others, of IoU 0.5, above 10.
    assert summary.overall.success_auc == pytest.approx((20 + 5 * 10) / 6 / 21)
    assert summary.overall.sequences == 3
    assert summary.overall.frames == 18
    assert summary.overall.ao == pytest.approx((1 + 5 * 0.5) / 6)
    assert summary.long_term is not None
    assert summary.long_term.recall == pytest.approx(0.5)
    assert [sequence.name for sequence in sequences] == list(summary.sequences)
    json.dumps(summary.as_dict())


def test_an_absence_is_inserted_and_the_target_returns_from_the_end(tmp_path: Path) -> None:
    write_plain(tmp_path, "long", 8)
    write_plain(tmp_path, "short", 2)
    small = np.zeros((10, 12, 3), np.uint8)
    for path in (tmp_path / "short" / "img").iterdir():
        assert cv2.imwrite(str(path), small)
    (long, short), _ = load_sequences(tmp_path)
    both = with_absence(long, short, 5)
    names = [path.parent.parent.name + path.stem[-1] for path in both.frames]
    assert " ".join(names) == (
        "long1 long2 long3 long4 short1 short2 short1 short2 short1 long8 long7 long6 long5"
    )
    assert np.isnan(both.boxes[4:9]).all()
    np.testing.assert_array_equal(both.boxes[9:], long.boxes[:3:-1])
    truth = [*long.boxes[:4], *[long.boxes[3]] * 6, *long.boxes[6:3:-1]]
    seen: list[tuple[int, ...]] = []

    class Watching(Script):
        def update(self, image: np.ndarray) -> Estimate:
            seen.append(image.shape)
            return super().update(image)

    say = lambda index, _: Estimate(Box(*truth[index]), 0.9, False)  # noqa: E731
    summary = summarise([(both, run.run_sequence(Watching(say), both))])
    assert set(seen) == {(HEIGHT, WIDTH, 3)}
    assert summary.absences is not None
    assert summary.absences.returns == 1
    assert summary.absences.found == 1
    assert summary.absences.frames == 1  # its first frame still had the box of before
    assert summary.absences.long_term is not None
    assert "1.000     1.0" in absence_table({"x": summary})


def test_returns_are_counted_until_the_next_absence() -> None:
    nan = math.nan
    overlap = [
        np.array([1.0, nan, nan, 0.2, 0.5, 0.6, nan, 0.9, nan]),  # after 2 frames, after 0
        np.array([1.0, nan, 0.4, nan, 0.9]),  # never, after 0
        np.array([1.0, 0.9]),  # no absence
    ]
    confidence = [np.ones(len(each)) for each in overlap]
    scores = absence_scores(overlap, confidence)
    assert scores is not None
    assert (scores.sequences, scores.returns, scores.found) == (2, 4, 0.75)
    assert scores.frames == 0
    # All boxes are reported: mean overlap over all frames, and over those with the target.
    assert scores.long_term is not None
    assert scores.long_term.precision == pytest.approx((2.2 / 8 + 1.3 / 4) / 2)
    assert scores.long_term.recall == pytest.approx((2.2 / 4 + 1.3 / 2) / 2)
    assert absence_scores(overlap[2:], confidence[2:]) is None
    silent = absence_scores(overlap, confidence, with_long_term=False)
    assert silent is not None
    assert silent.long_term is None


def test_frames_are_read_ahead_in_order_and_no_further_than_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: list[int] = []

    def fake_read(path: Path) -> np.ndarray:
        read.append(int(path.name))
        return np.full((1, 1, 3), int(path.name), dtype=np.uint8)

    monkeypatch.setattr(run, "read_bgr", fake_read)
    paths = [Path(str(index)) for index in range(50)]
    assert [int(image[0, 0, 0]) for image in run.read_images(paths)] == list(range(50))
    read.clear()
    images = run.read_images(paths, ahead=4)
    next(images)
    images.close()
    assert sorted(read) == list(range(len(read)))
    assert len(read) <= 5


def test_an_unreadable_frame_is_skipped_and_an_unreadable_first_one_named(root: Path) -> None:
    folder = root / "one" / "img"
    (folder / "00004.jpg").write_bytes(b"no image")
    sequence = find_folder(root)["one"]()
    result = run.run_sequence(Script(exact), sequence)
    assert list(np.flatnonzero(result.skipped)) == [3]
    np.testing.assert_array_equal(result.boxes[3], result.boxes[2])
    assert (result.confidences[3], result.lost[3]) == (0.0, True)
    (folder / "00001.jpg").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"image .*00001\.jpg cannot be decoded"):
        run.run_sequence(Script(exact), sequence)


def test_a_tracker_that_gives_nan_is_named_with_the_frame(root: Path) -> None:
    def broken(index: int, box: Box) -> Estimate:
        return Estimate(Box(math.nan, 0, 1, 1) if index == 2 else box, 0.5, False)

    with pytest.raises(EngineError, match=r"00003.jpg: expected a finite box.*got nan,0,1,1"):
        run.run_sequence(Script(broken), find_folder(root)["one"]())


def test_summary_of_trackers_without_confidence(root: Path) -> None:
    def silent(index: int, box: Box) -> Estimate:
        return Estimate(box, math.nan, index == 5)

    sequences, _ = load_sequences(root)
    summary = summary_of(lambda: Script(silent), sequences)
    assert summary.long_term is None
    assert summary.confidence.lost_frames == 3
    assert summary.confidence.lost_precision == 0
    assert " - " in overall_table({"x": summarise([])}).splitlines()[-1] + " "


# Trackers


@pytest.mark.parametrize("least", [1, 5])
def test_whole_pixel_boxes_lie_in_the_image(least: int) -> None:
    rng = np.random.default_rng(0)
    for _ in range(500):
        x, y = rng.uniform(-40, WIDTH - 1), rng.uniform(-40, HEIGHT - 1)
        box = Box(x, y, rng.uniform(0.2, 60) + max(0, -x), rng.uniform(0.2, 60) + max(0, -y))
        whole = trackers.whole_pixel_box(box, WIDTH, HEIGHT, least)
        assert all(isinstance(value, int) for value in whole)
        left, top, width, height = whole
        assert min(left, top) >= 0
        assert min(width, height) >= least
        assert left + width <= WIDTH
        assert top + height <= HEIGHT


@pytest.mark.parametrize(
    ("box", "least", "expected"),
    [
        ((10, 20, 30, 40), 1, (10, 20, 30, 40)),
        ((10.4, 20.6, 29.6, 40.4), 1, (10, 21, 30, 40)),
        ((-10, 20, 30, 400), 1, (0, 20, 20, 80)),
        ((50, 50, 0.2, 0.2), 1, (50, 50, 1, 1)),
        ((50, 60, 3, 20), 5, (49, 60, 5, 20)),
        ((98, 0, 2, 2), 5, (95, 0, 5, 5)),
    ],
)
def test_whole_pixel_boxes_by_hand(
    box: tuple[float, ...], least: int, expected: tuple[int, ...]
) -> None:
    assert trackers.whole_pixel_box(Box(*box), 100, 100, least) == expected


def test_mil_starts_from_boxes_too_small_for_it() -> None:
    tracker = trackers.tracker_factory(TrackerSpec("MIL"))()
    tracker.start(scene(0)[0], Box(20, 24, 3, 3))
    assert tracker.update(scene(1)[0]).box.w == 5


def test_opencv_tracker_follows_and_repeats_itself(root: Path, kcf: TrackerSpec) -> None:
    sequence = find_folder(root)["one"]()
    make = trackers.tracker_factory(kcf)
    summary = summary_of(make, [sequence])
    assert summary.overall.ao > 0.5
    first, second = (run.run_sequence(make(), sequence) for _ in range(2))
    np.testing.assert_array_equal(first.boxes, second.boxes)
    assert np.isnan(first.confidences[1:]).all()


class FailingTracker:
    """OpenCV's interface; fails in the way that each frame asks for."""

    def __init__(self) -> None:
        self.calls = 0

    def init(self, image: np.ndarray, box: tuple[int, int, int, int]) -> None:
        if box[2] < 3:
            raise cv2.error("box too\nsmall")

    def update(self, image: np.ndarray) -> tuple[bool, tuple[int, int, int, int]]:
        self.calls += 1
        if self.calls == 2:
            raise cv2.error("assertion failed")
        return self.calls != 3, (self.calls, 1, 5, 5)

    def getTrackingScore(self) -> float:
        return 0.25


def test_opencv_failures_keep_the_last_box_and_count_as_lost() -> None:
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    tracker = trackers.OpenCVTracker(FailingTracker())
    tracker.start(image, Box(4, 4, 8, 8))
    said = [tracker.update(image) for _ in range(4)]
    assert [each.box.x for each in said] == [1, 1, 1, 4]
    assert [each.lost for each in said] == [False, True, True, False]
    assert said[0].confidence == 0.25
    with pytest.raises(EngineError, match=r"cannot start from box \(4, 4, 2, 8\): .*too small"):
        tracker.start(image, Box(4, 4, 2, 8))


class RedEngine:
    """Finds the reddest pixels: shows that crops arrive in RGB and that boxes come back."""

    spec = ModelSpec("custom", 16, 1, 1, 1.0, 8, 32, 64)
    name = "red"

    def encode_templates(self, templates: np.ndarray) -> None:
        assert templates.shape == (2, 32, 32, 3)

    def search(self, crops: np.ndarray, memories: list[None], stop: object = None) -> Prediction:
        boxes, scores = [], []
        for crop in crops.astype(int):
            rows, columns = np.nonzero(crop[..., 0] - crop[..., 2] > 100)
            if len(rows):
                sides = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                x1, y1, x2, y2 = np.array(sides) / self.spec.search_size
            else:
                x1, y1, x2, y2 = 0.4, 0.4, 0.6, 0.6
            boxes.append([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1])
            scores.append(0.9 if len(rows) else 0.05)
        edges = np.full((len(crops), 4, self.spec.bins), 1 / self.spec.bins)
        depths = np.full(len(crops), self.spec.depth)
        return Prediction(np.float32(boxes), np.float32(scores), np.float32(edges), depths)


def test_our_tracker_through_a_session() -> None:
    def image(x: int) -> np.ndarray:
        picture = np.full((120, 160, 3), 60, np.uint8)
        picture[50:70, x : x + 20] = (0, 0, 255)  # red, as OpenCV orders channels
        return picture

    tracker = trackers.MixFormerTracker(RedEngine(), published_settings())
    tracker.start(image(30), Box(30, 50, 20, 20))
    for x in range(32, 60, 2):
        said = tracker.update(image(x))
        assert iou(said.box, Box(x, 50, 20, 20)) > 0.7
        assert said.confidence == pytest.approx(0.9)
        assert not said.lost
    empty = np.full((120, 160, 3), 60, np.uint8)
    decisions = [tracker.update(empty).lost for _ in range(40)]
    # Below the threshold for the settings' one second, at 30 frames per second.
    assert decisions == [False] * 30 + [True] * 10


def test_trackers_that_this_opencv_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(cv2, "TrackerCSRT_create", raising=False)
    trackers.tracker_factory.cache_clear()
    with pytest.raises(EngineError, match="has no TrackerCSRT"):
        trackers.tracker_factory(TrackerSpec("CSRT"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Nano", "Nano needs weights"),
        ("ViT", "ViT needs weights"),
        ("KCF=somewhere", "KCF takes no weights"),
        ("Nano=absent", "expected one file"),
    ],
)
def test_weights_are_asked_for(text: str, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        trackers.tracker_factory(parse_tracker(text))


def test_tracker_names(tmp_path: Path) -> None:
    assert parse_tracker(" kcf ") == TrackerSpec("KCF")
    assert parse_tracker("mixformer").label == "mixformer"
    weights = tmp_path / "nano.v2"
    weights.mkdir()
    assert parse_tracker(f"nano={weights}").label == "Nano-nano.v2"
    (weights / "head.onnx").touch()
    assert parse_tracker(f"vit={weights / 'head.onnx'}").label == "ViT-head"
    with pytest.raises(ParameterError, match="one of mixformer, CSRT, KCF, MIL, Nano, ViT"):
        parse_tracker("SiamFC")


# Result files


def some_result(frames: int = 4) -> Result:
    rng = np.random.default_rng(7)
    confidences = rng.random(frames)
    confidences[-1] = math.nan
    return Result(
        rng.uniform(0, 100, (frames, 4)),
        rng.random(frames).round(6),
        confidences,
        np.arange(frames) % 2 == 1,
    )


def test_results_survive_the_disk_exactly(tmp_path: Path) -> None:
    result = some_result()
    write_result(tmp_path, "walk", result)
    again = read_result(tmp_path, "walk", 4)
    for name in ("boxes", "seconds", "confidences", "lost"):
        np.testing.assert_array_equal(getattr(again, name), getattr(result, name))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["walk.txt", "walk_frames.csv"]


def test_bare_boxes_are_results_too(tmp_path: Path) -> None:
    (tmp_path / "walk.txt").write_text("1\t2\t3\t4\n5\t6\t7\t8\n")
    result = read_result(tmp_path, "walk", 2)
    assert result.boxes.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert np.isnan(result.confidences).all()
    assert np.isnan(result.seconds).all()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("walk.txt", "1,2,3,4\n", "walk.txt: expected 4 lines, one per frame, got 1"),
        ("walk.txt", "1,2,3,4\n" * 3 + "NaN,NaN,NaN,NaN\n", "walk.txt, line 4: expected four"),
        ("walk_frames.csv", "", "line 1: expected 'seconds,confidence,lost', got an empty"),
        ("walk_frames.csv", "seconds,confidence,lost\n0,1,0\n", "expected 5 lines"),
        ("walk_frames.csv", "seconds,confidence,lost\n0,1,0\n0,1\n0,1,0\n0,1,0\n", "csv, line 3:"),
    ],
)
def test_malformed_results_name_file_and_line(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    write_result(tmp_path, "walk", some_result())
    (tmp_path / name).write_text(text)
    with pytest.raises(SourceError, match=message):
        read_result(tmp_path, "walk", 4)


def test_a_folder_belongs_to_one_configuration(tmp_path: Path) -> None:
    folder = tmp_path / "out" / "KCF"
    claim_folder(folder, {"tracker": "KCF", "num_threads": 1})
    claim_folder(folder, {"tracker": "KCF", "num_threads": 1})
    with pytest.raises(ParameterError, match="num_threads 1, this run has 2"):
        claim_folder(folder, {"tracker": "KCF", "num_threads": 2})
    (folder / "config.json").write_text("{")
    with pytest.raises(SourceError, match=r"config.json: expected a configuration in JSON"):
        claim_folder(folder, {})
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ParameterError, match=r"holds notes.txt but no config.json"):
        claim_folder(tmp_path, {})


# Runs on disk

DATASET = {"dataset": "folder", "root": "somewhere"}


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> TrackerSpec:
    """A spec whose tracker is `half`, in this process."""
    monkeypatch.setattr(run, "tracker_factory", lambda spec: lambda: Script(half))
    monkeypatch.setattr(Script, "started", 0)
    return TrackerSpec("KCF")


def test_a_killed_run_continues(tmp_path: Path, root: Path, scripted: TrackerSpec) -> None:
    sequences, _ = load_sequences(root)

    def kill(sequence: AnnotatedSequence, result: Result) -> None:
        raise KeyboardInterrupt

    folder = tmp_path / "KCF"
    with pytest.raises(KeyboardInterrupt):
        run.evaluate_to_folder(scripted, sequences, folder, DATASET, progress=kill)
    assert Script.started == 1
    assert not (folder / "summary.json").exists()
    evaluation = run.evaluate_to_folder(scripted, sequences, folder, DATASET)
    assert Script.started == 3
    assert evaluation.problems == []
    fresh = run.evaluate_to_folder(scripted, sequences, tmp_path / "fresh", DATASET)
    assert evaluation.summary.overall == fresh.summary.overall
    again = run.evaluate_to_folder(scripted, sequences, folder, DATASET)
    assert Script.started == 6
    assert again.summary.as_dict()["sequences"] == evaluation.summary.as_dict()["sequences"]


def test_summary_file_says_all(tmp_path: Path, root: Path, scripted: TrackerSpec) -> None:
    sequences, _ = load_sequences(root)
    evaluation = run.evaluate_to_folder(scripted, sequences, tmp_path / "KCF", DATASET)
    summary = json.loads((tmp_path / "KCF" / "summary.json").read_text())
    assert summary["tracker"] == "KCF"
    assert summary["config"]["root"] == "somewhere"
    assert summary["versions"]["opencv"] == cv2.__version__
    assert summary["machine"] == environment()["machine"]
    assert summary["machine"]["processor"]
    assert summary["overall"]["success_auc"] == evaluation.summary.overall.success_auc
    assert list(summary["sequences"]) == [sequence.name for sequence in sequences]
    assert summary["confidence"]["median_miss"] is None  # NaN: there were no misses
    assert summary["problems"] == []


def test_a_problem_with_one_sequence_leaves_the_rest(
    tmp_path: Path, root: Path, scripted: TrackerSpec
) -> None:
    sequences, _ = load_sequences(root)
    (root / "two" / "img" / "00002.jpg").write_bytes(b"")
    evaluation = run.evaluate_to_folder(scripted, sequences, tmp_path / "KCF", DATASET)
    assert len(evaluation.problems) == 1
    assert "00002.jpg" in evaluation.problems[0]
    assert evaluation.problems[0].endswith(f"first: {root / 'two' / 'img' / '00002.jpg'}")
    assert "1 of 6 frames skipped that cannot be decoded" in evaluation.problems[0]
    assert set(evaluation.summary.sequences) == {"one", "two", "ten"}
    # The same when the results are read from the disk.
    again = run.evaluate_to_folder(scripted, sequences, tmp_path / "KCF", DATASET)
    assert again.problems == evaluation.problems


def test_several_workers_give_the_same(tmp_path: Path, root: Path, kcf: TrackerSpec) -> None:
    sequences, _ = load_sequences(root)
    (root / "two" / "img" / "00002.jpg").write_bytes(b"")
    alone = run.evaluate_to_folder(kcf, sequences, tmp_path / "a", DATASET)
    together = run.evaluate_to_folder(kcf, sequences, tmp_path / "b", DATASET, workers=2)
    assert together.summary.overall == alone.summary.overall
    assert together.summary.sequences == alone.summary.sequences
    assert together.problems == alone.problems
    assert len(together.problems) == 1


def test_checksum_covers_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "a.onnx").write_bytes(b"123")
    first = run.checksum(tmp_path / "w")
    assert first == run.checksum(tmp_path / "w")
    (tmp_path / "w" / "a.onnx").rename(tmp_path / "w" / "b.onnx")
    assert run.checksum(tmp_path / "w") != first
    assert run.checksum(tmp_path / "w" / "b.onnx") != first


# The command


def command(*argv: object) -> int:
    parser = CommandParser()
    evaluate.add_arguments(parser)
    return evaluate.run(parser.parse_args([str(each) for each in argv]))


def test_command_lets_targets_be_absent(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--root", root, "--trackers", "MIL", "-o", tmp_path / "out")
    assert command(*arguments, "--absence", 4) == 0
    assert "with absences  seqs  returns" in capsys.readouterr().out
    assert len((tmp_path / "out/MIL/one.txt").read_text().splitlines()) == 10
    with pytest.raises(ParameterError, match="holds results with absence 4, this run has None"):
        command(*arguments)


def test_command_evaluates_and_compares(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert command("--root", root, "--trackers", "MIL", "-o", out, "--per-sequence") == 0
    printed = capsys.readouterr().out
    assert "MIL" in printed
    assert "AUC" in printed
    for name in ("one", "two", "ten"):
        assert name in printed
    raw = tmp_path / "published"
    raw.mkdir()
    for name in ("one", "two", "ten"):
        (raw / f"{name}.txt").write_text((root / name / "groundtruth_rect.txt").read_text())
    assert command("--root", root, "--compare", raw, out) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["tracker", "seqs", "AUC"]
    assert lines[2].split()[:3] == ["published", "3", "0.952"]
    assert lines[3].split()[0] == "MIL"


def test_command_names_bad_input_and_evaluates_the_rest(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = tmp_path / "names.txt"
    names.write_text("one\ntwo\nmissing\n")
    truth = root / "two" / "groundtruth_rect.txt"
    truth.write_text(truth.read_text().replace("26,27", "26;oops"))
    out = tmp_path / "out"
    code = command("--root", root, "--sequences", names, "--trackers", "MIL,Nano", "-o", out)
    assert code == 2
    printed = capsys.readouterr()
    assert "MIL" in printed.out
    problems = [line for line in printed.err.splitlines() if line.startswith("mixformerv2")]
    assert len(problems) == 3
    assert f"{truth}, line 4" in problems[0]
    assert (
        "expected sequence missing/groundtruth.txt or missing/groundtruth_rect.txt" in problems[1]
    )
    assert "Nano needs weights" in problems[2]
    assert not (out / "Nano").exists()


def test_command_refuses_results_of_another_run(tmp_path: Path, root: Path) -> None:
    arguments = ("--root", root, "--sequences", "one", "--trackers", "MIL", "-o", tmp_path / "out")
    assert command(*arguments) == 0
    with pytest.raises(ParameterError, match="num_threads 1, this run has 2"):
        command(*arguments, "--num-threads", 2)


def test_of_nested_settings_the_one_that_differs_is_named(tmp_path: Path) -> None:
    claim_folder(tmp_path / "out", {"options": {"a": 1, "b": 2}})
    words = "holds results with options.b 2, this run has 3: choose another"
    with pytest.raises(ParameterError, match=words):
        claim_folder(tmp_path / "out", {"options": {"a": 1, "b": 3}})


def test_command_takes_every_other_frame(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--root", root, "--sequences", "one", "--trackers", "MIL", "-o", tmp_path / "out")
    assert command(*arguments, "--frame-step", 2) == 0
    truth = (root / "one" / "groundtruth_rect.txt").read_text().splitlines()
    assert len((tmp_path / "out/MIL/one.txt").read_text().splitlines()) == (len(truth) + 1) // 2
    with pytest.raises(ParameterError, match="holds results with frame_step 2, this run has None"):
        command(*arguments)
    with pytest.raises(ParameterError, match=f"length, {len(truth)} frames, got {len(truth)}"):
        command(*arguments, "--frame-step", len(truth))
    assert command("--root", root, "--sequences", "one", "--compare", tmp_path / "out",
                   "--frame-step", 2) == 0  # fmt: skip


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--workers", "0"], "--workers: must be a whole number of 1 or more, got '0'"),
        (["--frame-step", "0"], "--frame-step: must be a whole number of 1 or more"),
        (
            ["--submission", "x.zip", "--dataset", "got10k", "--frame-step", "2"],
            "--submission requires all frames, got --frame-step 2",
        ),
        (
            ["--submission", "x.zip", "--dataset", "got10k", "--absence", "3"],
            "--submission requires the published frames, got --absence 3",
        ),
        (["--absence", "3", "--sequences", "one"], "--absence requires two sequences, got 1"),
        (["--num-threads", "-1"], "num_threads must be"),
        (["--trackers", "KCF,kcf"], "each tracker once, got KCF twice"),
        (["--sequences", "absent.txt"], "--sequences must be a file of names, or names"),
        (["--compare", "nowhere"], "nowhere: expected result files"),
    ],
)
def test_command_arguments(tmp_path: Path, root: Path, extra: list[str], message: str) -> None:
    with pytest.raises(MixFormerError, match=message):
        command("--root", root, "-o", tmp_path / "out", *extra)
    assert not (tmp_path / "out").exists()


def test_command_needs_somewhere_to_write(root: Path) -> None:
    with pytest.raises(ParameterError, match="-o OUT"):
        command("--root", root)


def write_tiny_bundle(folder: Path, seed: int) -> Path:
    spec = ModelSpec("custom", 64, 1, 1, 1.0, 8, 32, 48)
    rng = np.random.default_rng(seed)
    weights = {
        name: 0.1 * rng.standard_normal(shape, dtype=np.float32)
        for name, shape in expected_shapes(spec).items()
    }
    source = {"file": "none", "sha256": None, "kind": "random weights made by a test"}
    bundle = write_bundle(
        folder, spec, weights, name="tiny", source=source, licence="none", overwrite=True
    )
    return bundle.path


def test_command_evaluates_a_bundle_and_knows_its_weights(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch", reason="needs torch to run a bundle without graphs")
    bundle, out = write_tiny_bundle(tmp_path / "tiny", 0), tmp_path / "out"
    arguments = (bundle, "--root", root, "--engine", "torch", "-o", out)
    assert command(*arguments) == 0
    assert "mixformer-tiny" in capsys.readouterr().out
    summary = json.loads((out / "mixformer-tiny" / "summary.json").read_text())
    assert summary["config"]["weights_sha256"] == open_bundle(bundle).metadata["weights"]["sha256"]
    assert 0 < summary["confidence"]["hits"] + summary["confidence"]["misses"] <= 15
    assert summary["long_term"]["f_score"] is not None
    kept = (out / "mixformer-tiny" / "one.txt").read_text()
    shutil.rmtree(out)
    assert command(*arguments) == 0
    assert (out / "mixformer-tiny" / "one.txt").read_text() == kept
    write_tiny_bundle(bundle, 1)
    with pytest.raises(ParameterError, match="weights_sha256"):
        command(*arguments)


def write_got10k(root: Path, withheld: bool) -> None:
    for number in (1, 2):
        folder = root / f"GOT-10k_Val_{number:06d}"
        boxes = write_images(folder, 5, "{:08d}.jpg")
        (folder / "groundtruth.txt").write_text(box_lines(boxes[:1] if withheld else boxes))


@pytest.mark.parametrize("withheld", [False, True])
def test_command_packs_a_submission(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], withheld: bool
) -> None:
    root, out, archive = tmp_path / "val", tmp_path / "out", tmp_path / "sub.zip"
    write_got10k(root, withheld)
    arguments = ("--root", root, "--dataset", "got10k", "--submission", archive)
    assert command(*arguments, "--trackers", "MIL", "-o", out) == 0
    printed = capsys.readouterr().out
    assert f"submission: {archive}" in printed
    assert ("as its toolkit" in printed) is not withheld
    assert ("no public ground truth" in printed) is withheld
    with zipfile.ZipFile(archive) as opened:
        assert len(opened.namelist()) == 4
    archive.unlink()
    assert command(*arguments, "--compare", out) == 0
    assert archive.is_file()
    archive.unlink()
    (root / "GOT-10k_Val_000002" / "00000003.jpg").write_bytes(b"")
    shutil.rmtree(out)
    assert command(*arguments, "--trackers", "MIL", "-o", out) == 2
    assert "not written: results are incomplete" in capsys.readouterr().err
    assert not archive.exists()


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--submission", "x.zip"], "--submission requires --dataset got10k"),
        (["--dataset", "lasot", "--submission", "x.tar"], "FILE.zip in an existing folder"),
        (
            ["--dataset", "lasot", "--submission", "x.zip", "--trackers", "MIL,KCF"],
            "a single tracker",
        ),
        (["--model", "a"], "BUNDLE and --model exclude each other"),
        (["--lost-score-threshold", "0.9"], "must not exceed uncertain.score_threshold"),
    ],
)
def test_command_checks_before_it_works(
    tmp_path: Path, root: Path, extra: list[str], message: str
) -> None:
    with pytest.raises(ParameterError, match=message):
        command("bundle", "--root", root, "-o", tmp_path / "out", *extra)
    assert not (tmp_path / "out").exists()


def test_data_sets_set_the_tracker_and_options_override(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = []

    def note(spec: TrackerSpec, *rest: object) -> run.Evaluation:
        used.append(run.configuration(spec, DATASET)["settings"])
        return run.Evaluation(summarise([]), [])

    monkeypatch.setattr(evaluate, "evaluate_to_folder", note)
    bundle = write_tiny_bundle(tmp_path / "tiny", 0)
    arguments = (bundle, "--root", root, "-o", tmp_path / "out")
    command(*arguments)
    command(*arguments, "--dataset", "otb")
    command(*arguments, "--dataset", "otb", "--template-update-interval", "7")
    defaults = published_settings()
    assert [each["update_interval"] for each in used] == [defaults.update_interval, 200, 7]
    assert [each["online_size"] for each in used] == [defaults.online_size, 3, 3]
    # A model of no published preset keeps its own search factor.
    assert {each["search_factor"] for each in used} == {open_bundle(bundle).search_factor}


def test_reading_hides_behind_the_tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next image is read while a frame is tracked, which would not end otherwise."""
    frames = 30
    begun = [threading.Event() for _ in range(frames)]

    def read(path: Path) -> np.ndarray:
        begun[int(path.name)].set()
        return np.zeros((HEIGHT, WIDTH, 3), np.uint8)

    def track(index: int, box: Box) -> Estimate:
        assert begun[min(index + 1, frames - 1)].wait(60)
        return Estimate(box, 1.0, False)

    monkeypatch.setattr(run, "read_bgr", read)
    boxes = np.tile([1.0, 2, 10, 12], (frames, 1))
    sequence = AnnotatedSequence("x", [tmp_path / str(index) for index in range(frames)], boxes)
    assert len(run.run_sequence(Script(track), sequence).boxes) == frames


def test_command_writes_a_report(tmp_path: Path, root: Path) -> None:
    page, out = tmp_path / "report.html", tmp_path / "out"
    arguments = ("--root", root, "--report", page)
    with pytest.raises(ParameterError, match="--report must be a file in an existing folder"):
        command("--root", root, "--report", tmp_path / "no" / "x.html", "-o", out)
    assert command(*arguments, "--trackers", "MIL", "-o", out) == 0
    assert "MIL" in page.read_text()
    page.unlink()
    assert command(*arguments, "--compare", out) == 0
    assert page.is_file()


def test_a_report_is_written_without_a_reader_of_the_tables(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(*_: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(evaluate, "_print", closed)
    page = tmp_path / "report.html"
    arguments = ("--root", root, "--trackers", "MIL", "-o", tmp_path / "out")
    assert command(*arguments, "--report", page) == 0
    assert page.is_file()
