"""Jobs shared among the processes of `torchrun`, `srun` or any launcher that numbers them.

The processes need nothing in common but a folder. Each claims one job after the other there, those
of its own share first, then what others have not begun. A process that falls silent loses its
claims, so a dead rank's share is done by those that live, or by the next run. Claims only save
work: if two processes do one job after all (a process was stopped and goes on), both write the same
result, whole. Jobs must allow that.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from mixformerv2_ros.errors import ParameterError
from mixformerv2_ros.files import write_file

SILENCE_S = 60.0
"""Seconds without a sign of life after which a process of another machine counts as dead."""

POLL_S = 0.5
"""Seconds between looks at the jobs of others, for a process that has nothing left to do."""

_VARIABLES = (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"))


@dataclass(frozen=True)
class Rank:
    """The number of this process among those that a launcher started.

    Attributes:
        rank: From 0.
        world_size: Number of processes.
    """

    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the process that reports for all."""
        return self.rank == 0


def launched_rank() -> Rank:
    """What the environment tells: `RANK` and `WORLD_SIZE`, else those of a SLURM job step.

    Raises:
        ParameterError: the variables are no numbers, or the rank is not below the world size.
    """
    for rank, size in _VARIABLES:
        if rank not in os.environ or size not in os.environ:
            continue
        try:
            found = Rank(int(os.environ[rank]), int(os.environ[size]))
        except ValueError:
            found = Rank(-1)
        if not 0 <= found.rank < found.world_size:
            raise ParameterError(
                f"{rank} must be a number from 0 and below {size}, got {rank}={os.environ[rank]!r} "
                f"and {size}={os.environ[size]!r}"
            )
        return found
    return Rank()


def local_device(device: str) -> str:
    """The device of this process: under `torchrun`, `cuda` is the GPU of the local rank.

    Raises:
        ParameterError: a variable of `torchrun` is no number.
    """
    if device == "cuda" and launcher_number("LOCAL_WORLD_SIZE", 1) > 1:
        return f"cuda:{launcher_number('LOCAL_RANK', 0)}"
    return device


def launcher_number(name: str, otherwise: int) -> int:
    """A number that a launcher gives in an environment variable.

    Args:
        name: Of the variable.
        otherwise: What it counts as where it is not set.

    Raises:
        ParameterError: it is no number.
    """
    text = os.environ.get(name, str(otherwise))
    if not text.isdecimal():
        raise ParameterError(f"{name} must be a number, got {text!r}")
    return int(text)


class SharedWork:
    """Claims on jobs in a folder that all processes see; use it as a context manager.

    Times are those of the folder's file system, so clocks need not agree.
    """

    def __init__(self, folder: Path, rank: Rank, silence_s: float = SILENCE_S) -> None:
        """Claim nothing yet.

        Args:
            folder: For claims only; created on entry, removed by the last process that leaves.
            rank: This process.
            silence_s: Seconds after which the claims of a silent process are void.
        """
        self._folder = folder
        self._rank = rank
        self._silence_s = silence_s
        host = "".join(c if c.isalnum() else "-" for c in socket.gethostname())
        self._name = f"{rank.rank}.{host}.{os.getpid()}"
        self._host = host
        self._began = 0.0
        self._own: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._show_life, daemon=True)

    def __enter__(self) -> SharedWork:
        """Take part.

        Raises:
            OSError: the folder cannot be written.
        """
        self._touch()
        self._began = self._now()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give back what was claimed and not finished."""
        self._stop.set()
        self._thread.join()
        with suppress(OSError):
            for job in self._own:
                self._claim_path(job).unlink(missing_ok=True)
            own = self._sign_path(self._name)
            signs = [path for path in self._folder.glob("*.alive") if path != own]
            alone = not any(self._lives(path.stem, path) for path in signs)
            own.unlink(missing_ok=True)
            if alone:
                shutil.rmtree(self._folder, ignore_errors=True)

    def claim(self, jobs: Iterable[str]) -> str | None:
        """Claim a job for this process.

        Args:
            jobs: Those that are not finished, in an order that is the same in all processes.

        Returns:
            The job; None if others work on all that are left.

        Raises:
            OSError: the folder cannot be written.
        """
        ordered = list(jobs)
        share = ordered[self._rank.rank :: self._rank.world_size]
        # Those of others from their end, which their owners come to last.
        others = [job for job in reversed(ordered) if job not in set(share)]
        for job in (*share, *others):
            if job not in self._own and self.failure(job) is None and self._take(job):
                self._own.add(job)
                return job
        return None

    def fail(self, job: str, reason: str) -> None:
        """State that a job cannot be done, so that no other process of this run tries."""
        write_file(self._failure_path(job), reason)

    def failure(self, job: str) -> str | None:
        """Why a job cannot be done; None if that is not known.

        What a process stated before this one began may be of an earlier run, and does not count.
        """
        with suppress(OSError):
            if self._failure_path(job).stat().st_mtime >= self._began:
                return self._failure_path(job).read_text(encoding="utf-8")
        return None

    def _take(self, job: str) -> bool:
        path = self._claim_path(job)
        with suppress(FileNotFoundError):
            if self._is_held(path):
                return False
            path.unlink(missing_ok=True)
        try:
            # A link has its content from the first moment, whenever this process is killed.
            os.link(self._sign_path(self._name), path)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            with suppress(FileExistsError), path.open("x", encoding="utf-8") as stream:
                stream.write(self._name)
                return True
            return False
        return True

    def _is_held(self, claim: Path) -> bool:
        owner = claim.read_text(encoding="utf-8", errors="replace")
        # Without hard links, a claim is empty for a moment.
        return self._lives(owner, self._sign_path(owner) if owner else claim)

    def _lives(self, owner: str, sign: Path) -> bool:
        """Whether a process lives, as far as its sign of life, or this machine, can tell."""
        _, _, place = owner.partition(".")
        host, _, process = place.partition(".")
        if host == self._host and process.isdigit() and not _runs(int(process)):
            return False
        return self._now() - sign.stat().st_mtime <= self._silence_s

    def _now(self) -> float:
        """The time by the clock of the folder's file system."""
        self._touch()
        return self._sign_path(self._name).stat().st_mtime

    def _touch(self) -> None:
        path = self._sign_path(self._name)
        try:
            os.utime(path)
        except FileNotFoundError:
            # The last process that left may just have removed the folder.
            self._folder.mkdir(parents=True, exist_ok=True)
            write_file(path, self._name)

    def _show_life(self) -> None:
        while not self._stop.wait(self._silence_s / 6):
            with suppress(OSError):
                self._touch()

    def _sign_path(self, name: str) -> Path:
        return self._folder / f"{name}.alive"

    def _claim_path(self, job: str) -> Path:
        return self._folder / f"{_key(job)}.claim"

    def _failure_path(self, job: str) -> Path:
        return self._folder / f"{_key(job)}.failed"


def _key(job: str) -> str:
    """A file name for any job."""
    return hashlib.sha256(job.encode("utf-8", "surrogateescape")).hexdigest()[:24]


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
