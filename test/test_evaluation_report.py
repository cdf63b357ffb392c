"""The page about an evaluation: its figures are the summary's, and a browser can use it."""

from __future__ import annotations

import html
import re
import subprocess
import sys

import numpy as np
import pytest
from browser import HOVER, ask, needs_browser
from test_evaluation import write_plain

from mixformerv2_ros.errors import ParameterError
from mixformerv2_ros.lab.datasets.evaluation_sets import load_sequences
from mixformerv2_ros.lab.evaluation.analysis import (
    TrackerRun,
    calibration,
    curves,
    failure_segments,
    flagged_spans,
    share_within,
)
from mixformerv2_ros.lab.evaluation.report import write_report
from mixformerv2_ros.lab.evaluation.report_charts import overlap_strip
from mixformerv2_ros.lab.evaluation.results import Result
from mixformerv2_ros.lab.evaluation.summary import summarise

NAMES = ("alpha", "beta <b>", "gamma")
LABEL = "KCF </script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def sequences(tmp_path_factory):
    root = tmp_path_factory.mktemp("plain")
    for name, frames in zip(NAMES, (12, 30, 21), strict=True):
        write_plain(root, name, frames)
    found, problems = load_sequences(root)
    assert not problems
    return found


def result(sequence, shift, confidence, fail=range(0)):
    boxes = np.nan_to_num(sequence.boxes).copy()
    boxes[1:, 0] += shift
    boxes[list(fail), 0] += 1000
    count = len(boxes)
    confidences = np.full(count, confidence)
    confidences[list(fail)] = 0.2
    lost = np.zeros(count, dtype=bool)
    lost[list(fail)] = True
    return Result(boxes=boxes, seconds=np.full(count, 0.01), confidences=confidences, lost=lost)


@pytest.fixture(scope="module")
def runs(sequences):
    good = {s.name: result(s, 1, 0.9) for s in sequences}
    bad = {s.name: result(s, 4, 0.8, range(5, 9)) for s in sequences}
    return [
        TrackerRun("mixformer-ours", bad, {"config": {"tracker": "mixformer"}}),
        TrackerRun(LABEL, good, {"config": {"tracker": "KCF"}}),
    ]


def write(path, runs, sequences):
    problem = "KCF: <img src=x> cannot be read"
    write_report(
        path, runs, sequences, command="mixformerv2 evaluate x", dataset="folder",
        problems=[problem],
    )  # fmt: skip


@pytest.fixture(scope="module")
def page(runs, sequences, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    write(path, runs, sequences)
    return path


def table(text, name):
    """Rows of a table as texts of their cells."""
    body = re.search(rf'<table[^>]*id="{name}".*?<tbody>(.*?)</tbody>', text, re.DOTALL).group(1)
    rows = re.findall(r"<tr>(.*?)</tr>", body, re.DOTALL)
    return [
        [html.unescape(re.sub(r"<.*?>", "", cell)).strip() for cell in re.findall(
            r"<t[hd].*?</t[hd]>", row, re.DOTALL)]
        for row in rows
    ]  # fmt: skip


def test_overall_figures_are_the_summarys(page, runs, sequences):
    text = page.read_text("utf-8")
    shown = {row[0]: row[1:] for row in table(text, "overall-table")}
    for run in runs:
        overall = summarise([(s, run.results[s.name]) for s in sequences]).overall
        figures = (overall.success_auc, overall.precision, overall.normalised_precision)
        assert shown[run.label][:4] == ["3", *(f"{value:.3f}" for value in figures)]
    assert next(iter(shown)) == LABEL  # the best one first
    assert "mixformerv2 evaluate x" in text


def test_the_first_of_our_trackers_is_in_focus(page):
    assert "<h1>mixformer-ours</h1>" in page.read_text("utf-8")


def test_names_are_escaped(page):
    text = page.read_text("utf-8")
    assert html.escape("beta <b>") in text
    assert "beta <b>" not in text
    assert html.escape(LABEL) in text
    assert "<img src=x" not in text


def test_nothing_comes_from_outside(page):
    text = re.sub(r"<script>.*?</script>", "", page.read_text("utf-8"), flags=re.DOTALL)
    assert not re.search(r'(?:src|href)="(?!data:|#)', text)
    assert "default-src 'none'" in html.unescape(text)


def test_charts_are_valid(runs, sequences, tmp_path, caplog):
    write(tmp_path / "page.html", runs, sequences)
    assert [record.getMessage() for record in caplog.records] == []  # Bokeh logs what is not


def test_trackers_without_confidences_and_times(sequences, tmp_path):
    plain = {
        s.name: Result(
            np.nan_to_num(s.boxes), *(np.full(len(s), np.nan) for _ in range(2)),
            np.zeros(len(s), dtype=bool),
        )
        for s in sequences[:2]
    }  # fmt: skip
    write(tmp_path / "page.html", [TrackerRun("raw", plain)], sequences)
    text = (tmp_path / "page.html").read_text("utf-8")
    assert "None of these trackers gives confidences." in text
    assert 'id="speed"' not in text
    assert table(text, "sequences-table")[2][3].split() == ["–"] * 7


def test_failure_segments_are_the_failures(runs, sequences):
    segments = failure_segments([(s, runs[0].results[s.name]) for s in sequences], 3)
    assert segments
    for segment in segments:
        assert (segment.start, segment.stop) == (5, 9)
    # Where nothing fails, the least overlap is shown, and not called a failure.
    fine = failure_segments([(s, runs[1].results[s.name]) for s in sequences], 3)
    assert [segment.failed for segment in fine] == [0, 0, 0]


def test_the_overlap_strip_hides_no_failure():
    overlap = np.full(1500, 0.5)
    overlap[750] = 0.0
    overlap[1350:] = np.nan
    strip = overlap_strip(overlap)
    assert strip.shape == (22, 150, 4)
    top, bottom = strip[0], strip[-1]
    assert (bottom[:, 3] > 0).all()
    assert (top[:, 3] > 0).sum() == 1 + 15  # failures and absence reach up to the top
    assert strip[:, 0, 3].astype(bool).sum() == 11  # half of the height
    assert overlap_strip(np.full(3, 1.0)).shape == (22, 3, 4)


def test_calibration_counts_every_frame_once(runs, sequences):
    bins = calibration([(s, runs[0].results[s.name]) for s in sequences])
    assert sum(b.frames for b in bins) == sum(len(s) - 1 for s in sequences)
    low = next(b for b in bins if b.low <= 0.2 < b.high)
    assert low.misses == low.frames == 12
    high = next(b for b in bins if b.low <= 0.8 < b.high)
    assert high.misses == 0


def test_curves_end_where_they_must(runs, sequences):
    drawn = curves([(s, runs[1].results[s.name]) for s in sequences])
    assert drawn.success[0] == 1
    assert drawn.success[-1] == 0
    assert (np.diff(drawn.success) <= 0).all()
    assert (np.diff(drawn.precision) >= 0).all()


def test_shares_and_spans():
    np.testing.assert_allclose(
        share_within(np.array([1.0, 2, 3]), np.array([0, 2, 9])), [0, 2 / 3, 1]
    )
    assert flagged_spans(np.array([1, 1, 0, 1], dtype=bool)) == [(0, 2), (3, 4)]


def test_a_report_needs_runs(tmp_path, sequences):
    with pytest.raises(ParameterError, match="at least one tracker"):
        write(tmp_path / "a.html", [], sequences)


def test_a_missing_library_is_named_before_the_first_sequence(sequences, tmp_path):
    root = sequences[0].frames[0].parents[2]
    code = (
        "import sys; sys.modules['bokeh'] = None\n"
        "from mixformerv2_ros.cli import main\n"
        f"sys.exit(main(['evaluate', '--root', {str(root)!r}, '--trackers', 'MIL', '-o', 'out', "
        "'--report', 'page.html']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("mixformerv2 evaluate: --report")
    assert "bokeh" in line
    assert "pip install 'mixformerv2_ros[report]'" in line
    assert not (tmp_path / "out").exists()


SORT = """
const table = document.querySelector("#sequences-table");
const column = () => [...table.tBodies[0].rows].map(row => row.cells[1].textContent.trim());
const button = table.tHead.rows[0].cells[1].querySelector("button");
answer.before = column();
button.click();
answer.once = column();
button.click();
answer.twice = column();
const bars = () => [...table.tBodies[0].rows[0].cells[3].querySelectorAll("span")]
  .filter(each => each.getClientRects().length > 0).map(each => each.className.split(" ")[0]);
answer.first = bars();
document.querySelector("#m-op75").click();
answer.second = bars();
const paper = () => getComputedStyle(document.body).backgroundColor;
answer.light = paper();
document.querySelector("#theme").click();
answer.dark = paper();
answer.images = [...document.querySelectorAll("img, image")].length;
"""


@needs_browser
def test_a_browser_shows_it_and_sorts_its_tables(page, tmp_path):
    answer = ask(page, SORT + HOVER, tmp_path)
    assert answer["errors"] == answer["refused"] == answer["requests"] == []
    assert answer["charts"] == 3 + 3 + 2 + 1  # thresholds, segments, confidence, speed
    assert answer["images"] >= 3 + 3 * 3
    assert answer["before"] == ["12", "30", "21"]
    assert answer["once"] == ["30", "21", "12"]
    assert answer["twice"] == ["12", "21", "30"]
    assert (answer["first"], answer["second"]) == (["m-success_auc"], ["m-op75"])
    assert answer["light"] != answer["dark"]
    assert not answer["injected"]
    readouts = "\n".join(answer["readouts"])
    assert re.search(rf"^{re.escape(LABEL)}:\t[\d.]+", readouts, re.MULTILINE), readouts
    for name in ("overlap threshold", "centre distance", "overlap .IoU.", "confidence"):
        assert re.search(rf"^{name}.*:\t[\d.]+", readouts, re.MULTILINE), (name, readouts)


def test_every_colour_that_is_used_is_defined(page):
    text = page.read_text("utf-8")
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL).group(1)
    used = set(re.findall(r"var\((--[\w-]+)\)", style))
    assert used <= set(re.findall(r"(--[\w-]+)\s*:", style))
