"""The errors that bad input raises.

Every message is one line: what was expected and what came. Adapters (the commands, the nodes) turn
these into an exit code or a log line; any other exception is a bug of this package.
"""

BAD_INPUT = 2
"""Exit code of a process that bad input ended."""


class MixFormerError(Exception):
    """Base of every error that a user's input can cause."""


class BoxError(MixFormerError, ValueError):
    """A box that cannot be tracked: not finite, empty, or outside its image."""


class ImageError(MixFormerError, ValueError):
    """An image that cannot be decoded or is too small to track in."""


class CheckpointError(MixFormerError, ValueError):
    """A checkpoint file that is truncated, hostile, or of another architecture."""


class BundleError(MixFormerError, ValueError):
    """A model bundle that is incomplete, damaged, or inconsistent."""


class EngineError(MixFormerError, RuntimeError):
    """An inference engine that is not installed, cannot run the bundle, or failed while running."""


class SourceError(MixFormerError, ValueError):
    """A video, camera, image folder or bag that cannot be read or written."""


class ParameterError(MixFormerError, ValueError):
    """A parameter with an unknown name, a wrong type or a value out of range."""


class MiddlewareError(MixFormerError, RuntimeError):
    """A middleware that is not installed, or a domain or topic of it that cannot be used."""


class PoseError(MixFormerError, ValueError):
    """A calibration, depth image or point cloud that gives no ray or no position."""


class TrainingError(MixFormerError, RuntimeError):
    """A training that cannot go on: it diverged, or its checkpoint cannot be written."""


class WindowError(MixFormerError, RuntimeError):
    """A window that cannot be opened: no toolkit, or no display."""


class InstallationError(MixFormerError, RuntimeError):
    """A part of this package, or a library that it needs, that is not installed."""
