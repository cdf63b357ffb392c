"""What exits cost: processor time of searches in full depth, through all exits, and to each exit.

    python test/exit_figures.py [BUNDLE] [ENGINE ...]

All take turns; medians in milliseconds, with one thread, and shares of full depth.
"""

from __future__ import annotations

import sys
import time
from functools import partial

import numpy as np

from mixformerv2_ros.engines.loader import load_engine
from mixformerv2_ros.model.bundle import Bundle, open_bundle
from mixformerv2_ros.model.engine import Stop

ROUNDS, CALLS, WARM_UP = 40, 5, 2


def stop_at(end: int) -> Stop:
    """Answers after `end` blocks."""
    return lambda depth, quality, rows: np.full(len(rows), depth == end)


def measure(bundle: Bundle, name: str) -> None:
    """Print the figures of one engine."""
    engine = load_engine(bundle, name, num_threads=1)
    rng = np.random.default_rng(0)
    spec = bundle.spec
    crops = rng.integers(0, 256, (1, spec.search_size, spec.search_size, 3), dtype=np.uint8)
    shape = (2, spec.template_size, spec.template_size, 3)
    memory = engine.encode_templates(rng.integers(0, 256, shape, dtype=np.uint8))
    stops = {"one graph": None, "through all exits": stop_at(spec.depth)}
    stops |= {f"answered after block {depth}": stop_at(depth) for depth in spec.exits}
    searches = {
        label: partial(engine.search, crops, [memory], stop) for label, stop in stops.items()
    }
    times: dict[str, list[float]] = {label: [] for label in searches}
    for number in range(ROUNDS + 1):
        for label, search in searches.items():
            for call in range(WARM_UP + CALLS):
                begun = time.process_time()
                search()
                if number and call >= WARM_UP:
                    times[label].append(time.process_time() - begun)
    full = np.median(times["one graph"])
    for label, found in times.items():
        median = np.median(found)
        print(f"{engine.name:16} {label:24} {1000 * median:7.2f} ms  {median / full:5.2f}")


def main() -> None:
    """Measure the engines that the command line names."""
    bundle = open_bundle(sys.argv[1] if len(sys.argv) > 1 else None)
    for name in sys.argv[2:] or ("onnxruntime", "openvino", "torch"):
        measure(bundle, name)


if __name__ == "__main__":
    main()
