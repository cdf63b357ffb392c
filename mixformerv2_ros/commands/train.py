"""`mixformerv2 train`: train a network from a YAML of settings."""

from __future__ import annotations

import argparse
import logging
import math
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("config", type=Path, help="YAML of settings, see config/training/")
    parser.add_argument(
        "settings", nargs="*", metavar="name=value", help="settings to use instead of the file's"
    )
    parser.add_argument(
        "--seconds", type=float, default=math.inf, help="stop with a checkpoint after this time"
    )


def run(args: argparse.Namespace) -> int:
    """Train, or continue an unfinished run in the same output folder."""
    from mixformerv2_ros.training.config import read_config
    from mixformerv2_ros.training.trainer import train

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    path = train(read_config(args.config, args.settings), args.seconds)
    print(f"checkpoint: {path}")
    print(f"next: mixformerv2 convert {path} -o BUNDLE")
    return 0
