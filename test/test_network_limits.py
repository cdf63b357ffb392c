"""Domain and reach of discovery by the environment variables of ROS 2."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from nodes import TYPES
from recordings import write_bag

pytest.importorskip("cyclonedds", reason="needs cyclonedds, which is not installed")

from domains import own_domain
from peers import Peer
from processes import ROOT, Command
from waiting import wait_for

from mixformerv2_ros.cli.entry import main
from mixformerv2_ros.ros.cyclonedds import qos_profiles as profiles
from mixformerv2_ros.ros.cyclonedds.network import (
    configuration,
    discovery_range,
    static_peers,
)
from mixformerv2_ros.ros.receive_buffer import LARGE_MESSAGES

TEXT = "std_msgs/msg/String"
LOCALHOST_ONLY = {"ROS_LOCALHOST_ONLY": "1"}
LOCALHOST = {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
OFF = {"ROS_AUTOMATIC_DISCOVERY_RANGE": "OFF"}
SYSTEM_DEFAULT = {"ROS_AUTOMATIC_DISCOVERY_RANGE": "SYSTEM_DEFAULT"}


@pytest.fixture
def domain(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A domain that nothing but the variables of ROS keeps on this machine."""
    with own_domain() as number:
        monkeypatch.delenv("CYCLONEDDS_URI")
        yield number


def test_ranges_are_those_of_ros() -> None:
    assert discovery_range({}) == "SUBNET"
    for value in ("SUBNET", "LOCALHOST", "OFF", "SYSTEM_DEFAULT"):
        assert discovery_range({"ROS_AUTOMATIC_DISCOVERY_RANGE": value}) == value
    assert discovery_range({**OFF, **LOCALHOST_ONLY}) == "LOCALHOST"
    assert discovery_range({**OFF, "ROS_LOCALHOST_ONLY": "0"}) == "OFF"


def test_static_peers_are_those_of_ros() -> None:
    peers = {"ROS_STATIC_PEERS": "127.0.0.1; localhost;;"}
    assert static_peers(peers) == ["127.0.0.1", "localhost"]
    assert static_peers({**peers, **LOCALHOST_ONLY}) == []
    assert '<Peer Address="127.0.0.1"/>' in configuration(peers)
    assert "127.0.0.1" in configuration({**peers, **LOCALHOST})
    for ignoring in (OFF, SYSTEM_DEFAULT):
        assert "Peer" not in configuration({**peers, **ignoring})


def test_a_static_peer_elsewhere_needs_the_network() -> None:
    assert "NetworkInterface" in configuration({**LOCALHOST, "ROS_STATIC_PEERS": "127.0.0.2"})
    assert "NetworkInterface" not in configuration({**LOCALHOST, "ROS_STATIC_PEERS": "192.0.2.1"})


@pytest.mark.parametrize("inline", [True, False])
def test_interfaces_of_the_user_take_precedence(inline: bool, tmp_path: Path) -> None:
    xml = '<CycloneDDS><Domain><General><Interfaces><NetworkInterface name="lo"/></Interfaces>'
    xml += "</General></Domain></CycloneDDS>"
    (tmp_path / "own.xml").write_text(xml)
    uri = xml if inline else f"<CycloneDDS/>,file://{tmp_path}/own.xml"
    made = configuration({**LOCALHOST, "CYCLONEDDS_URI": uri})
    assert made.endswith(uri)
    assert "NetworkInterface" not in made.removesuffix(uri)


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("ROS_LOCALHOST_ONLY", "yes", "ROS_LOCALHOST_ONLY must be 0 or 1, got yes"),
        ("ROS_AUTOMATIC_DISCOVERY_RANGE", "localhost", "must be SUBNET | LOCALHOST | OFF | SYSTEM"),
        ("ROS_STATIC_PEERS", "no.such.invalid", "unknown host 'no.such.invalid'"),
        ("ROS_STATIC_PEERS", '"/></Peers>', "must be host names or IPv4 addresses"),
        ("ROS_STATIC_PEERS", "a" * 300, "must be host names or IPv4 addresses"),
        ("ROS_DOMAIN_ID", "233", "must be 0 to 232, got 233"),
        ("ROS_DOMAIN_ID", "1" * 5000, "must be 0 to 232, got 111"),
        ("CYCLONEDDS_URI", "<CycloneDDS><Domain><Nix/></Domain></CycloneDDS>", "unknown element"),
        ("CYCLONEDDS_URI", "file:///no/such/file", "can't open configuration file"),
    ],
)
def test_a_wrong_value_is_one_line(
    variable: str, value: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Cyclone writes is part of the line.

    A process of its own: Cyclone reads its configuration with the first participant of a domain.
    """
    monkeypatch.setenv(variable, value)
    with Command("echo", "/x") as echo:
        assert echo.process.wait(60) == 2
    (line,) = echo.lines
    assert line.startswith("mixformerv2 echo: ")
    assert words in line
    assert len(line) < 500


@pytest.mark.parametrize("command", ["play", "node"])
def test_other_commands_refuse_it_too(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "off")
    arguments = [str(write_bag(tmp_path / "bag", 1))] if command == "play" else []
    assert main([command, *arguments]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"mixformerv2 {command}: ROS_AUTOMATIC_DISCOVERY_RANGE must be SUBNET")


@pytest.mark.parametrize("limits", [LOCALHOST_ONLY, LOCALHOST])
def test_processes_on_this_machine_find_each_other_by_the_loopback_interface(
    limits: dict[str, str], domain: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in limits.items():
        monkeypatch.setenv(name, value)
    with Peer() as peer:
        publisher = peer.node.create_publisher("/hello", TEXT, profiles.reliable())
        monkeypatch.setenv("CYCLONEDDS_URI", tracing(tmp_path / "log"))
        with Command("echo", "/hello", "-n", 1) as echo:
            peer.wait_reliable("/hello")
            wait_for(lambda: publisher.subscription_count, "the command")
            publisher.publish(TYPES[TEXT](data="hello"))
            assert echo.process.wait(60) == 0
        assert echo.output == ["data: hello", "---"]
    assert interfaces(tmp_path / "log") == ["lo"]


def test_nothing_is_discovered_where_discovery_is_off(
    domain: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    with Peer() as peer:
        peer.node.create_publisher("/hello", TEXT, profiles.reliable())
        monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "OFF")
        monkeypatch.setenv("CYCLONEDDS_URI", tracing(tmp_path / "log"))
        with Command("echo", "/hello", "--timeout", 3) as echo:
            assert echo.process.wait(60) == 2
        assert echo.lines == ["mixformerv2 echo: no publisher on /hello; topics found: none"]
    assert interfaces(tmp_path / "log") == ["lo"]


def test_the_shipped_configuration_of_cyclone_requests_the_receive_buffer_of_the_nodes(
    domain: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = ROOT / "config" / "cyclonedds.xml"
    size = re.findall("<SocketReceiveBufferSize.*?/>", file.read_text("utf-8"))
    assert size == re.findall("<SocketReceiveBufferSize.*?/>", LARGE_MESSAGES)
    monkeypatch.setenv("CYCLONEDDS_URI", f"file://{file},{tracing(tmp_path / 'log')}")
    with Command("echo", "/nothing", "--timeout", 0.1) as echo:
        assert echo.process.wait(60) == 2
    assert echo.lines == ["mixformerv2 echo: no publisher on /nothing; topics found: none"]
    assert "SocketReceiveBufferSize[@max]: 16 MiB" in (tmp_path / "log").read_text()


def tracing(path: Path) -> str:
    return (
        "<CycloneDDS><Domain><Tracing><Verbosity>fine</Verbosity>"
        f"<OutputFile>{path}</OutputFile></Tracing></Domain></CycloneDDS>"
    )


def interfaces(path: Path) -> list[str]:
    """Names of the interfaces that Cyclone selected, from its trace."""
    found = re.findall(r"selected interfaces: (.*)", path.read_text())
    return re.findall(r"(\S+) \(index", " ".join(found))
