"""Tracker and target pose node for Nav2: poses of the target, none while it is lost.

ros2 launch mixformerv2_ros follow_target.launch.py image:=/camera/image_raw \
    camera_info:=/camera/camera_info depth:=/camera/aligned_depth/image_raw target_frame:=map

`target_pose` is the `pose_topic` of Nav2's FollowObject action; `goal_update`, which requires
`target_frame`, is the input of the GoalUpdater of a behaviour tree.
"""

from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode

from mixformerv2_ros.ros.topics import prefix_rules

TRACKER = Path(__file__).resolve().parent / "tracker.launch.py"

ARGUMENTS = {
    "camera_info": ("camera_info", "calibration topic of the camera"),
    "source": ("depth", "source of the distance; bearing: directions only"),
    "depth": ("depth", "topic of depth images registered to the camera"),
    "points": ("points", "topic of organised point clouds registered to the camera"),
    "rectified": ("", "whether the tracked images are rectified; empty: as in the parameter file"),
    "target_width": ("0.0", "width of the target in metres, required by source:=width"),
    "target_frame": (
        "",
        "tf frame of the poses, such as map; empty: the camera's frame, without goal_update",
    ),
    "tf_frame": ("", "child frame of the transform published on /tf; empty: none"),
    "target_pose": ("target_pose", "topic of the poses, the pose_topic of a FollowObject goal"),
    "goal_update": ("goal_update", "input topic of Nav2's GoalUpdater"),
    "pose_params_file": ("", "ROS parameter file of the target pose node"),
    "tf_in_namespace": (
        "false",
        "use tf and tf_static in the namespace, as Nav2 does with several robots",
    ),
}
CHOICES = {
    "rectified": ["", "true", "false", "True", "False"],
    "source": ["depth", "cloud", "width", "bearing"],
    "tf_in_namespace": ["true", "false", "True", "False"],
}


def generate_launch_description() -> LaunchDescription:
    declared = [
        DeclareLaunchArgument(
            name, default_value=default, description=text, choices=CHOICES.get(name)
        )
        for name, (default, text) in ARGUMENTS.items()
    ]
    tracker = IncludeLaunchDescription(PythonLaunchDescriptionSource(str(TRACKER)))
    return LaunchDescription([*declared, tracker, OpaqueFunction(function=target_pose)])


def target_pose(context: LaunchContext) -> list[LifecycleNode]:
    """Return the target pose node; with the tracker's namespace, clock and autostart."""
    shared = ("namespace", "topic_prefix", "use_sim_time", "autostart", "respawn", "log_level")
    values = {name: LaunchConfiguration(name).perform(context) for name in (*ARGUMENTS, *shared)}
    given = {name: values[name] for name in ("source", "target_frame", "tf_frame") if values[name]}
    switches = [name for name in ("use_sim_time", "autostart", "rectified") if values[name]]
    given |= {name: values[name].lower() == "true" for name in switches}
    if float(values["target_width"]) > 0:
        given["target_width"] = float(values["target_width"])
    files = [values["pose_params_file"]] if values["pose_params_file"] else []
    topics = ("camera_info", "depth", "points", "target_pose", "goal_update")
    # A topic that was named keeps its name.
    named = [topic for topic in topics if values[topic] != topic]
    remaps = [(topic, values[topic]) for topic in topics if topic in named]
    remaps += [rule for rule in prefix_rules(values["topic_prefix"]) if rule[0] not in named]
    if values["tf_in_namespace"].lower() == "true":
        remaps += [("/tf", "tf"), ("/tf_static", "tf_static")]
    logger = ".".join([*filter(None, values["namespace"].split("/")), "target_pose"])
    return [
        LifecycleNode(
            package="mixformerv2_ros",
            executable="target_pose_node",
            name="target_pose",
            namespace=values["namespace"],
            parameters=[*files, given],
            remappings=remaps,
            ros_arguments=["--log-level", f"{logger}:={values['log_level']}"],
            respawn=values["respawn"].lower() == "true",
            respawn_delay=2.0,
            output="screen",
        )
    ]
