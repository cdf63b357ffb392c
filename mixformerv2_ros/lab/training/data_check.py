"""Checks of a training's data: all of it, image by image, or only what opening it needs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from mixformerv2_ros.errors import MixFormerError, SourceError
from mixformerv2_ros.io.images import read_image
from mixformerv2_ros.lab.datasets.annotated_images import read_box_list
from mixformerv2_ros.lab.datasets.evaluation_sets import find_sequences
from mixformerv2_ros.lab.datasets.folder import read_folder, read_sequences
from mixformerv2_ros.lab.datasets.index import video_rows
from mixformerv2_ros.lab.datasets.sequence_files import Reader
from mixformerv2_ros.lab.datasets.sequences import AnnotationError, read_names
from mixformerv2_ros.lab.datasets.source import Clip, ClipDataset
from mixformerv2_ros.lab.datasets.training_sets import (
    SetConfig,
    read_exclusions,
    read_set,
    read_sets,
    refuse_validation_sets,
)
from mixformerv2_ros.lab.datasets.validation_set import refuse_validation_names
from mixformerv2_ros.lab.training.config import ClipsConfig, TrainConfig
from mixformerv2_ros.lab.training.data_loaders import GENERATED
from mixformerv2_ros.lab.training.validation import load_clips
from mixformerv2_ros.text import printable

LICENCE_FILES = ("license", "licence", "copying", "readme", "source.txt")
"""Beginnings of the names of files that state a licence, in lower case."""

TRAINING, VALIDATION, TRACKED = "training", "validation", "validation clips"

OWN_SEQUENCES = "folder sequences"
"""Name of the part of own data that must not hold sequences of the validation set."""


@dataclass(frozen=True)
class DataPart:
    """One data set of a training.

    Attributes:
        name: Its kind and split.
        use: `training`, `validation` or `validation clips`.
        root: Its folder.
        clips: Opens it: the number of its clips, and functions that read them.
    """

    name: str
    use: str
    root: Path
    clips: Callable[[], Sequence[Callable[[], Clip]]]


@dataclass
class PartReport:
    """What was found in a data set.

    Attributes:
        clips: Number of clips whose annotation could be read.
        frames: Number of annotated frames.
        visible: Number of these that show the target.
        images: Number of images that were read.
        unreadable: One message per image that could not be read.
        problems: One message per broken line and per clip that cannot be used otherwise.
        names: Names of the clips.
    """

    clips: int = 0
    frames: int = 0
    visible: int = 0
    images: int = 0
    unreadable: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    names: set[str] = field(default_factory=set)


def data_parts(configs: Iterable[TrainConfig]) -> list[DataPart]:
    """The data sets of trainings, each once; generated images need no check."""
    parts: dict[tuple[object, ...], DataPart] = {}
    for config in configs:
        data = config.data
        for sets, use in ((data.sets, TRAINING), (data.validation_sets, VALIDATION)):
            for one in sets:
                parts.setdefault((one, use), _set_part(one, use))
        if data.folder and data.folder != GENERATED:
            for part in _folder_parts(Path(data.folder), data.exclude):
                parts.setdefault((part.name, data.folder, data.exclude), part)
        clips = config.validation.clips
        if clips.root:
            parts.setdefault((clips,), _tracked_part(clips))
    return list(parts.values())


def check_part(
    part: DataPart,
    image_step: int = 1,
    watch: Callable[[int, int], None] = lambda done, count: None,
) -> PartReport:
    """Read every annotation and every `image_step`-th image of a data set.

    Args:
        part: The data set.
        image_step: 1 reads all images.
        watch: Called with the number of clips that were checked, and that of all.
    """
    report = PartReport()
    with _collected(report.problems), ThreadPoolExecutor(os.cpu_count()) as pool:
        readers = part.clips()
        stills: dict[Path, Size] = {}
        for number, read in enumerate(readers, start=1):
            with _collected(report.problems):
                _check_clip(read(), image_step, report, stills, pool)
            watch(number, len(readers))
    if (part.name, part.use) == (OWN_SEQUENCES, TRAINING):
        with _collected(report.problems):
            refuse_validation_names(sorted(report.names), str(part.root))
    return report


def check_inputs(config: TrainConfig) -> None:
    """Check that the data of a stage can be opened, without reading images.

    Raises:
        MixFormerError: a folder, list or annotation is missing or malformed, or a sequence is of
            the validation set.
    """
    data = config.data
    refuse_validation_sets(data.sets)
    read_sets((*data.sets, *data.validation_sets))
    if data.folder and data.folder != GENERATED:
        _check_folder(Path(data.folder), data.exclude)
    load_clips(config.validation.clips)


def licence_of(root: Path) -> str:
    """File of a data set's folder that may state its licence, with its first line."""
    files = sorted(root.iterdir()) if root.is_dir() else []
    for file in files:
        if file.is_file() and file.name.lower().startswith(LICENCE_FILES):
            with suppress(OSError):
                lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
                first = next((line.strip() for line in lines if line.strip()), "empty")
                return f"{file.name}: {printable(first, 80)}"
    return "no LICENSE, COPYING or README in this folder"


@contextmanager
def _collected(problems: list[str]) -> Iterator[None]:
    """Append errors of bad input, one per broken line, instead of raising them."""
    try:
        yield
    except AnnotationError as error:
        problems.extend(error.problems)
    except MixFormerError as error:
        problems.append(str(error))


def _check_folder(root: Path, exclude: str) -> None:
    names = read_exclusions(exclude)
    found = read_sequences(root, names)
    refuse_validation_names([one.name for one in found], str(root))
    listing = root / "stills" / "boxes.csv"
    if listing.parent.is_dir():
        read_box_list(listing)
    elif not found:
        raise SourceError(f"{root}: expected sequences/ or stills/ with annotations, found none")


def _set_part(config: SetConfig, use: str) -> DataPart:
    def clips() -> list[Callable[[], Clip]]:
        exclude = read_exclusions(config.exclude)
        cache = Path(config.cache) if config.cache else None
        return _clips_of(read_set(config.kind, Path(config.root), config.split, cache, exclude))

    return DataPart(f"{config.kind} {config.split}", use, Path(config.root), clips)


def _folder_parts(root: Path, exclude: str) -> list[DataPart]:
    def clips(split: str) -> list[Callable[[], Clip]]:
        names = read_exclusions(exclude)
        return _clips_of(read_folder(root, split, None, names))

    splits = [split for split in ("stills", "sequences") if (root / split).is_dir()]
    # Without either, opening the sequences names the folder that is missing.
    return [
        DataPart(f"folder {split}", TRAINING, root, partial(clips, split))
        for split in splits or ("sequences",)
    ]


def _tracked_part(config: ClipsConfig) -> DataPart:
    def clips() -> list[Callable[[], Clip]]:
        readers = find_sequences(Path(config.root), config.dataset)
        names = read_names(Path(config.names)) if config.names else list(readers)
        missing = [name for name in names if name not in readers]
        if missing:
            raise SourceError(f"{config.root}: expected sequence {missing[0]}, found none")
        return [partial(_tracked_clip, readers[name]) for name in names]

    return DataPart(config.dataset, TRACKED, Path(config.root), clips)


def _tracked_clip(read: Reader) -> Clip:
    sequence = read()
    rows = video_rows(sequence.frames[0].parent, sequence.frames, sequence.boxes)
    return Clip(sequence.name, sequence.frames, rows["box"], rows["visible"], is_image=False)


def _clips_of(found: ClipDataset) -> list[Callable[[], Clip]]:
    return [partial(found.clip, number) for number in range(len(found))]


Size = tuple[int, int]
"""Width and height of an image; (0, 0) if it is unreadable."""


def _check_clip(
    clip: Clip, step: int, report: PartReport, stills: dict[Path, Size], pool: ThreadPoolExecutor
) -> None:
    report.clips += 1
    report.frames += len(clip.frames)
    report.visible += int(np.count_nonzero(clip.visible))
    if not clip.is_image:
        report.names.add(clip.name)
    chosen = range(0, len(clip.frames), step)
    frames = [clip.frames[i] for i in chosen]
    if clip.is_image and frames[0] in stills:  # a still with several boxes is read once
        sizes = [stills[frames[0]]]
    else:
        sizes = []
        for size, error in pool.map(_read_size, frames):
            sizes.append(size)
            report.images += not error
            report.unreadable += [error] if error else []
    if clip.is_image:
        stills[frames[0]] = sizes[0]
    for number, frame, (width, height) in zip(chosen, frames, sizes, strict=True):
        x, y, w, h = map(float, clip.boxes[number])
        inside = x < width and y < height and x + w > 0 and y + h > 0
        if width and clip.visible[number] and not inside:
            report.problems.append(
                f"{frame}: expected a box within the image of {width}x{height}, "
                f"got {x:g},{y:g},{w:g},{h:g}"
            )


def _read_size(path: Path) -> tuple[Size, str]:
    """Size of an image, and what is wrong with it; empty if nothing is."""
    try:
        pixels = read_image(path)
    except MixFormerError as error:
        return (0, 0), str(error)
    return (pixels.width, pixels.height), ""
