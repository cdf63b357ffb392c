"""`mixformerv2 node`: the tracker node on DDS, without a ROS installation."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mixformerv2_ros.cli.rerun_option import add_rerun_argument, check_rerun, rerun_observer
from mixformerv2_ros.cli.ros_graph import (
    add_node_arguments,
    cyclone,
    names_from_arguments,
    write_log,
)
from mixformerv2_ros.errors import ParameterError
from mixformerv2_ros.interrupt import node_stop
from mixformerv2_ros.io.paths import check_output_file
from mixformerv2_ros.ros.live.cameras import CameraThread, parse_cameras, run_threads
from mixformerv2_ros.ros.live.engine_log import engine_lines
from mixformerv2_ros.ros.live.model import SharedModels, load_model
from mixformerv2_ros.ros.messages import Level
from mixformerv2_ros.ros.parameter_profiles import PROFILES, Profile
from mixformerv2_ros.ros.parameters import (
    LIFECYCLE_PARAMETERS,
    NODE_PARAMETERS,
    Value,
    check_values,
    unknown_parameters,
)
from mixformerv2_ros.ros.topics import IMAGE, IMAGES
from mixformerv2_ros.yaml_text import YamlError, parse_yaml

if TYPE_CHECKING:
    from mixformerv2_ros.ros.cyclonedds.names import NodeNames

DEFAULTS = "defaults"
USE_SIM_TIME = "use_sim_time"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `mixformerv2 node`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = (
        "Run the tracker node on Cyclone DDS, without a ROS installation.\n"
        "Subscriptions: image (or image/compressed), init_box, init_detection, init_roi,\n"
        "init_point, detector.\n"
        "Publishers: track, detections, track_predicted, debug_image, debug_image/compressed,\n"
        "/diagnostics."
    )
    parser.epilog = "parameters:\n" + "\n".join(_parameter_lines())
    parser.add_argument(
        "-p",
        "--param",
        action="append",
        default=[],
        metavar="NAME:=VALUE",
        help="set a parameter (may be repeated)",
    )
    parser.add_argument(
        "--params-file",
        action="append",
        default=[],
        type=Path,
        metavar="F",
        help="ROS parameter file (may be repeated; later files and -p take precedence)",
    )
    parser.add_argument(
        "--print-params",
        nargs="?",
        const=DEFAULTS,
        choices=[DEFAULTS, *PROFILES],
        metavar="PROFILE",
        help=f"print a parameter file and exit: {DEFAULTS} or {', '.join(PROFILES)}",
    )
    parser.add_argument(
        "--camera",
        action="append",
        default=[],
        metavar="NS[=TOPIC]",
        help="a camera with a node of its own in namespace NS, its images on TOPIC (default: "
        "NS/image); repeated, cameras share one process and one engine",
    )
    add_rerun_argument(parser)
    parser.add_argument("--force", action="store_true", help="overwrite the file of --rerun")
    add_node_arguments(parser, "tracker")


def run(args: argparse.Namespace) -> int:
    """Track until Ctrl-C or SIGTERM."""
    if args.print_params is not None:
        defaults = Profile("Tracker node: all parameters at their defaults.", {})
        print(PROFILES.get(args.print_params, defaults).text(), end="")
        return 0
    nodes = [_read_node(args, names) for names in _all_names(args)]
    if args.rerun is not None and args.camera:
        raise ParameterError("--rerun shows the only camera of a node, got --camera as well")
    check_rerun(args.rerun)
    if isinstance(args.rerun, Path):
        check_output_file(args.rerun, args.force)
    with cyclone():
        from mixformerv2_ros.ros.cyclonedds.node import Node
        from mixformerv2_ros.ros.cyclonedds.tracker_node import DdsTrackerNode

    if args.camera:
        return _run_cameras(nodes)
    ((names, log, values, sim_time),) = nodes
    with (
        node_stop() as stopped,
        Node(names, log, sim_time=sim_time, rosout=True) as node,
        engine_lines(node.log),
    ):
        # After the node: what the network refuses is found before a second is spent on the model.
        model = load_model(values)
        with (
            rerun_observer(args.rerun, names.full, node.log) as observer,
            DdsTrackerNode(model, values, node, observer) as tracking,
        ):
            node.log(Level.OK, f"ready: {model.summary}")
            node.spin(lambda: stopped() or tracking.tracker.failure is not None)
        if tracking.tracker.failure is not None:
            raise tracking.tracker.failure
    return 0


class _NodeOptions(NamedTuple):
    """What one node is made of."""

    names: NodeNames
    log: Callable[[Level, str], None]
    values: dict[str, Value]
    sim_time: bool


def _run_cameras(nodes: Sequence[_NodeOptions]) -> int:
    """Track in the images of several cameras, a node and a thread each."""
    from mixformerv2_ros.ros.cyclonedds.camera_node import CameraNode

    models = SharedModels()
    with node_stop() as stopped:
        threads = [
            CameraThread(
                one.names.namespace, CameraNode(*one, load=models.load).run, one.log, stopped
            )
            for one in nodes
        ]
        run_threads(threads, stopped)
    return 0


def _all_names(args: argparse.Namespace) -> list[NodeNames]:
    """Names of the only node, or of those of all cameras.

    Raises:
        ParameterError: a name, a rule or a camera is malformed.
    """
    names = names_from_arguments(args)
    cameras = parse_cameras(args.camera)
    if cameras and any(names.remapped(image) for image, _ in IMAGES.values()):
        raise ParameterError(
            "images of cameras are named with --camera NAMESPACE=TOPIC, got a remapping rule"
        )
    found = []
    for camera in cameras:
        inside = f"{names.namespace.rstrip('/')}/{camera.namespace}"
        rules = {**names.rules, **({IMAGE: camera.image} if camera.image else {})}
        found.append(replace(names, namespace=inside, rules=rules))
    return found or [names]


def _read_node(args: argparse.Namespace, names: NodeNames) -> _NodeOptions:
    """Parameters of a node from files and command line.

    Raises:
        ParameterError: a file or a value is wrong.
    """
    log = write_log(names.full)
    given = _values(args, names.full)
    known = [*(p.name for p in (*NODE_PARAMETERS, *LIFECYCLE_PARAMETERS)), USE_SIM_TIME]
    for line in unknown_parameters(given, known):
        log(Level.WARN, line)
    sim_time = given.pop(USE_SIM_TIME, False)
    if not isinstance(sim_time, bool):
        raise ParameterError(f"{USE_SIM_TIME} must be true or false, got {sim_time!r}")
    table = {p.name for p in NODE_PARAMETERS}
    values = check_values({n: given[n] for n in given if n in table}, NODE_PARAMETERS)
    return _NodeOptions(names, log, values, sim_time)


def _values(args: argparse.Namespace, node: str) -> dict[str, Any]:
    from mixformerv2_ros.ros.cyclonedds.parameter_files import read_parameter_file

    values: dict[str, Any] = {}
    for path in args.params_file:
        values.update(read_parameter_file(path, node))
    for pair in args.param:
        name, separator, text = pair.partition(":=")
        if not (name and separator):
            raise ParameterError(f"parameter must be NAME:=VALUE, got {pair!r}")
        values[name] = _parse(name, text)
    return values


def _parse(name: str, text: str) -> Any:
    known: Mapping[str, Any] = {parameter.name: parameter for parameter in NODE_PARAMETERS}
    if name in known:
        return known[name].parse(text)
    try:
        return parse_yaml(text)
    except YamlError:
        return text


def _parameter_lines() -> list[str]:
    lines = []
    for p in NODE_PARAMETERS:
        notes = [p.unit, p.range, "" if p.default == "" else f"default {p.default}"]
        extra = ", ".join(note for note in notes if note)
        lines.append(f"  {p.name}")
        lines.append(f"      {p.text}" + (f" ({extra})" if extra else ""))
    lines.append(f"  {USE_SIM_TIME}")
    lines.append("      use the time of /clock (true | false, default false)")
    return lines
