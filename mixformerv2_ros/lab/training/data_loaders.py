"""Data loaders of training and validation samples."""

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
from mixformerv2_ros.lab.datasets.annotated_images import (
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
from mixformerv2_ros.lab.training.generated_images import generate_stills
from mixformerv2_ros.lab.training.sample import Sample
from mixformerv2_ros.lab.training.sampling import TrackingDataset
from mixformerv2_ros.lab.training.stages import student_spec
from mixformerv2_ros.lab.training.synthetic import SyntheticDataset
from mixformerv2_ros.lab.training.training_model import Batch

GENERATED = "generated"
"""`data.folder` that stands for generated images."""

GENERATED_STILLS = 400
"""Number of these images."""

_CALIBRATION_SEED = 2**31 + 1


class SampleSource(Protocol):
    """`sample(seed, index)` is a pure function of its arguments."""

    def sample(self, seed: int, index: int) -> Sample:
        """Draw sample number `index` of the stream `seed`."""


class SampleDataset(Dataset[tuple[np.ndarray, ...]]):
    """A map-style data set over a source of samples; index 0 is the first sample of the run."""

    def __init__(self, source: SampleSource, seed: int) -> None:
        self.source = source
        self.seed = seed

    def __getitem__(self, index: int) -> tuple[np.ndarray, ...]:
        sample = self.source.sample(self.seed, index)
        present = np.float32(sample.present)
        return sample.templates, sample.search, sample.edges, np.asarray(present)

    def batch(self, indices: range) -> Batch:
        """Collate the samples of these indices."""
        arrays = [self[index] for index in indices]
        return Batch(*(torch.from_numpy(np.stack(part)) for part in zip(*arrays, strict=True)))


def load_datasets(config: TrainConfig) -> tuple[SampleSource, SampleSource]:
    """Open the sources of training and validation samples.

    Raises:
        MixFormerError: data is missing or malformed.
    """
    if not config.data.sets:
        return load_synthetic(config)
    _disable_opencv_threads()
    spec = student_spec(config)
    return (
        TrackingDataset(read_sets(config.data.sets), spec, config.data.sampling, train=True),
        TrackingDataset(
            read_sets(config.data.validation_sets), spec, config.data.sampling, train=False
        ),
    )


def load_synthetic(config: TrainConfig) -> tuple[SyntheticDataset, SyntheticDataset]:
    """Read or generate the images and split them: every twentieth still is for validation."""
    _disable_opencv_threads()
    spec = student_spec(config)
    stills, clips = _read_images(config.data.folder, config.data.exclude)
    kept = [still for i, still in enumerate(stills) if i % VALIDATION_STEP]
    held = [still for i, still in enumerate(stills) if i % VALIDATION_STEP == 0]
    return SyntheticDataset(kept, clips, spec, config.data.synthetic), SyntheticDataset(
        held, [], spec, config.data.synthetic
    )


@functools.lru_cache(maxsize=1)
def _read_images(data: str, exclude: str) -> tuple[list[Still], list[DecodedClip]]:
    """Images of `data.folder`; the stages of a recipe share them."""
    if data == GENERATED:
        return generate_stills(GENERATED_STILLS), []
    names = read_names(Path(exclude)) if exclude else []
    return read_stills(Path(data) / "stills"), read_clips(Path(data) / "sequences", names)


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
    """
    context = context or DistributedContext()
    loader = DataLoader(
        SampleDataset(source, config.seed),
        batch_sampler=_BatchSampler(first, steps, config.data.batch_size, context),  # type: ignore[arg-type]
        num_workers=config.runtime.workers,
        prefetch_factor=4 if config.runtime.workers else None,
        worker_init_fn=_init_worker,
        pin_memory=context.device.type == "cuda",
        # Unused, but without it the loader would advance torch's global generator, which stochastic
        # depth uses, and a resumed run would differ from an uninterrupted one.
        generator=torch.Generator(),
    )
    try:
        for templates, search, edges, present in loader:
            yield Batch(templates, search, edges, present).to(context.device)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise TrainingError(
            f"a data loader worker died (out of memory?): {' '.join(str(error).split())[:200]}"
        ) from None


def calibration_batch(source: SampleSource, count: int) -> Batch:
    """A batch of samples that the run does not see, the same in every process."""
    return SampleDataset(source, _CALIBRATION_SEED).batch(range(count))


def _init_worker(_: int) -> None:
    torch.set_num_threads(1)
    # The trainer handles signals that were sent to the whole process group, and stops its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _disable_opencv_threads() -> None:
    """A worker that is forked while OpenCV's thread pool is alive would wait for it forever."""
    cv2.setNumThreads(1)
