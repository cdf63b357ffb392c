"""Real frames with a target, to calibrate and compare with: videos, recordings, sequences."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from mixformerv2_ros.errors import ParameterError, SourceError
from mixformerv2_ros.io.bag_files import is_storage_file
from mixformerv2_ros.io.bag_reader import BagReader
from mixformerv2_ros.io.images import bgr_copy, read_bgr
from mixformerv2_ros.io.video import VideoSource
from mixformerv2_ros.lab.datasets.evaluation_sets import find_sequences, load_sequences
from mixformerv2_ros.lab.evaluation.trackers import Image
from mixformerv2_ros.lab.quantization import Clip
from mixformerv2_ros.ros.replay import choose_image_topic, images
from mixformerv2_ros.tracking.boxes import Box


def open_clips(path: Path, box: str | None, image_topic: str | None, frames: int) -> list[Clip]:
    """Find the clips at a path.

    Args:
        path: A video, a folder of images, a rosbag2 recording, or a folder of annotated sequences.
        box: `X,Y,W,H`, the target in the first frame; None for annotated sequences.
        image_topic: Topic of a recording with several.
        frames: Frames to use of every clip.

    Raises:
        SourceError: there is nothing that can be read.
        ParameterError: `box` is missing, or given for sequences that have their own.
        BoxError: `box` is none.
    """
    if not path.exists():
        raise SourceError(f"{path}: expected a video, a recording or a folder, found none")
    sequences = find_sequences(path) if path.is_dir() else {}
    if sequences:
        if box is not None:
            raise ParameterError(f"--box must be left out: the sequences of {path} have their own")
        read, problems = load_sequences(path)
        if problems:
            raise SourceError(problems[0])
        shown = [one for one in read if np.isfinite(one.boxes[0]).all() and len(one) > 1]

        return [
            Clip(one.name, one.initial_box, partial(_sequence_frames, one.frames[:frames]))
            for one in shown
        ]
    if box is None:
        raise ParameterError(f"--box is required: the target in the first frame of {path}")
    target = Box.parse(box)
    recorded = path.is_dir() and any(map(is_storage_file, path.iterdir()))
    opened = _bag_frames if recorded or is_storage_file(path) else _video_frames

    def limited() -> Iterator[Image]:
        return itertools.islice(opened(path, image_topic), frames)

    return [Clip(path.name, target, limited)]


def _sequence_frames(files: list[Path]) -> Iterator[Image]:
    return (read_bgr(file) for file in files)


def _video_frames(path: Path, image_topic: str | None) -> Iterator[Image]:
    if image_topic is not None:
        raise ParameterError(f"--image-topic requires a recording, got {path}")
    with VideoSource(str(path)) as source:
        for frame in source.frames():
            yield bgr_copy(frame.decode().pixels)


def _bag_frames(path: Path, image_topic: str | None) -> Iterator[Image]:
    with BagReader(path) as reader:
        for image in images(reader, choose_image_topic(reader, image_topic)):
            yield bgr_copy(image.decode().pixels)
