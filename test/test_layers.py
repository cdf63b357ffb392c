"""Imports run downwards: the contracts hold, and notice what breaks them; robots load no torch."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from recordings import write_bag, write_video

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "mixformerv2_ros"
CONTRACTS = ".importlinter"

FORBIDDEN = {
    ("layers", "tracking"): "import mixformerv2_ros.ros.messages",
    ("layers", "model"): "from mixformerv2_ros.engines import loader",
    ("layers", "cli"): "from mixformerv2_ros import lab",
    ("layers", "ros"): "def report():\n    from mixformerv2_ros.lab import reports",
    ("ros", "ros/pose"): "import mixformerv2_ros.ros.live.middleware",
    ("ros", "ros/rclpy"): "import mixformerv2_ros.ros.cyclonedds.qos_profiles",
    ("lab", "lab/datasets"): "import mixformerv2_ros.lab.training",
    ("torch", "tracking"): "import torch",
    ("middleware", "ros/live"): "import rclpy",
}
"""Contract, package and an import in it that the contract forbids."""


def contract_titles() -> dict[str, str]:
    """Title of each contract by its short name."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / CONTRACTS)
    prefix = "importlinter:contract:"
    return {
        section.removeprefix(prefix): parser[section]["name"]
        for section in parser.sections()
        if section.startswith(prefix)
    }


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package's sources and contracts."""
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(
        ROOT / PACKAGE,
        folder / PACKAGE,
        ignore=lambda path, names: [
            name for name in names if not (name.endswith(".py") or Path(path, name).is_dir())
        ],
    )
    shutil.copy(ROOT / CONTRACTS, folder)
    return folder


@pytest.fixture
def undamaged(copy: Path) -> Iterator[Path]:
    """The copy, restored after the test."""
    before = {path: path.read_bytes() for path in copy.rglob("*.py")}
    yield copy
    for path in copy.rglob("*.py"):
        if path not in before:
            path.unlink()
        elif path.read_bytes() != before[path]:
            path.write_bytes(before[path])


def lint(folder: Path) -> tuple[int, str]:
    """Exit code and output of `lint-imports` as `make lint` runs it, on a copy."""
    program = shutil.which("lint-imports", path=Path(sys.executable).parent)
    if program is None:
        pytest.skip("needs import-linter, which is absent")
    done = subprocess.run(
        [program, "--no-logo", "--no-cache"],
        cwd=folder, env={**os.environ, "COLUMNS": "200", "PYTHONPATH": str(folder)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_the_package_keeps_the_contracts(undamaged):
    code, output = lint(undamaged)
    assert code == 0, output
    for title in contract_titles().values():
        assert f"{title} KEPT" in output


def test_every_contract_is_tested():
    assert {contract for contract, _ in FORBIDDEN} == set(contract_titles())


@pytest.mark.parametrize(("contract", "package"), FORBIDDEN)
def test_a_forbidden_import_breaks_its_contract(contract, package, undamaged):
    module = undamaged / PACKAGE / package / "intruder.py"
    if contract in ("ros", "lab"):
        # These list all modules of a package, so that the import must stand in one of them.
        module = module.with_name("__init__.py")
    statement = FORBIDDEN[contract, package]
    module.write_text(module.read_text() + statement if module.exists() else statement)
    code, output = lint(undamaged)
    assert code == 1
    assert f"{contract_titles()[contract]} BROKEN" in output
    source = ".".join(module.relative_to(undamaged).with_suffix("").parts)
    assert source.removesuffix(".__init__") in output


def test_a_module_without_a_layer_breaks_the_contract(undamaged):
    (undamaged / PACKAGE / "helpers.py").write_text("")
    code, output = lint(undamaged)
    assert code == 1
    assert f"- {PACKAGE}.helpers" in output


# --- what is imported when a robot runs ----------------------------------------------------------

IMPORTED = """
import sys
{code}
forbidden = ("torch.", "mixformerv2_ros.lab.")
found = sorted(name for name in sys.modules if f"{{name}}.".startswith(forbidden))
sys.exit(", ".join(found[:10]) or 0)
"""


def assert_imports_neither_torch_nor_the_laboratory(code: str) -> None:
    program = IMPORTED.format(code=code)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def robot_modules() -> list[str]:
    """All modules below the laboratory that need neither torch nor a library that is absent."""
    skipped = [f"{PACKAGE}.lab", f"{PACKAGE}.network"]
    with_torch = ("torch_engine", "torch_loader", "cuda_graphs", "cuda_limits")
    skipped += [f"{PACKAGE}.engines.{name}" for name in with_torch]
    libraries = {
        "ros.rclpy": "rclpy",
        "ros.cyclonedds": "cyclonedds",
        "ros.web": "tornado",
        "ros.mavlink": "pymavlink",
        "io.rerun_log": "rerun",
    }
    skipped += [f"{PACKAGE}.{name}" for name, needed in libraries.items() if not find_spec(needed)]
    names = []
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if not any(name == s or name.startswith(f"{s}.") for s in skipped):
            names.append(name)
    return names


def test_no_module_below_the_laboratory_imports_it_or_torch():
    names = robot_modules()
    assert {f"{PACKAGE}.cli.track", f"{PACKAGE}.cli.replay", f"{PACKAGE}.cli.node"} < set(names)
    lines = [f"import {name}" for name in names if not name.endswith("__main__")]
    assert_imports_neither_torch_nor_the_laboratory("\n".join(lines))


@pytest.mark.parametrize("command", ["track", "replay", "info"])
def test_a_command_with_the_default_model_imports_neither_torch_nor_the_laboratory(
    command, tmp_path
):
    words = [command]
    if command != "info":
        source = tmp_path / ("clip.avi" if command == "track" else "bag")
        (write_video if command == "track" else write_bag)(source, 3)
        words += [source, "--box", "20,30,24,18", "--csv", tmp_path / "tracks.csv"]
    words += ["-o", tmp_path / "tracks"] if command == "replay" else []
    assert_imports_neither_torch_nor_the_laboratory(
        f"from mixformerv2_ros.cli import main\nassert main({list(map(str, words))}) == 0"
    )
