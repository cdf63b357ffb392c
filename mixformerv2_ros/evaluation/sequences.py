"""Annotated image sequences, read from their published layouts on disk.

Three layouts, each below one root folder:

* `plain`: `NAME/img/*.jpg` and `NAME/groundtruth_rect.txt` (OTB's form);
* `lasot`: `CLASS/NAME/img/*.jpg` (or `NAME/img/*.jpg`), `groundtruth.txt`, `full_occlusion.txt`,
  `out_of_view.txt`; frames fully occluded or out of view count as absent;
* `got10k`: `NAME/*.jpg`, `groundtruth.txt` and, where given, `absence.label`.

Boxes keep the origin in which they were published (OTB and GOT-10k count pixels from 1): no shift
is applied, as in the benchmarks' own toolkits.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mixformerv2_ros.errors import ParameterError, SourceError
from mixformerv2_ros.text import printable
from mixformerv2_ros.tracking.boxes import Box

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp"})


@dataclass(frozen=True, eq=False)
class Sequence:
    """One annotated sequence.

    Attributes:
        name: Its name in tables and result files.
        frames: Image files in order of time.
        boxes: (N, 4) float64 ground truth, x, y, w, h in pixels of the stored images, NaN in all
            four columns where the target is absent; one row per frame.
    """

    name: str
    frames: list[Path]
    boxes: npt.NDArray[np.float64]

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.frames)

    @property
    def initial_box(self) -> Box:
        """Ground truth of the first frame."""
        return Box(*map(float, self.boxes[0]))


def read_boxes(path: Path, allow_absent: bool = True) -> npt.NDArray[np.float64]:
    """Read one box `x,y,w,h` per line, separated by commas, tabs, semicolons or spaces.

    Args:
        path: The text file. Empty lines at its end are ignored.
        allow_absent: Whether a line of four `NaN` stands for an absent target or is an error.

    Returns:
        (N, 4) float64.

    Raises:
        SourceError: the file cannot be read or a line is not a box; names file and line.
    """
    rows = []
    for number, line in enumerate(_lines(path), start=1):
        fields = _fields(line)
        try:
            row = [float(field) for field in fields]
        except ValueError:
            row = []
        where, came = f"{path}, line {number}", repr(printable(line.strip()))
        if len(row) != 4:
            raise SourceError(f"{where}: expected four numbers x,y,w,h, got {came}")
        absent = allow_absent and all(math.isnan(value) for value in row)
        if not absent and not all(math.isfinite(value) for value in row):
            kind = "four finite numbers" + (", or four NaN," if allow_absent else ",")
            raise SourceError(f"{where}: expected {kind} got {came}")
        rows.append(row)
    return np.array(rows, dtype=np.float64).reshape(-1, 4)


def read_names(path: Path) -> list[str]:
    """Read a list of sequence names: one per line; empty lines and `#` comments are skipped.

    Raises:
        SourceError: the file cannot be read or holds no name.
    """
    names = [line.split("#", 1)[0].strip() for line in _lines(path)]
    names = [name for name in names if name]
    if not names:
        raise SourceError(f"{path}: expected one sequence name per line, found none")
    return names


def natural_key(path: Path) -> list[tuple[int, str]]:
    """Sort key that puts `img2` before `img10`."""
    parts = re.findall(r"([0-9]+)|([^0-9]+)", path.name)
    return [(int(digits), "") if digits else (-1, text) for digits, text in parts]


def plain_sequence(folder: Path) -> Sequence:
    """Read `folder/img` and `folder/groundtruth_rect.txt`.

    Raises:
        SourceError: something is missing or malformed; names the file and line.
    """
    truth = folder / "groundtruth_rect.txt"
    return _sequence(folder.name, _images(folder / "img"), read_boxes(truth), truth)


def lasot_sequence(folder: Path) -> Sequence:
    """Read one sequence of LaSOT (or of its extension subset).

    Raises:
        SourceError: something is missing or malformed; names the file and line.
    """
    truth = folder / "groundtruth.txt"
    boxes = read_boxes(truth)
    for name in ("full_occlusion.txt", "out_of_view.txt"):
        boxes[_flags(folder / name, len(boxes))] = np.nan
    return _sequence(folder.name, _images(folder / "img"), boxes, truth)


def got10k_sequence(folder: Path) -> Sequence:
    """Read one sequence of GOT-10k's train or validation part (the test part has no truth).

    Raises:
        SourceError: something is missing or malformed; names the file and line.
    """
    truth = folder / "groundtruth.txt"
    boxes = read_boxes(truth)
    absence = folder / "absence.label"
    if absence.exists():
        boxes[_flags(absence, len(boxes))] = np.nan
    return _sequence(folder.name, _images(folder), boxes, truth)


READERS: dict[str, Callable[[Path], Sequence]] = {
    "plain": plain_sequence,
    "lasot": lasot_sequence,
    "got10k": got10k_sequence,
}
"""Layout name -> function that reads the folder of one sequence."""

# Either of the two marks a sequence, so that the other is missed by name when it is missing.
_MARKS = {
    "plain": ("*/groundtruth_rect.txt", "*/img"),
    "lasot": ("*/groundtruth.txt", "*/img", "*/*/groundtruth.txt", "*/*/img"),
    "got10k": ("*/groundtruth.txt",),
}


def find_sequences(root: Path, dataset: str = "plain") -> dict[str, Path]:
    """Folders of all sequences below `root`, by name, in natural order.

    Raises:
        ParameterError: the layout is unknown.
        SourceError: `root` is no folder.
    """
    if dataset not in READERS:
        raise ParameterError(f"dataset must be one of {', '.join(READERS)}, got {dataset!r}")
    if not root.is_dir():
        raise SourceError(f"{root}: expected a folder of sequences, found none")
    folders = {found.parent for glob in _MARKS[dataset] for found in root.glob(glob)}
    return {folder.name: folder for folder in sorted(folders, key=natural_key)}


def load_sequences(
    root: Path, dataset: str = "plain", names: Iterable[str] | None = None
) -> tuple[list[Sequence], list[str]]:
    """Read the sequences below `root`.

    Args:
        root: Folder that holds the sequences.
        dataset: Name of the layout, a key of `READERS`.
        names: Sequences to read, in this order; all by default.

    Returns:
        The sequences that could be read, and one line for each that could not.

    Raises:
        ParameterError: the layout is unknown.
        SourceError: not a single sequence could be read.
    """
    folders = find_sequences(root, dataset)
    sequences, problems = [], []
    for name in folders if names is None else dict.fromkeys(names):
        if name not in folders:
            expected = _MARKS[dataset][0].replace("*", printable(name))
            problems.append(f"{root}: expected sequence {expected}, found none")
            continue
        try:
            sequences.append(READERS[dataset](folders[name]))
        except SourceError as error:
            problems.append(str(error))
    if not sequences:
        detail = f"; first problem: {problems[0]}" if problems else ""
        raise SourceError(f"{root}: no sequence in the {dataset} layout could be read{detail}")
    return sequences, problems


def _sequence(
    name: str, frames: list[Path], boxes: npt.NDArray[np.float64], truth: Path
) -> Sequence:
    if len(frames) != len(boxes):
        raise SourceError(
            f"{truth}: expected one line per frame, got {len(boxes)} lines for {len(frames)} "
            f"images in {frames[0].parent}"
        )
    if np.isnan(boxes[0]).any() or (boxes[0, 2:] <= 0).any():
        raise SourceError(
            f"{truth}, line 1: expected the box of a visible target to start from, "
            f"got {','.join(f'{value:g}' for value in boxes[0])}"
        )
    return Sequence(name, frames, boxes)


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise SourceError(f"{folder}: expected a folder of images, found none")
    found = [path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES]
    if not found:
        wanted = ", ".join(sorted(IMAGE_SUFFIXES))
        raise SourceError(f"{folder}: expected images ({wanted}), found none")
    return sorted(found, key=natural_key)


def _flags(path: Path, count: int) -> npt.NDArray[np.bool_]:
    """Read one 0 or 1 per frame, on one line with commas (LaSOT) or one per line (GOT-10k)."""
    fields = [field for line in _lines(path) for field in _fields(line)]
    wrong = [field for field in fields if field not in ("0", "1")]
    if wrong or len(fields) != count:
        came = repr(printable(wrong[0])) if wrong else f"{len(fields)} values"
        raise SourceError(f"{path}: expected {count} values 0 or 1, one per frame, got {came}")
    return np.array([field == "1" for field in fields], dtype=bool)


def _lines(path: Path) -> list[str]:
    try:
        # utf-8-sig: some published annotations begin with a byte order mark.
        return path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except FileNotFoundError:
        raise SourceError(f"{path}: expected a text file, found none") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path}: expected a text file, cannot read it ({error})") from None


def _fields(line: str) -> list[str]:
    return re.split(r"\s*[,;]\s*|\s+", line.strip().rstrip(",;"))
