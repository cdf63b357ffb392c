"""Single-object tracking with MixFormerV2 for ROS 2.

Importing this package imports nothing heavy: torch, onnxruntime and OpenCV are loaded by the
modules that need them.
"""

import os
import sys
from pkgutil import extend_path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mixformerv2_ros.api import Tracker as Tracker

# `colcon build` puts the generated `msg` modules into an installed package of the same name; the
# source folder must not hide them when it comes first on sys.path.
__path__ = extend_path(__path__, __name__)

# No command calls a server (docs/security.md). As soon as they are loaded, ONNX Runtime and
# OpenVINO write an identifier of the user into the home folder, to send usage data with, unless the
# variable is set before and the module is missing.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import `Tracker` when it is asked for."""
    if name != "Tracker":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mixformerv2_ros.api import Tracker

    return Tracker
