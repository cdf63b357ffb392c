"""What `make` installs for the tests: it waits for other package managers, remembers no failure."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LOCKED = "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 7 (apt-get)"


class Machine:
    """A search path without browser and display, for root, whose apt-get does as it is told.

    The real one cannot be used: it would install programs, and its locks belong to the machine.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("bash", "env", "grep", "make", "mktemp", "rm", "sleep", "tail"):
            program = shutil.which(name)
            if program is None:
                pytest.skip(f"needs {name}, which is absent")
            (folder / name).symlink_to(program)
        self.program("id", "echo 0")
        self.calls = folder / "calls"

    def program(self, name: str, script: str) -> None:
        path = self.folder / name
        path.write_text(f"#!{shutil.which('bash')}\n{script}\n")
        path.chmod(0o755)

    def apt_get(self, script: str) -> None:
        self.calls.write_text("")
        self.program("apt-get", f'echo "$*" >> {self.calls}\n{script}')

    def run(self, *command: str, wait: int) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": str(self.folder), "APT_WAIT": str(wait)}
        return subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_programs_that_could_not_be_installed_are_tried_again(machine):
    machine.apt_get(f"echo '{LOCKED}' >&2; exit 100")
    for attempts in (1, 2):
        done = machine.run("make", "screen", wait=0)
        assert done.returncode == 0
        assert "installing chromium xvfb xdotool" in done.stdout
        assert LOCKED in done.stderr
        assert "missing: chromium Xvfb xdotool; tests that need them will be" in done.stderr
        assert len(machine.calls.read_text().splitlines()) == attempts


def test_programs_that_are_there_are_not_installed(machine):
    machine.apt_get("exit 100")
    for name in ("chromium", "Xvfb", "xdotool"):
        machine.program(name, "")
    done = machine.run("make", "screen", wait=0)
    assert (done.returncode, done.stderr) == (0, "")
    assert not machine.calls.read_text()


def test_installing_waits_for_a_lock(machine):
    machine.apt_get(
        f'if [ "$(grep -c update {machine.calls})" = 1 ]; then echo "{LOCKED}" >&2; exit 100; fi'
    )
    done = machine.run(".ci/apt_install", "xdotool", wait=60)
    assert (done.returncode, done.stderr) == (0, "")
    calls = machine.calls.read_text().splitlines()
    assert [call.split("=60 ")[1] for call in calls] == ["update", "update", "install -y xdotool"]


def test_installing_ends_at_other_errors(machine):
    machine.apt_get("echo 'E: Unable to locate package xdotool' >&2; exit 100")
    done = machine.run(".ci/apt_install", "xdotool", wait=60)
    assert done.returncode == 1
    assert done.stderr == "E: Unable to locate package xdotool\n"
    assert len(machine.calls.read_text().splitlines()) == 1
