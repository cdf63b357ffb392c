"""`config/sros2_policy.xml` on a secured ROS: who may do what around the tracker."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from domains import own_domain
from processes import ROOT, Command
from waiting import wait_for

pytest.importorskip("rclpy", reason="needs rclpy, which is not installed")

from rclpy.utilities import get_rmw_implementation_identifier
from secured_node import DENIED_TO_A_VIEWER

from mixformerv2_ros.ros.rclpy.run import CYCLONE
from mixformerv2_ros.ros.topics import (
    COMMANDS,
    DETECTOR,
    IMAGES,
    INIT_POINT,
    INITS,
    OUTPUTS,
    POSE_OUTPUTS,
    TRACK_TARGET,
)

POLICY = ROOT / "config" / "sros2_policy.xml"
ENCLAVES = ("tracker", "target_pose", "camera", "operator", "viewer")
ROS2 = shutil.which("ros2")


def allowed(enclave: str, kind: str, verb: str) -> set[str]:
    """Names that an enclave is allowed, such as the topics that it may publish."""
    tree = ElementTree.parse(POLICY)
    path = f"./enclaves/enclave[@path='/{enclave}']//{kind}[@{verb}='ALLOW']/*"
    return {str(element.text) for element in tree.iterfind(path)}


def test_the_policy_names_all_topics_of_the_nodes() -> None:
    inputs = {*INITS, INIT_POINT[0], DETECTOR[0], *COMMANDS}
    images = {topic for topic, _ in IMAGES.values()}
    assert allowed("tracker", "topics", "subscribe") >= inputs | images
    assert allowed("tracker", "topics", "publish") >= set(OUTPUTS)
    assert allowed("tracker", "actions", "execute") == {TRACK_TARGET}
    assert allowed("target_pose", "topics", "publish") >= set(POSE_OUTPUTS)
    assert allowed("operator", "topics", "publish") >= inputs
    assert not allowed("viewer", "topics", "publish") & (inputs | images | set(OUTPUTS))


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Environment of a domain with keys and permissions made from the policy."""
    if ROS2 is None or importlib.util.find_spec("sros2") is None:
        pytest.skip("needs sros2, which is not installed")
    store = tmp_path_factory.mktemp("keystore") / "keys"
    with own_domain():
        run("create_keystore", store)
        for enclave in ENCLAVES:
            run("create_enclave", store, f"/{enclave}")
            run("create_permission", store, f"/{enclave}", POLICY)
        security = {
            "ROS_SECURITY_KEYSTORE": str(store),
            "ROS_SECURITY_ENABLE": "true",
            "ROS_SECURITY_STRATEGY": "Enforce",
        }
        yield {**os.environ, **security}


def run(*words: object) -> None:
    done = subprocess.run(
        [str(ROS2), "security", *map(str, words)], capture_output=True, text=True, timeout=120
    )
    if done.returncode != 0 and "EllipticCurve" in done.stderr:
        pytest.skip("this sros2 does not work with this version of cryptography")
    assert done.returncode == 0, done.stderr


def role(name: str) -> list[object]:
    return [Path(__file__).with_name("secured_node.py"), name]


def test_operators_command_viewers_look_on_strangers_see_nothing(
    secured: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if get_rmw_implementation_identifier() != CYCLONE:
        pytest.skip("tried with Cyclone DDS only")
    for name, value in secured.items():
        monkeypatch.setenv(name, value)
    program = [ROOT / "scripts" / "tracker_node", "--ros-args", "--enclave", "/tracker"]
    with Command(program=program) as node, Command(program=role("camera")):
        node.wait_for_line("active: subscribed to /image")
        with Command(program=role("operator")) as operator:
            wait_for(lambda: ended(operator), "the operator")
            assert operator.output == ["tracked", "stopped"], operator.lines
        with Command(program=role("viewer")) as viewer:
            wait_for(lambda: ended(viewer), "the viewer")
            refused = [line.partition(":")[0] for line in viewer.output]
            assert refused == [*(f"refused {name}" for name in DENIED_TO_A_VIEWER), "seen"]
        monkeypatch.setenv("ROS_SECURITY_ENABLE", "false")
        with Command(program=role("stranger")) as stranger:
            wait_for(lambda: ended(stranger), "the stranger")
            assert stranger.output == ["publishers 0"], stranger.lines
        assert node.end() == 0


def test_our_other_processes_join_with_their_enclaves(
    secured: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tornado", reason="needs tornado, which is not installed")
    if get_rmw_implementation_identifier() != CYCLONE:
        pytest.skip("tried with Cyclone DDS only")
    for name, value in secured.items():
        monkeypatch.setenv(name, value)
    program = [ROOT / "scripts" / "target_pose_node", "--ros-args", "--enclave", "/target_pose"]
    with Command(program=program) as node:
        node.wait_for_line("active: distance from depth")
        assert node.end() == 0
    monkeypatch.setenv("ROS_SECURITY_ENCLAVE_OVERRIDE", "/operator")
    with Command("web", "image", "--port", "0") as web:
        web.wait_for_line("page: http://127.0.0.1:")
        assert web.end() == 0


def ended(command: Command) -> bool:
    return command.process.poll() is not None
