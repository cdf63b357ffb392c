"""`mixformerv2 info`: show and verify a bundle."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mixformerv2_ros.model.bundle import (
    Bundle,
    has_graphs,
    open_bundle,
    verify_graphs,
    verify_weights,
)
from mixformerv2_ros.model.flops import exit_macs, frame_macs, template_macs
from mixformerv2_ros.text import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = "Show a bundle and verify its checksums."
    parser.add_argument(
        "bundle",
        nargs="?",
        type=Path,
        metavar="BUNDLE",
        help="model bundle, or tiny (default: the default bundle of the package)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Verify a bundle, including its weights, and print a description."""
    bundle = open_bundle(args.bundle)
    verify_weights(bundle)
    if has_graphs(bundle):
        verify_graphs(bundle)
    facts = describe_bundle(bundle)
    print(json.dumps(facts, indent=2) if args.json else "\n".join(_lines(facts)))
    return 0


def describe_bundle(bundle: Bundle) -> dict[str, Any]:
    """Description of a bundle; keys as in `--json`."""
    spec, metadata = bundle.spec, bundle.metadata
    files = {
        path.name: path.stat().st_size for path in sorted(bundle.path.iterdir()) if path.is_file()
    }
    return {
        "path": str(bundle.path),
        "name": bundle.name,
        **asdict(spec),
        "template_tokens": spec.template_tokens,
        "search_tokens": spec.search_tokens,
        "search_factor": bundle.search_factor,
        "template_factor": bundle.template_factor,
        "template_background_contrast": bundle.template_background_contrast,
        "parameters": bundle.parameters,
        "macs_per_frame": frame_macs(spec),
        "macs_per_exit": {str(depth): macs for depth, macs in exit_macs(spec).items()}
        if spec.exits
        else {},
        "exit_calibration": None
        if bundle.depth_calibration is None
        else bundle.depth_calibration.facts(),
        "macs_per_template_update": template_macs(spec),
        "precision": bundle.precision,
        "inference_precision": bundle.inference_precision,
        "quantization": metadata.get("quantization", {}),
        "sha256": metadata["weights"]["sha256"],
        "checksum": bundle.checksum,
        "files": files,
        "onnx_graphs": has_graphs(bundle),
        "source": metadata["source"],
        "licence": metadata["licence"],
        "created_by": metadata["created_by"],
        "training": metadata.get("training", {}),
        "notes": metadata.get("notes", {}),
    }


def _lines(facts: Mapping[str, Any]) -> Iterator[str]:
    source = facts["source"]
    yield f"{facts['name']} (preset {facts['preset']}), {printable(facts['path'], 200)}"
    rows = {
        "network": (
            f"width {facts['width']}, depth {facts['depth']}, {facts['heads']} heads, "
            f"MLP ratio {facts['mlp_ratio']:g}, {facts['bins']} bins per edge, "
            f"score pooling: {facts['score_pooling']}"
        ),
        "template": (
            f"{facts['template_size']} px, {facts['template_tokens']} tokens, "
            f"factor {facts['template_factor']:g}, "
            f"background contrast {facts['template_background_contrast']:g}"
        ),
        "search": (
            f"{facts['search_size']} px, {facts['search_tokens']} tokens, "
            f"factor {facts['search_factor']:g}"
        ),
        "parameters": f"{facts['parameters']:,}",
        "multiply-adds": (
            f"{facts['macs_per_frame'] / 1e9:.3f} G per frame, "
            f"{facts['macs_per_template_update'] / 1e9:.3f} G per template update "
            "(one online template)"
        ),
        "exits": "; ".join(_exits(facts)),
        "calibrated": _calibrated(facts),
        "weights": f"{facts['precision']}, SHA-256 {facts['sha256']}",
        "runs in": facts["inference_precision"],
        "quantized": ", ".join(_flat(facts["quantization"])),
        "engines": "torch, onnxruntime, openvino"
        if facts["onnx_graphs"]
        else "torch (for the others: mixformerv2 export)",
        "files": ", ".join(
            f"{printable(name)} {size / 1e6:.3f} MB" for name, size in facts["files"].items()
        ),
        "source": f"{source['file']} ({source['kind']})"
        + (f", SHA-256 {source['sha256']}" if source.get("sha256") else ""),
        "licence": facts["licence"],
        "created by": facts["created_by"],
        "training": _training(facts["training"]),
        "notes": ", ".join(_flat(facts["notes"])),
    }
    for title, text in rows.items():
        if text:
            yield f"  {title:<14} {text}"


def _exits(facts: Mapping[str, Any]) -> Iterator[str]:
    """What a frame costs that is answered at an exit, or at full depth through all of them."""
    for depth, macs in facts["macs_per_exit"].items():
        share = 100 * macs / facts["macs_per_frame"]
        yield f"after block {depth} {macs / 1e9:.3f} G ({share:.0f} %)"


def _calibrated(facts: Mapping[str, Any]) -> str:
    """Which thresholds the exits have, and what came of them on which sequences."""
    found = facts["exit_calibration"]
    if found is None:
        return ""
    full, chosen = found["curve"][-1], found.get("exits")
    if chosen is not None:
        pairs = zip(facts["exits"], chosen["thresholds"], strict=True)
        text = "thresholds " + ", ".join(f"{value:g} after block {depth}" for depth, value in pairs)
    else:
        text = f"threshold {found['threshold']:g}"
        chosen = next((p for p in found["curve"] if p["threshold"] == found["threshold"]), None)
    if chosen is not None:
        text += f": depth {chosen['depth']:.2f}, success AUC {chosen['success_auc']:.3f}"
        text += f" (full depth {full['success_auc']:.3f})"
    return text + "".join(f", {name} {printable(one)}" for name, one in found["source"].items())


def _training(facts: Mapping[str, Any]) -> str:
    """Step, data, start and seed of a training; the rest is in `--json`."""
    config = facts.get("config")
    config = config if isinstance(config, dict) else {}
    # Settings as they are now called, and as up to version 0.1.
    data = config.get("data.folder") or config.get("data")
    sets = [
        f"{kind} {config.get(name.replace('.kind', '.split'), '')}".strip()
        for name, kind in config.items()
        if name.startswith("data.sets[") and name.endswith(".kind")
    ]
    shown = {
        **{name: one for name, one in facts.items() if isinstance(one, int | float | str)},
        "stage": config.get("stage"),
        "data": ", ".join(sets) if sets else data,
        "start": config.get("init_from") or config.get("start"),
        "seed": config.get("seed"),
    }
    texts = [f"{name} {printable(one)}" for name, one in shown.items() if one not in (None, "")]
    return "; ".join(texts) + (" (all settings: --json)" if config else "")


def _flat(facts: Mapping[str, Any]) -> Iterator[str]:
    """Nested entries as `name value`; deeper nesting as its type only."""
    for name, value in facts.items():
        if isinstance(value, dict):
            yield from (
                f"{printable(name)}.{printable(k)} {printable(v)}" for k, v in value.items()
            )
        else:
            yield f"{printable(name)} {printable(value)}"
