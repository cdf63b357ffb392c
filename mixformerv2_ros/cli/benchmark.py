"""`mixformerv2 benchmark`: time per frame of the engines, or training samples per second."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import ModuleType
from typing import Any

from mixformerv2_ros.cli.arguments import ranged
from mixformerv2_ros.cli.laboratory import lab_module
from mixformerv2_ros.engines.options import DEVICES, check_device
from mixformerv2_ros.errors import EngineError, ParameterError
from mixformerv2_ros.files import write_json

DATA = "data"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = (
        "Measure the time per frame of all available engines, split into decoding, cropping and "
        "inference; or, with `data`, the training samples per second of one core."
    )
    parser.add_argument(
        "target",
        nargs="?",
        metavar="BUNDLE | data",
        help="model bundle (default: the bundle of the package), or the word data (for a bundle of "
        "that name: ./data)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results as JSON")
    parser.add_argument(
        "--rounds",
        type=ranged(int, 1),
        default=5,
        metavar="N",
        help="rounds (default: %(default)s)",
    )
    models = parser.add_argument_group("bundle")
    models.add_argument(
        "--device",
        default="cpu",
        metavar="D",
        help=f"device: {', '.join(DEVICES)} (default: %(default)s)",
    )
    models.add_argument(
        "--num-threads",
        type=ranged(int, 0),
        default=0,
        metavar="N",
        help="threads; 0: chosen by the library (default: 0)",
    )
    models.add_argument(
        "--size",
        default="1280x720",
        metavar="WxH",
        help="size of the camera image (default: %(default)s)",
    )
    models.add_argument(
        "--frames",
        type=ranged(int, 1),
        default=20,
        metavar="N",
        help="frames per round (default: %(default)s)",
    )
    data = parser.add_argument_group("data")
    data.add_argument(
        "config",
        nargs="?",
        type=Path,
        metavar="CONFIG",
        help="training configuration whose samples to draw (default: generated 640x480 JPEG images "
        "at the crop sizes of preset S, 112 and 224 px)",
    )
    data.add_argument(
        "settings", nargs="*", metavar="name=value", help="settings that override CONFIG"
    )
    data.add_argument(
        "--samples",
        type=ranged(int, 1),
        default=400,
        metavar="N",
        help="samples per round (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Measure, print a table, write JSON."""
    if args.target == DATA:
        lab: ModuleType = lab_module("cli.benchmark_data", "benchmark data")
        code: int = lab.run(args)
        return code
    if args.config is not None:
        raise ParameterError(
            f"CONFIG requires the word data before it, got {args.target} {args.config}"
        )
    return _models(args)


def _models(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from mixformerv2_ros.cli.engine_benchmark import Plan, measure, variants_at_hand
    from mixformerv2_ros.machine import environment
    from mixformerv2_ros.model.bundle import open_bundle

    width, height = _size(args.size)
    check_device(args.device)
    bundle = open_bundle(args.target)
    variants = variants_at_hand(bundle)
    if not variants:
        raise EngineError(
            f"no engine available: {bundle.path} has no ONNX graphs and torch is not installed"
        )
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
        print(f"\nratio of engine times, onnxruntime cached to torch joint: {ratio:.2f}")
    if args.json:
        write_json(args.json, result)
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
