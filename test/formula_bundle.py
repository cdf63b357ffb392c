"""Bundles with the golden vectors' formula weights: for tests, and to time presets without weights.

    python test/formula_bundle.py S runs/formula_s
    python test/formula_bundle.py B runs/formula_b 2 4 6

writes one with its ONNX graphs; numbers are exits. Its tracks mean nothing; its speed is that of
the preset.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import golden

from mixformerv2_ros.model.architecture import expected_shapes
from mixformerv2_ros.model.bundle import Bundle, write_bundle
from mixformerv2_ros.model.presets import PRESETS


def make_bundle(folder: Path, preset: str, precision: str, exits: Sequence[int] = ()) -> Bundle:
    """Write a bundle of a preset, without graphs."""
    spec = replace(PRESETS[preset], exits=tuple(exits))
    return write_bundle(
        folder,
        spec,
        golden.weights(expected_shapes(spec), preset if preset in golden.TOKENS else "S"),
        name=f"formula {preset}",
        source={"file": "formula", "sha256": None, "kind": "golden vectors' formula"},
        licence="MIT",
        precision=precision,
        overwrite=True,
    )


if __name__ == "__main__":
    from mixformerv2_ros.lab.export import export_bundle

    export_bundle(make_bundle(Path(sys.argv[2]), sys.argv[1], "fp32", list(map(int, sys.argv[3:]))))
