"""Track targets in a recording offline: every frame, with reproducible tracks.

ros2 launch mixformerv2_ros offline_replay.launch.py bag:=recording output:=tracks box:=9,9,40,90
"""

import sys

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, ExecuteProcess, OpaqueFunction
from launch.substitutions import LaunchConfiguration

ARGUMENTS = {
    "bag": (None, "recording: rosbag2 folder, .mcap or .db3 file"),
    "output": (None, "output folder for /track and /detections"),
    "box": ("", "init box in the first image, x,y,w,h; empty: the init boxes in the recording"),
    "image_topic": ("", "image topic; empty: the only one in the recording"),
    "model": ("", "folder of the model bundle, or tiny; empty: the default one"),
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
    """Return the process that replays, with the given options."""
    values = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    command = [sys.executable, "-m", "mixformerv2_ros.cli", "replay", values.pop("bag")]
    for name, value in values.items():
        if value:
            # One word, because a box may start with a minus sign.
            command.append(f"--{name.replace('_', '-')}={value}")
    return [ExecuteProcess(cmd=command, output="screen")]
