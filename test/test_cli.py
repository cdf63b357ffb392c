"""The front door: help, unknown commands, exit codes, and what gets imported."""

from __future__ import annotations

import importlib
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from mixformerv2_ros import __version__
from mixformerv2_ros.cli import main
from mixformerv2_ros.cli.arguments import CommandParser
from mixformerv2_ros.cli.entry import LABORATORY, NAMES
from mixformerv2_ros.errors import MixFormerError, ParameterError


def command_module(name):
    folder = "lab.cli" if name in LABORATORY else "cli"
    return importlib.import_module(f"mixformerv2_ros.{folder}.{name.replace('-', '_')}")


PACKAGE = Path(__file__).resolve().parents[1] / "mixformerv2_ros"


def test_every_module_with_a_run_is_a_command_and_the_other_way_round():
    modules = {
        path.stem.replace("_", "-")
        for folder in ("cli", "lab/cli")
        for path in (PACKAGE / folder).glob("*.py")
        if "\ndef add_arguments(" in path.read_text("utf-8")
    }
    assert modules == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_command_explains_itself(name, capsys):
    if name == "visualize":
        pytest.importorskip("matplotlib", reason="needs matplotlib, the extra `lab`")
    assert main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"mixformerv2 {name}" in shown
    assert len(shown.splitlines()) > 5


@pytest.mark.parametrize("name", NAMES)
def test_every_help_ends_with_examples_that_are_valid(name, capsys):
    if name == "visualize":
        pytest.importorskip("matplotlib", reason="needs matplotlib, the extra `lab`")
    assert main([name, "--help"]) == 0
    examples = capsys.readouterr().out.rpartition("examples:\n")[2].splitlines()
    assert examples
    for example in examples:
        program, command, *words = shlex.split(example)
        assert (program, command) == ("mixformerv2", name)
        parser = CommandParser()
        command_module(name).add_arguments(parser)
        parser.parse_args(words)


def test_settings_may_come_after_options():
    parser = CommandParser()
    command_module("train").add_arguments(parser)
    found = parser.parse_args(["a.yaml", "x=1", "--seconds", "5", "y.z=1e-3"])
    assert (found.settings, found.seconds) == (["x=1", "y.z=1e-3"], 5)
    with pytest.raises(ParameterError, match="unrecognized arguments: --fast x=1"):
        parser.parse_args(["a.yaml", "--seconds", "5", "--fast", "x=1"])


def test_help_lists_every_command(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in NAMES)


def test_no_command_shows_the_help_and_fails(capsys):
    assert main([]) == 2
    assert "usage" in capsys.readouterr().out


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"mixformerv2 {__version__}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("track v --box 1,2,3,4 --max-frames 0", "must be a whole number of 1 or more, got '0'"),
        ("track v --box 1,2,3,4 --start-frame -1", "must be a whole number of 0 or more, got '-1'"),
        (
            "track v --box 1,2,3,4 --max-frames 2.5",
            "of 1 or more, got '2.5'",
        ),
        ("track v --box 1,2,3,4 --fps 0", "must be a number from 0.001 to 10000, got '0'"),
        ("track v --box 1,2,3,4 --fps x\x1b[2J", r"got 'x\x1b[2J'"),
        ("replay b -o o --box 1,2,3,4 --start-time nan", "must be a number from 0 to 1000000000,"),
        ("video2bag v -o o --start-stamp -1", "must be a number from 0 to 2147483647, got '-1'"),
        ("benchmark --rounds=0", "must be a whole number of 1 or more, got '0'"),
        ("convert c -o o --search-factor inf", "must be a number from 1 to 20, got 'inf'"),
        ("demo --max-frames 1", "must be a whole number of 2 or more, got '1'"),
        ("visualize samples c --count 1001", "must be a whole number from 1 to 1000, got '1001'"),
        ("train c --seconds nan", "must be a number of 0 or more, got 'nan'"),
        ("track v", "the following arguments are required: --box"),
        ("info --no-such-option", "unrecognized arguments: --no-such-option"),
    ],
)
def test_a_malformed_command_line_is_one_line(words, said, capsys):
    """It names the command, the option, what is expected and what came."""
    name, *rest = words.split(" ")
    if name == "visualize":
        pytest.importorskip("matplotlib", reason="needs matplotlib, the extra `lab`")
    assert main([name, *rest]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    (line,) = shown.err.splitlines()
    assert line.startswith(f"mixformerv2 {name}: ")
    assert said in line
    assert f"see mixformerv2 {name}" in line
    option = next((word.split("=")[0] for word in rest[-2:] if word.startswith("--")), "")
    assert option in line


def test_a_mistyped_command_gets_a_hint(capsys):
    assert main(["trak"]) == 2
    assert "did you mean 'track'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "old", "new"),
    [
        (["replay", "bag", "--expect", "f.json"], "--expect", "--reference"),
        (["evaluate", "--every=2"], "--every", "--frame-step"),
        (
            ["convert", "a.pth", "--template-surroundings", "1"],
            "--template-surroundings",
            "--template-background-contrast",
        ),
    ],
)
def test_a_renamed_option_names_the_new_one(words, old, new, capsys):
    assert main(words) == 2
    shown = capsys.readouterr()
    line = f"mixformerv2 {words[0]}: option {old} has been renamed to {new}\n"
    assert (shown.out, shown.err) == ("", line)
    assert main([words[0], "--help"]) == 0
    shown = capsys.readouterr().out
    assert new in shown
    assert old not in shown


def test_wrong_options_exit_with_2(capsys):
    assert main(["track"]) == 2
    assert "SOURCE" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (MixFormerError("a must be b, got c"), 2, "mixformerv2 info: a must be b, got c\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_errors_become_exit_codes(raised, code, said, monkeypatch, capsys):
    def fail(args):
        raise raised

    monkeypatch.setattr(import_module("mixformerv2_ros.cli.info"), "run", fail)
    assert main(["info"]) == code
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    ("command", "remedy"),
    [("train", "pip install 'mixformerv2_ros[lab]'"), ("info", "see README.md, Install")],
)
def test_a_library_that_is_missing_is_named(command, remedy, monkeypatch, capsys):
    folder = "lab.cli" if command == "train" else "cli"
    module = import_module(f"mixformerv2_ros.{folder}.{command}")
    monkeypatch.setattr(module, "run", lambda args: import_module("no_such_library.part"))
    assert main([command, *(["c.yaml"] if command == "train" else [])]) == 2
    assert capsys.readouterr().err == (
        f"mixformerv2 {command}: this command requires no_such_library, which is not installed: "
        f"{remedy}\n"
    )


def test_a_module_of_ours_that_is_missing_is_a_defect(monkeypatch):
    module = import_module("mixformerv2_ros.cli.info")
    monkeypatch.setattr(module, "run", lambda args: import_module("mixformerv2_ros.nothing"))
    with pytest.raises(ModuleNotFoundError):
        main(["info"])


def test_defects_are_not_hidden(monkeypatch):
    def fail(args):
        raise ZeroDivisionError

    monkeypatch.setattr(import_module("mixformerv2_ros.cli.info"), "run", fail)
    with pytest.raises(ZeroDivisionError):
        main(["info"])


def test_a_reader_that_leaves_early_is_no_error():
    done = subprocess.run(
        f"{shlex.quote(sys.executable)} -m mixformerv2_ros.cli info --json | head -c 1",
        shell=True, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr == ""


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from mixformerv2_ros.cli import main; main(['--help']);"
        "heavy = {'torch', 'cv2', 'numpy', 'onnxruntime', 'rosbags'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_no_command_imports_torch_before_it_is_run():
    """One process for all: none of them may import it, and the first that does is named."""
    code = (
        "import sys; from mixformerv2_ros.cli import main\n"
        f"for name in {tuple(NAMES)!r}:\n"
        "    assert main([name, '--help']) == 0, name\n"
        "    assert 'torch' not in sys.modules, name\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["a\nb.png", "\x1b[2Ja.png"])
def test_names_of_files_do_not_break_an_error_or_the_terminal(name, tmp_path, capsys):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / name).write_bytes(b"x")
    words = ["--box", "1,1,20,20", "--csv", str(tmp_path / "o.csv")]
    assert main(["track", str(tmp_path / "images"), *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.isprintable()
    assert main(["track", str(tmp_path / name), *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.isprintable()
