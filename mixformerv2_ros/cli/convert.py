"""`mixformerv2 convert`: convert a checkpoint to a bundle."""

from __future__ import annotations

import argparse
from pathlib import Path

from mixformerv2_ros.cli.arguments import ranged
from mixformerv2_ros.cli.renamed_options import add_renamed_option
from mixformerv2_ros.errors import BundleError
from mixformerv2_ros.model.architecture import describe
from mixformerv2_ros.model.bundle import (
    SEARCH_FACTOR,
    TEMPLATE_BACKGROUND_CONTRAST,
    TEMPLATE_FACTOR,
    file_sha256,
    write_bundle,
)
from mixformerv2_ros.model.checkpoints import load_checkpoint
from mixformerv2_ros.text import printable, some

UNKNOWN_LICENCE = "unknown: not stated in the checkpoint"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = (
        "Convert a checkpoint (official .pth.tar, state_dict of MixFormerV2, or .safetensors) to a "
        "bundle. The architecture is inferred from the weights; pickles are not executed."
    )
    parser.add_argument("checkpoint", type=Path, metavar="FILE", help="checkpoint")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="BUNDLE", help="output folder"
    )
    parser.add_argument("--name", help="name of the model (default: MixFormerV2-PRESET)")
    parser.add_argument(
        "--precision",
        choices=("fp32", "fp16"),
        default="fp32",
        help="number format of the stored weights (default: %(default)s)",
    )
    parser.add_argument(
        "--search-factor",
        type=ranged(float, 1, 20),
        metavar="F",
        help="side of the search region as a multiple of the target size sqrt(w*h) (default: as in "
        f"the checkpoint, else {SEARCH_FACTOR})",
    )
    parser.add_argument(
        "--template-factor",
        type=ranged(float, 1, 20),
        metavar="F",
        help="side of the template region, likewise (default: as in the checkpoint, else "
        f"{TEMPLATE_FACTOR})",
    )
    parser.add_argument(
        "--template-background-contrast",
        type=ranged(float, 0, 1),
        metavar="C",
        help="contrast of the background in templates, 0 to 1 (default: as in the checkpoint, else "
        f"{TEMPLATE_BACKGROUND_CONTRAST})",
    )
    add_renamed_option(parser, "--template-surroundings", "--template-background-contrast")
    parser.add_argument(
        "--heads",
        type=ranged(int, 1),
        metavar="N",
        help="attention heads of an unknown architecture (default: width / 64)",
    )
    parser.add_argument(
        "--licence",
        default=UNKNOWN_LICENCE,
        metavar="TEXT",
        help="licence of the weights (default: %(default)s)",
    )
    parser.add_argument(
        "--card", type=Path, metavar="FILE", help="model card, copied to README.md of the bundle"
    )
    parser.add_argument("--force", action="store_true", help="overwrite the bundle")


def run(args: argparse.Namespace) -> int:
    """Convert one checkpoint; nothing is written if that fails."""
    checkpoint = load_checkpoint(args.checkpoint)
    print(f"{printable(args.checkpoint.name)}: {checkpoint.kind}")
    if checkpoint.opaque:
        print(f"  opaque       {some(checkpoint.opaque, 20)}")
    if checkpoint.ignored:
        print(f"  ignored      {some(checkpoint.ignored, 20)}")
    spec = checkpoint.infer_spec(args.heads)
    print(f"  model        {describe(spec)}")
    released = {
        "search_factor": SEARCH_FACTOR,
        "template_factor": TEMPLATE_FACTOR,
        "template_background_contrast": TEMPLATE_BACKGROUND_CONTRAST,
    }
    given = {name: getattr(args, name) for name in released if getattr(args, name) is not None}
    crops = {**released, **checkpoint.crops, **given}
    print(
        f"  crops        search factor {crops['search_factor']:g}, template factor "
        f"{crops['template_factor']:g}, template background contrast "
        f"{crops['template_background_contrast']:g}"
    )
    bundle = write_bundle(
        args.output,
        spec,
        checkpoint.weights,
        name=args.name or f"MixFormerV2-{spec.preset}",
        **crops,
        source={
            "file": printable(args.checkpoint.name),
            "sha256": file_sha256(args.checkpoint),
            "kind": checkpoint.kind,
        },
        licence=args.licence,
        precision=args.precision,
        training=checkpoint.training,
        card=_read_card(args.card),
        overwrite=args.force,
    )
    megabytes = bundle.weights_path.stat().st_size / 1e6
    print(f"  parameters   {bundle.parameters:,}")
    print(f"  bundle       {args.output} ({bundle.precision}, {megabytes:.1f} MB)")
    return 0


def _read_card(path: Path | None) -> str | None:
    try:
        return None if path is None else path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(
            f"model card must be a readable UTF-8 file: {printable(error)}"
        ) from error
