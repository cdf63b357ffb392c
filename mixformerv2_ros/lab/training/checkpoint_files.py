"""Checkpoint files: written atomically, read without executing anything in them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mixformerv2_ros.errors import CheckpointError, SourceError, TrainingError
from mixformerv2_ros.files import write_atomically
from mixformerv2_ros.lab.training.renamed_settings import migrate

LAST = "last.pth.tar"
BEST = "best.pth.tar"


def write_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write `state` atomically: `path` is a complete checkpoint at any time.

    Raises:
        TrainingError: the file cannot be written, for example because the disk is full.
    """
    try:
        with write_atomically(path) as stream:
            torch.save(state, stream)
    # RuntimeError: what torch's writer makes of an error of the file below it.
    except (SourceError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        left = f"the previous one, {path}, is intact" if path.exists() else "there is none yet"
        raise TrainingError(f"cannot write a checkpoint ({reason}); {left}") from None


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of this trainer; settings under former names are migrated.

    Raises:
        CheckpointError: the file is absent, damaged, or of another origin.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path}: expected a training checkpoint: {reason}") from None
    if not isinstance(state, dict) or not {"net", "spec", "averaged", "step"} <= state.keys():
        raise CheckpointError(f"{path}: expected a training checkpoint, got another file of torch")
    return {**state, "config": migrate(state.get("config", {}))}


def read_if_own(path: Path) -> dict[str, Any] | None:
    """Read a checkpoint of this trainer; None for any other file."""
    try:
        return read_checkpoint(path)
    except CheckpointError:
        return None


def stage_of(state: Mapping[str, Any]) -> str:
    """The stage that wrote a checkpoint; the first checkpoints, without one, are of `plain`."""
    return str(state["config"].get("stage", "plain"))
