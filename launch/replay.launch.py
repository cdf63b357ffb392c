"""Live tracker node on a recording, with its clock.

ros2 launch mixformerv2_ros replay.launch.py bag:=recording image:=/camera/image_raw box:=9,9,40,90

The node may drop images, as on a robot; `offline_replay.launch.py` drops none.
"""

from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
)
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.event_handlers import OnStateTransition

TRACKER = Path(__file__).resolve().parent / "tracker.launch.py"

ARGUMENTS = {
    "bag": (None, "recording: rosbag2 folder or file"),
    "box": ("", "init box in the first image, x,y,w,h; empty: the init boxes in the recording"),
    "rate": ("1.0", "playback rate"),
    "loop": ("false", "play in a loop until Ctrl-C"),
}
CHOICES = {"loop": ["true", "false", "True", "False"]}


def generate_launch_description() -> LaunchDescription:
    declared = [
        DeclareLaunchArgument(
            name, default_value=default, description=text, choices=CHOICES.get(name)
        )
        for name, (default, text) in ARGUMENTS.items()
    ]
    tracker = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(TRACKER)), launch_arguments=[("use_sim_time", "true")]
    )
    return LaunchDescription([*declared, tracker, OpaqueFunction(function=play)])


def play(context: LaunchContext) -> list[RegisterEventHandler]:
    """Play the bag once the node is active and the box is published; shut down at the end."""
    values = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    command = ["ros2", "bag", "play", values["bag"], "--clock", "100", "--rate", values["rate"]]
    if values["loop"].lower() == "true":
        if values["box"]:
            raise RuntimeError(
                "box and loop:=true exclude each other: every pass of the loop resets the targets; "
                "record init boxes in the bag instead"
            )
        command.append("--loop")
    player = ExecuteProcess(cmd=command, output="screen")
    steps = [player]
    handlers = [
        RegisterEventHandler(
            OnProcessExit(target_action=player, on_exit=[EmitEvent(event=Shutdown())])
        )
    ]
    if values["box"]:
        names = ("namespace", "topic_prefix")
        drawn = _draw(
            values["box"], *(LaunchConfiguration(name).perform(context) for name in names)
        )
        steps = [drawn]
        handlers.append(RegisterEventHandler(OnProcessExit(target_action=drawn, on_exit=[player])))
    handlers.append(RegisterEventHandler(OnStateTransition(goal_state="active", entities=steps)))
    return handlers


def _draw(box: str, namespace: str, prefix: str) -> ExecuteProcess:
    try:
        x, y, w, h = (float(part) for part in box.split(","))
    except ValueError:
        raise RuntimeError(f"box must be x,y,w,h in pixels, got {box!r}") from None
    name = f"{prefix}init_box"
    topic = name if name[0] == "/" else "/".join(["", *filter(None, namespace.split("/")), name])
    message = f"{{x: {x}, y: {y}, w: {w}, h: {h}}}"
    return ExecuteProcess(
        cmd=[
            "ros2", "topic", "pub", "--once", "--wait-matching-subscriptions", "1",
            topic, "mixformerv2_ros/msg/InitBox", message,
        ],
        output="log",
    )  # fmt: skip
