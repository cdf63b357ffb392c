"""Tracker node on an image topic; can be included in other launch files.

ros2 launch mixformerv2_ros tracker.launch.py image:=/camera/image_raw
ros2 launch mixformerv2_ros tracker.launch.py cameras:=front,rear=/rear_camera/image_raw

Several cameras are nodes of one process that share one engine: `/front/tracker`, `/rear/tracker`.
"""

import sys
from pathlib import Path
from typing import Any

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, ExecuteProcess, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node

from mixformerv2_ros.ros.topics import IMAGE, prefix_rules

CONFIG = Path(__file__).resolve().parents[1] / "config"

ARGUMENTS = {
    "image": ("image", "image topic; with compressed, images are received on TOPIC/compressed"),
    "cameras": (
        "",
        "cameras of one process that share one engine, separated by commas: NAMESPACE or "
        "NAMESPACE=TOPIC each; in place of image, namespace, topic_prefix, web and mavlink",
    ),
    "compressed": ("false", "subscribe to TOPIC/compressed"),
    "params_file": (str(CONFIG / "tracker_cpu.yaml"), "ROS parameter file"),
    "model": ("", "folder of the model bundle, or tiny; empty: as in the parameter file"),
    "engine": ("", "inference library; empty: as in the parameter file"),
    "device": ("", "cpu, cuda, cuda:N, gpu, gpu:N or npu; empty: as in the parameter file"),
    "name": ("tracker", "node name"),
    "namespace": ("", "node namespace"),
    "topic_prefix": (
        "",
        "prefix of all topics but the images, such as front/: several trackers in one namespace",
    ),
    "respawn": ("false", "start the process again, after 2 s, when it has ended"),
    "use_sim_time": ("", "use the time of /clock; empty: as in the parameter file"),
    "autostart": (
        "",
        "configure and activate at start; false: transitions are left to a lifecycle manager",
    ),
    "log_level": ("info", "minimum severity of log lines"),
    "web": ("false", "serve a page to watch the tracker and draw boxes, see mixformerv2 web"),
    "web_host": ("127.0.0.1", "address of the page; another than this machine's has a token"),
    "web_port": ("8080", "port of the page"),
    "mavlink": (
        "",
        "connection on which ground stations can track, such as udpin:127.0.0.1:14580, "
        "see mixformerv2 mavlink; empty: none",
    ),
}
RESPAWN_DELAY_S = 2.0
# Booleans as Python or as YAML writes them.
TRUTH = ["true", "false", "True", "False"]
CHOICES = {
    "compressed": TRUTH,
    "engine": ["", "auto", "onnxruntime", "openvino", "torch"],
    "use_sim_time": ["", *TRUTH],
    "autostart": ["", *TRUTH],
    "respawn": TRUTH,
    "log_level": ["debug", "info", "warn", "error", "fatal"],
    "web": TRUTH,
}


def generate_launch_description() -> LaunchDescription:
    declared = [
        DeclareLaunchArgument(
            name, default_value=default, description=text, choices=CHOICES.get(name)
        )
        for name, (default, text) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=tracker)])


def tracker(context: LaunchContext) -> list[Node | ExecuteProcess]:
    """Return the node, page and MAVLink camera if wanted; arguments override the parameter file."""
    values = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    given = {name: values[name] for name in ("model", "engine", "device") if values[name]}
    switches = [name for name in ("use_sim_time", "autostart") if values[name]]
    given |= {name: values[name].lower() == "true" for name in switches}
    if values["compressed"].lower() == "true":
        given["image_transport"] = "compressed"
    if values["cameras"]:
        return [_cameras(values, given)]
    logger = ".".join([*filter(None, values["namespace"].split("/")), values["name"]])
    files = [values["params_file"]] if values["params_file"] else []
    others = []
    if values["web"].lower() == "true":
        page = values["image"] + ("/compressed" if "image_transport" in given else "")
        address = ["--host", values["web_host"], "--port", values["web_port"]]
        others.append(_command(values, "web", page, *address))
    if values["mavlink"]:
        others.append(_command(values, "mavlink", "--connection", values["mavlink"]))
    return [
        *others,
        LifecycleNode(
            package="mixformerv2_ros",
            executable="tracker_node",
            name=values["name"],
            namespace=values["namespace"],
            parameters=[*files, given],
            remappings=[(IMAGE, values["image"]), *prefix_rules(values["topic_prefix"])],
            ros_arguments=["--log-level", f"{logger}:={values['log_level']}"],
            respawn=values["respawn"].lower() == "true",
            respawn_delay=RESPAWN_DELAY_S,
            output="screen",
        ),
    ]


def _cameras(values: dict[str, str], given: dict[str, Any]) -> Node:
    """The process of several cameras; they configure and activate themselves."""
    alone = ("image", "namespace", "topic_prefix", "web", "mavlink")
    wrong = [name for name in alone if values[name] != ARGUMENTS[name][0]]
    if wrong:
        raise RuntimeError(f"cameras and {', '.join(wrong)} exclude each other")
    words = [word for one in values["cameras"].split(",") for word in ("--camera", one.strip())]
    return Node(
        package="mixformerv2_ros",
        executable="tracker_node",
        arguments=words,
        parameters=[*([values["params_file"]] if values["params_file"] else []), given],
        remappings=[("__node", values["name"])] if values["name"] != ARGUMENTS["name"][0] else [],
        ros_arguments=["--log-level", values["log_level"]],
        respawn=values["respawn"].lower() == "true",
        respawn_delay=RESPAWN_DELAY_S,
        output="screen",
    )


def _command(values: dict[str, str], *words: str) -> ExecuteProcess:
    """A command beside the tracker, in its namespace."""
    command = [sys.executable, "-m", "mixformerv2_ros.cli", *words]
    if values["namespace"]:
        command += ["--namespace", values["namespace"]]
    for old, new in prefix_rules(values["topic_prefix"]):
        command += ["-r", f"{old}:={new}"]
    return ExecuteProcess(cmd=command, output="screen")
