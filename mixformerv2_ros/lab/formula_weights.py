"""Bundles of presets that have no trained weights here, to measure what they cost.

The weights follow a formula that keeps activations of ordinary size. Their tracks mean nothing;
time and memory do not depend on values.
"""

from __future__ import annotations

import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mixformerv2_ros.lab.export import export_bundle
from mixformerv2_ros.model.architecture import expected_shapes
from mixformerv2_ros.model.bundle import Bundle, open_bundle, write_bundle
from mixformerv2_ros.model.presets import PRESETS
from mixformerv2_ros.network.backbone import sincos_position_table


def formula_bundle(folder: Path, preset: str, graphs: bool) -> Bundle:
    """Write a bundle of a preset with exits after every second block.

    Args:
        folder: Where to; must not exist.
        preset: A key of `PRESETS`.
        graphs: Whether to export its ONNX graphs, which all engines but torch need.

    Raises:
        BundleError: graphs and torch differ.
    """
    spec = PRESETS[preset]
    spec = replace(spec, exits=tuple(range(2, spec.depth, 2)))
    bundle = write_bundle(
        folder,
        spec,
        {key: _weight(key, shape) for key, shape in expected_shapes(spec).items()},
        name=f"{preset} with formula weights",
        source={"file": "formula", "sha256": None, "kind": "formula of mixformerv2_ros.lab"},
        licence="MIT",
    )
    if graphs:
        export_bundle(bundle)
    return open_bundle(folder)


def _weight(key: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """One entry of a state_dict: layers keep the variance of what goes in, norms change little."""
    if key.endswith(("pos_embed_t", "pos_embed_s")):
        return np.asarray(sincos_position_table(shape[2], round(shape[1] ** 0.5)), np.float32)
    noise = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape)
    if len(shape) > 1:
        value = noise / np.sqrt(np.prod(shape[1:]))
    elif key.endswith("running_var"):
        value = 1 + 0.1 * np.abs(noise)
    elif key.endswith("weight"):
        value = 1 + 0.1 * noise
    else:
        value = 0.05 * noise
    return np.asarray(value, np.float32)
