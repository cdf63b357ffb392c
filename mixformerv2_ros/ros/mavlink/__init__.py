"""A tracker as a camera of the MAVLink camera protocol, for ground stations and autopilots."""
