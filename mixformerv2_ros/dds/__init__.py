"""ROS 2 topics where no ROS is installed: Eclipse Cyclone DDS with ROS 2's wire format."""
