"""`mixformerv2 demo`: from a real video to tracks, an overlay video and a report."""

from __future__ import annotations

import argparse
import gzip
import os
import shlex
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from mixformerv2_ros.cli.arguments import ranged
from mixformerv2_ros.errors import SourceError
from mixformerv2_ros.files import write_file

PACKAGE = "opencv-doc"
CLIP = "vtest.avi"
START_FRAME = 210
BOX = "652,296,50,104"
FRAMES = 80
MARKER = ".mixformerv2-demo"
"""File that marks a folder made by a demo, which may be replaced."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `mixformerv2 demo`."""
    parser.description = (
        "Convert a video to a recording, track one target in it, and write a video with the box "
        "drawn in, a recording with the tracks, a table and a report. Without --video, a person in "
        f"{CLIP} of the Debian package {PACKAGE} is tracked; the package is downloaded once with "
        "apt-get (no root required)."
    )
    parser.add_argument("--video", type=Path, metavar="F", help="video to track in; requires --box")
    parser.add_argument(
        "--box", metavar="X,Y,W,H", help="target in the first frame of --video, in pixels"
    )
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("demo_out"), metavar="DIR",
        help="output folder (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--model", metavar="BUNDLE", help="model bundle (default: that of the package)"
    )
    parser.add_argument(
        "--max-frames",
        type=ranged(int, 2),
        default=FRAMES,
        metavar="N",
        help="maximum number of frames to track (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Run `video2bag` and `replay` as a user would, and list the outputs."""
    if (args.video is None) != (args.box is None):
        raise SourceError("--video and --box must be given together")
    started = time.monotonic()
    folder: Path = args.output
    _prepare(folder)
    video, box, start = (args.video, args.box, 0) if args.video else _default_clip(folder)
    bag, tracked = folder / "recording", folder / "tracks_bag"
    code = _step(["video2bag", str(video), "-o", str(bag), "--compressed", "jpeg", "--force"])
    if code == 0:
        model = ["--model", args.model] if args.model else []
        code = _step(
            [
                "replay", str(bag), "--box", box, "--start-frame", str(start), "-o", str(tracked),
                "--max-frames", str(args.max_frames), "--copy-images", "--force",
                "--video", str(folder / "tracks.mp4"), "--csv", str(folder / "tracks.csv"),
                "--report", str(folder / "report.html"), *model,
            ]
        )  # fmt: skip
    if code:
        return code
    print(f"\ndone in {time.monotonic() - started:.0f} s; outputs:")
    for path, text in (
        (folder / "tracks.mp4", "video with the box drawn in"),
        (folder / "report.html", "confidence, uncertainty, template updates and timing"),
        (tracked, "rosbag2 recording with /track, /detections and the images (Foxglove, ros2 bag)"),
        (folder / "tracks.csv", "tracks as a table"),
    ):
        print(f"  {path!s:28} {text}")
    return 0


def _step(words: list[str]) -> int:
    from mixformerv2_ros.cli import main

    print(f"$ mixformerv2 {shlex.join(words)}", flush=True)
    return main(words)


def _prepare(folder: Path) -> None:
    """Make an empty output folder; one that an earlier demo made is emptied."""
    if folder.exists():
        if not (folder / MARKER).is_file():
            raise SourceError(
                f"{folder} exists and was not created by the demo; choose another --output"
            )
        shutil.rmtree(folder)
    try:
        folder.mkdir(parents=True)
        (folder / MARKER).touch()
    except OSError as error:
        raise SourceError(f"{folder} cannot be created: {error.strerror}") from None


def _default_clip(folder: Path) -> tuple[Path, str, int]:
    """The real clip where it can be had, else a rendered one; box, and frame that it belongs to."""
    try:
        return debian_clip(_cache()), BOX, START_FRAME
    except SourceError as error:
        print(f"{CLIP} cannot be had ({error}); a rendered clip is used instead")
        return *render_clip(folder / "rendered.avi"), 0


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "mixformerv2"


def debian_clip(cache: Path) -> Path:
    """Fetch the clip out of Debian's package into `cache`, once.

    Raises:
        SourceError: apt-get or dpkg-deb is missing or fails.
    """
    clip = cache / CLIP
    if clip.is_file():
        return clip
    print(f"downloading {CLIP} (Debian package {PACKAGE}, about 100 MB, once)", flush=True)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            _command(["apt-get", "download", "-qq", PACKAGE], Path(scratch))
            (archive,) = Path(scratch).glob("*.deb")
            _command(["dpkg-deb", "-x", str(archive), "files"], Path(scratch))
            found = next((Path(scratch) / "files").rglob(f"{CLIP}*"), None)
            if found is None:
                raise SourceError(f"package {PACKAGE} does not contain {CLIP}")
            content = found.read_bytes()
            write_file(clip, gzip.decompress(content) if found.suffix == ".gz" else content)
    except (OSError, ValueError) as error:
        raise SourceError(" ".join(str(error).split())) from None
    return clip


def _command(words: list[str], folder: Path) -> None:
    try:
        done = subprocess.run(
            words, cwd=folder, capture_output=True, text=True, timeout=600, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SourceError(f"{words[0]}: {' '.join(str(error).split())}") from None
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["failed without output"]
        raise SourceError(f"{words[0]}: {lines[-1]}")


def render_clip(path: Path, frames: int = 200) -> tuple[Path, str]:
    """Render a clip of 640x480: a patterned disc wanders over a patterned ground.

    Returns:
        The path and the disc's box in the first frame, as an option's value.
    """
    rng = np.random.default_rng(5)
    size = (640, 480)
    ground = cv2.resize(rng.integers(40, 160, (15, 20, 3), dtype=np.uint8), size)
    disc = cv2.resize(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8), (64, 64))
    mask = np.zeros((64, 64), np.uint8)
    cv2.circle(mask, (32, 32), 31, (255,), -1)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25.0, size)
    if not writer.isOpened():
        raise SourceError(f"cannot write {path}: OpenCV has no MJPG encoder")
    for step in range(frames):
        x, y = _disc_place(step)
        image = ground.copy()
        image[y : y + 64, x : x + 64][mask > 0] = disc[mask > 0]
        writer.write(image)
    writer.release()
    x, y = _disc_place(0)
    return path, f"{x},{y},64,64"


def _disc_place(step: int) -> tuple[int, int]:
    return round(280 + 220 * np.sin(step / 37)), round(200 + 150 * np.sin(step / 23))
