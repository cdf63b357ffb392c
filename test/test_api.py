"""`mixformerv2_ros.Tracker`: numpy images in, tracks out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from recordings import picture, red_box, run_command, write_video

from mixformerv2_ros import Tracker
from mixformerv2_ros.errors import BoxError, BundleError, ImageError, ParameterError
from mixformerv2_ros.overlay import draw_tracks
from mixformerv2_ros.tracking.boxes import Box, iou
from mixformerv2_ros.tracking.events import EventKind
from mixformerv2_ros.tracking.session import State


@pytest.fixture
def tracker() -> Tracker:
    """The default bundle, one thread."""
    return Tracker(num_threads=1)


def bgr(index: int) -> np.ndarray:
    return np.ascontiguousarray(picture(index)[..., ::-1])


def test_a_target_is_followed_and_drawn(tracker: Tracker) -> None:
    (track,) = tracker.start(bgr(0), red_box(0))
    assert (track.box, track.confidence, track.target_id) == (red_box(0), 1.0, "target")
    for index in range(1, 10):
        image = bgr(index)
        (track,) = tracker.update(image)
        assert iou(track.box, red_box(index)) > 0.5
        draw_tracks(image, [track])
        assert (image != bgr(index)).any()
    assert track.state is State.TRACKING
    assert all(std > 0 for std in track.edge_std)
    assert track.stamp_ns == pytest.approx(9 / 30 * 1e9, abs=10)
    x1, y1, x2, y2 = track.box.xyxy
    assert (x2 - x1, y2 - y1) == pytest.approx((track.box.w, track.box.h))


def test_the_same_boxes_as_the_command(tmp_path: Path, tracker: Tracker) -> None:
    """No setting differs from the model's own: those of its bundle hold without being named."""
    from recordings import write_images

    source, table = write_images(tmp_path / "images", 8), tmp_path / "t.csv"
    box = ",".join(map(str, red_box(0)))
    run_command("track", source, "--box", box, "--csv", table, "--num-threads", 1)
    lines = table.read_text().splitlines()[1:]
    tracker.start(bgr(0), red_box(0))
    for index in range(1, 8):
        (track,) = tracker.update(bgr(index))
        found = [float(value) for value in lines[index].split(",")[3:7]]
        assert list(track.box) == pytest.approx(found, abs=1e-3)


def test_several_targets_by_id(tracker: Tracker) -> None:
    blue = Box(2, 60, 16, 18)
    tracks = tracker.start(bgr(0), {"red": red_box(0), "blue": blue})
    assert [track.target_id for track in tracks] == ["red", "blue"]
    tracks = tracker.start(bgr(1), xyxy=(10, 10, 60, 60), target_id="third")
    assert [track.target_id for track in tracks] == ["red", "blue", "third"]
    assert tracks[2].box == Box(10, 10, 50, 50)
    tracker.stop("blue")
    assert [track.target_id for track in tracker.update(bgr(2))] == ["red", "third"]
    tracker.stop()
    assert (tracker.update(bgr(3)), tracker.targets) == ([], ())


def test_time_is_the_callers_or_the_rate(tracker: Tracker) -> None:
    tracker.start(bgr(0), red_box(0), time=5.0)
    assert tracker.update(bgr(1), time=5.5)[0].stamp_ns == 5_500_000_000
    assert tracker.update(bgr(2))[0].stamp_ns == 5_500_000_000 + round(1e9 / 30)
    assert tracker.update(bgr(3), time=5.4) == []
    assert [event.kind for event in tracker.events] == [EventKind.LATE]


def test_another_size_resets_with_an_event(tracker: Tracker) -> None:
    tracker.start(bgr(0), red_box(0))
    large = np.zeros((240, 320, 3), np.uint8)
    assert tracker.update(large) == []
    assert tracker.update(large) == []
    assert EventKind.RESET in [event.kind for event in tracker.events]
    assert tracker.targets == ()


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ("file.png", "got str"),
        (None, "got NoneType"),
        (np.zeros((9, 9, 3)), "got float64 of shape"),
        (np.zeros((20, 20, 4), np.uint8), "got shape"),
        (np.zeros((20, 20, 3), np.uint8), "box must overlap"),
        (np.zeros((5, 5), np.uint8), "at least 10 px"),
    ],
)
def test_wrong_images_are_named(tracker: Tracker, image: object, words: str) -> None:
    with pytest.raises((ImageError, BoxError), match=words):
        tracker.start(image, (30, 30, 5, 5))  # type: ignore[arg-type]


@pytest.mark.parametrize("box", [(1, 2, 3), "box", 7, {"a": (1, 2)}, (1, 2, None, 4)])
def test_wrong_boxes_are_named(tracker: Tracker, box: object) -> None:
    with pytest.raises(BoxError, match="box must be four numbers x, y, w, h, got"):
        tracker.start(bgr(0), box)  # type: ignore[arg-type]
    with pytest.raises(BoxError, match="either box"):
        tracker.start(bgr(0))


def test_wrong_names_and_times_are_named(tracker: Tracker) -> None:
    for name in (5, "", None):
        with pytest.raises(ParameterError, match="target_id must be a non-empty str, got"):
            tracker.start(bgr(0), (20, 30, 24, 18), target_id=name)  # type: ignore[arg-type]
        with pytest.raises(ParameterError, match="target_id must be a non-empty str, got"):
            tracker.start(bgr(0), {name: (20, 30, 24, 18)})  # type: ignore[dict-item]
    for time in ("1", float("nan"), float("inf"), [0]):
        with pytest.raises(ParameterError, match="time must be a finite number of seconds, got"):
            tracker.update(bgr(0), time=time)  # type: ignore[arg-type]
    assert tracker.targets == ()


def test_a_wrong_model_or_parameter_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError):
        Tracker(tmp_path)
    with pytest.raises(ParameterError, match=r"unknown parameter 'speed'"):
        Tracker(speed=3)
    with pytest.raises(ParameterError, match=r"template_update\.interval must be"):
        Tracker(template_update_interval=0)
    with pytest.raises(ParameterError, match="fps must be above 0"):
        Tracker(fps=0)


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys, mixformerv2_ros;"
        "assert not {'numpy', 'cv2', 'onnxruntime', 'torch'} & set(sys.modules);"
        "mixformerv2_ros.Tracker; assert 'torch' not in sys.modules;"
        "assert not [m for m in sys.modules if m.startswith('mixformerv2_ros.lab')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_example_of_the_docs_runs_as_written(tmp_path, monkeypatch, capsys) -> None:
    page = (Path(__file__).resolve().parents[1] / "docs" / "python.md").read_text("utf-8")
    example = page.partition("```python\n")[2].partition("```")[0]
    write_video(tmp_path / "clip.avi", 6)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(example, "docs/python.md", "exec"), names)
    assert len(capsys.readouterr().out.splitlines()) == 5
    assert iou(names["track"].box, red_box(5)) > 0.5
    assert (tmp_path / "newest.png").stat().st_size > 0


def test_the_example_with_supervision_runs_as_written(tmp_path, monkeypatch) -> None:
    pytest.importorskip("supervision", reason="needs supervision: pip install supervision")
    page = (Path(__file__).resolve().parents[1] / "docs" / "python.md").read_text("utf-8")
    example = page.partition("## Drawing with supervision")[2].partition("```python\n")[2]
    write_video(tmp_path / "clip.avi", 3)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(example.partition("```")[0], "docs/python.md", "exec"), names)
    assert names["detections"].data["class_name"].tolist() == ["person", "car"]
    assert (cv2.imread("annotated.png") != bgr(1)).any(axis=2).sum() > 100
