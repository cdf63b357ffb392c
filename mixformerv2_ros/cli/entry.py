"""The `mixformerv2` command: finds the sub-command and turns bad input into one line and exit 2."""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from types import ModuleType

from mixformerv2_ros import __version__
from mixformerv2_ros.cli.laboratory import lab_module
from mixformerv2_ros.errors import MixFormerError

BAD_INPUT = 2
INTERRUPTED = 130

COMMANDS: dict[str, dict[str, str]] = {
    "look": {
        "demo": "track a person through a real clip; leaves a video, a bag and a report",
    },
    "track": {
        "track": "follow a target through a video, a camera or a folder of images",
        "replay": "follow targets through a rosbag2 recording and write their tracks to a new one",
        "video2bag": "turn a video into a rosbag2 recording",
        "select": "draw a box on a camera topic, a recording or a video",
    },
    "live, without ROS": {
        "node": "follow targets in a camera topic of ROS 2",
        "play": "publish the messages of a rosbag2 recording as a camera would",
        "echo": "print the messages of a topic",
    },
    "models": {
        "info": "print what a model bundle is",
        "convert": "turn an official or own checkpoint into a model bundle",
        "export": "write a bundle's ONNX graphs and compare them with torch",
        "benchmark": "measure milliseconds per frame of every engine at hand",
    },
    "measure and train": {
        "evaluate": "one-pass evaluation on sequences with ground truth, beside other trackers",
        "trax": "be a tracker for the VOT toolkit (TraX on standard input and output)",
        "visualize": "pictures of attention, edge distributions, templates, training samples",
        "train": "train a network from a file of settings",
    },
}
"""Sub-commands by group, each with its one-line help; module `cli.NAME` or `lab.cli.NAME` does the
work."""

LABORATORY = frozenset({"export", "evaluate", "trax", "visualize", "train"})
"""Sub-commands that belong to the laboratory."""

NAMES = tuple(name for group in COMMANDS.values() for name in group)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a sub-command; return 0, 2 for bad input, or 130 after Ctrl-C."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(usage())
        return 0 if words else BAD_INPUT
    if words[0] == "--version":
        print(f"mixformerv2 {__version__}")
        return 0
    name = words[0]
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(NAMES)}"
        print(f"mixformerv2: no command {name!r}{hint}", file=sys.stderr)
        return BAD_INPUT
    return _run(name, words[1:])


def usage() -> str:
    """The text of `mixformerv2 --help`."""
    width = max(map(len, NAMES)) + 2
    lines = ["usage: mixformerv2 COMMAND ...", "", "Follow one chosen object in a camera stream."]
    for group, commands in COMMANDS.items():
        lines += ["", f"{group}:", *(f"  {n:{width}}{text}" for n, text in commands.items())]
    more = "mixformerv2 COMMAND --help says more; --version tells the version."
    return "\n".join([*lines, "", more])


def _module(name: str) -> ModuleType:
    if name in LABORATORY:
        return lab_module(f"cli.{name}", "this command")
    return importlib.import_module(f"mixformerv2_ros.cli.{name}")


def _run(name: str, words: list[str]) -> int:
    try:
        module = _module(name)
    except MixFormerError as error:
        print(f"mixformerv2 {name}: {error}", file=sys.stderr)
        return BAD_INPUT
    text = next(group[name] for group in COMMANDS.values() if name in group)
    parser = argparse.ArgumentParser(
        prog=f"mixformerv2 {name}", description=text[0].upper() + text[1:] + "."
    )
    module.add_arguments(parser)
    try:
        args = parser.parse_args(words)
        # For outputs that record how they were made.
        args.command_line = [name, *words]
        code: int = module.run(args)
        sys.stdout.flush()
        return code
    except SystemExit as end:  # argparse: --help, or a malformed command line
        return int(end.code or 0)
    except MixFormerError as error:
        print(f"mixformerv2 {name}: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output, such as `head`, has seen enough. What is left goes nowhere, or
        # Python would complain while it shuts down.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
