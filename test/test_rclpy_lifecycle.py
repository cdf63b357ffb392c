"""What is seen of the tracker node from outside in every state: log, diagnostics, bond, QoS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from losable import Losable
from nodes import box_of, frame_stamp
from processes import ROOT, Command
from recordings import HEIGHT, red_box
from waiting import wait_for

pytest.importorskip("rclpy", reason="needs rclpy, which is not installed")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PointStamped
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.duration import Duration
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.node import Node as RosNode
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy
from ros_peers import (  # noqa: F401
    BEST_EFFORT,
    Goal,
    Peer,
    Tracker,
    draw,
    image,
    init_box,
    peer,
    red,
    ros,
    start_spinning,
    tracker,
)
from sensor_msgs.msg import CompressedImage

from mixformerv2_ros.engines.chain import Candidate, EngineChain
from mixformerv2_ros.model.bundle import open_bundle
from mixformerv2_ros.msg import Track
from mixformerv2_ros.ros.live.model import Model
from mixformerv2_ros.ros.rclpy import tracker_node

TRANSITIONS = ("configure", "activate", "deactivate", "cleanup")
FAILURE, SUCCESS = TransitionCallbackReturn.FAILURE, TransitionCallbackReturn.SUCCESS


@pytest.fixture
def managed(red: None) -> Iterator[Tracker]:
    """A tracker whose transitions are left to somebody else."""
    made = Tracker(active=False, autostart=False, diagnostics__period=0.1)
    yield made
    made.close()


def status(peer: Peer) -> Any:
    """The last diagnostic status; waits for one."""
    count = len(peer.heard["/diagnostics"])
    wait_for(lambda: len(peer.heard["/diagnostics"]) > count + 1, "diagnostics")
    return peer.heard["/diagnostics"][-1].status[0]


def test_diagnostics_in_every_state(peer: Peer, tmp_path: Path) -> None:
    peer.listen("/diagnostics", DiagnosticArray)
    made = Tracker(active=False, autostart=False, diagnostics__period=0.1, model=tmp_path)
    try:
        seen = status(peer)
        assert (seen.name, seen.level) == ("tracker: tracker", DiagnosticStatus.OK)
        assert (seen.message, seen.hardware_id) == ("unconfigured", "no engine loaded")
        assert made.go("configure") == FAILURE
        seen = status(peer)
        assert seen.level == DiagnosticStatus.ERROR
        assert seen.message.startswith("configure failed: bundle")
        assert f"{tmp_path}: must hold model.json" in seen.message
        made.node.set_parameters([Parameter("model", value="")])
        assert made.go("configure") == SUCCESS
        seen = status(peer)
        assert (seen.message, seen.level) == ("inactive", DiagnosticStatus.OK)
        assert {pair.key for pair in seen.values} >= {"model", "model checksum", "engine"}
        assert made.go("activate") == SUCCESS
        assert status(peer).message == "no image received"
        for transition, state in (
            ("deactivate", "inactive"), ("cleanup", "unconfigured"), ("shutdown", "finalized"),
        ):  # fmt: skip
            assert made.go(transition) == SUCCESS
            assert status(peer).message == state
    finally:
        made.close()


def test_a_process_that_cannot_configure_reports_why(peer: Peer, tmp_path: Path) -> None:
    peer.listen("/diagnostics", DiagnosticArray)
    words = ("--ros-args", "-p", f"model:={tmp_path}", "-p", "diagnostics.period:=0.2")
    with Command(*words, program=[ROOT / "scripts" / "tracker_node"]) as node:
        node.wait_for_line("configure failed: ")
        assert "must hold model.json" in status(peer).message
        assert node.end() == 0


def test_transitions_and_goals_are_logged(peer: Peer, managed: Tracker) -> None:
    for transition in ("configure", "activate"):
        managed.go(transition)
    goal = Goal(peer, lost_timeout=3)
    managed.go("deactivate")
    goal.result()
    managed.go("cleanup")
    managed.go("shutdown")
    peer.wait_for_line("finalized")
    lines = [line.partition("[tracker]: ")[2] for line in peer.lines]
    expected = [
        "configuring", "configured: model", "active: subscribed to /image",
        "goal of target accepted: until canceled, lost_timeout 3 s",
        "goal of target ended: CLOSED, tracking ended: node deactivated",
        "inactive", "unconfigured", "finalized",
    ]  # fmt: skip
    found = [next((e for e in expected if line.startswith(e)), "") for line in lines]
    # A goal ends in a callback of its own, maybe after the transition that ended it.
    assert sorted(filter(None, found)) == sorted(expected)
    assert found.index("inactive") < found.index("unconfigured") < found.index("finalized")


def test_a_transition_that_the_state_does_not_have_is_refused(peer: Peer, managed: Tracker) -> None:
    """rclpy raises for it, which would end the process."""
    ids = {name: getattr(Transition, f"TRANSITION_{name.upper()}") for name in TRANSITIONS}

    def change(name: str, by_label: bool = False) -> bool:
        transition = Transition(label=name) if by_label else Transition(id=ids[name])
        request = ChangeState.Request(transition=transition)
        return bool(peer.call(ChangeState, "/tracker/change_state", request).success)

    for state, possible in (("unconfigured", "configure"), ("inactive", "activate")):
        for name in TRANSITIONS:
            if name not in (possible, "cleanup" if state == "inactive" else ""):
                assert not change(name)
                peer.wait_for_line(f"transition {name} refused: the node is {state}")
        assert change(possible)
    assert not change("activate")
    assert not change("no such", by_label=True)
    assert managed.node.lifecycle_state == "active"
    assert change("deactivate", by_label=True)


def test_the_choice_of_the_engine_and_its_loss_are_logged(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines = [Losable("first"), Losable("second")]

    def load_chain(values: Any) -> Model:
        candidates = [Candidate(e.name, lambda e=e: e, "it is there") for e in engines]
        return Model(open_bundle(), EngineChain(candidates))

    monkeypatch.setattr(tracker_node, "load_model", load_chain)
    made = Tracker()
    try:
        peer.listen("/diagnostics", DiagnosticArray)
        peer.wait_for_line("engine first: it is there")
        camera = peer.camera()
        draw(peer, init_box(red_box(0)))
        peer.show(camera, 0)
        engines[0].lost = True
        peer.show(camera, 1)
        peer.wait_for_line("first failed: device lost; goes on with second")
        assert peer.heard["/track"][-1].state == Track.TRACKING
        wait_for(lambda: status(peer).hardware_id == "second", "the engine in the diagnostics")
    finally:
        made.close()


def test_a_bond_as_the_lifecycle_manager_of_nav2_forms_it(peer: Peer, managed: Tracker) -> None:
    bondpy = pytest.importorskip("bondpy.bondpy", reason="needs bondpy, which is not installed")
    for transition in ("configure", "activate"):
        assert managed.go(transition) == SUCCESS
    # bondpy destroys what an executor may be waiting for, so it has a node of its own.
    manager = RosNode("lifecycle_manager")
    spinning = start_spinning(manager)
    bond = bondpy.Bond(manager, "bond", "tracker")
    bond.heartbeat_period = 0.1
    try:
        bond.start()
        assert bond.wait_until_formed(Duration(seconds=30))
        peer.wait_for_line("bond with the lifecycle manager formed")
        managed.go("deactivate")
        # The node tells it; the heartbeat's timeout would break the bond as well, later.
        assert bond.wait_until_broken(Duration(seconds=3.5))
    finally:
        spinning.close()
        bond.shutdown()
        manager.destroy_node()


def test_a_manager_that_ends_the_bond_is_answered(peer: Peer, managed: Tracker) -> None:
    status_type = pytest.importorskip("bond.msg", reason="needs the package bond").Status
    heard: list[Any] = []
    peer.node.create_subscription(status_type, "/bond", heard.append, 50)
    publisher = peer.node.create_publisher(status_type, "/bond", 10)
    for transition in ("configure", "activate"):
        managed.go(transition)
    wait_for(lambda: heard and publisher.get_subscription_count(), "heartbeats")
    assert (heard[0].id, heard[0].active) == ("tracker", True)
    assert heard[0].heartbeat_period == pytest.approx(0.1)

    def tell(name: str, instance: str, active: bool) -> None:
        publisher.publish(status_type(id=name, instance_id=instance, active=active))

    tell("other", "manager", False)
    tell("tracker", "manager", True)
    peer.wait_for_line("bond with the lifecycle manager formed")
    tell("tracker", "a stranger", False)
    tell("tracker", "manager", False)
    peer.wait_for_line("bond ended by the lifecycle manager")
    wait_for(lambda: not heard[-1].active, "the answer")
    assert managed.node.lifecycle_state == "active"


@pytest.mark.parametrize("values", [{"autostart": True}, {"bond_heartbeat_period": 0.0}])
def test_no_bond_without_a_manager(peer: Peer, red: None, values: Any) -> None:
    made = Tracker(**{"autostart": False, **values})
    try:
        assert made.node.lifecycle_state == "active"
        assert peer.node.count_publishers("/bond") == 0
    finally:
        made.close()


def test_qos_overrides_of_publishers(peer: Peer, red: None) -> None:
    name = "qos_overrides./track.publisher"
    other = "qos_overrides./diagnostics.publisher.durability:=transient_local"
    made = Tracker("-p", f"{name}.reliability:=best_effort", "-p", other)
    try:

        def offered(topic: str) -> Any:
            infos = peer.node.get_publishers_info_by_topic(topic)
            return infos[0].qos_profile if infos else None

        wait_for(lambda: offered("/track") and offered("/diagnostics"), "the publishers")
        assert offered("/track").reliability == ReliabilityPolicy.BEST_EFFORT
        assert offered("/detections").reliability == ReliabilityPolicy.RELIABLE
        assert offered("/diagnostics").durability == DurabilityPolicy.TRANSIENT_LOCAL
        # Once more: the parameters have been declared already.
        for transition in ("deactivate", "cleanup", "configure"):
            assert made.go(transition) == SUCCESS
        assert offered("/track").reliability == ReliabilityPolicy.BEST_EFFORT
    finally:
        made.close()


@pytest.mark.parametrize("pair", ["reliability:=certain", "depth:=many"])
def test_a_wrong_override_is_one_line(peer: Peer, red: None, pair: str) -> None:
    made = Tracker("-p", f"qos_overrides./track.publisher.{pair}", active=False)
    try:
        assert made.go("configure") == FAILURE
        peer.wait_for_line("configure failed: qos_overrides./track.publisher: ")
        assert not any("Traceback" in line for line in peer.lines)
    finally:
        made.close()


def test_a_click_starts_a_target(peer: Peer, tracker: Tracker) -> None:
    camera = peer.camera()
    peer.show(camera, 0)
    x, y = red_box(1).center
    click = PointStamped()
    click.point.x, click.point.y = float(x), float(y)
    click.header.stamp.sec, click.header.stamp.nanosec = divmod(frame_stamp(1), 10**9)
    draw(peer, click, "/init_point")
    peer.show(camera, 1, 2)
    first, second = peer.heard["/track"][-2:]
    assert box_of(first)[2:] == pytest.approx((0.15 * HEIGHT, 0.15 * HEIGHT))
    assert second.state == Track.TRACKING
    assert box_of(second) == pytest.approx(red_box(2), abs=1)


def test_the_compressed_overlay_beside_a_remapped_one(peer: Peer, red: None) -> None:
    made = Tracker("-r", "debug_image:=/seen/image")
    try:
        camera = peer.camera()
        draw(peer, init_box(red_box(0)))
        peer.listen("/seen/image/compressed", CompressedImage, BEST_EFFORT)
        name = "debug_image/compressed"
        wait_for(lambda: made.node.has_subscribers(name), "the listener")
        peer.show(camera, 0)
        wait_for(lambda: peer.heard["/seen/image/compressed"], "an overlay")
        assert peer.heard["/seen/image/compressed"][0].format == "bgr8; jpeg compressed bgr8"
        assert "/seen/image/compressed" not in made.node.image_topics()
    finally:
        made.close()
