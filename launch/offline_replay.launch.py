"""Follow a target through a recording, offline: every frame, the same tracks every time.

ros2 launch mixformerv2_ros offline_replay.launch.py bag:=recording output:=tracks box:=9,9,40,90
"""

import sys

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, ExecuteProcess, OpaqueFunction
from launch.substitutions import LaunchConfiguration

ARGUMENTS = {
    "bag": (None, "rosbag2 folder, .mcap or .db3 file to read"),
    "output": (None, "folder to record /track and /detections into"),
    "box": ("", "target in the first image, x,y,w,h; empty: the boxes recorded in the bag"),
    "image_topic": ("", "topic of the images; empty: the only one"),
    "model": ("", "folder of a model bundle; empty: the one of the package"),
    "storage": ("mcap", "storage format of the output"),
}
CHOICES = {"storage": ["mcap", "sqlite3"]}


def generate_launch_description() -> LaunchDescription:
    declared = [
        DeclareLaunchArgument(
            name, default_value=default, description=text, choices=CHOICES.get(name)
        )
        for name, (default, text) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=replay)])


def replay(context: LaunchContext) -> list[ExecuteProcess]:
    """Return the process that replays, with the options that were given."""
    values = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    command = [sys.executable, "-m", "mixformerv2_ros.cli", "replay", values.pop("bag")]
    for name, value in values.items():
        if value:
            # One word, because a box may start with a minus sign.
            command.append(f"--{name.replace('_', '-')}={value}")
    return [ExecuteProcess(cmd=command, output="screen")]
