"""Nav2 manages these nodes and follows a target that they track, where Nav2 is installed."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import Command
from waiting import repeat_until, wait_for

pytest.importorskip("rclpy", reason="needs rclpy, which is not installed")
pytest.importorskip("nav_msgs", reason="needs nav_msgs of Nav2's workspace, which is not installed")

from action_msgs.msg import GoalStatus
from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from following_robot import FollowingRobot
from rclpy.action import ActionClient
from ros_launches import ROS2, Launch
from ros_peers import RELIABLE, Peer, init_box, peer, ros  # noqa: F401

from mixformerv2_ros.msg import InitBox, Track

NODES = ("tracker", "target_pose")
FOLLOWING_SERVER = {
    "base_frame": "base_link",
    "fixed_frame": "odom",
    "desired_distance": "1.0",
    # A machine under load.
    "detection_timeout": "4.0",
    "transform_tolerance": "1.0",
    "controller_frequency": "20.0",
    "max_retries": "4",
}


def of_nav2(package: str, name: str, *words: str) -> Command:
    """A program of Nav2 as a process."""
    try:
        program = Path(get_package_prefix(package)) / "lib" / package / name
    except PackageNotFoundError:
        pytest.skip(f"needs {package} of Nav2, which is not installed")
    run = "import os, sys; os.execv(sys.argv[1], sys.argv[1:])"
    return Command(program=["-c", run, program, "--ros-args", *words])


def managed(*names: str) -> Command:
    """Nav2's lifecycle_manager of some nodes."""
    listed = f"node_names:=[{','.join(names)}]"
    # A machine under load takes longer than its default to start a process again.
    words = (listed, "autostart:=true", "bond_respawn_max_duration:=60.0")
    options = [word for pair in words for word in ("-p", pair)]
    return of_nav2("nav2_lifecycle_manager", "lifecycle_manager", *options)


@pytest.fixture
def launched() -> Iterator[Launch]:
    """Both nodes, whose transitions are left to Nav2; they are started again when they end."""
    if ROS2 is None:
        pytest.skip("needs the ros2 command")
    with Launch(
        "follow_target", image="/camera/image_raw", camera_info="/camera/camera_info",
        depth="/camera/depth", target_frame="odom", autostart=False, respawn=True,
    ) as launch:  # fmt: skip
        yield launch


def test_the_lifecycle_manager_brings_both_nodes_up(peer: Peer, launched: Launch) -> None:
    with managed(*NODES) as manager:
        for name in NODES:
            wait_for(
                lambda n=name: f"Server {n} connected with bond." in "\n".join(output(manager)),
                f"the bond of {name}: {output(manager)}",
            )
        wait_for(lambda: any("are active" in line for line in output(manager)), "both nodes")
        formed = "bond with the lifecycle manager formed"
        wait_for(lambda: launched.output.count(formed) == len(NODES), "the lines of both nodes")


def test_the_lifecycle_manager_brings_a_node_up_again_that_was_killed(
    peer: Peer, launched: Launch
) -> None:
    bond = pytest.importorskip("bond.msg", reason="needs the package bond")
    with managed(*NODES) as manager:
        active = "Managed nodes are active"
        wait_for(lambda: active in "\n".join(output(manager)), "both nodes")
        # bondcpp waits for the second heartbeat before it misses any.
        peer.listen("/bond", bond.Status)
        wait_for(lambda: [m.id for m in peer.heard["/bond"]].count("tracker") > 9, "heartbeats")
        (pid,) = re.findall(
            r"tracker_node-\d+\]: process started with pid \[(\d+)\]", launched.output
        )
        os.kill(int(pid), signal.SIGKILL)
        wait_for(lambda: "\n".join(output(manager)).count(active) == 2, f"both: {output(manager)}")
        # It is asked to deactivate and clean up, which a new process cannot.
        assert "transition deactivate refused: the node is unconfigured" in launched.output
    assert "Traceback" not in launched.output


def test_nav2_follows_the_target(peer: Peer, launched: Launch) -> None:
    """The robot keeps up with a target that moves, and learns when it is gone."""
    action = pytest.importorskip("nav2_msgs.action", reason="needs nav2_msgs").FollowObject
    robot = FollowingRobot(peer.node)
    parameters = [word for pair in FOLLOWING_SERVER.items() for word in ("-p", ":=".join(pair))]
    with (
        of_nav2("opennav_following", "opennav_following", *parameters) as server,
        managed(*NODES, "following_server") as manager,
    ):
        wait_for(lambda: any("are active" in line for line in output(manager)), "all nodes")
        boxes = peer.node.create_publisher(InitBox, "/init_box", RELIABLE)
        repeat_until(
            lambda: boxes.publish(init_box(robot.box())),
            lambda: any(track.state == Track.TRACKING for track in peer.heard["/track"]),
            "a track", period=0.5,
        )  # fmt: skip
        client = ActionClient(peer.node, action, "/follow_object")
        assert client.wait_for_server(30)
        accepted = client.send_goal_async(action.Goal(pose_topic="/target_pose"))
        wait_for(accepted.done, "an answer to the goal")
        assert accepted.result().accepted
        result = accepted.result().get_result_async()

        def until(condition: Callable[[], bool], what: str) -> None:
            wait_for(lambda: condition() or result.done(), what)
            assert not result.done(), f"{result.result()}; {output(server)[-5:]}"

        until(lambda: robot.distance < 1.4, "the approach")
        robot.speed[:] = 0.25, 0.06
        until(lambda: robot.target[0] > 4.5, "the target's way")
        assert robot.x > 2.5
        robot.speed[:] = 0.0
        until(lambda: robot.distance < 1.3, "the robot at the target")
        robot.visible = False
        wait_for(result.done, "the end of the goal")
        answer = result.result()
        assert answer.status == GoalStatus.STATUS_ABORTED
        assert answer.result.error_code == action.Result.FAILED_TO_DETECT_OBJECT
        client.destroy()
    assert "Traceback" not in launched.output


def output(command: Command) -> list[str]:
    return [*command.output, *command.lines]
