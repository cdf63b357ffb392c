"""Choice of the engine for a bundle.

`auto` follows what docs/performance.md measured. In fp32, ONNX Runtime comes first: OpenVINO saves
a few percent, but its boxes have other last bits, and what is installed must not change the tracks
of a bundle. A bundle whose record says bf16 or int8 gains a factor from OpenVINO, which then comes
first. A device other than the CPU comes before the CPU. On CUDA torch comes first: its search steps
are recorded for every number of targets, where TensorRT would build engines anew when one comes;
elsewhere torch is the last resort. Where nothing runs the precision that is asked for, that of the
graphs runs.
"""

from __future__ import annotations

from importlib.util import find_spec

from mixformerv2_ros.engines.chain import Candidate, EngineChain
from mixformerv2_ros.engines.options import ENGINES, EngineOptions, UnavailableError
from mixformerv2_ros.errors import EngineError
from mixformerv2_ros.model.bundle import Bundle, has_graphs, missing_graphs
from mixformerv2_ros.model.engine import Engine
from mixformerv2_ros.text import some


def load_engine(
    bundle: Bundle,
    engine: str = "auto",
    device: str = "cpu",
    num_threads: int = 0,
    precision: str = "auto",
    spinning: bool = True,
) -> Engine:
    """Load a bundle into an engine.

    Args:
        bundle: An opened bundle.
        engine: `onnxruntime`, `openvino` or `torch`, or `auto`: the first of a chain that this
            machine can run; the next one takes over when it fails for good. Log lines of
            `mixformerv2_ros.engines.chain` say what runs and why.
        device: One of `DEVICES`.
        num_threads: See `EngineOptions`.
        precision: See `EngineOptions`.
        spinning: See `EngineOptions`.

    Raises:
        BundleError: a file of the bundle is not what the bundle says.
        EngineError: the engine is unknown, not installed, or cannot run the bundle.
    """
    if engine not in ENGINES:
        raise EngineError(f"engine must be one of {', '.join(ENGINES)}, got {engine!r}")
    options = EngineOptions(device, num_threads, precision, spinning)
    if engine != "auto":
        return _load(bundle, engine, options)
    return EngineChain(_candidates(bundle, options))


def _candidates(bundle: Bundle, options: EngineOptions) -> list[Candidate]:
    precision = bundle.inference_precision if options.precision == "auto" else options.precision
    own = "int8" if bundle.inference_precision == "int8" else "fp32"
    graphs, reason = _graph_engines(precision)
    follow, _ = _graph_engines(own)
    missing = missing_graphs(bundle)
    warns = bool(missing) and "graphs" in bundle.metadata
    if missing:
        lack = some(missing) if warns else "ONNX graphs"
        graphs, follow, reason = [], [], f"{bundle.path} has no {lack}"
    entries = []
    if options.device != "cpu":
        reached, able = f"runs on {options.device}", ["openvino"] if graphs else ["torch"]
        if options.device.startswith("cuda"):
            able = ["torch", *(engine for engine in graphs if engine != "openvino")]
        entries = [(engine, options, reached) for engine in able]
        options = EngineOptions("cpu", options.num_threads, options.precision, options.spinning)
    entries += [(engine, options, reason) for engine in (*graphs, "torch")]
    if precision != own:
        lacking = f"nothing here runs {bundle.name} in {precision}"
        entries += [
            (name, EngineOptions("cpu", options.num_threads, other, options.spinning), lacking)
            for name, other in (*((name, own) for name in follow), ("torch", "fp32"))
        ]
    return [
        Candidate(
            f"{name} on {choice.device}",
            lambda name=name, choice=choice: _load(bundle, name, choice),  # type: ignore[misc]
            why if place == 0 else f"{why}; the engines before it cannot",
            warns and why == reason,
        )
        for place, (name, choice, why) in enumerate(entries)
    ]


def _graph_engines(precision: str) -> tuple[list[str], str]:
    """The engines that run graphs in a precision, the preferred one first, and why it is."""
    if precision == "fp32":
        return ["onnxruntime", "openvino"], "fp32 runs in ONNX Runtime wherever it is installed"
    return ["openvino", "onnxruntime"], f"{precision} is fastest in OpenVINO"


def _load(bundle: Bundle, engine: str, options: EngineOptions) -> Engine:
    """Load one engine.

    Raises:
        BundleError, EngineError: the bundle is at fault.
        UnavailableError: this machine is.
    """
    if engine == "onnxruntime":
        from mixformerv2_ros.engines.onnx_engine import OnnxEngine

        return OnnxEngine(bundle, options)
    if engine == "openvino":
        if find_spec("openvino") is None:
            raise UnavailableError(
                "the openvino engine requires openvino: pip install 'mixformerv2_ros[openvino]'"
            )
        from mixformerv2_ros.engines.openvino_engine import OpenVinoEngine

        return OpenVinoEngine(bundle, options)
    if find_spec("torch") is None:
        missing = "" if has_graphs(bundle) else f", and {bundle.path} has no ONNX graphs"
        raise UnavailableError(f"the torch engine requires torch, which is not installed{missing}")
    from mixformerv2_ros.engines.torch_loader import load_torch_engine

    return load_torch_engine(bundle, options)
