"""An installation without the laboratory, as a robot gets it: what it runs, and what it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from packages import build_wheel, copy_sources
from recordings import write_bag, write_video

BOX = ("--box", "20,30,24,18")


class Installation:
    """The unpacked wheel, run by an interpreter that finds no other copy of the package."""

    def __init__(self, wheel: Path, folder: Path) -> None:
        zipfile.ZipFile(wheel).extractall(folder)
        self.folder = folder

    def run(self, *words: object) -> subprocess.CompletedProcess[str]:
        """Run `mixformerv2`. Without `site`, so that no editable installation is found."""
        path = os.pathsep.join([str(self.folder), sysconfig.get_path("platlib")])
        return subprocess.run(
            [sys.executable, "-S", "-m", "mixformerv2_ros.cli", *map(str, words)],
            cwd=self.folder, env={**os.environ, "PYTHONPATH": path},
            capture_output=True, text=True, check=False,
        )  # fmt: skip


@pytest.fixture(scope="module")
def robot(tmp_path_factory):
    folder = tmp_path_factory.mktemp("robot")
    wheel = build_wheel(copy_sources(folder), folder, MIXFORMERV2_ROS_LAB="OFF")
    return Installation(wheel, folder / "installation")


def assert_done(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stderr


def test_the_laboratory_is_left_out(robot):
    package = robot.folder / "mixformerv2_ros"
    assert (package / "cli" / "track.py").is_file()
    assert not (package / "lab").exists()


def test_every_command_is_listed(robot):
    done = robot.run("--help")
    assert_done(done)
    assert "  train " in done.stdout


def test_a_video_is_tracked(robot, tmp_path):
    clip = write_video(tmp_path / "clip.avi", 4)
    done = robot.run("track", clip, *BOX, "--csv", tmp_path / "tracks.csv")
    assert_done(done)
    assert len((tmp_path / "tracks.csv").read_text().splitlines()) == 5


def test_a_recording_is_replayed(robot, tmp_path):
    bag = write_bag(tmp_path / "bag", 4)
    done = robot.run("replay", bag, *BOX, "-o", tmp_path / "tracks", "--json", tmp_path / "t.json")
    assert_done(done)
    assert (tmp_path / "t.json").stat().st_size > 100


def test_models_are_described_converted_and_measured(robot, tmp_path):
    assert_done(robot.run("info"))
    weights = robot.folder / "mixformerv2_ros" / "models" / "default" / "model.safetensors"
    assert_done(robot.run("convert", weights, "-o", tmp_path / "bundle"))
    assert_done(robot.run("info", tmp_path / "bundle"))
    # The other engines are measured in test_benchmark.py; each costs seconds here.
    words = ("--engine", "onnxruntime", "--precision", "fp32", "--size", "320x240")
    done = robot.run("benchmark", "--rounds", "1", "--frames", "2", *words)
    assert_done(done)
    assert "onnxruntime cached" in done.stdout


@pytest.mark.parametrize("name", ["node", "play", "echo", "select", "video2bag", "demo"])
def test_other_commands_explain_themselves(name, robot):
    if name == "select":
        pytest.importorskip("tkinter", reason="needs Tk, which is absent")
    assert_done(robot.run(name, "--help"))


@pytest.mark.parametrize("name", ["train", "evaluate", "export", "trax", "visualize"])
def test_commands_of_the_laboratory_say_what_is_missing(name, robot):
    done = robot.run(name, "--help")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"mixformerv2 {name}: this command requires mixformerv2_ros.lab, which "
        "this installation does not include (MIXFORMERV2_ROS_LAB=OFF)\n"
    )


def test_a_report_is_refused_before_the_first_frame(robot, tmp_path):
    clip = write_video(tmp_path / "clip.avi", 4)
    done = robot.run("track", clip, *BOX, "--report", tmp_path / "report.html")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("mixformerv2 track: --report requires mixformerv2_ros.lab")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "report.html").exists()
