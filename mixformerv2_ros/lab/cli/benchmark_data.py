"""`mixformerv2 benchmark data`: throughput of sampling training data on one core.

The arguments are declared with those of `mixformerv2 benchmark`.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from tqdm import tqdm

from mixformerv2_ros.files import write_json
from mixformerv2_ros.lab.training import data_benchmark
from mixformerv2_ros.lab.training.config_files import read_config
from mixformerv2_ros.lab.training.data_loaders import load_datasets
from mixformerv2_ros.machine import environment
from mixformerv2_ros.model.presets import S


def run(args: argparse.Namespace) -> int:
    """Measure the throughput of sampling, print a table, write JSON."""
    with tempfile.TemporaryDirectory() as folder:
        if args.config is None:
            data_benchmark.write_stills(Path(folder))
            datasets = data_benchmark.still_datasets(Path(folder), S)
            sources = {label: dataset.sample for label, dataset in datasets.items()}
        else:
            source, _ = load_datasets(read_config(args.config, args.settings))
            sources = {args.config.name: source.sample}
        rows = [
            data_benchmark.measure(label, sample, args.rounds, args.samples).summary()
            for label, sample in tqdm(sources.items(), disable=None, leave=False)
        ]
    about = environment()
    machine = about["machine"]
    print(f"machine  {machine['processor']}, {machine['cores']} cores; one process, one thread")
    print(f"samples  median of {args.rounds} rounds of {args.samples}\n")
    print(f"{'samples/s':32}{'wall time':>12}{'CPU time':>12}{'ms/sample':>12}")
    for row in rows:
        print(
            f"{row['source']:32}{row['samples_per_second']:12.0f}"
            f"{row['samples_per_cpu_second']:12.0f}{row['milliseconds']:12.2f}"
        )
    if args.json:
        result = {**about, "rounds": args.rounds, "samples": args.samples, "data": rows}
        write_json(args.json, result)
    return 0
