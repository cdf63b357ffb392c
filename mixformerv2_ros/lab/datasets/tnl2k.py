"""TNL2K: `NAME/imgs/`, `NAME/groundtruth.txt`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from mixformerv2_ros.io.images import list_images
from mixformerv2_ros.lab.datasets.sequence_files import Reader, folders_with
from mixformerv2_ros.lab.datasets.sequences import AnnotatedSequence, checked_sequence, read_boxes


def find_tnl2k(root: Path) -> dict[str, Reader]:
    """Readers of all sequences, by name."""
    folders = folders_with(root, "*/groundtruth.txt", "*/imgs")
    return {folder.name: partial(_read_sequence, folder) for folder in folders}


def _read_sequence(folder: Path) -> AnnotatedSequence:
    truth = folder / "groundtruth.txt"
    boxes = read_boxes(truth)
    boxes[1:][(boxes[1:, 2:] <= 0).any(axis=1)] = np.nan
    return checked_sequence(folder.name, list_images(folder / "imgs"), boxes, truth)
