"""Nodes on rclpy, where ROS 2 is installed. Thin: what they do lies in `live` and `pose`."""
