"""The page about one run."""

from __future__ import annotations

import html
import re
import subprocess
import sys

import numpy as np
import pytest
from browser import HOVER, ask, needs_browser

from mixformerv2_ros.lab.reports.run_report import DOUBTFUL, OVERVIEW, RunFacts, RunReport
from mixformerv2_ros.tracking.boxes import Box
from mixformerv2_ros.tracking.session import State, Track

FACTS = RunFacts(
    source="<clip> & co.avi",
    facts=(("model", "mixformer <T>"), ("engine", "onnxruntime/cpu")),
    score_threshold=0.5,
    links=(("tracks.csv", "tracks.csv"),),
    commands=("mixformerv2 track clip.avi --box 1,2,3,4",),
)


EVIL = "</script><script>document.title = 1</script><img src=x onerror=alert(1)>"


def make(
    path, frames, confidence=lambda step: 0.9, target="dog", facts=FACTS, depth=lambda step: 4
):
    report = RunReport(path, facts)
    for step in range(frames):
        image = np.full((90, 120, 3), step % 250, np.uint8)
        track = Track(
            target, step, "camera", Box(step % 50, 20, 30, 40), confidence(step), (1, 2, 3, 4),
            State.TRACKING if confidence(step) > 0.4 else State.LOST, 0, step % 25 == 0,
            depth(step),
        )  # fmt: skip
        report.write(image, [track], 0.02)
    report.close()
    return path.read_text("utf-8")


def tiles(text):
    return dict(re.findall(r'<dt>(.*?)</dt><dd class="value">(.*?)</dd>', text))


def shown_frames(text, title):
    section = text.split(f"<h2>{title}</h2>")[1].split("<h2>")[0]
    return [int(number) for number in re.findall(r"<figcaption>frame (\d+):", section)]


def test_the_page_reports_the_run(tmp_path):
    text = make(tmp_path / "report.html", 101, lambda step: 0.1 if 40 <= step < 60 else 0.9)
    assert tiles(text) == {
        "frames": "101",
        "frames per second": "50.0",
        "TRACKING": "80%",
        "UNCERTAIN": "0%",
        "LOST": "20%",
        "template updates": "4",  # the start is not counted
    }
    assert "81 frames TRACKING, 20 frames LOST" in text
    assert "mixformerv2 track clip.avi --box 1,2,3,4" in text
    assert 'href="tracks.csv"' in text


def test_depth_is_charted_where_it_varies(tmp_path):
    assert "<h3>Depth</h3>" not in make(tmp_path / "static.html", 31)
    depths = {0: 0, 1: 5, 20: 5, 25: 3}
    text = make(tmp_path / "dynamic.html", 31, depth=lambda step: depths.get(step, 2))
    assert "<h3>Depth</h3>" in text
    assert "27 frames after 2 blocks, 1 frames after 3 blocks, 2 frames after 5 blocks." in text
    assert tiles(text)["blocks per frame"] == f"{(27 * 2 + 3 + 2 * 5) / 30:.2f}"


def test_names_are_escaped(tmp_path):
    facts = RunFacts(EVIL, ((EVIL, EVIL),), 0.5, ((EVIL, f"javascript:{EVIL}"),), (EVIL,))
    text = make(tmp_path / "report.html", 30, target=EVIL, facts=facts)
    assert html.escape("<img src=x onerror=alert(1)>") in text
    assert "<img src=x" not in text
    assert "<script>document.title" not in text
    assert 'href="javascript:' not in text


def test_the_page_needs_nothing_from_outside(tmp_path):
    text = make(tmp_path / "report.html", 30)
    outside = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    assert not re.search(r'(src|href)="(?!data:|tracks\.csv)', outside)
    policy = html.unescape(re.search(r'Content-Security-Policy" content="(.*?)"', text).group(1))
    assert "default-src 'none'" in policy
    # Only the scripts whose digests the policy names run: no handlers, no evaluation of texts.
    scripts = re.search(r"script-src ([^;]*);", policy).group(1).split()
    assert len(scripts) == len(re.findall(r"<script>", text)) == 3
    assert all(each.startswith("'sha256-") for each in scripts)


def test_images_are_spread_over_the_run_and_bounded(tmp_path):
    for frames in (5, 19, 20, 21, 333, 1000):
        shown = shown_frames(make(tmp_path / f"{frames}.html", frames), "Over the whole run")
        assert len(shown) == min(frames, OVERVIEW)
        assert shown[0] == 0
        assert shown[-1] >= 0.7 * (frames - 1)
        assert shown == sorted(set(shown))


def test_the_least_confident_frames_are_apart(tmp_path):
    dips = {50: 0.1, 51: 0.05, 52: 0.2, 120: 0.3, 180: 0.02}
    text = make(tmp_path / "report.html", 250, lambda step: dips.get(step, 0.9))
    shown = shown_frames(text, "Least confident frames")
    assert {51, 120, 180} <= set(shown)
    assert len(shown) <= DOUBTFUL
    assert not {50, 52} & set(shown)


def test_a_run_of_one_frame(tmp_path):
    assert tiles(make(tmp_path / "report.html", 1))["frames"] == "1"


def test_charts_are_valid(tmp_path, caplog):
    make(tmp_path / "report.html", 30)
    assert [record.getMessage() for record in caplog.records] == []  # Bokeh logs what is not


@needs_browser
def test_a_browser_draws_the_charts_and_reads_them_out(tmp_path):
    path = tmp_path / "report.html"
    make(path, 60, target=EVIL, depth=lambda step: 5 if step % 25 == 1 else 2)
    answer = ask(path, HOVER, tmp_path)
    assert answer["errors"] == answer["refused"] == answer["requests"] == []
    assert answer["charts"] == 6
    assert not answer["injected"]
    readouts = "\n".join(answer["readouts"])
    for name in ("confidence", "x", "height", "bottom", "blocks", "milliseconds per frame"):
        assert re.search(rf"^{name}.*:\t[\d.]+", readouts, re.MULTILINE), readouts


@needs_browser
def test_a_browser_refuses_scripts_that_are_not_the_pages(tmp_path):
    path = tmp_path / "report.html"
    text = make(path, 5)
    injected = "<script>window.evil = 1</script><img src=x onerror='window.evil = 2'>"
    path.write_text(text.replace("<h1>", f"{injected}<h1>"), "utf-8")
    answer = ask(path, "answer.evil = window.evil ?? 0;", tmp_path)
    assert answer["evil"] == 0
    assert {"script-src-elem", "script-src-attr", "img-src"} <= set(answer["refused"])


@pytest.mark.parametrize("missing", ["bokeh", "jinja2"])
def test_a_missing_library_is_one_line(missing, tmp_path):
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from mixformerv2_ros.cli import main\n"
        "sys.exit(main(['track', 'clip.avi', '--box', '1,2,3,4', '--report', 'report.html']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert missing in line
    assert "pip install 'mixformerv2_ros[report]'" in line
