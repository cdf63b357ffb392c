"""Single-object tracking with MixFormerV2 for ROS 2.

Importing this package imports nothing heavy: torch, onnxruntime and OpenCV are loaded by the
modules that need them.
"""

from pkgutil import extend_path

# `colcon build` puts the generated `msg` modules into an installed package of the same name; the
# source folder must not hide them when it comes first on sys.path.
__path__ = extend_path(__path__, __name__)

__version__ = "0.1.0"
