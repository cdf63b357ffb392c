"""How the torch engine is loaded: what torch has here, and whether rounded boxes stay near."""

from __future__ import annotations

import copy

import cv2
import numpy as np
import numpy.typing as npt
import torch

from mixformerv2_ros.engines.options import EngineOptions, UnavailableError
from mixformerv2_ros.engines.torch_engine import TorchEngine
from mixformerv2_ros.errors import EngineError
from mixformerv2_ros.machine import processor_features
from mixformerv2_ros.model.bundle import Bundle, read_weights
from mixformerv2_ros.model.engine import Engine
from mixformerv2_ros.model.spec import ModelSpec
from mixformerv2_ros.network.model import MixFormerV2

LARGEST_EDGE_DISTANCE = 0.005
"""Mean distance of box edges to those in fp32, over the side of the crop, that a precision may
have: an edge off by a fiftieth of the width of a target at the usual search factor."""
CHECKED_CROPS = 8


def load_torch_engine(bundle: Bundle, options: EngineOptions) -> TorchEngine:
    """Load a bundle; on CUDA with recorded search steps.

    Precision `auto` is the bundle's where torch has it here, else fp32. Another precision than fp32
    is tried on crops with known content before it is accepted.

    Raises:
        BundleError: a file of the bundle is not what the bundle says.
        EngineError: torch cannot load it.
        UnavailableError: torch finds no such device, the device lacks the precision, or the boxes
            in it are too far from those in fp32.
    """
    device = options.device
    able = torch_precisions(device)
    precision = options.precision
    if precision == "auto":
        precision = bundle.inference_precision if bundle.inference_precision in able else "fp32"
    if precision not in able:
        raise UnavailableError(
            f"precision {precision} is not available: the torch engine runs {', '.join(able)} on "
            f"this {device}"
        )
    if device == "cpu":
        torch.set_num_threads(options.threads)
    try:
        model = MixFormerV2.from_weights(bundle.spec, read_weights(bundle))
        exact = None if precision == "fp32" else TorchEngine(copy.deepcopy(model), device)
        engine = TorchEngine(model, device, precision, graphs=device != "cpu")
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise EngineError(f"{bundle.path}: torch cannot load it: {reason}") from None
    if exact is not None:
        distance = edge_distance(exact, engine)
        # A distance that is no number is refused too.
        if not distance <= LARGEST_EDGE_DISTANCE:
            raise UnavailableError(
                f"precision {precision} is not available: edges in {bundle.path} must stay within "
                f"{LARGEST_EDGE_DISTANCE} of the crop of those in fp32 on average, got "
                f"{distance:.4f}"
            )
    return engine


def torch_precisions(device: str) -> tuple[str, ...]:
    """The precisions that a device computes in, fp32 first; none that torch would emulate.

    Raises:
        UnavailableError: torch finds no such device.
    """
    if device == "cpu":
        has_bf16 = processor_features() & {"avx512_bf16", "amx_bf16", "bf16"}
        return ("fp32", "bf16") if has_bf16 else ("fp32",)
    if not device.startswith("cuda"):
        raise UnavailableError(f"{device} is not available: the torch engine runs on cpu and cuda")
    count = len(cuda_devices())
    if int(device.partition(":")[2] or 0) >= count:
        raise UnavailableError(f"{device} is not available: torch found {count} CUDA devices")
    ampere_or_newer = torch.cuda.get_device_capability(device)[0] >= 8
    return ("fp32", "fp16", "bf16") if ampere_or_newer else ("fp32", "fp16")


def cuda_devices() -> list[str]:
    """The CUDA devices that torch finds, each `cuda:N`."""
    return [f"cuda:{number}" for number in range(torch.cuda.device_count())]


def edge_distance(exact: Engine, other: Engine) -> float:
    """Mean distance of the box edges of two engines of one model, over the side of the crop.

    In drawn crops, with what is in their middle as template.
    """
    templates, crops = _drawn(exact.spec)
    positions = np.arange(exact.spec.bins) / exact.spec.bins
    first, second = (
        engine.search(crops, [engine.encode_templates(one) for one in templates]).edges @ positions
        for engine in (exact, other)
    )
    return float(np.abs(first - second).mean())


def _drawn(spec: ModelSpec) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Templates (n, 2, T, T, 3) and crops (n, S, S, 3), like photographs out of focus."""
    rng = np.random.default_rng(0)
    size, side = spec.template_size, spec.search_size
    patches = rng.integers(0, 256, (CHECKED_CROPS, 24, 24, 3), dtype=np.uint8)
    crops = [cv2.resize(one, (side, side), interpolation=cv2.INTER_CUBIC) for one in patches]
    # A template shows twice the size of a target, a search region 4.5 times.
    left, right = round(side * 0.28), round(side * 0.72)
    templates = [cv2.resize(one[left:right, left:right], (size, size)) for one in crops]
    return np.stack([np.stack([one, one]) for one in templates]), np.stack(crops)
