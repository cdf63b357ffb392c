"""`mixformerv2 benchmark`: milliseconds per frame, part by part, for every engine at hand."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from mixformerv2_ros.errors import EngineError, ParameterError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("bundle", nargs="?", type=Path, help="model bundle (default: our own)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--num-threads", type=int, default=0, metavar="N", help="0 leaves it to the engine"
    )
    parser.add_argument(
        "--size", default="1280x720", metavar="WxH", help="camera image (default %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="turns of each (default %(default)s)")
    parser.add_argument(
        "--frames", type=int, default=20, help="frames of a round (default %(default)s)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there as well")


def run(args: argparse.Namespace) -> int:
    """Measure, print a table, write JSON."""
    from tqdm import tqdm

    from mixformerv2_ros.inference.benchmark import Plan, measure, variants_at_hand
    from mixformerv2_ros.inference.bundle import open_bundle
    from mixformerv2_ros.machine import environment

    width, height = _size(args.size)
    for name in ("rounds", "frames"):
        if getattr(args, name) < 1:
            raise ParameterError(f"--{name} must be at least 1, got {getattr(args, name)}")
    bundle = open_bundle(args.bundle)
    variants = variants_at_hand(bundle)
    if not variants:
        raise EngineError(f"{bundle.path} has no ONNX graphs, and torch is not installed")
    plan = Plan(
        bundle=bundle.path,
        device=args.device,
        num_threads=args.num_threads,
        width=width,
        height=height,
        rounds=args.rounds,
        frames=args.frames,
    )
    rounds = measure(plan, variants)
    *_, measurements = tqdm(rounds, total=plan.rounds, desc="rounds", disable=None, leave=False)
    summaries = [measurement.summary() for measurement in measurements]
    about = environment()
    machine = about["machine"]
    print(f"model    {bundle.name}, preset {bundle.spec.preset}, weights {bundle.checksum}")
    print(f"machine  {machine['processor']}, {machine['cores']} cores")
    print(f"image    {width}x{height} JPEG, one target, {plan.rounds} x {plan.frames} frames\n")
    print(_table(summaries))
    result = {
        "model": {"name": bundle.name, "preset": bundle.spec.preset, "weights": bundle.checksum},
        **about,
        "image": [width, height],
        "threads": plan.num_threads,
        "variants": summaries,
    }
    engines = {s["variant"]: s["milliseconds"]["engine"]["p50"] for s in summaries}
    if "onnxruntime cached" in engines and "torch joint" in engines:
        ratio = engines["onnxruntime cached"] / engines["torch joint"]
        result["cached_onnx_over_joint_torch"] = round(ratio, 3)
        print(f"\nengine time, cached ONNX Runtime over joint torch: {ratio:.2f}")
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal() and 10 <= int(width) <= 16384
            and 10 <= int(height) <= 16384):  # fmt: skip
        raise ParameterError(f"--size must be WxH, each 10 to 16384 px, got {text!r}")
    return int(width), int(height)


def _table(summaries: list[dict[str, Any]]) -> str:
    head = (
        f"{'ms per frame':20}{'decode':>8}{'crop':>8}{'engine':>8}{'p95':>8}{'p99':>8}"
        f"{'frame':>8}{'p95':>8}{'p99':>8}{'fps':>8}{'peak MB':>9}"
    )
    lines = [head]
    for summary in summaries:
        ms = summary["milliseconds"]
        cells = [ms["decode"]["p50"], ms["crop"]["p50"]]
        cells += [ms["engine"][q] for q in ("p50", "p95", "p99")]
        cells += [ms["frame"][q] for q in ("p50", "p95", "p99")]
        lines.append(
            f"{summary['variant']:20}"
            + "".join(f"{cell:8.2f}" for cell in cells)
            + f"{summary['frames_per_second']:8.1f}{summary['peak_megabytes']:9.0f}"
        )
    return "\n".join(lines)
