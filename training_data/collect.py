"""Turns fetched copies of public repositories into a folder to train on.

`sources.yaml`, beside this file, lists the repositories, which of their files hold pictures and
boxes, in which form, and under what licence. The copies must lie in one folder as git directories
named `OWNER+NAME`; their files are read with git, nothing in them is executed.

    python training_data/collect.py COPIES OUTPUT [--only NAME ...]

`OUTPUT` then holds `stills/` (`images/`, `masks/`, `boxes.csv`) and `sequences/SOURCE_VIDEO_REST/`
(`img/`, `groundtruth_rect.txt`), as `data` of a training takes them. Frames that several targets
share are stored once, in `frames/`, and linked.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import labels
import numpy as np
import numpy.typing as npt
import yaml

from mixformerv2_ros.errors import ImageError, SourceError
from mixformerv2_ros.io.images import read_bgr

Box = tuple[float, float, float, float]
Image = npt.NDArray[np.uint8]

STILL_SIDE = 400
"""Longest side of a stored photograph in pixels."""

LEAST_SIDE = 14.0
"""Shortest side of a box in a stored photograph in pixels; smaller ones teach nothing."""

LARGEST_SHARE = 0.85
"""Largest share of its photograph that a box may cover: beyond, there is no surrounding."""

LEAST_WINDOW = 160.0
"""Least side of what is stored around a small target, in pixels of the original frame."""

SAME_THING = 0.3
"""Least overlap of boxes of one thing in neighbouring frames of a video."""

OUTLINE_SIDE = 96
"""Longest side of a stored outline in pixels."""


class CollectError(Exception):
    """A source is missing or is not what the list says."""


@dataclass(frozen=True)
class Thing:
    """One object in a photograph.

    Attributes:
        box: x, y, w, h in pixels of the original picture.
        label: Its category.
        outline: Polygons of (N, 2) points in pixels of the original picture; empty where unknown.
    """

    box: Box
    label: str
    outline: tuple[npt.NDArray[np.float64], ...] = ()


@dataclass(frozen=True)
class Track:
    """One target's video.

    Attributes:
        name: SOURCE_VIDEO_REST.
        boxes: Box by frame file.
    """

    name: str
    boxes: Mapping[Path, Box]


@dataclass(frozen=True)
class Source:
    """One entry of the list.

    Attributes:
        repository: OWNER/NAME.
        commit: What was looked at; empty takes the newest.
        form: How boxes are written, a name in `STILLS` or `CLIPS`.
        kind: What the pictures show.
        licence: What was found there.
        options: What the form wants to know.
    """

    repository: str
    form: str
    kind: str
    licence: str
    commit: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """A short name without separators, for files and sequences."""
        return str(self.options.get("name") or re.sub(r"[^A-Za-z0-9]", "", self.repository))


# Reading -----------------------------------------------------------------------------------------


def read_list(path: Path) -> list[Source]:
    """Read the list of sources.

    Raises:
        CollectError: an entry lacks something or has an unknown form; names its repository.
    """
    sources = []
    for entry in yaml.safe_load(path.read_text(encoding="utf-8")):
        entry = dict(entry)
        repository = entry.get("repository", "?")
        try:
            source = Source(
                *(entry.pop(key) for key in ("repository", "form", "kind", "licence")),
                commit=str(entry.pop("commit", "")),
                options=entry,
            )
        except KeyError as error:
            raise CollectError(f"{path}: {repository}: missing {error}") from None
        if source.form not in STILLS and source.form not in CLIPS:
            known = ", ".join([*STILLS, *CLIPS])
            raise CollectError(f"{path}: {repository}: form must be one of {known}")
        sources.append(source)
    return sources


def check_out(source: Source, copies: Path, target: Path) -> None:
    """Write the files that a source uses below `target`.

    Raises:
        CollectError: there is no copy, or git cannot read it.
    """
    copy = copies / source.repository.replace("/", "+") / "repo"
    git = copy / ".git" if (copy / ".git").is_dir() else copy
    if not git.is_dir():
        raise CollectError(f"{source.repository}: expected a copy in {copy}, fetch it first")
    paths = source.options.get("files", [])
    listing = _git(source, git, ["ls-tree", "-r", "-l", "-z", source.commit or "HEAD", *paths])
    blobs: dict[str, str] = {}
    for entry in listing.decode(errors="surrogateescape").split("\0"):
        head, _, name = entry.partition("\t")
        # A size that is no number: a link to another repository, or a file that the copy lacks.
        mode, _, blob, size = head.split() if head else ("", "", "", "")
        if size.isdigit() and mode != "120000":
            blobs[name] = blob
    data = io.BytesIO(_git(source, git, ["cat-file", "--batch"], "\n".join(blobs.values())))
    for name in blobs:
        size = int(data.readline().split()[-1])
        path = (target / name).resolve()
        if not path.is_relative_to(target.resolve()):
            raise CollectError(f"{source.repository}: {name} lies outside of its repository")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.read(size))
        data.read(1)


def _git(source: Source, folder: Path, command: list[str], given: str = "") -> bytes:
    made = subprocess.run(
        ["git", f"--git-dir={folder}", *command],
        input=given.encode(),
        capture_output=True,
        check=False,
    )
    if made.returncode:
        reason = made.stderr.decode(errors="replace").strip()
        raise CollectError(f"{source.repository}: git {command[0]}: {reason}")
    return made.stdout


def read_image(path: Path) -> Image | None:
    """Decode a picture to BGR; None if it is none."""
    try:
        return read_bgr(path)
    except (ImageError, SourceError):
        return None


# Photographs -------------------------------------------------------------------------------------

Photographs = Iterator[tuple[Path, list[Thing]]]


def coco_stills(root: Path, source: Source) -> Photographs:
    """Annotations as COCO has them; outlines where they are polygons."""
    for entry in source.options["sets"]:
        listing = json.loads((root / entry["annotations"]).read_text(encoding="utf-8"))
        labels = {c["id"]: c["name"] for c in listing["categories"]}
        things = defaultdict(list)
        for one in listing["annotations"]:
            if one.get("iscrowd"):
                continue
            outline = one.get("segmentation") or []
            polygons = tuple(
                np.array(p, np.float64).reshape(-1, 2)
                for p in (outline if isinstance(outline, list) else [])
                if len(p) >= 8 and len(p) % 2 == 0
            )
            if len(polygons) == 1 and len(polygons[0]) <= 5 and _upright(polygons[0]):
                polygons = ()  # a box written as a polygon
            box = tuple(float(v) for v in one["bbox"])
            things[one["image_id"]].append(Thing(box, labels[one["category_id"]], polygons))
        for image in listing["images"]:
            yield root / entry["pictures"] / Path(image["file_name"]).name, things[image["id"]]


def _upright(polygon: npt.NDArray[np.float64]) -> bool:
    return all(len(np.unique(np.round(polygon[:, axis]))) <= 2 for axis in (0, 1))


def voc_stills(root: Path, source: Source) -> Photographs:
    """One XML file per picture as PASCAL VOC has them, beside the pictures or in another folder."""
    for entry in source.options["sets"]:
        for path in sorted((root / entry["annotations"]).glob("*.xml")):
            things = []
            try:
                tree = ElementTree.parse(path)
                for one in tree.iter("object"):
                    corner = [
                        float(one.findtext(f"bndbox/{name}", "nan"))
                        for name in ("xmin", "ymin", "xmax", "ymax")
                    ]
                    box = (corner[0], corner[1], corner[2] - corner[0], corner[3] - corner[1])
                    things.append(Thing(box, one.findtext("name", "")))
            except (ElementTree.ParseError, ValueError):
                continue
            yield _picture(root / entry["pictures"], path.stem), things


def yolo_stills(root: Path, source: Source) -> Photographs:
    """One text file per picture: class and box, or class and polygon, as shares of the picture."""
    labels = source.options.get("labels", [])
    for entry in source.options["sets"]:
        for path in sorted((root / entry["annotations"]).glob("*.txt")):
            picture = _picture(root / entry["pictures"], path.stem)
            image = read_image(picture)
            if image is None:
                continue
            size = np.array([image.shape[1], image.shape[0]], np.float64)
            things = []
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    number, *values = [float(v) for v in line.split()]
                except ValueError:
                    continue
                label = labels[int(number)] if int(number) < len(labels) else source.kind
                if len(values) == 4:
                    middle, extent = np.array(values[:2]) * size, np.array(values[2:]) * size
                    x, y = middle - extent / 2
                    things.append(Thing((x, y, *extent), label))
                elif len(values) >= 8 and len(values) % 2 == 0:
                    polygon = np.array(values).reshape(-1, 2) * size
                    low, high = polygon.min(axis=0), polygon.max(axis=0)
                    things.append(Thing((*low, *(high - low)), label, (polygon,)))
            yield picture, things


def _picture(folder: Path, stem: str) -> Path:
    for suffix in (".jpg", ".jpeg", ".png", ".JPG", ".JPEG"):
        if (folder / f"{stem}{suffix}").is_file():
            return folder / f"{stem}{suffix}"
    return folder / f"{stem}.jpg"


def original(path: Path) -> str:
    """The name of the picture that an exported copy, `STEM.rf.HASH`, was made from."""
    return re.sub(r"\.rf\.[0-9A-Za-z]+$", "", path.stem)


@dataclass(frozen=True)
class Form:
    """How pictures are stored.

    Attributes:
        scale: Factor of all longest sides; below 1 for a set that must travel.
        quality: Of the JPEG files, 0 to 100.
    """

    scale: float = 1.0
    quality: int = 92

    def write(self, path: Path, image: Image, side: float) -> float:
        """Store a picture with its longest side at most `side` * scale pixels.

        Returns:
            Size of the stored picture over that of `image`.
        """
        factor = min(1.0, self.scale * side / max(image.shape[:2]))
        small = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(path), small, [cv2.IMWRITE_JPEG_QUALITY, self.quality])
        return factor


class StillWriter:
    """Writes photographs, each once, and the list of their boxes."""

    def __init__(self, folder: Path, form: Form) -> None:
        self.folder, self.form = folder, form
        for name in ("images", "masks"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self.rows: list[list[str]] = []
        self._seen: set[str] = set()

    def add(self, source: Source, path: Path, things: Sequence[Thing]) -> bool:
        """Store a photograph; False if it has no usable box, is no picture, or was there before."""
        # Subsets of COCO share pictures, which are known by their twelve digits.
        number = re.search(r"\d{12}", path.stem)
        # Sets that were exported with altered copies name them STEM.rf.HASH: one of each is enough.
        single = original(path) if source.options.get("originals") else path.name
        key = number.group() if number else f"{source.name}/{single}"
        if not things or key in self._seen:
            return False
        image = read_image(path)
        if image is None:
            return False
        height, width = image.shape[:2]
        scale = min(1.0, STILL_SIDE / max(height, width))
        # Which boxes are usable does not depend on how the pictures are stored.
        kept = [(thing, box) for thing in things if (box := _usable(thing, width, height, scale))]
        if not kept:
            return False
        self._seen.add(key)
        stem = f"{source.name}_{len(self._seen):05d}"
        factor = self.form.write(self.folder / "images" / f"{stem}.jpg", image, STILL_SIDE)
        for count, (thing, box) in enumerate(kept):
            box = tuple(v * factor / scale for v in box)
            self.rows.append([f"{stem}.jpg", *(f"{v:.1f}" for v in box), thing.label])
            if thing.outline:
                mask = draw_outline([polygon * factor for polygon in thing.outline], box)
                cv2.imwrite(str(self.folder / "masks" / f"{stem}_{count}.png"), mask)
        return True

    def link(self, folder: Path) -> int:
        """Take over the photographs of another folder of stills, without copying them."""
        with (folder / "boxes.csv").open(newline="", encoding="utf-8") as file:
            rows = [
                [row[key] for key in ("image", *"xywh", "label")] for row in csv.DictReader(file)
            ]
        names = {row[0] for row in rows}
        for name in names:
            link = self.folder / "images" / name
            link.unlink(missing_ok=True)
            link.symlink_to((folder / "images" / name).resolve())
        self.rows += rows
        return len(names)

    def close(self) -> None:
        """Write the list of boxes."""
        with (self.folder / "boxes.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["image", "x", "y", "w", "h", "label"])
            writer.writerows(self.rows)


def _usable(thing: Thing, width: int, height: int, scale: float) -> Box | None:
    """The box inside of the stored picture, or None if it is too small, too large or no box."""
    x, y, w, h = thing.box
    if not np.isfinite(thing.box).all():
        return None
    left, top = max(x, 0.0), max(y, 0.0)
    right, bottom = min(x + w, width), min(y + h, height)
    box = (left * scale, top * scale, (right - left) * scale, (bottom - top) * scale)
    if (
        min(box[2:]) < LEAST_SIDE
        or (right - left) * (bottom - top) > LARGEST_SHARE * width * height
    ):
        return None
    return box


def draw_outline(polygons: Sequence[npt.NDArray[np.float64]], box: Box) -> Image:
    """Fill polygons, in pixels of the picture that `box` is in; the mask spans the box."""
    x, y, w, h = box
    scale = OUTLINE_SIDE / max(w, h)
    mask = np.zeros((max(2, round(h * scale)), max(2, round(w * scale))), np.uint8)
    for polygon in polygons:
        points = np.round((polygon - (x, y)) * scale).astype(np.int32)
        cv2.fillPoly(mask, [points], (255,))
    return mask


# Clips -------------------------------------------------------------------------------------------


def mot_clips(root: Path, source: Source) -> Iterator[Track]:
    """Sequences as MOTChallenge has them: frame, identity, x, y, w, h, ... one line per box."""
    least = float(source.options.get("least_visibility", 0.3))
    for folder in sorted(path.parent.parent for path in root.rglob("gt/gt.txt")):
        frames = sorted((folder / "img1").iterdir())
        tracks: dict[int, dict[Path, Box]] = defaultdict(dict)
        for line in (folder / "gt" / "gt.txt").read_text(encoding="utf-8").splitlines():
            fields = [float(v) for v in line.split(",")]
            frame, identity = int(fields[0]), int(fields[1])
            # Nine columns (MOT16): whether it counts, its class, and the share that is visible.
            if len(fields) == 9 and (fields[6] != 1 or fields[7] != 1 or fields[8] < least):
                continue
            if 1 <= frame <= len(frames):
                box = (fields[2], fields[3], fields[4], fields[5])
                tracks[identity][frames[frame - 1]] = box
        video = re.sub(r"[^A-Za-z0-9]", "", folder.name)
        for identity, boxes in sorted(tracks.items()):
            yield Track(f"{source.name}_{video}_{identity:03d}", boxes)


def row_clips(root: Path, source: Source) -> Iterator[Track]:
    """One line x y w h per frame; zeros where the target is absent."""
    for entry in source.options["sets"]:
        frames = sorted((root / entry["pictures"]).iterdir())
        rows = (root / entry["annotations"]).read_text(encoding="utf-8").splitlines()
        boxes: dict[Path, Box] = {}
        for frame, row in zip(frames, rows, strict=False):
            x, y, w, h = (float(v) for v in re.split(r"[\s,]+", row.strip())[:4])
            if w > 0 and h > 0:
                boxes[frame] = (x, y, w, h)
        length = int(entry.get("part", len(frames)))
        named = list(boxes.items())
        for start in range(0, len(named), length):
            name = f"{source.name}_{entry['video']}_{start:05d}"
            yield Track(name, dict(named[start : start + length]))


def masked_clips(root: Path, source: Source) -> Iterator[Track]:
    """Frames and masks of one target, which belong together by their order."""
    for entry in source.options["sets"]:
        frames = sorted((root / entry["pictures"]).iterdir())
        boxes: dict[Path, Box] = {}
        for frame, path in zip(
            frames, sorted((root / entry["annotations"]).iterdir()), strict=False
        ):
            mask = read_image(path)
            if mask is not None and (mask[:, :, 0] > 127).any():
                x, y, w, h = cv2.boundingRect((mask[:, :, 0] > 127).astype(np.uint8))
                boxes[frame] = (float(x), float(y), float(w), float(h))
        yield Track(f"{source.name}_{entry['video']}_0", boxes)


def identified_clips(root: Path, source: Source) -> Iterator[Track]:
    """Annotations as COCO has them with `track_id` attributes (as CVAT writes them).

    Frames are found by the last number of their names. Frames that hide the target are left out.
    """
    for entry in source.options["sets"]:
        listing = json.loads((root / entry["annotations"]).read_text(encoding="utf-8"))
        files = {_number(path.stem): path for path in (root / entry["pictures"]).iterdir()}
        frames = {
            image["id"]: files[number]
            for image in listing["images"]
            if (number := _number(Path(image["file_name"]).stem)) in files
        }
        tracks: dict[int, dict[Path, Box]] = defaultdict(dict)
        for one in listing["annotations"]:
            hidden = one["attributes"].get("occluded", False)
            if one["image_id"] in frames and not hidden:
                x, y, w, h = (float(v) for v in one["bbox"])
                tracks[one["attributes"]["track_id"]][frames[one["image_id"]]] = (x, y, w, h)
        for identity, boxes in sorted(tracks.items()):
            track = dict(sorted(boxes.items()))
            if _travelled(list(track.values())) >= float(source.options.get("travelled", 0.5)):
                yield Track(f"{source.name}_{entry['video']}_{identity:04d}", track)


def _number(name: str) -> int:
    numbers = re.findall(r"\d+", name)
    return int(numbers[-1]) if numbers else -1


def linked_clips(root: Path, source: Source) -> Iterator[Track]:
    """Frames of videos whose boxes have no identities, written as a form of photographs (`boxes`).

    Names are VIDEO and a number. A box is followed to the one box of its label that overlaps it in
    a frame at most `gap` numbers later; a track ends where there is none, or where two claim one.
    """
    gap = int(source.options.get("gap", 1))
    videos: dict[str, dict[int, tuple[Path, list[Thing]]]] = defaultdict(dict)
    for path, things in STILLS[source.options["boxes"]](root, source):
        numbers = re.findall(r"\d+", re.sub(r"_(jpe?g|png)$", "", original(path)))
        if numbers and things:
            stem = original(path)
            name = stem[: stem.rindex(numbers[-1])]
            videos[name].setdefault(int(numbers[-1]), (path, things))
    for count, (_, frames) in enumerate(sorted(videos.items())):
        for found, track in enumerate(_linked(frames, gap)):
            if _travelled(list(track.values())) >= float(source.options.get("travelled", 0.5)):
                yield Track(f"{source.name}_{count:03d}_{found:04d}", track)


def _linked(frames: Mapping[int, tuple[Path, list[Thing]]], gap: int) -> list[dict[Path, Box]]:
    going: list[tuple[int, Thing, dict[Path, Box]]] = []
    done: list[dict[Path, Box]] = []
    for number, (path, things) in sorted(frames.items()):
        done += [boxes for last, _, boxes in going if number - last > gap]
        going = [one for one in going if number - one[0] <= gap]
        left, still = list(things), []
        claims = [
            [t for t in things if t.label == thing.label and _overlap(t, thing) > SAME_THING]
            for _, thing, _ in going
        ]
        for (last, thing, boxes), near in zip(going, claims, strict=True):
            rivals = sum(near[0] in other for other in claims) if near else 0
            if len(near) == 1 and rivals == 1:
                still.append((number, near[0], {**boxes, path: near[0].box}))
                left = [t for t in left if t is not near[0]]
            elif near:
                done.append(boxes)  # two things meet: which is which is not written
            else:
                still.append((last, thing, boxes))
        going = still + [(number, thing, {path: thing.box}) for thing in left]
    return done + [boxes for _, _, boxes in going]


def _overlap(one: Thing, other: Thing) -> float:
    return labels.overlap(one.box, other.box)


def _travelled(boxes: Sequence[Box]) -> float:
    """How far the box went from its first place, in sides of a square of its first area."""
    middles = np.array([(x + w / 2, y + h / 2) for x, y, w, h in boxes])
    side = (boxes[0][2] * boxes[0][3]) ** 0.5
    return float(np.linalg.norm(middles - middles[0], axis=1).max() / max(side, 1e-9))


def motion_clips(root: Path, source: Source) -> Iterator[Track]:
    """Masks of what moves, as CDnet has them: regions that overlap from frame to frame are one.

    A region that touches the picture's border, or that splits or merges, ends its track.
    """
    for entry in source.options["sets"]:
        pictures = sorted((root / entry["pictures"]).glob("*.jpg"))
        masks = sorted((root / entry["annotations"]).glob("*.png"))
        open_tracks: dict[int, tuple[Box, dict[Path, Box]]] = {}
        done: list[dict[Path, Box]] = []
        count = 0
        for picture, mask_path in zip(pictures, masks, strict=False):
            boxes = _regions(mask_path, float(entry.get("least", 24)))
            going: dict[int, tuple[Box, dict[Path, Box]]] = {}
            for number, (last, boxes_so_far) in open_tracks.items():
                near = [box for box in boxes if labels.overlap(box, last) > 0.3]
                rivals = [
                    n
                    for n, (other, _) in open_tracks.items()
                    if n != number and near and labels.overlap(near[0], other) > 0.1
                ]
                if len(near) == 1 and not rivals:
                    going[number] = (near[0], {**boxes_so_far, picture: near[0]})
                    boxes.remove(near[0])
                else:
                    done.append(boxes_so_far)
            for box in boxes:
                going[count] = (box, {picture: box})
                count += 1
            open_tracks = going
        done += [boxes for _, boxes in open_tracks.values()]
        for number, boxes in enumerate(b for b in done if len(b) >= int(entry.get("shortest", 20))):
            yield Track(f"{source.name}_{entry['video']}{number:03d}_0", boxes)


def matlab_clips(root: Path, source: Source) -> Iterator[Track]:
    """A video and a MATLAB `groundTruth` object of one target beside it, `NAME_LABELS.mat`.

    Raises:
        CollectError: the package `mcos-decoder`, which reads these objects, is not installed.
    """
    try:
        from mcos_decoder import load_groundtruth
    except ImportError:
        raise CollectError(f"{source.repository}: needs pip install mcos-decoder scipy") from None
    for entry in source.options["sets"]:
        videos = sorted(root.glob(entry["videos"]))
        for video in videos[int(entry.get("first", 0)) :: int(entry.get("every", 1))]:
            rows = load_groundtruth(str(video.with_name(f"{video.stem}_LABELS.mat")))
            step = max(1, len(rows) // int(source.options.get("frames", 45)))
            wanted = {place for place in range(0, len(rows), step) if rows[place]}
            frames = save_frames(video, wanted, root / "frames" / video.stem)
            boxes = {path: tuple(map(float, rows[place])) for place, path in frames.items()}
            name = re.sub(r"[^A-Za-z0-9]", "", video.stem)
            yield Track(f"{source.name}_{name}_0", boxes)


def video_clips(root: Path, source: Source) -> Iterator[Track]:
    """Videos without labels from cameras that stand still: what a tracker says where it agrees.

    Raises:
        CollectError: there is no tracker to label with.
    """
    new_tracker = _labeller(source)
    length = int(source.options.get("frames", 45))
    for entry in source.options["sets"]:
        step = int(entry.get("every", 3))
        for video in sorted(root.glob(entry["videos"])):
            most = int(entry.get("segments", 4)) * length
            files = list(
                save_frames(video, set(range(0, most * step, step)), root / video.stem).values()
            )
            name = re.sub(r"[^A-Za-z0-9]", "", video.stem)
            found = 0
            for start in range(0, len(files), length):
                part = files[start : start + length]
                frames = [image for file in part if (image := read_image(file)) is not None]
                if len(frames) < labels.SHORTEST:
                    continue
                least = float(entry.get("least", 24))
                for box in labels.moving_regions(frames, 0, least)[: int(entry.get("targets", 2))]:
                    track = labels.agreed_track(frames, box, new_tracker)
                    track = labels.moving_part(track, frames)
                    if len(track) >= labels.SHORTEST:
                        boxes = {part[number]: one for number, one in track.items()}
                        yield Track(f"{source.name}_{name}_{found:03d}", boxes)
                        found += 1
            if not found:
                print(f"{source.repository}: {video.name} is left out: its labels agree nowhere")


def marked_clips(root: Path, source: Source) -> Iterator[Track]:
    """Videos in which a human marked targets in one frame: what a tracker says where it agrees.

    Unlike `video_clips`, the camera may move. A target is given as left, top, right, bottom over
    width and height of the picture, in frame `start` of a video or of a folder of `pictures`.
    `followed`: the camera follows them, so they need not move in the picture.

    Raises:
        CollectError: there is no tracker to label with.
    """
    new_tracker = _labeller(source)
    length = int(source.options.get("frames", 45))
    for entry in source.options["sets"]:
        step, start = int(entry.get("every", 2)), int(entry.get("start", 0))
        if "pictures" in entry:
            files = sorted((root / entry["pictures"]).iterdir())
            files = files[start : start + length * step : step]
        else:
            wanted = set(range(start, start + length * step, step))
            folder = root / f"{Path(entry['video']).stem}_{start}"
            files = list(save_frames(root / entry["video"], wanted, folder).values())
        frames = [image for file in files if (image := read_image(file)) is not None]
        place = Path(entry.get("pictures") or entry["video"]).stem
        name = re.sub(r"[^A-Za-z0-9]", "", place)
        if len(frames) < max(len(files), labels.SHORTEST):
            print(f"{source.repository}: {place} is left out: no frames")
            continue
        height, width = frames[0].shape[:2]
        for number, marked in enumerate(entry["targets"]):
            left, top, right, bottom = marked
            box = (left * width, top * height, (right - left) * width, (bottom - top) * height)
            travelled = 0.0 if entry.get("followed") else labels.TRAVELLED
            track = labels.agreed_track(frames, box, new_tracker, travelled)
            if len(track) < labels.SHORTEST:
                print(f"{source.repository}: {place}, target {number} is left out: no agreement")
                continue
            boxes = {files[frame]: one for frame, one in track.items()}
            yield Track(f"{source.name}_{name}_{start:04d}{number}", boxes)


def _labeller(source: Source) -> Callable[[], labels.Tracker]:
    if "labeller" not in source.options:
        raise CollectError(f"{source.repository}: needs --labeller, a tracker's folder of weights")
    try:
        return labels.nanotrack(Path(source.options["labeller"]))
    except FileNotFoundError as error:
        raise CollectError(str(error)) from None


def save_frames(video: Path, wanted: set[int], folder: Path) -> dict[int, Path]:
    """Write some frames of a video, losslessly; return their files by number, from 0."""
    folder.mkdir(parents=True, exist_ok=True)
    capture, files = cv2.VideoCapture(str(video)), {}
    for number in range(max(wanted, default=-1) + 1):
        if not capture.grab():
            break
        if number in wanted:
            files[number] = folder / f"{number:05d}.png"
            cv2.imwrite(str(files[number]), capture.retrieve()[1])
    capture.release()
    return files


def _regions(path: Path, least: float) -> list[Box]:
    mask = read_image(path)
    if mask is None:
        return []
    moving = (mask[:, :, 0] == 255).astype(np.uint8)
    height, width = moving.shape
    statistics = cv2.connectedComponentsWithStats(moving)[2][1:]
    found = []
    for x, y, w, h, area in statistics:
        inside = x > 1 and y > 1 and x + w < width - 1 and y + h < height - 1
        if inside and min(w, h) >= least and area > 0.4 * w * h:
            found.append((float(x), float(y), float(w), float(h)))
    return found


class ClipWriter:
    """Writes clips; a frame that several targets share is stored once."""

    def __init__(self, folder: Path, form: Form) -> None:
        self.folder, self.form = folder, form
        self._stored: dict[Path, tuple[Path, float]] = {}
        self.count = 0

    def add(self, source: Source, track: Track, root: Path) -> bool:
        """Store a clip; False if too little of it is left.

        Frames in which the box is small are left out. Of the others, `frames` spread evenly stay.
        """
        most, side = int(source.options.get("frames", 45)), int(source.options.get("side", 480))
        least = float(source.options.get("least_size", 12))
        items = sorted(track.boxes.items())
        if len(items) < int(source.options.get("shortest", 8)):
            return False
        rows = []
        grid = int(source.options.get("grid", 1))
        step = 1 if grid > 1 else -(-len(items) // most)
        for place, (path, box) in enumerate(items):
            # Targets of one video share a grid of frames, so that few have to be stored.
            number = int(re.findall(r"\d+", path.stem)[-1]) if grid > 1 else place
            if number % max(grid, step):
                continue
            corner = (0, 0)
            if "window" in source.options:
                stored, corner = self._store_window(path, box, track.name, source, root)
            else:
                stored = self._store(path, side, source, root)
            if stored is None:
                continue
            file, scale = stored
            if (box[2] * box[3]) ** 0.5 * scale >= least * self.form.scale:
                x, y, w, h = box[0] - corner[0], box[1] - corner[1], box[2], box[3]
                rows.append((file, (x * scale, y * scale, w * scale, h * scale)))
        if len(rows) > most:
            chosen = np.linspace(0, len(rows) - 1, most).round().astype(int)
            rows = [rows[place] for place in chosen]
        if len(rows) < 4:
            return False
        folder = self.folder / "sequences" / track.name
        (folder / "img").mkdir(parents=True, exist_ok=True)
        for number, (file, _) in enumerate(rows, start=1):
            link = folder / "img" / f"{number:04d}.jpg"
            link.unlink(missing_ok=True)
            link.symlink_to(Path("../../../") / file.relative_to(self.folder))
        text = "".join(",".join(f"{v:.2f}" for v in box) + "\n" for _, box in rows)
        (folder / "groundtruth_rect.txt").write_text(text, encoding="utf-8")
        self.count += 1
        return True

    def _store_window(
        self, path: Path, box: Box, track: str, source: Source, root: Path
    ) -> tuple[tuple[Path, float] | None, tuple[int, int]]:
        """Store what lies around a small target, not the whole frame; also return its corner."""
        image = read_image(path)
        if image is None:
            return None, (0, 0)
        half = max(float(source.options["window"]) * (box[2] * box[3]) ** 0.5, LEAST_WINDOW) / 2
        x, y = box[0] + box[2] / 2, box[1] + box[3] / 2
        left, top = max(0, round(x - half)), max(0, round(y - half))
        window = image[top : round(y + half), left : round(x + half)]
        if not window.size:
            return None, (0, 0)
        name = re.sub(r"[^A-Za-z0-9]+", "_", str(path.relative_to(root).with_suffix("")))
        file = self.folder / "frames" / source.name / f"{track}_{name}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        return (file, self.form.write(file, window, int(source.options.get("side", 480)))), (
            left,
            top,
        )

    def _store(
        self, path: Path, side: int, source: Source, root: Path
    ) -> tuple[Path, float] | None:
        if path not in self._stored:
            image = read_image(path)
            if image is None:
                return None
            name = re.sub(r"[^A-Za-z0-9]+", "_", str(path.relative_to(root).with_suffix("")))
            file = self.folder / "frames" / source.name / f"{name}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            self._stored[path] = (file, self.form.write(file, image, side))
        return self._stored[path]


STILLS: dict[str, Callable[[Path, Source], Photographs]] = {
    "coco": coco_stills,
    "voc": voc_stills,
    "yolo": yolo_stills,
}
CLIPS: dict[str, Callable[[Path, Source], Iterator[Track]]] = {
    "mot": mot_clips,
    "rows": row_clips,
    "masked": masked_clips,
    "identified": identified_clips,
    "linked": linked_clips,
    "motion": motion_clips,
    "matlab": matlab_clips,
    "video": video_clips,
    "marked": marked_clips,
}


def collect(
    sources: Sequence[Source],
    copies: Path,
    output: Path,
    also: Sequence[Path] = (),
    form: Form = Form(),
) -> None:
    """Convert all sources; one line for each says what came of it.

    Args:
        sources: What to convert.
        copies: Folder of the fetched repositories.
        output: Folder to write.
        also: Folders of stills to link.
        form: How pictures are stored.
    """
    stills, clips = StillWriter(output / "stills", form), ClipWriter(output, form)
    (output / "sequences").mkdir(parents=True, exist_ok=True)
    for folder in also:
        print(f"{folder}: {stills.link(folder)} stills")
    for source in sources:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            check_out(source, copies, root)
            most, count = int(source.options.get("most", 1000)), 0
            if source.form in STILLS:
                found = list(STILLS[source.form](root, source))
                # Spread evenly: neighbours in a list often show one scene.
                order = np.random.default_rng(0).permutation(len(found))
                for index in order:
                    count += stills.add(source, *found[index])
                    if count >= most:
                        break
            else:
                for track in CLIPS[source.form](root, source):
                    if track.name in source.options.get("left_out", []):
                        continue
                    count += clips.add(source, track, root)
                    if count >= most:
                        break
        print(f"{source.repository}: {count} {'stills' if source.form in STILLS else 'clips'}")
    stills.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="Turn fetched repositories into training data.")
    parser.add_argument("copies", type=Path, help="folder of fetched copies, OWNER+NAME/repo")
    parser.add_argument("output", type=Path, help="folder to write")
    parser.add_argument("--only", nargs="*", default=[], help="names of sources; default: all")
    parser.add_argument(
        "--also", nargs="*", type=Path, default=[], help="folders of stills to link"
    )
    parser.add_argument(
        "--labeller", type=Path, help="folder of NanoTrack's weights, for videos without labels"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="factor of all picture sizes")
    parser.add_argument("--quality", type=int, default=92, help="of the JPEG files (default: 92)")
    options = parser.parse_args(arguments)
    try:
        sources = read_list(Path(__file__).with_name("sources.yaml"))
        chosen = [s for s in sources if not options.only or s.name in options.only]
        if options.labeller is not None:
            given = {"labeller": str(options.labeller)}
            chosen = [replace(s, options={**s.options, **given}) for s in chosen]
        form = Form(options.scale, options.quality)
        collect(chosen, options.copies, options.output, options.also, form)
    except CollectError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
