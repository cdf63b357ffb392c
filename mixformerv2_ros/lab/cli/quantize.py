"""`mixformerv2 quantize`: write a bundle for int8, bf16 or fp16 that tracks like the original."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mixformerv2_ros.cli.arguments import ranged
from mixformerv2_ros.cli.laboratory import libraries
from mixformerv2_ros.engines.loader import load_engine
from mixformerv2_ros.engines.options import MAX_THREADS, PRECISIONS
from mixformerv2_ros.errors import BundleError, ParameterError, SourceError
from mixformerv2_ros.files import write_folder_atomically
from mixformerv2_ros.io.paths import check_output
from mixformerv2_ros.machine import processor
from mixformerv2_ros.model.bundle import CARD, MODEL, SEARCH, Bundle, open_bundle, record_graphs

CHOICES = PRECISIONS[2:]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = (
        "Write a copy of a bundle whose network runs in another precision. int8: the linear layers "
        "of the search step are quantized with the ranges that they see in DATA; bf16, fp16: the "
        "engine rounds. Both then search the crops of a track of the targets in DATA; the copy is "
        "written only if their boxes agree, and records precision, calibration and agreement."
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="model bundle with ONNX graphs")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="OUT", help="folder of the new bundle"
    )
    parser.add_argument(
        "--precision", required=True, metavar="P", help=f"precision: {', '.join(CHOICES)}"
    )
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DATA",
        help="real frames like those of the camera: a video, a folder of images, a recording, or a "
        "folder of annotated sequences",
    )  # fmt: skip
    parser.add_argument(
        "--box", metavar="X,Y,W,H", help="target in the first frame, unless DATA is annotated"
    )
    parser.add_argument("--image-topic", metavar="T", help="image topic of a recording")
    parser.add_argument(
        "--frames", type=ranged(int, 2), default=300, metavar="N",
        help="frames to use of the data, or of each sequence (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--samples", type=ranged(int, 1), default=256, metavar="N",
        help="frames to calibrate with (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--max-sensitivity", type=ranged(float, 0, 1), default=0.01, metavar="S",
        help="layers that cost more mean IoU stay in floating point (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--min-iou", type=ranged(float, 0, 1), default=0.95, metavar="IOU",
        help="least mean IoU between the boxes of both bundles (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--num-threads", type=ranged(int, 0, MAX_THREADS), default=1, metavar="N",
        help="threads; 0: all physical cores but one (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--force",
        action="store_true",
        help="write the bundle even if it agrees less than --min-iou, and over an existing one",
    )


def run(args: argparse.Namespace) -> int:
    """Quantize, compare, and write the bundle if it agrees."""
    if args.precision not in CHOICES:
        raise ParameterError(
            f"--precision must be one of {', '.join(CHOICES)}, got {args.precision!r}"
        )
    with libraries("quantize", "pip install 'mixformerv2_ros[lab]'"):
        from mixformerv2_ros.lab.clips import open_clips
        from mixformerv2_ros.lab.quantization import compare_engines, record_samples, speed_up
    bundle = open_bundle(args.bundle)
    if bundle.inference_precision != "fp32":
        raise BundleError(
            f"bundle {bundle.path} must be in fp32 to be quantized, got "
            f"{bundle.inference_precision}"
        )
    output = args.output.resolve()
    if output.exists() and not (output / MODEL).is_file():
        raise SourceError(f"{args.output} must be a new folder or a bundle, but is something else")
    check_output(output / MODEL, args.force, bundle.path / MODEL)
    exact = load_engine(bundle, "onnxruntime", "cpu", args.num_threads, "fp32")
    engine = "auto" if args.precision == "int8" else "openvino"
    if engine == "openvino":
        # A precision that this machine lacks cannot be compared: say so before the work.
        load_engine(bundle, engine, "cpu", args.num_threads, args.precision)
    clips = open_clips(args.data, args.box, args.image_topic, args.frames)
    samples = record_samples(exact, bundle, clips, args.samples)
    facts: dict[str, Any] = {
        "precision": args.precision,
        "calibration": {
            "data": args.data.resolve().name,
            "clips": len(clips),
            "samples": len(samples),
        },
    }
    with write_folder_atomically(output) as temporary:
        for file in bundle.path.iterdir():
            if file.is_file():
                shutil.copyfile(file, temporary / file.name)
        new = open_bundle(temporary)
        if args.precision == "int8":
            facts["calibration"] |= _quantize(bundle, temporary, samples, args.max_sensitivity)
        record_graphs(new, facts)
        rounded = load_engine(new, engine, "cpu", args.num_threads)
        agreement = compare_engines(exact, rounded, bundle, clips)
        gain = speed_up(exact, rounded, samples, bundle)
        sizes = [_megabytes(one.path) for one in (bundle, new)]
        print(f"engines        {exact.name} and {rounded.name}, {processor()}")
        print(f"frames         {agreement.frames} of {len(clips)} clips")
        print(f"mean IoU       {agreement.mean_iou:.4f} (worst clip {agreement.worst_clip:.4f})")
        print(f"own tracks     {agreement.own_track_iou:.4f}, each following its own boxes")
        print(f"score          differs by {agreement.score_difference:.4f} on average")
        print(f"size           {sizes[0]:.1f} MB, {sizes[1]:.1f} MB")
        print(f"search step    {gain:.2f} times as fast")
        facts["agreement"] = {
            **{name: round(value, 5) for name, value in asdict(agreement).items()},
            "min_iou": args.min_iou,
            "speed_up": round(gain, 2),
            "engine": rounded.name,
            "processor": processor(),
        }
        if not agreement.mean_iou >= args.min_iou and not args.force:
            raise BundleError(
                f"bundle {args.output} is not written: mean IoU must be at least {args.min_iou:g}, "
                f"got {agreement.mean_iou:.4f}; --force writes it anyway"
            )
        record_graphs(new, facts)
        _note_in_card(temporary / CARD, args.precision, agreement.mean_iou)
    print(f"wrote {args.output}")
    return 0


def _quantize(bundle: Bundle, folder: Path, samples: Sequence[Any], limit: float) -> dict[str, Any]:
    """Write the graph in int8; returns what is recorded of it."""
    import tempfile

    from tqdm import tqdm

    from mixformerv2_ros.lab.quantization import (
        folded_graph,
        linear_layers,
        quantized_graph,
        sensitivities,
    )

    layers = linear_layers(bundle)
    with tempfile.TemporaryDirectory() as scratch:
        graph = folded_graph(bundle, Path(scratch))
        some = samples[:: max(1, len(samples) // 64)]
        costs = list(
            tqdm(
                sensitivities(graph, layers, some),
                total=len(layers),
                desc="layers",
                disable=None,
                leave=False,
            )
        )
        print(f"{'layer':44}{'1 - mean IoU':>13}")
        for cost, layer in sorted(zip(costs, layers, strict=True), key=lambda one: -one[0]):
            stays = "  stays in floating point" if cost > limit else ""
            print(f"{layer.weight:44}{cost:13.5f}{stays}")
        kept = [layer for cost, layer in zip(costs, layers, strict=True) if cost <= limit]
        if not kept:
            raise BundleError(
                f"bundle {bundle.path}: no layer costs at most --max-sensitivity {limit:g}"
            )
        quantized_graph(graph, kept, samples, folder / SEARCH)
    return {
        "method": "per channel, range of the inputs",
        "quantized": len(kept),
        "float_layers": [layer.weight for layer in layers if layer not in kept],
    }


def _megabytes(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.iterdir() if file.is_file()) / 1e6


def _note_in_card(path: Path, precision: str, agreement: float) -> None:
    if path.is_file():
        text = path.read_text(encoding="utf-8")
        note = (
            f"\n\nThis copy runs in {precision}: mean IoU {agreement:.4f} to the boxes in fp32.\n"
        )
        path.write_text(text.rstrip("\n") + note, encoding="utf-8")
