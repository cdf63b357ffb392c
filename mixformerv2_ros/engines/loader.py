"""Choice of the engine for a bundle."""

from __future__ import annotations

from importlib.util import find_spec

from mixformerv2_ros.errors import EngineError
from mixformerv2_ros.model.bundle import Bundle, has_graphs, read_weights
from mixformerv2_ros.model.engine import Engine

ENGINES = ("auto", "onnxruntime", "torch")


DEVICES = ("cpu", "cuda", "cuda:N")
"""Devices; N is the number of a GPU."""


def check_device(name: str) -> str:
    """Return `name` if it is a device.

    Raises:
        EngineError: it is not one of `DEVICES`.
    """
    kind, colon, number = name.partition(":")
    if kind not in DEVICES or (colon and not (kind == "cuda" and number.isdecimal())):
        raise EngineError(f"device must be one of {', '.join(DEVICES)}, got {name!r}")
    return name


def load_engine(
    bundle: Bundle, engine: str = "auto", device: str = "cpu", num_threads: int = 0
) -> Engine:
    """Load a bundle into an engine.

    Args:
        bundle: An opened bundle.
        engine: `onnxruntime`, `torch`, or `auto`: ONNX Runtime where the bundle has graphs for it,
            else torch.
        device: `cpu`, `cuda` or `cuda:N`.
        num_threads: Threads of one network run; 0: chosen by the library.

    Raises:
        EngineError: the engine is unknown, not installed, or cannot run the bundle.
    """
    if engine not in ENGINES:
        raise EngineError(f"engine must be one of {', '.join(ENGINES)}, got {engine!r}")
    check_device(device)
    exported = has_graphs(bundle)
    if engine == "onnxruntime" or (engine == "auto" and exported):
        from mixformerv2_ros.engines.onnx_engine import OnnxEngine

        return OnnxEngine(bundle, device, num_threads)
    if find_spec("torch") is None:
        missing = "" if exported else f", and {bundle.path} has no ONNX graphs"
        raise EngineError(f"the torch engine requires torch, which is not installed{missing}")
    return _torch_engine(bundle, device, num_threads)


def _torch_engine(bundle: Bundle, device: str, num_threads: int) -> Engine:
    import torch

    from mixformerv2_ros.engines.torch_engine import TorchEngine
    from mixformerv2_ros.network.model import MixFormerV2

    if device != "cpu":
        count = torch.cuda.device_count()
        if int(device.partition(":")[2] or 0) >= count:
            raise EngineError(f"{device} is not available: torch found {count} CUDA devices")
    if num_threads:
        torch.set_num_threads(num_threads)
    try:
        return TorchEngine(MixFormerV2.from_weights(bundle.spec, read_weights(bundle)), device)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise EngineError(f"{bundle.path}: torch cannot load it: {reason}") from None
