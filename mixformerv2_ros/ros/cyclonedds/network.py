"""Domain and network of this process, from the environment variables of ROS 2.

`ROS_DOMAIN_ID`, `ROS_LOCALHOST_ONLY`, `ROS_AUTOMATIC_DISCOVERY_RANGE` and `ROS_STATIC_PEERS` become
a configuration of Cyclone DDS as in rmw_cyclonedds of Jazzy, with two differences: where discovery
is limited to this machine or off, only the loopback interface is used, so that nothing leaves the
machine; and a wrong value is an error.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit
from xml.sax.saxutils import quoteattr

from mixformerv2_ros.errors import ParameterError
from mixformerv2_ros.ros.receive_buffer import CYCLONEDDS_URI, with_receive_buffer
from mixformerv2_ros.text import printable

DOMAIN_ID = "ROS_DOMAIN_ID"
LOCALHOST_ONLY = "ROS_LOCALHOST_ONLY"
DISCOVERY_RANGE = "ROS_AUTOMATIC_DISCOVERY_RANGE"
STATIC_PEERS = "ROS_STATIC_PEERS"

SUBNET, LOCALHOST, OFF, SYSTEM_DEFAULT = "SUBNET", "LOCALHOST", "OFF", "SYSTEM_DEFAULT"
RANGES = (SUBNET, LOCALHOST, OFF, SYSTEM_DEFAULT)
"""Values of `ROS_AUTOMATIC_DISCOVERY_RANGE`; the first one is the default."""

MAX_DOMAIN = 232
"""Highest domain whose UDP ports exist."""

MAX_PARTICIPANT_INDEX = 32
"""Highest index of a participant on a machine, as in rmw_cyclonedds."""

MAX_PEER_LENGTH = 255
"""Maximum length of a static peer, as in ROS 2."""

LOOPBACK = "127.0.0.1"

_INTERFACES = re.compile(r"<\s*(NetworkInterface|NetworkInterfaceAddress)\b", re.IGNORECASE)
_PEER = re.compile(r"[A-Za-z0-9_.-]+(:[0-9]{1,5})?")


def domain_id(environment: Mapping[str, str] = os.environ) -> int:
    """The domain of `ROS_DOMAIN_ID`, 0 if that is not set.

    Raises:
        ParameterError: it is not a valid domain.
    """
    text = environment.get(DOMAIN_ID, "").strip() or "0"
    # A number of thousands of digits is one that int() refuses.
    if not re.fullmatch("0*[0-9]{1,3}", text) or int(text[-3:]) > MAX_DOMAIN:
        raise ParameterError(f"{DOMAIN_ID} must be 0 to {MAX_DOMAIN}, got {printable(text)}")
    return int(text[-3:])


def configuration(environment: Mapping[str, str] = os.environ) -> str:
    """Configuration of Cyclone DDS; that of the user, in `CYCLONEDDS_URI`, takes precedence.

    Raises:
        ParameterError: a variable has a wrong value, or a static peer is not known.
    """
    users = environment.get(CYCLONEDDS_URI, "")
    reach = discovery_range(environment)
    peers = static_peers(environment) if reach in (SUBNET, LOCALHOST) else []
    fragments = [_discovery(reach, peers, _names_interfaces(users)), users]
    return with_receive_buffer(",".join(fragment for fragment in fragments if fragment))


def discovery_range(environment: Mapping[str, str] = os.environ) -> str:
    """One of `RANGES`.

    Raises:
        ParameterError: `ROS_LOCALHOST_ONLY` or `ROS_AUTOMATIC_DISCOVERY_RANGE` has a wrong value.
    """
    only = environment.get(LOCALHOST_ONLY, "").strip()
    if only not in ("", "0", "1"):
        raise ParameterError(f"{LOCALHOST_ONLY} must be 0 or 1, got {printable(only)}")
    reach = environment.get(DISCOVERY_RANGE, "").strip() or SUBNET
    if reach not in RANGES:
        raise ParameterError(
            f"{DISCOVERY_RANGE} must be {' | '.join(RANGES)}, got {printable(reach)}"
        )
    return LOCALHOST if only == "1" else reach


def static_peers(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Host names and addresses of `ROS_STATIC_PEERS`; none with `ROS_LOCALHOST_ONLY`.

    Raises:
        ParameterError: a peer is malformed or not known; Cyclone would abort the process.
    """
    if environment.get(LOCALHOST_ONLY, "").strip() == "1":
        return []
    peers = [peer.strip() for peer in environment.get(STATIC_PEERS, "").split(";")]
    for peer in filter(None, peers):
        if len(peer) > MAX_PEER_LENGTH or not _PEER.fullmatch(peer):
            raise ParameterError(
                f"{STATIC_PEERS} must be host names or IPv4 addresses separated by ';', got "
                f"{printable(peer)!r}"
            )
        try:
            socket.getaddrinfo(peer.partition(":")[0], None, socket.AF_INET)
        except (OSError, UnicodeError):
            raise ParameterError(f"{STATIC_PEERS}: unknown host {printable(peer)!r}") from None
    return [peer for peer in peers if peer]


def _discovery(reach: str, peers: Sequence[str], interfaces_named: bool) -> str:
    """The configuration of a range of discovery; empty for `SYSTEM_DEFAULT`."""
    if reach == SYSTEM_DEFAULT:
        return ""
    general = ""
    if reach != SUBNET:
        # A static peer on the network is out of the loopback interface's reach.
        remote = any(not _is_local(peer) for peer in peers)
        if not (interfaces_named or remote):
            interface = f"<NetworkInterface address={quoteattr(LOOPBACK)}/>"
            general = f"<Interfaces>{interface}</Interfaces>"
        general = f"<General>{general}<AllowMulticast>false</AllowMulticast></General>"
    if reach == OFF:
        # Only a participant with the same tag could discover this one.
        discovery = (
            f"<ParticipantIndex>none</ParticipantIndex><Tag>ros_discovery_off_{os.getpid()}</Tag>"
        )
    else:
        hosts = ["localhost", *peers] if reach == LOCALHOST else peers
        found = "".join(f"<Peer Address={quoteattr(host)}/>" for host in hosts)
        discovery = (
            "<ParticipantIndex>auto</ParticipantIndex>"
            f"<MaxAutoParticipantIndex>{MAX_PARTICIPANT_INDEX}</MaxAutoParticipantIndex>"
            + (f"<Peers>{found}</Peers>" if found else "")
        )
    return f"<CycloneDDS><Domain>{general}<Discovery>{discovery}</Discovery></Domain></CycloneDDS>"


def _is_local(peer: str) -> bool:
    """Whether a peer, which is known, is this machine by its loopback interface."""
    found = socket.getaddrinfo(peer.partition(":")[0], None, socket.AF_INET)
    return all(ipaddress.ip_address(address[4][0]).is_loopback for address in found)


def _names_interfaces(uri: str) -> bool:
    """Whether a user's configuration, inline or in files, names network interfaces."""
    if _INTERFACES.search(uri):
        return True
    for part in uri.split(","):
        name = part.strip()
        path = Path(unquote(urlsplit(name).path) if name.startswith("file:") else name)
        try:
            # What is inline has been looked at, and is no file.
            if path.is_file() and _INTERFACES.search(path.read_text(errors="replace")):
                return True
        except OSError:
            continue  # Cyclone reports what it cannot read
    return False
