"""Receive buffer of DDS for images: the default of Cyclone DDS holds less than one.

`config/cyclonedds.xml` and `config/fastdds.xml` request the same for other processes, such as
recorders and viewers.
"""

from __future__ import annotations

CYCLONEDDS_URI = "CYCLONEDDS_URI"
"""Environment variable with the configuration of Cyclone DDS: files or XML, separated by commas."""

LARGE_MESSAGES = (
    "<CycloneDDS><Domain><Internal>"
    '<SocketReceiveBufferSize max="16MB"/>'
    "</Internal></Domain></CycloneDDS>"
)
"""At 1280x720 and 30 Hz every second image was lost without it. The system may grant less
(net.core.rmem_max)."""


def with_receive_buffer(uri: str) -> str:
    """A configuration of Cyclone DDS with that buffer; what the user has set takes precedence."""
    return f"{LARGE_MESSAGES},{uri}" if uri else LARGE_MESSAGES
