"""What a library raises while it runs a model, as an error of ours."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

from mixformerv2_ros.errors import EngineError, MixFormerError
from mixformerv2_ros.text import printable

P = ParamSpec("P")
R = TypeVar("R")


def engine_errors(
    run: Callable[Concatenate[Any, P], R],
) -> Callable[Concatenate[Any, P], R]:
    """Decorate a method of an engine that runs its model: any failure becomes an `EngineError`.

    Libraries raise exceptions of many classes, some of them of no common base (ONNX Runtime), for
    memory that is used up, a device that is gone, or a graph of another shape. Whoever tracks must
    be able to tell these from a defect of ours, report them in one line and go on.
    """

    @functools.wraps(run)
    def guarded(engine: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return run(engine, *args, **kwargs)
        except MixFormerError:
            raise
        except Exception as error:
            reason = printable(" ".join(str(error).split()) or type(error).__name__, 300)
            raise EngineError(f"{engine.name} failed: {reason}") from error

    return guarded
