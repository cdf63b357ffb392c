"""`mixformerv2 export`: write a bundle's ONNX graphs and compare them with torch."""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

from mixformerv2_ros.errors import EngineError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "bundle",
        type=Path,
        metavar="BUNDLE",
        help="model bundle; the ONNX graphs are written into it",
    )


def run(args: argparse.Namespace) -> int:
    """Export, verify, and print the differences."""
    check_libraries()
    from mixformerv2_ros.lab.export import TOLERANCE, export_bundle
    from mixformerv2_ros.model.bundle import graph_names, open_bundle

    bundle = open_bundle(args.bundle)
    difference = export_bundle(bundle)
    for name in graph_names(bundle.spec):
        path = bundle.path / name
        print(f"wrote {path} ({path.stat().st_size / 1024:.0f} kB; weights: model.safetensors)")
    print(
        f"maximum difference from torch: boxes {difference.boxes:.1e}, scores "
        f"{difference.scores:.1e}, edge distributions {difference.edges:.1e} "
        f"(tolerance for boxes and scores: {TOLERANCE:g})"
    )
    return 0


def check_libraries() -> None:
    """Check that what the export needs is installed.

    Raises:
        EngineError: a library is missing.
    """
    for name in ("torch", "onnx", "onnxscript"):
        if find_spec(name) is None:
            raise EngineError(f"export requires {name}: pip install 'mixformerv2_ros[lab]'")
