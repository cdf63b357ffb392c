"""Camera driver, rectification and tracker in one namespace: an example to start from.

ros2 launch mixformerv2_ros camera_tracker.launch.py namespace:=front camera_info_url:=file:///cal.yaml

Driver and rectification are components of one process, between which images are not copied; the
tracker, in Python, is a process of its own. Requires the ROS packages of the driver and image_proc.
"""

from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import ComposableNodeContainer
from launch_ros.descriptions import ComposableNode

FOLDER = Path(__file__).resolve().parent
TRUTH = ["true", "false", "True", "False"]

ARGUMENTS = {
    "namespace": ("camera", "namespace of camera, rectification and tracker"),
    "driver": ("usb_cam", "package of the camera driver; none: the camera runs already"),
    "video_device": ("/dev/video0", "device of the camera"),
    "camera_info_url": ("", "calibration file of the camera, file:///PATH"),
    "rectify": ("true", "rectify the images with image_proc, which requires a calibration"),
    "follow": ("false", "run the target pose node as well, which publishes bearings"),
}
CHOICES = {
    "driver": ["usb_cam", "v4l2_camera", "none"],
    "rectify": TRUTH,
    "follow": TRUTH,
}
PLUGINS = {"usb_cam": "usb_cam::UsbCamNode", "v4l2_camera": "v4l2_camera::V4L2Camera"}


def generate_launch_description() -> LaunchDescription:
    declared = [
        DeclareLaunchArgument(
            name, default_value=default, description=text, choices=CHOICES.get(name)
        )
        for name, (default, text) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=pipeline)])


def pipeline(context: LaunchContext) -> list[ComposableNodeContainer | IncludeLaunchDescription]:
    """Return the container, if it has components, and the tracker with the camera's namespace."""
    values = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    rectify, follow = (values[name].lower() == "true" for name in ("rectify", "follow"))
    components = []
    if values["driver"] != "none":
        names = ("video_device", "camera_info_url")
        settings = {name: values[name] for name in names if values[name]}
        plugin = PLUGINS[values["driver"]]
        components.append(component(values, values["driver"], plugin, "driver", [settings], []))
    if rectify:
        rules = [("image", "image_raw")]
        plugin = "image_proc::RectifyNode"
        components.append(component(values, "image_proc", plugin, "rectify", [], rules))
    container = ComposableNodeContainer(
        name="camera_container",
        namespace=values["namespace"],
        package="rclcpp_components",
        executable="component_container",
        composable_node_descriptions=components,
        output="screen",
    )
    file = "follow_target" if follow else "tracker"
    arguments = {
        "namespace": values["namespace"],
        # Relative: in the namespace.
        "image": "image_rect" if rectify else "image_raw",
    }
    if follow:
        arguments |= {"source": "bearing", "rectified": str(rectify).lower()}
    tracker = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(FOLDER / f"{file}.launch.py")),
        launch_arguments=arguments.items(),
    )
    return [*([container] if components else []), tracker]


def component(values, package, plugin, name, parameters, remappings) -> ComposableNode:
    """Return a component in the namespace that passes images on without copies."""
    return ComposableNode(
        package=package,
        plugin=plugin,
        name=name,
        namespace=values["namespace"],
        parameters=parameters,
        remappings=remappings,
        extra_arguments=[{"use_intra_process_comms": True}],
    )
