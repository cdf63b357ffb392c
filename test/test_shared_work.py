"""Jobs shared among ranks: shares, dead processes, failures; commands in two processes."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest
from processes import CLI, ROOT
from recordings import picture, red_box, run_command, storage_file, write_bag

from mixformerv2_ros.errors import ParameterError
from mixformerv2_ros.shared_work import Rank, SharedWork, launched_rank, local_device

JOBS = [f"job {number}" for number in range(6)]


def test_ranks_take_their_shares_then_those_of_others(tmp_path: Path) -> None:
    folder = tmp_path / "ranks"
    first, second = SharedWork(folder, Rank(0, 2)), SharedWork(folder, Rank(1, 2))
    with first, second:
        assert [first.claim(JOBS) for _ in range(2)] == ["job 0", "job 2"]
        assert second.claim(JOBS) == "job 1"
        assert [first.claim(JOBS) for _ in range(3)] == ["job 4", "job 5", "job 3"]
        assert second.claim(JOBS) is None
        assert first.claim(JOBS) is None
    assert not folder.exists()


def test_a_process_that_leaves_gives_its_claims_back(tmp_path: Path) -> None:
    with SharedWork(tmp_path / "ranks", Rank(1, 2)) as other:
        with SharedWork(tmp_path / "ranks", Rank(0, 2)) as work:
            assert work.claim(["a"]) == "a"
            assert other.claim(["a"]) is None
        assert other.claim(["a"]) == "a"


def test_claims_of_a_dead_process_are_void(tmp_path: Path) -> None:
    folder = tmp_path / "ranks"
    program = (
        "import os, sys; from pathlib import Path\n"
        "from mixformerv2_ros.shared_work import Rank, SharedWork\n"
        "work = SharedWork(Path(sys.argv[1]), Rank(1, 2)).__enter__()\n"
        "assert work.claim(['a']) == 'a'; os.kill(os.getpid(), 9)"
    )
    died = subprocess.run([sys.executable, "-c", program, folder], cwd=ROOT, check=False)
    assert died.returncode == -signal.SIGKILL
    with SharedWork(folder, Rank(0, 2)) as work:
        assert work.claim(["a"]) == "a"


def test_claims_of_a_silent_machine_are_void_after_a_while(tmp_path: Path) -> None:
    folder = tmp_path / "ranks"
    with SharedWork(folder, Rank(0, 2)) as work:
        assert work.claim(["a"]) == "a"
        (claim,) = folder.glob("*.claim")
        claim.write_text("1.elsewhere.12")
        sign = folder / "1.elsewhere.12.alive"
        sign.write_text("")
        with SharedWork(folder, Rank(2, 3)) as other:
            assert other.claim(["a"]) is None
            silent = time.time() - 3600
            os.utime(sign, (silent, silent))
            assert other.claim(["a"]) == "a"


def test_what_one_process_cannot_do_no_other_tries(tmp_path: Path) -> None:
    first, second = (SharedWork(tmp_path / "ranks", Rank(r, 2)) for r in range(2))
    with first, second:
        assert first.claim(["a", "b"]) == "a"
        first.fail("a", "broken")
        assert second.failure("a") == "broken"
        assert second.failure("b") is None
        assert second.claim(["a", "b"]) == "b"


def test_failures_of_an_earlier_run_do_not_count(tmp_path: Path) -> None:
    with SharedWork(tmp_path / "ranks", Rank(0, 2)) as work:
        work.fail("a", "broken")
        (failure,) = (tmp_path / "ranks").glob("*.failed")
        earlier = time.time() - 3600
        os.utime(failure, (earlier, earlier))
        assert work.failure("a") is None
        assert work.claim(["a"]) == "a"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Rank(0, 1)),
        ({"RANK": "1", "WORLD_SIZE": "4"}, Rank(1, 4)),
        ({"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "3"}, Rank(2, 3)),
        # The variables of a batch script, which is one process whatever its allocation is.
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, Rank(0, 1)),
    ],
)
def test_launchers_number_their_processes(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: Rank
) -> None:
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert launched_rank() == expected


@pytest.mark.parametrize("rank", ["4", "-1", "one"])
def test_a_rank_beyond_its_world_is_one_line(monkeypatch: pytest.MonkeyPatch, rank: str) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ParameterError, match=f"RANK must be .*, got RANK='{rank}'"):
        launched_rank()


def test_cuda_is_the_gpu_of_the_local_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    assert local_device("cuda") == "cuda"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert local_device("cuda") == "cuda:3"
    assert local_device("cuda:1") == "cuda:1"
    assert local_device("cpu") == "cpu"


@pytest.mark.parametrize(
    ("name", "value"), [("LOCAL_RANK", "first"), ("LOCAL_WORLD_SIZE", ""), ("LOCAL_RANK", "-1")]
)
def test_numbers_of_a_launcher_that_are_none_are_one_line(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setenv(name, value)
    with pytest.raises(ParameterError, match=f"{name} must be a number, got '{value}'"):
        local_device("cuda")


def test_a_world_size_that_is_none_ends_a_command_in_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, *CLI, "evaluate", "--root", str(tmp_path), "-o", str(tmp_path / "out")],
        cwd=ROOT, env={**os.environ, "RANK": "0", "WORLD_SIZE": ""},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.endswith("got RANK='0' and WORLD_SIZE=''")


KILLED = """
import os, sys
from mixformerv2_ros.cli.entry import main
import {module} as module
original, calls = module.{function}, []
def write(path, name, *content):
    calls.append(path)
    if len(calls) == {call}:
        os.kill(os.getpid(), 9)
    original(path, name, *content)
module.{function} = write
main()
"""
"""A command that dies when it is about to write a result for the n-th time."""


def start(rank: int, *words: object, program: tuple[str, ...] = CLI) -> subprocess.Popen[str]:
    """A command of ours as rank `rank` of two."""
    environment = {**os.environ, "RANK": str(rank), "WORLD_SIZE": "2", "OMP_WAIT_POLICY": "passive"}
    return subprocess.Popen(
        [sys.executable, *program, *map(str, words)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, out, err


def run_killed(rank: int, *words: object, module: str, function: str, call: int) -> None:
    program = KILLED.format(module=module, function=function, call=call)
    assert end(start(rank, *words, program=("-c", program)))[0] == -signal.SIGKILL


def write_sequences(root: Path, count: int, frames: int) -> None:
    for number in range(count):
        folder = root / f"sequence_{number}"
        (folder / "img").mkdir(parents=True)
        for index in range(frames):
            cv2.imwrite(str(folder / "img" / f"{index:05d}.jpg"), picture(index)[..., ::-1])
        rows = [",".join(f"{value:g}" for value in red_box(index)) for index in range(frames)]
        (folder / "groundtruth.txt").write_text("\n".join(rows) + "\n")


def test_evaluate_in_two_processes_one_killed(tmp_path: Path) -> None:
    root, out = tmp_path / "data", tmp_path / "out"
    write_sequences(root, 6, 12)
    (root / "sequence_5" / "img" / "00000.jpg").write_bytes(b"")  # cannot start
    words = ("evaluate", "--root", root, "--trackers", "MIL", "-o", out)
    module = "mixformerv2_ros.lab.evaluation.run"
    run_killed(1, *words, module=module, function="write_result", call=2)
    done = set((out / "MIL").glob("sequence_*[0-9].txt"))
    assert len(done) == 1
    stamps = {path: path.stat().st_mtime_ns for path in done}
    processes = [start(rank, *words) for rank in (0, 1)]
    (code, printed, errors), other = (end(process) for process in processes)
    assert code == 2
    assert "sequence_5/img/00000.jpg" in errors
    assert printed.splitlines()[2].split()[:2] == ["MIL", "5"]
    assert other[:2] == (0, "")
    assert {path: path.stat().st_mtime_ns for path in done} == stamps
    assert len(list((out / "MIL").glob("sequence_*[0-9].txt"))) == 5
    assert not (out / "MIL" / ".ranks").exists()


def test_replay_of_several_bags_in_two_processes_one_killed(tmp_path: Path) -> None:
    bags = [write_bag(tmp_path / f"bag_{number}", 5) for number in range(5)]
    (tmp_path / "bag_empty").mkdir()
    alone, out, tables = tmp_path / "alone" / "bag_0", tmp_path / "out", tmp_path / "tables"
    box = ",".join(f"{value:g}" for value in red_box(0))
    words = ("--box", box, "--json", tables, "--num-threads", 1)
    command = ("replay", *bags, tmp_path / "bag_empty", "-o", out, *words)
    # The first call writes the options, the second the first recording's outcome.
    run_killed(1, *command, module="mixformerv2_ros.cli.replay_many", function="write_json", call=3)
    assert len(list((out / ".replay").glob("*.outcome.json"))) == 1
    processes = [start(rank, *command) for rank in (0, 1)]
    (code, printed, errors), other = (end(process) for process in processes)
    assert code == 2
    assert "bag_empty" in errors
    assert f"5 of 6 recordings replayed: {out / 'summary.csv'}" in printed
    assert other[0] == 0
    rows = list(csv.DictReader((out / "summary.csv").open()))
    assert [row["code"] for row in rows] == ["0"] * 5 + ["2"]
    assert [row["frames"] for row in rows] == ["5"] * 5 + ["0"]
    assert sorted(path.name for path in tables.iterdir()) == [f"bag_{n}.json" for n in range(5)]
    assert run_command("replay", bags[0], "-o", alone, *words[:2], *words[4:]) == 0
    assert storage_file(out / "bag_0").read_bytes() == storage_file(alone).read_bytes()


def test_replay_of_several_bags_continues_and_compares(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bags = [write_bag(tmp_path / f"bag_{number}", 3) for number in range(2)]
    out, tables = tmp_path / "out", tmp_path / "tables"
    words = ["--box", ",".join(f"{value:g}" for value in red_box(0)), "--num-threads", "1"]
    assert run_command("replay", *bags, "-o", out, "--json", tables, *words) == 0
    assert "bag_0\n" in capsys.readouterr().err
    shutil.rmtree(out / "bag_1")
    assert run_command("replay", *bags, "-o", out, "--json", tables, *words) == 0
    errors = capsys.readouterr().err
    assert "bag_1\n" in errors
    assert "bag_0\n" not in errors
    assert run_command("replay", *bags, "-o", tmp_path / "c", "--reference", tables, *words) == 0
    with pytest.raises(ParameterError, match=r"holds outputs with json .*, this run has None"):
        run_command("replay", *bags, "-o", out, *words)
    with pytest.raises(ParameterError, match="must have different names"):
        run_command("replay", bags[0], bags[0], "-o", tmp_path / "d", *words)
