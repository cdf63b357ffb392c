"""Runs that are stopped, killed, shared out among processes, or go wrong."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.multiprocessing as mp  # noqa: E402
from small_training import (  # noqa: E402
    BOXES,
    changed,
    free_port,
    pruning_stage,
    save_mixvit,
    small_config,
    tokens_stage,
)
from waiting import wait_for  # noqa: E402

from mixformerv2_ros.errors import CheckpointError, ParameterError, TrainingError  # noqa: E402
from mixformerv2_ros.lab.datasets.training_sets import SetConfig  # noqa: E402
from mixformerv2_ros.lab.training.checkpoint_files import (  # noqa: E402
    BEST,
    LAST,
    read_checkpoint,
    write_checkpoint,
)
from mixformerv2_ros.lab.training.config import ClipsConfig, LossConfig  # noqa: E402
from mixformerv2_ros.lab.training.config_files import changed_settings  # noqa: E402
from mixformerv2_ros.lab.training.data_loaders import load_batches, load_synthetic  # noqa: E402
from mixformerv2_ros.lab.training.profiling import profile_training  # noqa: E402
from mixformerv2_ros.lab.training.trainer import train  # noqa: E402
from mixformerv2_ros.lab.training.training_run import TrainingRun  # noqa: E402
from mixformerv2_ros.model.checkpoints import load_checkpoint  # noqa: E402

REPOSITORY = Path(__file__).resolve().parents[1]


def rows_of(folder):
    with (folder / "log.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def same_state(first, second):
    """Whether two nested structures of tensors and numbers are equal, bit for bit."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same_state(first[k], second[k]) for k in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(same_state, first, second))
    return first == second


@pytest.fixture(scope="module")
def tokens(miniature_data, tmp_path_factory):
    root = tmp_path_factory.mktemp("tokens")
    teacher = save_mixvit(root / "teacher.pth.tar")
    return train(tokens_stage(miniature_data, root / "out", teacher, init_from="", init_stage=""))


@pytest.mark.parametrize("stops", [(1,), (2,), (1, 2, 3)])
def test_a_stopped_distillation_continues_bit_for_bit(stops, tokens, miniature_data, tmp_path):
    """Model, optimiser, schedule, fade-out, samples and random numbers go on as if unbroken."""
    whole = pruning_stage(
        miniature_data, tmp_path / "whole", tokens, drop_path=0.3, warmup=3, drop_epoch=1
    )
    parts = changed(whole, output=str(tmp_path / "parts"))
    expected = read_checkpoint(train(whole))
    for stop in stops:
        counter = itertools.count(1)
        done = read_checkpoint(tmp_path / "parts" / LAST)["step"] if stop > stops[0] else 0
        wanted = stop - done
        path = train(parts, stop=lambda c=counter, w=wanted: next(c) >= w)
        assert read_checkpoint(path)["step"] == stop
    got = read_checkpoint(train(parts))
    for key in ("net", "model", "averaged", "optimizers", "rng", "step", "samples", "best"):
        assert same_state(expected[key], got[key]), key
    assert [row["step"] for row in rows_of(tmp_path / "parts")] == ["2", "4"]


def test_a_finished_run_is_left_alone(miniature_data, tmp_path):
    config = small_config(miniature_data, tmp_path)
    path = train(config)
    before = path.stat().st_mtime_ns
    assert train(config) == path
    assert path.stat().st_mtime_ns == before


def test_a_finished_run_with_other_settings_is_named(miniature_data, tmp_path):
    path = train(small_config(miniature_data, tmp_path))
    other = small_config(miniature_data, tmp_path, learning_rate=2e-3, seed=4, workers=1)
    before = path.stat().st_mtime_ns
    with pytest.raises(ParameterError) as caught:
        train(other)
    assert str(caught.value) == (
        f"{path} has finished with other settings: seed 3 -> 4, "
        "optimizer.learning_rate 0.001 -> 0.002; choose another output"
    )
    assert path.stat().st_mtime_ns == before


def test_changed_entries_of_lists_are_named(miniature_data, tmp_path):
    one, two = (SetConfig("coco", root, "train") for root in ("a", "b"))
    before = small_config(miniature_data, tmp_path, sets=(one, two))
    now = small_config(miniature_data, tmp_path, sets=(dataclasses.replace(one, weight=2.0),))
    assert changed_settings(dataclasses.asdict(before), now) == [
        "data.sets[0].weight 1.0 -> 2.0",
        "data.sets[1].kind coco -> none",
        "data.sets[1].root b -> none",
        "data.sets[1].split train -> none",
        "data.sets[1].weight 1.0 -> none",
    ]


def test_the_log_holds_each_validation_once(miniature_data, tmp_path):
    config = small_config(miniature_data, tmp_path)
    train(config, stop=iter([False, True]).__next__)
    # As if the run had been killed between its log and its checkpoint.
    with (tmp_path / "log.csv").open("a") as stream:
        stream.write(rows_of(tmp_path)[0]["step"].replace("2", "4") + ",1\n")
    train(config)
    rows = rows_of(tmp_path)
    assert [row["step"] for row in rows] == ["2", "4"]
    assert float(rows[1]["validation_iou"]) >= 0
    assert float(rows[1]["train_norm"]) > 0


def test_scalars_for_tensorboard(miniature_data, tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train(small_config(miniature_data, tmp_path, steps=10, every=5))
    found = events.EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    assert [event.step for event in found.Scalars("validation/iou")] == [5, 10]
    assert [event.step for event in found.Scalars("train/loss")] == [10]
    logged = [float(row["validation_iou"]) for row in rows_of(tmp_path)]
    values = [event.value for event in found.Scalars("validation/iou")]
    assert values == pytest.approx(logged, abs=1e-5)


def test_the_best_checkpoint_is_kept(miniature_data, tmp_path, monkeypatch):
    figures = iter([0.2, 0.5, 0.3])
    monkeypatch.setattr(
        "mixformerv2_ros.lab.training.trainer.validate", lambda *_: {"iou": next(figures)}
    )
    train(small_config(miniature_data, tmp_path, steps=6))
    assert read_checkpoint(tmp_path / BEST)["step"] == 4
    assert read_checkpoint(tmp_path / LAST)["step"] == 6
    assert read_checkpoint(tmp_path / LAST)["best"] == 0.5


def test_validation_tracks_through_held_out_clips(miniature_data, tmp_path):
    clips = ClipsConfig(root=str(miniature_data / "sequences"), frames=3)
    train(small_config(miniature_data, tmp_path, clips=clips))
    assert all(0 <= float(row["validation_clips_iou"]) <= 1 for row in rows_of(tmp_path))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_stays_near_float32(precision, tokens, miniature_data, tmp_path):
    whole = pruning_stage(miniature_data, tmp_path / "whole", tokens)
    half = changed(whole, precision=precision, output=str(tmp_path / "half"))
    losses = []
    for config in (whole, half):
        run = TrainingRun(config)
        stream = load_batches(load_synthetic(config)[0], config, 0, 4)
        losses.append([float(run.advance(batch)["loss"]) for batch in stream])
    # Only the first: fp16 skips steps while it looks for a scale.
    assert losses[1][0] != losses[0][0]
    assert losses[1][0] == pytest.approx(losses[0][0], rel=0.02)
    assert np.isfinite(losses).all()
    run.save(tmp_path / LAST)
    state = read_checkpoint(tmp_path / LAST)
    assert all(value.dtype == torch.float32 for value in state["net"].values())
    assert bool(state["scaler"]) == (precision == "fp16")


def test_divergence_stops_and_keeps_the_last_good_checkpoint(miniature_data, tmp_path):
    config = small_config(miniature_data, tmp_path, steps=8)
    train(changed(config, steps=4))
    good = (tmp_path / LAST).read_bytes()
    exploding = changed(config, learning_rate=1e30, backbone_learning_rate=1e30)
    with pytest.raises(TrainingError, match=r"diverged at step 6: loss is nan.*last good check"):
        train(exploding)
    assert (tmp_path / LAST).read_bytes() == good
    load_checkpoint(tmp_path / LAST)


def test_a_bad_step_does_not_reach_the_weights(miniature_data, tmp_path):
    config = small_config(miniature_data, tmp_path, loss=LossConfig(score_label="presence"))
    run = TrainingRun(config)
    batch = next(load_batches(load_synthetic(config)[0], config, 0, 1))
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    with pytest.raises(TrainingError, match="diverged at step 1: loss is nan"):
        run.advance(dataclasses.replace(batch, present=batch.present * float("nan")))
    assert same_state(before, dict(run.model.state_dict()))
    assert run.step == 0


def test_a_batch_without_targets_teaches_nothing_about_boxes(miniature_data, tmp_path):
    config = small_config(miniature_data, tmp_path)
    run = TrainingRun(config)
    batch = next(load_batches(load_synthetic(config)[0], config, 0, 1))
    empty = dataclasses.replace(batch, present=batch.present * 0, edges=batch.edges * 0)
    values = run.advance(empty)
    assert float(values["l1"]) == 0
    assert np.isfinite(float(values["loss"]))


# Files ------------------------------------------------------------------------------------------


def test_a_full_disk_leaves_the_last_checkpoint(miniature_data, tmp_path):
    config = small_config(miniature_data, tmp_path)
    run = TrainingRun(config)
    run.save(tmp_path / LAST)
    good = (tmp_path / LAST).read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(good) // 2, hard))
    try:
        with pytest.raises(TrainingError, match=r"cannot write a checkpoint .*is intact") as caught:
            run.save(tmp_path / LAST)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert "\n" not in str(caught.value)
    assert (tmp_path / LAST).read_bytes() == good
    assert not list(tmp_path.glob(".*.partial"))


def test_a_kill_in_the_middle_of_writing_leaves_a_checkpoint(tmp_path):
    """SIGKILL at many moments of a process that does nothing but write checkpoints."""
    path = tmp_path / LAST
    code = """
        import sys, torch
        from pathlib import Path
        from mixformerv2_ros.lab.training.checkpoint_files import write_checkpoint
        state = {"net": {"w": torch.zeros(200_000)}, "spec": {}, "averaged": {}, "step": 0}
        while True:
            state["step"] += 1
            state["net"]["w"] += 1
            write_checkpoint(state, Path(sys.argv[1]))
    """
    for delay in (0.0, 0.003, 0.011, 0.02):
        path.unlink(missing_ok=True)
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), str(path)], cwd=REPOSITORY
        )
        try:
            wait_for(path.exists, "a checkpoint", 120)
            first = path.stat().st_ino
            wait_for(lambda old=first: path.stat().st_ino != old, "the next checkpoint", 120)
            time.sleep(delay)
        finally:
            process.kill()
            process.wait()
        state = read_checkpoint(path)
        assert (state["net"]["w"] == state["step"]).all()
        assert state["step"] > 1


def test_sigterm_ends_a_training_with_a_checkpoint(miniature_data, tmp_path):
    """Sent to all of its processes, as service managers and terminals do."""
    path = tmp_path / "config.yaml"
    path.write_text(
        f"preset: T\noutput: {tmp_path / 'out'}\nschedule: {{steps: 100000}}\n"
        f"data: {{folder: {miniature_data}, batch_size: 2}}\n"
        "model: {width: 32, heads: 2, depth: 1, bins: 16, template_size: 32, search_size: 64}\n"
        "runtime: {workers: 1, threads: 1}\nvalidation: {every: 3, samples: 4}\n"
    )
    command = [sys.executable, "-m", "mixformerv2_ros.cli", "train", str(path)]
    process = subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    wait_for((tmp_path / "out" / LAST).exists, "a checkpoint", 120)
    os.killpg(process.pid, signal.SIGTERM)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "stopped; run the same command to resume" in out
    assert "Traceback" not in errors
    assert read_checkpoint(tmp_path / "out" / LAST)["step"] >= 3


def test_damaged_checkpoints_are_named(miniature_data, tmp_path):
    config = small_config(miniature_data, tmp_path)
    path = tmp_path / LAST
    path.write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match="expected a training checkpoint"):
        train(config)
    torch.save({"net": {}}, path)
    with pytest.raises(CheckpointError, match="got another file of torch"):
        train(config)


def test_other_optimisers_are_not_restored(miniature_data, tmp_path):
    config = small_config(miniature_data, tmp_path)
    train(changed(config, steps=2))
    other = changed(config, param_groups="shape", matrix_learning_rate=0.01)
    with pytest.raises(CheckpointError, match=r"expected optimisers with \[2, 1\] groups of param"):
        train(other)


def test_changed_settings_are_told(miniature_data, tmp_path, caplog):
    config = small_config(miniature_data, tmp_path)
    train(changed(config, steps=2))
    with caplog.at_level("WARNING"):
        train(changed(config, learning_rate=2e-3, workers=1))
    assert (
        f"settings have changed since {tmp_path / LAST}: "
        "optimizer.learning_rate 0.001 -> 0.002, schedule.steps 2 -> 4" in caplog.text
    )
    saved = read_checkpoint(tmp_path / LAST)["config"]
    assert changed_settings(saved, changed(config, learning_rate=2e-3)) == []
    assert changed_settings(saved, config) == ["optimizer.learning_rate 0.002 -> 0.001"]


def test_checkpoints_from_before_there_were_stages_still_load(miniature_data, tmp_path):
    """The default weights' own: no stage, no sample count, one generator."""
    config = small_config(miniature_data, tmp_path / "new")
    path = train(changed(config, output=str(tmp_path / "old"), steps=2))
    state = read_checkpoint(path)
    for key in ("samples", "best", "scaler"):
        del state[key]
    state["rng"] = state["rng"][0]["cpu"]
    state["config"] = {"preset": "T", "seed": 3}
    (tmp_path / "new").mkdir()
    write_checkpoint(state, tmp_path / "new" / LAST)
    run = TrainingRun(config)
    run.restore(tmp_path / "new" / LAST)
    assert (run.step, run.samples) == (2, 8)
    from_old = TrainingRun(changed(config, init_from=str(tmp_path / "new" / LAST)))
    expected = state["averaged"]
    assert same_state(dict(expected), dict(from_old.model.state_dict()))


# Several processes ------------------------------------------------------------------------------


def _member(rank, count, port, config, target):
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    curve = []
    train(config, watch=lambda step, total, values: curve.append(float(values["loss"])))
    torch.save(curve, target / f"curve{rank}")
    # As `python -m mixformerv2_ros.cli` does: torch's threads may outlive the interpreter.
    os._exit(0)


def test_two_processes_train_like_one_with_twice_the_batch(miniature_data, tmp_path, tokens):
    """Among the samples are absent targets, in unlike numbers: the mean must be that over all."""
    one = pruning_stage(
        miniature_data, tmp_path / "one", tokens, batch_size=8, epoch_samples=16, clip_norm=0.1
    )
    two = changed(one, batch_size=4, output=str(tmp_path / "two"))
    expected = []
    train(one, watch=lambda step, total, values: expected.append(float(values["loss"])))
    mp.spawn(_member, args=(2, free_port(), two, tmp_path), nprocs=2)
    curves = [torch.load(tmp_path / f"curve{rank}") for rank in (0, 1)]
    np.testing.assert_allclose(np.mean(curves, axis=0), expected, rtol=2e-4)
    first, second = (read_checkpoint(tmp_path / name / LAST) for name in ("one", "two"))
    for name, value in first["net"].items():
        torch.testing.assert_close(second["net"][name], value, rtol=1e-3, atol=1e-5)
    assert second["samples"] == first["samples"] == 32
    assert len(second["rng"]) == 2
    one_row, two_row = (rows_of(tmp_path / name)[-1] for name in ("one", "two"))
    # What is logged are means over the processes.
    for name in ("train_loss", "train_l1", "train_iou", "train_kl"):
        assert float(two_row[name]) == pytest.approx(float(one_row[name]), rel=2e-3), name
    assert float(one_row["validation_iou"]) == pytest.approx(
        float(two_row["validation_iou"]), abs=1e-4
    )


def test_torchrun_runs_a_recipe(miniature_data, tmp_path):
    (tmp_path / "plain.yaml").write_text(
        f"preset: T\noutput: unused\nschedule: {{steps: 4}}\n"
        f"data: {{folder: {miniature_data}, batch_size: 2}}\n"
        "model: {width: 32, heads: 2, depth: 1, bins: 16, template_size: 32, search_size: 64}\n"
        "runtime: {workers: 0, threads: 1, device: cpu}\nvalidation: {every: 2, samples: 4}\n"
    )
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"output: {tmp_path / 'out'}\nstages:\n- {{name: a, config: plain.yaml}}\n"
        "- {name: b, config: plain.yaml, settings: {init_from: $a}}\nbundle: b\n"
    )
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
        "--master-port", str(free_port()), "-m", "mixformerv2_ros.cli", "train", str(path),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("All runs") == 1
    assert read_checkpoint(tmp_path / "out" / "b" / LAST)["samples"] == 16
    assert (tmp_path / "out" / "bundle" / "search.onnx").exists()


def test_a_profile_measures_the_parts_of_a_step(miniature_data, tmp_path):
    config = small_config(miniature_data, tmp_path / "none", steps=10, loss=BOXES)
    times = profile_training(config, 2)
    assert times.network > 0
    assert times.update > 0
    assert times.overhead == pytest.approx((times.update + times.waiting) / times.network)
    assert "samples/s" in times.lines()[3]
    assert not (tmp_path / "none").exists()
