"""Checkpoints on disk: written whole or not at all, read without executing anything in them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mixformerv2_ros.errors import CheckpointError, TrainingError

LAST = "last.pth.tar"
BEST = "best.pth.tar"


def write_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write `state`; whatever happens meanwhile, `path` is a whole checkpoint, old or new.

    Raises:
        TrainingError: the file cannot be written, as on a full disk.
    """
    partial = path.with_suffix(".partial")
    try:
        with partial.open("wb") as stream:
            torch.save(state, stream)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
        _keep_folder(path.parent)
    # What torch's writer makes of an error of the file below it.
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        reason = " ".join(str(error).split())[:200]
        left = f"the one before it, {path}, is unharmed" if path.exists() else "there is none yet"
        raise TrainingError(f"cannot write a checkpoint ({reason}); {left}") from None


def copy_checkpoint(source: Path, path: Path) -> None:
    """Let `path` be the checkpoint that `source` is now, without a second copy where possible.

    Raises:
        TrainingError: it cannot be written.
    """
    partial = path.with_suffix(".partial")
    try:
        partial.unlink(missing_ok=True)
        try:
            os.link(source, partial)
        except OSError:  # a file system without hard links
            partial.write_bytes(source.read_bytes())
        partial.replace(path)
        _keep_folder(path.parent)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise TrainingError(f"cannot write {path} ({error})") from None


def _keep_folder(folder: Path) -> None:
    """Let the new name survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of this trainer.

    Raises:
        CheckpointError: the file is absent, damaged, or of another origin.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path}: expected a training checkpoint: {reason}") from None
    if not is_own(state):
        raise CheckpointError(f"{path}: expected a training checkpoint, got another file of torch")
    return state


def is_own(state: object) -> bool:
    """Whether this trainer wrote what `torch.load` returned."""
    return isinstance(state, dict) and {"net", "spec", "averaged", "step"} <= state.keys()


def stage_of(state: Mapping[str, Any]) -> str:
    """The stage that wrote a checkpoint; files from before there were stages are plain training."""
    return str(state["config"].get("stage", "plain"))
