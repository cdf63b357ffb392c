"""README and docs: links lead somewhere, and commands and options in them exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from mixformerv2_ros.cli import main
from mixformerv2_ros.cli.entry import NAMES

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "mixformerv2_ros" / "models" / "default" / "README.md",
]


def anchors(page: Path) -> set[str]:
    """Anchors of the headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8"))
    for link in links:
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def test_files_to_change_exist() -> None:
    page = (ROOT / "docs" / "where_to_change.md").read_text("utf-8")
    paths = [path for path in re.findall(r"`([\w./*]+/[\w./*]*)`", page) if "NAME" not in path]
    assert len(paths) > 30
    for path in paths:
        assert any(ROOT.glob(path)) or any((ROOT / "mixformerv2_ros").glob(path)), path


def commands(page: Path) -> Iterator[list[str]]:
    """Command lines of `mixformerv2` in indented or fenced code."""
    text = page.read_text("utf-8").replace("\\\n", " ")
    for line in text.splitlines():
        found = re.match(r"(?: {4}|\$ )mixformerv2 (.+)", line)
        if found:
            yield shlex.split(found.group(1), comments=True)


def options(*words: str, capsys: pytest.CaptureFixture[str]) -> set[str]:
    """Options in the help of a command."""
    if words[0] == "visualize":
        pytest.importorskip("matplotlib", reason="needs matplotlib, the extra `lab`")
    assert main([*words, "--help"]) == 0
    return set(re.findall(r"--[a-z][a-z-]*", capsys.readouterr().out))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_exist(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, *words in commands(page):
        assert name in NAMES, name
        parts = words[:1] if name == "visualize" else []
        known = options(name, *parts, capsys=capsys)
        if "--track" in words:
            known |= options("track", capsys=capsys)
        for word in words:
            if word.startswith("--"):
                assert word.partition("=")[0] in known, (name, word)


def test_the_pages_show_commands() -> None:
    assert sum(1 for page in PAGES for _ in commands(page)) > 15
