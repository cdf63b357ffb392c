"""COCO 2017: `annotations/instances_train2017.json` and `train2017/` (or `images/train2017/`)."""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mixformerv2_ros.errors import ParameterError, SourceError
from mixformerv2_ros.lab.datasets.index import (
    Rows,
    StillDataset,
    cache_folder,
    cached,
    make_rows,
)
from mixformerv2_ros.lab.datasets.sequences import AnnotationError, check_inside, parse_lines
from mixformerv2_ros.text import printable

SPLITS = ("train", "val")


def read_coco(root: Path, split: str, cache: Path | None, exclude: Collection[str]) -> StillDataset:
    """Open COCO 2017; every object is a clip of one frame.

    Crowds and boxes without area are left out.

    Args:
        root: Folder with `annotations/`.
        split: `train` or `val`.
        cache: Folder of all index files; None reads the whole annotation in every run.
        exclude: File names of images to leave out.

    Raises:
        ParameterError: the split is unknown.
        SourceError: the annotation or the folder of images is missing or malformed.
    """
    if split not in SPLITS:
        raise ParameterError(f"split of coco must be train or val, got {split!r}")
    part = f"{split}2017"
    folder = next((f for f in (root / part, root / "images" / part) if f.is_dir()), None)
    if folder is None:
        raise SourceError(f"{root / part}: expected the images of COCO, found none")
    path = root / "annotations" / f"instances_{part}.json"
    rows = cached(cache_folder(cache, "coco", root), part, [path], partial(_read, path))
    if exclude:
        names = np.array([name.encode() for name in exclude])
        rows = rows[~np.isin(rows["image"], names)]
    return StillDataset(f"coco {split}", folder, rows)


def _read(path: Path) -> Rows:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SourceError(f"{path}: expected COCO's annotation, found none") from None
    except json.JSONDecodeError as error:
        raise SourceError(f"{path}, line {error.lineno}: expected JSON ({error.msg})") from None
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise SourceError(f"{path}: expected COCO's annotation, cannot read it ({error})") from None
    if not isinstance(tree, dict) or not all(
        isinstance(tree.get(part), list) for part in ("images", "annotations")
    ):
        raise SourceError(f"{path}: expected an object with lists images and annotations")
    names_by_id: dict[Any, str] = {}
    images, boxes = [], []

    def read_image(number: int, entry: Any) -> None:
        try:
            number_id, name = entry["id"], str(entry["file_name"])
            names_by_id[number_id] = check_inside(f"{path}: images[{number}]", name)
        except (KeyError, TypeError):
            raise SourceError(
                f"{path}: images[{number}]: expected id and file_name, got {printable(entry)}"
            ) from None

    def read_object(number: int, entry: Any) -> None:
        where = f"{path}: annotations[{number}]"
        try:
            image, box, crowd = entry["image_id"], entry["bbox"], entry.get("iscrowd", 0)
            known = image in names_by_id
        except (KeyError, TypeError, AttributeError):
            raise SourceError(
                f"{where}: expected image_id and bbox, got {printable(entry)}"
            ) from None
        if not known:
            raise SourceError(f"{where}: expected the id of an image, got {printable(image)}")
        if not _is_box(box):
            came = printable(json.dumps(box))
            raise SourceError(f"{where}: expected bbox of four finite numbers, got {came}")
        if not crowd and box[2] > 0 and box[3] > 0:
            images.append(names_by_id[image])
            boxes.append(box)

    problems: list[str] = []
    for parse, part in ((read_image, "images"), (read_object, "annotations")):
        try:
            parse_lines(parse, tree[part], first=0)
        except AnnotationError as error:
            problems.extend(error.problems)
    if problems:
        raise AnnotationError(problems)
    table = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    return make_rows(images, table, np.ones(len(table), dtype=bool))


def _is_box(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 4
        and all(isinstance(v, int | float) and math.isfinite(v) for v in value)
    )
