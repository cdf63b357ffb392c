"""The model of a live node: loaded and warmed up before the first image."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from weakref import WeakValueDictionary

import numpy as np

from mixformerv2_ros.engines.loader import load_engine
from mixformerv2_ros.engines.shared import SharedEngine
from mixformerv2_ros.model.bundle import Bundle, open_bundle
from mixformerv2_ros.model.engine import Engine, Stop
from mixformerv2_ros.ros.parameters import (
    PARAMETERS,
    Value,
    engine_arguments,
    tracker_settings,
)
from mixformerv2_ros.tracking.settings import TrackerSettings
from mixformerv2_ros.tracking.tracker import search_shape

WARM_UP_RUNS = 2
"""The first run of a network allocates memory; a second one runs at full speed."""


@dataclass(frozen=True)
class Model:
    """A model that is ready to run.

    Attributes:
        bundle: Weights and metadata.
        engine: Runs the network.
    """

    bundle: Bundle
    engine: Engine

    @property
    def summary(self) -> str:
        """Bundle, checksum and engine in one line."""
        return ", ".join(f"{name} {value}" for name, value in self.info.items())

    @property
    def info(self) -> dict[str, str]:
        """Entries of the diagnostics about it."""
        return {
            "model": self.bundle.name,
            "model checksum": self.bundle.checksum,
            "engine": self.engine.name,
        }

    def settings(self, values: Mapping[str, Value]) -> TrackerSettings:
        """The tracker's settings from parameter values, those of a node included.

        Raises:
            ParameterError: a value out of range, or inconsistent values.
        """
        return tracker_settings({p.name: values[p.name] for p in PARAMETERS}, self.bundle)


def load_model(values: Mapping[str, Value]) -> Model:
    """Load and warm up the model of the parameters that say which bundle and engine.

    Raises:
        BundleError, EngineError: the bundle or the engine is not usable.
    """
    bundle = open_bundle(str(values["model"]) or None)
    model = Model(bundle, load_engine(bundle, *engine_arguments(values)))
    _warm_up(model, values)
    return model


class SharedModels:
    """Models of several trackers of one process: with equal parameters they share one engine.

    An engine lives as long as one of its trackers. May be called from several threads.
    """

    def __init__(self) -> None:
        """Begin without models."""
        self._lock = threading.Lock()
        self._models: WeakValueDictionary[tuple[object, ...], Model] = WeakValueDictionary()

    def load(self, values: Mapping[str, Value]) -> Model:
        """`load_model`, unless a tracker has that model already.

        Raises:
            BundleError, EngineError: the bundle or the engine is not usable.
        """
        key = (values["model"], *engine_arguments(values))
        with self._lock:
            model = self._models.get(key)
            if model is None:
                loaded = load_model(values)
                model = self._models[key] = Model(loaded.bundle, SharedEngine(loaded.engine))
                return model
        _warm_up(model, values)
        return model


def _warm_up(model: Model, values: Mapping[str, Value]) -> None:
    """Run the engine with every number of templates that the parameters permit.

    It may compile its graphs for each: not while a target is tracked. Where a parameter asks for
    exits, the graphs of the segments are among them, beside the one that doubtful frames take.
    """
    engine, size = model.engine, model.bundle.spec.template_size
    settings = model.settings(values)
    stops: list[Stop | None] = [None]
    if settings.asks_exits and model.bundle.spec.exits:
        # Every exit's heads, every segment, and last what doubtful frames take.
        stops = [*map(_stop_at, model.bundle.spec.depths), None]
    for count in range(2, 2 + int(values["template_update.online_size"])):
        for stop in [stop for stop in stops for _ in range(WARM_UP_RUNS)]:
            memory = engine.encode_templates(np.zeros((count, size, size, 3), np.uint8))
            engine.search(np.zeros((1, *search_shape(engine)), np.uint8), [memory], stop)


def _stop_at(end: int) -> Stop:
    """Goes through the exits and answers after `end` blocks."""
    return lambda depth, quality, rows: np.full(len(rows), depth == end)
