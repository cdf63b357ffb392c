"""Logs of a run: a CSV with a row per validation, and TensorBoard scalars."""

from __future__ import annotations

import csv
import importlib.util
import io
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mixformerv2_ros.files import write_file

log = logging.getLogger(__name__)

CSV = "log.csv"
SCALARS = "tensorboard"


def write_row(folder: Path, row: Mapping[str, float]) -> None:
    """Append a validation to `log.csv`, which is rewritten atomically.

    Rows of the same or a later step are dropped: they come from a run that was killed before its
    checkpoint was written.

    Raises:
        SourceError: it cannot be written.
    """
    path = folder / CSV
    rows: list[dict[str, Any]] = []
    if path.exists():
        with path.open(newline="", encoding="utf-8") as stream:
            rows = [one for one in csv.DictReader(stream) if int(one["step"]) < int(row["step"])]
    rows.append(dict(row))
    columns = list(dict.fromkeys(name for one in rows for name in one))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    write_file(path, text.getvalue())


def last_row(folder: Path) -> dict[str, float] | None:
    """The last validation in a run's `log.csv`; None where there is none yet."""
    path = folder / CSV
    if not path.exists():
        return None
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    if not rows:
        return None
    return {name: float(value) for name, value in rows[-1].items() if value}


class Scalars:
    """TensorBoard scalars; does nothing if TensorBoard is not installed."""

    def __init__(self, folder: Path, step: int) -> None:
        """Write below `folder`; purge scalars that an earlier run wrote from `step` on."""
        self._writer: Any = None
        if importlib.util.find_spec("tensorboard") is None:
            log.info("no scalars for TensorBoard: pip install tensorboard (extra 'lab')")
            return
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / SCALARS), purge_step=step, flush_secs=30)

    def write(self, group: str, values: Mapping[str, float], step: int) -> None:
        """Add values under `group/name`."""
        if self._writer is None:
            return
        try:
            for name, value in values.items():
                self._writer.add_scalar(f"{group}/{name}", value, step)
        except OSError as error:  # raised by the writer's thread, which has ended
            log.warning("TensorBoard scalars stopped: %s", error)
            self._writer = None

    def close(self) -> None:
        """Flush and close."""
        if self._writer is not None:
            try:
                self._writer.close()
            except OSError as error:
                log.warning("TensorBoard scalars are incomplete: %s", error)
