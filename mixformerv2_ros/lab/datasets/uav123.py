"""UAV123 and UAV20L: `anno/UAV123/NAME.txt`, `data_seq/UAV123/FOLDER/`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from mixformerv2_ros.errors import SourceError
from mixformerv2_ros.io.images import list_images
from mixformerv2_ros.lab.datasets.sequence_files import Reader, image_number, read_attributes
from mixformerv2_ros.lab.datasets.sequences import AnnotatedSequence, checked_sequence, read_boxes

ATTRIBUTES = (
    *("SV", "ARC", "LR", "FM", "FOC", "POC"),
    *("OV", "BC", "IV", "VC", "CM", "SOB"),
)
"""Columns of `anno/UAV123/att/NAME.txt`."""

STARTS = {
    "bird1": (1, 775, 1573),
    "car1": (1, 751, 1627),
    "car6": (1, 487, 1807, 2953, 3925),
    "car8": (1, 1357),
    "car16": (1, 415),
    "group1": (1, 1333, 2515, 3925),
    "group2": (1, 907, 1771),
    "group3": (1, 1567, 2827, 4369),
    "person2": (1, 1189),
    "person4": (1, 1501),
    "person5": (1, 877),
    "person7": (1, 1249),
    "person8": (1, 1075),
    "person12": (1, 601),
    "person14": (1, 847, 1813),
    "person17": (1, 1501),
    "person19": (1, 1243, 2791),
    "truck4": (1, 577),
    "uav1": (1, 1555, 2473),
}
"""Folder -> first image number of each of its sub-sequences `FOLDER_1`, `FOLDER_2` .. (UAV123's
`configSeqs.m`); each lasts as long as its annotation has lines."""

SUB_SEQUENCES = {
    f"{folder}_{number}": (folder, start)
    for folder, starts in STARTS.items()
    for number, start in enumerate(starts, start=1)
}


def find_uav123(part: str, root: Path) -> dict[str, Reader]:
    """Readers of all sequences of `UAV123` or `UAV20L`, by name."""
    names = [path.stem for path in (root / "anno" / part).glob("*.txt")]
    return {name: partial(_read_sequence, root, part, name) for name in names}


def _read_sequence(root: Path, part: str, name: str) -> AnnotatedSequence:
    truth = root / "anno" / part / f"{name}.txt"
    boxes = read_boxes(truth)
    folder, start = SUB_SEQUENCES.get(name, (name, 1))
    images = root / "data_seq" / "UAV123" / folder
    there = {image_number(image): image for image in list_images(images)}
    numbers = range(start, start + len(boxes))
    missing = [each for each in numbers if each not in there]
    if missing:
        raise SourceError(
            f"{images / f'{missing[0]:06d}.jpg'}: expected an image, found none "
            f"({truth} has {len(boxes)} lines, for images {start} to {numbers[-1]})"
        )
    attributes = read_attributes(root, (f"anno/{part}/att",), name, ATTRIBUTES)
    return checked_sequence(name, [there[each] for each in numbers], boxes, truth, attributes)
