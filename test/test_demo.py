"""The demo on clips that need no network."""

from __future__ import annotations

import pytest

from mixformerv2_ros.cli import demo, main
from mixformerv2_ros.errors import SourceError

OUTPUTS = {"tracks.mp4", "tracks.csv", "report.html", "tracks_bag", "recording"}


@pytest.fixture
def clip(tmp_path):
    return demo.render_clip(tmp_path / "clip.avi", frames=20)


def test_an_own_video_goes_the_whole_way(clip, tmp_path, capsys):
    path, box = clip
    out = tmp_path / "out"
    assert main(["demo", "--video", str(path), "--box", box, "-o", str(out)]) == 0
    assert {entry.name for entry in out.iterdir()} >= OUTPUTS
    assert len((out / "tracks.csv").read_text().splitlines()) == 21
    shown = capsys.readouterr().out
    assert "mixformerv2 video2bag" in shown
    assert str(out / "report.html") in shown
    # A second demo replaces the first.
    (out / "stale").touch()
    assert main(["demo", "--video", str(path), "--box", box, "-o", str(out)]) == 0
    assert not (out / "stale").exists()


def test_a_folder_of_others_is_left_alone(clip, tmp_path, capsys):
    path, box = clip
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").touch()
    assert main(["demo", "--video", str(path), "--box", box, "-o", str(mine)]) == 2
    assert "not created by the demo" in capsys.readouterr().err
    assert (mine / "thesis.tex").exists()


def test_without_a_package_manager_a_clip_is_rendered(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(SourceError, match="apt-get"):
        demo.debian_clip(tmp_path / "cache" / "mixformerv2")
    out = tmp_path / "out"
    assert main(["demo", "-o", str(out), "--max-frames", "5"]) == 0
    assert "a rendered clip is used instead" in capsys.readouterr().out
    assert {entry.name for entry in out.iterdir()} >= OUTPUTS


def test_a_cached_clip_is_not_fetched_again(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    (tmp_path / demo.CLIP).write_bytes(b"here already")
    assert demo.debian_clip(tmp_path) == tmp_path / demo.CLIP


@pytest.mark.parametrize(
    "words", [["--video", "a.avi"], ["--box", "1,2,3,4"], ["--max-frames", "1"]]
)
def test_wrong_words_are_refused(words, tmp_path, capsys):
    assert main(["demo", *words, "-o", str(tmp_path / "out")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "out").exists()
