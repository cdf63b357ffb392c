"""Launch files, where ROS 2's launch system is installed."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

# Not "launch": that would find our own folder of that name as an empty package.
pytest.importorskip("launch.actions", reason="needs ROS 2's launch system")
launch = pytest.importorskip("launch")

FOLDER = Path(__file__).resolve().parents[1] / "launch"


def load(name: str):
    spec = spec_from_file_location(name, FOLDER / f"{name}.launch.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def command(**arguments: str) -> list[str]:
    module = load("offline_replay")
    context = launch.LaunchContext()
    values = {key: default or "" for key, (default, _) in module.ARGUMENTS.items()}
    context.launch_configurations.update({**values, **arguments})
    (process,) = module.replay(context)
    return [launch.utilities.perform_substitutions(context, part) for part in process.cmd]


def test_every_argument_reaches_the_command():
    words = command(bag="b", output="o", box="-1,2,3,4", image_topic="/i", model="m")
    assert words[1:] == [
        "-m", "mixformerv2_ros.cli", "replay", "b", "--output=o", "--box=-1,2,3,4",
        "--image-topic=/i", "--model=m", "--storage=mcap",
    ]  # fmt: skip


def test_what_is_not_given_is_left_to_the_command():
    assert command(bag="b", output="o")[4:] == ["b", "--output=o", "--storage=mcap"]


def test_unknown_choices_are_refused():
    context = launch.LaunchContext()
    context.launch_configurations["storage"] = "tape"
    declared = {
        entity.name: entity
        for entity in load("offline_replay").generate_launch_description().entities
        if isinstance(entity, launch.actions.DeclareLaunchArgument)
    }
    with pytest.raises(RuntimeError, match="storage"):
        declared["storage"].execute(context)


def test_one_of_several_devices_is_accepted():
    context = launch.LaunchContext()
    context.launch_configurations["device"] = "cuda:1"
    declared = {
        entity.name: entity
        for entity in load("tracker").generate_launch_description().entities
        if isinstance(entity, launch.actions.DeclareLaunchArgument)
    }
    declared["device"].execute(context)


@pytest.mark.parametrize(
    ("arguments", "components", "image"),
    [
        ({}, ["usb_cam", "image_proc"], "image_rect"),
        ({"driver": "v4l2_camera", "rectify": "false"}, ["v4l2_camera"], "image_raw"),
        ({"driver": "none"}, ["image_proc"], "image_rect"),
        ({"driver": "none", "rectify": "False"}, [], "image_raw"),
    ],
)
def test_components_of_the_camera(arguments, components, image):
    made = []
    module = load("camera_tracker")
    real = module.component
    module.component = lambda *words: made.append(words) or real(*words)
    context = launch.LaunchContext()
    defaults = {key: default for key, (default, _) in module.ARGUMENTS.items()}
    context.launch_configurations.update({**defaults, **arguments})
    *containers, tracker = module.pipeline(context)
    assert len(containers) == bool(components)
    assert [package for _, package, *_ in made] == components
    assert dict(tracker.launch_arguments) == {"namespace": "camera", "image": image}
