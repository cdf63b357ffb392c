"""Do targets that look alike keep their ids? Annotated sequences with a second target.

    PYTHONPATH=.:test .venv-dev/bin/python test/crossing_figures.py SEQUENCES

Two experiments, each with `separate.score_threshold` 1 (never, the default) and 0.7:

copies
    A mirrored, darker copy of the target passes it to and fro, half of it beside the target, in
    every other sequence in front of it. Both places are known.
found
    The two places of the first image that the network takes for the target most, if it gives them
    more than 0.45: real look-alikes, as far as there are some. Known is the place of the target.

Printed are the success AUC (copies: mean of both targets) over all sequences and both halves by
name, and the images in which two targets are on one object (IoU above 0.5).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np

from mixformerv2_ros.engines.loader import load_engine
from mixformerv2_ros.io.images import read_bgr
from mixformerv2_ros.lab.datasets.evaluation_sets import load_sequences
from mixformerv2_ros.lab.datasets.sequences import AnnotatedSequence
from mixformerv2_ros.lab.evaluation.metrics import overlaps, success_auc
from mixformerv2_ros.model.bundle import open_bundle
from mixformerv2_ros.ros.parameters import tracker_settings
from mixformerv2_ros.tracking.boxes import Box, iou
from mixformerv2_ros.tracking.frame import NS, Frame
from mixformerv2_ros.tracking.pixels import Pixels
from mixformerv2_ros.tracking.session import Session

SPAN, PERIOD, BESIDE = 2.5, 80, 0.35
"""Farthest distance of a copy in sides of the target, frames to and fro, and how far beside."""
FOUND_ABOVE = 0.45

Images = Iterator[tuple[np.ndarray, Box | None]]
"""(H, W, 3) BGR, and where the second target is, as far as known."""


def copies(sequence: AnnotatedSequence, in_front: bool) -> Images:
    """The images with a copy of the target."""
    for index, (path, row) in enumerate(zip(sequence.frames, sequence.boxes, strict=True)):
        image = read_bgr(path)
        if np.isnan(row).any():
            yield image, None
            continue
        box, (height, width) = Box(*map(float, row)), image.shape[:2]
        x, y, w, h = (round(value) for value in box)
        patch = image[max(0, y) : y + h, max(0, x) : x + w].copy()
        along = SPAN * math.sqrt(box.area) * math.cos(2 * math.pi * index / PERIOD)
        if h >= w:
            shift = (math.copysign(along, along * (width / 2 - box.center[0])), BESIDE * h)
        else:
            shift = (BESIDE * w, math.copysign(along, along * (height / 2 - box.center[1])))
        copy = Box(box.x + shift[0], box.y + shift[1], box.w, box.h)
        darker = np.clip(patch[:, ::-1] * 0.85 + 8, 0, 255).astype(np.uint8)
        paste(image, darker, round(copy.x) + max(0, -x), round(copy.y) + max(0, -y))
        if not in_front:
            paste(image, patch, max(0, x), max(0, y))
        inside = min(copy.x, copy.y) >= 0 and copy.x + w <= width and copy.y + h <= height
        yield image, copy if inside else None


def paste(image: np.ndarray, patch: np.ndarray, x: int, y: int) -> None:
    """Put a patch into an image, as far as it is inside."""
    (height, width), (h, w) = image.shape[:2], patch.shape[:2]
    x1, y1, x2, y2 = max(0, x), max(0, y), min(width, x + w), min(height, y + h)
    if x1 < x2 and y1 < y2:
        image[y1:y2, x1:x2] = patch[y1 - y : y2 - y, x1 - x : x2 - x]


def look_alikes(session: Session, frame: Frame) -> list[Box]:
    """Where else the network sees the only target of a session."""
    (name,) = session.targets
    box = session.tracker(name).box
    step = max(4.0, 0.3 * session.settings.search_factor * math.sqrt(box.area))
    centers = [
        (float(x), float(y))
        for x in np.arange(step, frame.pixels.width, step)
        for y in np.arange(step, frame.pixels.height, step)
    ][:400]
    tiles = [Box(x - box.w / 2, y - box.h / 2, box.w, box.h) for x, y in centers]
    found: list[Box] = []
    for one in sorted(session.score_boxes(frame, name, tiles), key=lambda find: -find.score):
        alike = one.score > FOUND_ABOVE and 0.5 < math.sqrt(one.box.area / box.area) < 2
        if alike and iou(one.box, box) < 0.1 and all(iou(one.box, each) < 0.3 for each in found):
            found.append(one.box)
    return found[:2]


def follow(session: Session, sequence: AnnotatedSequence, copied: bool, number: int):
    """Success AUC of a sequence, and the images with two targets on one object; None if unfit."""
    known: list[tuple[float, ...]] = []
    seen: list[list[Box]] = []
    shown = (
        copies(sequence, number % 2 == 0)
        if copied
        else ((read_bgr(path), None) for path in sequence.frames)
    )
    for index, (image, other) in enumerate(shown):
        frame = Frame(Pixels.from_array(image, "bgr8"), index * NS // 30)
        if index == 0:
            tracks = [session.start(frame, sequence.initial_box)]
            others = look_alikes(session, frame) if not copied else [other] if other else []
            if not others:
                return None
            tracks += [session.start(frame, box, str(i)) for i, box in enumerate(others)]
        else:
            tracks = session.update(frame)
        seen.append([track.box for track in tracks])
        known.append((math.nan,) * 4 if other is None else tuple(other))
    auc = [success_auc(overlaps([boxes[0] for boxes in seen], sequence.boxes))]
    if copied:
        auc.append(success_auc(overlaps([boxes[1] for boxes in seen], known)))
    merged = sum(any(iou(a, b) > 0.5 for a, b in combinations(boxes, 2)) for boxes in seen)
    return float(np.mean(auc)), merged


def main() -> None:
    """Print both experiments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path, help="folder of sequences, as for `evaluate --root`")
    sequences, _ = load_sequences(parser.parse_args().root)
    bundle = open_bundle()
    engine = load_engine(bundle, "auto", num_threads=1)
    cv2.setNumThreads(1)
    default = tracker_settings({}, bundle)
    print("experiment  separation  sequences  AUC    odd    even   on one object")
    for name in ("copies", "found"):
        for threshold in (1.0, 0.7):
            settings = replace(default, separate_score_threshold=threshold)
            results = [
                result
                for number, each in enumerate(sequences)
                if (result := follow(Session(engine, settings), each, name == "copies", number))
            ]
            auc = [result[0] for result in results]
            means = "  ".join(f"{np.mean(part):.3f}" for part in (auc, auc[::2], auc[1::2]))
            merged = sum(result[1] for result in results)
            on = "no" if threshold >= 1 else f"above {threshold}"
            print(f"{name:10s}  {on:10s}  {len(results):9d}  {means}  {merged:13d}", flush=True)


if __name__ == "__main__":
    main()
