"""What tests of recordings share: a moving target, an engine that sees colour, small bags."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mixformerv2_ros.cli.arguments import CommandParser
from mixformerv2_ros.interfaces import typestore
from mixformerv2_ros.io.bag_writer import BagWriter
from mixformerv2_ros.model.engine import Memory, Prediction
from mixformerv2_ros.model.spec import ModelSpec
from mixformerv2_ros.ros.messages import compressed_image_message, image_message
from mixformerv2_ros.tracking.boxes import Box
from mixformerv2_ros.tracking.settings import TrackerSettings

WIDTH, HEIGHT = 160, 120
START_NS = 1_700_000_000 * 10**9
PERIOD_NS = 50_000_000
BOX_TEXT = "20,30,24,18"
IMAGE_TOPIC = "/camera/image_raw"


def published_settings(**changes: Any) -> TrackerSettings:
    """Settings with the published factors, which suit engines that only play a network."""
    factors = {"search_factor": 4.5, "template_factor": 2.0, "template_background_contrast": 1.0}
    return TrackerSettings(**{**factors, **changes})


def red_box(index: int) -> Box:
    """Where the red target is in frame `index`."""
    return Box(20 + 2 * index, 30 + index, 24, 18)


def picture(index: int) -> np.ndarray:
    """Frame `index`: a red target that leaves a blue one behind; RGB."""
    image = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    blue_box = Box(2, max(60 - index, 0), 16, 18)
    for box, color in ((red_box(index), (230, 20, 20)), (blue_box, (20, 20, 230))):
        x, y, w, h = map(int, box)
        image[max(y, 0) : y + h, x : x + w] = color
    return image


class RedEngine:
    """Finds what is red in a crop, exactly; a blue box there instead means swapped channels."""

    spec = ModelSpec("custom", 8, 1, 1, 1.0, 16, 64, 128)
    name = "red"

    def encode_templates(self, templates: np.ndarray) -> Memory:
        return templates.mean()

    def search(
        self, crops: np.ndarray, memories: Sequence[Memory], stop: object = None
    ) -> Prediction:
        boxes = np.full((len(crops), 4), 0.5, np.float32)
        scores = np.full(len(crops), 0.01, np.float32)
        edges = np.zeros((len(crops), 4, self.spec.bins), np.float32)
        edges[:, :, 4:6] = 0.5
        for i, crop in enumerate(crops):
            red = (crop[..., 0] > 160) & (crop[..., 2] < 100)
            if red.any():
                rows, columns = np.nonzero(red.any(1))[0], np.nonzero(red.any(0))[0]
                x1, x2, y1, y2 = columns[0], columns[-1] + 1, rows[0], rows[-1] + 1
                side = crop.shape[0]
                boxes[i] = (
                    (x1 + x2) / 2 / side,
                    (y1 + y2) / 2 / side,
                    (x2 - x1) / side,
                    (y2 - y1) / side,
                )
                scores[i] = 0.9
        return Prediction(boxes, scores, edges, np.full(len(crops), self.spec.depth))


def write_bag(
    path: Path, count: int, *, storage: str = "mcap", compressed: str = "", topic: str = IMAGE_TOPIC
) -> Path:
    """Record `count` frames of the moving target; returns the folder."""
    types = typestore().types
    with BagWriter(path, storage) as writer:
        for i in range(count):
            stamp = START_NS + i * PERIOD_NS
            if compressed:
                _, data = cv2.imencode(f".{compressed}", picture(i)[..., ::-1])
                message = compressed_image_message(types, data, compressed, stamp, "camera")
                writer.write(topic, "sensor_msgs/msg/CompressedImage", message, stamp + 1000)
            else:
                message = image_message(types, picture(i), "rgb8", stamp, "camera")
                writer.write(topic, "sensor_msgs/msg/Image", message, stamp + 1000)
    return path


def storage_file(bag: Path) -> Path:
    """The storage file of a bag with one file."""
    (file,) = (file for file in bag.iterdir() if file.suffix in (".mcap", ".db3"))
    return file


def write_video(path: Path, count: int, fps: float = 20.0) -> Path:
    """The moving target as a lossless-enough video."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), fps, (WIDTH, HEIGHT))
    assert writer.isOpened()
    for i in range(count):
        writer.write(picture(i)[..., ::-1])
    writer.release()
    return path


def write_images(folder: Path, count: int) -> Path:
    """The moving target as numbered PNG files without leading zeros."""
    folder.mkdir()
    for i in range(count):
        assert cv2.imwrite(str(folder / f"{i + 1}.png"), picture(i)[..., ::-1])
    return folder


def run_command(name: str, *arguments: object) -> int:
    """Run a command as the command line does, errors not yet turned into exit codes."""
    module = importlib.import_module(f"mixformerv2_ros.cli.{name}")
    parser = CommandParser()
    module.add_arguments(parser)
    return module.run(parser.parse_args([str(argument) for argument in arguments]))
