"""Data loaders of training and validation samples."""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import signal
import sys
import traceback
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from mixformerv2_ros.errors import MixFormerError, SourceError, TrainingError
from mixformerv2_ros.lab.datasets.annotated_images import (
    VALIDATION_STEP,
    DecodedClip,
    Still,
    decode_clips,
    read_stills,
    too_many_unreadable,
)
from mixformerv2_ros.lab.datasets.folder import read_sequences
from mixformerv2_ros.lab.datasets.training_sets import (
    read_exclusions,
    read_sets,
    refuse_validation_sets,
)
from mixformerv2_ros.lab.datasets.validation_set import refuse_validation_names
from mixformerv2_ros.lab.training.config import TrainConfig
from mixformerv2_ros.lab.training.distributed import DistributedContext
from mixformerv2_ros.lab.training.generated_images import generate_stills
from mixformerv2_ros.lab.training.sample import Sample
from mixformerv2_ros.lab.training.sampling import TrackingDataset
from mixformerv2_ros.lab.training.stages import student_spec
from mixformerv2_ros.lab.training.synthetic import SyntheticDataset
from mixformerv2_ros.lab.training.training_model import Batch

log = logging.getLogger(__name__)

GENERATED = "generated"
"""`data.folder` that stands for generated images."""

GENERATED_STILLS = 400
"""Number of these images."""

SETTLED = 1000
"""Samples over which the fraction of unreadable images is taken at least."""

_CALIBRATION_SEED = 2**31 + 1
_PR_SET_PDEATHSIG = 1
"""Option of Linux's prctl: the signal that a process gets when its parent ends."""


class SampleSource(Protocol):
    """`sample(seed, index)` is a pure function of its arguments."""

    def sample(self, seed: int, index: int) -> Sample:
        """Draw sample number `index` of the stream `seed`."""


LoadedBatch = tuple[Batch, list[str]]
"""A batch, and one message per unreadable image that was drawn and left out."""


class SampleDataset(Dataset["LoadedBatch | MixFormerError"]):
    """Batches of a source of samples; index 0 is the first sample of the run."""

    def __init__(self, source: SampleSource, seed: int) -> None:
        self.source = source
        self.seed = seed

    def __getitem__(self, indices: range) -> LoadedBatch | MixFormerError:
        """Collate the samples of these indices.

        An error of bad input is returned: torch would make a traceback of one that is raised in a
        worker.
        """
        try:
            samples = [self.source.sample(self.seed, index) for index in indices]
        except MixFormerError as error:
            return error
        unreadable = [message for sample in samples for message in sample.unreadable]
        return Batch(
            torch.from_numpy(np.stack([sample.templates for sample in samples])),
            torch.from_numpy(np.stack([sample.search for sample in samples])),
            torch.from_numpy(np.stack([sample.edges for sample in samples])),
            torch.tensor([float(sample.present) for sample in samples]),
        ), unreadable

    def batch(self, indices: range) -> Batch:
        """Collate the samples of these indices.

        Raises:
            SourceError, ImageError: an annotation or an image is missing or damaged.
        """
        loaded = self[indices]
        if isinstance(loaded, MixFormerError):
            raise loaded
        return loaded[0]


def load_datasets(config: TrainConfig) -> tuple[SampleSource, SampleSource]:
    """Open the sources of training and validation samples.

    Raises:
        MixFormerError: data is missing or malformed.
    """
    if not config.data.sets:
        return load_synthetic(config)
    refuse_validation_sets(config.data.sets)
    _disable_opencv_threads()
    spec, skip = student_spec(config), config.data.max_unreadable > 0
    train, held = (
        TrackingDataset(read_sets(sets), spec, config.data.sampling, train, skip)
        for sets, train in ((config.data.sets, True), (config.data.validation_sets, False))
    )
    return train, held


def load_synthetic(config: TrainConfig) -> tuple[SyntheticDataset, SyntheticDataset]:
    """Read or generate the images and split them.

    Every twentieth still is for validation; without stills, every twentieth sequence.
    """
    _disable_opencv_threads()
    spec = student_spec(config)
    data = config.data
    # Resolved, because it is the key of a cache.
    folder = data.folder if data.folder == GENERATED else str(Path(data.folder).resolve())
    stills, clips = _read_images(folder, data.exclude, data.max_unreadable)
    kept = [still for i, still in enumerate(stills) if i % VALIDATION_STEP]
    held_clips = [] if stills else clips[::VALIDATION_STEP]
    kept_clips = [clip for clip in clips if clip not in held_clips]
    if not kept and not any(len(clip.images) > 1 for clip in kept_clips):
        raise SourceError(
            f"{config.data.folder}: expected at least two stills or two sequences with two visible "
            f"targets each, got {len(stills)} stills and {len(clips)} sequences"
        )
    held = stills[::VALIDATION_STEP]
    return (
        SyntheticDataset(kept, kept_clips, spec, config.data.synthetic),
        SyntheticDataset(held, held_clips, spec, config.data.synthetic),
    )


@functools.lru_cache(maxsize=1)
def _read_images(
    data: str, exclude: str, max_unreadable: float
) -> tuple[list[Still], list[DecodedClip]]:
    """Images of `data.folder`; the stages of a recipe share them."""
    if data == GENERATED:
        return generate_stills(GENERATED_STILLS), []
    root, names = Path(data), read_exclusions(exclude)
    stills = read_stills(root / "stills", max_unreadable) if (root / "stills").is_dir() else []
    sequences = read_sequences(root, names)
    refuse_validation_names([one.name for one in sequences], data)
    clips = decode_clips(sequences, max_unreadable)
    if not stills and not clips:
        raise SourceError(f"{root}: expected sequences/ or stills/ with annotations, found none")
    return stills, clips


class _BatchSampler:
    """Indices of this process's batches; a step takes consecutive indices, split by rank."""

    def __init__(self, first: int, steps: int, batch: int, context: DistributedContext) -> None:
        self.first, self.steps, self.batch, self.context = first, steps, batch, context

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[range]:
        for step in range(self.steps):
            place = step * self.context.world_size + self.context.rank
            begin = self.first + place * self.batch
            yield range(begin, begin + self.batch)


def load_batches(
    source: SampleSource,
    config: TrainConfig,
    first: int,
    steps: int,
    context: DistributedContext | None = None,
) -> Generator[Batch, None, None]:
    """Load the batches of a run onto the device.

    Args:
        source: Source of samples.
        config: Seed, batch size and number of workers.
        first: Index of the first sample.
        steps: Number of batches.
        context: Processes that split each step's samples.

    Raises:
        TrainingError: a data loader worker died.
        SourceError, ImageError: an annotation or an image is missing or damaged, or more images
            are than `data.max_unreadable` permits.
        PeerError: one of these happened in another process.
    """
    context = context or DistributedContext()
    loader = DataLoader(
        SampleDataset(source, config.seed),
        batch_size=None,
        sampler=_BatchSampler(first, steps, config.data.batch_size, context),
        num_workers=config.runtime.workers,
        prefetch_factor=4 if config.runtime.workers else None,
        worker_init_fn=_init_worker,
        pin_memory=context.device.type == "cuda",
        # Unused, but without it the loader would advance torch's global generator, which stochastic
        # depth uses, and a resumed run would differ from an uninterrupted one.
        generator=torch.Generator(),
    )
    images = _UnreadableImages(config.data.max_unreadable)
    batches = iter(loader)
    try:
        while True:
            with context.failing_together():
                loaded = next(batches, None)
                if isinstance(loaded, MixFormerError):
                    raise loaded
                if loaded is not None:
                    images.add(loaded[1], config.data.batch_size)
            if loaded is None:
                return
            yield loaded[0].to(context.device)
    except Exception as error:
        # The frames of torch's loader, which keep it and its workers alive.
        traceback.clear_frames(error.__traceback__)
        raise
    finally:
        del batches  # ends the workers


@contextmanager
def worker_deaths_named() -> Iterator[None]:
    """Raise TrainingError where a data loader worker dies.

    Torch raises RuntimeError in a signal handler, that is anywhere in a training.
    """
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise TrainingError(
            f"a data loader worker died (out of memory?): {' '.join(str(error).split())[:200]}"
        ) from None


class _UnreadableImages:
    """Counts the images that were left out, and names each of them once."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._samples = self._count = 0
        self._named: set[str] = set()

    def add(self, messages: Sequence[str], samples: int) -> None:
        """Count the unreadable images among those drawn for a number of samples.

        Raises:
            SourceError: they are more than permitted.
        """
        self._samples += samples
        self._count += len(messages)
        for message in messages:
            if message not in self._named:
                self._named.add(message)
                log.warning("left out: %s (%d so far)", message, len(self._named))
        if self._count > self._share * max(self._samples, SETTLED):
            of = f"the images of {self._samples} samples"
            raise too_many_unreadable(messages[-1], self._count, of, self._share)


def calibration_batch(source: SampleSource, count: int) -> Batch:
    """A batch of samples that the run does not see, the same in every process."""
    return SampleDataset(source, _CALIBRATION_SEED).batch(range(count))


def _init_worker(_: int) -> None:
    torch.set_num_threads(1)
    # The trainer handles signals that were sent to the whole process group, and stops its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _die_with_parent()


def _die_with_parent() -> None:
    """Let Linux kill this process when its parent has ended, even by SIGKILL."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it has ended in the meantime
            os.kill(os.getpid(), signal.SIGKILL)


def _disable_opencv_threads() -> None:
    """A worker that is forked while OpenCV's thread pool is alive would wait for it forever."""
    cv2.setNumThreads(1)
