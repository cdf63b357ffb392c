"""Do boxes stay where they are when JPEGs are decoded at reduced size? Annotated sequences.

    PYTHONPATH=.:test .venv-dev/bin/python test/jpeg_reduction_figures.py SEQUENCES [SEQUENCES ...]

The pictures are enlarged (`--enlarge`, such as 1,3: as of a camera of so many times the pixels per
side, without detail that they do not have), compressed again (`--quality`), and tracked twice: in
full, and with `jpeg_reduction` 8. Printed are, per enlargement and over the frames that could be
reduced at all,

- same crops: mean and 1st percentile of the IoU of the boxes that the network finds in the crop of
  the reduced and of the full image, both cut where the full run has the target, and the mean
  difference of the confidences;
- own tracks: success AUC of both runs over the sequences that have such frames;
- milliseconds to decode, in full and reduced.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from mixformerv2_ros.engines.loader import load_engine
from mixformerv2_ros.io.images import read_bgr
from mixformerv2_ros.lab.datasets.evaluation_sets import load_sequences
from mixformerv2_ros.lab.datasets.sequences import AnnotatedSequence
from mixformerv2_ros.lab.evaluation.metrics import overlaps, success_auc
from mixformerv2_ros.model.bundle import open_bundle
from mixformerv2_ros.model.engine import Engine
from mixformerv2_ros.ros.parameters import tracker_settings
from mixformerv2_ros.tracking.boxes import Box, iou
from mixformerv2_ros.tracking.compressed import decode_compressed
from mixformerv2_ros.tracking.frame import NS, Frame
from mixformerv2_ros.tracking.pixels import Pixels
from mixformerv2_ros.tracking.session import Session
from mixformerv2_ros.tracking.settings import TrackerSettings
from mixformerv2_ros.tracking.tracker import search_shape

LIMIT = 8
NAME = "target"


def jpegs(sequence: AnnotatedSequence, factor: int, quality: int) -> Iterator[np.ndarray]:
    """The pictures of a sequence, enlarged and compressed again."""
    for path in sequence.frames:
        image = read_bgr(path)
        if factor > 1:
            image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
        yield cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]


class Timed:
    """Decodes and adds up the milliseconds."""

    def __init__(self) -> None:
        self.ms: list[float] = []

    def decode(self, data: np.ndarray, reduction: int) -> Pixels:
        """See `decode_compressed`."""
        begin = time.perf_counter()
        pixels = decode_compressed("jpeg", data, reduction)
        self.ms.append(1000 * (time.perf_counter() - begin))
        return pixels


class Comparison:
    """Full and reduced runs of all sequences at one enlargement."""

    def __init__(self, engine: Engine, settings: TrackerSettings) -> None:
        self.engine, self.settings = engine, settings
        self.ious: list[float] = []
        self.scores: list[float] = []
        self.auc: list[tuple[float, float]] = []
        self.full, self.reduced = Timed(), Timed()

    def add(self, sequence: AnnotatedSequence, factor: int, quality: int) -> None:
        """Track one sequence in both ways."""
        boxes = sequence.boxes * factor
        sessions = [Session(self.engine, self.settings) for _ in range(2)]
        found: list[list[Box]] = [[], []]
        any_reduced = False
        for index, data in enumerate(jpegs(sequence, factor, quality)):
            if index == 0:
                frame = Frame(decode_compressed("jpeg", data))
                for session, rows in zip(sessions, found, strict=True):
                    rows.append(session.start(frame, Box(*map(float, boxes[0])), NAME).box)
                continue
            stamp = index * NS // 30
            reduction = sessions[1].reduction(LIMIT)
            any_reduced |= reduction > 1
            self._compare(sessions[0], data)
            for session, rows, how in zip(sessions, found, (1, reduction), strict=True):
                frame = Frame(decode_compressed("jpeg", data, how), stamp)
                rows += [track.box for track in session.update(frame)]
        if any_reduced:
            first, second = (success_auc(overlaps(np.array(rows), boxes)) for rows in found)
            self.auc.append((first, second))

    def _compare(self, session: Session, data: np.ndarray) -> None:
        """What the network finds in the same crop of both images."""
        reduction = session.reduction(LIMIT)
        if reduction == 1:
            return
        tracker = session.tracker(NAME)
        crops = np.empty((2, *search_shape(self.engine)), np.uint8)
        images = (self.full.decode(data, 1), self.reduced.decode(data, reduction))
        for image, crop in zip(images, crops, strict=True):
            tracker.crop_search(image, crop)
        answers = [self.engine.search(crop[None], [tracker.memory]) for crop in crops]
        a, b = (tracker.box_of(answer, 0, images[0]) for answer in answers)
        self.ious.append(iou(a, b))
        self.scores.append(abs(float(answers[0].scores[0]) - float(answers[1].scores[0])))


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sequences", nargs="+", type=Path, help="folders of sequences")
    parser.add_argument("--enlarge", default="1,3", help="factors (default: %(default)s)")
    parser.add_argument("--quality", type=int, default=90, help="JPEG quality (%(default)s)")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    bundle = open_bundle(None)
    engine = load_engine(bundle, "onnxruntime", "cpu", 1)
    settings = tracker_settings({}, bundle)
    sequences = [one for root in args.sequences for one in load_sequences(root)[0]]
    for factor in map(int, args.enlarge.split(",")):
        both = Comparison(engine, settings)
        for sequence in sequences:
            both.add(sequence, factor, args.quality)
        auc = np.mean(both.auc, axis=0)
        print(
            f"x{factor}: {len(both.auc)} of {len(sequences)} sequences, {len(both.ious)} frames; "
            f"same crops: IoU {np.mean(both.ious):.4f}, 1st percentile "
            f"{np.percentile(both.ious, 1):.3f}, confidence {np.mean(both.scores):.4f}; "
            f"own tracks: AUC {auc[0]:.3f} full, {auc[1]:.3f} reduced; decode "
            f"{np.median(both.full.ms):.2f} and {np.median(both.reduced.ms):.2f} ms",
            flush=True,
        )


if __name__ == "__main__":
    main()
