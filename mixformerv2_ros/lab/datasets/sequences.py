"""Annotated image sequences and the text files that annotations come in.

Boxes keep the origin in which they were published (OTB, LaSOT, GOT-10k and others count pixels from
1, VOT from 0): no shift is applied, as in the benchmarks' own toolkits.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from mixformerv2_ros.errors import SourceError
from mixformerv2_ros.text import printable
from mixformerv2_ros.tracking.boxes import Box

Line = TypeVar("Line")
Value = TypeVar("Value")


class AnnotationError(SourceError):
    """An annotation file with malformed lines.

    Attributes:
        problems: One message per malformed line; the error's text is the first.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__(problems[0])
        self.problems = tuple(problems)

    def __reduce__(self) -> tuple[type[AnnotationError], tuple[tuple[str, ...]]]:
        return AnnotationError, (self.problems,)


def check_inside(where: str, name: str) -> str:
    """Return the name of a file below a folder.

    Raises:
        SourceError: it leads out of the folder; `where` is the line that names it.
    """
    if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
        raise SourceError(f"{where}: file must be in the data's own folder, got {printable(name)}")
    return name


def parse_lines(
    parse: Callable[[int, Line], Value], lines: Iterable[Line], first: int = 1
) -> list[Value]:
    """Parse every line of an annotation, so that all of its errors are known at once.

    Args:
        parse: Called with the number and the content of a line; raises SourceError.
        lines: The lines.
        first: Number of the first line.

    Raises:
        AnnotationError: at least one line is malformed.
    """
    values, problems = [], []
    for number, line in enumerate(lines, first):
        try:
            values.append(parse(number, line))
        except SourceError as error:
            problems.append(str(error))
    if problems:
        raise AnnotationError(problems)
    return values


@dataclass(frozen=True, eq=False)
class AnnotatedSequence:
    """One annotated sequence.

    Attributes:
        name: Its name in tables and result files.
        frames: Image files in order of time.
        boxes: (N, 4) float64 ground truth, x, y, w, h in pixels of the stored images, one row per
            frame; NaN in all columns if the target is absent.
        attributes: Challenges, such as occlusion, as the data set names them; may be empty.
        size: Width and height of its images, if the annotation has them.
        withheld: Only the first box is published and the others are NaN: results can only be
            evaluated by the benchmark's server.
        other_scene: Indices of frames that belong to another sequence (`absences.with_absence`)
            and are shown in the size of the first frame.
    """

    name: str
    frames: list[Path]
    boxes: npt.NDArray[np.float64]
    attributes: tuple[str, ...] = ()
    size: tuple[int, int] | None = None
    withheld: bool = False
    other_scene: range = range(0)

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.frames)

    @property
    def initial_box(self) -> Box:
        """Ground truth of the first frame."""
        return Box(*map(float, self.boxes[0]))

    def subsampled(self, step: int) -> AnnotatedSequence:
        """Every `step`-th frame, beginning with the first, as from a slower camera."""
        return replace(self, frames=self.frames[::step], boxes=self.boxes[::step])


def read_boxes(path: Path, allow_absent: bool = True) -> npt.NDArray[np.float64]:
    """Read one box `x,y,w,h` per line, separated by commas, tabs, semicolons or spaces.

    Args:
        path: The text file. Empty lines at its end are ignored.
        allow_absent: Whether a line of four `NaN` means an absent target or is an error.

    Returns:
        (N, 4) float64.

    Raises:
        SourceError: the file cannot be read.
        AnnotationError: lines are not boxes; names file and line.
    """

    def parse(number: int, line: str) -> list[float]:
        try:
            row = [float(field) for field in split_fields(line)]
        except ValueError:
            row = []
        where, came = f"{path}, line {number}", repr(printable(line.strip()))
        if len(row) != 4:
            raise SourceError(f"{where}: expected four numbers x,y,w,h, got {came}")
        absent = allow_absent and all(math.isnan(value) for value in row)
        if not absent and not all(math.isfinite(value) for value in row):
            kind = "four finite numbers" + (", or four NaN," if allow_absent else ",")
            raise SourceError(f"{where}: expected {kind} got {came}")
        return row

    return np.array(parse_lines(parse, read_lines(path)), dtype=np.float64).reshape(-1, 4)


def read_names(path: Path) -> list[str]:
    """Read a list of sequence names: one per line; empty lines and `#` comments are skipped.

    Raises:
        SourceError: the file cannot be read or holds no name.
    """
    names = [line.split("#", 1)[0].strip() for line in read_lines(path)]
    names = [name for name in names if name]
    if not names:
        raise SourceError(f"{path}: expected one sequence name per line, found none")
    return names


def checked_sequence(
    name: str,
    frames: list[Path],
    boxes: npt.NDArray[np.float64],
    truth: Path,
    attributes: tuple[str, ...] = (),
    size: tuple[int, int] | None = None,
    may_withhold: bool = False,
) -> AnnotatedSequence:
    """Make a `AnnotatedSequence` of frames and the boxes read from `truth`.

    Args:
        name: As in `AnnotatedSequence`, like all that follow.
        frames: Image files.
        boxes: Ground truth.
        truth: The file that `boxes` come from, which messages name.
        attributes: Challenges.
        size: Width and height of the images.
        may_withhold: Whether a single line for several frames means that the rest is withheld.

    Raises:
        SourceError: not one box per frame, or no visible target in the first frame.
    """
    withheld = may_withhold and len(boxes) == 1 < len(frames)
    if withheld:
        boxes = np.vstack([boxes, np.full((len(frames) - 1, 4), np.nan)])
    check_count(frames, boxes, truth)
    if np.isnan(boxes[0]).any() or (boxes[0, 2:] <= 0).any():
        raise SourceError(
            f"{truth}, line 1: expected the box of a visible target to start from, "
            f"got {','.join(f'{value:g}' for value in boxes[0])}"
        )
    return AnnotatedSequence(name, frames, boxes, attributes, size, withheld)


def check_count(frames: list[Path], boxes: npt.NDArray[np.float64], truth: Path) -> None:
    """Check that an annotation has one box per frame.

    Raises:
        SourceError: it has not; names `truth`, the file of the boxes.
    """
    if not frames or len(frames) != len(boxes):
        where = f" in {frames[0].parent}" if frames else ""
        raise SourceError(
            f"{truth}: expected one line per frame, got {len(boxes)} lines for {len(frames)} "
            f"images{where}"
        )


def read_flags(path: Path, count: int) -> npt.NDArray[np.bool_]:
    """Read `count` values 0 or 1, on one line with commas (LaSOT) or one per line (GOT-10k).

    Raises:
        AnnotationError: the file cannot be read, or holds something else; names every wrong value.
    """
    return np.equal(read_digits(path, count, 1), 1)


def read_digits(path: Path, count: int, largest: int) -> npt.NDArray[np.int64]:
    """Read `count` values 0 to `largest`, at most 9, as `read_flags` does."""
    fields = [field for line in read_lines(path) for field in split_fields(line)]
    expected = f"{count} values 0 or 1" if largest == 1 else f"{count} values 0 to {largest}"
    known = {str(value): value for value in range(largest + 1)}

    def parse(number: int, field: str) -> int:
        if field not in known:
            raise SourceError(
                f"{path}, value {number}: expected {expected}, got {printable(field)!r}"
            )
        return known[field]

    values = parse_lines(parse, fields)
    if len(values) != count:
        raise SourceError(f"{path}: expected {expected}, got {len(values)} values")
    return np.array(values, dtype=np.int64)


def read_lines(path: Path) -> list[str]:
    """Lines of a text file without empty ones at its end.

    Raises:
        SourceError: it cannot be read.
    """
    try:
        # utf-8-sig: some published annotations begin with a byte order mark.
        return path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except FileNotFoundError:
        raise SourceError(f"{path}: expected a text file, found none") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path}: expected a text file, cannot read it ({error})") from None


def split_fields(line: str) -> list[str]:
    """Split at commas, semicolons, tabs or spaces."""
    return re.split(r"\s*[,;]\s*|\s+", line.strip().rstrip(",;"))
