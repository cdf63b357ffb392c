"""Fixtures that more than one test module uses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from screen import Screen, virtual_screen

SHARED = Path(__file__).resolve().parents[2] / "shared"


def _shared_folder(name: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"needs {name} beside the checkout (../shared/{name}), which is absent")
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real sequences and stills; tests that use it are skipped where it is absent."""
    return _shared_folder("data")


@pytest.fixture(scope="session")
def shared_vectors() -> Path:
    """Folder of golden vectors; tests that use it are skipped where it is absent."""
    return _shared_folder("vectors")


@pytest.fixture(scope="session")
def miniature_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A miniature of the data folder: 24 stills with two boxes each, two sequences."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    (root / "stills" / "images").mkdir(parents=True)
    lines = ["image,x,y,w,h,label"]
    for index in range(24):
        image = cv2.resize(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8), (160, 120))
        name = f"{index:03}.png"
        for label, (x, y) in (("cat", (20, 30)), ("dog", (90, 50))):
            color = [int(c) for c in rng.integers(0, 255, 3)]
            cv2.rectangle(image, (x, y), (x + 30, y + 40), color, -1)
            lines.append(f"{name},{x},{y},30,40,{label}")
        cv2.imwrite(str(root / "stills" / "images" / name), image)
    (root / "stills" / "boxes.csv").write_text("\n".join(lines) + "\n")
    for name in ("one", "two"):
        folder = root / "sequences" / name
        (folder / "img").mkdir(parents=True)
        boxes = []
        for step in range(6):
            image = np.full((120, 160, 3), 60, np.uint8)
            cv2.circle(image, (40 + 10 * step, 60), 15, (0, 200, 255), -1)
            cv2.imwrite(str(folder / "img" / f"{step:04}.png"), image)
            boxes.append(f"{25 + 10 * step},45,30,30" if step != 3 else "NaN,NaN,NaN,NaN")
        (folder / "groundtruth_rect.txt").write_text("\n".join(boxes) + "\n")
    return root


@pytest.fixture(scope="module")
def screen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Screen]:
    """A virtual display; tests that use it are skipped where it cannot be had."""
    with virtual_screen(tmp_path_factory.mktemp("screen")) as found:
        yield found
