"""What the cores could do at best: products of matrices and copies of memory, measured.

The product is one that a network could have, large enough to be bound by arithmetic. OpenVINO
computes it in every precision that the processor has; where it is not installed, numpy does, in
fp32. On CUDA devices torch does.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np

SIDE = 1024
"""Rows and columns of the matrices."""
COPIED = 64 * 2**20
"""Bytes of a copy, more than caches hold."""
REPETITIONS = 12


def matrix_rates(num_threads: int, device: str = "cpu") -> dict[str, float]:
    """10^9 multiply-adds per second by precision, as the processor or the CUDA device has it."""
    if device.startswith("cuda") and find_spec("torch") is not None:
        from mixformerv2_ros.engines.cuda_limits import cuda_matrix_rates

        return cuda_matrix_rates(device)
    if find_spec("openvino") is None:
        matrix = np.ones((SIDE, SIDE), np.float32)
        return {"fp32": SIDE**3 / _shortest(lambda: matrix @ matrix) / 1e9}
    import openvino as ov

    from mixformerv2_ros.engines.openvino_engine import openvino_core

    core = openvino_core()
    able = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    rates = {}
    for precision, capability, hint in (
        ("fp32", "FP32", "f32"),
        ("bf16", "BF16", "bf16"),
        ("int8", "INT8", "f32"),
    ):
        if capability not in able:
            continue
        model = _product(ov, precision == "int8")
        config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
        if num_threads:
            config["INFERENCE_NUM_THREADS"] = num_threads
        try:
            request = core.compile_model(model, "CPU", config).create_infer_request()
        except RuntimeError:
            continue  # the processor can, but ONEDNN_MAX_CPU_ISA forbids it
        inputs: dict[int, Any] = {0: np.ones((SIDE, SIDE), np.float32)}
        rates[precision] = SIDE**3 / _shortest(_call(request, inputs)) / 1e9
    return rates


def copy_rate() -> float:
    """10^9 bytes per second that one core copies in memory."""
    source, target = np.ones(COPIED, np.uint8), np.empty(COPIED, np.uint8)
    return COPIED / _shortest(lambda: np.copyto(target, source)) / 1e9


def _call(request: Any, inputs: dict[int, Any]) -> Callable[[], Any]:
    return lambda: request.infer(inputs, share_inputs=True, share_outputs=True)


def _product(ov: Any, quantized: bool) -> Any:
    opset = ov.opset13
    rng = np.random.default_rng(0)
    value = left = opset.parameter([SIDE, SIDE], np.float32)
    weights = rng.uniform(-1, 1, (SIDE, SIDE)).astype(np.float32)
    right = opset.constant(weights)
    if quantized:
        ends = np.float32(0), np.float32(2.55)
        left = opset.fake_quantize(left, *ends, *ends, 256)
        ends = np.float32(-1.27), np.float32(1.27)
        right = opset.fake_quantize(right, *ends, *ends, 255)
    return ov.Model([opset.matmul(left, right, False, False)], [value])


def _shortest(run: Callable[[], Any]) -> float:
    times = []
    for _ in range(REPETITIONS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)
