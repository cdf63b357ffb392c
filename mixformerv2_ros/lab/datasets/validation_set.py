"""The validation set, and the refusal to train on what judges.

`validation.txt` lists its sequences, `same_videos.txt` their names in other benchmarks. Names are
compared without regard to case, with `-`, `.`, `@`, spaces and `_` taken for the same, and without
a benchmark's name in front, however it is written: `OTB-100_Jogging-2` is `jogging_2`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from mixformerv2_ros.errors import ParameterError, SourceError
from mixformerv2_ros.lab.datasets.sequences import read_lines, read_names

VALIDATION_LIST = Path(__file__).with_name("validation.txt")
SAME_VIDEOS = Path(__file__).with_name("same_videos.txt")

_BENCHMARK = re.compile(
    r"^(otb(_?\d+)?|tb_?(50|100)|cvpr_?13|tc_?128|temple_?color(_?128)?|vot(_?(st|lt|rt))?(_?\d+)?"
    r"|uav(_?(123|20l))?(_10fps)?|dtb(_?70)?|uavdt|(tiny_?)?tlp|tld|davis(_?\d+)?)_(?=.)"
)


def refuse_validation_names(names: Iterable[str], where: str) -> None:
    """Refuse to train on sequences of the validation set, under any of their names.

    Args:
        names: Of the sequences that would be trained on.
        where: Where they lie, for the message.

    Raises:
        ParameterError: at least one is on the list; names all of them.
    """
    known = validation_names()
    found = {name: known[key] for name in names if (key := _key(name, known)) is not None}
    if found:
        shown = ", ".join(
            name if name == listed else f"{name} (the video of {listed})"
            for name, listed in found.items()
        )
        # The list excludes what has the names on it.
        listed = any(name == known for name, known in found.items())
        other = f", or name {VALIDATION_LIST.name} as `exclude`" if listed else ""
        raise ParameterError(
            f"{where}: sequences of the validation set must not be trained on, got {shown}; "
            f"move them away{other}"
        )


@lru_cache(maxsize=1)
def validation_names() -> dict[str, str]:
    """Every name of a validation sequence, in the form in which they are compared, to its own.

    Raises:
        SourceError: a list cannot be read, or names a video that is not on the other.
    """
    listed = read_names(VALIDATION_LIST)
    known = {_plain(name): name for name in listed}
    for number, line in enumerate(read_lines(SAME_VIDEOS), start=1):
        name, colon, others = line.split("#", 1)[0].partition(":")
        if not name.strip():
            continue
        if not colon or name.strip() not in listed:
            raise SourceError(
                f"{SAME_VIDEOS}, line {number}: expected NAME: OTHER, ... with a name of "
                f"{VALIDATION_LIST.name}, got {line!r}"
            )
        for other in others.split(","):
            known.setdefault(_plain(other), name.strip())
    return known


def _key(name: str, known: dict[str, str]) -> str | None:
    """The name under which a sequence is known, with or without a benchmark in front."""
    plain = _plain(name)
    candidates = [plain]
    bare = _BENCHMARK.sub("", plain)
    if bare != plain:
        # Of a benchmark's video there may be parts: uav123_car14_2.
        words = bare.split("_")
        heads = ["_".join(words[:count]) for count in range(len(words), 0, -1)]
        candidates += [f"{prefix}{head}" for head in heads for prefix in ("", *_PREFIXES)]
    return next((candidate for candidate in candidates if candidate in known), None)


_PREFIXES = ("vot_", "uav_", "dtb_", "uavdt_", "tlp_", "tld_", "davis_")
"""Prefixes of validation.txt: `uav123_bike1` is its `uav_bike1`."""


def _plain(name: str) -> str:
    return re.sub(r"[\s._@-]+", "_", name.strip()).strip("_").lower()
