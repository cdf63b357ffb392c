"""The tracker node on Cyclone DDS, where no ROS is installed."""
