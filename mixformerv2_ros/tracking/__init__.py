"""The tracker: boxes, crops, template memory, targets. Knows no ROS, torch or engine library."""
