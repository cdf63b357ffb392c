"""`mixformerv2 benchmark`: time per frame of the engines, or training samples per second."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import TYPE_CHECKING, Any

from mixformerv2_ros.cli.arguments import ranged
from mixformerv2_ros.cli.laboratory import lab_module
from mixformerv2_ros.engines.options import (
    DEVICES,
    ENGINES,
    MAX_THREADS,
    PRECISIONS,
    check_device,
)
from mixformerv2_ros.errors import EngineError, ParameterError
from mixformerv2_ros.files import write_json
from mixformerv2_ros.io.paths import check_output_file

if TYPE_CHECKING:
    from mixformerv2_ros.cli.engine_benchmark import Plan, Variant
    from mixformerv2_ros.model.bundle import Bundle

DATA = "data"

_NOT_OF_NODES = (
    "compare", "trackers", "targets", "online_size", "exits", "preset", "scaling", "report",
    "num_threads",
)  # fmt: skip
"""Options that `--node` does without: it measures one target on one core, without plots."""
_NOT_OF_DATA = (
    *_NOT_OF_NODES, "device", "engine", "precision", "size", "frames", "node", "encoding"
)  # fmt: skip
"""Options that `data` does without."""


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
        help="model bundle, or tiny (default: the default bundle of the package), or the word data "
        "(for a bundle of that name: ./data)",
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
        "--engine",
        metavar="LIST",
        help="engines separated by commas: "
        f"{', '.join(ENGINES[1:])} (default: all that are installed)",
    )
    models.add_argument(
        "--precision",
        metavar="LIST",
        help=f"precisions separated by commas: {', '.join(PRECISIONS[1:])} (default: all that "
        "there are)",
    )
    models.add_argument(
        "--compare",
        type=Path,
        action="append",
        default=[],
        metavar="BUNDLE",
        help="measure a copy of the bundle in int8 as well, see `quantize`; may be repeated",
    )
    models.add_argument(
        "--trackers",
        metavar="LIST",
        help="trackers of OpenCV to measure as well, named as for `evaluate`: CSRT, KCF, MIL, "
        "Nano=FOLDER, ViT=FILE",
    )
    models.add_argument(
        "--targets", type=_target_counts, default=(1,), metavar="LIST",
        help="targets that are tracked at once; several numbers, separated by commas, are measured "
        "one after the other (default: 1)",
    )  # fmt: skip
    models.add_argument(
        "--online-size", type=ranged(int, 1, 64), default=1, metavar="N",
        help="online templates of each target (default: %(default)s)",
    )  # fmt: skip
    models.add_argument(
        "--exits",
        action="store_true",
        help="also measure answers at each exit of the model, and at full depth through all exits",
    )
    models.add_argument(
        "--preset",
        choices=("S", "B", "XS", "T"),
        help="instead of a bundle, measure a preset with formula weights and exits after every "
        "second block: its tracks mean nothing, its time is that of the preset",
    )
    models.add_argument(
        "--scaling",
        action="store_true",
        help="also measure with other numbers of threads, targets and templates, and image sizes",
    )
    models.add_argument(
        "--report", type=Path, metavar="FILE", help="write a page with plots (HTML)"
    )
    models.add_argument(
        "--threads",
        "--num-threads",
        dest="num_threads",
        type=ranged(int, 0, MAX_THREADS),
        default=0,
        metavar="N",
        help="threads; 0: all physical cores but one (default: 0)",
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
    nodes = parser.add_argument_group("node")
    nodes.add_argument(
        "--node",
        choices=("dds", "rclpy"),
        help="instead of the engines, measure the tracker node on one core, message to message",
    )
    nodes.add_argument(
        "--encoding",
        choices=("bgr8", "mono8", "jpeg"),
        default="bgr8",
        help="images of --node (default: %(default)s)",
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
    for path in filter(None, (args.json, args.report)):
        check_output_file(path, force=True)
    if args.target == DATA:
        _refuse(args, DATA, _NOT_OF_DATA)
        lab: ModuleType = lab_module("cli.benchmark_data", "benchmark data")
        code: int = lab.run(args)
        return code
    if args.config is not None:
        raise ParameterError(
            f"CONFIG requires the word data before it, got {args.target} {args.config}"
        )
    if args.node is not None:
        _refuse(args, "--node", _NOT_OF_NODES)
        return _node(args)
    if args.preset is None:
        return _models(args)
    if args.target is not None:
        raise ParameterError("--preset excludes BUNDLE")
    lab = lab_module("formula_weights", "--preset")
    with TemporaryDirectory() as folder:
        bundle = lab.formula_bundle(Path(folder) / args.preset, args.preset, args.engine != "torch")
        args.target = str(bundle.path)
        return _models(args)


def _refuse(args: argparse.Namespace, what: str, names: Sequence[str]) -> None:
    """Refuse options that would be ignored.

    Raises:
        ParameterError: one of them is not at its default.
    """
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    given = [name for name in names if getattr(args, name) != parser.get_default(name)]
    if given:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ParameterError(f"{what} excludes {options}")


def _node(args: argparse.Namespace) -> int:
    from mixformerv2_ros.cli.node_benchmark import as_json, measure_node, node_table
    from mixformerv2_ros.machine import environment

    parameters = {"model": args.target, "engine": args.engine, "precision": args.precision}
    parameters["device"] = args.device
    options = [f"{name}:={value}" for name, value in parameters.items() if value is not None]
    count = args.rounds * args.frames
    costs = measure_node(args.node, args.encoding, _size(args.size), count, options)
    about = environment()
    print(f"machine  {about['machine']['processor']}, {about['machine']['cores']} cores")
    print(f"node     1 target, 1 core, {count} frames, Cyclone DDS on the loopback interface\n")
    print(node_table([costs]))
    if args.json:
        write_json(args.json, {**about, "frames": count, **as_json(costs)})
    return 0


def _models(args: argparse.Namespace) -> int:
    from mixformerv2_ros.cli.benchmark_tables import scaling_lines, targets_table
    from mixformerv2_ros.cli.engine_benchmark import PARTS, Plan
    from mixformerv2_ros.cli.machine_limits import copy_rate, matrix_rates
    from mixformerv2_ros.engines.options import default_threads
    from mixformerv2_ros.machine import environment
    from mixformerv2_ros.model.bundle import open_bundle
    from mixformerv2_ros.model.flops import frame_macs

    width, height = _size(args.size)
    check_device(args.device)
    bundle = open_bundle(args.target)
    variants = _variants(args, bundle)
    page = None
    if args.report is not None:
        page = lab_module("reports.benchmark_report", "--report", "report")
    plan = Plan(
        bundle=bundle.path,
        device=args.device,
        num_threads=args.num_threads or default_threads(),
        width=width,
        height=height,
        rounds=args.rounds,
        frames=args.frames,
        targets=args.targets[0],
        online_size=args.online_size,
    )
    rates, copies = matrix_rates(plan.num_threads, plan.device), copy_rate()
    about = environment()
    machine = about["machine"]
    print(f"model    {bundle.name}, preset {bundle.spec.preset}, weights {bundle.checksum}")
    print(f"machine  {machine['processor']}, {machine['cores']} cores")
    if plan.device.startswith("cuda") and find_spec("torch") is not None:
        from mixformerv2_ros.engines.cuda_limits import cuda_name

        about["machine"]["gpu"] = cuda_name(plan.device)
        print(f"device   {plan.device}, {machine['gpu']}")
    listed = ", ".join(f"{name} {rate:.0f}" for name, rate in rates.items())
    print(
        f"limit    products of matrices, 10^9 multiply-adds/s: {listed}; copies {copies:.1f} GB/s"
    )
    print(
        f"image    {width}x{height} JPEG, {plan.online_size} online templates, {plan.num_threads} "
        f"threads, {plan.rounds} x {plan.frames} frames"
    )
    runs = []
    for count in args.targets:
        macs = frame_macs(bundle.spec, plan.online_size) * count
        print(f"\ntargets  {count}: {macs / 1e6:.0f} x 10^6 multiply-adds per frame\n")
        one = replace(plan, targets=count)
        runs.append(_measured(one, variants, rates, macs, bundle.spec.depth))
    result = {
        "model": {
            "name": bundle.name,
            "preset": bundle.spec.preset,
            "weights": bundle.checksum,
            "depth": bundle.spec.depth,
        },
        **about,
        "image": [width, height],
        "threads": plan.num_threads,
        "device": plan.device,
        "online_size": plan.online_size,
        "limits": {
            "giga_multiply_adds_per_second": {k: round(v, 1) for k, v in rates.items()},
            "copied_gigabytes_per_second": round(copies, 2),
            "multiply_adds_per_frame": frame_macs(bundle.spec, plan.online_size) * plan.targets,
        },
        **runs[0],
    }
    if len(runs) > 1:
        result["other_targets"] = runs[1:]
        print("\n" + targets_table(runs))
    if args.scaling:
        result["scaling"] = _scaling(plan, [one for one in variants if one.cached])
        print("\n" + "\n".join(scaling_lines(result["scaling"])))
    if args.json:
        write_json(args.json, result)
    if page is not None:
        page.write_report(args.report, result, list(PARTS))
    return 0


def _measured(
    plan: Plan, variants: list[Variant], rates: dict[str, float], macs: int, depth: int
) -> dict[str, Any]:
    """Measure with one number of targets and print the tables; what goes into the JSON."""
    from tqdm import tqdm

    from mixformerv2_ros.cli.benchmark_tables import (
        compare,
        exit_curves,
        exits_table,
        joint_table,
        speed_table,
    )
    from mixformerv2_ros.cli.engine_benchmark import measure

    rounds = measure(plan, variants)
    *_, measurements = tqdm(rounds, total=plan.rounds, desc="rounds", disable=None, leave=False)
    summaries = [measurement.summary() for measurement in measurements]
    for variant, summary in zip(variants, summaries, strict=True):
        rate = rates.get(variant.precision)
        known = (
            rate is not None
            and variant.cached
            and not variant.answer_at
            and plan.device.startswith(("cpu", "cuda"))
        )
        least = macs / (rate * 1e6) if known and rate else None  # ms
        engine = summary["milliseconds"]["engine"]["p50"]
        summary["percent_of_limit"] = None if least is None else round(100 * least / engine, 1)
    compare(summaries, measurements)
    print(speed_table(summaries))
    if any("over_joint" in summary for summary in summaries):
        print("\n" + joint_table(summaries))
    result: dict[str, Any] = {"targets": plan.targets, "variants": summaries}
    if curves := exit_curves(summaries, measurements):
        result["exits"] = curves
        print("\n" + exits_table(curves, depth))
    return result


def _variants(args: argparse.Namespace, bundle: Bundle) -> list[Variant]:
    """What to measure.

    Raises:
        EngineError: nothing that was asked for is there.
        ParameterError: a name is none.
        BundleError: a bundle to compare with is none.
    """
    from mixformerv2_ros.cli.engine_benchmark import (
        JOINT,
        Variant,
        at_exits,
        devices_at_hand,
        variants_at_hand,
    )
    from mixformerv2_ros.model.bundle import has_graphs, open_bundle

    found = variants_at_hand(bundle, args.device)
    if not found:
        graphs = "" if has_graphs(bundle) else f"; {bundle.path} has no ONNX graphs"
        raise EngineError(
            f"no engine that is installed here runs on {args.device}{graphs}; there is "
            f"{', '.join(devices_at_hand())}"
        )
    others = [open_bundle(path) for path in args.compare]
    for other in others:
        # Of other weights or presets, neither boxes nor shares of the limit could be compared.
        if other.checksum != bundle.checksum or other.inference_precision != "int8":
            raise ParameterError(
                f"--compare requires a copy of {bundle.path} in int8, as `mixformerv2 quantize` "
                f"writes it, got {other.path}"
            )
        several = len(others) > 1 or bundle.inference_precision == "int8"
        found += [
            replace(one, bundle=other.path, note=other.path.name if several else "")
            for one in variants_at_hand(other, args.device)
            if one.engine != "torch"
        ]
    for option, choices in (("engine", ENGINES[1:]), ("precision", PRECISIONS[1:])):
        asked = getattr(args, option)
        if asked is None:
            continue
        names = asked.split(",")
        for name in names:
            if name not in choices:
                raise ParameterError(f"--{option} must be of {', '.join(choices)}, got {name!r}")
        there = {getattr(one, option) for one in found}
        missing = [name for name in names if name not in there]
        if missing:
            raise EngineError(
                f"{option} {', '.join(missing)} is not available for {bundle.path} on "
                f"{args.device} here: there is "
                f"{', '.join(sorted(there)) or 'none'}"
            )
        found = [
            one
            for one in found
            if getattr(one, option) in names or (option == "precision" and one == JOINT)
        ]
    if args.exits:
        found += at_exits(found, bundle)
    if args.trackers is not None:
        trackers = lab_module("evaluation.trackers", "--trackers")
        for text in args.trackers.split(","):
            trackers.parse_tracker(text)
            found.append(Variant(text.strip(), True, "", is_peer=True))
    return found


def _scaling(plan: Plan, variants: list[Variant]) -> dict[str, list[dict[str, Any]]]:
    """Medians of engine and frame with one setting after the other changed."""
    from mixformerv2_ros.cli.engine_benchmark import measure

    cores = len(os.sched_getaffinity(0))
    axes: dict[str, list[dict[str, Any]]] = {
        "threads": [{"num_threads": n} for n in (1, 2, 4, 8, 16) if n <= cores],
        "targets": [{"targets": n} for n in (1, 2, 4, 8)],
        "online_size": [{"online_size": n} for n in (1, 2, 4, 8)],
        "image": [{"width": w, "height": h} for w, h in ((640, 480), (1280, 720), (1920, 1080))],
    }
    curves: dict[str, list[dict[str, Any]]] = {}
    for axis, values in axes.items():
        curves[axis] = []
        for change in values:
            *_, measured = measure(replace(plan, **change), variants)
            point: dict[str, Any] = {
                "at": change["width"] * change["height"] / 1e6 if axis == "image" else
                next(iter(change.values()))
            }  # fmt: skip
            for one in measured:
                parts = one.summary()["milliseconds"]
                point[one.variant.label] = [parts["engine"]["p50"], parts["frame"]["p50"]]
            curves[axis].append(point)
    return curves


def _target_counts(text: str) -> tuple[int, ...]:
    parse = ranged(int, 1, 64)
    return tuple(parse(one) for one in text.split(","))


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal() and 10 <= int(width) <= 16384
            and 10 <= int(height) <= 16384):  # fmt: skip
        raise ParameterError(f"--size must be WxH, each 10 to 16384 px, got {text!r}")
    return int(width), int(height)
