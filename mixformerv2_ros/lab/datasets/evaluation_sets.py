"""Data sets that `evaluate` reads, one entry per value of `--dataset`.

Each entry finds the sequences below a root folder by name and reads one when asked, so that a
damaged sequence is reported by name and the others remain usable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mixformerv2_ros.errors import ParameterError, SourceError
from mixformerv2_ros.lab.datasets.folder import find_folder
from mixformerv2_ros.lab.datasets.got10k import find_got10k
from mixformerv2_ros.lab.datasets.lasot import find_lasot
from mixformerv2_ros.lab.datasets.nfs import find_nfs
from mixformerv2_ros.lab.datasets.otb import find_otb
from mixformerv2_ros.lab.datasets.sequence_files import Reader
from mixformerv2_ros.lab.datasets.sequences import AnnotatedSequence, read_names
from mixformerv2_ros.lab.datasets.tnl2k import find_tnl2k
from mixformerv2_ros.lab.datasets.trackingnet import find_trackingnet
from mixformerv2_ros.lab.datasets.uav123 import find_uav123
from mixformerv2_ros.lab.datasets.vot import find_vot
from mixformerv2_ros.text import natural_order, printable


@dataclass(frozen=True)
class EvaluationSet:
    """How one data set is stored, as published.

    Attributes:
        pattern: Path of the annotation of sequence NAME below the root, for messages.
        find: Returns readers of the sequences below a root, by name.
        lists: Paths below the root of lists of the sequences to evaluate; without such a file all
            of them are evaluated.
    """

    pattern: str
    find: Callable[[Path], dict[str, Reader]]
    lists: tuple[str, ...] = ()


def find_sequences(root: Path, dataset: str = "folder") -> dict[str, Reader]:
    """Readers of all sequences below `root`, by name, in natural order.

    Raises:
        ParameterError: the data set is unknown.
        SourceError: `root` is not a folder.
    """
    if dataset == "plain":
        raise ParameterError("dataset plain has been renamed to folder")
    if dataset not in EVALUATION_SETS:
        raise ParameterError(
            f"dataset must be one of {', '.join(EVALUATION_SETS)}, got {dataset!r}"
        )
    if not root.is_dir():
        raise SourceError(f"{root}: expected a folder of sequences, found none")
    found = EVALUATION_SETS[dataset].find(root)
    return {name: found[name] for name in sorted(found, key=natural_order)}


def load_sequences(
    root: Path, dataset: str = "folder", names: Iterable[str] | None = None
) -> tuple[list[AnnotatedSequence], list[str]]:
    """Read the sequences below `root`.

    Args:
        root: Folder that holds the data set.
        dataset: A key of `EVALUATION_SETS`.
        names: Sequences to read, in this order. By default those of the data set's list file, if
            `root` has one, else all.

    Returns:
        The sequences that could be read, and one line for each that could not.

    Raises:
        ParameterError: the data set is unknown.
        SourceError: not a single sequence could be read.
    """
    readers = find_sequences(root, dataset)
    found = EVALUATION_SETS[dataset]
    lists = [root / path for path in found.lists if (root / path).is_file()]
    if names is None and lists:
        # A listed folder with several targets stands for all of them.
        names = [
            name for each in read_names(lists[0]) for name in _targets(readers, each) or [each]
        ]
    sequences, problems = [], []
    for name in readers if names is None else dict.fromkeys(names):
        if name not in readers:
            expected = found.pattern.replace("NAME", printable(name))
            problems.append(f"{root}: expected sequence {expected}, found none")
            continue
        try:
            sequences.append(readers[name]())
        except SourceError as error:
            problems.append(str(error))
    if not sequences:
        detail = f"; first problem: {problems[0]}" if problems else ""
        raise SourceError(
            f"{root}: no sequence of kind {dataset} ({found.pattern}) could be read{detail}"
        )
    return sequences, problems


def _targets(readers: dict[str, Reader], folder: str) -> list[str]:
    if folder in readers:
        return [folder]
    return [name for name in readers if name.rpartition(".")[0] == folder]


EVALUATION_SETS: dict[str, EvaluationSet] = {
    "folder": EvaluationSet("NAME/groundtruth.txt or NAME/groundtruth_rect.txt", find_folder),
    "otb": EvaluationSet("NAME/groundtruth_rect.txt", find_otb),
    "lasot": EvaluationSet("CLASS/NAME/groundtruth.txt", find_lasot, ("testing_set.txt",)),
    "got10k": EvaluationSet("NAME/groundtruth.txt", find_got10k, ("list.txt",)),
    "trackingnet": EvaluationSet("TEST/anno/NAME.txt", find_trackingnet),
    "uav123": EvaluationSet("anno/UAV123/NAME.txt", partial(find_uav123, "UAV123")),
    "uav20l": EvaluationSet("anno/UAV20L/NAME.txt", partial(find_uav123, "UAV20L")),
    "tnl2k": EvaluationSet("NAME/groundtruth.txt", find_tnl2k),
    "nfs": EvaluationSet("NAME/30/NAME.txt", partial(find_nfs, 30)),
    "nfs240": EvaluationSet("NAME/240/NAME.txt", partial(find_nfs, 240)),
    "vot": EvaluationSet("NAME/groundtruth.txt", find_vot, ("list.txt", "sequences/list.txt")),
}
"""Value of `evaluate --dataset` -> data set."""
