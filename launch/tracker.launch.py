"""The tracker node on a camera topic; to be included in the launch files of robots.

ros2 launch mixformerv2_ros tracker.launch.py image:=/camera/image_raw
"""

from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode

CONFIG = Path(__file__).resolve().parents[1] / "config"

ARGUMENTS = {
    "image": ("image", "topic of the images; compressed ones are expected on TOPIC/compressed"),
    "compressed": ("false", "take the images from TOPIC/compressed"),
    "params_file": (str(CONFIG / "tracker_s_cpu.yaml"), "ROS parameter file"),
    "model": ("", "folder of a model bundle; empty: as in the parameter file"),
    "engine": ("", "library that runs the network; empty: as in the parameter file"),
    "device": ("", "where the network runs; empty: as in the parameter file"),
    "name": ("tracker", "name of the node"),
    "namespace": ("", "namespace of the node and its topics"),
    "use_sim_time": ("", "take the time from /clock; empty: as in the parameter file"),
    "autostart": ("", "configure and activate at once; false leaves it to a lifecycle manager"),
    "log_level": ("info", "least severity that is logged"),
}
# Launch files write truth as Python or as YAML does.
TRUTH = ["true", "false", "True", "False"]
CHOICES = {
    "compressed": TRUTH,
    "engine": ["", "auto", "onnxruntime", "torch"],
    "device": ["", "cpu", "cuda"],
    "use_sim_time": ["", *TRUTH],
    "autostart": ["", *TRUTH],
    "log_level": ["debug", "info", "warn", "error", "fatal"],
}


def generate_launch_description() -> LaunchDescription:
    declared = [
        DeclareLaunchArgument(
            name, default_value=default, description=text, choices=CHOICES.get(name)
        )
        for name, (default, text) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=tracker)])


def tracker(context: LaunchContext) -> list[LifecycleNode]:
    """Return the node, with the parameters that were given over those of the file."""
    values = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    given = {name: values[name] for name in ("model", "engine", "device") if values[name]}
    switches = [name for name in ("use_sim_time", "autostart") if values[name]]
    given |= {name: values[name].lower() == "true" for name in switches}
    if values["compressed"].lower() == "true":
        given["image_transport"] = "compressed"
    logger = ".".join([*filter(None, values["namespace"].split("/")), values["name"]])
    files = [values["params_file"]] if values["params_file"] else []
    return [
        LifecycleNode(
            package="mixformerv2_ros",
            executable="tracker_node",
            name=values["name"],
            namespace=values["namespace"],
            parameters=[*files, given],
            remappings=[("image", values["image"])],
            ros_arguments=["--log-level", f"{logger}:={values['log_level']}"],
            output="screen",
        )
    ]
