"""The page about one run."""

from __future__ import annotations

import re

import numpy as np

from mixformerv2_ros.lab.reports.run_report import DOUBTFUL, STRIP, RunFacts, RunReport
from mixformerv2_ros.tracking.boxes import Box
from mixformerv2_ros.tracking.session import State, Track

FACTS = RunFacts(
    source="<clip> & co.avi",
    facts=(("model", "mixformer <T>"), ("engine", "onnxruntime/cpu")),
    score_threshold=0.5,
    links=(("tracks.csv", "tracks.csv"),),
    commands=("mixformerv2 track clip.avi --box 1,2,3,4",),
)


def make(path, frames, confidence=lambda step: 0.9):
    report = RunReport(path, FACTS)
    for step in range(frames):
        image = np.full((90, 120, 3), step % 250, np.uint8)
        track = Track(
            "dog", step, "camera", Box(step % 50, 20, 30, 40), confidence(step), (1, 2, 3, 4),
            State.TRACKING if confidence(step) > 0.4 else State.LOST, 0, step % 25 == 0,
        )  # fmt: skip
        report.write(image, [track], 0.02)
    report.close()
    return path.read_text("utf-8")


def pictures(html, title):
    section = html.split(f"<h2>{title}</h2>")[1].split("<h2>")[0]
    return re.findall(r"<figcaption>frame (\d+):", section)


def test_the_page_says_what_happened(tmp_path):
    html = make(tmp_path / "report.html", 101, lambda step: 0.1 if 40 <= step < 60 else 0.9)
    assert "&lt;clip&gt; &amp; co.avi" in html
    assert "<clip>" not in html
    assert "<b>101</b>" in html
    assert "<b>50.0</b>" in html  # frames per second
    assert "<b>20%</b>" in html  # LOST
    assert "<b>4</b>" in html  # template updates, the start not counted
    assert "mixformerv2 track clip.avi --box 1,2,3,4" in html
    assert 'href="tracks.csv"' in html


def test_the_page_needs_nothing_from_outside(tmp_path):
    html = make(tmp_path / "report.html", 30)
    assert not re.search(r'(src|href)="(?!data:|tracks\.csv)', html)
    assert "http" not in html.replace("http-equiv", "")


def test_pictures_are_spread_over_the_run_and_bounded(tmp_path):
    for frames in (5, 19, 20, 21, 333, 1000):
        shown = list(
            map(int, pictures(make(tmp_path / f"{frames}.html", frames), "Over the whole run"))
        )
        assert len(shown) == min(frames, STRIP)
        assert shown[0] == 0
        assert shown[-1] >= 0.7 * (frames - 1)
        assert shown == sorted(set(shown))


def test_the_least_confident_moments_are_apart(tmp_path):
    dips = {50: 0.1, 51: 0.05, 52: 0.2, 120: 0.3, 180: 0.02}
    html = make(tmp_path / "report.html", 250, lambda step: dips.get(step, 0.9))
    shown = list(map(int, pictures(html, "Least confident moments")))
    assert {51, 120, 180} <= set(shown)
    assert len(shown) <= DOUBTFUL
    assert not {50, 52} & set(shown)


def test_a_run_of_one_frame_is_survived(tmp_path):
    assert "<b>1</b>" in make(tmp_path / "report.html", 1)
