"""One-pass evaluation: start from the first frame's ground truth, follow to the end, no restart.

`run_sequence` does it in memory, for a trainer's validation; `evaluate_to_folder` keeps results on
disk, continues where a killed run stopped, and uses several processes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mixformerv2_ros import __version__
from mixformerv2_ros.errors import EngineError, MixFormerError, SourceError
from mixformerv2_ros.files import write_json
from mixformerv2_ros.io.images import read_bgr
from mixformerv2_ros.lab.datasets.sequences import AnnotatedSequence
from mixformerv2_ros.lab.evaluation.results import (
    Result,
    claim_folder,
    is_finished,
    read_result,
    write_result,
)
from mixformerv2_ros.lab.evaluation.summary import Summary, summarise
from mixformerv2_ros.lab.evaluation.trackers import (
    Estimate,
    Image,
    OnePassTracker,
    TrackerSpec,
    spec_settings,
    tracker_factory,
)
from mixformerv2_ros.machine import environment
from mixformerv2_ros.model.bundle import open_bundle
from mixformerv2_ros.shared_work import POLL_S, Rank, SharedWork, local_device

READ_AHEAD = 8
"""Frames decoded ahead of the tracker."""

READ_THREADS = 2
"""Threads that decode them: one is too slow for large images beside a fast engine."""

Progress = Callable[[AnnotatedSequence, Result], None]
"""Called after each sequence."""


def read_images(paths: Iterable[Path], ahead: int = READ_AHEAD) -> Iterator[Image | MixFormerError]:
    """Read images in order as BGR, decoding up to `ahead` of them in threads of their own.

    In place of an image that cannot be read or decoded comes the error.
    """
    remaining = iter(paths)
    with ThreadPoolExecutor(READ_THREADS) as pool:
        pending = deque(pool.submit(_read, path) for path in islice(remaining, ahead))
        while pending:
            image = pending.popleft().result()
            pending.extend(pool.submit(_read, path) for path in islice(remaining, 1))
            yield image


def _read(path: Path) -> Image | MixFormerError:
    try:
        return read_bgr(path)
    except MixFormerError as error:
        return error


def run_sequence(tracker: OnePassTracker, sequence: AnnotatedSequence) -> Result:
    """Run one tracker over one sequence, once, from its first box.

    Only the tracker's own time is measured, not reading and decoding. A frame that cannot be read
    or decoded is skipped, as everywhere (see `tracking.stream`): the tracker does not see it, and
    its row repeats the box before (see `Result.skipped`).

    Raises:
        SourceError, ImageError: the first frame cannot be read or decoded.
        BoxError: the first box cannot be tracked.
        EngineError: the tracker cannot run or gives a box that is not finite.
    """
    boxes, seconds, confidences, lost, depths = [], [], [], [], []
    size = (0, 0)
    estimate = Estimate(sequence.initial_box, 1.0, False)
    for index, image in enumerate(read_images(sequence.frames)):
        if index == 0 and not isinstance(image, MixFormerError):
            size = image.shape[1], image.shape[0]
        elif index in sequence.other_scene and not isinstance(image, MixFormerError):
            image = _resized(image, size)
        before = time.perf_counter()
        if isinstance(image, MixFormerError):
            if index == 0:
                raise image
            estimate = Estimate(estimate.box, 0.0, True)
        elif index == 0:
            tracker.start(image, sequence.initial_box)
        else:
            estimate = tracker.update(image)
        skipped = isinstance(image, MixFormerError)
        seconds.append(math.nan if skipped else round(time.perf_counter() - before, 6))
        if not np.isfinite(estimate.box).all():
            raise EngineError(
                f"{sequence.frames[index]}: expected a finite box from the tracker, "
                f"got {','.join(f'{value:g}' for value in estimate.box)}"
            )
        boxes.append(estimate.box)
        confidences.append(estimate.confidence)
        lost.append(estimate.lost)
        depths.append(0 if skipped or index == 0 else estimate.depth)
    return Result(
        boxes=np.array(boxes, dtype=np.float64),
        seconds=np.array(seconds, dtype=np.float64),
        confidences=np.array(confidences, dtype=np.float64),
        lost=np.array(lost, dtype=bool),
        depths=np.array(depths, dtype=np.intp) if any(depths) else None,
    )


def _resized(image: Image, size: tuple[int, int]) -> Image:
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


@dataclass(frozen=True)
class Evaluation:
    """Outcome of evaluating one tracker.

    Attributes:
        summary: Figures over the sequences that could be evaluated.
        problems: One line for each sequence that could not.
    """

    summary: Summary
    problems: list[str]


def evaluate_to_folder(
    spec: TrackerSpec,
    sequences: list[AnnotatedSequence],
    folder: Path,
    dataset: dict[str, str | int],
    workers: int = 1,
    progress: Progress | None = None,
    rank: Rank = Rank(),  # noqa: B008, a frozen value
) -> Evaluation:
    """Evaluate one tracker, keeping results in `folder`; finished sequences are not run again.

    Several processes, also of several machines, may do so at once with different ranks: each runs
    a share of the sequences, and what dead ones left. All return when every sequence is finished.

    Args:
        spec: The tracker.
        sequences: What to run on.
        folder: Folder of this tracker's results; created where missing.
        dataset: What names the data set (layout, root, frames): part of the configuration that must
            agree with that of results already in the folder.
        workers: Number of processes; 1 runs in this one.
        progress: Called after each sequence, also those that were finished already.
        rank: This process among those that work on the same folder.

    Returns:
        The figures, also written to `folder/summary.json` by rank 0.

    Raises:
        ParameterError: the folder holds results of another configuration.
        MixFormerError: the tracker cannot be built, or the folder cannot be written.
    """
    config = configuration(spec, dataset)
    if not all(is_finished(folder, sequence.name) for sequence in sequences):
        tracker_factory(spec)  # what concerns the tracker shows before anything is written
    claim_folder(folder, config)
    results: dict[str, Result] = {}
    problems: list[str] = []
    waiting = []
    for sequence in sequences:
        if not is_finished(folder, sequence.name):
            waiting.append(sequence)
            continue
        try:
            results[sequence.name] = read_result(folder, sequence.name, len(sequence))
        except SourceError as error:
            problems.append(str(error))
            continue
        problems += _skipped(spec.label, sequence, results[sequence.name])
        if progress is not None:
            progress(sequence, results[sequence.name])

    spec = dataclasses.replace(spec, device=local_device(spec.device))
    failures: dict[str, str] = {}
    with closing(_run_share(spec, waiting, workers, folder, rank, failures)) as outcomes:
        for sequence, outcome in outcomes:
            if isinstance(outcome, MixFormerError):
                failures[sequence.name] = str(outcome)
                continue
            write_result(folder, sequence.name, outcome)
            results[sequence.name] = outcome
            problems += _skipped(spec.label, sequence, outcome)
            if progress is not None:
                progress(sequence, outcome)
    for sequence in waiting:
        if sequence.name in failures:
            problems.append(f"{spec.label}, {sequence.name}: {failures[sequence.name]}")
        elif sequence.name not in results:  # another process's
            results[sequence.name] = read_result(folder, sequence.name, len(sequence))
            problems += _skipped(spec.label, sequence, results[sequence.name])
            if progress is not None:
                progress(sequence, results[sequence.name])

    done = [(each, results[each.name]) for each in sequences if each.name in results]
    summary = summarise(done, str(dataset.get("dataset", "folder")))
    if rank.is_main:
        content = {"tracker": spec.label, "config": config, **environment(), "workers": workers}
        write_json(folder / "summary.json", {**content, **summary.as_dict(), "problems": problems})
    return Evaluation(summary, problems)


def _skipped(label: str, sequence: AnnotatedSequence, result: Result) -> list[str]:
    text = skipped_frames(sequence, result)
    return [f"{label}, {text}"] if text else []


def skipped_frames(sequence: AnnotatedSequence, result: Result) -> str:
    """One line about the frames of a sequence that were skipped; empty if there were none."""
    if not result.skipped.any():
        return ""
    first = sequence.frames[int(result.skipped.argmax())]
    return (
        f"{sequence.name}: {result.skipped.sum()} of {len(sequence)} frames skipped that cannot be "
        f"decoded; first: {first}"
    )


def evaluate_results(
    folder: Path, sequences: list[AnnotatedSequence], dataset: str = "folder"
) -> Evaluation:
    """Compute the figures of results that are on disk already, ours or published raw results."""
    results, problems = [], []
    for sequence in sequences:
        try:
            results.append((sequence, read_result(folder, sequence.name, len(sequence))))
        except SourceError as error:
            problems.append(str(error))
    return Evaluation(summarise(results, dataset), problems)


def configuration(spec: TrackerSpec, dataset: dict[str, str | int]) -> dict[str, Any]:
    """What must be equal for results to belong together; JSON values only."""
    config: dict[str, Any] = {
        "tracker": spec.kind,
        "protocol": "one-pass",
        "num_threads": spec.num_threads,
        "opencv": cv2.__version__,
        **dataset,
    }
    if spec.kind == "mixformer":
        bundle = open_bundle(spec.path)
        config["mixformerv2_ros"] = __version__
        config["engine"] = spec.engine
        config["device"] = spec.device
        config["bundle"] = bundle.name
        config["weights_sha256"] = bundle.metadata["weights"]["sha256"]
        settings = dataclasses.asdict(spec_settings(spec, bundle))
        # As it is read from JSON again; left out where older results have none either.
        settings["exit_thresholds"] = list(settings["exit_thresholds"])
        if not settings["exit_thresholds"]:
            del settings["exit_thresholds"]
        config["settings"] = settings
        if spec.exits is not None:
            config["exits"] = {**spec.exits.facts(), "depth": bundle.spec.depth}
    elif spec.path is not None:
        config["weights"] = spec.path.resolve().name
        config["weights_sha256"] = checksum(spec.path)
    return config


def checksum(path: Path) -> str:
    """SHA-256 over a file, or over the names and contents of all files below a folder.

    Raises:
        SourceError: a file cannot be read.
    """
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
    try:
        for each in files:
            name = each.name if each == path else each.relative_to(path).as_posix()
            content = each.read_bytes()
            digest.update(f"{name}\0{len(content)}\0".encode())
            digest.update(content)
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error})") from None
    return digest.hexdigest()


Outcome = Result | MixFormerError


def _run_one(spec: TrackerSpec, sequence: AnnotatedSequence) -> Outcome:
    """Run one sequence; a problem of this sequence is returned, not raised."""
    make_tracker = tracker_factory(spec)
    try:
        return run_sequence(make_tracker(), sequence)
    except MixFormerError as error:
        return error


def _run_share(
    spec: TrackerSpec,
    sequences: list[AnnotatedSequence],
    workers: int,
    folder: Path,
    rank: Rank,
    failures: dict[str, str],
) -> Generator[tuple[AnnotatedSequence, Outcome], None, None]:
    """Run what this process gets of the sequences; ends when none is left in any process.

    Each result must be written before the next one is asked for. `failures` takes what others
    could not run, by name.
    """
    if not sequences:
        return
    if rank.world_size == 1:
        yield from _run_all(spec, partial(next, iter(sequences), None), workers)
        return
    by_name = {sequence.name: sequence for sequence in sequences}
    with SharedWork(folder / ".ranks", rank) as work:

        def left() -> list[str]:
            """Neither finished nor failed, as far as is known."""
            for name in by_name:
                if name not in failures and (reason := work.failure(name)) is not None:
                    failures[name] = reason
            return [n for n in by_name if n not in failures and not is_finished(folder, n)]

        def take() -> AnnotatedSequence | None:
            name = work.claim(left())
            return None if name is None else by_name[name]

        while left():
            with closing(_run_all(spec, take, workers)) as outcomes:
                for sequence, outcome in outcomes:
                    if isinstance(outcome, MixFormerError):
                        work.fail(sequence.name, str(outcome))
                    yield sequence, outcome
            if left():
                time.sleep(POLL_S)


def _run_all(
    spec: TrackerSpec, take: Callable[[], AnnotatedSequence | None], workers: int
) -> Generator[tuple[AnnotatedSequence, Outcome], None, None]:
    """Run sequences until `take` gives none: one by one here, or as they finish in processes."""
    if workers <= 1:
        while (sequence := take()) is not None:
            yield sequence, _run_one(spec, sequence)
        return
    first = take()
    if first is None:
        return
    # Fresh interpreters: engines' thread pools do not survive a fork.
    context = multiprocessing.get_context("spawn")
    before = set(multiprocessing.active_children())
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_follow_parent) as pool:
        running: dict[Future[Outcome], AnnotatedSequence] = {
            pool.submit(_run_one, spec, first): first
        }
        try:
            while True:
                while len(running) < workers and (sequence := take()) is not None:
                    running[pool.submit(_run_one, spec, sequence)] = sequence
                if not running:
                    break
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        except BrokenProcessPool:
            raise EngineError(
                f"a worker process of {spec.label} died (out of memory?); finished "
                "sequences are kept, run again to continue, perhaps with fewer workers"
            ) from None
        finally:
            # After an interrupt nobody waits for sequences that are half done.
            if running:
                for child in set(multiprocessing.active_children()) - before:
                    child.terminate()


def _follow_parent() -> None:
    """Set up a worker: interrupts are the parent's business, and its end is the worker's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_after_parent, daemon=True).start()


def _exit_after_parent() -> None:
    # A worker whose parent was killed would wait for work for ever.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
