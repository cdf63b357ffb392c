"""An engine that is replaced by the next one when it fails for good."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from mixformerv2_ros.engines.options import UnavailableError
from mixformerv2_ros.errors import EngineError
from mixformerv2_ros.model.crop_buffers import crop_buffer
from mixformerv2_ros.model.engine import Engine, Memory, Prediction, Stop
from mixformerv2_ros.model.spec import ModelSpec

R = TypeVar("R")

log = logging.getLogger(__package__)


@dataclass(frozen=True)
class Candidate:
    """One engine of a chain.

    Attributes:
        name: What it is, for log lines, such as `onnxruntime on cpu`.
        load: Loads it; raises `UnavailableError` where this machine cannot run it.
        reason: Why it has its place in the chain, for the log line that says what runs.
        warns: Whether that line is a warning, because something is amiss that can be repaired.
    """

    name: str
    load: Callable[[], Engine]
    reason: str
    warns: bool = False


@dataclass
class ChainMemory:
    """Encoded templates with the templates, for the engine that may have to encode them anew."""

    templates: npt.NDArray[np.uint8]
    owner: Engine
    encoded: Memory


class EngineChain:
    """Runs the first engine of a list that this machine can run.

    After a failure the engine must find a target in an empty crop. If it fails at that too, it is
    broken (its device is lost, its memory is used up), and the next engine takes over, encodes the
    templates of every target anew and answers the same call; otherwise the failure belongs to the
    call and is raised.
    """

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        """Load the first engine that can be loaded; logs what runs and why.

        Raises:
            BundleError, EngineError: the bundle is at fault.
            UnavailableError: no engine can run here.
        """
        self._left = list(candidates)
        self._engine = self._next([])

    @property
    def spec(self) -> ModelSpec:
        """Architecture of the loaded model."""
        return self._engine.spec

    @property
    def name(self) -> str:
        """Name of the engine that runs now."""
        return self._engine.name

    def crop_buffer(self, count: int) -> npt.NDArray[np.uint8]:
        """Memory for `count` crops; engines that follow later read it as well."""
        return crop_buffer(self._engine, count)

    def encode_templates(self, templates: npt.NDArray[np.uint8]) -> ChainMemory:
        """Encode (1 + n, T, T, 3) uint8 RGB templates.

        Raises:
            EngineError: the engine failed and works otherwise, or none is left.
        """
        return self._reliably(
            lambda: ChainMemory(templates, self._engine, self._engine.encode_templates(templates))
        )

    def search(
        self,
        crops: npt.NDArray[np.uint8],
        memories: Sequence[ChainMemory],
        stop: Stop | None = None,
    ) -> Prediction:
        """Find targets in (B, S, S, 3) uint8 RGB crops.

        Raises:
            EngineError: the engine failed and works otherwise, or none is left.
        """
        return self._reliably(
            lambda: self._engine.search(crops, [self._encoded(memory) for memory in memories], stop)
        )

    def _encoded(self, memory: ChainMemory) -> Memory:
        if memory.owner is not self._engine:
            memory.encoded = self._engine.encode_templates(memory.templates)
            memory.owner = self._engine
        return memory.encoded

    def _reliably(self, call: Callable[[], R]) -> R:
        while True:
            try:
                return call()
            except EngineError as error:
                if not self._left or self._works():
                    raise
                self._engine = self._next([str(error)])

    def _works(self) -> bool:
        spec = self._engine.spec
        templates = np.zeros((2, spec.template_size, spec.template_size, 3), np.uint8)
        crop = np.zeros((1, spec.search_size, spec.search_size, 3), np.uint8)
        try:
            self._engine.search(crop, [self._engine.encode_templates(templates)])
        except EngineError:
            return False
        return True

    def _next(self, failures: list[str]) -> Engine:
        """Load the next engine that can be loaded; `failures` says why the last one is left."""
        while self._left:
            candidate = self._left.pop(0)
            try:
                engine = candidate.load()
            except UnavailableError as error:
                failures.append(f"{candidate.name}: {error}")
                continue
            for failure in failures:
                log.warning("%s; goes on with %s", failure, engine.name)
            level = logging.WARNING if candidate.warns else logging.INFO
            log.log(level, "engine %s: %s", engine.name, candidate.reason)
            return engine
        raise UnavailableError("; ".join(failures))
