"""Data sets to train on, one entry per value of `kind` in the settings."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from mixformerv2_ros.errors import ParameterError, SourceError
from mixformerv2_ros.lab.datasets.coco import read_coco
from mixformerv2_ros.lab.datasets.folder import read_folder, sequence_names
from mixformerv2_ros.lab.datasets.got10k import read_got10k
from mixformerv2_ros.lab.datasets.lasot import read_lasot
from mixformerv2_ros.lab.datasets.package_paths import settings_path
from mixformerv2_ros.lab.datasets.sequences import read_names
from mixformerv2_ros.lab.datasets.source import ClipDataset
from mixformerv2_ros.lab.datasets.trackingnet import read_trackingnet
from mixformerv2_ros.lab.datasets.validation_set import refuse_validation_names

TRAINING_SETS: dict[str, Callable[[Path, str, Path | None, Collection[str]], ClipDataset]] = {
    "lasot": read_lasot,
    "got10k": read_got10k,
    "trackingnet": read_trackingnet,
    "coco": read_coco,
    "folder": read_folder,
}
"""Kind -> function that opens it; the modules document files and splits."""


@dataclass(frozen=True)
class SetConfig:
    """One data set of a training.

    Attributes:
        kind: Kind of data set: lasot, got10k, trackingnet, coco or folder.
        root: Its folder.
        split: The part to use: lasot train; got10k vottrain, votval, train; trackingnet train or
            TRAIN_0,TRAIN_1..; coco train, val; folder sequences, stills, stills_train, stills_val.
        weight: Sampling weight relative to the other data sets.
        exclude: File with names of sequences (stills: of images) to leave out; `package:NAME` is
            one of the package.
        cache: Folder for index files, which several data sets may share; empty reads the
            annotations in every run.
    """

    kind: str
    root: str
    split: str
    weight: float = 1.0
    exclude: str = ""
    cache: str = ""


def read_set(
    kind: str, root: Path, split: str, cache: Path | None, exclude: Collection[str] = ()
) -> ClipDataset:
    """Open a data set: lists its clips now and reads them when they are used.

    Args:
        kind: A key of `TRAINING_SETS`.
        root: Folder of the data set.
        split: The part to use, see `SetConfig`.
        cache: Folder for index files; None reads the annotations in every run.
        exclude: Names of sequences (stills: of images) to leave out.

    Raises:
        ParameterError: the kind or the split is unknown.
        SourceError: something is missing or malformed, or the data set is empty.
    """
    if kind not in TRAINING_SETS:
        raise ParameterError(
            f"kind of data set must be one of {', '.join(TRAINING_SETS)}, got {kind!r}"
        )
    if not root.is_dir():
        raise SourceError(f"{root}: expected a folder with the data set {kind}, found none")
    found = TRAINING_SETS[kind](root, split, cache, frozenset(exclude))
    if not len(found):
        raise SourceError(f"{root}: expected clips of {kind} {split}, found none")
    return found


def read_sets(configs: Sequence[SetConfig]) -> list[tuple[ClipDataset, float]]:
    """Open the data sets of a training, with their sampling weights: what `TrackingDataset` takes.

    Raises:
        ParameterError: a kind or a split is unknown.
        SourceError: something is missing or malformed.
    """
    return [(_read_one(config), config.weight) for config in configs]


def read_exclusions(setting: str) -> list[str]:
    """Names in the file that a setting `exclude` names; none if it is empty.

    Raises:
        SourceError: the file cannot be read or holds no name.
    """
    return read_names(settings_path(setting)) if setting else []


def refuse_validation_sets(configs: Sequence[SetConfig]) -> None:
    """Refuse folders of own images that hold sequences of the validation set.

    Published data sets have names of their own, which say nothing about those of others.

    Raises:
        ParameterError: a sequence that would be trained on is of the validation set; names it.
        SourceError: a folder or a list cannot be read.
    """
    for config in configs:
        if config.kind == "folder" and config.split == "sequences":
            excluded = set(read_exclusions(config.exclude))
            names = sequence_names(Path(config.root)) - excluded
            refuse_validation_names(sorted(names), config.root)


def _read_one(config: SetConfig) -> ClipDataset:
    exclude = read_exclusions(config.exclude)
    cache = Path(config.cache) if config.cache else None
    return read_set(config.kind, Path(config.root), config.split, cache, exclude)
