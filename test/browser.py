"""Opens a page of ours in a headless Chromium and asks it questions."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
needs_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="needs a Chromium browser (apt install chromium)"
)

# `answer` is what the questions fill in. Shadow roots are searched too: charts live in them.
PROBE = """
const errors = [], refused = [];
addEventListener("error", event => errors.push(String(event.message)));
addEventListener("securitypolicyviolation", event => refused.push(event.violatedDirective));
const find = (selector, root = document) => [
  ...root.querySelectorAll(selector),
  ...[...root.querySelectorAll("*")].filter(each => each.shadowRoot)
    .flatMap(each => find(selector, each.shadowRoot)),
];
const until = async (ready) => {
  for (let round = 0; round < 200 && !ready(); round++) await new Promise(go => setTimeout(go, 20));
};
addEventListener("load", async () => {
  const answer = {};
  await until(() => find(".bk-events").length === find("[data-root-id]").length);
  try { QUESTIONS } catch (error) { errors.push(String(error)); }
  answer.errors = errors;
  answer.refused = refused;
  answer.requests = performance.getEntriesByType("resource")
    .map(entry => entry.name).filter(name => !name.startsWith("data:"));
  answer.charts = find(".bk-events").length;
  const place = document.createElement("pre");
  place.id = "probe";
  place.textContent = JSON.stringify(answer);
  document.body.append(place);
});
"""


def ask(page: Path, questions: str, scratch: Path) -> dict:
    """Open `page`, run `questions` (JavaScript that fills in `answer`), and return the answer.

    It also holds `errors`, `refused` (by the page's policy), `requests` and the number of `charts`.
    """
    script = PROBE.replace("QUESTIONS", questions)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text = page.read_text("utf-8")
    assert text.count("script-src ") == 1
    # The policy lets only the page's own scripts run.
    text = text.replace("script-src ", f"script-src &#39;sha256-{digest}&#39; ")
    probed = scratch / f"probed_{page.name}"
    probed.write_text(text.replace("</title>", f"</title><script>{script}</script>"), "utf-8")
    done = subprocess.run(
        [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
            "--no-first-run", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", f"--user-data-dir={scratch / 'profile'}",
            "--virtual-time-budget=30000", "--dump-dom", probed.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    found = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stdout[-2000:]
    answer: dict = json.loads(html.unescape(found.group(1)))
    return answer


# Moves the pointer over each chart and collects the text and the HTML of what its read-outs show.
HOVER = """
answer.readouts = [];
for (const area of find(".bk-events")) {
  area.scrollIntoView({ behavior: "instant", block: "center" });
  const shape = area.getBoundingClientRect();
  const shown = () => find(".bk-Tooltip").filter(each => each.getClientRects().length > 0);
  for (const share of [0.35, 0.5, 0.65]) {
    for (const height of [0.3, 0.55]) {
      area.dispatchEvent(new PointerEvent("pointermove", { bubbles: true, composed: true,
        view: window, isPrimary: true, pointerType: "mouse",
        clientX: shape.left + shape.width * share,
        clientY: shape.top + shape.height * height }));
      await new Promise(go => setTimeout(go, 10));
      for (const each of shown()) {
        answer.readouts.push(find(".bk-tooltip-content", each.shadowRoot)[0].innerText);
      }
    }
  }
}
answer.readouts = [...new Set(answer.readouts)];
answer.injected = find("img[src=x]").length;
"""
