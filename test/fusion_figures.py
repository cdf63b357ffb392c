"""What would graph fusions beyond ONNX Runtime's own gain? Needs onnx, not torch.

    PYTHONPATH=.:test .venv-dev/bin/python test/fusion_figures.py [BUNDLE]

The search graph of a bundle is optimised by `onnxruntime.transformers.optimizer` (attention,
LayerNorm, GELU, skip connections) and runs beside the graph as it is, one thread, in alternating
rounds. Printed are the operators of both after ONNX Runtime's own optimisation, the median time of
a search with two templates, and the largest differences of boxes, scores and edges.
"""

from __future__ import annotations

import argparse
import collections
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnxruntime.transformers import optimizer
from onnxruntime.transformers.fusion_options import FusionOptions

from mixformerv2_ros.model.bundle import SEARCH, open_bundle

ROUNDS, RUNS = 12, 10
NAMES = ("boxes", "scores", "edges")


def optimised(graph: Path, heads: int, width: int, folder: Path) -> Path:
    """The graph after the optimizer's fusions for transformers."""
    options = FusionOptions("bert")
    options.enable_skip_layer_norm = options.enable_bias_skip_layer_norm = True
    model = optimizer.optimize_model(
        str(graph), model_type="bert", num_heads=heads, hidden_size=width, opt_level=0,
        optimization_options=options, only_onnxruntime=False,
    )  # fmt: skip
    print("fused:", {k: v for k, v in model.get_fused_operator_statistics().items() if v})
    path = folder / "fused.onnx"
    model.save_model_to_file(str(path))
    return path


def session(graph: Path, folder: Path) -> ort.InferenceSession:
    """One thread, as the engine runs it; prints the operators that are left."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / f"{graph.stem}.optimized.onnx")
    made = ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    left = onnx.load(options.optimized_model_filepath, load_external_data=False)
    counts = collections.Counter(node.op_type for node in left.graph.node)
    print(f"{graph.stem}: {sum(counts.values())} operators:", dict(counts.most_common(14)))
    return made


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", nargs="?", help="model bundle (default: that of the package)")
    bundle = open_bundle(parser.parse_args().bundle)
    spec = bundle.spec
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fused = optimised(bundle.path / SEARCH, spec.heads, spec.width, folder)
        sessions = [session(bundle.path / SEARCH, folder), session(fused, folder)]
        size = spec.template_size
        encoder = ort.InferenceSession(str(bundle.path / "template_encoder.onnx"))
        rng = np.random.default_rng(0)
        templates = rng.integers(0, 256, (1, 2, size, size, 3), dtype=np.uint8)
        keys, values = encoder.run(None, {"templates": templates})
        side = spec.search_size
        crops = rng.integers(0, 256, (1, side, side, 3), dtype=np.uint8)
        inputs = {"crops": crops, "keys": keys, "values": values}
        times: list[list[float]] = [[], []]
        for _ in range(ROUNDS):
            for one, spent in zip(sessions, times, strict=True):
                for _ in range(RUNS):
                    begin = time.perf_counter()
                    one.run(None, inputs)
                    spent.append(1000 * (time.perf_counter() - begin))
        answers = [one.run(list(NAMES), inputs) for one in sessions]
    plain, other = (float(np.median(spent)) for spent in times)
    print(f"ms: {plain:.2f} as it is, {other:.2f} fused, ratio {other / plain:.3f}")
    for what, a, b in zip(NAMES, *answers, strict=True):
        print(f"{what}: differ by at most {np.abs(a - b).max():.2g}")


if __name__ == "__main__":
    main()
