"""A tracker as a camera of the MAVLink camera protocol, for ground stations and autopilots."""

import os

# Of the camera protocol no message exists in MAVLink 1; pymavlink decides when it is imported.
os.environ["MAVLINK20"] = "1"
