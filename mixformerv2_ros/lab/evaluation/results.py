"""Result files: what a tracker said on each sequence, kept so that a killed run can continue.

One folder per tracker:

* `config.json`: what was run; another configuration is refused in the same folder;
* `NAME.txt`: one box `x,y,w,h` per frame, in pixels, first frame included;
* `NAME_frames.csv`: per frame `seconds,confidence,lost` (time of the tracker alone; confidence
  `nan` from trackers that give none; `lost` 0 or 1), and `depth` (blocks of the network that were
  run; 0 where it was not asked) from ours;
* `summary.json`: the figures.

Every file is written whole or not at all, and `NAME.txt` last: a sequence is finished when it is
there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mixformerv2_ros.errors import ParameterError, SourceError
from mixformerv2_ros.files import write_file, write_json
from mixformerv2_ros.lab.datasets.sequences import read_boxes
from mixformerv2_ros.text import printable

FRAMES_HEADER = "seconds,confidence,lost"
DEPTH_HEADER = f"{FRAMES_HEADER},depth"


@dataclass(frozen=True, eq=False)
class Result:
    """What a tracker said on one sequence of N frames.

    The first row is the given box, with confidence 1, not lost, and the time of the start.

    Attributes:
        boxes: (N, 4) float64, x, y, w, h in pixels.
        seconds: (N,) float64, time that the tracker took for the frame; NaN where it is not known.
        confidences: (N,) float64; NaN where the tracker gives none.
        lost: (N,) bool, whether the tracker said that it had lost the target.
        depths: (N,) integers, blocks of the network run for the target, 0 where it was not asked;
            None from trackers without such blocks, and where it is not known.
    """

    boxes: npt.NDArray[np.float64]
    seconds: npt.NDArray[np.float64]
    confidences: npt.NDArray[np.float64]
    lost: npt.NDArray[np.bool_]
    depths: npt.NDArray[np.intp] | None = None

    @property
    def skipped(self) -> npt.NDArray[np.bool_]:
        """(N,) bool, frames that could not be decoded: no time, and the target counts as lost."""
        return np.asarray(np.isnan(self.seconds) & self.lost, np.bool_)


def write_result(folder: Path, name: str, result: Result) -> None:
    """Write one sequence's result into `folder`, with digits enough to read the same floats back.

    Raises:
        SourceError: the folder cannot be written.
    """
    frames = []
    for seconds, confidence, lost in zip(
        result.seconds, result.confidences, result.lost, strict=True
    ):
        frames.append(f"{seconds:.6f},{float(confidence)!r},{int(lost)}")
    if result.depths is not None:
        frames = [f"{line},{depth}" for line, depth in zip(frames, result.depths, strict=True)]
    frames.insert(0, FRAMES_HEADER if result.depths is None else DEPTH_HEADER)
    boxes = [",".join(repr(float(value)) for value in box) for box in result.boxes]
    write_file(folder / f"{name}_frames.csv", "\n".join(frames) + "\n")
    write_file(folder / f"{name}.txt", "\n".join(boxes) + "\n")


def is_finished(folder: Path, name: str) -> bool:
    """Whether `folder` holds the result of sequence `name`."""
    return (folder / f"{name}.txt").is_file()


def read_result(folder: Path, name: str, frames: int) -> Result:
    """Read the result of one sequence.

    A folder with published raw results, which hold boxes only, can be read too: times and
    confidences are NaN then.

    Args:
        folder: Folder of one tracker.
        name: The sequence.
        frames: Number of frames that it has.

    Raises:
        SourceError: a file is missing, has another number of lines, or a line is malformed.
    """
    path = folder / f"{name}.txt"
    boxes = read_boxes(path, allow_absent=False)
    if len(boxes) != frames:
        raise SourceError(f"{path}: expected {frames} lines, one per frame, got {len(boxes)}")
    details = folder / f"{name}_frames.csv"
    if details.exists():
        columns = _read_frames(details, frames)
    else:
        columns = np.tile([math.nan, math.nan, 0.0], (frames, 1))
    depths = columns[:, 3].astype(np.intp) if columns.shape[1] > 3 else None
    return Result(boxes, columns[:, 0], columns[:, 1], columns[:, 2] != 0, depths)


def claim_folder(folder: Path, config: Mapping[str, Any]) -> None:
    """Create `folder` for results of `config`, or check that those in it are of the same.

    Raises:
        ParameterError: the folder holds results of another configuration.
        SourceError: it cannot be written, or its `config.json` cannot be read.
    """
    path = folder / "config.json"
    if path.exists():
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SourceError(f"{path}: expected a configuration in JSON ({error})") from None
        if not isinstance(stored, dict):
            raise SourceError(f"{path}: expected a configuration in JSON, got {stored!r}")
        before, now = _flat(stored), _flat(config)
        for key in sorted({*before, *now}):
            if before.get(key) != now.get(key):
                raise ParameterError(
                    f"{folder} holds results with {key} {before.get(key)!r}, this run has "
                    f"{now.get(key)!r}: choose another output folder or remove this one"
                )
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        found = sorted(each.name for each in folder.glob("*.txt"))
    except OSError as error:
        raise SourceError(f"{folder}: cannot be made a folder of results ({error})") from None
    # Another rank may have written both since.
    if found and not path.exists():
        raise ParameterError(
            f"{folder} holds {found[0]} but no config.json: choose another output folder"
        )
    write_json(path, config)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted names and values of nested tables."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def _read_frames(path: Path, frames: int) -> npt.NDArray[np.float64]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path}: cannot be read ({error})") from None
    if not lines or lines[0] not in (FRAMES_HEADER, DEPTH_HEADER):
        came = repr(printable(lines[0])) if lines else "an empty file"
        raise SourceError(f"{path}, line 1: expected {FRAMES_HEADER!r}, got {came}")
    if len(lines) != frames + 1:
        raise SourceError(
            f"{path}: expected {frames + 1} lines, a header and one per frame, got {len(lines)}"
        )
    rows, width = [], len(lines[0].split(","))
    for number, line in enumerate(lines[1:], start=2):
        try:
            row = [float(word) for word in line.split(",")]
        except ValueError:
            row = []
        # A depth must be a number that an array of integers can hold.
        if len(row) != width or not all(0 <= depth < 1000 for depth in row[3:]):
            raise SourceError(
                f"{path}, line {number}: expected the numbers {lines[0]}, got {printable(line)!r}"
            )
        rows.append(row)
    return np.array(rows, dtype=np.float64).reshape(-1, width)
