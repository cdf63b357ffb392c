"""The `mixformerv2` command: runs a sub-command; bad input becomes one line and exit code 2."""

from __future__ import annotations

import difflib
import importlib
import io
import os
import sys
from collections.abc import Sequence
from types import ModuleType

from mixformerv2_ros import __version__
from mixformerv2_ros.cli.arguments import CommandParser
from mixformerv2_ros.cli.examples import EXAMPLES
from mixformerv2_ros.cli.laboratory import lab_module, libraries
from mixformerv2_ros.errors import BAD_INPUT, MixFormerError
from mixformerv2_ros.interrupt import INTERRUPTED
from mixformerv2_ros.text import MAX_ERROR, printable

COMMANDS: dict[str, dict[str, str]] = {
    "start here": {
        "demo": "track a person in a real video; writes a video, a recording and a report",
    },
    "track": {
        "track": "track a target in a video, a camera or an image folder",
        "replay": "track targets in a rosbag2 recording and record their tracks",
        "video2bag": "convert a video to a rosbag2 recording",
        "select": "draw a box on images of a topic, a recording or a video",
        "web": "serve a page to watch a tracker and draw boxes, also on a phone",
        "mavlink": "be a camera that ground stations and autopilots can track with",
    },
    "ROS 2 topics without a ROS installation": {
        "node": "run the tracker node",
        "play": "publish the messages of a rosbag2 recording",
        "echo": "print the messages of a topic",
    },
    "models": {
        "info": "show and verify a model bundle",
        "convert": "convert a checkpoint to a model bundle",
        "export": "export a bundle to ONNX and compare it with torch",
        "quantize": "write a bundle for int8, bf16 or fp16 and compare it with the original",
        "calibrate": "find how early the exits of a bundle may answer",
        "benchmark": "measure the time per frame of all available engines",
    },
    "evaluation and training": {
        "evaluate": "evaluate trackers on sequences with ground truth",
        "trax": "run the tracker under the VOT toolkit (TraX protocol)",
        "visualize": "plot attention, edge distributions, templates, training samples",
        "train": "train a network from a configuration file",
        "check-data": "read all data of a training, and name what is broken",
    },
}
"""Sub-commands by group with their one-line help; module `cli.NAME` or `lab.cli.NAME`."""

LABORATORY = frozenset(
    {"export", "quantize", "calibrate", "evaluate", "trax", "visualize", "train", "check-data"}
)
"""Sub-commands that belong to the laboratory."""

NAMES = tuple(name for group in COMMANDS.values() for name in group)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a sub-command; return 0, 2 for bad input, or 130 after Ctrl-C."""
    words = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names of files need not be text; stderr escapes what is not, as it is.
        sys.stdout.reconfigure(errors="backslashreplace")
    if not words or words[0] in ("-h", "--help"):
        print(usage())
        return 0 if words else BAD_INPUT
    if words[0] == "--version":
        print(f"mixformerv2 {__version__}")
        return 0
    name = words[0]
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known commands: {', '.join(NAMES)}"
        print(f"mixformerv2: unknown command {name!r}; {hint}", file=sys.stderr)
        return BAD_INPUT
    return _run(name, words[1:])


def usage() -> str:
    """The text of `mixformerv2 --help`."""
    width = max(map(len, NAMES)) + 2
    lines = ["usage: mixformerv2 COMMAND ...", "", "Track a chosen object in a camera stream."]
    for group, commands in COMMANDS.items():
        lines += ["", f"{group}:", *(f"  {n:{width}}{text}" for n, text in commands.items())]
    more = "See also: mixformerv2 COMMAND --help, mixformerv2 --version."
    return "\n".join([*lines, "", more])


def _restrain_libraries() -> None:
    """Keep OpenCV and FFmpeg from lines of their own on stderr and from absurd images.

    Errors are one line of ours. They read these once, when they are loaded.
    """
    os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    # Of formats whose size we do not read ourselves: a file of a few bytes may announce any.
    os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", "100000000")


def _module(name: str) -> ModuleType:
    module = name.replace("-", "_")
    if name in LABORATORY:
        return lab_module(f"cli.{module}", "this command")
    return importlib.import_module(f"mixformerv2_ros.cli.{module}")


def _run(name: str, words: list[str]) -> int:
    _restrain_libraries()
    remedy = (
        "pip install 'mixformerv2_ros[lab]'" if name in LABORATORY else "see README.md, Install"
    )
    text = next(group[name] for group in COMMANDS.values() if name in group)
    parser = CommandParser(prog=f"mixformerv2 {name}", description=text[0].upper() + text[1:] + ".")
    try:
        with libraries("this command", remedy):
            module = _module(name)
            parser.examples = EXAMPLES[name]
            module.add_arguments(parser)
            args = parser.parse_args(words)
            # For outputs that record how they were made.
            args.command_line = [name, *words]
            code: int = module.run(args)
        sys.stdout.flush()
        return code
    except SystemExit as end:  # argparse: --help, or a malformed command line
        return int(end.code or 0)
    except MixFormerError as error:
        # Names of files may hold anything but a zero byte, line breaks too.
        print(f"mixformerv2 {name}: {printable(error, MAX_ERROR)}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output, such as `head`, has closed it. The rest goes to /dev/null, or
        # Python would report an error at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ImportError as error:
        if not _interrupted(error):
            raise
        return INTERRUPTED
    except OSError as error:  # the machine's doing, such as a path that is too long
        path = "" if error.filename is None else f": {printable(error.filename, 200)}"
        reason = printable(error.strerror or error, 200)
        print(f"mixformerv2 {name}: {reason}{path}", file=sys.stderr)
        return BAD_INPUT


def _interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind an error: libraries that are being loaded turn it into their own."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False
