"""A DDS domain on the loopback interface that nobody else is likely to use."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import tempfile
from collections.abc import Iterator

LOOPBACK = """<CycloneDDS><Domain>
<General><Interfaces><NetworkInterface name="lo"/></Interfaces>
<AllowMulticast>false</AllowMulticast></General>
<Discovery><ParticipantIndex>auto</ParticipantIndex>
<Peers><Peer Address="127.0.0.1"/></Peers></Discovery>
</Domain></CycloneDDS>"""

VARIABLES = (
    "CYCLONEDDS_URI",
    "ROS_DOMAIN_ID",
    "ROS_LOCALHOST_ONLY",
    "ROS_AUTOMATIC_DISCOVERY_RANGE",
    "ROS_STATIC_PEERS",
)
"""What decides which processes discover each other."""


# Domains above 100 have ports among those that the system hands out for anything.
_least_recent = random.SystemRandom().sample(range(20, 100), 80)


@contextlib.contextmanager
def own_domain() -> Iterator[int]:
    """Set the environment for such a domain, for this process and those that it starts.

    Other test runs of this user on this machine do not take it meanwhile. Cyclone keeps the
    configuration of a domain as long as anything in the process is left of it, so the one that
    was used longest ago comes first.
    """
    domain, lock = _lock_domain()
    before = {name: os.environ.pop(name, None) for name in VARIABLES}
    os.environ.update(CYCLONEDDS_URI=LOOPBACK, ROS_DOMAIN_ID=str(domain))
    try:
        yield domain
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        os.close(lock)


def _lock_domain() -> tuple[int, int]:
    for domain in _least_recent:
        name = f"mixformerv2_ros_test_domain_{os.getuid()}_{domain}"
        lock = os.open(os.path.join(tempfile.gettempdir(), name), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        _least_recent.remove(domain)
        _least_recent.append(domain)
        return domain, lock
    raise RuntimeError("every DDS domain from 20 to 99 is in use by a test run on this machine")
