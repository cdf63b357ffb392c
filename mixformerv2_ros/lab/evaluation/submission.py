"""Result files in the forms that the benchmarks' servers and toolkits take.

* `got10k` (as the GOT-10k toolkit packs them): per sequence a folder `NAME/` with `NAME_001.txt`,
  one box `x,y,w,h` per line, and `NAME_time.txt`, one number of seconds per line. The server
  expects the test part.
* `trackingnet`: `NAME.txt` at the top, one box `x,y,w,h` per line. The server expects `TEST`.
* `lasot`: `TRACKER_tracking_result/NAME.txt`, one box `x,y,w,h` per line: unpacked into
  `tracking_results/` it is what the LaSOT toolkit reads.

Boxes keep the origin of the ground truth that the tracker was started from.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from mixformerv2_ros.errors import ParameterError
from mixformerv2_ros.files import write_atomically
from mixformerv2_ros.lab.datasets.sequences import AnnotatedSequence
from mixformerv2_ros.lab.evaluation.results import Result, read_result

DATASETS = ("got10k", "trackingnet", "lasot")
"""Data sets with a form of their own."""

_DATE = (1980, 1, 1, 0, 0, 0)
"""The same for every entry, so that the same results give the same bytes."""


def write_submission(
    path: Path, dataset: str, label: str, folder: Path, sequences: Iterable[AnnotatedSequence]
) -> None:
    """Pack the results in `folder` into the zip file `path`, whole or not at all.

    Args:
        path: The file to write, ending in `.zip`.
        dataset: One of `DATASETS`.
        label: Name of the tracker.
        folder: Its results.
        sequences: All sequences that must be in.

    Raises:
        ParameterError: the data set has no such form, or `path` is no zip file.
        SourceError: a result is missing or malformed, or the file cannot be written.
    """
    check_submission(path, dataset)
    with (
        write_atomically(path) as stream,
        zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for sequence in sequences:
            result = read_result(folder, sequence.name, len(sequence))
            for name, text in _entries(dataset, label, sequence.name, result):
                archive.writestr(zipfile.ZipInfo(name, _DATE), text, zipfile.ZIP_DEFLATED)


def check_submission(path: Path, dataset: str) -> None:
    """Refuse what `write_submission` cannot do, before hours of work.

    Raises:
        ParameterError: the data set has no such form, or `path` is no zip file in a folder.
    """
    if dataset not in DATASETS:
        raise ParameterError(
            f"--submission requires --dataset {' | '.join(DATASETS)}, got {dataset}"
        )
    if path.suffix != ".zip" or not path.parent.is_dir():
        raise ParameterError(f"--submission must be FILE.zip in an existing folder, got {path}")


def _entries(dataset: str, label: str, name: str, result: Result) -> Iterator[tuple[str, str]]:
    if dataset == "got10k":
        yield f"{name}/{name}_001.txt", _boxes(result, 3)
        if np.isfinite(result.seconds).any():  # published raw results may come without times
            times = "".join(f"{value:.8f}\n" for value in np.nan_to_num(result.seconds))
            yield f"{name}/{name}_time.txt", times
    elif dataset == "trackingnet":
        yield f"{name}.txt", _boxes(result, 2)
    else:
        yield f"{label}_tracking_result/{name}.txt", _boxes(result, 3)


def _boxes(result: Result, digits: int) -> str:
    return "".join(
        ",".join(f"{value:.{digits}f}" for value in box) + "\n" for box in result.boxes.tolist()
    )
