"""A DDS domain on the loopback interface that nobody else is likely to use."""

from __future__ import annotations

import contextlib
import os
import random
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


@contextlib.contextmanager
def own_domain() -> Iterator[int]:
    """Set the environment for such a domain, for this process and those that it starts."""
    # Domains above 100 have ports among those that the system hands out for anything.
    domain = random.SystemRandom().randrange(20, 100)
    before = {name: os.environ.pop(name, None) for name in VARIABLES}
    os.environ.update(CYCLONEDDS_URI=LOOPBACK, ROS_DOMAIN_ID=str(domain))
    try:
        yield domain
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
