"""Trainings on data with broken files: one line, exit code 2, and no process that is left."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from small_training import free_port, write_data_sets  # noqa: E402
from waiting import wait_for  # noqa: E402

from mixformerv2_ros.cli import main  # noqa: E402
from mixformerv2_ros.lab.training.checkpoint_files import LAST, read_checkpoint  # noqa: E402

REPOSITORY = Path(__file__).resolve().parents[1]
BROKEN = "GOT-10k_Train_000001/00000003.jpg"


@pytest.fixture
def settings(tmp_path):
    """Settings of a training on a miniature of GOT-10k with one damaged image."""
    write_data_sets(tmp_path / "data")
    root = tmp_path / "data" / "got10k"
    (root / BROKEN).write_bytes(b"no image")
    path = tmp_path / "config.yaml"
    path.write_text(
        f"preset: T\noutput: {tmp_path / 'out'}\nschedule: {{steps: 60}}\n"
        "model: {width: 32, heads: 2, depth: 1, bins: 16, template_size: 32, search_size: 64}\n"
        "data:\n  batch_size: 2\n  sampling: {min_frames: 8}\n"
        f"  sets: [{{kind: got10k, root: {root}, split: vottrain}}]\n"
        f"  validation_sets: [{{kind: got10k, root: {root}, split: votval}}]\n"
        "runtime: {workers: 0, threads: 1, device: cpu}\nvalidation: {every: 60, samples: 2}\n"
    )
    return path


def children_of(process: int) -> list[int]:
    found = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [int(one) for one in found]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_is_named_in_one_line(workers, settings, capfd):
    """Also of those processes, which write where ours does."""
    assert main(["train", str(settings), f"runtime.workers={workers}"]) == 2
    error = capfd.readouterr().err
    lines = [line for line in error.splitlines() if "mixformerv2 train:" in line]
    assert len(lines) == 1
    assert f"{BROKEN} cannot be decoded" in lines[0]
    assert "Traceback" not in error


def test_a_damaged_image_ends_all_processes(settings):
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
        "--master-port", str(free_port()), "-m", "mixformerv2_ros.cli", "train", str(settings),
        "runtime.workers=1",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    ours = [line for line in done.stderr.splitlines() if "mixformerv2 train:" in line]
    assert len(ours) == 1
    assert f"{BROKEN} cannot be decoded" in ours[0]
    assert "exitcode  : 2" in done.stderr


def test_workers_end_with_their_parent(settings):
    (settings.parent / "data" / "got10k" / BROKEN).write_bytes(
        (settings.parent / "data" / "got10k" / BROKEN).with_stem("00000004").read_bytes()
    )
    words = ["train", settings, "runtime.workers=2", "schedule.steps=100000", "validation.every=1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "mixformerv2_ros.cli", *map(str, words)],
        cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_for((settings.parent / "out" / LAST).exists, "a checkpoint")
        workers = children_of(process.pid)
        assert len(workers) >= 2
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    wait_for(lambda: not any(Path(f"/proc/{one}").exists() for one in workers), "their end")


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images_may_be_left_out(workers, settings, caplog):
    words = ["schedule.steps=20", "validation.every=20", f"runtime.workers={workers}"]
    with caplog.at_level("WARNING"):
        assert main(["train", str(settings), *words, "data.max_unreadable=0.1"]) == 0
    assert f"{BROKEN} cannot be decoded" in caplog.text
    assert caplog.text.count("left out") == 1
    state = read_checkpoint(settings.parent / "out" / LAST)
    assert state["step"] == 20


def test_more_unreadable_images_than_permitted_end_the_training(settings, capsys):
    for image in (settings.parent / "data" / "got10k").glob("*4/*.jpg"):
        image.write_bytes(b"")
    assert main(["train", str(settings), "data.max_unreadable=0.001"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.endswith("data.max_unreadable is 0.001")
    assert re.search(r"; \d of the images of \d+ samples unreadable", error)


@pytest.mark.parametrize("share", [0.0, 0.1])
def test_unreadable_stills_and_frames(share, miniature_data, tmp_path, caplog, capsys):
    for source in miniature_data.rglob("*"):
        if source.is_file():
            target = tmp_path / "data" / source.relative_to(miniature_data)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    (tmp_path / "data" / "stills" / "images" / "003.png").write_bytes(b"no image")
    (tmp_path / "data" / "sequences" / "one" / "img" / "0001.png").unlink()
    (tmp_path / "data" / "sequences" / "one" / "img" / "0001.png").write_bytes(b"")
    path = tmp_path / "config.yaml"
    path.write_text(
        f"preset: T\noutput: {tmp_path / 'out'}\nschedule: {{steps: 1}}\n"
        f"data: {{folder: {tmp_path / 'data'}, batch_size: 2, max_unreadable: {share}}}\n"
        "model: {width: 32, heads: 2, depth: 1, bins: 16, template_size: 32, search_size: 64}\n"
        "runtime: {workers: 0, threads: 1, device: cpu}\nvalidation: {every: 1, samples: 2}\n"
    )
    with caplog.at_level("WARNING"):
        assert main(["train", str(path)]) == (2 if share == 0 else 0)
    if share:
        assert "003.png cannot be decoded" in caplog.text
        assert "one/img/0001.png" in caplog.text
    else:
        assert "003.png cannot be decoded" in capsys.readouterr().err
