"""All parameters: name, type, default, range, description, changeable at runtime or not.

Command-line options, the YAML files in `config/`, the tables in `docs/parameters.md` and the
validation are derived from these tables.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mixformerv2_ros.engines.options import DEVICES, ENGINES, MAX_THREADS, PRECISIONS
from mixformerv2_ros.errors import ParameterError
from mixformerv2_ros.model.bundle import Bundle
from mixformerv2_ros.ros.qos import AUTO, QOS_CHOICES
from mixformerv2_ros.ros.topics import IMAGES, RAW
from mixformerv2_ros.text import printable
from mixformerv2_ros.tracking.detections import START_RULES, DetectionSettings
from mixformerv2_ros.tracking.frame import NS
from mixformerv2_ros.tracking.prediction import PredictionSettings
from mixformerv2_ros.tracking.settings import TrackerSettings
from mixformerv2_ros.tracking.stream import StreamRules

Value = bool | int | float | str

MAX_UNKNOWN = 20
"""Number of unknown parameters that are named in a log."""


@dataclass(frozen=True)
class Parameter:
    """One parameter.

    Attributes:
        name: Name as in the YAML files; dots separate groups.
        default: Default value; its type is the parameter's type.
        text: Description, one line.
        unit: Unit, empty where there is none.
        low, high: Range of a number, both ends included.
        choices: Values of a string; empty for any. In one that ends with `:N`, N is any number.
        live: Whether it can be changed at runtime.
        setting: Field of `TrackerSettings` that it sets; empty for other parameters.
        stream: Whether it is a rule of the image stream (`stream_rules`).
    """

    name: str
    default: Value
    text: str
    unit: str = ""
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] = ()
    live: bool = False
    setting: str = ""
    stream: bool = False

    @property
    def option(self) -> str:
        """The command-line option, such as `--template-update-interval`."""
        return "--" + self.name.replace(".", "-").replace("_", "-")

    @property
    def range(self) -> str:
        """The permitted values as text; empty where all are."""
        if self.choices:
            return " | ".join(self.choices)
        if isinstance(self.default, bool):
            return "true | false"
        if self.low == -math.inf and self.high == math.inf:
            return ""
        if self.high == math.inf:
            return f"at least {self.low:g}"
        return f"{self.low:g} to {self.high:g}"

    def check(self, value: Any) -> Value:
        """Return `value` in the parameter's type.

        Raises:
            ParameterError: another type, or out of range.
        """
        kind = type(self.default)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            # Beyond the largest float: out of every range.
            infinite = math.inf if value > 0 else -math.inf
            value = float(value) if abs(value) < 2**1023 else infinite
        if type(value) is not kind:
            raise ParameterError(f"{self.name} must be {kind.__name__}, got {_shown(value)}")
        if self.choices and not any(_is_choice(value, choice) for choice in self.choices):
            raise ParameterError(f"{self.name} must be {self.range}, got {_shown(value)}")
        if isinstance(value, (int, float)) and not self.low <= value <= self.high:
            raise ParameterError(f"{self.name} must be {self.range}, got {_shown(value)}")
        checked: Value = value
        return checked

    def parse(self, text: str) -> Value:
        """Read a value as typed on a command line.

        Raises:
            ParameterError: not of the parameter's type, or out of range.
        """
        kind = type(self.default)
        try:
            value = text if kind is str else _TRUTH[text.lower()] if kind is bool else kind(text)
        except (ValueError, KeyError):
            raise ParameterError(
                f"{self.name} must be {kind.__name__}, got {_shown(text)}"
            ) from None
        return self.check(value)


def _shown(value: Any) -> str:
    """A value that is refused, however long, in one line."""
    if isinstance(value, int) and abs(value) >= 10**40:
        return "a whole number of more than 40 digits"
    return f"{value:g}" if isinstance(value, float) else printable(repr(value))


def _is_choice(value: Value, choice: str) -> bool:
    if choice.endswith(":N"):
        head, _, number = str(value).rpartition(":")
        return head == choice.removesuffix(":N") and number.isdecimal()
    return value == choice


_TRUTH = {"true": True, "false": False}

_S = TrackerSettings(search_factor=0, template_factor=0, template_background_contrast=1)
_RULES = StreamRules()
_DETECTOR = DetectionSettings()

PARAMETERS: tuple[Parameter, ...] = (
    Parameter(
        "model", "",
        "folder of the model bundle, or tiny, the small one of the package; empty: the default one",
    ),
    Parameter("engine", "auto", "inference library", choices=ENGINES),
    Parameter("device", "cpu", "device that runs the network", choices=DEVICES),
    Parameter(
        "num_threads", 0, "threads per network run; 0: all physical cores but one",
        low=0, high=MAX_THREADS,
    ),
    Parameter(
        "precision", "auto", "number format of the network run; auto: what the bundle was made for",
        choices=PRECISIONS,
    ),
    Parameter(
        "spinning", True, "threads of one network run wait actively for each other (ONNX Runtime)",
    ),
    Parameter(
        "search_factor", 0.0,
        "side of the search region, as a multiple of the target size sqrt(w*h); 0: as in bundle",
        low=0, high=10, live=True, setting="search_factor",
    ),
    Parameter(
        "template_factor", 0.0,
        "side of the template region, as a multiple of the target size sqrt(w*h); 0: as in bundle",
        low=0, high=10, live=True, setting="template_factor",
    ),
    Parameter(
        "template_update.interval", _S.update_interval,
        "frames between two updates of the online template",
        unit="frames", low=1, high=1_000_000, live=True, setting="update_interval",
    ),
    Parameter(
        "template_update.period", _S.update_period,
        "image time between two updates of the online template; 0: interval applies instead",
        unit="s", low=0, high=3600, live=True, setting="update_period",
    ),
    Parameter(
        "template_update.score_threshold", _S.update_score_threshold,
        "confidence above which a frame may become the online template",
        low=0, high=1, live=True, setting="update_score_threshold",
    ),
    Parameter(
        "template_update.max_score_decay", _S.max_score_decay,
        "decay of the best candidate's score per frame, in favour of newer frames; 1: no decay",
        low=0, high=1, live=True, setting="max_score_decay",
    ),
    Parameter(
        "template_update.online_size", _S.online_size,
        "number of online templates, replaced in turn",
        low=1, high=8, live=True, setting="online_size",
    ),
    Parameter(
        "uncertain.score_threshold", _S.uncertain_threshold,
        "confidence below which the target is UNCERTAIN and templates are not updated",
        low=0, high=1, live=True, setting="uncertain_threshold",
    ),
    Parameter(
        "uncertain.duration", _S.uncertain_duration,
        "time that the confidence must stay below that threshold before the target is UNCERTAIN",
        unit="s", low=0, high=3600, live=True, setting="uncertain_duration",
    ),
    Parameter(
        "lost.score_threshold", _S.lost_threshold,
        "confidence below which the target is lost",
        low=0, high=1, live=True, setting="lost_threshold",
    ),
    Parameter(
        "lost.duration", _S.lost_duration,
        "time that the confidence must stay below that threshold before the target is LOST",
        unit="s", low=0, high=3600, live=True, setting="lost_duration",
    ),
    Parameter(
        "reacquire.frames", _S.reacquire_frames,
        "images that a LOST target must be seen elsewhere to be followed there; 0: no such search",
        unit="frames", low=0, high=1000, live=True, setting="reacquire_frames",
    ),
    Parameter(
        "reacquire.crops", _S.reacquire_crops,
        "maximum number of crops per image that are searched for LOST targets",
        low=0, high=1000, live=True, setting="reacquire_crops",
    ),
    Parameter(
        "reacquire.score_threshold", _S.reacquire_score_threshold,
        "confidence above which a find is followed on trial",
        low=0, high=1, live=True, setting="reacquire_score_threshold",
    ),
    Parameter(
        "reacquire.margin", _S.reacquire_margin,
        "difference by which its confidence must exceed that at any other place",
        low=0, high=1, live=True, setting="reacquire_margin",
    ),
    Parameter(
        "reacquire.max_speed", _S.reacquire_max_speed,
        "maximum speed of a LOST target, as a multiple of its size sqrt(w*h) per second",
        unit="1/s", low=0, high=1_000_000, live=True, setting="reacquire_max_speed",
    ),
    Parameter(
        "separate.score_threshold", _S.separate_score_threshold,
        "confidence above which two targets on one object must both be seen apart to be separated; "
        "1: never",
        low=0, high=1, live=True, setting="separate_score_threshold",
    ),
    Parameter(
        "exit.threshold", 0.0,
        "IoU that an exit must estimate for its box to be taken; 0: as calibrated, 1: full depth",
        low=0, high=1, live=True, setting="exit_threshold",
    ),
    Parameter(
        "exit.budget", 0.0,
        "mean depth over the full one that a calibrated bundle is to keep to, instead of a "
        "threshold; 0: none",
        low=0, high=1, live=True,
    ),
    Parameter(
        "exit.deadline_ms", _S.exit_deadline_ms,
        "time for a frame, after which no further exit is begun; 0: none",
        unit="ms", low=0, high=60_000, live=True, setting="exit_deadline_ms",
    ),
    Parameter(
        "late_tolerance", _RULES.late_tolerance_ns / NS,
        "maximum lateness of a dropped image; a larger step back in time resets the targets",
        unit="s", low=0, high=3600, stream=True,
    ),
    Parameter(
        "image_bits", 0,
        "used bits of 16-bit images, 8 to 16; 0: as measured, held for the stream",
        unit="bit", low=0, high=16, stream=True,
    ),
    Parameter(
        "jpeg_reduction", _RULES.jpeg_reduction,
        "largest factor by which JPEGs may be decoded at reduced size, if targets are large "
        "enough: 1, 2, 4 or 8",
        low=1, high=8, stream=True,
    ),
)  # fmt: skip

EXITS = ("exit.threshold", "exit.budget", "exit.deadline_ms")
"""Parameters that only bundles with exits have a use for."""

BY_NAME: dict[str, Parameter] = {parameter.name: parameter for parameter in PARAMETERS}


def _prediction_parameters(what: str) -> tuple[Parameter, ...]:
    defaults = PredictionSettings()
    return (
        Parameter(
            "predict.max_time", defaults.max_time_ns / NS,
            f"longest extrapolation of {what}; older images give none",
            unit="s", low=0, high=10, live=True,
        ),
        Parameter(
            "predict.acceleration", defaults.acceleration,
            "standard deviation by which the velocity of a box changes within a second, in target "
            "sizes sqrt(w*h) per second",
            low=0, high=1000, live=True,
        ),
    )  # fmt: skip


NODE_PARAMETERS: tuple[Parameter, ...] = (
    *PARAMETERS,
    Parameter(
        "image_transport", RAW,
        "raw: sensor_msgs/Image on image; compressed: CompressedImage on image/compressed",
        choices=tuple(IMAGES),
    ),
    Parameter(
        "image_qos", AUTO,
        "QoS of the image subscription; auto: reliable if all publishers are, else best effort",
        choices=QOS_CHOICES,
    ),
    Parameter(
        "image_timeout", 2.0, "time without an image after which the camera is reported as stalled",
        unit="s", low=0.1, high=3600,
    ),
    Parameter(
        "reacquire.budget_ms", 15.0,
        "time per image that the search for LOST targets may take on top, as measured per crop",
        unit="ms", low=0, high=10_000, live=True,
    ),
    Parameter(
        "buffer.frames", _RULES.buffer_images,
        "maximum number of buffered images, on any of which a box can be drawn",
        low=1, high=10_000,
    ),
    Parameter(
        "buffer.duration", _RULES.buffer_age_ns / NS, "maximum age of the buffered images",
        unit="s", low=0, high=600,
    ),
    Parameter(
        "buffer.megabytes", _RULES.buffer_bytes // 1_000_000,
        "maximum memory of the buffered images",
        unit="MB", low=1, high=65_536,
    ),
    Parameter(
        "buffer.catch_up", _RULES.catch_up_images,
        "maximum number of buffered images processed while catching up",
        low=1, high=10_000,
    ),
    Parameter(
        "buffer.catch_up_rate", _RULES.catch_up_searches,
        "maximum number of buffered images processed per new image while catching up",
        low=1, high=10_000,
    ),
    Parameter(
        "max_targets", 4, "maximum number of targets; further init boxes are rejected",
        low=1, high=64,
    ),
    Parameter(
        "init_point.size", 0.15,
        "side of the init box around a click, as a fraction of the image's shorter side",
        low=0.01, high=1, live=True,
    ),
    *_prediction_parameters("track_predicted"),
    Parameter(
        "detector.start", _DETECTOR.start,
        "detection that a target starts on while there is none: nearest to the image's centre, "
        "largest, or best score",
        choices=START_RULES, live=True,
    ),
    Parameter(
        "detector.class_id", _DETECTOR.class_id,
        "class of the detections that are used; empty: any", live=True,
    ),
    Parameter(
        "detector.id", _DETECTOR.id, "id of the detection that a target starts on; empty: any",
        live=True,
    ),
    Parameter(
        "detector.min_score", _DETECTOR.min_score, "minimum score of the detections that are used",
        low=0, high=1, live=True,
    ),
    Parameter(
        "detector.start_frames", _DETECTOR.start_frames,
        "consecutive detection messages in which the same object must be chosen",
        low=1, high=1000, live=True,
    ),
    Parameter(
        "detector.reacquire", _DETECTOR.reacquire,
        "compare detections with the templates of a LOST target", live=True,
    ),
    Parameter(
        "detector.reacquire_threshold", _DETECTOR.reacquire_threshold,
        "confidence that a find at a detection must have to be the LOST target",
        low=0, high=1, live=True,
    ),
    Parameter(
        "detector.correct_frames", _DETECTOR.correct_frames,
        "consecutive detection messages of disagreement after which a box is corrected; 0: never",
        low=0, high=10_000, live=True,
    ),
    Parameter(
        "detector.correct_iou", _DETECTOR.correct_iou,
        "IoU of a detection with the box of a target from which they agree",
        low=0.05, high=1, live=True,
    ),
    Parameter(
        "debug_image.compressed.max_size", 640,
        "longest side of debug_image/compressed; larger images are scaled down; 0: any",
        unit="px", low=0, high=16_384, live=True,
    ),
    Parameter(
        "debug_image.compressed.max_rate", 10.0,
        "maximum rate of debug_image/compressed; 0: every processed image",
        unit="Hz", low=0, high=1000, live=True,
    ),
    Parameter(
        "debug_image.compressed.jpeg_quality", 75, "JPEG quality of debug_image/compressed",
        low=1, high=100, live=True,
    ),
    Parameter(
        "diagnostics.period", 1.0, "period of /diagnostics",
        unit="s", low=0.1, high=3600,
    ),
)  # fmt: skip
"""Parameters of the tracker node: those of the tracker, and those of the node itself."""

POSE_PARAMETERS: tuple[Parameter, ...] = (
    Parameter(
        "source", "depth",
        "source of the distance: registered depth image, organised point cloud, known target "
        "width, or none (bearing only)",
        choices=("depth", "cloud", "width", "bearing"),
    ),
    Parameter(
        "rectified", False,
        "whether the tracked images are rectified; true: use p of camera_info, false: k and d",
    ),
    Parameter(
        "range_qos", AUTO,
        "QoS of the depth subscription; auto: reliable if all publishers are, else best effort",
        choices=QOS_CHOICES,
    ),
    Parameter(
        "target_id", "", "target to publish poses of; empty: that of the first track received",
        live=True,
    ),
    Parameter(
        "publish_uncertain", False, "publish poses while the target is UNCERTAIN, too", live=True,
    ),
    Parameter(
        "predict.enabled", False,
        "extrapolate bearings and poses from the stamp of the image to the time of publication, "
        "which is their stamp then",
        live=True,
    ),
    *_prediction_parameters("bearings and poses"),
    Parameter(
        "predict.position_acceleration", 3.0,
        "standard deviation by which the velocity of a pose changes within a second",
        unit="m/s", low=0, high=1000, live=True,
    ),
    Parameter(
        "target_frame", "",
        "tf frame of the poses, with z up, such as map or odom; empty: the camera's frame, without "
        "goal_update",
        live=True,
    ),
    Parameter(
        "tf_frame", "", "child frame of the transform published on /tf; empty: none", live=True,
    ),
    Parameter(
        "target_width", 0.0, "width of the target; required by source width",
        unit="m", low=0, high=1000, live=True,
    ),
    Parameter(
        "target_width_deviation", 0.0, "standard deviation of target_width",
        unit="m", low=0, high=1000, live=True,
    ),
    Parameter(
        "range.region", 0.5,
        "size of the central depth-sampling region, as a fraction of the box",
        low=0.05, high=1, live=True,
    ),
    Parameter(
        "range.min_share", 0.3, "minimum fraction of valid depth pixels in that region",
        low=0, high=1, live=True,
    ),
    Parameter(
        "range.deviation", 0.01, "minimum standard deviation of a measured distance",
        unit="m", low=0, high=1000, live=True,
    ),
    Parameter(
        "range.max_speed", 20.0,
        "speed of target and camera beyond which a change of distance is rejected: depth of what "
        "is behind the target; 0: any",
        unit="m/s", low=0, high=10_000, live=True,
    ),
    Parameter(
        "range.tolerance", 0.05,
        "maximum time difference between an image and its depth image or point cloud",
        unit="s", low=0, high=10, live=True,
    ),
    Parameter(
        "buffer.duration", 2.0, "maximum age of the buffered depth images or point clouds",
        unit="s", low=0, high=600,
    ),
    Parameter(
        "buffer.megabytes", 128, "maximum memory of the buffered depth images or point clouds",
        unit="MB", low=1, high=65_536,
    ),
)  # fmt: skip
"""Parameters of the target pose node."""


AUTOSTART = Parameter(
    "autostart",
    True,
    "configure and activate at start; false: transitions are left to a lifecycle manager (rclpy)",
)

BOND_HEARTBEAT_PERIOD = Parameter(
    "bond_heartbeat_period",
    0.1,
    "period of the heartbeat for Nav2's lifecycle_manager, while autostart is false; 0: none "
    "(rclpy)",
    unit="s",
    high=2,
    low=0,
)

LIFECYCLE_PARAMETERS = (AUTOSTART, BOND_HEARTBEAT_PERIOD)
"""Parameters of every lifecycle node, beside those of its table."""


def check_keywords(keywords: Mapping[str, Any]) -> dict[str, Value]:
    """Check tracker parameters given as keyword arguments, with `_` for `.`; fill in defaults.

    Raises:
        ParameterError: see `check_values`.
    """
    names = {name.replace(".", "_"): name for name in BY_NAME}
    return check_values({names.get(key, key): value for key, value in keywords.items()})


def unknown_parameters(names: Iterable[str], known: Iterable[str]) -> list[str]:
    """Log lines about the names of a parameter file that are not those of parameters.

    They are ignored, as those of a file for several nodes must be.

    Args:
        names: The names.
        known: Names of the node's parameters.
    """
    parameters = list(known)
    lines = []
    for name in sorted(set(names).difference(parameters)):
        near = difflib.get_close_matches(name, parameters, n=1)
        nearest = f"; nearest: {near[0]}" if near else ""
        lines.append(f"unknown parameter {printable(name)} ignored{nearest}")
    if len(lines) > MAX_UNKNOWN:
        lines[MAX_UNKNOWN:] = [f"{len(lines) - MAX_UNKNOWN} more unknown parameters ignored"]
    return lines


def check_values(
    values: Mapping[str, Any], parameters: Sequence[Parameter] = PARAMETERS
) -> dict[str, Value]:
    """Check a set of values, each and together; fill in defaults.

    Args:
        values: Values by name.
        parameters: The parameters of the node.

    Raises:
        ParameterError: an unknown name, a wrong value, or inconsistent values.
    """
    known = [parameter.name for parameter in parameters]
    for name in values:
        if name not in known:
            raise ParameterError(
                f"unknown parameter {name!r}; known parameters: {', '.join(known)}"
            )
    checked = {p.name: p.check(values.get(p.name, p.default)) for p in parameters}
    _check_together(checked)
    return checked


def check_changes(
    values: Mapping[str, Value],
    changes: Mapping[str, Any],
    parameters: Sequence[Parameter],
    running: bool,
) -> dict[str, Value]:
    """Check changes of some values, as a set; return all values.

    Args:
        values: The values in force.
        changes: New values by name.
        parameters: The parameters of the node.
        running: Whether parameters that are not live must stay as they are.

    Raises:
        ParameterError: see `check_values`; also a fixed parameter of a running node.
    """
    for parameter in parameters:
        name = parameter.name
        if running and not parameter.live and changes.get(name, values[name]) != values[name]:
            raise ParameterError(f"{name} cannot be changed at runtime")
    return check_values({**values, **changes}, parameters)


def _check_together(values: Mapping[str, Any]) -> None:
    """Check values that depend on each other, as far as they are given."""
    lost, uncertain = values.get("lost.score_threshold", 0.0), "uncertain.score_threshold"
    if lost > values.get(uncertain, 1.0):
        raise ParameterError(
            f"lost.score_threshold must not exceed {uncertain}, got {lost} > {values[uncertain]}"
        )
    if 0 < (bits := values.get("image_bits", 0)) < 8:
        raise ParameterError(f"image_bits must be 0 or 8 to 16, got {bits}")
    if (reduction := values.get("jpeg_reduction", 1)) not in (1, 2, 4, 8):
        raise ParameterError(f"jpeg_reduction must be 1, 2, 4 or 8, got {reduction}")
    if values.get("source") == "width" and not values["target_width"]:
        raise ParameterError("source width requires a target_width above 0, got 0")
    child = values.get("tf_frame")
    if child and child == values["target_frame"]:
        raise ParameterError(f"tf_frame must differ from target_frame, got {child!r} for both")


def prediction_settings(values: Mapping[str, Any]) -> PredictionSettings:
    """How tracks are extrapolated, from the parameter values of a node."""
    return PredictionSettings(
        round(float(values["predict.max_time"]) * NS), float(values["predict.acceleration"])
    )


def detection_settings(values: Mapping[str, Any]) -> DetectionSettings:
    """What is done with detections, from the parameter values of a node."""
    group = "detector."
    named = {n.removeprefix(group): v for n, v in values.items() if n.startswith(group)}
    return DetectionSettings(**named)


def engine_arguments(values: Mapping[str, Any]) -> tuple[str, str, int, str, bool]:
    """What `load_engine` takes besides the bundle, in its order, from parameter values."""
    return (
        str(values["engine"]),
        str(values["device"]),
        int(values["num_threads"]),
        str(values["precision"]),
        bool(values["spinning"]),
    )


def tracker_settings(values: Mapping[str, Any], bundle: Bundle) -> TrackerSettings:
    """Settings of the tracker from parameter values; factors left at 0 are the bundle's.

    Raises:
        ParameterError: see `check_values`.
    """
    checked = check_values(values)
    fields: dict[str, Any] = {p.setting: checked[p.name] for p in PARAMETERS if p.setting}
    for name in ("search_factor", "template_factor"):
        fields[name] = fields[name] or getattr(bundle, name)
    fields["template_background_contrast"] = bundle.template_background_contrast
    fields["exit_threshold"], fields["exit_thresholds"] = _exit_thresholds(checked, bundle)
    return TrackerSettings(**fields)


def _exit_thresholds(values: Mapping[str, Any], bundle: Bundle) -> tuple[float, tuple[float, ...]]:
    """The threshold of the exits that parameters and the calibration of a bundle ask for.

    Returns:
        The one of all exits, and those of each where the calibration found better ones.

    Raises:
        ParameterError: the bundle has no exits, is not calibrated, or its exits cannot keep to the
            budget.
    """
    threshold, budget = float(values["exit.threshold"]), float(values["exit.budget"])
    asked = next((name for name in EXITS if float(values[name])), "")
    if asked and not bundle.spec.exits:
        raise ParameterError(
            f"{asked} needs a bundle with exits, which {bundle.name} has not: it must be 0"
        )
    calibration = bundle.depth_calibration
    if budget:
        if threshold:
            raise ParameterError(
                f"one of exit.threshold and exit.budget must be 0, got {threshold:g} and {budget:g}"
            )
        if calibration is None:
            raise ParameterError(
                f"exit.budget needs a calibrated bundle; `mixformerv2 calibrate` makes one of "
                f"{bundle.name}"
            )
        return calibration.threshold_for(budget), ()
    if threshold or calibration is None:
        return threshold or 1.0, ()
    return calibration.threshold, calibration.thresholds


def stream_rules(values: Mapping[str, Any]) -> StreamRules:
    """Rules of the image stream from parameter values, those of a node or of a command.

    A command knows its init boxes in advance: it needs no buffer but the last two images.
    """
    late_tolerance_ns = round(float(values["late_tolerance"]) * NS)
    image_bits = int(values["image_bits"]) or None
    jpeg_reduction = int(values["jpeg_reduction"])
    if "buffer.frames" not in values:
        return StreamRules(
            late_tolerance_ns=late_tolerance_ns,
            image_bits=image_bits,
            jpeg_reduction=jpeg_reduction,
            buffer_images=2,
        )
    return StreamRules(
        late_tolerance_ns=late_tolerance_ns,
        image_bits=image_bits,
        jpeg_reduction=jpeg_reduction,
        buffer_images=int(values["buffer.frames"]),
        buffer_age_ns=round(float(values["buffer.duration"]) * NS),
        buffer_bytes=int(values["buffer.megabytes"]) * 1_000_000,
        catch_up_images=int(values["buffer.catch_up"]),
        catch_up_searches=int(values["buffer.catch_up_rate"]),
        max_targets=int(values["max_targets"]),
    )
