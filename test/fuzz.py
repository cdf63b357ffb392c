"""Damaged and invented bytes for every reader of foreign bytes: `make fuzz INPUTS=10000`.

Each target runs in a process of its own, with limits of memory and time per input, from the sound
examples in `fuzz_targets.py` and from what was found before (`test/fuzz_corpus/TARGET/`). Where
atheris is installed (`pip install atheris`, Python up to 3.13) it chooses the inputs by the code
that they reach, else they are chosen at random. A finding is written to the output folder.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

NAMES = (
    *("images", "cdr", "mcap", "sqlite3", "metadata"),
    *("checkpoints", "pickles", "bundles", "parameters", "page", "mavlink", "trax"),
)
MEMORY_MB = 2048
"""Resident memory that a target's process may take."""
DONE = "done: "
SECONDS = 10
"""Time that an input may take."""


@dataclass
class Inputs:
    """The inputs of a target: how many there shall be, and what became of them.

    Attributes:
        count: How many at most.
        seconds: Time for all; None: as long as it takes.
        seed: Of the damage.
        prefix: Start of the names of files that keep findings.
        run: Takes an input and raises an error for a finding.
        done: How many there were.
        slowest: Longest time of one, in s.
    """

    count: int
    seconds: float | None
    seed: int
    prefix: Path
    run: Callable[[bytes], None] = field(init=False)
    done: int = 0
    slowest: float = 0.0
    _begin: float = field(default_factory=time.monotonic)

    def over(self) -> bool:
        if self.seconds is not None:
            return time.monotonic() - self._begin > self.seconds
        return self.done >= self.count

    def give(self, data: bytes) -> None:
        begin = time.monotonic()
        try:
            self.run(data)
        except BaseException:
            self.keep(data)
            raise
        self.slowest = max(self.slowest, time.monotonic() - begin)
        self.done += 1

    def keep(self, data: bytes) -> None:
        digest = hashlib.sha256(data).hexdigest()[:12]
        self.prefix.with_name(f"{self.prefix.name}-{digest}").write_bytes(data)

    def report(self) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            f"{DONE}{self.done} inputs, peak {peak:.0f} MB, slowest {self.slowest * 1e3:.0f} ms",
            flush=True,
        )
        if peak > MEMORY_MB:
            raise MemoryError(f"peak of {peak:.0f} MB, at most {MEMORY_MB} MB are permitted")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=10_000, help="per target")
    parser.add_argument(
        "--seconds", type=float, help="for all targets, instead of a number of inputs"
    )
    parser.add_argument("--seed", type=int, default=0, help="0: another one every time")
    parser.add_argument("--targets", default=",".join(NAMES), help="names, separated by commas")
    parser.add_argument("--findings", type=Path, default=Path("runs/fuzz"))
    parser.add_argument("--engine", choices=["atheris", "random"], help="default: what there is")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    args = parser.parse_args()
    seed = args.seed or random.SystemRandom().randrange(1, 2**31)
    names = args.targets.split(",")
    if args.run:
        inputs = Inputs(args.inputs, args.seconds, seed, args.findings / args.run)
        return run_target(args.run, inputs, args.engine)
    args.findings.mkdir(parents=True, exist_ok=True)
    engine = args.engine or ("atheris" if has_atheris() else "random")
    print(f"seed {seed}, engine {engine}")
    words = [sys.executable, __file__, "--inputs", str(args.inputs), "--seed", str(seed)]
    words += ["--findings", str(args.findings), "--engine", engine]
    if args.seconds:
        words += ["--seconds", str(args.seconds / len(names))]
    failed = []
    for name in names:
        begin = time.monotonic()
        with tempfile.TemporaryFile("w+") as log:
            run = subprocess.run([*words, "--run", name], stdout=log, stderr=log, check=False)
            log.seek(0)
            lines = log.read().splitlines()
        took = time.monotonic() - begin
        done = [line for line in lines if line.startswith(DONE)]
        what = done[-1][len(DONE) :] if done else f"ended with {run.returncode}"
        print(f"{name:12} {took:6.0f} s, {what}")
        if run.returncode != 0:
            failed.append(name)
            print("\n".join(f"    {line}" for line in lines[-12:]))
        sys.stdout.flush()
    print(f"failed: {', '.join(failed)}" if failed else "nothing found")
    return 1 if failed else 0


def has_atheris() -> bool:
    """Whether atheris can be imported; in another process, because it installs hooks."""
    words = [sys.executable, "-c", "import atheris"]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


def run_target(name: str, inputs: Inputs, engine: str) -> int:
    if engine == "atheris":
        import atheris

        with atheris.instrument_imports(include=["mixformerv2_ros"], enable_loader_override=False):
            from fuzz_targets import TARGETS, known_inputs
    else:
        from fuzz_targets import TARGETS, known_inputs
    with tempfile.TemporaryDirectory() as folder:
        target = TARGETS[name](Path(folder))
        inputs.run = target.run
        sound = [*target.examples, *known_inputs(name)]
        if engine == "atheris" and not target.forks:
            return run_atheris(inputs, sound, Path(folder))
        return run_random(inputs, sound)


def run_random(inputs: Inputs, sound: list[bytes]) -> int:
    """The examples, then random damage."""
    chance = random.Random(inputs.seed)
    resource.setrlimit(resource.RLIMIT_AS, (4 * MEMORY_MB * 2**20,) * 2)
    while not inputs.over():
        whole = inputs.done < len(sound)
        data = sound[inputs.done] if whole else damage(chance.choice(sound), chance)
        signal.alarm(3 * SECONDS)
        inputs.give(data)
        signal.alarm(0)
        if inputs.slowest > SECONDS:
            inputs.keep(data)
            raise TimeoutError(f"an input of {len(data)} bytes took {inputs.slowest:.1f} s")
    inputs.report()
    return 0


def run_atheris(inputs: Inputs, sound: list[bytes], folder: Path) -> int:
    """Inputs chosen by coverage of this package."""
    import atheris

    seeds = folder / "seeds"
    seeds.mkdir()
    for number, data in enumerate(sound):
        (seeds / str(number)).write_bytes(data)

    def one_input(data: bytes) -> None:
        inputs.give(data)
        if inputs.over():
            inputs.report()
            sys.stdout.flush()
            # libFuzzer ends the process without a word to Python.
            os._exit(0)

    longest = 2 * max(map(len, sound))
    atheris.Setup(
        [
            sys.argv[0], f"-seed={inputs.seed}", f"-max_len={longest}", f"-timeout={SECONDS}",
            f"-rss_limit_mb={MEMORY_MB}", f"-artifact_prefix={inputs.prefix}-", str(seeds),
        ],
        one_input,
    )  # fmt: skip
    atheris.Fuzz()
    return 1


def damage(data: bytes, chance: random.Random) -> bytes:
    """Flip bits, overwrite, insert, leave out or copy bytes, or cut the end, one to five times."""
    for _ in range(chance.randint(1, 5)):
        at, size = chance.randrange(len(data) + 1), chance.choice((1, 1, 2, 4, 8, 64))
        piece = chance.choice((chance.randbytes(size), bytes(size), b"\xff" * size, b"\x7f" * size))
        kind = chance.choice(("flip", "overwrite", "insert", "omit", "copy", "cut"))
        if kind == "flip" and at < len(data):
            data = data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]
        elif kind == "overwrite":
            data = data[:at] + piece + data[at + size :]
        elif kind == "insert":
            data = data[:at] + piece + data[at:]
        elif kind == "omit":
            data = data[:at] + data[at + size :]
        elif kind == "copy":
            start = chance.randrange(len(data) + 1)
            data = data[:at] + data[start : start + 64 * size] + data[at:]
        else:
            data = data[:at]
    return data


if __name__ == "__main__":
    sys.exit(main())
