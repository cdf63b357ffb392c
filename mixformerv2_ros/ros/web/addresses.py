"""Addresses under which other machines reach this one."""

from __future__ import annotations

import ipaddress
import socket
import struct
import sys
from contextlib import suppress

_SIOCGIFADDR = 0x8915
"""Linux: the IPv4 address of an interface."""

_ELSEWHERE = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}
"""Addresses for documentation: the route to them is the default route, and nothing is sent."""


def own_addresses(host: str) -> list[str]:
    """Addresses of this machine that stand for every interface; that of the default route first.

    Args:
        host: Address that is listened on.

    Returns:
        `host` itself unless it is `0.0.0.0`, `::` or empty; the loopback address where this machine
        has no other.
    """
    try:
        if host and not ipaddress.ip_address(host).is_unspecified:
            return [host]
    except ValueError:
        return [host]
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = [_of_default_route(family)]
    if family == socket.AF_INET:
        found += _of_interfaces()
    others = [one for one in dict.fromkeys(found) if one and _is_for_others(one)]
    return others or ["::1" if family == socket.AF_INET6 else "127.0.0.1"]


def _is_for_others(address: str) -> bool:
    known = ipaddress.ip_address(address)
    # A browser cannot open a link-local address of IPv6, which needs an interface.
    return not (
        known.is_loopback or known.is_unspecified or (known.version == 6 and known.is_link_local)
    )


def _of_default_route(family: socket.AddressFamily) -> str:
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as one:
            one.connect((_ELSEWHERE[family], 9))
            return str(one.getsockname()[0])
    except OSError:  # no network, or no IPv6
        return ""


def _of_interfaces() -> list[str]:
    """IPv4 addresses by interface; none where the system is not Linux."""
    found: list[str] = []
    if sys.platform != "linux":
        return found
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        for _, name in socket.if_nameindex():
            with suppress(OSError):  # the interface has none
                request = struct.pack("256s", name.encode()[:15])
                answer = fcntl.ioctl(one.fileno(), _SIOCGIFADDR, request)
                found.append(socket.inet_ntoa(answer[20:24]))
    return found
