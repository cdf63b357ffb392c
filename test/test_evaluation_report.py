"""The page about an evaluation: its figures are the summary's, and a browser can use it."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from test_evaluation import write_plain

from mixformerv2_ros.errors import ParameterError
from mixformerv2_ros.lab.datasets.layouts import load_sequences
from mixformerv2_ros.lab.evaluation.analysis import (
    TrackerRun,
    calibration,
    curves,
    flagged_spans,
    share_within,
    worst_moments,
)
from mixformerv2_ros.lab.evaluation.report import write_report
from mixformerv2_ros.lab.evaluation.results import Result
from mixformerv2_ros.lab.evaluation.summary import summarise

NAMES = ("alpha", "beta <b>", "gamma")


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
        TrackerRun("KCF", good, {"config": {"tracker": "KCF"}}),
    ]


@pytest.fixture(scope="module")
def page(runs, sequences, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, runs, sequences, command="mixformerv2 evaluate x", dataset="plain")
    return path


def test_every_overall_figure_is_the_summarys(page, runs, sequences):
    text = page.read_text("utf-8")
    for run in runs:
        overall = summarise([(s, run.results[s.name]) for s in sequences]).overall
        for value in (overall.success_auc, overall.precision, overall.normalised_precision):
            assert f"{value:.3f}" in text
    assert "mixformerv2 evaluate x" in text


def test_names_are_escaped(page):
    text = page.read_text("utf-8")
    assert html.escape("beta <b>") in text
    assert "beta <b>" not in text


def test_nothing_comes_from_outside(page):
    text = page.read_text("utf-8")
    assert not re.search(r'(?:src|href)="(?!data:|#)', text)
    assert "default-src 'none'" in html.unescape(text)


def test_the_worst_moment_is_the_failure(runs, sequences):
    moments = worst_moments([(s, runs[0].results[s.name]) for s in sequences], 3)
    assert moments
    for moment in moments:
        assert (moment.start, moment.stop) == (5, 9)
    # Where nothing fails, the least overlap is shown, and not called a failure.
    fine = worst_moments([(s, runs[1].results[s.name]) for s in sequences], 3)
    assert [moment.failed for moment in fine] == [0, 0, 0]


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


def test_a_report_needs_runs(tmp_path, sequences, runs):
    with pytest.raises(ParameterError):
        write_report(tmp_path / "a.html", [], sequences)
    with pytest.raises(ParameterError):
        write_report(tmp_path / "a.html", runs, sequences, focus="nobody")


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
PROBE = """
<script>
addEventListener("error", event => { window.broken = String(event.message); });
addEventListener("load", () => setTimeout(() => {
  const table = document.querySelector("#sequences-table");
  const column = () => [...table.tBodies[0].rows].map(row => row.cells[1].textContent.trim());
  const before = column();
  const button = table.tHead.rows[0].cells[1].querySelector("button");
  button.click();
  const once = column();
  button.click();
  const twice = column();
  const requests = performance.getEntriesByType("resource")
    .filter(entry => !entry.name.startsWith("data:"));
  const answer = { before, once, twice, requests: requests.length, broken: window.broken || "",
    charts: document.querySelectorAll("svg").length,
    pictures: document.querySelectorAll("img, image").length };
  const place = document.createElement("pre");
  place.id = "probe";
  place.textContent = JSON.stringify(answer);
  document.body.append(place);
}, 0));
</script>
"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium browser (apt install chromium)")
def test_a_browser_shows_it_and_sorts_its_table(page, tmp_path):
    probed = tmp_path / "probed.html"
    probed.write_text(page.read_text("utf-8").replace("</body>", PROBE + "</body>"), "utf-8")
    done = subprocess.run(
        [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
            "--no-first-run", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}",
            "--virtual-time-budget=5000", "--dump-dom", Path(probed).as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    found = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stdout[-2000:]
    answer = json.loads(html.unescape(found.group(1)))
    assert answer["broken"] == ""
    assert answer["requests"] == 0
    assert answer["charts"] >= 3
    assert answer["pictures"] >= 3
    numbers = [sorted(map(int, answer[key])) for key in ("before", "once", "twice")]
    assert numbers[0] == [12, 21, 30]
    assert numbers[0] == numbers[1] == numbers[2]
    assert {tuple(answer["once"]), tuple(answer["twice"])} == {
        ("12", "21", "30"),
        ("30", "21", "12"),
    }


def test_every_colour_that_is_used_is_defined(page):
    text = page.read_text("utf-8")
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL).group(1)
    used = set(re.findall(r"var\((--[\w-]+)\)", style))
    assert used <= set(re.findall(r"(--[\w-]+)\s*:", style))
