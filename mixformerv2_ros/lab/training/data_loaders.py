"""Where samples come from: the synthetic world or data sets, as endless streams of batches."""

from __future__ import annotations

import functools
import signal
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from mixformerv2_ros.errors import TrainingError
from mixformerv2_ros.lab.datasets.images import (
    VALIDATION_STEP,
    DecodedClip,
    Still,
    read_clips,
    read_stills,
)
from mixformerv2_ros.lab.datasets.sequences import read_names
from mixformerv2_ros.lab.datasets.training_sets import read_sets
from mixformerv2_ros.lab.training.config import TrainConfig
from mixformerv2_ros.lab.training.distributed import DistributedContext
from mixformerv2_ros.lab.training.generated_images import draw_stills
from mixformerv2_ros.lab.training.sample import Sample
from mixformerv2_ros.lab.training.sampling import TrackingDataset
from mixformerv2_ros.lab.training.stages import student_spec
from mixformerv2_ros.lab.training.synthetic import SyntheticDataset
from mixformerv2_ros.lab.training.training_model import Batch

GENERATED = "generated"
"""`data.folder` that stands for images that are made up instead of read."""

GENERATED_STILLS = 400
"""How many are made up."""

_CALIBRATION_SEED = 2**31 + 1


class SampleSource(Protocol):
    """`sample(seed, index)` is a pure function of its arguments."""

    def sample(self, seed: int, index: int) -> Sample:
        """Draw sample number `index` of the stream `seed`."""


class SampleDataset(Dataset[tuple[np.ndarray, ...]]):
    """A source as a map from index to arrays; index 0 is the first sample of the whole run."""

    def __init__(self, source: SampleSource, seed: int) -> None:
        self.source = source
        self.seed = seed

    def __getitem__(self, index: int) -> tuple[np.ndarray, ...]:
        sample = self.source.sample(self.seed, index)
        present = np.float32(sample.present)
        return sample.templates, sample.search, sample.edges, np.asarray(present)

    def batch(self, indices: range) -> Batch:
        """Samples of these numbers."""
        arrays = [self[index] for index in indices]
        return Batch(*(torch.from_numpy(np.stack(part)) for part in zip(*arrays, strict=True)))


def load_datasets(config: TrainConfig) -> tuple[SampleSource, SampleSource]:
    """Sources of training and validation samples.

    Raises:
        MixFormerError: data is missing or malformed.
    """
    if not config.data.sets:
        return load_synthetic(config)
    # A loader process forked while OpenCV's thread pool is alive would wait for it for ever.
    cv2.setNumThreads(1)
    spec = student_spec(config)
    return (
        TrackingDataset(read_sets(config.data.sets), spec, config.data.sampling, train=True),
        TrackingDataset(
            read_sets(config.data.validation_sets), spec, config.data.sampling, train=False
        ),
    )


def load_synthetic(config: TrainConfig) -> tuple[SyntheticDataset, SyntheticDataset]:
    """Read the data and split it: one of every twenty stills is kept for validation.

    Instead of reading any, the world can draw its pictures itself.
    """
    # A loader process forked while OpenCV's thread pool is alive would wait for it for ever.
    cv2.setNumThreads(1)
    spec = student_spec(config)
    stills, clips = _read_images(config.data.folder, config.data.exclude)
    kept = [still for i, still in enumerate(stills) if i % VALIDATION_STEP]
    held = [still for i, still in enumerate(stills) if i % VALIDATION_STEP == 0]
    return SyntheticDataset(kept, clips, spec, config.data.synthetic), SyntheticDataset(
        held, [], spec, config.data.synthetic
    )


@functools.lru_cache(maxsize=1)
def _read_images(data: str, exclude: str) -> tuple[list[Still], list[DecodedClip]]:
    """Pictures of a world; the stages of a recipe share them."""
    if data == GENERATED:
        return draw_stills(GENERATED_STILLS), []
    names = read_names(Path(exclude)) if exclude else []
    return read_stills(Path(data) / "stills"), read_clips(Path(data) / "sequences", names)


class _BatchSampler:
    """Sample numbers of this process's batches: a step takes one run of numbers, shared out."""

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
    """Batches of the run's stream, on the device.

    Args:
        source: Where samples come from.
        config: Seed, batch and number of loader processes.
        first: Number of the first sample.
        steps: How many batches.
        context: Those that share the stream.

    Raises:
        TrainingError: a loader process died.
    """
    context = context or DistributedContext()
    loader = DataLoader(
        SampleDataset(source, config.seed),
        batch_sampler=_BatchSampler(first, steps, config.data.batch_size, context),  # type: ignore[arg-type]
        num_workers=config.runtime.workers,
        prefetch_factor=4 if config.runtime.workers else None,
        worker_init_fn=_settle_worker,
        pin_memory=context.device.type == "cuda",
        # Its own, unused: a loader else draws from the generator that stochastic depth uses, and a
        # resumed run would differ from an unbroken one.
        generator=torch.Generator(),
    )
    try:
        for templates, search, edges, present in loader:
            yield Batch(templates, search, edges, present).to(context.device)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise TrainingError(
            f"a loader process died (out of memory?): {' '.join(str(error).split())[:200]}"
        ) from None


def calibration_batch(source: SampleSource, count: int) -> Batch:
    """Samples outside the run's stream, the same in every process."""
    return SampleDataset(source, _CALIBRATION_SEED).batch(range(count))


def _settle_worker(_: int) -> None:
    torch.set_num_threads(1)
    # A stop that is asked of all processes is the trainer's business, which ends its loaders.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
